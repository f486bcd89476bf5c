//! A packet leaves a socket.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use core::ptr::read_volatile;
use policy::abi::{
    RAW, RAW_SLICES, Settings, SliceEntry, TAG_CONNECTING, TAG_ELSEWHERE, TAG_KERNEL, TAG_OWN,
    TAG_RAW, TCP, Tag, UDP, adopted, port_index,
};
use policy::decide::address::{Place, by_itself, is_ipv4, source};
use policy::decide::claim::send;
use policy::decide::loopback::{self as private, is_echo};
use policy::{Reason, SliceId, Verdict};

use super::node;
use crate::atomic;
use crate::audit;
use crate::claim;
use crate::destination;
use crate::event::Denial;
use crate::flow;
use crate::maps::{AUDIT_OUT, NODE_OUT, RAW_OUT};
use crate::owner;
use crate::packet::{self, Packet};
use crate::passed;
use crate::{loopback, place};

const SOCK_RAW: u32 = 3;
const TCP_CLOSE: u32 = 7;
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
    if !who.is_slice() || adopted(flags) {
        if settings.flags & RAW_SLICES != 0 {
            // SAFETY: nothing is left open.
            unsafe { NODE_OUT.tail_call(&ctx, 0) };
        }
        let sent = node::send(skb, who, flags);
        if sent == 1 {
            audit::copy(&ctx, &AUDIT_OUT);
        }
        return sent;
    }
    if flags & TAG_RAW != 0 {
        // SAFETY: nothing is left open. Where the program is not there the
        // packet is dropped.
        unsafe { RAW_OUT.tail_call(&ctx, 0) };
        return 0;
    }
    let packet = packet::read(skb);
    // Read before the checks: what changes meanwhile voids their answer.
    let generation = atomic::load(&raw const settings.generation);
    let verdict = match (&packet, owner::entry(who)) {
        (None, _) => Verdict::Deny(Reason::Header),
        (_, None) => Verdict::Deny(Reason::NoPolicy),
        (Some(packet), Some(_)) if passed::before(skb, tag, generation, packet) => Verdict::Allow,
        (Some(packet), Some(entry)) => first(skb, settings, generation, tag, who, entry, packet),
    };
    match verdict {
        Verdict::Allow => {
            packet::count(skb, who, true);
            audit::copy(&ctx, &AUDIT_OUT);
            1
        }
        Verdict::Deny(reason) => drop(who, reason, &packet),
    }
}

/// Counts a denial and tells of it: a function of its own, as the stack of the
/// hook has no room for both.
#[inline(never)]
pub fn drop(who: SliceId, reason: Reason, packet: &Option<Packet>) -> i32 {
    Denial::of_sent(who, reason, packet).drop();
    0
}

