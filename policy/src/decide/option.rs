//! May a slice set this socket option?

use crate::verdict::{Reason, Verdict, errno};

/// `SOL_SOCKET`.
pub const SOL_SOCKET: i32 = 1;
/// `SO_BROADCAST`.
const SO_BROADCAST: i32 = 6;
/// `IP_MULTICAST_LOOP`. (IPv6 judges a packet before it copies it.)
const IP_MULTICAST_LOOP: i32 = 34;
/// `SO_LINGER`.
pub const SO_LINGER: i32 = 13;
/// `SO_REUSEADDR`.
pub const SO_REUSEADDR: i32 = 2;
/// `SO_REUSEPORT`.
pub const SO_REUSEPORT: i32 = 15;

const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_IPV6: i32 = 41;
const IPV6_V6ONLY: i32 = 26;

/// Whether close would wait for the other end with these values of SO_LINGER. Who
/// closes last waits, and a slice may hand a socket to a process of the node and let
/// go of it: of a slice's sockets none waits.
#[inline(always)]
pub fn waits(on: i32, seconds: i32) -> bool {
    on != 0 && seconds != 0
}

/// What happens to a `setsockopt(2)`.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionRule {
    /// The kernel decides.
    Pass,
    /// SO_REUSEADDR: it is remembered and takes effect at bind, for UDP as
    /// [`at_bind`] says.
    AtBind,
    /// IPV6_V6ONLY: the kernel decides, and it is remembered.
    V6Only,
    /// The queue of errors: on a raw socket it succeeds and does nothing. The
    /// kernel puts errors for all owners there, and no hook sees them.
    Errors,
    /// On a raw socket it stays off: what the kernel copies of a packet for the
    /// node's own receivers has no socket, and no hook sees it.
    Copies,
    /// It is refused.
    Refuse,
}

/// Options that let a packet leave with an address the socket is not bound to,
/// or go to another destination than its header says: the options themselves
/// are refused so that the program hears of it; packets are checked as well.
const REFUSED: [(i32, i32); 13] = [
    (IPPROTO_IP, 5),    // IP_ROUTER_ALERT: takes packets that the node forwards
    (IPPROTO_IP, 4),    // IP_OPTIONS: source routes
    (IPPROTO_IP, 15),   // IP_FREEBIND, on IPv6 sockets too
    (IPPROTO_IP, 19),   // IP_TRANSPARENT
    (IPPROTO_TCP, 31),  // TCP_ULP: "smc" puts another family behind the socket
    (IPPROTO_IPV6, 5),  // IPV6_2292RTHDR
    (IPPROTO_IPV6, 6),  // IPV6_2292PKTOPTIONS
    (IPPROTO_IPV6, 22), // IPV6_ROUTER_ALERT
    // IPV6_FLOWLABEL_MGR: labels are leased to one owner of the network namespace,
    // and while one is leased nobody else there may send with labels of his own.
    (IPPROTO_IPV6, 32),
    (IPPROTO_IPV6, 54), // IPV6_HOPOPTS
    (IPPROTO_IPV6, 57), // IPV6_RTHDR
    (IPPROTO_IPV6, 75), // IPV6_TRANSPARENT
    (IPPROTO_IPV6, 78), // IPV6_FREEBIND
];

/// `MRT_INIT` and all that make a raw socket the node's multicast router
/// (linux/mroute.h, linux/mroute6.h): the kernel asks no capability for it, and what it
/// forwards then is nobody's.
const ROUTER_LOW: i32 = 200;
const ROUTER_HIGH: i32 = 219;

