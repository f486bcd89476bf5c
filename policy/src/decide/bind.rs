//! May the owner bind this port of the shared addresses?

use crate::abi::{
    CLAIM, Claim, RESERVED_FOUND, RESERVED_NODE, RESERVED_SLICE, Reserved, Settings, SliceEntry,
};
use crate::decide::claim;
use crate::ids::SliceId;
use crate::verdict::{Reason, Verdict};

/// First port that a program without privilege may bind on any Unix.
pub const FIRST_UNPRIVILEGED: u16 = 1024;

/// What a bind is decided on.
#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    /// Owner of the socket.
    pub who: SliceId,
    /// Its row; the node's limits are not looked at.
    pub slice: &'a SliceEntry,
    /// The port asked for or, after the bind, given. Not 0.
    pub port: u16,
    /// Whether the kernel picked the port (bind to port 0).
    pub picked: bool,
    /// Whether the kernel gave the port to a socket: another's lease gives way.
    pub given: bool,
    /// Who the port is kept for.
    pub reserved: Reserved,
    /// Who holds it.
    pub claim: Claim,
    /// What the slice has claimed.
    pub claimed: claim::Claimed,
    /// Monotonic clock.
    pub now_ns: u64,
    /// Of the node.
    pub settings: &'a Settings,
}

/// Decides a bind to a port of the shared addresses; both families have one
/// space of ports. Called before the bind with the port asked for and after it
/// with the port that the kernel gave, so that a race is decided by the claim.
#[inline(always)]
pub fn port(bind: &Bind) -> Verdict {
    let who = bind.who;
    if bind.port >= bind.settings.loopback_low && bind.port <= bind.settings.loopback_high {
        return Verdict::Deny(Reason::PortLoopback);
    }
    let kept_for_me = match bind.reserved.kind {
        RESERVED_SLICE if bind.reserved.owner.0 == who.0 => true,
        RESERVED_SLICE => return Verdict::Deny(Reason::PortReserved),
        RESERVED_NODE if who.is_slice() => return Verdict::Deny(Reason::PortNode),
        RESERVED_FOUND if who.is_slice() => return Verdict::Deny(Reason::PortClaimed),
        _ => false,
    };
    let held = bind.claim.held(bind.now_ns) && !(bind.given && bind.claim.leased());
    let mine = bind.claim.owner().0 == who.0;
    if held && !mine {
        return Verdict::Deny(Reason::PortClaimed);
    }
    if kept_for_me || !who.is_slice() {
        return Verdict::Allow;
    }
    if bind.port < FIRST_UNPRIVILEGED {
        return Verdict::Deny(Reason::PortPrivileged);
    }
    if !bind.picked && bind.slice.flags & CLAIM == 0 {
        return Verdict::Deny(Reason::ClaimForbidden);
    }
    if held {
        return Verdict::Allow;
    }
    claim::one_more(
        &bind.claimed,
        bind.slice.claims_max,
        bind.now_ns,
        bind.settings.linger_ns,
    )
}

