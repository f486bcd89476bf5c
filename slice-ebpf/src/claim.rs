//! Ports held by sockets, and the life of what a socket holds.
//!
//! A socket lives while a descriptor of it is open or TCP still runs it
//! (`TAG_OPEN`, `TAG_RUNNING`); whoever clears the last of the two gives back
//! what it held, once.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use policy::abi::{
    CLAIM_LEASED, CLAIM_NAMED, CLAIM_RAW, Claim, FlowKey, Settings, TAG_ADOPTED, TAG_FLOW,
    TAG_LEARNED, TAG_OPEN, TAG_RAW_PORT, TAG_RUNNING, TCP, Tag, port_index,
};
use policy::decide::address::Place;
use policy::decide::claim::debt;
use policy::decide::create::one_more;
use policy::{Reason, SliceId, Verdict};

use crate::atomic;
use crate::maps::{CLAIMS, FLOWS, SLICES};
use crate::{connection, loopback, owner, place};

/// `BPF_NOEXIST`.
const ONLY_NEW: u64 = 1;
/// Tries before a claim gives up against others on the same port.
const TRIES: u32 = 8;

/// Monotonic clock, nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

/// Who holds the port in row `index`.
#[inline(always)]
pub fn read(index: u32) -> Claim {
    match CLAIMS.get_ptr(index) {
        // SAFETY: the row lies in the array for good; each field is one word.
        Some(row) => unsafe {
            Claim {
                holder: atomic::load(&raw const (*row).holder),
                since_ns: 0,
                linger_until_ns: atomic::load(&raw const (*row).linger_until_ns),
            }
        },
        None => Claim {
            holder: 0,
            since_ns: 0,
            linger_until_ns: 0,
        },
    }
}

/// Who holds a port of TCP or UDP.
#[inline(always)]
pub fn of_port(protocol: u8, port: u16) -> Claim {
    read(port_index(protocol, port).unwrap_or(0))
}

/// Counts one more socket of `who` on the port: the one step that decides a
/// race. Denies where another owner holds it. `named`: a program asked for this
/// port, the kernel did not pick it. `given`: the kernel did, and another's lease
/// gives way.
#[inline(always)]
pub fn take(index: u32, who: SliceId, named: bool, given: bool) -> Verdict {
    let Some(row) = CLAIMS.get_ptr_mut(index) else {
        return Verdict::Deny(Reason::PortClaimed);
    };
    let now = now_ns();
    let mut tries = 0;
    while tries < TRIES {
        let old = read(index);
        if old.held(now) && old.owner().0 != who.0 && !(given && old.leased()) {
            return Verdict::Deny(Reason::PortClaimed);
        }
        let sockets = old.sockets();
        let mut new = Claim::holder(who, sockets.wrapping_add(1));
        if !(named || sockets > 0 && old.named()) {
            new &= !CLAIM_NAMED;
        }
        if old.raw() {
            new |= CLAIM_RAW;
        }
        // SAFETY: as in `read`.
        let word = unsafe { &raw mut (*row).holder };
        if atomic::compare_exchange(word, old.holder, new) == old.holder {
            if sockets == 0 {
                // SAFETY: as in `read`; only the one who took the port writes.
                atomic::store(unsafe { &raw mut (*row).since_ns }, now);
                if let Some(state) = owner::state(who) {
                    // SAFETY: the row lies in the array for good.
                    atomic::fetch_add(unsafe { &raw mut (*state).claims }, 1);
                }
            }
            return Verdict::Allow;
        }
        tries += 1;
    }
    Verdict::Deny(Reason::PortClaimed)
}

/// Counts one socket less on the port. Where it lingers with none left, its
/// owner has it on its bill for that long.
#[inline(always)]
fn leave(index: u32, who: SliceId, settings: &Settings) {
    let Some(row) = CLAIMS.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: as in `read`. While this socket is counted, the upper half of
    // the word cannot change, so the subtraction stays in the lower half.
    let old = atomic::fetch_sub(unsafe { &raw mut (*row).holder }, 1);
    let was = Claim {
        holder: old,
        since_ns: 0,
        linger_until_ns: 0,
    };
    if was.sockets() != 1 {
        return;
    }
    let Some(state) = owner::state(who) else {
        return;
    };
    // SAFETY: the row lies in the array for good.
    atomic::fetch_sub(unsafe { &raw mut (*state).claims }, 1);
    let now = now_ns();
    if read(index).linger_until_ns > now && who.is_slice() {
        let most = owner::entry(who).map_or(1, |entry| entry.claims_max);
        // SAFETY: as above. Two CPUs may lose one step of the debt: the bound
        // is then over by one port.
        let word = unsafe { &raw mut (*state).linger_debt_ns };
        atomic::store(
            word,
            debt(atomic::load(word), most, now, settings.linger_ns),
        );
    }
}

