//! What a slice may receive by a link: its bucket there.

use aya_ebpf::bindings::__sk_buff;
use core::ptr::read_volatile;
use policy::SliceId;
use policy::abi::{POLICED, arrival_index, link_index};
use policy::decide::police::{may_come, takes_ns};

use crate::atomic::{compare_exchange, fetch_add, load};
use crate::claim::now_ns;
use crate::maps::{ARRIVALS, ARRIVES_BY, KNOBS};
use crate::{owner, packet};

/// Whether a packet that its rules let through to a socket of `who` may come, whose
/// row has these flags. Where nothing is bounded that is all there is to it.
#[inline(always)]
pub fn may_reach(skb: *mut __sk_buff, who: SliceId, flags: u32) -> bool {
    flags & POLICED == 0 || fits(skb, who)
}

/// The same of an owner whose row was not looked at.
#[inline(always)]
pub fn may_reach_owner(skb: *mut __sk_buff, who: SliceId) -> bool {
    match owner::entry(who) {
        Some(entry) => may_reach(skb, who, entry.flags),
        None => true,
    }
}

/// Fills the bucket, or counts what does not fit. A function of its own, for its stack.
#[inline(never)]
fn fits(skb: *mut __sk_buff, who: SliceId) -> bool {
    if packet::stays(skb) {
        return true;
    }
    // SAFETY: the pointer is the kernel's, the field readable here; the value is one
    // word and copied at once.
    let link = unsafe {
        let device = read_volatile(&raw const (*skb).ifindex);
        ARRIVES_BY.get(device).copied()
    };
    // What comes otherwise, as all that stays inside the node, is nobody's affair here.
    let (Some(link), Some(settings)) = (link, owner::settings()) else {
        return true;
    };
    let (row, rows) = (who.index(), settings.rows);
    let Some(knobs) = KNOBS.get(link_index(link, row, rows)) else {
        return true;
    };
    let rate = load(&raw const knobs.receive);
    if rate == 0 || knobs.id.0 != who.0 {
        return true;
    }
    let Some(state) = ARRIVALS.get_ptr_mut(arrival_index(link, row, rows)) else {
        return true;
    };
    let (packets, bytes) = packet::amount(skb, 0);
    let now = now_ns();
    // SAFETY: rows of arrays stay.
    unsafe {
        let clock = &raw mut (*state).next_ns;
        let next = load(clock);
        if !may_come(next, now) {
            fetch_add(&raw mut (*state).policed_bytes, bytes);
            fetch_add(&raw mut (*state).policed_packets, packets);
            return false;
        }
        let takes = takes_ns(bytes, rate);
        // What comes by several CPUs at one moment is all paid for: none that has looked
        // overwrites what another has added.
        if next >= now || compare_exchange(clock, next, now.wrapping_add(takes)) != next {
            fetch_add(clock, takes);
        }
        fetch_add(&raw mut (*state).bytes, bytes);
        fetch_add(&raw mut (*state).packets, packets);
    }
    true
}
