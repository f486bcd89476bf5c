//! The ports of a slice's private loopback: which port of the kernel stands for
//! the one that a program named.
//!
//! A slot is one word, so that taking, sharing and leaving it is one
//! compare-and-swap. A slot whose sockets are gone keeps its port until another
//! needs it: an address told later is still told right.

use policy::abi::{Address, LOOPBACK_SLOTS, Settings, Tag};
use policy::decide::loopback::{shown, slot};
use policy::{Reason, SliceId};

use crate::atomic;
use crate::ctx::SockAddr;
use crate::maps::LOOPBACK;

/// Tries before a bind gives up against other threads of the slice.
const TRIES: u32 = 4;

/// The word of a slot.
#[inline(always)]
fn word_of(who: SliceId, number: usize) -> Option<*mut u64> {
    let row = LOOPBACK.get_ptr_mut(who.index())?;
    let mut number = number;
    // In assembly, since the compiler leaves out what it knows to hold, and the
    // verifier does not know it.
    // SAFETY: one register. The mask keeps the index inside the row, which lies
    // in the array for good.
    unsafe {
        core::arch::asm!(
            "{0} &= {1}",
            inout(reg) number,
            const LOOPBACK_SLOTS - 1,
        );
        Some((&raw mut (*row).slots).cast::<u64>().add(number))
    }
}

/// The slot of a port; with `live`, only where sockets hold it.
#[inline(always)]
fn find(who: SliceId, protocol: u8, port: u16, live: bool) -> Option<usize> {
    let number = loopback_find(who.index(), protocol as u32, port as u32, live as u32) as usize;
    (number < LOOPBACK_SLOTS).then_some(number)
}

/// The first slot that is the port's, with `live` not 0 one that sockets hold;
/// `LOOPBACK_SLOTS` where there is none.
///
/// A global function: the verifier looks at its rounds once for each program,
/// not once for each way in which a program can come here and go on.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn loopback_find(row: u32, protocol: u32, port: u32, live: u32) -> u32 {
    let Some(row) = LOOPBACK.get_ptr_mut(row) else {
        return LOOPBACK_SLOTS as u32;
    };
    let mut number = 0;
    while number < LOOPBACK_SLOTS {
        // SAFETY: as in `word_of`.
        let word = atomic::load(unsafe { (&raw const (*row).slots).cast::<u64>().add(number) });
        if slot::is_of(word, protocol as u8, port as u16)
            && !(live != 0 && slot::sockets(word) == 0)
        {
            return number as u32;
        }
        number += 1;
    }
    LOOPBACK_SLOTS as u32
}

/// A slot without sockets.
#[inline(always)]
fn find_free(who: SliceId, protocol: u8, port: u16) -> Option<usize> {
    let step = loopback_free(who.index(), slot::first(protocol, port) as u32) as usize;
    (step < LOOPBACK_SLOTS).then_some(step)
}

/// The first slot without sockets from this one on, round about;
/// `LOOPBACK_SLOTS` where there is none. A global function as `loopback_find`.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn loopback_free(row: u32, first: u32) -> u32 {
    let Some(row) = LOOPBACK.get_ptr_mut(row) else {
        return LOOPBACK_SLOTS as u32;
    };
    let mut step = 0;
    while step < LOOPBACK_SLOTS {
        let number = (first as usize + step) & (LOOPBACK_SLOTS - 1);
        // SAFETY: as in `word_of`.
        let word = atomic::load(unsafe { (&raw const (*row).slots).cast::<u64>().add(number) });
        if slot::sockets(word) == 0 {
            return number as u32;
        }
        step += 1;
    }
    LOOPBACK_SLOTS as u32
}

