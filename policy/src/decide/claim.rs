//! How many ports may a slice hold?
//!
//! A port stays claimed for a while after its last socket went, as TCP may
//! still answer for it. Such ports must count too, or a slice could walk over
//! all ports and keep every one; but nobody is there to count them down when
//! their time is over. So they are counted as a debt in time, a virtual
//! scheduling clock as in the generic cell rate algorithm (ITU-T I.371, annex
//! A): each adds `linger / most`, and a slice whose debt reaches further ahead
//! than `linger` has `most` of them.

use crate::abi::Claim;
use crate::ids::SliceId;
use crate::verdict::{Reason, Verdict};

/// What a slice has claimed.
#[derive(Clone, Copy, Debug)]
pub struct Claimed {
    /// Ports with sockets.
    pub ports: u64,
    /// [`crate::abi::SliceState::linger_debt_ns`].
    pub linger_debt_ns: u64,
}

/// Decides whether a slice may claim one more port: at most `most` with
/// sockets, and at most `most` that linger.
#[inline(always)]
pub fn one_more(claimed: &Claimed, most: u32, now_ns: u64, linger_ns: u64) -> Verdict {
    let fits =
        claimed.ports < most as u64 && claimed.linger_debt_ns <= now_ns.saturating_add(linger_ns);
    Verdict::allow_if(fits, Reason::ClaimLimit)
}

/// The debt after one more port began to linger. `most` of 0 counts as 1.
#[inline(always)]
pub fn debt(linger_debt_ns: u64, most: u32, now_ns: u64, linger_ns: u64) -> u64 {
    let from = if linger_debt_ns > now_ns {
        linger_debt_ns
    } else {
        now_ns
    };
    let step = match most {
        0 => linger_ns,
        most => linger_ns / most as u64,
    };
    // At least one: a debt that does not grow would be no bound.
    from.saturating_add(if step == 0 { 1 } else { step })
}

/// Whether another than `who` holds a port for good: its sockets are there (not
/// only the linger) and a program of it named the port. A claim on a port that
/// the kernel picked may be out of date, as no hook sees a socket let go of it.
#[inline(always)]
pub fn is_anothers(who: SliceId, claim: Claim) -> bool {
    claim.sockets() > 0 && claim.named() && claim.owner().0 != who.0
}

/// May a packet for a port reach a socket of the slice `who` that does not hold
/// it?
#[inline(always)]
pub fn receive(who: SliceId, claim: Claim) -> Verdict {
    Verdict::allow_if(!is_anothers(who, claim), Reason::ReceiveForeign)
}

/// May a packet from a port leave a socket of the slice `who` that does not
/// hold it?
#[inline(always)]
pub fn send(who: SliceId, claim: Claim) -> Verdict {
    Verdict::allow_if(!is_anothers(who, claim), Reason::PortForeign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slice_that_walks_over_the_ports_is_stopped() {
        let (most, linger) = (10, 1_000);
        let mut claimed = Claimed {
            ports: 0,
            linger_debt_ns: 0,
        };
        let mut lingering = 0;
        while one_more(&claimed, most, 5, linger).is_allow() {
            claimed.linger_debt_ns = debt(claimed.linger_debt_ns, most, 5, linger);
            lingering += 1;
        }
        assert_eq!(lingering, 11);
        assert!(one_more(&claimed, most, 5 + linger, linger).is_allow());
    }

    #[test]
    fn a_packet_for_a_port_of_another_is_not_received() {
        let claim = |sockets| Claim {
            holder: Claim::holder(SliceId(2), sockets),
            since_ns: 0,
            linger_until_ns: u64::MAX,
        };
        let denied = Verdict::Deny(Reason::ReceiveForeign);
        assert_eq!(receive(SliceId(3), claim(1)), denied);
        assert_eq!(receive(SliceId(2), claim(1)), Verdict::Allow);
        assert_eq!(receive(SliceId(3), claim(0)), Verdict::Allow);
        assert_eq!(
            send(SliceId(3), claim(1)),
            Verdict::Deny(Reason::PortForeign)
        );
        let mut picked = claim(1);
        picked.holder &= !crate::abi::CLAIM_NAMED;
        assert_eq!(receive(SliceId(3), picked), Verdict::Allow);
        assert_eq!(send(SliceId(3), picked), Verdict::Allow);
    }

    proptest! {
        /// Whatever the times of the closes, no window of one linger holds more
        /// than twice `most` of them, and a slice that stays under the rate is
        /// never stopped.
        #[test]
        fn lingering_ports_are_bounded(
            gaps in proptest::collection::vec(0u64..400, 1..400),
            most in 1u32..40,
        ) {
            let linger = 1_000u64;
            let (mut now, mut state) = (0u64, Claimed { ports: 0, linger_debt_ns: 0 });
            let mut closes = Vec::new();
            for gap in gaps {
                now += gap;
                if one_more(&state, most, now, linger).is_allow() {
                    state.linger_debt_ns = debt(state.linger_debt_ns, most, now, linger);
                    closes.push(now);
                }
            }
            for (i, start) in closes.iter().enumerate() {
                let in_window = closes[i..].iter().take_while(|at| **at < start + linger).count();
                prop_assert!(in_window <= 2 * most as usize + 2, "{in_window} of {most}");
            }
        }
    }
}
