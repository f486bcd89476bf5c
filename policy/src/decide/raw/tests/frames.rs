//! The frames that a packet socket sends.

use super::super::{Device, ICMP, frame};
use super::write::*;
use crate::abi::{TCP, UDP};
use crate::verdict::Reason;

const DEVICE: Device = Device { address: STATION };
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
const ALL: [u8; 6] = [0xff; 6];

fn read(octets: &[u8]) -> Result<super::super::Sent, Reason> {
    frame(&octets, u32::try_from(octets.len()).unwrap(), &DEVICE)
}

fn tagged(kind: u16, tag: u16, rest: &[u8]) -> Vec<u8> {
    let mut octets = tag.to_be_bytes().to_vec();
    octets.extend(rest);
    ethernet(ROUTER, kind, &octets)
}

/// `packet` behind the type of its family, as it stands behind a tag.
fn typed(packet: &[u8]) -> Vec<u8> {
    let mut octets = ETHERNET_IPV4.to_be_bytes().to_vec();
    octets.extend(packet);
    octets
}

#[test]
fn an_honest_frame_is_its_packet() {
    for (name, packet) in honest() {
        let kind = if packet[0] >> 4 == 4 {
            ETHERNET_IPV4
        } else {
            ETHERNET_IPV6
        };
        let length = u32::try_from(packet.len()).unwrap();
        let alone = super::super::sent(&packet.as_slice(), length).unwrap();
        let mut octets = ethernet(ROUTER, kind, &packet);
        assert_eq!(read(&octets), Ok(alone), "{name}");
        octets.resize(octets.len().max(60), 0);
        assert_eq!(read(&octets), Ok(alone), "{name}, padded");
    }
}

#[test]
fn a_frame_of_lo_has_no_addresses() {
    let packet = ip(true, TCP, &tcp());
    let octets = with(ethernet([0; 6], ETHERNET_IPV4, &packet), 6, &[0; 6]);
    let length = u32::try_from(octets.len()).unwrap();
    let lo = Device { address: [0; 6] };
    assert!(frame(&octets.as_slice(), length, &lo).is_ok());
    assert_eq!(
        frame(&octets.as_slice(), length, &DEVICE),
        Err(Reason::Frame)
    );
}

#[test]
fn a_group_of_stations_gets_what_goes_to_a_group() {
    let one = ip(true, UDP, &udp(b"data"));
    let many = with(one.clone(), 16, &[224, 0, 0, 1]);
    let everybody = with(one.clone(), 16, &[255; 4]);
    let six = ip(false, UDP, &udp(b"data"));
    let many_6 = with(six.clone(), 24, &[0xff, 2]);
    for (name, destination, kind, packet, passes) in [
        ("one packet to a group", GROUP, ETHERNET_IPV4, &one, false),
        ("one packet to all", ALL, ETHERNET_IPV4, &one, false),
        (
            "one IPv6 packet to a group",
            GROUP,
            ETHERNET_IPV6,
            &six,
            false,
        ),
        ("one IPv6 packet to all", ALL, ETHERNET_IPV6, &six, false),
        ("a group's to the group", GROUP, ETHERNET_IPV4, &many, true),
        ("everybody's to all", ALL, ETHERNET_IPV4, &everybody, true),
        (
            "an IPv6 group's to the group",
            GROUP,
            ETHERNET_IPV6,
            &many_6,
            true,
        ),
        (
            "a group's to one station",
            ROUTER,
            ETHERNET_IPV4,
            &many,
            true,
        ),
    ] {
        let answer = read(&ethernet(destination, kind, packet));
        if passes {
            assert!(answer.is_ok(), "{name}");
        } else {
            assert_eq!(answer, Err(Reason::Frame), "{name}");
        }
    }
}