/// Keeps the port in row `index` its owner's until TCP can no longer answer
/// for this socket.
#[inline(always)]
fn linger(index: u32, settings: &Settings) {
    if let Some(row) = CLAIMS.get_ptr_mut(index) {
        // SAFETY: as in `read`; only sockets of the owner write here.
        atomic::store(
            unsafe { &raw mut (*row).linger_until_ns },
            now_ns().saturating_add(settings.linger_ns),
        );
        // SAFETY: as above.
        atomic::fetch_clear(unsafe { &raw mut (*row).holder }, CLAIM_LEASED);
    }
}

/// Takes the port for the socket with this tag and leaves what it held before.
/// A connection that was taken over has the node's port and gets no other.
#[inline(always)]
pub fn hold(tag: *mut Tag, who: SliceId, index: u32, named: bool, settings: &Settings) -> Verdict {
    // SAFETY: the storage lives as long as the socket that runs the hook.
    if atomic::load(unsafe { &raw const (*tag).flags }) & TAG_ADOPTED != 0 {
        return Verdict::Deny(Reason::PortClaimed);
    }
    let verdict = take(index, who, named, !named);
    if verdict.is_allow() {
        // SAFETY: the storage lives as long as the socket that runs the hook.
        let before = atomic::exchange(unsafe { &raw mut (*tag).held }, index as u64 + 1);
        if before != 0 {
            leave(row_of(before), who, settings);
        }
    }
    verdict
}

/// Takes the port for a raw socket, on which a program speaks the protocol
/// itself. One socket does.
#[inline(always)]
pub fn hold_raw(tag: *mut Tag, who: SliceId, index: u32, settings: &Settings) -> Verdict {
    if read(index).raw() {
        return Verdict::Deny(Reason::PortClaimed);
    }
    let verdict = hold(tag, who, index, true, settings);
    if verdict.is_allow()
        && let Some(row) = CLAIMS.get_ptr_mut(index)
    {
        // SAFETY: as in `read` and `hold`. This socket is counted there now.
        unsafe {
            atomic::fetch_or(&raw mut (*tag).flags, TAG_RAW_PORT);
            atomic::fetch_or(&raw mut (*row).holder, CLAIM_RAW);
        }
    }
    verdict
}

/// The kernel answers again for the port of a raw socket, which is counted
/// there still.
#[inline(always)]
fn end_raw(tag: *mut Tag) {
    if let Some(index) = holds(tag)
        && let Some(row) = CLAIMS.get_ptr_mut(index)
    {
        // SAFETY: as in `read`.
        atomic::fetch_clear(unsafe { &raw mut (*row).holder }, CLAIM_RAW);
    }
}

/// The port becomes or stays its sender's for a while without a socket: a raw
/// socket sends from it.
#[inline(always)]
pub fn lease(index: u32, who: SliceId, settings: &Settings) -> Verdict {
    let claim = read(index);
    let enough = now_ns().saturating_add(settings.linger_ns / 2);
    if claim.owner().0 == who.0 && (claim.sockets() > 0 || claim.linger_until_ns > enough) {
        return Verdict::Allow;
    }
    let verdict = take(index, who, false, false);
    if verdict.is_allow() {
        linger(index, settings);
        leave(index, who, settings);
        // Another's socket that came in between is counted there, and no lease.
        if let Some(row) = CLAIMS.get_ptr_mut(index) {
            // SAFETY: as in `read`.
            atomic::fetch_or(unsafe { &raw mut (*row).holder }, CLAIM_LEASED);
        }
    }
    verdict
}

/// Leaves the port that the socket with this tag holds, if any.
#[inline(always)]
pub fn let_go(tag: *mut Tag, who: SliceId, settings: &Settings) {
    // SAFETY: as in `hold`.
    let held = atomic::exchange(unsafe { &raw mut (*tag).held }, 0);
    if held != 0 {
        leave(row_of(held), who, settings);
    }
}

/// The row in [`Tag::held`].
#[inline(always)]
fn row_of(held: u64) -> u32 {
    (held as u32).wrapping_sub(1)
}

/// Whether the socket is counted on a port.
#[inline(always)]
pub fn holds(tag: *mut Tag) -> Option<u32> {
    // SAFETY: as in `hold`.
    let held = atomic::load(unsafe { &raw const (*tag).held });
    (held != 0).then_some(row_of(held))
}

/// One of the two things that kept the socket alive is over (`bit`); gives
/// back what it held where that was the last. `may_answer`: TCP may still
/// answer for the port after this (TIME_WAIT and orphans).
#[inline(always)]
pub fn end(tag: *mut Tag, bit: u64, may_answer: bool, settings: &Settings) {
    // SAFETY: as in `hold`.
    let (word, held, who) = unsafe { (&raw mut (*tag).flags, &raw mut (*tag).held, (*tag).id) };
    if may_answer {
        let index = atomic::load(held);
        if index != 0 {
            linger(row_of(index), settings);
        }
    }
    let old = atomic::fetch_clear(word, bit);
    if old & bit == 0 || old & (TAG_OPEN | TAG_RUNNING) & !bit != 0 {
        return;
    }
    if old & TAG_RAW_PORT != 0 {
        end_raw(tag);
    }
    loopback::let_go(tag, who);
    connection::over(tag, who);
    let who = counted_at(who, old);
    let_go(tag, who, settings);
    if let Some(state) = owner::state(who) {
        // SAFETY: the row lies in the array for good.
        atomic::fetch_sub(unsafe { &raw mut (*state).sockets_open }, 1);
    }
}