/// The rule for an option of a slice's IPv4 or IPv6 socket.
#[inline(always)]
pub fn rule(level: i32, name: i32) -> OptionRule {
    if level == SOL_SOCKET {
        return match name {
            SO_REUSEADDR => OptionRule::AtBind,
            SO_BROADCAST => OptionRule::Copies,
            _ => OptionRule::Pass,
        };
    }
    if level == IPPROTO_IP && name == IP_MULTICAST_LOOP {
        return OptionRule::Copies;
    }
    if level == IPPROTO_IPV6 && name == IPV6_V6ONLY {
        return OptionRule::V6Only;
    }
    // IP_RECVERR, IP_RECVERR_RFC4884; IPV6_RECVERR, IPV6_RECVERR_RFC4884.
    if matches!(
        (level, name),
        (IPPROTO_IP, 11 | 26) | (IPPROTO_IPV6, 25 | 31)
    ) {
        return OptionRule::Errors;
    }
    if (level == IPPROTO_IP || level == IPPROTO_IPV6) && matches!(name, ROUTER_LOW..=ROUTER_HIGH) {
        return OptionRule::Refuse;
    }
    let mut at = 0;
    while at < REFUSED.len() {
        if REFUSED[at].0 == level && REFUSED[at].1 == name {
            return OptionRule::Refuse;
        }
        at += 1;
    }
    OptionRule::Pass
}

/// What SO_REUSEADDR means when a slice's socket binds a port that it names.
///
/// The kernel gives a UDP port that one socket has with SO_REUSEADDR to any
/// other that has the option too, also when it picks the port itself, which no
/// hook sees; and a bind that fails leaves the option on. SO_REUSEPORT is the
/// same for sockets of one user, and every slice has user ids of its own.
#[inline(always)]
pub const fn at_bind(udp: bool) -> i32 {
    if udp { SO_REUSEPORT } else { SO_REUSEADDR }
}

/// The level of options that are not the kernel's but of the programs here.
pub const SOL_SLICE: i32 = 0x534c;
/// On a raw socket: the slice speaks TCP or UDP itself on the port in the
/// `sockaddr_in` or `sockaddr_in6` that is the value.
pub const RAW_PORT: i32 = 1;

/// `SOL_PACKET`.
const SOL_PACKET: i32 = 263;
/// `PACKET_RX_RING`.
const RX_RING: i32 = 5;

/// Most octets of a packet socket's ring: no cgroup is charged for them.
pub const RING_MOST: u64 = 4 << 20;

/// What happens to a `setsockopt(2)` on a packet socket of a slice.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketOption {
    /// The kernel decides.
    Pass,
    /// It succeeds and does nothing.
    Nothing,
    /// The kernel decides, if the ring is no larger than [`RING_MOST`].
    Ring,
    /// This error number, which libpcap takes for a kernel without socket
    /// filters: then it filters by itself what the socket's own, locked filter
    /// lets through.
    Answer(i32),
    /// It is refused.
    Refuse,
}

/// The rule for an option of a packet socket. Those of packet sockets
/// themselves are an allow-list: others send round the device's queue and hook
/// (PACKET_QDISC_BYPASS), let the device see what it should not
/// (PACKET_VNET_HDR), give packets to another slice's socket (PACKET_FANOUT) or
/// have a ring to send from.
#[inline(always)]
pub const fn packet_option(level: i32, name: i32) -> PacketOption {
    match (level, name) {
        (SOL_SOCKET, 26) => PacketOption::Answer(errno::ENOPROTOOPT), // SO_ATTACH_FILTER
        (SOL_SOCKET, 27) => PacketOption::Answer(errno::ENOENT),      // SO_DETACH_FILTER
        (SOL_PACKET, 1 | 2) => PacketOption::Nothing,                 // memberships
        (SOL_PACKET, RX_RING) => PacketOption::Ring,
        // AUXDATA, ORIGDEV, VERSION, RESERVE, TIMESTAMP, IGNORE_OUTGOING
        (SOL_PACKET, 8 | 9 | 10 | 12 | 17 | 23) => PacketOption::Pass,
        (SOL_PACKET, _) => PacketOption::Refuse,
        _ => PacketOption::Pass,
    }
}

/// May a ring have so many blocks of this size?
#[inline(always)]
pub fn ring(block_size: u32, blocks: u32) -> Verdict {
    Verdict::allow_if(
        block_size as u64 * blocks as u64 <= RING_MOST,
        Reason::Option,
    )
}

