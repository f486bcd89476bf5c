//! Packets that the other parser's library writes, whole and damaged.

use etherparse::PacketBuilder;
use policy::abi::{TCP, UDP, mapped};
use policy::decide::raw::{Device, ICMP, ICMPV6, Sent, frame, sent};
use proptest::prelude::*;

use crate::judge::judge;

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The fields of a packet that is to be written.
#[derive(Clone, Debug)]
struct Fields {
    ipv4: bool,
    transport: Transport,
    source: [u8; 16],
    destination: [u8; 16],
    ports: (u16, u16),
    data: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Transport {
    Tcp,
    Udp,
    Request,
    Reply,
}

fn fields() -> impl Strategy<Value = Fields> {
    (
        any::<bool>(),
        prop_oneof![
            Just(Transport::Tcp),
            Just(Transport::Udp),
            Just(Transport::Request),
            Just(Transport::Reply),
        ],
        any::<([u8; 16], [u8; 16])>(),
        any::<(u16, u16)>(),
        proptest::collection::vec(any::<u8>(), 0..50),
    )
        .prop_map(
            |(ipv4, transport, (mut source, mut destination), ports, data)| {
                // Neither mapped nor groups: those have rules of their own.
                source[0] = 0x20;
                destination[0] = 0x20;
                Fields {
                    ipv4,
                    transport,
                    source,
                    destination,
                    ports,
                    data,
                }
            },
        )
}

fn four(address: [u8; 16]) -> [u8; 4] {
    [address[0], address[1], address[2], address[3]]
}

/// A frame with the packet, as the library writes it.
fn written(fields: &Fields) -> Vec<u8> {
    let (source, destination) = (fields.source, fields.destination);
    let ethernet = PacketBuilder::ethernet2(STATION, [2, 0, 0, 0, 0, 9]);
    let ip = if fields.ipv4 {
        ethernet.ipv4(four(source), four(destination), 64)
    } else {
        ethernet.ipv6(source, destination, 64)
    };
    let (port, peer_port) = fields.ports;
    let (data, mut octets) = (fields.data.as_slice(), Vec::new());
    match (fields.transport, fields.ipv4) {
        (Transport::Tcp, _) => ip.tcp(port, peer_port, 1, 1024).write(&mut octets, data),
        (Transport::Udp, _) => ip.udp(port, peer_port).write(&mut octets, data),
        (Transport::Request, true) => ip.icmpv4_echo_request(port, 1).write(&mut octets, data),
        (Transport::Reply, true) => ip.icmpv4_echo_reply(port, 1).write(&mut octets, data),
        (Transport::Request, false) => ip.icmpv6_echo_request(port, 1).write(&mut octets, data),
        (Transport::Reply, false) => ip.icmpv6_echo_reply(port, 1).write(&mut octets, data),
    }
    .unwrap();
    octets
}

fn expected(fields: &Fields) -> Sent {
    let (protocol, kind) = match (fields.transport, fields.ipv4) {
        (Transport::Tcp, _) => (TCP, 0),
        (Transport::Udp, _) => (UDP, 0),
        (Transport::Request, true) => (ICMP, 8),
        (Transport::Reply, true) => (ICMP, 0),
        (Transport::Request, false) => (ICMPV6, 128),
        (Transport::Reply, false) => (ICMPV6, 129),
    };
    let address = |address| {
        if fields.ipv4 {
            mapped(four(address))
        } else {
            address
        }
    };
    let ports = protocol == TCP || protocol == UDP;
    Sent {
        protocol,
        kind,
        port: fields.ports.0,
        peer_port: if ports { fields.ports.1 } else { 0 },
        source: address(fields.source),
        destination: address(fields.destination),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_the_other_library_writes_is_read_as_it_was_meant(fields in fields()) {
        let octets = written(&fields);
        let length = u32::try_from(octets.len()).unwrap();
        let device = Device { address: STATION };
        prop_assert_eq!(frame(&octets.as_slice(), length, &device), Ok(expected(&fields)));
        prop_assert_eq!(sent(&&octets[14..], length - 14), Some(expected(&fields)));
    }

    #[test]
    fn both_parsers_agree_on_what_it_becomes(
        fields in fields(),
        changes in proptest::collection::vec((0..80_usize, any::<u8>()), 0..4),
        cut in 0..160_usize,
    ) {
        let mut octets = written(&fields);
        octets.truncate(cut.max(1));
        for (at, octet) in changes {
            if let Some(there) = octets.get_mut(at) {
                *there = octet;
            }
        }
        judge(&octets);
        judge(octets.get(14..).unwrap_or_default());
    }

    #[test]
    fn both_parsers_agree_on_whatever_else(octets in proptest::collection::vec(any::<u8>(), 0..120)) {
        judge(&octets);
        for first in [0x45, 0x46, 0x60] {
            let octets = [&[first][..], &octets].concat();
            judge(&octets);
        }
    }
}
