//! From one plan to the next.

use std::collections::{BTreeMap, BTreeSet};

use zerocopy::FromZeros;

use super::{Cgroup, CgroupWrite, DiskLimits, ExemptAt, KnobsAt, Link, Plan, RefusedAt};
use crate::abi::{
    Address, AddressEntry, EXEMPT, LIVE, LinkEntry, LinkKnobs, RefusedPorts, Reserved, Settings,
    SliceEntry,
};
use crate::config::PortSet;
use crate::ids::SliceId;

/// What to write so that one plan becomes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Map writes in the order that is safe while traffic flows; see [`Plan::changes`].
    pub steps: Vec<Step>,
    /// Whether what sockets remember of earlier checks is void: raise the generation in `SETTINGS`
    /// after the steps.
    pub forget_checks: bool,
    /// Whether there are other links than before, by name or by number: all that is kept by the
    /// number of a link (devices, states, buckets) is then another link's. Not so where only a rate
    /// is different.
    pub other_links: bool,
    /// Attributes of cgroups to write; those of new slices included.
    pub cgroups: Vec<CgroupWrite>,
    /// Bounds on the disk to write, those of slices that go excepted.
    pub disk: Vec<(SliceId, DiskLimits)>,
    /// Slices whose cgroups are to be made (before the steps) and removed (after them), by id.
    pub created: Vec<SliceId>,
    /// See `created`.
    pub destroyed: Vec<SliceId>,
    /// The new `ip_local_reserved_ports`, if it changes.
    pub reserved_ports: Option<PortSet>,
}

/// One group of writes to one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `SLICES`: rows to set; a zeroed row denies.
    Slices(Vec<(u32, SliceEntry)>),
    /// `RESERVED`: rows to set; a zeroed row is nobody's.
    Reserved(Vec<(u32, Reserved)>),
    /// `ADDRESSES`.
    Addresses(MapChanges<Address, AddressEntry>),
    /// `REFUSED`; in this order, the entries to set before those to remove.
    Refused(MapChanges<RefusedAt, RefusedPorts>),
    /// `LINKS`, by number; a zeroed row is no link.
    Links(Vec<(u32, LinkEntry)>),
    /// `KNOBS`; a zeroed row is nobody's.
    Knobs(Vec<(KnobsAt, LinkKnobs)>),
    /// `EXEMPT`.
    Exempt(MapChanges<ExemptAt, u32>),
    /// `SETTINGS`; the loader fills in the generation.
    Settings(Settings),
}

/// What to write to a map whose entries come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapChanges<K, V> {
    /// Entries to set, new or changed.
    pub set: Vec<(K, V)>,
    /// Keys to remove.
    pub remove: Vec<K>,
}

fn changes<K: Ord + Copy, V: PartialEq + Copy>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> MapChanges<K, V> {
    let set = new
        .iter()
        .filter(|(key, value)| old.get(key) != Some(value));
    let remove = old.keys().filter(|key| !new.contains_key(key));
    MapChanges {
        set: set.map(|(key, value)| (*key, *value)).collect(),
        remove: remove.copied().collect(),
    }
}

/// The same for an array, where a row that goes is zeroed.
fn rows<K: Ord + Copy, V: PartialEq + Copy + FromZeros>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> Vec<(K, V)> {
    let MapChanges { mut set, remove } = changes(old, new);
    set.extend(remove.into_iter().map(|row| (row, V::new_zeroed())));
    set.sort_by_key(|(row, _)| *row);
    set
}

