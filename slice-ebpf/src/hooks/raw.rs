//! What raw sockets send and receive: packets that a program wrote itself.
//! `egress` and `ingress` jump here.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use core::ptr::read_volatile;
use policy::abi::{
    ADDRESSES_APART, FlowKey, Moment, RAW, Settings, SliceEntry, TCP, UDP, port_index,
};
use policy::decide::address::{Place, by_itself, is_ipv4, source};
use policy::decide::loopback::{self as private, is_echo};
use policy::decide::raw::{self, Holder, Sent, Way, destination as goes_to, flow as flow_of};
use policy::{Reason, SliceId, Verdict};

use crate::arrival;
use crate::audit;
use crate::claim::{self, now_ns};
use crate::event::Denial;
use crate::maps::{AUDIT_IN, AUDIT_OUT};
use crate::octets;
use crate::packet;
use crate::{destination, flow, owner, place, port};

/// A packet leaves a raw socket.
#[cgroup_skb(egress)]
pub fn raw_out(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let (Some(settings), Some(who)) = (owner::settings(), sender(skb)) else {
        return 0;
    };
    // SAFETY: the pointer is the kernel's, the field readable here.
    let length = unsafe { read_volatile(&raw const (*skb).len) };
    let mut packet = NOTHING;
    if !read(skb, length, &mut packet) {
        return Denial::of_sent(who, Reason::Header, &None).drop();
    }
    match verdict(skb, settings, who, &packet) {
        Verdict::Allow => {
            packet::count(skb, who, true);
            audit::copy(&ctx, &AUDIT_OUT);
            1
        }
        Verdict::Deny(reason) => {
            refuse(who, reason, Moment::Egress, &packet);
            0
        }
    }
}

/// No packet.
pub const NOTHING: Sent = Sent {
    protocol: 0,
    kind: 0,
    port: 0,
    peer_port: 0,
    source: [0; 16],
    destination: [0; 16],
};

/// Reads the headers of a packet. A function of its own, as those below: the
/// stack of one has not room for all.
#[inline(never)]
fn read(skb: *mut __sk_buff, length: u32, packet: &mut Sent) -> bool {
    match raw::sent(&octets::Packet(skb), length) {
        Some(headers) => {
            *packet = headers;
            true
        }
        None => false,
    }
}

/// Counts the denial of a packet and tells of it.
#[inline(never)]
pub fn refuse(who: SliceId, reason: Reason, moment: Moment, packet: &Sent) {
    let mut denial = Denial::of_written(who, reason, packet);
    denial.moment = moment;
    denial.drop();
}

/// All that a packet is checked for that a program wrote.
#[inline(always)]
pub fn verdict(skb: *mut __sk_buff, settings: &Settings, who: SliceId, packet: &Sent) -> Verdict {
    let Some(entry) = owner::entry(who) else {
        return Verdict::Deny(Reason::NoPolicy);
    };
    // Policy may have taken them away meanwhile.
    if entry.flags & RAW == 0 {
        return Verdict::Deny(Reason::RawSocket);
    }
    match ends(skb, who, entry, packet) {
        Ends::Denied(reason) => return Verdict::Deny(reason),
        Ends::Own => return Verdict::Allow,
        Ends::Others => {}
    }
    let verdict = to(settings, who, packet);
    if !verdict.is_allow() {
        return verdict;
    }
    if packet.protocol != TCP && packet.protocol != UDP {
        return flow::start(&packet.flow(), who, false);
    }
    let verdict = held(settings, who, entry, packet);
    if !verdict.is_allow() {
        return verdict;
    }
    let key = packet.flow();
    if flow::has_foreign_socket(skb, &key, who) {
        return Verdict::Deny(Reason::PortForeign);
    }
    match flow::start(&key, who, false) {
        Verdict::Allow => Verdict::Allow,
        Verdict::Deny(_) => Verdict::Deny(Reason::PortForeign),
    }
}

/// What the addresses of a packet say.
enum Ends {
    Denied(Reason),
    /// It stays in the slice's private loopback: refused by nobody.
    Own,
    /// Other rules tell.
    Others,
}

