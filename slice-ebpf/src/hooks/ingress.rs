//! A packet reaches a socket.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use core::ptr::read_volatile;
use policy::abi::{
    ADDRESSES_APART, Settings, SliceEntry, TAG_ELSEWHERE, TAG_FLOW, TAG_RAW, Tag, UDP, adopted,
    port_index,
};
use policy::decide::address::{Place, is_ipv4, receive};
use policy::decide::claim::receive as receive_port;
use policy::decide::loopback::{receive as receive_private, row_of};
use policy::{Reason, SliceId, Verdict};

use crate::arrival;
use crate::atomic;
use crate::audit;
use crate::claim;
use crate::event::Denial;
use crate::maps::{AUDIT_IN, RAW_IN};
use crate::owner;
use crate::packet::{self, Packet};
use crate::place;

/// `BPF_CGROUP_INET_INGRESS`: once for each socket that would receive it.
#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let (Some(settings), Some(tag)) = (owner::settings(), tag(skb)) else {
        return of_node(skb, SliceId::NODE);
    };
    // SAFETY: the storage lives as long as the socket that receives.
    let (who, flags) = unsafe { ((*tag).id, atomic::load(&raw const (*tag).flags)) };
    if flags & TAG_ELSEWHERE != 0 {
        return 1;
    }
    if !who.is_slice() || adopted(flags) {
        let counted = owner::counted_for(who, flags);
        if counted.is_slice() && !arrival::may_reach_owner(skb, counted) {
            return 0;
        }
        let received = of_node(skb, counted);
        if received == 1 && adopted(flags) {
            audit::copy(&ctx, &AUDIT_IN);
        }
        return received;
    }
    if flags & TAG_RAW != 0 {
        // SAFETY: nothing is left open. Where the program is not there the
        // packet is not shown.
        unsafe { RAW_IN.tail_call(&ctx, 0) };
        return 0;
    }
    let packet = packet::read(skb);
    let entry = owner::entry(who);
    let verdict = match (&packet, entry) {
        (None, _) => Verdict::Deny(Reason::Header),
        (_, None) => Verdict::Deny(Reason::NoPolicy),
        (Some(packet), Some(entry)) => {
            let inside = packet::is_loopback(skb);
            verdict(settings, tag, flags, who, entry, packet, inside)
        }
    };
    match verdict {
        Verdict::Allow => {
            if !arrival::may_reach(skb, who, entry.map_or(0, |entry| entry.flags)) {
                return 0;
            }
            packet::count(skb, who, false);
            audit::copy(&ctx, &AUDIT_IN);
            1
        }
        Verdict::Deny(reason) => drop(who, reason, &packet),
    }
}

/// Counts a denial and tells of it: a function of its own, as the stack of the
/// hook has no room for it beside what counts a packet that passes.
#[inline(never)]
fn drop(who: SliceId, reason: Reason, packet: &Option<Packet>) -> i32 {
    Denial::of_received(who, reason, packet).drop()
}

/// A packet for a socket of the node: not where it was sent to the private
/// loopback of a slice, which the node's wildcard listeners have no part in.
#[inline(always)]
fn of_node(skb: *mut __sk_buff, who: SliceId) -> i32 {
    if packet::is_loopback(skb) {
        let packet = packet::read(skb);
        if packet
            .as_ref()
            .is_some_and(|p| row_of(&p.destination).is_some())
        {
            return drop(who, Reason::ReceiveForeign, &packet);
        }
    }
    packet::count(skb, who, false);
    1
}

#[inline(always)]
fn verdict(
    settings: &Settings,
    tag: *mut Tag,
    flags: u64,
    who: SliceId,
    entry: &SliceEntry,
    packet: &Packet,
    inside: bool,
) -> Verdict {
    if let Some(verdict) = receive_private(who, &packet.destination, packet.protocol, inside) {
        return verdict;
    }
    if settings.flags & ADDRESSES_APART != 0 {
        let to = place::of(&packet.destination);
        let verdict = receive(who, entry, to, is_ipv4(&packet.destination));
        // Ports of a slice's own address are nobody else's: the claims are
        // those of the shared addresses.
        if !verdict.is_allow() || matches!(to, Place::Own(_)) {
            return verdict;
        }
    }
    let Some(index) = port_index(packet.protocol, packet.destination_port()) else {
        return Verdict::Allow;
    };
    // A TCP flow that this socket started is its own, whoever holds the port.
    if claim::holds(tag) == Some(index) || packet.protocol != UDP && flags & TAG_FLOW != 0 {
        return Verdict::Allow;
    }
    receive_port(who, claim::read(index))
}

#[inline(always)]
fn tag(skb: *mut __sk_buff) -> Option<*mut Tag> {
    // SAFETY: the pointer is the kernel's and compared with null.
    unsafe {
        let sk = read_volatile(&raw const (*skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return None;
        }
        owner::tag(sk.cast())
    }
}