impl<K, V> MapChanges<K, V> {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

impl Plan {
    /// The plan of a node with nothing on it: the maps as the loader makes them.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            settings: Settings::new_zeroed(),
            slices: BTreeMap::new(),
            reserved: BTreeMap::new(),
            addresses: BTreeMap::new(),
            refused: BTreeMap::new(),
            links: Vec::new(),
            knobs: BTreeMap::new(),
            exempt: BTreeSet::new(),
            cgroups: Vec::new(),
            disk: BTreeMap::new(),
            reserved_ports: PortSet::default(),
        }
    }

    /// What to write so that `self` becomes `new`. Empty if they are equal.
    ///
    /// The order of the steps is safe at every moment in between:
    /// slices that go are dead before anything of theirs is another's; refused destinations are set
    /// from the longest prefix to the shortest and then removed from the shortest to the longest, so
    /// that every destination has at every moment its old or its new answer; a link has a rate only
    /// while the knobs on it are in place; new slices live last, when all that is theirs is in place.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Changes {
        let mut steps = Vec::new();
        let live = |entry: &SliceEntry| entry.flags & LIVE != 0;
        // A row that changes hands is dead in between.
        let gone = |row: &u32, entry: &SliceEntry| {
            new.slices.get(row).is_none_or(|after| after.id != entry.id)
        };
        let dead: Vec<(u32, SliceEntry)> = self
            .slices
            .iter()
            .filter(|(row, entry)| live(entry) && gone(row, entry))
            .map(|(row, _)| (*row, SliceEntry::new_zeroed()))
            .collect();
        let mut between = self.slices.clone();
        for (row, _) in &dead {
            between.remove(row);
        }
        let refused = refused_in_order(changes(&self.refused, &new.refused));
        let addresses = changes(&self.addresses, &new.addresses);
        let reserved = rows(&self.reserved, &new.reserved);
        let slices = rows(&between, &new.slices);
        let own = |entry: &SliceEntry| (entry.own_ipv4, entry.own_ipv6);
        let own_changed = slices.iter().any(|(row, entry)| {
            self.slices
                .get(row)
                .is_some_and(|before| before.id == entry.id && own(before) != own(entry))
        });
        let forget_checks = !addresses.is_empty() || !refused.is_empty() || own_changed;
        if !dead.is_empty() {
            steps.push(Step::Slices(dead));
        }
        if !reserved.is_empty() {
            steps.push(Step::Reserved(reserved));
        }
        if !addresses.is_empty() {
            steps.push(Step::Addresses(addresses));
        }
        if !refused.is_empty() {
            steps.push(Step::Refused(refused));
        }
        let links = rows(&self.link_entries(), &new.link_entries());
        let (gone, links): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|(_, entry)| entry.rate == 0);
        let knobs = rows(&self.knobs, &new.knobs);
        let exempt = exempt(&self.exempt, &new.exempt);
        if !gone.is_empty() {
            steps.push(Step::Links(gone));
        }
        if !knobs.is_empty() {
            steps.push(Step::Knobs(knobs));
        }
        if !exempt.is_empty() {
            steps.push(Step::Exempt(exempt));
        }
        if !links.is_empty() {
            steps.push(Step::Links(links));
        }
        if !slices.is_empty() {
            steps.push(Step::Slices(slices));
        }
        if self.settings != new.settings || forget_checks {
            steps.push(Step::Settings(new.settings));
        }
        let ids = |plan: &Self| -> BTreeSet<SliceId> {
            plan.slices
                .values()
                .map(|entry| entry.id)
                .filter(|id| id.is_slice())
                .collect()
        };
        let (before, after) = (ids(self), ids(new));
        // The cgroup of a new slice is not in the old plan, so all of its values are written.
        let had: BTreeMap<(&Cgroup, &str), &str> = self
            .cgroups
            .iter()
            .map(|write| ((&write.cgroup, write.file), write.value.as_str()))
            .collect();
        let changed = |write: &&CgroupWrite| match had.get(&(&write.cgroup, write.file)) {
            Some(value) => *value != write.value,
            None => !write.is_default(),
        };
        Changes {
            steps,
            forget_checks,
            other_links: !self.link_names().eq(new.link_names()),
            cgroups: new.cgroups.iter().filter(changed).cloned().collect(),
            // A project that was never bounded has no bound.
            disk: new
                .disk
                .iter()
                .filter(|(id, limits)| self.disk.get(id).copied().unwrap_or_default() != **limits)
                .map(|(id, limits)| (*id, *limits))
                .collect(),
            created: after.difference(&before).copied().collect(),
            destroyed: before.difference(&after).copied().collect(),
            reserved_ports: (self.reserved_ports != new.reserved_ports)
                .then(|| new.reserved_ports.clone()),
        }
    }
}

impl Plan {
    /// `LINKS` of this plan, by number.
    fn link_entries(&self) -> BTreeMap<u32, LinkEntry> {
        let entries = self.links.iter().map(Link::entry);
        (0..).zip(entries).collect()
    }

    fn link_names(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(|link| link.name.as_str())
    }
}

/// What is exempt before and after is so at every moment between, whichever entries say
/// it: all that come are set before the first that goes is removed.
fn exempt(old: &BTreeSet<ExemptAt>, new: &BTreeSet<ExemptAt>) -> MapChanges<ExemptAt, u32> {
    MapChanges {
        set: new.difference(old).map(|at| (*at, EXEMPT)).collect(),
        remove: old.difference(new).copied().collect(),
    }
}

fn refused_in_order(
    mut changes: MapChanges<RefusedAt, RefusedPorts>,
) -> MapChanges<RefusedAt, RefusedPorts> {
    changes
        .set
        .sort_by_key(|(at, _)| (std::cmp::Reverse(at.length), *at));
    changes.remove.sort_by_key(|at| (at.length, *at));
    changes
}

impl Changes {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
            && !self.other_links
            && self.cgroups.is_empty()
            && self.disk.is_empty()
            && self.reserved_ports.is_none()
    }
}
