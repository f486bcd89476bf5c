//! Packets that would have two readers see two things, or speak for the kernel.

use super::super::{ICMP, ICMPV6, Sent, icmp, sent};
use super::write::*;
use crate::abi::{TCP, UDP, mapped};
use crate::verdict::{Reason, Verdict};

/// What of the packet alone decides whether it may leave.
fn leaves(packet: &[u8]) -> Result<Sent, Reason> {
    let length = u32::try_from(packet.len()).unwrap();
    let read = sent(&packet, length).ok_or(Reason::Header)?;
    match icmp(&read) {
        Verdict::Allow => Ok(read),
        Verdict::Deny(reason) => Err(reason),
    }
}

fn tcp4() -> Vec<u8> {
    ip(true, TCP, &tcp())
}

fn tcp6() -> Vec<u8> {
    ip(false, TCP, &tcp())
}

fn udp4() -> Vec<u8> {
    ip(true, UDP, &udp(b"data"))
}

fn udp6() -> Vec<u8> {
    ip(false, UDP, &udp(b"data"))
}

/// Lengths, versions and fragments that an IPv4 header may lie about.
fn ipv4() -> Vec<(&'static str, Vec<u8>)> {
    let longest = ipv4_with(&[1; 40], TCP, &tcp());
    vec![
        ("first fragment", with(tcp4(), 6, &[0x20, 0])),
        ("middle fragment", with(tcp4(), 6, &[0x20, 1])),
        ("last fragment", with(tcp4(), 6, &[0, 1])),
        (
            "fragment at the last offset",
            with(tcp4(), 6, &[0x1f, 0xff]),
        ),
        ("fragment that must not be one", with(tcp4(), 6, &[0x60, 0])),
        (
            "fragment that overwrites ports",
            with(udp4(), 6, &[0, 0x10]),
        ),
        ("reserved bit", with(tcp4(), 6, &[0x80, 0])),
        ("header of 0 octets", with(tcp4(), 0, &[0x40])),
        ("header of 4 octets", with(tcp4(), 0, &[0x41])),
        ("header of 16 octets", with(tcp4(), 0, &[0x44])),
        ("header longer than the packet", with(tcp4(), 0, &[0x4f])),
        ("header that swallows the ports", with(tcp4(), 0, &[0x4a])),
        ("header of 60 octets", longest),
        ("total length 0", with(tcp4(), 2, &[0, 0])),
        (
            "total length of less than a header",
            with(tcp4(), 2, &[0, 19]),
        ),
        (
            "total length of the header alone",
            with(tcp4(), 2, &[0, 20]),
        ),
        (
            "total length without the last octet of TCP",
            with(tcp4(), 2, &[0, 39]),
        ),
        (
            "total length without the last octet of UDP",
            with(udp4(), 2, &[0, 27]),
        ),
        (
            "total length without the last octet of ICMP",
            with(ip(true, ICMP, &message(8)), 2, &[0, 27]),
        ),
        ("total length beyond the packet", with(tcp4(), 2, &[0, 41])),
        ("total length at its most", with(tcp4(), 2, &[0xff, 0xff])),
        ("version 0", with(tcp4(), 0, &[0x05])),
        ("version 5", with(tcp4(), 0, &[0x55])),
        ("version 6 on an IPv4 header", with(tcp4(), 0, &[0x65])),
        ("version 15", with(tcp4(), 0, &[0xf5])),
        ("TCP header of 0 octets", with(tcp4(), 32, &[0x00])),
        ("TCP header of 16 octets", with(tcp4(), 32, &[0x40])),
        ("TCP options beyond the packet", with(tcp4(), 32, &[0x60])),
        ("UDP length 0", with(udp4(), 24, &[0, 0])),
        (
            "UDP length of less than its header",
            with(udp4(), 24, &[0, 7]),
        ),
        ("UDP length beyond the packet", with(udp4(), 24, &[0, 13])),
        ("UDP length at its most", with(udp4(), 24, &[0xff, 0xff])),
        ("ICMPv6 over IPv4", ip(true, ICMPV6, &message(128))),
    ]
}

