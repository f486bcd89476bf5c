//! A packet leaves a socket of the node, or of the kernel itself.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use policy::abi::{FlowKey, Settings, TAG_KERNEL, Tag};
use policy::decide::address::Place;
use policy::decide::loopback::node_sends;
use policy::decide::raw::{Octets, answers_for};
use policy::{SliceId, Verdict};

use super::egress::{drop, tag};
use crate::atomic;
use crate::audit;
use crate::claim;
use crate::maps::AUDIT_OUT;
use crate::octets;
use crate::packet;
use crate::passed;
use crate::{flow, owner, place, port};

/// Counts it for whose it is.
#[inline(always)]
pub fn send(skb: *mut __sk_buff, who: SliceId, flags: u64) -> i32 {
    let who = if flags & TAG_KERNEL != 0 {
        of_packet(skb)
    } else {
        owner::counted_for(who, flags)
    };
    // The kernel's own answers, to a closed port for one, pass.
    if flags & TAG_KERNEL == 0 && packet::is_loopback(skb) {
        let packet = packet::read(skb);
        if let Some(headers) = &packet
            && let Verdict::Deny(reason) =
                node_sends(&headers.source, headers.source_port(), &headers.destination)
        {
            return drop(who, reason, &packet);
        }
    }
    packet::count(skb, who, true);
    1
}

/// The same where slices have raw sockets; `egress` jumps here.
#[cgroup_skb(egress)]
pub fn node_out(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(settings) = owner::settings() else {
        return 1;
    };
    let Some(tag) = tag(skb, settings) else {
        return 1;
    };
    // SAFETY: the storage lives as long as the socket that sends.
    let (who, flags) = unsafe { ((*tag).id, atomic::load(&raw const (*tag).flags)) };
    if flags & TAG_KERNEL == 0 {
        take_from_slices(skb, settings, tag);
    } else if is_answered_by_a_slice(&octets::Packet(skb)) {
        return 0;
    }
    let sent = send(skb, who, flags);
    if sent == 1 {
        audit::copy(&ctx, &AUDIT_OUT);
    }
    sent
}

/// A flow of the node's is not a slice's any more that had sent on it itself,
/// before the kernel gave its port to a socket of the node.
#[inline(never)]
fn take_from_slices(skb: *mut __sk_buff, settings: &Settings, tag: *mut Tag) {
    let generation = atomic::load(&raw const settings.generation);
    let Some(packet) = packet::read(skb) else {
        return;
    };
    // A slice may have bound the port since, at another address.
    let claimed = packet.has_ports()
        && claim::of_port(packet.protocol, packet.source_port())
            .owner()
            .is_slice();
    if !claimed && passed::before(skb, tag, generation, &packet) {
        return;
    }
    let Some(key) = packet.flow(skb) else {
        return;
    };
    if claimed {
        let _ = flow::start(&key, SliceId::NODE, true);
    } else {
        flow::taken(&key, SliceId::NODE);
    }
    passed::remember(skb, tag, generation, &packet);
}

/// Whether the kernel says that nobody is at a port where a program of a slice
/// speaks the protocol itself.
#[inline(never)]
pub fn is_answered_by_a_slice(octets: &impl Octets) -> bool {
    let Some((protocol, number, at)) = answers_for(octets) else {
        return false;
    };
    let kept = port::kept(protocol, number);
    match place::of(&at) {
        Place::Shared => kept.raw() || claim::of_port(protocol, number).raw(),
        // What policy says of a port holds at the slice's own address too.
        Place::Own(owner) => kept.raw() && kept.is_for(owner),
        _ => false,
    }
}

/// Whose a packet of the kernel's own sockets is.
#[inline(never)]
pub fn of_packet(skb: *mut __sk_buff) -> SliceId {
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
