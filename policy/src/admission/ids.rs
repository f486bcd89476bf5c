//! Ids of slices and user ids.

use std::collections::BTreeMap;

use super::Facts;
use crate::config::{Complaint, Config};
use crate::ids::SliceId;
use crate::ledger::Ledger;

/// User ids that a machine of its own has: 0 to 65535, `nobody` among them.
const CONTEXT_UIDS: u32 = 65_536;

/// The stretch of user ids for all slices fits, and is nobody's.
pub(super) fn uids(config: &Config, facts: &Facts, complaints: &mut Vec<Complaint>) {
    let node = &config.node;
    let at = node
        .uid_base
        .at
        .or(node.max_slices.at)
        .or(node.uids_per_slice.at);
    let first = u64::from(node.uid_base.value);
    let count = u64::from(node.max_slices.value) * u64::from(node.uids_per_slice.value);
    let last = first + count - 1;
    let most = u64::from(i32::MAX.unsigned_abs());
    if last > most {
        complaints.push(Complaint::maybe_at(
            at,
            format!(
                "the user ids of {} slices do not fit: {first} and the {count} ids from there end {} above {most}",
                node.max_slices.value, last - most,
            ),
            "lower `uid_base`, `uids_per_slice` or `max_slices` in [node]",
        ));
        return;
    }
    if node.uids_per_slice.value < CONTEXT_UIDS
        && let Some(slice) = config.slices.iter().find(|slice| slice.context.is_some())
    {
        let complaint = Complaint::maybe_at(
            node.uids_per_slice.at,
            format!(
                "{} user ids are too few for slice {}, which has a context",
                node.uids_per_slice.value, slice.name.value
            ),
            format!("raise `uids_per_slice` to {CONTEXT_UIDS}: programs expect that many"),
        );
        complaints.push(complaint.with_other(slice.name.at, "the slice"));
    }
    for taken in &facts.taken_uids {
        if u64::from(taken.first) <= last && first <= u64::from(taken.last) {
            complaints.push(Complaint::maybe_at(
                at,
                format!(
                    "the user ids {first}-{last} for slices overlap {}-{} of {}",
                    taken.first, taken.last, taken.by,
                ),
                "choose another `uid_base` in [node]",
            ));
        }
    }
}

pub(super) fn ids<'a>(
    config: &'a Config,
    ledger: &Ledger,
    complaints: &mut Vec<Complaint>,
) -> BTreeMap<&'a str, SliceId> {
    // Those too that slices may make, made or not.
    let promised = config.slices.iter().map(|slice| slice.promise().slices());
    let (there, most) = (
        promised.fold(0u32, u32::saturating_add),
        config.node.max_slices.value,
    );
    if there > most {
        let message = format!(
            "there are {there} slices, {} more than `max_slices` ({most})",
            there - most
        );
        let help = "raise `max_slices` in [node]; that needs `slice down` and `slice up`";
        complaints.push(Complaint::maybe_at(
            config.node.max_slices.at,
            message,
            help,
        ));
        return BTreeMap::new();
    }
    let mut ids = BTreeMap::new();
    let mut rows = BTreeMap::new();
    for slice in &config.slices {
        let name = slice.name.as_str();
        match ledger
            .id(name)
            .filter(|id| id.is_slice() && id.index() < super::rows(config))
        {
            Some(id) if rows.insert(id.index(), name).is_none() => {
                ids.insert(name, id);
            }
            _ => complaints.push(Complaint::maybe_at(
                slice.name.at,
                format!("there is no id left for slice {name}"),
                "raise `max_slices` in [node]; that needs `slice down` and `slice up`",
            )),
        }
    }
    ids
}
