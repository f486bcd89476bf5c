//! May a slice set this socket option?

use crate::verdict::{Reason, Verdict};

/// `SOL_SOCKET`.
pub const SOL_SOCKET: i32 = 1;
/// `SO_REUSEADDR`.
pub const SO_REUSEADDR: i32 = 2;

const IPPROTO_IP: i32 = 0;
const IPPROTO_IPV6: i32 = 41;

/// What happens to a `setsockopt(2)`.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionRule {
    /// The kernel decides.
    Pass,
    /// It is remembered and takes effect at bind (see [`super::bind::reuse`]).
    AtBind,
    /// It is refused.
    Refuse,
}

/// Options that let a packet leave with an address the socket is not bound to,
/// or go to another destination than its header says: the options themselves
/// are refused so that the program hears of it; packets are checked as well.
const REFUSED: [(i32, i32); 9] = [
    (IPPROTO_IP, 4),    // IP_OPTIONS: source routes
    (IPPROTO_IP, 15),   // IP_FREEBIND, on IPv6 sockets too
    (IPPROTO_IP, 19),   // IP_TRANSPARENT
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
    let mut at = 0;
    while at < REFUSED.len() {
        if REFUSED[at].0 == level && REFUSED[at].1 == name {
            return OptionRule::Refuse;
        }
        at += 1;
    }
    OptionRule::Pass
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
            (IPPROTO_IPV6, 26),
        ] {
            assert_eq!(rule(level, name), OptionRule::Pass, "{level} {name}");
        }
        // The same number at another level is another option.
        assert_eq!(rule(6, 15), OptionRule::Pass);
    }
}
