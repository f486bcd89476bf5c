//! Packets as a tenant or the network would write them.

use super::super::{ICMP, ICMPV6};
use crate::abi::{Address, TCP, UDP, mapped};

/// This node, and a machine elsewhere.
pub const HERE: [u8; 4] = [192, 0, 2, 1];
pub const THERE: [u8; 4] = [198, 51, 100, 7];
pub const HERE_6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const THERE_6: Address = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

/// The ports and the identifier of the packets here.
pub const PORT: u16 = 40_000;
pub const PEER_PORT: u16 = 443;
pub const IDENTIFIER: u16 = 0xbeef;

pub fn local(ipv4: bool) -> Address {
    if ipv4 { mapped(HERE) } else { HERE_6 }
}

pub fn peer(ipv4: bool) -> Address {
    if ipv4 { mapped(THERE) } else { THERE_6 }
}

fn length(octets: usize) -> [u8; 2] {
    u16::try_from(octets).unwrap().to_be_bytes()
}

/// `packet` with `octets` written over it at `offset`.
pub fn with(mut packet: Vec<u8>, offset: usize, octets: &[u8]) -> Vec<u8> {
    packet[offset..offset + octets.len()].copy_from_slice(octets);
    packet
}

/// An IPv4 packet with these options.
pub fn ipv4_with(options: &[u8], protocol: u8, body: &[u8]) -> Vec<u8> {
    let words = u8::try_from(options.len() / 4).unwrap();
    let mut packet = vec![0x45 + words, 0];
    packet.extend(length(20 + options.len() + body.len()));
    packet.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(HERE);
    packet.extend(THERE);
    packet.extend(options);
    packet.extend(body);
    packet
}

/// An IPv6 packet.
pub fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length(body.len()));
    packet.extend([next, 64]);
    packet.extend(HERE_6);
    packet.extend(THERE_6);
    packet.extend(body);
    packet
}

/// A packet of one of the families.
pub fn ip(ipv4: bool, protocol: u8, body: &[u8]) -> Vec<u8> {
    if ipv4 {
        ipv4_with(&[], protocol, body)
    } else {
        ipv6(protocol, body)
    }
}

/// An IPv6 extension header of `8 * (1 + more)` octets, in front of `rest`.
pub fn extension(next: u8, more: u8, rest: &[u8]) -> Vec<u8> {
    let mut octets = vec![next, more, 1, 4, 0, 0, 0, 0];
    octets.resize(8 * (1 + usize::from(more)), 0);
    octets.extend(rest);
    octets
}

/// An IPv6 fragment header; `offset` counts eights of octets.
pub fn fragment(next: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let mut octets = vec![next, 0];
    octets.extend((offset << 3 | u16::from(more)).to_be_bytes());
    octets.extend([0, 0, 0, 9]);
    octets.extend(rest);
    octets
}

/// A TCP segment, a SYN.
pub fn tcp() -> Vec<u8> {
    let mut octets = PORT.to_be_bytes().to_vec();
    octets.extend(PEER_PORT.to_be_bytes());
    octets.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    octets
}

/// A UDP datagram.
pub fn udp(data: &[u8]) -> Vec<u8> {
    let mut octets = PORT.to_be_bytes().to_vec();
    octets.extend(PEER_PORT.to_be_bytes());
    octets.extend(length(8 + data.len()));
    octets.extend([0, 0]);
    octets.extend(data);
    octets
}

/// A message of either ICMP with an identifier.
pub fn message(kind: u8) -> Vec<u8> {
    let mut octets = vec![kind, 0, 0, 0];
    octets.extend(IDENTIFIER.to_be_bytes());
    octets.extend([0, 1]);
    octets.extend([0x55; 16]);
    octets
}

/// An error of either ICMP about `packet`.
pub fn error(kind: u8, packet: &[u8]) -> Vec<u8> {
    let mut octets = vec![kind, 1, 0, 0, 0, 0, 0, 0];
    octets.extend(packet);
    octets
}

/// The ICMP of a family, and its echo request.
pub fn icmp_of(ipv4: bool) -> (u8, u8) {
    if ipv4 { (ICMP, 8) } else { (ICMPV6, 128) }
}

/// One honest packet of each protocol in each family.
pub fn honest() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("TCP over IPv4", ip(true, TCP, &tcp())),
        ("UDP over IPv4", ip(true, UDP, &udp(b"data"))),
        ("echo over IPv4", ip(true, ICMP, &message(8))),
        ("TCP over IPv6", ip(false, TCP, &tcp())),
        ("UDP over IPv6", ip(false, UDP, &udp(b"data"))),
        ("echo over IPv6", ip(false, ICMPV6, &message(128))),
    ]
}

/// The same packet from the other end.
pub fn turned(mut packet: Vec<u8>) -> Vec<u8> {
    let (from, size) = if packet[0] >> 4 == 4 {
        (12, 4)
    } else {
        (8, 16)
    };
    let (left, right) = packet.split_at_mut(from + size);
    left[from..].swap_with_slice(&mut right[..size]);
    packet
}

/// Ethernet addresses of this node, and of its router.
pub const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 9];

pub const ETHERNET_IPV4: u16 = 0x0800;
pub const ETHERNET_IPV6: u16 = 0x86dd;

/// A frame of this node.
pub fn ethernet(destination: [u8; 6], kind: u16, packet: &[u8]) -> Vec<u8> {
    let mut octets = destination.to_vec();
    octets.extend(STATION);
    octets.extend(kind.to_be_bytes());
    octets.extend(packet);
    octets
}
