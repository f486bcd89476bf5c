//! What holds for every packet, and for whatever else is handed in.

use super::super::{
    Device, ICMP, ICMPV6, Octets, Sent, Way, flow, frame, icmp, segment_headers, sent,
};
use super::write::*;
use crate::abi::{FlowKey, TCP, UDP};
use proptest::prelude::*;

/// A packet of random fields, honest as it is made.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        Just((TCP, tcp())),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|data| (UDP, udp(&data))),
        any::<u8>().prop_map(|kind| (ICMP, message(kind))),
        any::<u8>().prop_map(|kind| (ICMPV6, message(kind))),
        Just((ICMP, message(8))),
        Just((ICMPV6, message(128))),
    ];
    (any::<bool>(), body, any::<u32>(), any::<[u8; 16]>()).prop_map(
        |(ipv4, (protocol, mut body), ports, address)| {
            if protocol == TCP || protocol == UDP {
                body = with(body, 0, &ports.to_be_bytes());
            }
            let packet = ip(ipv4, protocol, &body);
            if ipv4 {
                with(packet, 12, &address[..8])
            } else {
                with(packet, 8, &address)
            }
        },
    )
}

/// The same, with a few octets of its headers changed, or cut.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((0..64_usize, any::<u8>()), 0..4);
    (packet(), changes, 0..200_usize).prop_map(|(mut packet, changes, length)| {
        for (at, octet) in changes {
            if let Some(there) = packet.get_mut(at) {
                *there = octet;
            }
        }
        packet.truncate(length.max(1));
        packet
    })
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        damaged(),
        proptest::collection::vec(any::<u8>(), 0..120),
        damaged().prop_map(|packet| ip(true, ICMP, &error(11, &packet))),
        damaged().prop_map(|packet| ip(false, ICMPV6, &error(3, &packet))),
        (damaged(), any::<u8>(), 0..4_u8)
            .prop_map(|(packet, next, more)| ipv6(60, &extension(next, more, &packet))),
    ]
}

fn read(packet: &[u8]) -> Option<Sent> {
    sent(&packet, u32::try_from(packet.len()).unwrap())
}

/// What a program sent belongs to the flow that it names, but for answers:
/// those are taken for the kernel's.
fn expected(sent: &Sent) -> Option<FlowKey> {
    let asks = match sent.protocol {
        TCP | UDP => true,
        ICMP => [8, 13, 15, 17].contains(&sent.kind),
        _ => sent.kind == 128,
    };
    asks.then(|| sent.flow())
}

/// Octets that answer everywhere, to see that nothing counts on an end.
struct Endless(u8);

impl Octets for Endless {
    fn at<const N: usize>(&self, _: u32) -> Option<[u8; N]> {
        Some([self.0; N])
    }
}

#[test]
fn a_packet_without_end_does_not_get_lost() {
    for octet in 0..=u8::MAX {
        let octets = Endless(octet);
        for length in [0, 1, 40, 65_535, u32::MAX] {
            let _ = sent(&octets, length);
            let _ = frame(
                &octets,
                length,
                &Device {
                    address: [octet; 6],
                },
            );
        }
        let _ = (flow(&octets, Way::In), flow(&octets, Way::Out));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_read_nothing_panics_and_what_leaves_belongs_to_its_flow(
        packet in anything(), length in any::<u32>(), address in any::<[u8; 6]>(),
    ) {
        let octets = packet.as_slice();
        let _ = sent(&octets, length);
        let _ = frame(&octets, length, &Device { address });
        let _ = flow(&octets, Way::In);
        if let Some(sent) = read(octets) {
            prop_assert_eq!(flow(&octets, Way::Out), expected(&sent));
        }
    }

    #[test]
    fn an_honest_packet_leaves_unless_its_icmp_is_the_kernels(packet in packet()) {
        let ipv4 = packet[0] >> 4 == 4;
        let protocol = if ipv4 { packet[9] } else { packet[6] };
        let other = icmp_of(!ipv4).0;
        prop_assume!(ipv4 || !crate::decide::address::is_ipv4(packet[8..24].try_into().unwrap()));
        match read(&packet) {
            None => prop_assert_eq!(protocol, other),
            Some(sent) => {
                prop_assert_eq!(sent.protocol, protocol);
                if expected(&sent).is_some() {
                    prop_assert!(icmp(&sent).is_allow());
                }
            }
        }
    }

    #[test]
    fn an_error_that_comes_is_of_the_flow_that_its_quotation_left_with(packet in damaged()) {
        let ipv4 = packet[0] >> 4 == 4;
        let (protocol, kind) = if ipv4 { (ICMP, 11) } else { (ICMPV6, 3) };
        let error = turned(ip(ipv4, protocol, &error(kind, &packet)));
        prop_assert_eq!(flow(&error.as_slice(), Way::In), flow(&packet.as_slice(), Way::Out));
    }

    #[test]
    fn what_follows_the_packet_does_not_change_what_it_is(
        packet in anything(), padding in 1..60_usize,
    ) {
        if let Some(sent) = read(&packet) {
            let padded = [packet, vec![0xa5; padding]].concat();
            prop_assert_eq!(read(&padded), Some(sent));
        }
    }

    #[test]
    fn a_packet_in_a_frame_is_the_packet_alone(packet in anything()) {
        let kind = if packet.first().is_some_and(|first| first >> 4 == 4) {
            ETHERNET_IPV4
        } else {
            ETHERNET_IPV6
        };
        let octets = ethernet(ROUTER, kind, &packet);
        let length = u32::try_from(octets.len()).unwrap();
        let framed = frame(&octets.as_slice(), length, &Device { address: STATION });
        prop_assert_eq!(framed.ok(), read(&packet));
    }
}

#[test]
fn each_segment_has_the_headers_of_the_packet_that_it_is_of() {
    let data = [7; 100];
    for (packet, octets) in [
        (ip(true, UDP, &udp(&data)), 28),
        (ip(false, UDP, &udp(&data)), 48),
        (ip(true, TCP, &with(tcp(), 12, &[0x50])), 40),
        (ip(false, TCP, &with(tcp(), 12, &[0x80])), 72),
        (ipv4_with(&[1; 8], UDP, &udp(&data)), 36),
        (ip(true, ICMP, &message(8)), 0),
    ] {
        assert_eq!(segment_headers(&packet.as_slice(), 0), octets);
        let frame = [&[0; 14], packet.as_slice()].concat();
        assert_eq!(segment_headers(&frame.as_slice(), 14), octets);
        // One that is cut has none.
        assert_eq!(segment_headers(&&packet[..6], 0), 0);
    }
}
