//! What a socket remembers of the checks its packets passed, so that the next
//! packet of the same flow is compared and not looked up.
//!
//! Two threads may send on one socket to two destinations. A sequence lock
//! keeps a reader from a mixture of both, which might be a destination that
//! neither passed.

use aya_ebpf::bindings::__sk_buff;
use policy::abi::Tag;

use crate::atomic;
use crate::packet::{self, Packet};

/// In the version that is remembered: the packet stayed in the node. A socket may be
/// bound to another device later, and what may pass on lo may not leave there.
const INSIDE: u8 = 0x80;

#[inline(always)]
fn version(skb: *mut __sk_buff, packet: &Packet) -> u8 {
    if packet::is_loopback(skb) {
        packet.version | INSIDE
    } else {
        packet.version
    }
}

/// Whether a packet like this one passed since the policy last changed.
#[inline(always)]
pub fn before(skb: *mut __sk_buff, tag: *mut Tag, generation: u32, packet: &Packet) -> bool {
    let version = version(skb, packet);
    // SAFETY: the storage lives as long as the socket that runs the hook; what
    // is read in the middle of a change is thrown away below.
    unsafe {
        let sequence = atomic::load(&raw const (*tag).sequence);
        atomic::barrier();
        let same = (*tag).version == version
            && (*tag).protocol == packet.protocol
            && (*tag).generation == generation
            && (*tag).ports == packet.ports
            && (*tag).source == packet.source
            && (*tag).destination == packet.destination;
        atomic::barrier();
        same && sequence & 1 == 0 && atomic::load(&raw const (*tag).sequence) == sequence
    }
}

/// Remembers that this packet passed, unless another CPU is about to.
/// `generation` is the policy's as it was before the checks.
#[inline(always)]
pub fn remember(skb: *mut __sk_buff, tag: *mut Tag, generation: u32, packet: &Packet) {
    // Identifiers of ICMP are looked at each time.
    if !packet.has_ports() {
        return;
    }
    // SAFETY: as in `before`; the swap lets one writer in.
    unsafe {
        let sequence = atomic::load(&raw const (*tag).sequence);
        if sequence & 1 != 0
            || !atomic::swap_u32(&raw mut (*tag).sequence, sequence, sequence.wrapping_add(1))
        {
            return;
        }
        atomic::barrier();
        (*tag).version = version(skb, packet);
        (*tag).protocol = packet.protocol;
        (*tag).generation = generation;
        (*tag).ports = packet.ports;
        (*tag).source = packet.source;
        (*tag).destination = packet.destination;
        atomic::barrier();
        atomic::store(&raw mut (*tag).sequence, sequence.wrapping_add(2));
    }
}