/// Whether a packet may go from where to where it says.
#[inline(never)]
fn ends(skb: *mut __sk_buff, who: SliceId, entry: &SliceEntry, packet: &Sent) -> Ends {
    let from = place::of(&packet.source);
    let inside = packet::is_loopback(skb);
    // An echo request from the node's loopback address, which the kernel picked.
    let picked = matches!(packet.kind, 8 | 128) && is_echo(from, packet.protocol, inside);
    if !picked
        && let Verdict::Deny(reason) = source(who, entry, from, is_ipv4(&packet.source), inside)
    {
        return Ends::Denied(reason);
    }
    if let Verdict::Deny(reason) = raw::icmp(packet) {
        return Ends::Denied(reason);
    }
    let goes = place::of(&packet.destination);
    // What stays in the node goes to the node: the kernel would send it on.
    let foreign = inside && matches!(goes, Place::Foreign);
    let private = matches!(from, Place::Private(_)) && !matches!(goes, Place::Private(_));
    if foreign || private {
        return Ends::Denied(Reason::LoopbackForeign);
    }
    let Some(place) = by_itself(&packet.destination) else {
        return Ends::Others;
    };
    let (to, protocol) = (&packet.destination, packet.protocol);
    match (
        private::send(who, place, to, protocol, packet.peer_port, inside),
        place,
        from,
    ) {
        (Verdict::Deny(reason), _, _) => Ends::Denied(reason),
        (Verdict::Allow, Place::Private(_), Place::Private(_)) => Ends::Own,
        _ => Ends::Others,
    }
}

/// Whether the node's owner refuses the destination.
#[inline(never)]
fn to(settings: &Settings, who: SliceId, packet: &Sent) -> Verdict {
    let has_ports = packet.protocol == TCP || packet.protocol == UDP;
    let port = has_ports.then_some(packet.peer_port);
    destination::verdict(settings, who, &packet.destination, packet.protocol, port)
}

/// Whether the source port is the sender's, or nobody's and the sender's from
/// now on.
#[inline(never)]
fn held(settings: &Settings, who: SliceId, entry: &SliceEntry, packet: &Sent) -> Verdict {
    let (protocol, number) = (packet.protocol, packet.port);
    if let Place::Own(_) = place::of(&packet.source) {
        return port::own(who, protocol, number);
    }
    let picked = raw::port(entry, settings, number);
    let verdict = port::shared(settings, who, entry, protocol, number, picked, false);
    if !verdict.is_allow() {
        return verdict;
    }
    let Some(index) = port_index(protocol, number) else {
        return Verdict::Deny(Reason::Header);
    };
    if port::kept(protocol, number).is_for(who) {
        return Verdict::Allow;
    }
    claim::lease(index, who, settings)
}

/// A packet reaches a raw socket, as all of its protocol do: those of others
/// are not shown to it, and that is no denial.
#[cgroup_skb(ingress)]
pub fn raw_in(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let (Some(settings), Some(who)) = (owner::settings(), sender(skb)) else {
        return 0;
    };
    let flags = owner::entry(who).map_or(0, |entry| entry.flags);
    if flags & RAW == 0 || !is_for(skb, settings, who) || !arrival::may_reach(skb, who, flags) {
        return 0;
    }
    packet::count(skb, who, false);
    audit::copy(&ctx, &AUDIT_IN);
    1
}

#[inline(always)]
fn is_for(skb: *mut __sk_buff, settings: &Settings, who: SliceId) -> bool {
    let octets = octets::Packet(skb);
    if settings.flags & ADDRESSES_APART != 0
        && let Some(to) = goes_to(&octets)
        && let Place::Own(owner) = place::of(&to)
    {
        return owner.0 == who.0;
    }
    let Some(key) = flow_of(&octets, Way::In) else {
        return false;
    };
    let now = now_ns();
    match flow::holder_of(&key, now) {
        Holder::Owner(owner) => owner.0 == who.0 && !flow::has_foreign_socket(skb, &key, who),
        Holder::IfStarted(owner) => owner.0 == who.0 && answers(skb, &key, who, now),
        Holder::Nobody => false,
    }
}

/// Whether a packet to what the slice has without a socket is an answer to it.
#[inline(always)]
fn answers(skb: *mut __sk_buff, key: &FlowKey, who: SliceId, now: u64) -> bool {
    if port_index(key.protocol, 0).is_none() {
        return flow::is_started(key, who, now);
    }
    !flow::has_foreign_socket(skb, key, who)
}

/// The slice whose socket this is.
#[inline(always)]
fn sender(skb: *mut __sk_buff) -> Option<SliceId> {
    // SAFETY: the pointer is the kernel's and compared with null; the storage
    // lives as long as the socket.
    unsafe {
        let sk = read_volatile(&raw const (*skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return None;
        }
        let tag = owner::tag(sk.cast())?;
        let who = (*tag).id;
        who.is_slice().then_some(who)
    }
}
