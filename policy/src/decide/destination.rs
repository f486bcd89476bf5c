//! Does the node's owner refuse this destination?

use crate::abi::{REFUSED_RANGES, RefusedPorts, RefusedRange};
use crate::verdict::{Reason, Verdict};

/// Decides by the rules of the longest prefix that matched; `None` where no
/// prefix did. `port` is `None` where the protocol has none, or where the peer
/// chose it and not the slice: then only rules for all ports count.
#[inline(always)]
pub fn refused(rules: Option<&RefusedPorts>, protocol: u8, port: Option<u16>) -> Verdict {
    let Some(rules) = rules else {
        return Verdict::Allow;
    };
    let (port, has_port) = match port {
        Some(port) => (port as i64, -1),
        None => (0, 0),
    };
    let (mut all_miss, mut at) = (-1, 0);
    while at < REFUSED_RANGES {
        let unused = (rules.count as i64 - 1 - at as i64) >> 63;
        all_miss &= unused | misses(&rules.rules[at], protocol, port, has_port);
        at += 1;
    }
    Verdict::allow_if(all_miss != 0, Reason::Destination)
}

/// 0 where the rule is for this protocol and port, else -1. Without branches:
/// the verifier would follow each of them in each round of the loop.
#[inline(always)]
fn misses(rule: &RefusedRange, protocol: u8, port: i64, has_port: i64) -> i64 {
    let (low, high) = (rule.low as i64, rule.high as i64);
    let other_protocol = nonzero(rule.protocol as i64) & nonzero((rule.protocol ^ protocol) as i64);
    let other_port = ((high - port) | (port - low)) >> 63;
    let not_all_ports = nonzero(low | (high ^ u16::MAX as i64));
    other_protocol | (other_port & has_port) | (not_all_ports & !has_port)
}

/// -1 where `value`, which is not negative, is not 0.
#[inline(always)]
fn nonzero(value: i64) -> i64 {
    -value >> 63
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{RefusedRange, TCP, UDP};
    use zerocopy::FromZeros;

    fn rules(ranges: &[(u8, u16, u16)]) -> RefusedPorts {
        let mut ports = RefusedPorts::new_zeroed();
        for (at, (protocol, low, high)) in ranges.iter().enumerate() {
            ports.rules[at] = RefusedRange {
                protocol: *protocol,
                low: *low,
                high: *high,
                ..RefusedRange::new_zeroed()
            };
        }
        ports.count = u32::try_from(ranges.len()).unwrap();
        ports
    }

    #[test]
    fn no_match_and_an_empty_rule_allow() {
        assert_eq!(refused(None, TCP, Some(25)), Verdict::Allow);
        assert_eq!(refused(Some(&rules(&[])), TCP, Some(25)), Verdict::Allow);
    }

    #[test]
    fn protocol_and_port_must_both_fit() {
        let mail = rules(&[(TCP, 25, 25), (TCP, 465, 465), (0, 6881, 6999)]);
        let denied = Verdict::Deny(Reason::Destination);
        assert_eq!(refused(Some(&mail), TCP, Some(25)), denied);
        assert_eq!(refused(Some(&mail), UDP, Some(25)), Verdict::Allow);
        assert_eq!(refused(Some(&mail), TCP, Some(26)), Verdict::Allow);
        assert_eq!(refused(Some(&mail), UDP, Some(6900)), denied);
        assert_eq!(refused(Some(&mail), 1, None), Verdict::Allow);
    }

    #[test]
    fn a_port_that_the_peer_chose_is_not_looked_at() {
        assert_eq!(
            refused(Some(&rules(&[(TCP, 6881, 6999)])), TCP, None),
            Verdict::Allow
        );
        let all = rules(&[(TCP, 0, u16::MAX)]);
        assert_eq!(
            refused(Some(&all), TCP, None),
            Verdict::Deny(Reason::Destination)
        );
    }

    #[test]
    fn all_ports_of_any_protocol_includes_icmp() {
        let all = rules(&[(0, 0, u16::MAX)]);
        for protocol in [1, TCP, UDP, 58] {
            assert_eq!(
                refused(Some(&all), protocol, None),
                Verdict::Deny(Reason::Destination)
            );
        }
    }

    #[test]
    fn the_last_rule_counts_and_those_behind_do_not() {
        let mut many = rules(&[(TCP, 1, 1); REFUSED_RANGES]);
        many.rules[REFUSED_RANGES - 1].low = 9;
        many.rules[REFUSED_RANGES - 1].high = 9;
        assert_eq!(
            refused(Some(&many), TCP, Some(9)),
            Verdict::Deny(Reason::Destination)
        );
        many.count -= 1;
        assert_eq!(refused(Some(&many), TCP, Some(9)), Verdict::Allow);
    }
}
