//! The headers of a packet at the cgroup hooks, where data starts at the IP
//! header.

use aya_ebpf::bindings::__sk_buff;
use core::ptr::read_volatile;
use policy::SliceId;
use policy::abi::{Address, FlowKey, TCP, TalliedFlow, UDP, mapped};
use policy::decide::create::{AF_INET, AF_INET6};
use policy::decide::raw::{FRAME_HEADER as HEADER, Octets, Sent, segment_headers};

use crate::atomic;
use crate::maps::TRAFFIC;
use crate::octets;
use crate::tally;

/// The number of the device lo in every network namespace.
pub const LOOPBACK_DEVICE: u32 = 1;
/// `PACKET_LOOPBACK` of linux/if_packet.h.
const PACKET_LOOPBACK: u32 = 5;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What the rules need of a packet's headers.
pub struct Packet {
    pub version: u8,
    pub protocol: u8,
    /// The first four bytes of the transport header: the ports, or ICMP's type,
    /// code and checksum, which are then cleared.
    pub ports: [u8; 4],
    pub source: Address,
    pub destination: Address,
}

impl Packet {
    /// AF_INET or AF_INET6.
    #[inline(always)]
    pub fn family(&self) -> u8 {
        if self.version == 4 {
            AF_INET as u8
        } else {
            AF_INET6 as u8
        }
    }

    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.ports[0], self.ports[1]])
    }

    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.ports[2], self.ports[3]])
    }

    /// The flow it belongs to on its way out. ICMP's has the identifier for a
    /// port; `None` where the packet has none.
    #[inline(always)]
    pub fn flow(&self, skb: *mut __sk_buff) -> Option<FlowKey> {
        let local_port = if self.has_ports() {
            self.source_port()
        } else {
            let header = if self.version == 4 { 20 } else { 40 };
            u16::from_be_bytes(octets::Packet(skb).at(header + 4)?)
        };
        Some(FlowKey {
            protocol: self.protocol,
            reserved: 0,
            local_port,
            peer_port: self.destination_port(),
            reserved_2: 0,
            local: self.source,
            peer: self.destination,
        })
    }

    /// TCP or UDP.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        self.protocol == TCP || self.protocol == UDP
    }
}

/// Bounds of the packet's linear part.
#[inline(always)]
fn bounds(skb: *mut __sk_buff) -> (usize, usize) {
    // SAFETY: the pointer is the kernel's; both fields are readable here.
    unsafe {
        (
            read_volatile(&raw const (*skb).data) as usize,
            read_volatile(&raw const (*skb).data_end) as usize,
        )
    }
}

/// Reads the headers. `None` where they do not tell whose the packet is: IPv4
/// options (source routes), IPv6 extension headers, fragments, protocols
/// without an owner, runts.
#[inline(always)]
pub fn read(skb: *mut __sk_buff) -> Option<Packet> {
    let (start, end) = bounds(skb);
    // The smallest header, with the first four bytes behind it.
    if start + 24 > end {
        return None;
    }
    let first = byte(start, 0);
    if first == 0x45 {
        // No fragment: neither an offset nor "more".
        if byte(start, 6) & 0x3f != 0 || byte(start, 7) != 0 {
            return None;
        }
        let protocol = byte(start, 9);
        Some(Packet {
            version: 4,
            protocol,
            ports: ports(start, 20, protocol)?,
            source: mapped(word(start, 12)),
            destination: mapped(word(start, 16)),
        })
    } else if first >> 4 == 6 {
        if start + 44 > end {
            return None;
        }
        let protocol = byte(start, 6);
        Some(Packet {
            version: 6,
            protocol,
            ports: ports(start, 40, protocol)?,
            source: address(start, 8),
            destination: address(start, 24),
        })
    } else {
        None
    }
}

/// Writes into a zeroed flow what the headers say; `false` where `read` does not
/// read them. It asks the same, but into the place itself: there is no room on
/// the stack for a copy.
#[inline(always)]
pub fn tell(skb: *mut __sk_buff, sent: bool, flow: &mut TalliedFlow) -> bool {
    let (start, end) = bounds(skb);
    if start + 24 > end {
        return false;
    }
    let first = byte(start, 0);
    let ipv4 = first == 0x45;
    let protocol = if ipv4 {
        if byte(start, 6) & 0x3f != 0 || byte(start, 7) != 0 {
            return false;
        }
        byte(start, 9)
    } else if first >> 4 == 6 && start + 44 <= end {
        byte(start, 6)
    } else {
        return false;
    };
    let behind = if ipv4 { 20 } else { 40 };
    let Some([a, b, c, d]) = ports(start, behind, protocol) else {
        return false;
    };
    let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    flow.protocol = protocol;
    if ipv4 {
        (flow.local[10], flow.local[11]) = (0xff, 0xff);
        (flow.peer[10], flow.peer[11]) = (0xff, 0xff);
        let (local, peer) = if sent { (12, 16) } else { (16, 12) };
        flow.local[12..].copy_from_slice(&word(start, local));
        flow.peer[12..].copy_from_slice(&word(start, peer));
    } else {
        let (local, peer) = if sent { (8, 24) } else { (24, 8) };
        flow.local = address(start, local);
        flow.peer = address(start, peer);
    }
    if protocol == TCP || protocol == UDP {
        (flow.local_port, flow.peer_port) = if sent {
            (source, destination)
        } else {
            (destination, source)
        };
    } else if let Some([kind, _, _, _, high, low]) = octets::Packet(skb).at(behind as u32) {
        flow.kind = kind;
        if let (ICMP, 0 | 8) | (ICMPV6, 128 | 129) = (protocol, kind) {
            flow.local_port = u16::from_be_bytes([high, low]);
        }
    }
    true
}

