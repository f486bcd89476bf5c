//! May a slice set this socket option?

use crate::verdict::{Reason, Verdict};

/// `SOL_SOCKET`.
pub const SOL_SOCKET: i32 = 1;
/// `SO_REUSEADDR`.
pub const SO_REUSEADDR: i32 = 2;
/// `SO_REUSEPORT`.
pub const SO_REUSEPORT: i32 = 15;

const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_IPV6: i32 = 41;
const IPV6_V6ONLY: i32 = 26;

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
    /// It is refused.
    Refuse,
}

/// Options that let a packet leave with an address the socket is not bound to,
/// or go to another destination than its header says: the options themselves
/// are refused so that the program hears of it; packets are checked as well.
const REFUSED: [(i32, i32); 10] = [
    (IPPROTO_IP, 4),    // IP_OPTIONS: source routes
    (IPPROTO_IP, 15),   // IP_FREEBIND, on IPv6 sockets too
    (IPPROTO_IP, 19),   // IP_TRANSPARENT
    (IPPROTO_TCP, 31),  // TCP_ULP: "smc" puts another family behind the socket
    (IPPROTO_IPV6, 5),  // IPV6_2292RTHDR
    (IPPROTO_IPV6, 6),  // IPV6_2292PKTOPTIONS
    (IPPROTO_IPV6, 54), // IPV6_HOPOPTS
    (IPPROTO_IPV6, 57), // IPV6_RTHDR
    (IPPROTO_IPV6, 75), // IPV6_TRANSPARENT
    (IPPROTO_IPV6, 78), // IPV6_FREEBIND
];

/// The rule for an option of a slice's IPv4 or IPv6 socket.
#[inline(always)]
pub fn rule(level: i32, name: i32) -> OptionRule {
    if level == SOL_SOCKET {
        return if name == SO_REUSEADDR {
            OptionRule::AtBind
        } else {
            OptionRule::Pass
        };
    }
    if level == IPPROTO_IPV6 && name == IPV6_V6ONLY {
        return OptionRule::V6Only;
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
        assert_eq!(
            (at_bind(true), at_bind(false)),
            (SO_REUSEPORT, SO_REUSEADDR)
        );
        // The same number at another level is another option.
        assert_eq!(rule(6, 15), OptionRule::Pass);
    }
}
