//! What is in force, read from the kernel as a [`Plan`], so that a change is
//! always made against what is, whoever was interrupted doing what; and the
//! writing of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::Context;
use policy::abi::{LinkKnobs, RESERVED_FOUND, RESERVED_NOBODY, Reserved, port_index};
use policy::compile::{
    Cgroup, CgroupWrite, Changes, DiskLimits, ExemptAt, KnobsAt, Link, Plan, RefusedAt, Step,
};
use policy::ids::SliceId;
use zerocopy::FromZeros;

use super::found::{self, Holding};
use super::record::SliceRecord;
use super::{autobind, port_of};
use crate::context::cgroup::SliceCgroup;
use crate::context::disk::Disk;
use crate::context::holder::Holder;
use crate::context::layer::Layer;
use crate::kernel::maps::Maps;
use crate::sys::clock::monotonic_ns;

/// What a plan is written to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The pinned maps.
    pub maps: &'a Maps,
    /// The cgroups.
    pub holder: &'a Holder,
    /// The names of the links, by number.
    pub links: &'a [String],
}

/// The slices of a plan: their names and user ids, which the maps do not know.
pub type Slices = BTreeMap<String, SliceRecord>;

impl Place<'_> {
    /// The plan that is in force. Of cgroups, the attributes that `wanted` has,
    /// of the disk, the bounds of its slices: those that may change.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read(&self, wanted: &Plan) -> anyhow::Result<Plan> {
        let maps = self.maps;
        let mut settings = maps
            .settings
            .get(&0)?
            .context("read the settings: they are not there")?;
        settings.generation = 0;
        let in_use = |(_, entry): &(u32, policy::abi::SliceEntry)| entry.flags != 0;
        let kept = |(_, reserved): &(u32, Reserved)| reserved.kind != RESERVED_NOBODY;
        let refused = maps
            .refused
            .all()?
            .into_iter()
            .map(|(key, ports)| (RefusedAt::from(&key), ports));
        let exempt = maps.exempt.all()?.into_iter();
        let exempt = exempt.map(|(key, _)| ExemptAt::from(&key));
        Ok(Plan {
            settings,
            slices: maps.slices.all()?.into_iter().filter(in_use).collect(),
            reserved: maps.reserved.all()?.into_iter().filter(kept).collect(),
            addresses: maps.addresses.all()?.into_iter().collect(),
            refused: refused.collect(),
            links: self.read_links()?,
            knobs: self.read_knobs()?,
            exempt: exempt.collect(),
            cgroups: wanted
                .cgroups
                .iter()
                .filter_map(|write| self.read_attribute(write))
                .collect(),
            disk: disk_limits(wanted)?,
            reserved_ports: autobind::read()?,
        })
    }

    fn read_links(&self) -> anyhow::Result<Vec<Link>> {
        let rates = self.maps.links.all()?;
        let named = self.links.iter().zip(rates);
        Ok(named
            .map(|(name, (_, entry))| Link {
                name: name.clone(),
                rate: entry.rate,
                exempt: entry.exempt != 0,
            })
            .collect())
    }

    fn read_knobs(&self) -> anyhow::Result<BTreeMap<KnobsAt, LinkKnobs>> {
        if self.links.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = self.maps.states.rows();
        let all = self.maps.knobs.all()?.into_iter();
        Ok(all
            .filter(|(_, knobs)| knobs.share != 0)
            .map(|(index, knobs)| (KnobsAt::at(index, rows), knobs))
            .collect())
    }

    /// None where the cgroup is not there: then it is to be written.
    fn read_attribute(&self, write: &CgroupWrite) -> Option<CgroupWrite> {
        let directory = match &write.cgroup {
            Cgroup::Holder => self.holder.path.clone(),
            Cgroup::Slices => self.holder.slices(),
            Cgroup::Slice(name) => self.cgroup(name.as_str()).path().to_owned(),
        };
        let value = fs::read_to_string(directory.join(write.file)).ok()?;
        Some(CgroupWrite {
            value: write.value_in(&value),
            ..write.clone()
        })
    }

    fn cgroup(&self, name: &str) -> SliceCgroup {
        SliceCgroup::of(&self.holder.slices(), name)
    }

    /// Makes the cgroups of slices and tells the programs whose they are.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn make_cgroups(&self, slices: &Slices) -> anyhow::Result<()> {
        let mut entries = Vec::with_capacity(slices.len());
        for (name, slice) in slices {
            let cgroup = self.cgroup(name);
            cgroup.make(slice.uid)?;
            entries.push((cgroup.id()?, slice.id()));
        }
        self.maps.cgroups.set_all(&entries)
    }

    /// Writes attributes of cgroups.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn write_attributes(&self, writes: &[CgroupWrite]) -> anyhow::Result<()> {
        for CgroupWrite {
            cgroup,
            file,
            value,
        } in writes
        {
            match cgroup {
                Cgroup::Holder => self.holder.set(file, value)?,
                Cgroup::Slices => {
                    let path = self.holder.slices().join(file);
                    fs::write(&path, value)
                        .with_context(|| format!("write {value} to {}", path.display()))?;
                }
                Cgroup::Slice(name) => self.cgroup(name.as_str()).write(file, value)?,
            }
        }
        Ok(())
    }

    /// Writes the bounds of slices on the disk, whether or not they have files
    /// yet.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write_disk(&self, limits: &[(SliceId, DiskLimits)]) -> anyhow::Result<()> {
        if limits.is_empty() {
            return Ok(());
        }
        let disk = Disk::open()?;
        limits
            .iter()
            .try_for_each(|(id, limits)| disk.set_limits(*id, *limits))
    }

    /// Writes the maps, in the order that is safe while traffic flows.
    ///
    /// # Errors
    /// The kernel refuses: a map is full.
    pub fn write_maps(&self, changes: &Changes) -> anyhow::Result<()> {
        let maps = self.maps;
        for step in &changes.steps {
            match step {
                Step::Slices(rows) => maps.slices.set_all(rows)?,
                Step::Reserved(rows) => maps.reserved.set_all(rows)?,
                Step::Addresses(changes) => {
                    maps.addresses.set_all(&changes.set)?;
                    for address in &changes.remove {
                        maps.addresses.remove(address)?;
                    }
                }
                Step::Refused(changes) => {
                    let set: Vec<_> = changes
                        .set
                        .iter()
                        .map(|(at, ports)| (at.key(), *ports))
                        .collect();
                    maps.refused.set_all(&set)?;
                    for at in &changes.remove {
                        maps.refused.remove(&at.key())?;
                    }
                }
                Step::Links(rows) => maps.links.set_all(rows)?,
                Step::Knobs(rows) => {
                    let of_each = maps.states.rows();
                    let rows: Vec<_> = rows
                        .iter()
                        .map(|(at, knobs)| (at.index(of_each), *knobs))
                        .collect();
                    maps.knobs.set_all(&rows)?;
                }
                Step::Exempt(changes) => {
                    let set = changes.set.iter().map(|(at, exempt)| (at.key(), *exempt));
                    maps.exempt.set_all(&set.collect::<Vec<_>>())?;
                    for at in &changes.remove {
                        maps.exempt.remove(&at.key())?;
                    }
                }
                Step::Settings(settings) => {
                    let mut settings = *settings;
                    let generation = maps.settings.get(&0)?.map_or(0, |before| before.generation);
                    settings.generation = generation.wrapping_add(u32::from(changes.forget_checks));
                    maps.settings.set(&0, &settings)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the processes of slices that are no more and removes what is
    /// theirs. Their claims end with their sockets.
    ///
    /// # Errors
    /// A process does not end, or the kernel refuses.
    pub fn destroy(&self, slices: &Slices) -> anyhow::Result<()> {
        self.end(slices.keys().map(String::as_str))
            .and(self.forget_flows(slices))
            .and(forget_disk(slices))
    }

    /// Ends slices that have a cgroup and are not among `known`: what a reload
    /// that was killed, or met a process that did not end, left behind. Whether there were any.
    ///
    /// # Errors
    /// As [`Place::destroy`].
    pub fn destroy_strays(&self, known: &Slices) -> anyhow::Result<bool> {
        let parent = self.holder.slices();
        let mut strays = Vec::new();
        for entry in std::fs::read_dir(&parent)
            .with_context(|| format!("read cgroup {}", parent.display()))?
        {
            let entry = entry.with_context(|| format!("read cgroup {}", parent.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !known.contains_key(&name) {
                strays.push(name);
            }
        }
        self.end(strays.iter().map(String::as_str))?;
        Ok(!strays.is_empty())
    }

    /// Ends the processes in these slices' cgroups and removes those; one that
    /// resists does not keep the others.
    fn end<'n>(&self, names: impl Iterator<Item = &'n str>) -> anyhow::Result<()> {
        let cgroups: Vec<_> = names.map(|name| self.cgroup(name)).collect();
        // All are told before the first is waited for.
        let mut result = cgroups.iter().try_for_each(SliceCgroup::begin_kill);
        for cgroup in cgroups {
            // The programs forget it last: who enters it until then is still
            // the slice's, and so denied, not the node's.
            let id = cgroup.id();
            let removed = cgroup.remove().and_then(|()| match id {
                Ok(id) => self.maps.cgroups.remove(&id).map(drop),
                Err(_) => Ok(()),
            });
            result = result.and(removed);
        }
        result
    }

    /// Removes the flows that sockets of destroyed slices left.
    fn forget_flows(&self, slices: &Slices) -> anyhow::Result<()> {
        let gone: BTreeSet<SliceId> = slices.values().map(SliceRecord::id).collect();
        if gone.is_empty() {
            return Ok(());
        }
        for (flow, _) in self
            .maps
            .flows
            .all()?
            .into_iter()
            .filter(|(_, owner)| gone.contains(owner))
        {
            self.maps.flows.remove(&flow)?;
        }
        Ok(())
    }
}

/// Takes the bounds of destroyed slices off the disk, but where their files
/// are still there: those go with their bounds.
fn forget_disk(slices: &Slices) -> anyhow::Result<()> {
    let gone = slices
        .iter()
        .filter(|(name, _)| !Layer::of(name).exists())
        .map(|(_, slice)| slice.id());
    let disk = Disk::open()?;
    for id in gone {
        if !disk.limits(id)?.is_none() {
            disk.set_limits(id, DiskLimits::default())?;
        }
    }
    Ok(())
}

/// The bounds on the disk that slices of a plan have now; they outlive `down`.
///
/// # Errors
/// The file system does not tell.
pub fn disk_limits(plan: &Plan) -> anyhow::Result<BTreeMap<SliceId, DiskLimits>> {
    let disk = Disk::open()?;
    if !disk.accounts() {
        return Ok(BTreeMap::new());
    }
    let ids = plan.disk.keys();
    ids.map(|id| Ok((*id, disk.limits(*id)?))).collect()
}

/// Rows that sockets of slices refer to: not to be given to another slice.
///
/// # Errors
/// The map cannot be read.
pub fn busy_rows(maps: &Maps) -> anyhow::Result<BTreeSet<u32>> {
    let states = maps.states.all()?.into_iter();
    Ok(states
        .filter(|(_, state)| state.sockets_open != 0 || state.connections != 0)
        .map(|(row, _)| row)
        .collect())
}

/// The ports held by sockets outside the slices.
///
/// # Errors
/// /proc or a map cannot be read.
pub fn held_by_node(maps: &Maps) -> anyhow::Result<BTreeSet<Holding>> {
    let now = monotonic_ns().context("read the clock")?;
    let claims = maps
        .claims
        .all()?
        .into_iter()
        .filter(|(_, claim)| claim.held(now));
    let owners: BTreeMap<u32, SliceId> = claims.map(|(row, claim)| (row, claim.owner())).collect();
    let owner = |holding: &Holding| {
        owners
            .get(&port_index(holding.protocol, holding.port)?)
            .copied()
    };
    let held = found::scan()?.into_iter();
    Ok(held
        .filter(|holding| owner(holding).is_none_or(|owner| !owner.is_slice()))
        .map(|holding| Holding {
            claimed: owner(&holding).is_some(),
            ..holding
        })
        .collect())
}

/// Keeps for the node the ports that its sockets hold unseen, but those that
/// the policy keeps already. Called when the programs are attached: a socket
/// bound before was not seen, one bound later is.
///
/// # Errors
/// /proc cannot be read, or the map not written.
pub fn note_found(maps: &Maps) -> anyhow::Result<()> {
    let found = Reserved {
        owner: SliceId::NODE,
        kind: RESERVED_FOUND,
        flags: 0,
    };
    let mut rows = Vec::new();
    for holding in held_by_node(maps)?
        .into_iter()
        .filter(|holding| !holding.claimed)
    {
        let Some(row) = port_index(holding.protocol, holding.port) else {
            continue;
        };
        if maps
            .reserved
            .get(&row)?
            .is_none_or(|reserved| reserved.kind == RESERVED_NOBODY)
        {
            rows.push((row, found));
        }
    }
    maps.reserved.set_all(&rows)
}

/// Frees the ports found that no socket holds any more; whether there were
/// any.
///
/// # Errors
/// /proc cannot be read, or the map not written.
pub fn forget_found(maps: &Maps) -> anyhow::Result<bool> {
    let all = maps.reserved.all()?.into_iter();
    let found: Vec<u32> = all
        .filter(|(_, reserved)| reserved.kind == RESERVED_FOUND)
        .map(|(row, _)| row)
        .collect();
    if found.is_empty() {
        return Ok(false);
    }
    let held: BTreeSet<(u8, u16)> = found::scan()?
        .into_iter()
        .map(|h| (h.protocol, h.port))
        .collect();
    let gone: Vec<_> = found
        .into_iter()
        .filter(|row| port_of(*row).is_none_or(|port| !held.contains(&port)))
        .map(|row| (row, Reserved::new_zeroed()))
        .collect();
    maps.reserved.set_all(&gone)?;
    Ok(!gone.is_empty())
}
