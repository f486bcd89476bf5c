//! Packets of all slices for those who may see them.
//!
//! Where nobody audits, a packet that was let through costs one more look at a
//! word. Where somebody does, the program that let it through jumps to one that
//! copies it: there is nothing that could change the verdict, which was given.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::btf_maps::ProgramArray;
use aya_ebpf::helpers::generated::{
    bpf_ringbuf_discard, bpf_ringbuf_reserve, bpf_ringbuf_submit, bpf_skb_load_bytes,
};
use core::ffi::c_void;
use core::ptr::read_volatile;
use policy::SliceId;
use policy::abi::{AUDIT, AUDIT_MOST, AUDIT_SMALL, AUDITOR_ROWS, Audited};

use crate::atomic;
use crate::claim::now_ns;
use crate::maps::{AUDITOR_RINGS, AUDITORS, AUDITORS_LOST};
use crate::owner;

/// Jumps to the program that copies the packet, where somebody reads; comes
/// back where nobody does.
#[inline(always)]
pub fn copy<C: EbpfContext>(ctx: &C, program: &ProgramArray<1>) {
    let Some(all) = AUDITORS.get_ptr(0) else {
        return;
    };
    // SAFETY: the row lies in the array for good.
    if atomic::load(unsafe { &raw const (*all).until_ns }) != 0 {
        // SAFETY: nothing is left open.
        unsafe { program.tail_call(ctx, 0) };
    }
}

/// Copies a packet of `who` for each who reads. Its IP header begins at `start`.
#[inline(always)]
pub fn tell_all(skb: *mut __sk_buff, who: SliceId, way: u32, start: u32) {
    let now = now_ns();
    // A slice that reads may send on what it read: those packets would be read
    // again, and sent on again.
    let reads = may_read(who);
    let mut row = 1;
    while row < AUDITOR_ROWS {
        if let Some(auditor) = AUDITORS.get_ptr(row) {
            // SAFETY: the row lies in the array for good.
            let (until, owner) = unsafe {
                (
                    atomic::load(&raw const (*auditor).until_ns),
                    (*auditor).owner,
                )
            };
            let shown = !owner.is_slice() || !reads && may_read(owner);
            if now < until && shown {
                tell(skb, who, way | start << 16, row);
            }
        }
        row += 1;
    }
    rest(now);
}

/// Lets packets pass by again where the last one that read ended without a word.
#[inline(always)]
fn rest(now: u64) {
    if let Some(all) = AUDITORS.get_ptr_mut(0) {
        // SAFETY: the row lies in the array for good.
        let word = unsafe { &raw mut (*all).until_ns };
        let until = atomic::load(word);
        if until <= now {
            // One who begins this moment has written another time.
            atomic::compare_exchange(word, until, 0);
        }
    }
}

/// Whether policy lets a slice read.
#[inline(always)]
fn may_read(slice: SliceId) -> bool {
    owner::entry(slice).is_some_and(|entry| entry.flags & AUDIT != 0)
}

/// Copies a packet into the ring of one who reads, or counts that it had no room.
#[inline(never)]
fn tell(skb: *mut __sk_buff, who: SliceId, way: u32, row: u32) -> u32 {
    // SAFETY: the pointer is the kernel's, the field readable here.
    let length = unsafe { read_volatile(&raw const (*skb).len) }.wrapping_sub(way >> 16);
    // SAFETY: what is found is used as a map alone.
    let Some(ring) = (unsafe { AUDITOR_RINGS.get(&row) }) else {
        return 0;
    };
    let ring = core::ptr::from_ref(ring).cast_mut().cast();
    let written = if length <= AUDIT_SMALL {
        write::<{ AUDIT_SMALL as usize }>(ring, skb, who, way, length)
    } else {
        write::<{ AUDIT_MOST as usize }>(ring, skb, who, way, length)
    };
    if !written && let Some(lost) = AUDITORS_LOST.get_ptr_mut(row) {
        // The row lies in the array for good.
        atomic::fetch_add(lost, 1);
    }
    0
}

/// A record with room for `N` octets.
#[repr(C)]
struct Record<const N: usize> {
    head: Audited,
    octets: [u8; N],
}

#[inline(always)]
fn write<const N: usize>(
    ring: *mut c_void,
    skb: *mut __sk_buff,
    who: SliceId,
    way: u32,
    length: u32,
) -> bool {
    // SAFETY: the ring is one, as the lookup gave it; what is reserved is as
    // large as is said, is written below and handed over on each way.
    unsafe {
        let size = size_of::<Record<N>>() as u64;
        let record: *mut Record<N> = bpf_ringbuf_reserve(ring, size, 0).cast();
        if record.is_null() {
            return false;
        }
        let captured = bounded::<N>(length as u64);
        let to = (&raw mut (*record).octets).cast();
        // An empty packet fails, too.
        if bpf_skb_load_bytes(skb.cast(), way >> 16, to, captured as u32) != 0 {
            bpf_ringbuf_discard(record.cast(), 0);
            return true;
        }
        (*record).head = Audited {
            time_ns: now_ns(),
            id: who,
            device: read_volatile(&raw const (*skb).ifindex),
            length,
            captured: captured as u32,
            way: way & 0xffff,
            reserved: 0,
            name: owner::entry(who).map_or([0; 32], |entry| entry.name),
        };
        bpf_ringbuf_submit(record.cast(), 0);
    }
    true
}

/// The length, or `N` where it is more, or nothing.
#[inline(always)]
fn bounded<const N: usize>(mut length: u64) -> u64 {
    // In assembly, as the verifier of older kernels concludes from no comparison
    // that a number is not 0, and the compiler would compare so.
    // SAFETY: one register; the jump goes over one instruction.
    unsafe {
        core::arch::asm!(
            "{length} += -1",
            "if {length} < {most} goto +1",
            "{length} = {last}",
            "{length} += 1",
            length = inout(reg) length,
            most = const N,
            last = const N - 1,
        );
    }
    length
}