#[test]
fn a_frame_that_is_not_ipv4_or_ipv6_of_the_device_does_not_leave() {
    let (four, six) = (ip(true, TCP, &tcp()), ip(false, TCP, &tcp()));
    let forged = |address: [u8; 6]| with(ethernet(ROUTER, ETHERNET_IPV4, &four), 6, &address);
    let arp = [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 192, 0, 2, 254];
    let inner = tagged(0x8100, 6, &typed(&four))[12..].to_vec();
    for (name, octets) in [
        ("VLAN", tagged(0x8100, 5, &typed(&four))),
        ("VLAN 0", tagged(0x8100, 0, &typed(&four))),
        ("VLAN without a packet", ethernet(ROUTER, 0x8100, &[0, 5])),
        ("QinQ", tagged(0x88a8, 5, &inner)),
        ("old QinQ", tagged(0x9100, 5, &inner)),
        ("MPLS", tagged(0x8847, 5, &four)),
        ("PPPoE", tagged(0x8864, 0x1100, &four)),
        ("MACsec", tagged(0x88e5, 0, &four)),
        (
            "802.3 with LLC",
            ethernet(ROUTER, 46, &[&[0xaa, 0xaa, 3][..], &four].concat()),
        ),
        ("802.3 of 1500 octets", ethernet(ROUTER, 1500, &four)),
        (
            "spanning tree",
            ethernet([1, 0x80, 0xc2, 0, 0, 0], 38, &[0x42, 0x42, 3]),
        ),
        ("ARP", ethernet(ROUTER, 0x0806, &arp)),
        ("ARP to all", ethernet(ALL, 0x0806, &arp)),
        ("reverse ARP", ethernet(ALL, 0x8035, &arp)),
        (
            "LLDP",
            ethernet([1, 0x80, 0xc2, 0, 0, 14], 0x88cc, &[2, 7, 4]),
        ),
        (
            "802.1X",
            ethernet([1, 0x80, 0xc2, 0, 0, 3], 0x888e, &[2, 1, 0, 0]),
        ),
        (
            "pause",
            ethernet([1, 0x80, 0xc2, 0, 0, 1], 0x8808, &[0, 1, 0xff, 0xff]),
        ),
        ("wake on LAN", ethernet(ALL, 0x0842, &[0xff; 6])),
        ("batman", ethernet(ROUTER, 0x4305, &four)),
        ("type 0", ethernet(ROUTER, 0, &four)),
        ("type 0xffff", ethernet(ROUTER, 0xffff, &four)),
        (
            "type of IPv4 with its octets swapped",
            ethernet(ROUTER, 0x0008, &four),
        ),
        ("another sender", forged(ROUTER)),
        ("sender of zeros", forged([0; 6])),
        ("sender all ones", forged(ALL)),
        ("sender wrong in its last octet", forged([2, 0, 0, 0, 0, 2])),
        (
            "sender wrong in its first octet",
            forged([3, 0, 0, 0, 0, 1]),
        ),
        (
            "IPv6 in a frame of IPv4",
            ethernet(ROUTER, ETHERNET_IPV4, &six),
        ),
        (
            "IPv4 in a frame of IPv6",
            ethernet(ROUTER, ETHERNET_IPV6, &four),
        ),
    ] {
        assert_eq!(read(&octets), Err(Reason::Frame), "{name}");
    }
}

#[test]
fn a_frame_around_a_forged_packet_does_not_leave() {
    let four = ip(true, TCP, &tcp());
    for (name, packet) in [
        ("nothing", vec![]),
        ("fragment", with(four.clone(), 6, &[0x20, 0])),
        ("options", ipv4_with(&[1; 4], TCP, &tcp())),
        (
            "total length beyond the frame",
            with(four.clone(), 2, &[0, 41]),
        ),
        ("tunnel", ip(true, 4, &four)),
        ("ICMP cut short", ip(true, ICMP, &message(8)[..7])),
    ] {
        let octets = ethernet(ROUTER, ETHERNET_IPV4, &packet);
        assert_eq!(read(&octets), Err(Reason::Header), "{name}");
    }
    let hidden = ipv6(44, &fragment(TCP, 0, true, &tcp()));
    let octets = ethernet(ROUTER, ETHERNET_IPV6, &hidden);
    assert_eq!(read(&octets), Err(Reason::Header));
}

#[test]
fn a_runt_of_any_length_is_no_frame() {
    let octets = ethernet(ROUTER, ETHERNET_IPV4, &ip(true, TCP, &tcp()));
    for length in 0..octets.len() {
        let reason = if length < 14 {
            Reason::Frame
        } else {
            Reason::Header
        };
        assert_eq!(read(&octets[..length]), Err(reason), "{length}");
        // Octets behind what was sent do not count.
        let length = u32::try_from(length).unwrap();
        assert!(frame(&octets.as_slice(), length, &DEVICE).is_err());
    }
}