/// Each option of IPv4 by its number; the length that belongs to it.
fn options() -> Vec<(&'static str, Vec<u8>)> {
    [
        ("end of options", vec![0, 0, 0, 0]),
        ("no operation", vec![1, 1, 1, 1]),
        ("record route", vec![7, 7, 4, 0, 0, 0, 0, 0]),
        ("timestamp", vec![68, 8, 5, 0, 0, 0, 0, 0]),
        ("traceroute", vec![82, 12, 0, 1, 0, 0, 0, 0, 192, 0, 2, 1]),
        ("security", vec![130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("loose source route", vec![131, 7, 4, 203, 0, 113, 5, 0]),
        ("extended security", vec![133, 4, 0, 0]),
        ("commercial security", vec![134, 6, 0, 0, 0, 1, 0, 0]),
        ("stream identifier", vec![136, 4, 0, 1]),
        ("strict source route", vec![137, 7, 4, 203, 0, 113, 5, 0]),
        ("router alert", vec![148, 4, 0, 0]),
        ("option without its length", vec![131, 0, 0, 0]),
        ("option beyond the header", vec![7, 40, 4, 0]),
    ]
    .map(|(name, octets)| (name, ipv4_with(&octets, TCP, &tcp())))
    .into()
}

/// What hides another header behind the one of IPv6, or lies about its length.
fn ipv6_forgeries() -> Vec<(&'static str, Vec<u8>)> {
    let (tcp, here) = (tcp(), mapped(HERE));
    let jumbogram = extension(TCP, 0, &tcp);
    vec![
        ("hop-by-hop options", ipv6(0, &extension(TCP, 0, &tcp))),
        ("routing header", ipv6(43, &extension(TCP, 1, &tcp))),
        ("first fragment", ipv6(44, &fragment(TCP, 0, true, &tcp))),
        ("middle fragment", ipv6(44, &fragment(TCP, 1, true, &tcp))),
        ("last fragment", ipv6(44, &fragment(TCP, 1, false, &tcp))),
        ("atomic fragment", ipv6(44, &fragment(TCP, 0, false, &tcp))),
        ("ESP", ipv6(50, &[0; 24])),
        ("authentication header", ipv6(51, &extension(TCP, 2, &tcp))),
        ("no next header", ipv6(59, &tcp)),
        ("destination options", ipv6(60, &extension(TCP, 0, &tcp))),
        ("mobility header", ipv6(135, &extension(TCP, 0, &tcp))),
        ("host identity", ipv6(139, &extension(TCP, 0, &tcp))),
        ("shim6", ipv6(140, &extension(TCP, 0, &tcp))),
        ("experimental header", ipv6(253, &extension(TCP, 0, &tcp))),
        (
            "other experimental header",
            ipv6(254, &extension(TCP, 0, &tcp)),
        ),
        ("reserved next header", ipv6(255, &tcp)),
        (
            "two extension headers",
            ipv6(0, &extension(60, 0, &extension(TCP, 0, &tcp))),
        ),
        ("jumbogram", with(ipv6(0, &jumbogram), 4, &[0, 0])),
        ("payload length 0", with(tcp6(), 4, &[0, 0])),
        (
            "payload without the last octet of TCP",
            with(tcp6(), 4, &[0, 19]),
        ),
        (
            "payload without the last octet of UDP",
            with(udp6(), 4, &[0, 7]),
        ),
        (
            "payload without the last octet of ICMPv6",
            with(ip(false, ICMPV6, &message(128)), 4, &[0, 7]),
        ),
        ("payload beyond the packet", with(tcp6(), 4, &[0, 21])),
        ("payload at its most", with(tcp6(), 4, &[0xff, 0xff])),
        ("version 4 on an IPv6 header", with(tcp6(), 0, &[0x40])),
        ("version 7", with(tcp6(), 0, &[0x70])),
        ("mapped source", with(tcp6(), 8, &here)),
        ("mapped destination", with(tcp6(), 24, &here)),
        ("mapped addresses", with(with(tcp6(), 8, &here), 24, &here)),
        ("TCP header of 16 octets", with(tcp6(), 52, &[0x40])),
        ("TCP options beyond the packet", with(tcp6(), 52, &[0xf0])),
        ("UDP length 0", with(udp6(), 44, &[0, 0])),
        ("UDP length beyond the packet", with(udp6(), 44, &[0, 13])),
        ("ICMP over IPv6", ip(false, ICMP, &message(8))),
    ]
}

/// Packets within packets, and protocols whose ports nobody owns.
fn protocols() -> Vec<(&'static str, Vec<u8>)> {
    let lite = udp(b"data");
    vec![
        ("IPv4 in IPv4", ip(true, 4, &tcp4())),
        ("IPv6 in IPv4", ip(true, 41, &tcp6())),
        ("IPv4 in IPv6", ip(false, 4, &tcp4())),
        ("IPv6 in IPv6", ip(false, 41, &tcp6())),
        (
            "GRE in IPv4",
            ip(true, 47, &[&[0, 0, 8, 0][..], &tcp4()].concat()),
        ),
        (
            "GRE in IPv6",
            ip(false, 47, &[&[0, 0, 0x86, 0xdd][..], &tcp6()].concat()),
        ),
        ("IGMP", ip(true, 2, &[0x16, 0, 0, 0, 224, 0, 0, 9])),
        ("ESP over IPv4", ip(true, 50, &[0; 24])),
        (
            "authentication header over IPv4",
            ip(true, 51, &extension(TCP, 4, &tcp())),
        ),
        ("OSPF", ip(true, 89, &[2, 1, 0, 44])),
        ("PIM", ip(true, 103, &[0x20, 0, 0, 0])),
        ("VRRP", ip(true, 112, &[0x31, 1, 100, 1, 0, 1, 0, 0])),
        ("DCCP", ip(true, 33, &tcp())),
        ("SCTP over IPv4", ip(true, 132, &tcp())),
        ("SCTP over IPv6", ip(false, 132, &tcp())),
        ("UDP-Lite over IPv4", ip(true, 136, &lite)),
        ("UDP-Lite over IPv6", ip(false, 136, &lite)),
        ("MPLS in IPv4", ip(true, 137, &tcp4())),
        (
            "Ethernet in IPv4",
            ip(true, 97, &[&[0x30, 0][..], &tcp4()].concat()),
        ),
        ("L2TP", ip(true, 115, &tcp())),
        ("raw IPv4", ip(true, 255, &tcp())),
        (
            "hop-by-hop over IPv4",
            ip(true, 0, &extension(TCP, 0, &tcp())),
        ),
        ("empty IPv4", ip(true, TCP, &[])),
        ("empty IPv6", ip(false, UDP, &[])),
        ("ports alone", ip(true, TCP, &tcp()[..4])),
        ("ports alone, UDP", ip(true, UDP, &udp(b"")[..4])),
        ("an identifier alone", ip(true, ICMP, &message(8)[..6])),
    ]
}

#[test]
fn a_packet_that_does_not_tell_whose_it_is_does_not_leave() {
    let mut count = 0;
    for (family, table) in [
        ("IPv4", ipv4()),
        ("option of IPv4", options()),
        ("IPv6", ipv6_forgeries()),
        ("protocol", protocols()),
    ] {
        for (name, packet) in table {
            assert_eq!(leaves(&packet), Err(Reason::Header), "{family}: {name}");
            count += 1;
        }
    }
    assert!(count >= 60, "{count} forgeries");
}

#[test]
fn a_runt_of_any_length_does_not_leave() {
    for (name, packet) in honest() {
        // Echo requests keep their first 8 octets, UDP its header of 8.
        let least = if packet[0] >> 4 == 4 { 20 } else { 40 }
            + if name.starts_with("TCP") { 20 } else { 8 };
        for length in 0..packet.len() {
            assert_eq!(
                leaves(&packet[..length]),
                Err(Reason::Header),
                "{name}: {length}"
            );
        }
        // The same with lengths that are true.
        for length in 0..least {
            let mut runt = packet[..length].to_vec();
            if packet[0] >> 4 == 4 && length >= 4 {
                runt = with(runt, 2, &u16::try_from(length).unwrap().to_be_bytes());
            } else if length >= 40 {
                runt = with(runt, 4, &u16::try_from(length - 40).unwrap().to_be_bytes());
            }
            assert_eq!(
                leaves(&runt),
                Err(Reason::Header),
                "{name}: {length}, told so"
            );
        }
    }
}

#[test]
fn octets_that_are_said_to_be_there_and_are_not_are_no_packet() {
    for (name, packet) in honest() {
        let length = u32::try_from(packet.len()).unwrap();
        let octets = &packet[..20];
        assert_eq!(sent(&octets, length), None, "{name}");
    }
}

#[test]
fn no_protocol_but_tcp_udp_and_the_familys_icmp_leaves() {
    for ipv4 in [true, false] {
        let (own, request) = icmp_of(ipv4);
        for protocol in 0..=u8::MAX {
            let body = match protocol {
                TCP => tcp(),
                UDP => udp(b"data"),
                _ => message(request),
            };
            let passes = protocol == TCP || protocol == UDP || protocol == own;
            let packet = ip(ipv4, protocol, &body);
            assert_eq!(leaves(&packet).is_ok(), passes, "{ipv4}: {protocol}");
        }
    }
}

#[test]
fn icmp_leaves_where_it_asks_and_answers_with_an_identifier() {
    for kind in 0..=u8::MAX {
        for code in [0, 1, 255] {
            for (ipv4, passes) in [
                (true, [0, 8, 13, 14, 15, 16, 17, 18].contains(&kind)),
                (false, [128, 129].contains(&kind)),
            ] {
                let packet = ip(ipv4, icmp_of(ipv4).0, &with(message(kind), 1, &[code]));
                match leaves(&packet) {
                    Ok(sent) => assert!(passes && sent.kind == kind && sent.port == IDENTIFIER),
                    Err(reason) => assert!(!passes && reason == Reason::IcmpType, "{kind}"),
                }
            }
        }
    }
}