/// A call that takes a descriptor was made on the socket. One that came by
/// accept(2) has no `TAG_OPEN`: where TCP was brought to CLOSE under it by
/// connect(2) to nowhere, it was given back, and from now on lives and counts
/// again, until it is closed.
#[inline(always)]
pub fn revive(tag: *mut Tag, who: SliceId, most: u32) -> Verdict {
    // SAFETY: as in `hold`.
    let old = atomic::fetch_or(unsafe { &raw mut (*tag).flags }, TAG_OPEN);
    if old & (TAG_OPEN | TAG_RUNNING) != 0 {
        return Verdict::Allow;
    }
    one_more(begin(counted_at(who, old)), most)
}

/// With whom a socket is counted: what was taken over, where it was accepted.
#[inline(always)]
fn counted_at(who: SliceId, flags: u64) -> SliceId {
    if flags & TAG_ADOPTED != 0 {
        SliceId::NODE
    } else {
        who
    }
}

/// One more socket of `who` lives; returns how many did before.
#[inline(always)]
pub fn begin(who: SliceId) -> u64 {
    let Some(state) = owner::state(who) else {
        return u64::MAX;
    };
    // SAFETY: the row lies in the array for good.
    atomic::fetch_add(unsafe { &raw mut (*state).sockets_open }, 1)
}

/// A socket that was begun was let into life.
#[inline(always)]
pub fn opened(who: SliceId) {
    if let Some(state) = owner::state(who) {
        // SAFETY: the row lies in the array for good.
        atomic::fetch_add(unsafe { &raw mut (*state).sockets_opened }, 1);
    }
}

/// The flow of a TCP socket, from the addresses that its packets passed with.
#[inline(always)]
fn flow_of(tag: *mut Tag) -> FlowKey {
    // SAFETY: as in `hold`; TCP runs a socket's states one after the other.
    let tag = unsafe { &*tag };
    FlowKey {
        protocol: TCP,
        reserved: 0,
        local_port: u16::from_be_bytes([tag.ports[0], tag.ports[1]]),
        peer_port: u16::from_be_bytes([tag.ports[2], tag.ports[3]]),
        reserved_2: 0,
        local: tag.source,
        peer: tag.destination,
    }
}

/// Learns the flow that a socket without a claimed port starts; the addresses
/// have just passed. A slice has at most as many as sockets.
#[inline(always)]
pub fn learn_flow(tag: *mut Tag, who: SliceId, most: u32) {
    let Some(state) = owner::state(who) else {
        return;
    };
    // SAFETY: the row lies in the array for good; the tag as in `hold`.
    let (flows, flags) = unsafe { (&raw mut (*state).flows, &raw mut (*tag).flags) };
    if atomic::fetch_or(flags, TAG_FLOW) & TAG_FLOW != 0 {
        return;
    }
    if atomic::load(flows) < most as u64 && FLOWS.insert(flow_of(tag), who, ONLY_NEW).is_ok() {
        atomic::fetch_or(flags, TAG_LEARNED);
        atomic::fetch_add(flows, 1);
    }
}

/// Forgets the flow of a socket that TCP has brought to CLOSE, where this
/// socket taught it: two devices may have the same flow.
#[inline(always)]
pub fn forget_flow(tag: *mut Tag) {
    // SAFETY: as in `hold`.
    let (flags, who) = unsafe { (&raw mut (*tag).flags, (*tag).id) };
    if atomic::fetch_clear(flags, TAG_FLOW | TAG_LEARNED) & TAG_LEARNED == 0 {
        return;
    }
    let _ = FLOWS.remove(flow_of(tag));
    if let Some(state) = owner::state(who) {
        // SAFETY: the row lies in the array for good.
        atomic::fetch_sub(unsafe { &raw mut (*state).flows }, 1);
    }
}

/// Whose a packet without a socket is: by its address where that is one slice's,
/// as claims are of the ports that all share; else by its exact flow, else by
/// its port.
#[inline(always)]
pub fn owner_of(key: &FlowKey) -> SliceId {
    match place::of(&key.local) {
        Place::Own(owner) => return owner,
        Place::Private(row) => {
            return SLICES
                .get(row)
                .map_or(SliceId::UNATTRIBUTED, |entry| entry.id);
        }
        _ => {}
    }
    // SAFETY: the value is one word and copied at once.
    if let Some(id) = unsafe { FLOWS.get(key) } {
        return *id;
    }
    if let Some(index) = port_index(key.protocol, key.local_port) {
        let claim = read(index);
        if claim.held(now_ns()) {
            return claim.owner();
        }
    }
    SliceId::UNATTRIBUTED
}
