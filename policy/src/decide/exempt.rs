//! Which network a packet goes to, for the networks that are exempt on a link.
//!
//! Who can make a packet look as if it went there goes round its cap. So this reads
//! strictly, as the rules for raw sockets do: what is not plainly a packet of a
//! protocol that slices speak, to the address that its header names, is not exempt.

use super::create::{AF_INET, AF_INET6};
use super::raw::{ICMP, ICMPV6, Octets};
use crate::abi::{Address, ExemptKey, TCP, UDP};

/// `ETH_P_IP` and `ETH_P_IPV6`.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// The next header of a fragment (RFC 8200, 4.5), before which no routing header is.
const FRAGMENT: u8 = 44;

/// Bits of a whole key.
const WHOLE: u32 = 32 + 128;

/// `SOCK_STREAM` and `SOCK_DGRAM`.
const STREAM: u32 = 1;
const DATAGRAM: u32 = 2;

/// Whether what a socket of this family and type sends goes where its header says. Who
/// writes headers itself (raw sockets, packet sockets) may send what names one address
/// to a neighbour that takes it for something else.
#[inline(always)]
pub const fn is_routed(family: u32, kind: u32) -> bool {
    (family == AF_INET as u32 || family == AF_INET6 as u32) && (kind == STREAM || kind == DATAGRAM)
}

/// What to look for in `EXEMPT`, for a packet of this link that the kernel sends as
/// `ethertype`. `None` where its header may not say where it goes: options of IPv4 and
/// extension headers of IPv6 (source routes), tunnels, other protocols.
#[inline(always)]
#[allow(
    clippy::cast_possible_truncation,
    reason = "a node has at most LINKS links"
)]
pub fn key(octets: &impl Octets, ethertype: u16, link: u32) -> Option<ExemptKey> {
    let (version, address) = match ethertype {
        IPV4 => (4, ipv4(octets)?),
        IPV6 => (6, ipv6(octets)?),
        _ => return None,
    };
    Some(ExemptKey {
        prefix_length: WHOLE,
        link: link as u8,
        version,
        reserved: 0,
        address,
    })
}

#[inline(always)]
fn ipv4(octets: &impl Octets) -> Option<Address> {
    let header: [u8; 20] = octets.at(0)?;
    if header[0] != 0x45 || !matches!(header[9], TCP | UDP | ICMP) {
        return None;
    }
    let mut address = [0; 16];
    (address[0], address[1]) = (header[16], header[17]);
    (address[2], address[3]) = (header[18], header[19]);
    Some(address)
}

#[inline(always)]
fn ipv6(octets: &impl Octets) -> Option<Address> {
    let [first] = octets.at(0)?;
    let [next] = octets.at(6)?;
    if first >> 4 != 6 || !matches!(next, TCP | UDP | ICMPV6 | FRAGMENT) {
        return None;
    }
    octets.at(24)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[16..20].copy_from_slice(&[198, 51, 100, 7]);
        packet
    }

    fn v6(next: u8) -> Vec<u8> {
        let mut packet = vec![0; 48];
        packet[0] = 0x60;
        packet[6] = next;
        packet[24..40].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        packet
    }

    fn of(packet: &[u8], ethertype: u16) -> Option<ExemptKey> {
        key(&packet, ethertype, 3)
    }

    #[test]
    fn a_plain_packet_goes_where_its_header_says() {
        for protocol in [TCP, UDP, ICMP] {
            let key = of(&v4(protocol), IPV4).unwrap();
            assert_eq!((key.link, key.version, key.prefix_length), (3, 4, 160));
            assert_eq!(key.address[..5], [198, 51, 100, 7, 0]);
        }
        for next in [TCP, UDP, ICMPV6, FRAGMENT] {
            let key = of(&v6(next), IPV6).unwrap();
            assert_eq!((key.version, key.address[15]), (6, 7));
        }
        // The second part of a datagram goes where the first does.
        let mut fragment = v4(UDP);
        fragment[7] = 185;
        assert!(of(&fragment, IPV4).is_some());
    }

    #[test]
    fn what_may_go_elsewhere_is_not_exempt() {
        // Options, among them source routes.
        let mut routed = v4(TCP);
        routed[0] = 0x46;
        assert_eq!(of(&routed, IPV4), None);
        // Tunnels, and what slices do not speak: IPIP, 6in4, GRE, ESP, SCTP.
        for protocol in [4, 41, 47, 50, 132, 0, 255] {
            assert_eq!(of(&v4(protocol), IPV4), None, "{protocol}");
        }
        // Extension headers, behind which a routing header may be; tunnels.
        for next in [0, 43, 60, 135, 4, 41, 47, 50, 51, 59] {
            assert_eq!(of(&v6(next), IPV6), None, "{next}");
        }
    }

    #[test]
    fn what_raw_and_packet_sockets_send_is_not_exempt() {
        for family in [AF_INET as u32, AF_INET6 as u32] {
            assert!(is_routed(family, STREAM) && is_routed(family, DATAGRAM));
            // SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET, SOCK_PACKET.
            for kind in [0, 3, 4, 5, 10] {
                assert!(!is_routed(family, kind), "{kind}");
            }
        }
        // AF_UNSPEC, AF_PACKET (also one whose frames the kernel makes), AF_XDP.
        for family in [0, 17, 44] {
            assert!(!is_routed(family, STREAM) && !is_routed(family, DATAGRAM));
        }
    }

    #[test]
    fn a_packet_is_of_the_family_that_the_frame_says() {
        // A tag of a VLAN whose first octets look like a header, and the other family.
        assert_eq!(of(&v4(UDP), 0x8100), None);
        assert_eq!(of(&v4(UDP), IPV6), None);
        assert_eq!(of(&v6(UDP), IPV4), None);
        for short in [0, 1, 19] {
            assert_eq!(of(&v4(UDP)[..short], IPV4), None);
        }
        for short in [0, 7, 39] {
            assert_eq!(of(&v6(UDP)[..short], IPV6), None);
        }
    }
}