/// Counts one more socket on a port; the offset of the kernel's port.
#[inline(always)]
fn take(who: SliceId, protocol: u8, port: u16) -> Result<u16, Reason> {
    let mut tries = 0;
    while tries < TRIES {
        let number = match find(who, protocol, port, false) {
            Some(number) => number,
            None => find_free(who, protocol, port).ok_or(Reason::LoopbackLimit)?,
        };
        let word = word_of(who, number).ok_or(Reason::NoPolicy)?;
        let old = atomic::load(word);
        if let Some(new) = slot::with_one_more(old, protocol, port)
            && atomic::compare_exchange(word, old, new) == old
        {
            return Ok(slot::offset(number, new));
        }
        tries += 1;
    }
    Err(Reason::LoopbackLimit)
}

/// Takes a port for the socket with this tag, which leaves what it held before;
/// the port of the kernel to bind instead.
#[inline(always)]
pub fn hold(
    tag: *mut Tag,
    who: SliceId,
    protocol: u8,
    port: u16,
    settings: &Settings,
) -> Result<u16, Reason> {
    let offset = take(who, protocol, port)?;
    // SAFETY: the storage lives as long as the socket that runs the hook.
    let held = unsafe { &raw mut (*tag).loopback_held };
    leave(who, atomic::exchange(held, offset as u64 + 1));
    Ok(settings.loopback_low.wrapping_add(offset))
}

/// The word of what a tag says is held.
#[inline(always)]
fn held_word(who: SliceId, held: u64) -> Option<*mut u64> {
    if held == 0 {
        return None;
    }
    word_of(who, slot::at((held - 1) as u16))
}

/// One more socket holds what the tag says: a connection that came in. The
/// listener holds it still, or another connection of it.
#[inline(always)]
pub fn share(tag: *mut Tag, who: SliceId) {
    // SAFETY: as in `hold`.
    let held = atomic::load(unsafe { &raw const (*tag).loopback_held });
    if let Some(word) = held_word(who, held) {
        atomic::fetch_add(word, slot::SOCKET);
    }
}

/// Leaves the port that the socket with this tag holds, if any.
#[inline(always)]
pub fn let_go(tag: *mut Tag, who: SliceId) {
    // SAFETY: as in `hold`.
    let held = unsafe { &raw mut (*tag).loopback_held };
    leave(who, atomic::exchange(held, 0));
}

#[inline(always)]
fn leave(who: SliceId, held: u64) {
    if let Some(word) = held_word(who, held) {
        atomic::fetch_sub(word, slot::SOCKET);
    }
}

/// Whether the socket holds this port of the kernel.
#[inline(always)]
pub fn holds(tag: *mut Tag, port: u16, settings: &Settings) -> bool {
    // SAFETY: as in `hold`.
    let held = atomic::load(unsafe { &raw const (*tag).loopback_held });
    held != 0 && settings.loopback_low as u64 + held == port as u64 + 1
}

/// The port of the kernel behind a port that a program of the slice named, if
/// one of its sockets is bound to it by name.
#[inline(always)]
pub fn kernels_port(who: SliceId, protocol: u8, port: u16, settings: &Settings) -> Option<u16> {
    let number = find(who, protocol, port, true)?;
    let word = atomic::load(word_of(who, number)?);
    Some(
        settings
            .loopback_low
            .wrapping_add(slot::offset(number, word)),
    )
}

/// The address and port by which programs of the slice know what the kernel
/// calls this.
#[inline(always)]
pub fn told(
    who: SliceId,
    protocol: u8,
    address: &Address,
    port: u16,
    settings: &Settings,
) -> (Address, u16) {
    let told = shown(who.index(), address);
    if told == *address {
        return (told, port);
    }
    let offset = port.wrapping_sub(settings.loopback_low);
    let named = match word_of(who, slot::at(offset)) {
        Some(word) => slot::named(atomic::load(word), protocol, offset),
        None => None,
    };
    (told, named.unwrap_or(port))
}

/// Makes an address and port that the kernel tells those that programs of the
/// slice know.
#[inline(always)]
pub fn show(call: &SockAddr, who: SliceId, protocol: u8, ipv4: bool, settings: &Settings) {
    let (real, port) = (call.address(ipv4), call.port());
    let (address, named) = told(who, protocol, &real, port, settings);
    if address != real {
        call.set_address(ipv4, &address);
        if named != port {
            call.set_port(named);
        }
    }
}
