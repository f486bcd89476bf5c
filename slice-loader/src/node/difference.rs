//! What a reload changes, by the names of those it concerns.

use std::collections::{BTreeMap, BTreeSet};

use policy::compile::{Cgroup, Changes, Plan, Step};
use policy::ids::SliceId;
use serde::Serialize;

use super::policy_files::Wanted;
use super::record::SliceRecord;
use super::state::Slices;

/// What `reload` changed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Reloaded {
    /// Slices that are new.
    pub added: Vec<String>,
    /// Slices that are gone, their processes with them.
    pub removed: Vec<String>,
    /// Slices for which something is different.
    pub changed: Vec<String>,
    /// Whether something that holds for the whole node is different.
    pub node: bool,
    /// What the owner should know.
    pub warnings: Vec<String>,
}

/// The slices of `these` that are not in `those`, or are others there.
pub fn only_in(these: &Slices, those: &Slices) -> Slices {
    let other = |(name, slice): &(&String, &SliceRecord)| {
        those.get(*name).is_none_or(|that| that.id != slice.id)
    };
    these
        .iter()
        .filter(other)
        .map(|(name, slice)| (name.clone(), *slice))
        .collect()
}

/// Whom the steps concern.
pub fn describe(old: &Plan, wanted: &Wanted, changes: &Changes) -> Reloaded {
    let new = &wanted.plan;
    let names: BTreeMap<SliceId, &str> = wanted
        .slices
        .iter()
        .map(|(name, slice)| (slice.id(), name.as_str()))
        .collect();
    let mut owners: BTreeSet<SliceId> = BTreeSet::new();
    let of_row = |row: u32| new.slices.get(&row).map(|entry| entry.id);
    for step in &changes.steps {
        match step {
            Step::Slices(rows) => owners.extend(rows.iter().map(|(_, entry)| entry.id)),
            Step::Reserved(rows) => {
                let both = |row| [old.reserved.get(row), new.reserved.get(row)];
                owners.extend(
                    rows.iter()
                        .flat_map(|(row, _)| both(row))
                        .flatten()
                        .map(|reserved| reserved.owner),
                );
            }
            Step::Addresses(changes) => {
                owners.extend(changes.set.iter().map(|(_, entry)| entry.owner))
            }
            Step::Refused(changes) => {
                let at = changes
                    .set
                    .iter()
                    .map(|(at, _)| at.row)
                    .chain(changes.remove.iter().map(|at| at.row));
                owners.extend(at.filter_map(of_row));
            }
            Step::Links(_) | Step::Exempt(_) => drop(owners.insert(SliceId::NODE)),
            Step::Knobs(rows) => {
                let both = |at| [old.knobs.get(at), new.knobs.get(at)];
                owners.extend(
                    rows.iter()
                        .flat_map(|(at, _)| both(at))
                        .flatten()
                        .map(|knobs| knobs.id),
                );
            }
            Step::Settings(settings) => {
                if *settings != old.settings {
                    owners.insert(SliceId::NODE);
                }
            }
        }
    }
    owners.extend(changes.disk.iter().map(|(id, _)| *id));
    let mut changed: BTreeSet<&str> = owners
        .iter()
        .filter_map(|id| names.get(id).copied())
        .collect();
    let mut node = owners.contains(&SliceId::NODE);
    for write in &changes.cgroups {
        match &write.cgroup {
            Cgroup::Slice(name) => drop(changed.insert(name.as_str())),
            Cgroup::Holder | Cgroup::Slices => node = true,
        }
    }
    let is_old = |name: &&str| {
        let row = wanted.slices.get(*name).map(|slice| slice.id().index());
        row.is_some_and(|row| old.slices.get(&row).map(|entry| entry.id) == of_row(row))
    };
    Reloaded {
        changed: changed
            .into_iter()
            .filter(is_old)
            .map(str::to_owned)
            .collect(),
        node,
        ..Reloaded::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_that_came_back_with_another_id_is_another_slice() {
        let slices = |rows: &[(&str, u32)]| -> Slices {
            let record =
                |(name, id): &(&str, u32)| ((*name).to_owned(), SliceRecord { id: *id, uid: 0 });
            rows.iter().map(record).collect()
        };
        let (old, new) = (slices(&[("a", 2), ("b", 3)]), slices(&[("b", 9), ("c", 4)]));
        assert_eq!(only_in(&new, &old), slices(&[("b", 9), ("c", 4)]));
        assert_eq!(only_in(&old, &new), slices(&[("a", 2), ("b", 3)]));
        assert_eq!(only_in(&old, &old), Slices::new());
    }
}
