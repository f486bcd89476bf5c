//! The function that the fuzz target and the tests share.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    Ethernet2Slice, IcmpEchoHeader, Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type,
    IpPayloadSlice, IpSlice, Ipv4Slice, Ipv6Slice, TcpSlice, UdpSlice, ether_type, ip_number,
};
use policy::abi::{Address, FlowKey, TCP, UDP, mapped};
use policy::decide::raw::{Device, ICMP, ICMPV6, Sent, Way, flow, frame, sent};
use policy::verdict::Reason;

/// Reads the octets as a packet and as a frame, and panics where the other
/// parser reads something else.
pub fn judge(octets: &[u8]) {
    let other = IpSlice::from_slice(octets).ok();
    packet(octets, other.as_ref().map_or(Other::Nothing, told));
    looked_at(octets, other.as_ref());
    framed(octets);
}

/// What the other parser makes of a packet.
#[derive(PartialEq, Debug)]
enum Other {
    /// No packet that may leave: none at all, or one with more than an owner.
    Nothing,
    /// One that says in one way only what it is.
    Packet(Sent),
    /// A timestamp message with another length than its 20 octets: not the
    /// owner's question, and left to who gets it.
    Timestamp,
}

fn length(octets: &[u8]) -> u32 {
    u32::try_from(octets.len()).unwrap_or(u32::MAX)
}

fn packet(octets: &[u8], other: Other) {
    let ours = sent(&octets, length(octets));
    match other {
        Other::Nothing => assert_eq!(ours, None, "it leaves"),
        Other::Packet(packet) => assert_eq!(ours, Some(packet), "it is another"),
        Other::Timestamp => assert!(ours.is_none_or(|packet| packet.protocol == ICMP)),
    }
    let Some(packet) = ours else {
        return;
    };
    let asks = match packet.protocol {
        TCP | UDP => true,
        ICMP => matches!(packet.kind, 8 | 13 | 15 | 17),
        _ => packet.kind == 128,
    };
    let expected = asks.then(|| packet.flow());
    assert_eq!(flow(&octets, Way::Out), expected, "it leaves as another's");
}

fn told(ip: &IpSlice) -> Other {
    match ip {
        IpSlice::Ipv4(ip) => told_4(ip),
        IpSlice::Ipv6(ip) => told_6(ip),
    }
}

fn told_4(ip: &Ipv4Slice) -> Other {
    let header = ip.header();
    // The other parser does not look at the reserved bit.
    let reserved = header.slice()[6] & 0x80 != 0;
    if !header.options().is_empty() || ip.extensions().auth.is_some() || reserved {
        return Other::Nothing;
    }
    transport(
        ip.payload(),
        mapped(header.source()),
        mapped(header.destination()),
        true,
    )
}

fn told_6(ip: &Ipv6Slice) -> Other {
    let header = ip.header();
    let mapped = |address: Ipv6Addr| address.to_ipv4_mapped().is_some();
    // It takes a length of 0 for "to the end", and mapped addresses for any.
    if !ip.extensions().is_empty()
        || header.payload_length() == 0
        || mapped(header.source_addr())
        || mapped(header.destination_addr())
    {
        return Other::Nothing;
    }
    transport(ip.payload(), header.source(), header.destination(), false)
}

fn transport(payload: &IpPayloadSlice, source: Address, destination: Address, ipv4: bool) -> Other {
    if payload.fragmented {
        return Other::Nothing;
    }
    let packet = |protocol, kind, port, peer_port| {
        Other::Packet(Sent {
            protocol,
            kind,
            port,
            peer_port,
            source,
            destination,
        })
    };
    let octets = payload.payload;
    match payload.ip_number {
        ip_number::TCP => TcpSlice::from_slice(octets).map_or(Other::Nothing, |tcp| {
            packet(TCP, 0, tcp.source_port(), tcp.destination_port())
        }),
        // A length of 0 is "to the end" here too.
        ip_number::UDP => match UdpSlice::from_slice(octets) {
            Ok(udp) if udp.length() != 0 => {
                packet(UDP, 0, udp.source_port(), udp.destination_port())
            }
            _ => Other::Nothing,
        },
        ip_number::ICMP if ipv4 => match Icmpv4Slice::from_slice(octets) {
            Ok(icmp) => packet(ICMP, icmp.type_u8(), identifier(&icmp), 0),
            Err(_) if matches!(octets, [13 | 14, ..]) && octets.len() >= 8 => Other::Timestamp,
            Err(_) => Other::Nothing,
        },
        ip_number::IPV6_ICMP if !ipv4 => Icmpv6Slice::from_slice(octets)
            .map_or(Other::Nothing, |icmp| {
                packet(ICMPV6, icmp.type_u8(), identifier_6(&icmp), 0)
            }),
        _ => Other::Nothing,
    }
}

