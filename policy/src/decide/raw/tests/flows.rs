//! Whose a packet is that came, or that is only looked at.

use super::super::{ICMP, ICMPV6, Way, flow};
use super::write::*;
use crate::abi::{FlowKey, TCP, UDP};

/// The flow of the packets here, seen from this node.
pub fn key(ipv4: bool, protocol: u8) -> FlowKey {
    let ports = protocol == TCP || protocol == UDP;
    FlowKey {
        protocol,
        reserved: 0,
        local_port: if ports { PORT } else { IDENTIFIER },
        peer_port: if ports { PEER_PORT } else { 0 },
        reserved_2: 0,
        local: local(ipv4),
        peer: peer(ipv4),
    }
}

/// `body` with the ports of its first header exchanged.
fn answered(body: &[u8]) -> Vec<u8> {
    [&body[2..4], &body[..2], &body[4..]].concat()
}

/// An IPv6 packet to this node.
fn came_6(next: u8, body: &[u8]) -> Vec<u8> {
    turned(ipv6(next, body))
}

#[test]
fn both_directions_of_a_flow_are_the_same_flow() {
    for ipv4 in [true, false] {
        for (protocol, body) in [(TCP, tcp()), (UDP, udp(b"data"))] {
            let expected = Some(key(ipv4, protocol));
            let sent = ip(ipv4, protocol, &body);
            assert_eq!(
                flow(&sent.as_slice(), Way::Out),
                expected,
                "{ipv4} {protocol}"
            );
            let came = turned(ip(ipv4, protocol, &answered(&body)));
            assert_eq!(
                flow(&came.as_slice(), Way::In),
                expected,
                "{ipv4} {protocol}"
            );
            assert_ne!(
                flow(&came.as_slice(), Way::Out),
                expected,
                "{ipv4} {protocol}"
            );
        }
    }
}

#[test]
fn requests_that_leave_and_answers_that_come_are_one_flow() {
    for kind in 0..=u8::MAX {
        for (ipv4, asks, answers) in [
            (
                true,
                [8, 13, 15, 17].contains(&kind),
                [0, 14, 16, 18].contains(&kind),
            ),
            (false, kind == 128, kind == 129),
        ] {
            let protocol = icmp_of(ipv4).0;
            let expected = Some(key(ipv4, protocol));
            let sent = ip(ipv4, protocol, &message(kind));
            let came = turned(sent.clone());
            assert_eq!(
                flow(&sent.as_slice(), Way::Out),
                expected.filter(|_| asks),
                "{kind}"
            );
            assert_eq!(
                flow(&came.as_slice(), Way::In),
                expected.filter(|_| answers),
                "{kind}"
            );
        }
    }
}

#[test]
fn each_family_has_an_icmp_of_its_own() {
    for way in [Way::Out, Way::In] {
        for kind in 0..=u8::MAX {
            let four = ip(true, ICMPV6, &message(kind));
            let six = ip(false, ICMP, &message(kind));
            assert_eq!(flow(&four.as_slice(), way), None, "{kind}");
            assert_eq!(flow(&six.as_slice(), way), None, "{kind}");
        }
    }
}

#[test]
fn options_of_ipv4_are_gone_over() {
    for words in 0..=10 {
        let options = vec![1; words * 4];
        let came = turned(ipv4_with(&options, UDP, &answered(&udp(b"data"))));
        assert_eq!(
            flow(&came.as_slice(), Way::In),
            Some(key(true, UDP)),
            "{words}"
        );
    }
    for words in 0..5 {
        let short = with(ip(true, UDP, &udp(b"data")), 0, &[0x40 + words]);
        assert_eq!(flow(&short.as_slice(), Way::Out), None, "{words}");
    }
}

#[test]
fn extension_headers_are_gone_over_up_to_four() {
    let segment = answered(&tcp());
    let expected = Some(key(false, TCP));
    for next in [0, 43, 60] {
        for more in [0, 1, 7, 255] {
            let came = came_6(next, &extension(TCP, more, &segment));
            assert_eq!(flow(&came.as_slice(), Way::In), expected, "{next} {more}");
        }
    }
    let mut body = segment;
    let mut next = TCP;
    for count in 1..=6 {
        body = extension(next, 0, &body);
        next = 60;
        let came = came_6(next, &body);
        let answer = flow(&came.as_slice(), Way::In);
        assert_eq!(answer, expected.filter(|_| count <= 4), "{count}");
    }
}

