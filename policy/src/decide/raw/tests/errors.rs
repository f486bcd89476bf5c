//! Errors of ICMP belong to the packet that they quote.

use super::super::{Way, flow};
use super::flows::key;
use super::write::*;
use crate::abi::TCP;

const ERRORS_4: [u8; 4] = [3, 4, 11, 12];
const ERRORS_6: [u8; 4] = [1, 2, 3, 4];

/// An error that came, about `packet`; from a router, for most do.
fn came(ipv4: bool, kind: u8, packet: &[u8]) -> Vec<u8> {
    let octets = turned(ip(ipv4, icmp_of(ipv4).0, &error(kind, packet)));
    if ipv4 {
        with(octets, 12, &[203, 0, 113, 1])
    } else {
        with(octets, 8, &[0x20, 1, 0xd, 0xb8, 0, 0xff])
    }
}

fn is_ipv4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

#[test]
fn an_error_belongs_to_the_flow_of_the_packet_that_it_quotes() {
    for (name, packet) in honest() {
        let ipv4 = is_ipv4(&packet);
        let protocol = if ipv4 { packet[9] } else { packet[6] };
        for kind in if ipv4 { ERRORS_4 } else { ERRORS_6 } {
            let octets = came(ipv4, kind, &packet);
            let expected = Some(key(ipv4, protocol));
            assert_eq!(
                flow(&octets.as_slice(), Way::In),
                expected,
                "{name}: {kind}"
            );
        }
    }
}

#[test]
fn messages_that_are_no_errors_quote_nothing() {
    for (name, packet) in honest() {
        let ipv4 = is_ipv4(&packet);
        for kind in 0..=u8::MAX {
            let answers = if ipv4 { vec![0, 14, 16, 18] } else { vec![129] };
            let errors = if ipv4 { ERRORS_4 } else { ERRORS_6 };
            if answers.contains(&kind) || errors.contains(&kind) {
                continue;
            }
            let octets = came(ipv4, kind, &packet);
            assert_eq!(flow(&octets.as_slice(), Way::In), None, "{name}: {kind}");
        }
    }
}

#[test]
fn errors_that_leave_are_the_kernels() {
    for (name, packet) in honest() {
        let ipv4 = is_ipv4(&packet);
        for kind in if ipv4 { ERRORS_4 } else { ERRORS_6 } {
            let octets = ip(ipv4, icmp_of(ipv4).0, &error(kind, &packet));
            assert_eq!(flow(&octets.as_slice(), Way::Out), None, "{name}: {kind}");
        }
    }
}

#[test]
fn a_quotation_cut_short_tells_as_long_as_it_has_the_ports() {
    for (name, packet) in honest() {
        let ipv4 = is_ipv4(&packet);
        let header = if ipv4 { 20 } else { 40 };
        let identified = if name.starts_with("echo") { 6 } else { 4 };
        let kind = if ipv4 { ERRORS_4[0] } else { ERRORS_6[0] };
        for length in 0..packet.len() {
            let octets = came(ipv4, kind, &packet[..length]);
            let told = flow(&octets.as_slice(), Way::In).is_some();
            assert_eq!(told, length >= header + identified, "{name}: {length}");
        }
    }
}

#[test]
fn an_error_about_an_error_tells_of_no_flow() {
    for (name, packet) in honest() {
        let ipv4 = is_ipv4(&packet);
        for (outer, inner) in if ipv4 {
            [(3, 11), (11, 3)]
        } else {
            [(1, 3), (3, 1)]
        } {
            let about = ip(ipv4, icmp_of(ipv4).0, &error(inner, &packet));
            let octets = came(ipv4, outer, &about);
            assert_eq!(flow(&octets.as_slice(), Way::In), None, "{name}");
        }
    }
}

#[test]
fn an_error_about_an_answer_is_the_kernels() {
    for (ipv4, answer, kind) in [(true, 0, 11), (true, 14, 3), (false, 129, 1)] {
        let about = ip(ipv4, icmp_of(ipv4).0, &message(answer));
        let octets = came(ipv4, kind, &about);
        assert_eq!(flow(&octets.as_slice(), Way::In), None, "{answer}");
    }
}

#[test]
fn an_error_quotes_packets_of_its_own_family() {
    let (four, six) = (ip(true, TCP, &tcp()), ip(false, TCP, &tcp()));
    assert_eq!(flow(&came(true, 3, &six).as_slice(), Way::In), None);
    assert_eq!(flow(&came(false, 1, &four).as_slice(), Way::In), None);
    // Nor is the other family's error one.
    for (ipv4, kind, packet) in [(true, 1, &four), (true, 3, &six), (false, 3, &six)] {
        let other = icmp_of(!ipv4).0;
        let octets = turned(ip(ipv4, other, &error(kind, packet)));
        assert_eq!(flow(&octets.as_slice(), Way::In), None, "{ipv4} {kind}");
    }
}

#[test]
fn a_quoted_packet_is_read_as_one_that_came() {
    let options = ipv4_with(&[1; 40], TCP, &tcp());
    let headers = ipv6(0, &extension(44, 0, &fragment(TCP, 0, true, &tcp())));
    let first = with(ip(true, TCP, &tcp()), 6, &[0x20, 0]);
    for (name, packet) in [
        ("options", options),
        ("headers", headers),
        ("fragment", first),
    ] {
        let ipv4 = is_ipv4(&packet);
        let octets = came(ipv4, 3, &packet);
        assert_eq!(
            flow(&octets.as_slice(), Way::In),
            Some(key(ipv4, TCP)),
            "{name}"
        );
    }
    let later = with(ip(true, TCP, &tcp()), 6, &[0, 1]);
    let later_6 = ipv6(44, &fragment(TCP, 1, false, &tcp()));
    let tunnel = ip(true, 4, &ip(true, TCP, &tcp()));
    for (name, packet) in [
        ("fragment", later),
        ("IPv6 fragment", later_6),
        ("tunnel", tunnel),
    ] {
        let octets = came(is_ipv4(&packet), 3, &packet);
        assert_eq!(flow(&octets.as_slice(), Way::In), None, "{name}");
    }
}

#[test]
fn an_error_may_have_options_and_extension_headers_itself() {
    let about = ip(true, TCP, &tcp());
    let octets = turned(ipv4_with(&[1; 12], 1, &error(11, &about)));
    assert_eq!(flow(&octets.as_slice(), Way::In), Some(key(true, TCP)));
    let about = ip(false, TCP, &tcp());
    let octets = turned(ipv6(60, &extension(58, 0, &error(3, &about))));
    assert_eq!(flow(&octets.as_slice(), Way::In), Some(key(false, TCP)));
}
