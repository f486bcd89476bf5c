//! Does the node's owner refuse this destination?

use crate::abi::{REFUSED_RANGES, RefusedPorts, TCP, UDP};
use crate::verdict::{Reason, Verdict};

/// Decides by the rules of the longest prefix that matched; `None` where no
/// prefix did. `port` is 0 where the protocol has none.
#[inline(always)]
pub fn refused(rules: Option<&RefusedPorts>, protocol: u8, port: u16) -> Verdict {
    let Some(rules) = rules else {
        return Verdict::Allow;
    };
    let has_ports = protocol == TCP || protocol == UDP;
    let mut at = 0;
    while at < REFUSED_RANGES {
        if at as u32 >= rules.count {
            break;
        }
        let rule = &rules.rules[at];
        let all_ports = rule.low == 0 && rule.high == u16::MAX;
        let protocol_fits = rule.protocol == 0 || rule.protocol == protocol;
        let port_fits = all_ports || has_ports && port >= rule.low && port <= rule.high;
        if protocol_fits && port_fits {
            return Verdict::Deny(Reason::Destination);
        }
        at += 1;
    }
    Verdict::Allow
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::RefusedRange;
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
        ports.count = ranges.len() as u32;
        ports
    }

    #[test]
    fn no_match_and_an_empty_rule_allow() {
        assert_eq!(refused(None, TCP, 25), Verdict::Allow);
        assert_eq!(refused(Some(&rules(&[])), TCP, 25), Verdict::Allow);
    }

    #[test]
    fn protocol_and_port_must_both_fit() {
        let mail = rules(&[(TCP, 25, 25), (TCP, 465, 465), (0, 6881, 6999)]);
        let denied = Verdict::Deny(Reason::Destination);
        assert_eq!(refused(Some(&mail), TCP, 25), denied);
        assert_eq!(refused(Some(&mail), UDP, 25), Verdict::Allow);
        assert_eq!(refused(Some(&mail), TCP, 26), Verdict::Allow);
        assert_eq!(refused(Some(&mail), UDP, 6900), denied);
        assert_eq!(refused(Some(&mail), 1, 0), Verdict::Allow);
    }

    #[test]
    fn all_ports_of_any_protocol_includes_icmp() {
        let all = rules(&[(0, 0, u16::MAX)]);
        for protocol in [1, TCP, UDP, 58] {
            assert_eq!(
                refused(Some(&all), protocol, 0),
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
            refused(Some(&many), TCP, 9),
            Verdict::Deny(Reason::Destination)
        );
        many.count = REFUSED_RANGES as u32 - 1;
        assert_eq!(refused(Some(&many), TCP, 9), Verdict::Allow);
    }
}
