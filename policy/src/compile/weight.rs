//! CPU floors and shares as weights of cgroups.
//!
//! The kernel knows weights only. A weight in proportion to what a slice gets when all want
//! everything (its floor and its part of the rest) guarantees the floor: with fewer slices active
//! each part only grows.

/// Lowest and highest `cpu.weight`.
const LOWEST: u64 = 1;
const HIGHEST: u64 = 10_000;
/// The kernel's default weight of a cgroup.
const DEFAULT: u64 = 100;
/// Cgroups beside ours that share the CPU at the root, all of default weight: systemd's
/// system.slice, user.slice, init.scope, and machine.slice where there is one.
const SIBLINGS: u64 = 4;

/// Weights of slices with `(floor, share)` under `given`, all in thousandths of a core.
///
/// The largest is 10,000; a part below a ten-thousandth of it gets more than its due.
pub(super) fn of_slices(slices: &[(u64, u32)], given: u64) -> Vec<u64> {
    let floors: u64 = slices.iter().map(|(floor, _)| floor).sum();
    let shares: u128 = slices.iter().map(|(_, share)| u128::from(*share)).sum();
    let spare = u128::from(given.saturating_sub(floors));
    // Parts times the sum of the shares, so that nothing is divided yet.
    let parts: Vec<u128> = slices
        .iter()
        .map(|(floor, share)| u128::from(*floor) * shares.max(1) + spare * u128::from(*share))
        .collect();
    let largest = parts.iter().copied().max().unwrap_or(0).max(1);
    parts
        .iter()
        .map(|part| {
            let weight = (part * u128::from(HIGHEST)).div_ceil(largest);
            u64::try_from(weight)
                .unwrap_or(HIGHEST)
                .clamp(LOWEST, HIGHEST)
        })
        .collect()
}

/// Weight of the cgroup that holds all slices, so that the floors hold against the node's own
/// processes too: `floors` of `all` thousandths of a core.
pub(super) fn of_holder(floors: u64, all: u64) -> u64 {
    let rest = all.saturating_sub(floors);
    if rest == 0 {
        return HIGHEST;
    }
    (SIBLINGS * DEFAULT * floors)
        .div_ceil(rest)
        .clamp(DEFAULT, HIGHEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_floors_weights_follow_the_shares() {
        assert_eq!(of_slices(&[(0, 3), (0, 1)], 4000), [10_000, 3334]);
        assert_eq!(of_slices(&[(0, 1), (0, 1)], 4000), [10_000, 10_000]);
    }

    #[test]
    fn a_floor_holds_when_all_want_everything() {
        // 3 cores, one slice with a floor of 2 beside ten with none: 2 + 1/11 against 1/11 each.
        let mut slices = vec![(2000, 1)];
        slices.extend([(0, 1); 10]);
        let weights = of_slices(&slices, 3000);
        let part = weights[0] as f64 / weights.iter().sum::<u64>() as f64 * 3.0;
        assert!((2.0..2.1).contains(&part), "{part}");
    }

    #[test]
    fn no_spare_time_leaves_the_least_weight() {
        assert_eq!(of_slices(&[(1000, 1), (0, 1)], 1000), [10_000, 1]);
        assert_eq!(of_slices(&[], 1000), [0; 0]);
        assert_eq!(of_slices(&[(0, 1)], 0), [1]);
    }

    #[test]
    fn the_holder_outweighs_the_node_as_far_as_floors_need() {
        assert_eq!(of_holder(0, 4000), 100);
        // Half of the node against four siblings of 100 each.
        assert_eq!(of_holder(2000, 4000), 400);
        assert_eq!(of_holder(4000, 4000), 10_000);
    }
}
