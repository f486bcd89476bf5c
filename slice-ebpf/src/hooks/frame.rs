//! A packet socket sends a frame, and is shown frames.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id};
use aya_ebpf::macros::{classifier, socket_filter};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use core::ptr::read_volatile;
use policy::abi::{ArmedDevice, Moment, RAW};
use policy::decide::create::AF_PACKET;
use policy::decide::raw::{Device, Holder, Sent, Way, flow as flow_of, frame as read};
use policy::{Reason, SliceId, Verdict};

use super::node::is_answered_by_a_slice;
use super::raw;
use crate::audit;
use crate::claim::now_ns;
use crate::event::Denial;
use crate::maps::{AUDIT_FRAME, DEVICES};
use crate::octets;
use crate::packet;
use crate::{flow, owner};

const OUTGOING: u32 = 4;
/// `ETH_P_IP`, `ETH_P_IPV6`, in network order.
const IPV4: u32 = 0x0008;
const IPV6: u32 = 0xdd86;
/// Nothing of the packet, or all.
const NOTHING: i64 = 0;
const ALL: i64 = 0xffff_ffff;

/// The way out of a device, before the taps of packet sockets.
#[classifier]
pub fn frame(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(settings) = owner::settings() else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: the pointers are the kernel's; each is compared with null.
    let (who, device, length) = unsafe {
        let sk = read_volatile(&raw const (*skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            // Resets of IPv6 have no socket, and pass no other hook.
            let ipv6 = read_volatile(&raw const (*skb).protocol) == IPV6;
            let quiet = ipv6 && is_answered_by_a_slice(&octets::Inside(skb));
            return if quiet { TC_ACT_SHOT } else { TC_ACT_UNSPEC };
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() || read_volatile(&raw const (*sk).family) != AF_PACKET as u32 {
            return TC_ACT_UNSPEC;
        }
        let cgroup = bpf_skb_ancestor_cgroup_id(skb, settings.slices_level as i32);
        let device = read_volatile(&raw const (*skb).ifindex);
        let length = read_volatile(&raw const (*skb).len);
        (owner::of_cgroup(cgroup), device, length)
    };
    if !who.is_slice() {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the value is copied at once.
    let Some(device) = (unsafe { DEVICES.get(device) }).copied() else {
        return refused(who, Reason::Device);
    };
    let mut packet = raw::NOTHING;
    if let Verdict::Deny(reason) = headers(skb, length, device, &mut packet) {
        return refused(who, reason);
    }
    match raw::verdict(skb, settings, who, &packet) {
        Verdict::Allow => {
            packet::count_frame(skb, who, &packet);
            audit::copy(&ctx, &AUDIT_FRAME);
            TC_ACT_UNSPEC
        }
        Verdict::Deny(reason) => {
            raw::refuse(who, reason, Moment::Frame, &packet);
            TC_ACT_SHOT
        }
    }
}

/// Reads the headers of a frame; a function of its own for its stack.
#[inline(never)]
fn headers(skb: *mut __sk_buff, length: u32, device: ArmedDevice, packet: &mut Sent) -> Verdict {
    let device = Device {
        address: device.address,
    };
    match read(&octets::Packet(skb), length, &device) {
        Ok(headers) => {
            *packet = headers;
            Verdict::Allow
        }
        Err(reason) => Verdict::Deny(reason),
    }
}

#[inline(never)]
fn refused(who: SliceId, reason: Reason) -> i32 {
    Denial::new(who, reason, Moment::Frame, AF_PACKET as u8, 0).drop();
    TC_ACT_SHOT
}

/// What a packet socket of a slice is shown: its own packets, both ways. The
/// filter of the socket puts the slice's id into the first word of the control
/// block and jumps here.
#[socket_filter]
pub fn capture(ctx: SkBuffContext) -> i64 {
    let skb = ctx.skb.skb;
    // SAFETY: the pointer is the kernel's, the fields readable here.
    let (who, protocol, kind) = unsafe {
        (
            SliceId(read_volatile(&raw const (*skb).cb[0])),
            read_volatile(&raw const (*skb).protocol),
            read_volatile(&raw const (*skb).pkt_type),
        )
    };
    let mine = owner::entry(who).is_some_and(|entry| entry.flags & RAW != 0);
    if !mine || protocol != IPV4 && protocol != IPV6 {
        return NOTHING;
    }
    // Inside the node each packet is both: sent by one, received by one.
    let inside = packet::is_loopback(skb);
    if (inside || kind == OUTGOING) && is_of(skb, who, Way::Out) {
        return ALL;
    }
    if (inside || kind != OUTGOING) && is_of(skb, who, Way::In) {
        return ALL;
    }
    NOTHING
}

#[inline(never)]
fn is_of(skb: *mut __sk_buff, who: SliceId, way: Way) -> bool {
    let Some(key) = flow_of(&octets::Inside(skb), way) else {
        return false;
    };
    let now = now_ns();
    match flow::holder_of(&key, now) {
        Holder::Owner(owner) => owner.0 == who.0,
        Holder::IfStarted(owner) => owner.0 == who.0 && flow::is_started(&key, who, now),
        Holder::Nobody => false,
    }
}
