//! TCP connections that a slice starts: counted from connect(2) until TCP is
//! done with them, by a bit in the socket's tag that is set and cleared once.
//!
//! A connect that fails before TCP runs the socket (no route, no port) leaves
//! the bit, as no hook sees it fail: the socket counts until it is closed, and
//! when it connects again it is not counted twice.

use policy::abi::{SliceEntry, SliceState, TAG_CONNECTION, Tag};
use policy::decide::connection::{one_more, pay};
use policy::{Reason, SliceId, Verdict};

use crate::atomic;
use crate::claim::now_ns;
use crate::owner;

/// Tries before a connection gives up against others of the same slice, each
/// of which has paid meanwhile.
const TRIES: u32 = 16;

/// Counts a connection that the socket with this tag is about to start, and
/// pays for it; or neither.
#[inline(always)]
pub fn start(tag: *mut Tag, who: SliceId, entry: &SliceEntry) -> Verdict {
    let Some(state) = owner::state(who) else {
        return Verdict::Deny(Reason::NoPolicy);
    };
    // SAFETY: the storage lives as long as the socket that runs the hook.
    let flags = unsafe { &raw mut (*tag).flags };
    if atomic::fetch_or(flags, TAG_CONNECTION) & TAG_CONNECTION == 0 {
        // SAFETY: the row lies in the array for good. Counted first, so that
        // two CPUs cannot both take the last place.
        let open = atomic::fetch_add(unsafe { &raw mut (*state).connections }, 1);
        let verdict = one_more(open, entry.connections_max);
        if !verdict.is_allow() {
            over(tag, who);
            return verdict;
        }
    }
    let verdict = pay_for_one(state, entry.connections_per_second);
    if !verdict.is_allow() {
        over(tag, who);
        return verdict;
    }
    // SAFETY: as above.
    atomic::fetch_add(unsafe { &raw mut (*state).connections_started }, 1);
    Verdict::Allow
}

#[inline(always)]
fn pay_for_one(state: *mut SliceState, rate: u32) -> Verdict {
    // SAFETY: the row lies in the array for good.
    let word = unsafe { &raw mut (*state).connections_paid_ns };
    let now = now_ns();
    let mut tries = 0;
    while tries < TRIES {
        let old = atomic::load(word);
        match pay(old, rate, now) {
            Ok(new) if atomic::compare_exchange(word, old, new) == old => return Verdict::Allow,
            Ok(_) => tries += 1,
            Err(reason) => return Verdict::Deny(reason),
        }
    }
    Verdict::Deny(Reason::ConnectionRate)
}

/// The socket with this tag has no connection any more, if it had one.
#[inline(always)]
pub fn over(tag: *mut Tag, who: SliceId) {
    // SAFETY: as in `start`.
    let flags = unsafe { &raw mut (*tag).flags };
    if atomic::fetch_clear(flags, TAG_CONNECTION) & TAG_CONNECTION == 0 {
        return;
    }
    if let Some(state) = owner::state(who) {
        // SAFETY: as in `start`.
        atomic::fetch_sub(unsafe { &raw mut (*state).connections }, 1);
    }
}
