//! Caps on the disk are promises, unlike those on memory: what one slice has
//! stored cannot be taken back when another comes for its own. So together they
//! must fit, unless the owner says that they need not (`disk_overcommit`).

use super::floors::{down, part, too_much, up};
use super::{Disk, Unbounded};
use crate::compile::disk::limits;
use crate::config::units::Bytes;
use crate::config::{At, Complaint, Config, MemoryGive, Place, Slice};

pub(super) fn given(config: &Config, disk: &Disk, complaints: &mut Vec<Complaint>) -> Bytes {
    let give = config.node.give.disk;
    let given = match give.map(|give| give.value) {
        None => disk.size,
        Some(MemoryGive::OfNode(percent)) => part(disk.size, u128::from(percent.0)),
        Some(MemoryGive::Bytes(bytes)) => bytes,
    };
    if given > disk.size {
        let at = give.and_then(|give| give.at);
        let by = Bytes(given.0 - disk.size.0);
        complaints.push(too_much("disk", at, disk.size, by));
    }
    given
}

pub(super) fn disk(config: &Config, given: Bytes, disk: &Disk, complaints: &mut Vec<Complaint>) {
    let give = config.node.give;
    let given_at = give.disk.and_then(|give| give.at);
    if let Some(unbounded) = &disk.unbounded {
        let slices = config.slices.iter();
        let bounded = slices.filter_map(|slice| Some((slice.name.value.as_str(), bound(slice)?)));
        complaints.extend(bounded.map(|(name, at)| {
            let what = format!("slice {name} has a bound on the disk");
            cannot_be_kept(&what, at, unbounded)
        }));
        if give.disk.is_some() {
            complaints.push(cannot_be_kept(
                "[node.give] bounds the disk",
                given_at,
                unbounded,
            ));
        }
        return;
    }
    for slice in &config.slices {
        let name = &slice.name.value;
        match slice.disk.cap {
            Some(cap) if cap.value > given => complaints.push(
                Complaint::maybe_at(
                    cap.at,
                    format!(
                        "the disk cap of slice {name} ({}) is more than the node gives all slices ({})",
                        cap.value,
                        down(given.0)
                    ),
                    format!("write at most {}", down(given.0)),
                )
                .with_other(given_at, "given here"),
            ),
            None if give.disk.is_some() && !give.disk_overcommit => complaints.push(
                Complaint::maybe_at(
                    slice.name.at,
                    format!(
                        "slice {name} has no disk cap, and the node gives all slices {} together",
                        down(given.0)
                    ),
                    "write `cap` in [disk] of the slice, or `disk_overcommit = true` in [node.give]",
                )
                .with_other(given_at, "given here"),
            ),
            _ => {}
        }
    }
    if give.disk_overcommit {
        return;
    }
    let bytes: Vec<_> = config
        .slices
        .iter()
        .map(|slice| slice.promise().disk())
        .collect();
    complaints.extend(together(
        "caps on the disk",
        &bytes,
        (given.0, given_at),
        (down, up),
        "lower caps",
    ));
    let inodes: Vec<_> = config
        .slices
        .iter()
        .map(|slice| At {
            value: limits(slice).inodes,
            at: slice
                .disk
                .inodes
                .map_or_else(|| slice.disk.cap.and_then(|cap| cap.at), |inodes| inodes.at),
        })
        .collect();
    let count = |count: u64| count.to_string();
    complaints.extend(together(
        "bounds of inodes",
        &inodes,
        (disk.inodes, None),
        (count, count),
        "lower `inodes` in [disk]",
    ));
}

/// Where a slice is bounded, if it is.
fn bound(slice: &Slice) -> Option<Option<Place>> {
    let cap = slice.disk.cap.map(|cap| cap.at);
    cap.or(slice.disk.inodes.map(|inodes| inodes.at))
}

fn cannot_be_kept(what: &str, at: Option<Place>, unbounded: &Unbounded) -> Complaint {
    Complaint::maybe_at(
        at,
        format!("{what}, which this node cannot keep: {}", unbounded.why),
        unbounded.remedy.clone(),
    )
}

/// How a resource is printed.
type Print = fn(u64) -> String;

fn together(
    what: &str,
    caps: &[At<u64>],
    (has, given_at): (u64, Option<Place>),
    (less, more): (Print, Print),
    help: &str,
) -> Option<Complaint> {
    let sum = caps
        .iter()
        .fold(0u64, |sum, cap| sum.saturating_add(cap.value));
    let over = sum.checked_sub(has).filter(|over| *over > 0)?;
    let largest = caps.iter().max_by_key(|cap| cap.value)?;
    let message = format!(
        "the {what} do not fit: together they are {}, there is room for {}, {} too much",
        more(sum),
        less(has),
        more(over),
    );
    let help = format!(
        "{help} by {} in all, or write `disk_overcommit = true` in [node.give]",
        more(over)
    );
    Some(Complaint::maybe_at(largest.at, message, help).with_other(given_at, "given here"))
}
