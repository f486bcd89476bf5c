//! What a program may send, with what it says of itself.

use super::super::{ICMP, ICMPV6, Sent, sent};
use super::write::*;
use crate::abi::{TCP, UDP};

fn expected(ipv4: bool, protocol: u8, kind: u8) -> Sent {
    let ports = protocol == TCP || protocol == UDP;
    Sent {
        protocol,
        kind,
        port: if ports { PORT } else { IDENTIFIER },
        peer_port: if ports { PEER_PORT } else { 0 },
        source: local(ipv4),
        destination: peer(ipv4),
    }
}

fn read(packet: &[u8]) -> Option<Sent> {
    sent(&packet, u32::try_from(packet.len()).unwrap())
}

#[test]
fn an_honest_packet_says_whose_it_is() {
    let tcp_with_options = [with(tcp(), 12, &[0x60]), vec![2, 4, 5, 0xb4]].concat();
    let tcp_with_data = [tcp(), b"GET / HTTP/1.0\r\n\r\n".to_vec()].concat();
    let large = udp(&[7; 1452]);
    for (name, packet, protocol, kind) in [
        ("a SYN", ip(true, TCP, &tcp()), TCP, 0),
        ("a SYN", ip(false, TCP, &tcp()), TCP, 0),
        ("TCP options", ip(true, TCP, &tcp_with_options), TCP, 0),
        ("TCP options", ip(false, TCP, &tcp_with_options), TCP, 0),
        ("TCP with data", ip(true, TCP, &tcp_with_data), TCP, 0),
        ("UDP without data", ip(true, UDP, &udp(b"")), UDP, 0),
        ("UDP without data", ip(false, UDP, &udp(b"")), UDP, 0),
        ("UDP with data", ip(true, UDP, &udp(b"data")), UDP, 0),
        ("UDP of a full frame", ip(false, UDP, &large), UDP, 0),
        ("echo", ip(true, ICMP, &message(8)), ICMP, 8),
        (
            "echo of 8 octets",
            ip(true, ICMP, &message(8)[..8]),
            ICMP,
            8,
        ),
        ("echo reply", ip(true, ICMP, &message(0)), ICMP, 0),
        ("timestamp", ip(true, ICMP, &message(13)), ICMP, 13),
        ("timestamp reply", ip(true, ICMP, &message(14)), ICMP, 14),
        ("information", ip(true, ICMP, &message(15)), ICMP, 15),
        ("information reply", ip(true, ICMP, &message(16)), ICMP, 16),
        ("address mask", ip(true, ICMP, &message(17)), ICMP, 17),
        ("address mask reply", ip(true, ICMP, &message(18)), ICMP, 18),
        ("echo", ip(false, ICMPV6, &message(128)), ICMPV6, 128),
        ("echo reply", ip(false, ICMPV6, &message(129)), ICMPV6, 129),
    ] {
        let ipv4 = packet[0] >> 4 == 4;
        assert_eq!(
            read(&packet),
            Some(expected(ipv4, protocol, kind)),
            "{name}"
        );
    }
}

#[test]
fn what_says_nothing_of_the_owner_may_be_anything() {
    let (four, six) = (ip(true, TCP, &tcp()), ip(false, TCP, &tcp()));
    for (name, packet) in [
        ("class of service", with(four.clone(), 1, &[0xff])),
        ("identification", with(four.clone(), 4, &[0, 0])),
        ("may be fragmented", with(four.clone(), 6, &[0, 0])),
        ("hops, for traceroute", with(four.clone(), 8, &[1])),
        ("wrong checksum", with(four.clone(), 10, &[0xde, 0xad])),
        ("padding of the frame", [four.clone(), vec![0; 6]].concat()),
        (
            "traffic class and label",
            with(six.clone(), 0, &[0x6f, 0xff, 0xff, 0xff]),
        ),
        ("hop limit", with(six.clone(), 7, &[1])),
        ("padding of the frame", [six.clone(), vec![0; 2]].concat()),
        ("all flags of TCP", with(four.clone(), 32, &[0x5f, 0xff])),
    ] {
        let ipv4 = packet[0] >> 4 == 4;
        assert_eq!(read(&packet), Some(expected(ipv4, TCP, 0)), "{name}");
    }
    // UDP may end before its packet does: what is behind it is nobody's data.
    let packet = with(ip(true, UDP, &udp(b"data")), 24, &[0, 8]);
    assert_eq!(read(&packet), Some(expected(true, UDP, 0)));
}

#[test]
fn ports_and_addresses_are_read_from_where_they_are() {
    let packet = with(
        ip(true, TCP, &tcp()),
        12,
        &[10, 1, 2, 3, 10, 4, 5, 6, 0, 80, 0xff, 0xfe],
    );
    let read = read(&packet).unwrap();
    assert_eq!((read.port, read.peer_port), (80, 0xfffe));
    assert_eq!(read.source, crate::abi::mapped([10, 1, 2, 3]));
    assert_eq!(read.destination, crate::abi::mapped([10, 4, 5, 6]));
}
