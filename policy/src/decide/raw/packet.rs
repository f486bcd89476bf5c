//! The headers of a packet, read out of its octets.

use crate::abi::{Address, FlowKey, TCP, UDP, mapped};
use crate::decide::address::is_ipv4;

/// `IPPROTO_ICMP`.
pub const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`.
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers that are gone over in a packet that came.
const EXTENSIONS: u32 = 4;

/// RST among the flags of TCP.
const RESET: u8 = 4;

const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
const TCP_HEADER: u32 = 20;
/// Of UDP and of ICMP.
const SHORT_HEADER: u32 = 8;

/// A packet whose octets can be read, from its IP header on.
pub trait Octets {
    /// `N` octets from `offset` on; `None` where the packet is shorter.
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Octets for &[u8] {
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}

#[inline(always)]
fn byte(octets: &impl Octets, offset: u32) -> Option<u8> {
    let [byte] = octets.at::<1>(offset)?;
    Some(byte)
}

#[inline(always)]
fn number(octets: &impl Octets, offset: u32) -> Option<u16> {
    Some(u16::from_be_bytes(octets.at(offset)?))
}

/// The headers of a packet on its way out that says in one way only what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// TCP, UDP, ICMP or ICMPv6.
    pub protocol: u8,
    /// Type of ICMP; 0 in the others.
    pub kind: u8,
    /// Source port, or identifier of an ICMP message.
    pub port: u16,
    /// Destination port; 0 in ICMP.
    pub peer_port: u16,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
}

/// Reads a packet of `length` octets on its way out. `None` where it does not
/// tell whose it is.
#[inline(always)]
pub fn sent(octets: &impl Octets, length: u32) -> Option<Sent> {
    let first = byte(octets, 0)?;
    let (protocol, body, end, source, destination) = if first == 0x45 {
        // Neither an offset nor "more"; the reserved bit neither.
        if number(octets, 6)? & 0xbfff != 0 {
            return None;
        }
        (
            byte(octets, 9)?,
            IPV4_HEADER,
            number(octets, 2)? as u32,
            mapped(octets.at(12)?),
            mapped(octets.at(16)?),
        )
    } else if first >> 4 == 6 {
        (
            byte(octets, 6)?,
            IPV6_HEADER,
            IPV6_HEADER + number(octets, 4)? as u32,
            octets.at(8)?,
            octets.at(24)?,
        )
    } else {
        return None;
    };
    let ipv4 = first == 0x45;
    // An IPv6 packet between IPv4 addresses would pass for theirs.
    if !ipv4 && (is_ipv4(&source) || is_ipv4(&destination)) {
        return None;
    }
    let least = match protocol {
        TCP => TCP_HEADER,
        UDP => SHORT_HEADER,
        ICMP if ipv4 => SHORT_HEADER,
        ICMPV6 if !ipv4 => SHORT_HEADER,
        _ => return None,
    };
    // What the header says is there, and all of the next header is in it.
    if end > length || body + least > end || !holds(octets, protocol, body, end)? {
        return None;
    }
    let (kind, port, peer_port) = if protocol == TCP || protocol == UDP {
        (0, number(octets, body)?, number(octets, body + 2)?)
    } else {
        (byte(octets, body)?, number(octets, body + 4)?, 0)
    };
    Some(Sent {
        protocol,
        kind,
        port,
        peer_port,
        source,
        destination,
    })
}

/// Whether what a TCP or UDP header at `body` says of its own length fits into
/// the packet, which ends at `end`.
#[inline(always)]
fn holds(octets: &impl Octets, protocol: u8, body: u32, end: u32) -> Option<bool> {
    Some(match protocol {
        TCP => {
            let header = (byte(octets, body + 12)? >> 4) as u32 * 4;
            header >= TCP_HEADER && body + header <= end
        }
        UDP => {
            let datagram = number(octets, body + 4)? as u32;
            datagram >= SHORT_HEADER && body + datagram <= end
        }
        _ => true,
    })
}

/// Octets of the IP and the transport header at `start`, which each segment of TCP
/// or UDP has; 0 of anything else, which is not divided.
#[inline(always)]
pub fn segment_headers(octets: &impl Octets, start: u32) -> u32 {
    let read = || {
        let (protocol, header) = if byte(octets, start)? >> 4 == 4 {
            let words = (byte(octets, start)? & 15) as u32;
            (byte(octets, start + 9)?, words * 4)
        } else {
            (byte(octets, start + 6)?, IPV6_HEADER)
        };
        match protocol {
            TCP => Some(header + (byte(octets, start + header + 12)? >> 4) as u32 * 4),
            UDP => Some(header + SHORT_HEADER),
            _ => None,
        }
    };
    read().unwrap_or(0)
}

impl Sent {
    /// The flow it belongs to.
    #[inline(always)]
    pub const fn flow(&self) -> FlowKey {
        FlowKey {
            protocol: self.protocol,
            reserved: 0,
            local_port: self.port,
            peer_port: self.peer_port,
            reserved_2: 0,
            local: self.source,
            peer: self.destination,
        }
    }
}

/// Where a packet's transport header is, and between whom it goes.
#[derive(Clone, Copy)]
struct Outer {
    protocol: u8,
    body: u32,
    source: Address,
    destination: Address,
}

/// The IP header at `at`; `None` for a fragment other than the first, for the
/// other family's ICMP, and for what is no IP.
#[inline(always)]
fn outer(octets: &impl Octets, at: u32) -> Option<Outer> {
    let first = byte(octets, at)?;
    if first >> 4 == 4 {
        let header = ((first & 15) as u32) * 4;
        let protocol = byte(octets, at + 9)?;
        if header < IPV4_HEADER || number(octets, at + 6)? & 0x1fff != 0 || protocol == ICMPV6 {
            return None;
        }
        return Some(Outer {
            protocol,
            body: at + header,
            source: mapped(octets.at(at + 12)?),
            destination: mapped(octets.at(at + 16)?),
        });
    }
    if first >> 4 != 6 {
        return None;
    }
    let (mut protocol, mut body) = (byte(octets, at + 6)?, at + IPV6_HEADER);
    let mut gone_over = 0;
    while gone_over < EXTENSIONS {
        let length = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                ((byte(octets, body + 1)? as u32) + 1) * 8
            }
            FRAGMENT if number(octets, body + 2)? & 0xfff8 == 0 => 8,
            FRAGMENT => return None,
            _ => break,
        };
        protocol = byte(octets, body)?;
        body += length;
        gone_over += 1;
    }
    let (source, destination) = (octets.at(at + 8)?, octets.at(at + 24)?);
    if is_ipv4(&source) || is_ipv4(&destination) || protocol == ICMP {
        return None;
    }
    Some(Outer {
        protocol,
        body,
        source,
        destination,
    })
}

/// Which end of a packet is on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The source: it is sent.
    Out,
    /// The destination: it came.
    In,
}

/// The flow that a packet belongs to, seen from this node. An error of ICMP
/// that came belongs to the flow of the packet that it quotes. `None` where the
/// packet tells of none.
#[inline(always)]
pub fn flow(octets: &impl Octets, way: Way) -> Option<FlowKey> {
    let packet = outer(octets, 0)?;
    match packet.protocol {
        TCP | UDP => ports(octets, &packet, way),
        ICMP | ICMPV6 => {
            let kind = byte(octets, packet.body)?;
            if is_error(packet.protocol, kind) {
                // What this node sends of them is the kernel's own.
                return match way {
                    Way::In => quoted(octets, &packet),
                    Way::Out => None,
                };
            }
            identifier(octets, &packet, way, kind)
        }
        _ => None,
    }
}

/// Where a packet goes, whatever is in it.
#[inline(always)]
pub fn destination(octets: &impl Octets) -> Option<Address> {
    match byte(octets, 0)? >> 4 {
        4 => Some(mapped(octets.at(16)?)),
        6 => octets.at(24).filter(|address| !is_ipv4(address)),
        _ => None,
    }
}

/// For which port of this node the kernel answers with this packet of its own
/// that nobody is there: a reset of TCP, or an error about a datagram. The
/// address is the one at which nobody is.
#[inline(always)]
pub fn answers_for(octets: &impl Octets) -> Option<(u8, u16, Address)> {
    let packet = outer(octets, 0)?;
    match packet.protocol {
        TCP if byte(octets, packet.body + 13)? & RESET != 0 => {
            Some((TCP, number(octets, packet.body)?, packet.source))
        }
        ICMP | ICMPV6 => {
            let nobody = match packet.protocol {
                ICMP => [3, 3],
                _ => [1, 4],
            };
            if octets.at::<2>(packet.body)? != nobody {
                return None;
            }
            let quoted = outer(octets, packet.body + SHORT_HEADER)?;
            if quoted.protocol == UDP {
                Some((UDP, number(octets, quoted.body + 2)?, quoted.destination))
            } else {
                None
            }
        }
        _ => None,
    }
}

/// The flow of a packet of this node's that an error quotes: what it was when
/// it left. Errors about errors tell of none, nor those about another family.
#[inline(always)]
fn quoted(octets: &impl Octets, error: &Outer) -> Option<FlowKey> {
    let packet = outer(octets, error.body + SHORT_HEADER)?;
    if is_ipv4(&packet.source) != is_ipv4(&error.source) {
        return None;
    }
    match packet.protocol {
        TCP | UDP => ports(octets, &packet, Way::Out),
        ICMP | ICMPV6 => {
            let kind = byte(octets, packet.body)?;
            identifier(octets, &packet, Way::Out, kind)
        }
        _ => None,
    }
}

#[inline(always)]
fn ports(octets: &impl Octets, packet: &Outer, way: Way) -> Option<FlowKey> {
    let (source, destination) = (
        number(octets, packet.body)?,
        number(octets, packet.body + 2)?,
    );
    Some(match way {
        Way::Out => key(packet, way, source, destination),
        Way::In => key(packet, way, destination, source),
    })
}

/// The flow of a message of ICMP that asks or answers. Requests that came and
/// answers that leave are the kernel's.
#[inline(always)]
fn identifier(octets: &impl Octets, packet: &Outer, way: Way, kind: u8) -> Option<FlowKey> {
    let asks = is_request(packet.protocol, kind);
    let slices = match way {
        Way::Out => asks,
        Way::In => !asks && is_echo(packet.protocol, kind),
    };
    if slices {
        Some(key(packet, way, number(octets, packet.body + 4)?, 0))
    } else {
        None
    }
}

#[inline(always)]
fn key(packet: &Outer, way: Way, local_port: u16, peer_port: u16) -> FlowKey {
    let (local, peer) = match way {
        Way::Out => (packet.source, packet.destination),
        Way::In => (packet.destination, packet.source),
    };
    FlowKey {
        protocol: packet.protocol,
        reserved: 0,
        local_port,
        peer_port,
        reserved_2: 0,
        local,
        peer,
    }
}

/// Destination unreachable, source quench, time exceeded, parameter problem
/// (RFC 792); ICMPv6: RFC 4443.
#[inline(always)]
const fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        ICMP => matches!(kind, 3 | 4 | 11 | 12),
        _ => matches!(kind, 1..=4),
    }
}

/// Messages with an identifier that go back and forth: echo, timestamp,
/// information, address mask (RFC 792, 950); ICMPv6: echo.
#[inline(always)]
pub const fn is_echo(protocol: u8, kind: u8) -> bool {
    match protocol {
        ICMP => matches!(kind, 0 | 8 | 13..=18),
        _ => matches!(kind, 128 | 129),
    }
}

/// Those of them that ask.
#[inline(always)]
const fn is_request(protocol: u8, kind: u8) -> bool {
    match protocol {
        ICMP => matches!(kind, 8 | 13 | 15 | 17),
        _ => kind == 128,
    }
}