/// Decides a bind to a port of the slice's own address. Every port there is the
/// slice's, but for those that policy keeps for others on the shared addresses:
/// the kernel would refuse the wildcard bind of their owner.
#[inline(always)]
pub fn own_port(who: SliceId, reserved: Reserved) -> Verdict {
    match reserved.kind {
        RESERVED_SLICE => Verdict::allow_if(reserved.owner.0 == who.0, Reason::PortReserved),
        RESERVED_NODE => Verdict::Deny(Reason::PortNode),
        _ => Verdict::Allow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::LIVE;
    use crate::decide::claim::Claimed;
    use zerocopy::FromZeros;

    const A: SliceId = SliceId(2);
    const B: SliceId = SliceId(3);
    const NODE: SliceId = SliceId::NODE;
    const NOW: u64 = 1_000_000;

    fn settings() -> Settings {
        Settings {
            loopback_low: 61000,
            loopback_high: 65499,
            ephemeral_low: 32768,
            ephemeral_high: 60999,
            linger_ns: 500,
            ..Settings::new_zeroed()
        }
    }

    struct Case {
        who: SliceId,
        port: u16,
        picked: bool,
        given: bool,
        flags: u32,
        reserved: Reserved,
        claim: Claim,
        claims: u64,
    }

    fn case(who: SliceId, port: u16) -> Case {
        Case {
            who,
            port,
            picked: false,
            given: false,
            flags: LIVE | CLAIM,
            reserved: Reserved::new_zeroed(),
            claim: Claim::new_zeroed(),
            claims: 0,
        }
    }

    impl Case {
        fn reserved(mut self, kind: u16, owner: SliceId) -> Case {
            self.reserved = Reserved {
                owner,
                kind,
                flags: 0,
            };
            self
        }
        fn held(mut self, owner: SliceId, sockets: u32, linger_until_ns: u64) -> Case {
            self.claim = Claim {
                holder: Claim::holder(owner, sockets),
                since_ns: 0,
                linger_until_ns,
            };
            self
        }
        fn verdict(&self) -> Verdict {
            let slice = SliceEntry {
                id: self.who,
                flags: self.flags,
                claims_max: 3,
                ..SliceEntry::new_zeroed()
            };
            port(&Bind {
                who: self.who,
                slice: &slice,
                port: self.port,
                picked: self.picked,
                given: self.given,
                reserved: self.reserved,
                claim: self.claim,
                claimed: Claimed {
                    ports: self.claims,
                    linger_debt_ns: 0,
                },
                now_ns: NOW,
                settings: &settings(),
            })
        }
    }

    #[test]
    fn a_reserved_port_is_its_slices_also_below_1024() {
        assert_eq!(
            case(A, 80).reserved(RESERVED_SLICE, A).verdict(),
            Verdict::Allow
        );
        let denied = Verdict::Deny(Reason::PortReserved);
        assert_eq!(case(B, 80).reserved(RESERVED_SLICE, A).verdict(), denied);
        assert_eq!(case(NODE, 80).reserved(RESERVED_SLICE, A).verdict(), denied);
    }

    #[test]
    fn the_nodes_reserved_port_is_eacces_and_a_held_one_eaddrinuse() {
        let verdict = case(A, 22).reserved(RESERVED_NODE, NODE).verdict();
        assert_eq!(verdict, Verdict::Deny(Reason::PortNode));
        assert_eq!(Reason::PortNode.errno(), crate::verdict::errno::EACCES);
        let verdict = case(A, 8080).held(NODE, 1, 0).verdict();
        assert_eq!(verdict, Verdict::Deny(Reason::PortClaimed));
        assert_eq!(
            Reason::PortClaimed.errno(),
            crate::verdict::errno::EADDRINUSE
        );
        assert_eq!(
            case(NODE, 22).reserved(RESERVED_NODE, NODE).verdict(),
            Verdict::Allow
        );
        let verdict = case(A, 8080).reserved(RESERVED_FOUND, NODE).verdict();
        assert_eq!(verdict, Verdict::Deny(Reason::PortClaimed));
    }

    #[test]
    fn a_privileged_port_that_is_nobodys_is_denied_to_slices() {
        assert_eq!(
            case(A, 1023).verdict(),
            Verdict::Deny(Reason::PortPrivileged)
        );
        assert_eq!(case(A, 1024).verdict(), Verdict::Allow);
        assert_eq!(case(NODE, 1023).verdict(), Verdict::Allow);
    }

    #[test]
    fn a_claim_lasts_as_long_as_sockets_or_the_linger() {
        let denied = Verdict::Deny(Reason::PortClaimed);
        assert_eq!(case(B, 8080).held(A, 1, 0).verdict(), denied);
        assert_eq!(case(NODE, 8080).held(A, 1, 0).verdict(), denied);
        assert_eq!(case(B, 8080).held(A, 0, NOW + 1).verdict(), denied);
        assert_eq!(case(B, 8080).held(A, 0, NOW).verdict(), Verdict::Allow);
        assert_eq!(case(A, 8080).held(A, 5, 0).verdict(), Verdict::Allow);
    }

    #[test]
    fn a_lease_gives_way_to_what_the_kernel_gives_and_to_nothing_else() {
        let denied = Verdict::Deny(Reason::PortClaimed);
        let mut leased = case(B, 40000).held(A, 0, NOW + 1);
        leased.claim.holder |= crate::abi::CLAIM_LEASED;
        (leased.picked, leased.given) = (true, true);
        assert_eq!(leased.verdict(), Verdict::Allow);
        leased.given = false;
        assert_eq!(leased.verdict(), denied);
        (leased.picked, leased.given) = (false, false);
        assert_eq!(leased.verdict(), denied);
        // A socket is there, or was.
        for mut taken in [leased, case(B, 40000).held(A, 0, NOW + 1)] {
            (taken.picked, taken.given) = (true, true);
            taken.claim.holder |= u64::from(taken.claim.leased());
            assert_eq!(taken.verdict(), denied);
        }
    }

    #[test]
    fn a_port_reserved_for_me_but_held_by_the_node_is_still_in_use() {
        let verdict = case(A, 80)
            .reserved(RESERVED_SLICE, A)
            .held(NODE, 1, 0)
            .verdict();
        assert_eq!(verdict, Verdict::Deny(Reason::PortClaimed));
    }

    #[test]
    fn the_loopback_range_is_nobodys() {
        for who in [A, NODE] {
            for port in [61000, 65499] {
                assert_eq!(
                    case(who, port).verdict(),
                    Verdict::Deny(Reason::PortLoopback)
                );
            }
            assert_eq!(case(who, 60999).verdict(), Verdict::Allow);
            assert_eq!(case(who, 65500).verdict(), Verdict::Allow);
        }
    }

    #[test]
    fn a_slice_without_claim_binds_reserved_and_picked_ports_only() {
        let mut without = case(A, 8080);
        without.flags = LIVE;
        assert_eq!(without.verdict(), Verdict::Deny(Reason::ClaimForbidden));
        without.picked = true;
        assert_eq!(without.verdict(), Verdict::Allow);
        let mut without = case(A, 8080).reserved(RESERVED_SLICE, A);
        without.flags = LIVE;
        assert_eq!(without.verdict(), Verdict::Allow);
    }

    #[test]
    fn the_limit_of_claims_counts_new_ports_only() {
        let mut full = case(A, 8080);
        full.claims = 3;
        assert_eq!(full.verdict(), Verdict::Deny(Reason::ClaimLimit));
        let mut again = case(A, 8080).held(A, 1, 0);
        again.claims = 3;
        assert_eq!(again.verdict(), Verdict::Allow);
    }

    #[test]
    fn on_its_own_address_a_slice_has_all_ports_but_those_kept_for_others() {
        let kept = |kind, owner| Reserved {
            owner,
            kind,
            flags: 0,
        };
        assert_eq!(own_port(A, Reserved::new_zeroed()), Verdict::Allow);
        assert_eq!(own_port(A, kept(RESERVED_SLICE, A)), Verdict::Allow);
        assert_eq!(own_port(A, kept(RESERVED_FOUND, NODE)), Verdict::Allow);
        assert_eq!(
            own_port(A, kept(RESERVED_SLICE, B)),
            Verdict::Deny(Reason::PortReserved)
        );
        assert_eq!(
            own_port(A, kept(RESERVED_NODE, NODE)),
            Verdict::Deny(Reason::PortNode)
        );
    }
}