#[test]
fn the_extension_headers_that_hosts_send_first_are_gone_over_together() {
    let fragment = fragment(60, 0, true, &extension(UDP, 0, &answered(&udp(b"data"))));
    let came = came_6(0, &extension(43, 0, &extension(44, 0, &fragment)));
    assert_eq!(flow(&came.as_slice(), Way::In), Some(key(false, UDP)));
}

#[test]
fn a_header_that_hides_what_follows_tells_of_no_flow() {
    for next in [
        4, 41, 47, 50, 51, 59, 132, 135, 136, 139, 140, 253, 254, 255,
    ] {
        let six = came_6(next, &extension(TCP, 0, &answered(&tcp())));
        assert_eq!(flow(&six.as_slice(), Way::In), None, "{next}");
        let four = turned(ip(true, next, &answered(&tcp())));
        assert_eq!(flow(&four.as_slice(), Way::In), None, "{next}");
    }
    // What is an extension header in one family is none in the other.
    for next in [0, 43, 44, 60] {
        let four = turned(ip(true, next, &extension(TCP, 0, &answered(&tcp()))));
        assert_eq!(flow(&four.as_slice(), Way::In), None, "{next}");
    }
}

#[test]
fn the_first_fragment_has_the_ports_and_the_later_ones_have_none() {
    let body = answered(&udp(&[9; 64]));
    for (flags, tells) in [
        (0x2000_u16, true),
        (0x4000, true),
        (0x0001, false),
        (0x1000, false),
        (0x2001, false),
        (0x1fff, false),
        (0x3fff, false),
    ] {
        let came = with(turned(ip(true, UDP, &body)), 6, &flags.to_be_bytes());
        let expected = tells.then(|| key(true, UDP));
        assert_eq!(flow(&came.as_slice(), Way::In), expected, "{flags:#x}");
    }
    for (offset, more, tells) in [
        (0, true, true),
        (0, false, true),
        (1, true, false),
        (1, false, false),
        (0x1fff, false, false),
    ] {
        let came = came_6(44, &fragment(UDP, offset, more, &body));
        let expected = tells.then(|| key(false, UDP));
        assert_eq!(flow(&came.as_slice(), Way::In), expected, "{offset} {more}");
    }
}

#[test]
fn the_first_fragment_of_an_answer_has_its_identifier() {
    let came = with(turned(ip(true, ICMP, &message(0))), 6, &[0x20, 0]);
    assert_eq!(flow(&came.as_slice(), Way::In), Some(key(true, ICMP)));
    let came = came_6(44, &fragment(ICMPV6, 0, true, &message(129)));
    assert_eq!(flow(&came.as_slice(), Way::In), Some(key(false, ICMPV6)));
}

#[test]
fn ipv6_between_mapped_addresses_is_nobodys() {
    for offset in [8, 24] {
        let came = with(came_6(TCP, &answered(&tcp())), offset, &local(true));
        assert_eq!(flow(&came.as_slice(), Way::In), None);
    }
}

#[test]
fn a_packet_that_ends_before_its_ports_tells_of_no_flow() {
    for (name, packet) in honest() {
        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        let identified = if name.starts_with("echo") { 6 } else { 4 };
        for length in 0..packet.len() {
            let told = flow(&&packet[..length], Way::Out).is_some();
            assert_eq!(told, length >= header + identified, "{name}: {length}");
        }
    }
}

#[test]
fn what_is_no_ip_tells_of_no_flow() {
    for version in (0..16).filter(|version| ![4, 6].contains(version)) {
        let packet = with(ip(true, TCP, &tcp()), 0, &[version << 4 | 5]);
        for way in [Way::Out, Way::In] {
            assert_eq!(flow(&packet.as_slice(), way), None, "{version}");
        }
    }
}