#[inline(always)]
fn ports(start: usize, offset: usize, protocol: u8) -> Option<[u8; 4]> {
    match protocol {
        TCP | UDP => Some(word(start, offset)),
        ICMP | ICMPV6 => Some([0; 4]),
        _ => None,
    }
}

#[inline(always)]
fn byte(start: usize, offset: usize) -> u8 {
    // SAFETY: the caller compared `start + offset` with the packet's end, and
    // the verifier checks that it did.
    unsafe { *((start + offset) as *const u8) }
}

#[inline(always)]
fn word(start: usize, offset: usize) -> [u8; 4] {
    // SAFETY: as in `byte`; the array has no alignment.
    unsafe { *((start + offset) as *const [u8; 4]) }
}

#[inline(always)]
fn address(start: usize, offset: usize) -> Address {
    // SAFETY: as in `word`.
    unsafe { *((start + offset) as *const Address) }
}

/// Whether the packet stays inside the node.
#[inline(always)]
pub fn is_loopback(skb: *mut __sk_buff) -> bool {
    // SAFETY: as in `bounds`.
    unsafe { read_volatile(&raw const (*skb).ifindex) == LOOPBACK_DEVICE }
}

/// Whether it is counted as what stays inside the node: also what the kernel copied of
/// a packet to a group for members here (`dev_loopback_xmit`), which comes by the device
/// that the packet goes out by.
#[inline(always)]
pub fn stays(skb: *mut __sk_buff) -> bool {
    // SAFETY: as in `bounds`.
    is_loopback(skb) || unsafe { read_volatile(&raw const (*skb).pkt_type) } == PACKET_LOOPBACK
}

/// Counts a packet of `who` that was let through.
#[inline(always)]
pub fn count(skb: *mut __sk_buff, who: SliceId, sent: bool) {
    let (packets, bytes) = count_behind(skb, who, sent, 0);
    tally::add(skb, who, sent, packets, bytes);
}

/// Counts a frame of `who` that was let through, without its header.
#[inline(always)]
pub fn count_frame(skb: *mut __sk_buff, who: SliceId, packet: &Sent) {
    let (packets, bytes) = count_behind(skb, who, true, HEADER);
    tally::add_frame(skb, who, packet, packets, bytes);
}

/// Octets of the headers that each segment of a packet has again, of which the
/// packet as it is here has one: the device or the kernel divides it later, or has
/// joined it before. `start` is where its IP header is.
#[inline(never)]
fn headers(skb: *mut __sk_buff, start: u32) -> u64 {
    segment_headers(&octets::Packet(skb), start) as u64
}

/// Packets and bytes of what may be several that the kernel has as one, without the
/// `header` that each has before its IP header.
#[inline(always)]
pub fn amount(skb: *mut __sk_buff, header: u32) -> (u64, u64) {
    // SAFETY: as in `bounds`.
    let (length, segments) = unsafe {
        (
            read_volatile(&raw const (*skb).len),
            read_volatile(&raw const (*skb).gso_segs) as u64,
        )
    };
    let whole = length.wrapping_sub(header) as u64;
    if segments > 1 {
        (segments, whole + (segments - 1) * headers(skb, header))
    } else {
        (1, whole)
    }
}

/// Adds to what is counted of the owner as a whole; says how many packets and
/// bytes.
#[inline(always)]
fn count_behind(skb: *mut __sk_buff, who: SliceId, sent: bool, header: u32) -> (u64, u64) {
    let (packets, bytes) = amount(skb, header);
    let Some(row) = TRAFFIC.get_ptr_mut(who.index()) else {
        return (packets, bytes);
    };
    // SAFETY: the row is this CPU's.
    unsafe {
        // Atomic although the row is this CPU's: a task that sends can be
        // interrupted by the softirq that sends for the same slice.
        let (packets_row, bytes_row) = match (stays(skb), sent) {
            (false, true) => (&raw mut (*row).sent_packets, &raw mut (*row).sent_bytes),
            (false, false) => (
                &raw mut (*row).received_packets,
                &raw mut (*row).received_bytes,
            ),
            (true, true) => (
                &raw mut (*row).loopback_sent_packets,
                &raw mut (*row).loopback_sent_bytes,
            ),
            (true, false) => (
                &raw mut (*row).loopback_received_packets,
                &raw mut (*row).loopback_received_bytes,
            ),
        };
        atomic::fetch_add(packets_row, packets);
        atomic::fetch_add(bytes_row, bytes);
    }
    (packets, bytes)
}
