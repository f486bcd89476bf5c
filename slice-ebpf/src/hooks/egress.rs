//! A packet leaves a socket.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use core::ptr::read_volatile;
use policy::abi::{
    FlowKey, Moment, Settings, SliceEntry, TAG_ELSEWHERE, TAG_KERNEL, TCP, Tag, UDP, port_index,
};
use policy::decide::address::{Place, is_ipv4, source};
use policy::{Reason, SliceId, Verdict};

use super::bind::place;
use crate::atomic;
use crate::claim;
use crate::destination;
use crate::event::Denial;
use crate::owner;
use crate::packet::{self, Packet};
use crate::passed;

const SOCK_RAW: u32 = 3;
const TCP_LISTEN: u32 = 10;

/// `BPF_CGROUP_INET_EGRESS`, before fragmentation and the device's queue.
#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(settings) = owner::settings() else {
        return 1;
    };
    let Some(tag) = tag(skb, settings) else {
        return 1;
    };
    // SAFETY: the storage lives as long as the socket that sends.
    let (who, flags) = unsafe { ((*tag).id, atomic::load(&raw const (*tag).flags)) };
    if flags & TAG_ELSEWHERE != 0 {
        return 1;
    }
    if !who.is_slice() {
        let who = if flags & TAG_KERNEL != 0 {
            of_packet(skb)
        } else {
            who
        };
        packet::count(skb, who, true);
        return 1;
    }
    let packet = packet::read(skb);
    let verdict = match (&packet, owner::entry(who)) {
        (None, _) => Verdict::Deny(Reason::Header),
        (_, None) => Verdict::Deny(Reason::NoPolicy),
        (Some(packet), Some(_)) if passed::before(tag, settings, packet) => Verdict::Allow,
        (Some(packet), Some(entry)) => first(skb, settings, tag, who, entry, packet),
    };
    match verdict {
        Verdict::Allow => {
            packet::count(skb, who, true);
            1
        }
        Verdict::Deny(reason) => denial(who, reason, &packet).drop(),
    }
}

/// The first packet of a flow, or the first after a change of policy.
#[inline(always)]
fn first(
    skb: *mut __sk_buff,
    settings: &Settings,
    tag: *mut Tag,
    who: SliceId,
    entry: &SliceEntry,
    packet: &Packet,
) -> Verdict {
    let verdict = verdict(skb, settings, tag, who, entry, packet);
    if verdict.is_allow() {
        passed::remember(tag, settings, packet);
        learn(skb, tag, who, entry, packet);
    }
    verdict
}

/// All that a packet is checked for.
#[inline(always)]
fn verdict(
    skb: *mut __sk_buff,
    settings: &Settings,
    tag: *mut Tag,
    who: SliceId,
    entry: &SliceEntry,
    packet: &Packet,
) -> Verdict {
    let from = place(&packet.source);
    let inside = packet::is_loopback(skb);
    let verdict = source(who, entry, from, is_ipv4(&packet.source), inside);
    if !verdict.is_allow() {
        return verdict;
    }
    let port = packet.destination_port();
    let verdict = destination::verdict(settings, who, &packet.destination, packet.protocol, port);
    // Ports of a slice's own address need no claim.
    if !verdict.is_allow() || packet.protocol != UDP || matches!(from, Place::Own(_)) {
        return verdict;
    }
    hold_picked(settings, tag, who, packet)
}

/// A UDP socket that was not bound has the port that the kernel picked from
/// its first packet on, and another one after it was disconnected.
#[inline(always)]
fn hold_picked(settings: &Settings, tag: *mut Tag, who: SliceId, packet: &Packet) -> Verdict {
    let Some(index) = port_index(UDP, packet.source_port()) else {
        return Verdict::Deny(Reason::Header);
    };
    if claim::holds(tag) == Some(index) {
        return Verdict::Allow;
    }
    let taken = claim::hold(tag, who, index, settings);
    Verdict::allow_if(taken.is_allow(), Reason::PortForeign)
}

/// A TCP socket without a claimed port has a flow from its first packet on.
#[inline(always)]
fn learn(skb: *mut __sk_buff, tag: *mut Tag, who: SliceId, entry: &SliceEntry, packet: &Packet) {
    if packet.protocol != TCP || claim::holds(tag).is_some() {
        return;
    }
    // SAFETY: the pointers are the kernel's; each is compared with null.
    let state = unsafe {
        let sk = read_volatile(&raw const (*skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return;
        }
        read_volatile(&raw const (*sk).state)
    };
    if state != TCP_LISTEN {
        claim::learn_flow(tag, who, entry.sockets_max);
    }
}

/// The tag of the sending socket; one without is older than the programs, or
/// the kernel's own.
#[inline(always)]
fn tag(skb: *mut __sk_buff, settings: &Settings) -> Option<*mut Tag> {
    // SAFETY: the pointers are the kernel's; each is compared with null.
    unsafe {
        let sk = read_volatile(&raw const (*skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return None;
        }
        if let Some(tag) = owner::tag(sk.cast()) {
            return Some(tag);
        }
        let cgroup = bpf_skb_ancestor_cgroup_id(skb, settings.slices_level as i32);
        let who = owner::of_cgroup(cgroup);
        let full = bpf_sk_fullsock(sk);
        let kernel = !who.is_slice()
            && !full.is_null()
            && read_volatile(&raw const (*full).type_) == SOCK_RAW;
        owner::tag_new(sk.cast(), who, if kernel { TAG_KERNEL } else { 0 })
    }
}

/// Whose a packet of the kernel's own sockets is.
#[inline(always)]
fn of_packet(skb: *mut __sk_buff) -> SliceId {
    match packet::read(skb) {
        Some(packet) => claim::owner_of(&FlowKey {
            protocol: packet.protocol,
            reserved: 0,
            local_port: packet.source_port(),
            peer_port: packet.destination_port(),
            reserved_2: 0,
            local: packet.source,
            peer: packet.destination,
        }),
        None => SliceId::UNATTRIBUTED,
    }
}

#[inline(always)]
fn denial(who: SliceId, reason: Reason, packet: &Option<Packet>) -> Denial {
    let mut denial = Denial::new(who, reason, Moment::Egress, 0, 0);
    if let Some(packet) = packet {
        denial.family = packet.family();
        denial.protocol = packet.protocol;
        denial.local_port = packet.source_port();
        denial.peer_port = packet.destination_port();
        denial.local = packet.source;
        denial.peer = packet.destination;
    }
    denial
}