/// The verdict of a rule.
#[inline(always)]
pub fn verdict(rule: OptionRule) -> Verdict {
    Verdict::allow_if(!matches!(rule, OptionRule::Refuse), Reason::Option)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_change_addresses_are_refused() {
        for (level, name) in REFUSED {
            assert_eq!(verdict(rule(level, name)), Verdict::Deny(Reason::Option));
        }
    }

    #[test]
    fn nobody_becomes_the_nodes_multicast_router() {
        for level in [IPPROTO_IP, IPPROTO_IPV6] {
            for name in 200..=212 {
                assert_eq!(rule(level, name), OptionRule::Refuse, "{level} {name}");
            }
        }
        assert_eq!(rule(IPPROTO_IP, 34), OptionRule::Copies);
        assert_eq!(rule(SOL_SOCKET, 6), OptionRule::Copies);
        assert_eq!(rule(IPPROTO_IPV6, 19), OptionRule::Pass);
    }

    #[test]
    fn a_close_that_resets_is_none_that_waits() {
        assert!(waits(1, 30) && waits(-1, i32::MIN));
        assert!(!waits(1, 0) && !waits(0, 30));
    }

    #[test]
    fn packet_sockets_have_the_options_that_captures_need_and_no_others() {
        for (name, expected) in [
            (1, PacketOption::Nothing),
            (2, PacketOption::Nothing),
            (5, PacketOption::Ring),
            (8, PacketOption::Pass),
            (10, PacketOption::Pass),
            (13, PacketOption::Refuse), // TX_RING
            (15, PacketOption::Refuse), // VNET_HDR
            (18, PacketOption::Refuse), // FANOUT
            (20, PacketOption::Refuse), // QDISC_BYPASS
            (22, PacketOption::Refuse), // FANOUT_DATA
            (24, PacketOption::Refuse), // VNET_HDR_SZ
            (99, PacketOption::Refuse),
        ] {
            assert_eq!(packet_option(SOL_PACKET, name), expected, "{name}");
        }
        let answer = packet_option(SOL_SOCKET, 26);
        assert_eq!(answer, PacketOption::Answer(errno::ENOPROTOOPT));
        let answer = packet_option(SOL_SOCKET, 27);
        assert_eq!(answer, PacketOption::Answer(errno::ENOENT));
        assert_eq!(packet_option(SOL_SOCKET, 50), PacketOption::Pass);
    }

    #[test]
    fn a_ring_is_bounded_whatever_its_numbers_multiply_to() {
        assert!(ring(1 << 18, 16).is_allow());
        assert!(!ring(1 << 18, 17).is_allow());
        assert!(!ring(u32::MAX, u32::MAX).is_allow());
        assert!(!ring(1 << 16, 1 << 16).is_allow());
    }

    #[test]
    fn ordinary_options_pass_and_reuse_waits_for_bind() {
        assert_eq!(rule(SOL_SOCKET, SO_REUSEADDR), OptionRule::AtBind);
        for (level, name) in [
            (SOL_SOCKET, 15),
            (SOL_SOCKET, 25),
            (IPPROTO_IP, 8),
            (6, 1),
            (IPPROTO_IPV6, 16),
        ] {
            assert_eq!(rule(level, name), OptionRule::Pass, "{level} {name}");
        }
        assert_eq!(rule(IPPROTO_IPV6, IPV6_V6ONLY), OptionRule::V6Only);
        for (level, name) in [
            (IPPROTO_IP, 11),
            (IPPROTO_IP, 26),
            (IPPROTO_IPV6, 25),
            (IPPROTO_IPV6, 31),
        ] {
            assert_eq!(rule(level, name), OptionRule::Errors, "{level} {name}");
        }
        assert_eq!(
            (at_bind(true), at_bind(false)),
            (SO_REUSEPORT, SO_REUSEADDR)
        );
        // The same number at another level is another option.
        assert_eq!(rule(6, 15), OptionRule::Pass);
    }
}