/// Of types that it does not know by name, the octets in an identifier's place.
fn identifier(icmp: &Icmpv4Slice) -> u16 {
    match icmp.icmp_type() {
        Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo) => echo.id,
        Icmpv4Type::TimestampRequest(times) | Icmpv4Type::TimestampReply(times) => times.id,
        _ => IcmpEchoHeader::from_bytes(icmp.bytes5to8()).id,
    }
}

fn identifier_6(icmp: &Icmpv6Slice) -> u16 {
    match icmp.icmp_type() {
        Icmpv6Type::EchoRequest(echo) | Icmpv6Type::EchoReply(echo) => echo.id,
        _ => IcmpEchoHeader::from_bytes(icmp.bytes5to8()).id,
    }
}

/// A packet that is looked at only: options and extension headers are gone over
/// by both. The other parser reads strictly and knows more extension headers;
/// where both tell of a flow, it is the same one.
fn looked_at(octets: &[u8], other: Option<&IpSlice>) {
    let (out, came) = (flow(&octets, Way::Out), flow(&octets, Way::In));
    let Some((ip, payload)) = other.map(|ip| (ip, ip.payload())) else {
        return;
    };
    if payload.fragmented {
        return;
    }
    let (protocol, port, peer_port) = match payload.ip_number {
        ip_number::TCP => match TcpSlice::from_slice(payload.payload) {
            Ok(tcp) => (TCP, tcp.source_port(), tcp.destination_port()),
            Err(_) => return,
        },
        ip_number::UDP => match UdpSlice::from_slice(payload.payload) {
            Ok(udp) => (UDP, udp.source_port(), udp.destination_port()),
            Err(_) => return,
        },
        _ => return,
    };
    let (local, peer) = match ip {
        IpSlice::Ipv4(ip) => (
            mapped(ip.header().source()),
            mapped(ip.header().destination()),
        ),
        IpSlice::Ipv6(ip) => (ip.header().source(), ip.header().destination()),
    };
    let expected = FlowKey {
        protocol,
        reserved: 0,
        local_port: port,
        peer_port,
        reserved_2: 0,
        local,
        peer,
    };
    let turned = FlowKey {
        local_port: peer_port,
        peer_port: port,
        local: peer,
        peer: local,
        ..expected
    };
    assert!(
        out.is_none_or(|flow| flow == expected),
        "{out:?}, not {expected:?}"
    );
    assert!(
        came.is_none_or(|flow| flow == turned),
        "{came:?}, not {turned:?}"
    );
    // With options of IPv4 alone there is nothing to be of two minds about.
    if matches!(ip, IpSlice::Ipv4(ip) if ip.extensions().auth.is_none()) {
        assert!(out.is_some() && came.is_some());
    }
}

fn framed(octets: &[u8]) {
    let Ok(ethernet) = Ethernet2Slice::from_slice_without_fcs(octets) else {
        let device = Device { address: [0; 6] };
        assert_eq!(frame(&octets, length(octets), &device), Err(Reason::Frame));
        return;
    };
    let [first, rest @ ..] = ethernet.source();
    let foreign = Device {
        address: [first ^ 4, rest[0], rest[1], rest[2], rest[3], rest[4]],
    };
    assert_eq!(frame(&octets, length(octets), &foreign), Err(Reason::Frame));

    let device = Device {
        address: ethernet.source(),
    };
    let ours = frame(&octets, length(octets), &device);
    let payload = ethernet.payload_slice();
    let other = match ethernet.ether_type() {
        ether_type::IPV4 => Ipv4Slice::from_slice(payload).map_or(Other::Nothing, |ip| told_4(&ip)),
        ether_type::IPV6 => Ipv6Slice::from_slice(payload).map_or(Other::Nothing, |ip| told_6(&ip)),
        _ => return assert_eq!(ours, Err(Reason::Frame)),
    };
    match other {
        Other::Nothing => assert!(ours.is_err(), "it leaves"),
        Other::Packet(packet) if to_many(&ethernet) && !is_group(&packet.destination) => {
            assert_eq!(ours, Err(Reason::Frame));
        }
        Other::Packet(packet) => assert_eq!(ours, Ok(packet), "it is another"),
        Other::Timestamp => assert!(ours.is_err() || ours.is_ok_and(|it| it.protocol == ICMP)),
    }
}

fn to_many(ethernet: &Ethernet2Slice) -> bool {
    ethernet.destination()[0] & 1 == 1
}

fn is_group(address: &Address) -> bool {
    let ipv6 = Ipv6Addr::from(*address);
    ipv6.to_ipv4_mapped()
        .map_or(ipv6.is_multicast(), |ipv4: Ipv4Addr| {
            ipv4.is_multicast() || ipv4.is_broadcast()
        })
}
