//! What may a slice have the kernel do that all share?

use crate::abi::NESTED;
use crate::verdict::{Reason, Verdict};

/// Most removed cgroups of a slice that the kernel still has: a socket that was made
/// in one of them lives, or the memory of a file that was read there. Each takes some
/// 10 KB, of which the slice is charged a third.
pub const DYING_MOST: u32 = 256;

/// May a task of a slice have the kernel load a module?
///
/// Whatever the node has not loaded itself is code of the kernel's that the owner
/// does not use: families of generic netlink (SMC, WireGuard, Open vSwitch with
/// connection tracking, IPVS), disciplines of terminals. Namespaces of the slice's
/// own (`nested`) need modules, and the owner has let it have them. `uid` is the
/// task's on the node, `flags` are of the slice's row.
#[inline(always)]
pub fn loads_module(uid: u32, flags: u32) -> Verdict {
    Verdict::allow_if(uid == 0 || flags & NESTED != 0, Reason::Family)
}

/// May a slice make one more cgroup with so many that are removed but not gone?
/// The kernel itself counts those that are there.
#[inline(always)]
pub fn divides(dying: u32) -> bool {
    dying < DYING_MOST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{CLAIM, LIVE, RAW};

    #[test]
    fn modules_are_loaded_for_the_node_and_for_slices_with_namespaces_of_their_own() {
        assert!(loads_module(0, LIVE).is_allow());
        assert!(loads_module(1_879_048_192, LIVE | NESTED).is_allow());
        let denied = Verdict::Deny(Reason::Family);
        assert_eq!(loads_module(1_879_048_192, LIVE | CLAIM | RAW), denied);
        // A slice that is gone.
        assert_eq!(loads_module(1_879_048_192, 0), denied);
    }

    #[test]
    fn cgroups_that_are_not_gone_are_bounded() {
        assert!(divides(0) && divides(DYING_MOST - 1));
        assert!(!divides(DYING_MOST) && !divides(u32::MAX));
    }
}