/// The first packet of a flow, or the first after a change of policy.
#[inline(always)]
fn first(
    skb: *mut __sk_buff,
    settings: &Settings,
    generation: u32,
    tag: *mut Tag,
    who: SliceId,
    entry: &SliceEntry,
    packet: &Packet,
) -> Verdict {
    let verdict = verdict(skb, settings, tag, who, entry, packet);
    if verdict.is_allow() {
        passed::remember(skb, tag, generation, packet);
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
    let from = place::of(&packet.source);
    let inside = packet::is_loopback(skb);
    if !is_echo(from, packet.protocol, inside) {
        let verdict = source(who, entry, from, is_ipv4(&packet.source), inside);
        if !verdict.is_allow() {
            return verdict;
        }
    }
    if let Some(place) = by_itself(&packet.destination) {
        let (to, port) = (&packet.destination, packet.destination_port());
        let verdict = private::send(who, place, to, packet.protocol, port, inside);
        if !verdict.is_allow() {
            return verdict;
        }
        // What a slice sends to itself is refused by nobody.
        if let Place::Private(_) = place {
            return held(skb, settings, tag, who, entry, from, packet);
        }
    }
    let port = peer_port(tag, packet);
    let verdict = destination::verdict(settings, who, &packet.destination, packet.protocol, port);
    if !verdict.is_allow() {
        return verdict;
    }
    held(skb, settings, tag, who, entry, from, packet)
}

/// Whether the port that the packet is from is the socket's to send from.
#[inline(always)]
fn held(
    skb: *mut __sk_buff,
    settings: &Settings,
    tag: *mut Tag,
    who: SliceId,
    entry: &SliceEntry,
    from: Place,
    packet: &Packet,
) -> Verdict {
    let raw = settings.flags & RAW_SLICES != 0;
    if raw && !packet.has_ports() {
        return match packet.flow(skb) {
            // The kernel gave the socket its identifier.
            Some(key) => flow::start(&key, who, true),
            None => Verdict::Deny(Reason::Header),
        };
    }
    // Ports of a slice's own address need no claim, nor do those that it bound
    // by name on its loopback.
    let own = matches!(from, Place::Own(_)) || loopback::holds(tag, packet.source_port(), settings);
    if packet.protocol != UDP || own {
        return Verdict::Allow;
    }
    let verdict = hold_picked(settings, tag, who, packet);
    if raw
        && verdict.is_allow()
        && let Some(key) = packet.flow(skb)
    {
        // Who has raw sockets may listen to its own; others only keep away
        // those who could listen to it.
        if entry.flags & RAW == 0 {
            flow::taken(&key, who);
        } else if !claim::of_port(UDP, key.local_port).named() {
            let _ = flow::start(&key, who, true);
        }
    }
    verdict
}

/// A UDP socket that was not bound has the port that the kernel picked from
/// its first packet on, and another one after it was disconnected.
#[inline(always)]
fn hold_picked(settings: &Settings, tag: *mut Tag, who: SliceId, packet: &Packet) -> Verdict {
    let Some(index) = port_index(UDP, packet.source_port()) else {
        return Verdict::Deny(Reason::Header);
    };
    if claim::holds(tag) == Some(index) || claim::hold(tag, who, index, false, settings).is_allow()
    {
        return Verdict::Allow;
    }
    send(who, claim::read(index))
}

/// The peer's port where the slice chose it. A TCP socket with a port of its
/// own that has not connected itself answers clients, whose ports are theirs.
#[inline(always)]
fn peer_port(tag: *mut Tag, packet: &Packet) -> Option<u16> {
    // SAFETY: the storage lives as long as the socket that sends.
    let flags = atomic::load(unsafe { &raw const (*tag).flags });
    let bound = flags & TAG_OWN != 0 || claim::holds(tag).is_some();
    match packet.protocol {
        TCP if bound && flags & TAG_CONNECTING == 0 => None,
        TCP | UDP => Some(packet.destination_port()),
        _ => None,
    }
}

/// A TCP socket without a claimed port has a flow from its first packet on.
#[inline(always)]
fn learn(skb: *mut __sk_buff, tag: *mut Tag, who: SliceId, entry: &SliceEntry, packet: &Packet) {
    // On the private loopback the address alone tells whose a flow is.
    if packet.protocol != TCP
        || claim::holds(tag).is_some()
        || matches!(by_itself(&packet.source), Some(Place::Private(_)))
    {
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
    // A reset that is sent when all is over begins no flow: nobody would forget it.
    if state != TCP_LISTEN && state != TCP_CLOSE {
        claim::learn_flow(tag, who, entry.sockets_max);
    }
}

/// The tag of the sending socket; one without is older than the programs, or
/// the kernel's own.
#[inline(always)]
pub fn tag(skb: *mut __sk_buff, settings: &Settings) -> Option<*mut Tag> {
    // SAFETY: the pointers are the kernel's; each is compared with null.
    unsafe {
        let sk = read_volatile(&raw const (*skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return None;
        }
        if let Some(tag) = owner::tag(sk.cast()) {
            return Some(tag);
        }
        let full = bpf_sk_fullsock(sk);
        if full.is_null() {
            return None;
        }
        let cgroup = bpf_skb_ancestor_cgroup_id(skb, settings.slices_level as i32);
        let who = owner::of_cgroup(cgroup);
        if !who.is_slice() && read_volatile(&raw const (*full).type_) == SOCK_RAW {
            return owner::tag_new(full.cast(), who, TAG_KERNEL);
        }
        owner::tag_counted(full.cast(), who, 0)
    }
}
