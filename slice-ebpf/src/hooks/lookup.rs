//! The kernel looks for the socket of a packet: a wildcard listener is not
//! found through another's loopback.

use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use core::ptr::read_volatile;
use policy::abi::{Address, Moment, mapped, port_index};
use policy::decide::address::{Place, by_itself};
use policy::decide::create::AF_INET;
use policy::decide::loopback::find;
use policy::{Reason, SliceId, Verdict};

use crate::claim;
use crate::ctx::address_of;
use crate::event::Denial;
use crate::maps::{RESERVED, SLICES};
use crate::packet::LOOPBACK_DEVICE;

const PASS: u32 = 1;
const DROP: u32 = 0;

/// `BPF_SK_LOOKUP`, in the node's network namespace. A packet of a connection
/// that is established does not come here. Dropped, it is answered as one to a
/// closed port.
#[sk_lookup]
pub fn lookup(ctx: SkLookupContext) -> u32 {
    let call = ctx.lookup;
    // SAFETY: the pointer is the kernel's, the fields readable here.
    let (family, protocol, port, device) = unsafe {
        (
            read_volatile(&raw const (*call).family),
            read_volatile(&raw const (*call).protocol) as u8,
            read_volatile(&raw const (*call).local_port) as u16,
            read_volatile(&raw const (*call).ingress_ifindex),
        )
    };
    let local = local(call, family == AF_INET as u32);
    let inside = device == LOOPBACK_DEVICE;
    let row = match by_itself(&local) {
        Some(Place::Private(row)) => row,
        // What comes from outside to the node's loopback, its owner let in
        // (route_localnet).
        Some(Place::Loopback) if inside => SliceId::NODE.index(),
        _ => return PASS,
    };
    let verdict = if inside {
        found(row, protocol, port)
    } else {
        Verdict::Deny(Reason::LoopbackForeign)
    };
    let Verdict::Deny(reason) = verdict else {
        return PASS;
    };
    // Whoever sent it: the loopback is known, and its owner.
    if let Some(entry) = SLICES.get(row) {
        let mut denial = Denial::new(entry.id, reason, Moment::Lookup, family as u8, protocol);
        denial.local = local;
        denial.local_port = port;
        denial.drop();
    }
    DROP
}

/// Whether a socket on all addresses may be found through the loopback of this
/// row.
#[inline(always)]
pub fn found(row: u32, protocol: u8, port: u16) -> Verdict {
    let Some(index) = port_index(protocol, port) else {
        return Verdict::Allow;
    };
    match RESERVED.get(index) {
        Some(reserved) => find(row, *reserved, claim::read(index)),
        None => Verdict::Deny(Reason::LoopbackForeign),
    }
}

/// All five words are read before it is looked which count: behind a branch the
/// compiler makes one load of two, which the verifier refuses.
#[inline(always)]
fn local(call: *mut bpf_sk_lookup, ipv4: bool) -> Address {
    // SAFETY: as in `lookup`; what is not of the family is 0.
    let (v4, v6) = unsafe {
        (
            read_volatile(&raw const (*call).local_ip4),
            [
                read_volatile(&raw const (*call).local_ip6[0]),
                read_volatile(&raw const (*call).local_ip6[1]),
                read_volatile(&raw const (*call).local_ip6[2]),
                read_volatile(&raw const (*call).local_ip6[3]),
            ],
        )
    };
    if ipv4 {
        mapped(v4.to_ne_bytes())
    } else {
        address_of(v6)
    }
}
