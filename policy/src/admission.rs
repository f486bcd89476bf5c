//! Does this policy fit this node? The answer says which resource does not fit and by how much,
//! and cites both parties where two collide.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::abi::{RefusedKey, RefusedPorts};
use crate::compile::refused::{self, MAX_REFUSED, TooMany};
use crate::config::units::{Bytes, MilliCores};
use crate::config::{Complaint, Config, Errors, PortRange, PortSet, Refusal, Slice};
use crate::ids::{FIRST_SLICE_ROW, SliceId};
use crate::ledger::Ledger;

mod addresses;
mod control;
mod disk;
mod floors;
mod ids;
mod io;
mod links;
mod ports;

pub use addresses::shared_addresses;

/// What the loader found on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// CPUs that are online.
    pub cpus: u32,
    /// Memory of the node.
    pub memory: Bytes,
    /// Size of a page; the kernel keeps memory limits in whole pages.
    pub page_size: u64,
    /// Process ids there are (`kernel.pid_max`).
    pub pid_max: u32,
    /// All addresses of all devices of the node; loopback and multicast ones are ignored.
    pub addresses: Vec<IpAddr>,
    /// `net.ipv4.ip_local_port_range`.
    pub ephemeral: PortRange,
    /// `net.ipv4.ip_local_reserved_ports` as it was before the first `slice up`.
    pub reserved_ports: PortSet,
    /// TCP ports held by sockets outside the slices when the programs were attached.
    pub found_tcp: PortSet,
    /// The same for UDP.
    pub found_udp: PortSet,
    /// The file system that slices' files lie on.
    pub disk: Disk,
    /// The block device below it.
    pub io: Io,
    /// User ids that somebody else has on this node.
    pub taken_uids: Vec<TakenUids>,
    /// Cookie of the node's network namespace.
    pub node_netns: u64,
    /// Depth of the slices' cgroups in the hierarchy.
    pub slices_level: u32,
}

/// The file system that slices' files lie on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its size.
    pub size: Bytes,
    /// How many files, directories and links it can hold.
    pub inodes: u64,
    /// Why it cannot bound slices; `None` where it can.
    pub unbounded: Option<Unbounded>,
}

/// The block device that slices' files lie on, and what divides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Io {
    /// The whole device, not a partition, as cgroups name it: `major:minor`. Or why the kernel
    /// cannot bound what each slice reads and writes.
    pub device: Result<String, Unbounded>,
    /// Who obeys weights; or why nobody does.
    pub weights: Result<Vec<Divider>, Unbounded>,
}

/// What in the kernel divides a block device by the weights of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Divider {
    /// The cost model, where it is on for the device (`io.cost.qos`).
    Cost,
    /// The scheduler `bfq`, where it is the device's.
    Bfq,
}

/// Why the kernel cannot bound what each slice has of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unbounded {
    /// Why, as the end of a sentence: "it is a tmpfs".
    pub why: String,
    /// What to do.
    pub remedy: String,
}

/// A stretch of user ids that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenUids {
    /// First id.
    pub first: u32,
    /// Last id.
    pub last: u32,
    /// Whose, for the error: "user postgres", "/etc/subuid: alice".
    pub by: String,
}

/// What all slices together may have on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// CPU time.
    pub cpu: MilliCores,
    /// Memory.
    pub memory: Bytes,
    /// Processes and threads.
    pub processes: u32,
    /// Disk.
    pub disk: Bytes,
}

/// Destinations refused, as entries of the kernel's map.
pub type Refused = Vec<(RefusedKey, RefusedPorts)>;

/// A policy that fits. Only [`admit`] makes one, so what is compiled was admitted.
#[derive(Clone, Debug)]
pub struct Admitted<'a> {
    config: &'a Config,
    facts: &'a Facts,
    ids: BTreeMap<&'a str, SliceId>,
    given: Given,
    refused: Refused,
}

impl<'a> Admitted<'a> {
    /// The policy.
    #[must_use]
    pub fn config(&self) -> &'a Config {
        self.config
    }

    /// The node.
    #[must_use]
    pub fn facts(&self) -> &'a Facts {
        self.facts
    }

    /// What slices may have in total.
    #[must_use]
    pub fn given(&self) -> Given {
        self.given
    }

    /// The slices with their ids, by name.
    pub fn slices(&self) -> impl Iterator<Item = (SliceId, &'a Slice)> + '_ {
        let config = self.config;
        config
            .slices
            .iter()
            .filter_map(|slice| Some((*self.ids.get(slice.name.as_str())?, slice)))
    }

    /// The first user id of a slice and how many it has.
    #[must_use]
    pub fn uids(&self, id: SliceId) -> (u32, u32) {
        let node = &self.config.node;
        let count = node.uids_per_slice.value;
        (
            node.uid_base.value + id.index().saturating_sub(FIRST_SLICE_ROW) * count,
            count,
        )
    }

    /// Destinations refused, sorted.
    #[must_use]
    pub fn refused(&self) -> &Refused {
        &self.refused
    }
}

/// Rows of the per-slice maps for this policy: the slices' and the two fixed ones.
#[must_use]
pub fn rows(config: &Config) -> u32 {
    config.node.max_slices.value + FIRST_SLICE_ROW
}

/// Decides whether `config` fits the node. `ledger` has the ids, from [`Ledger::assign`] with the
/// names of the slices and [`rows`].
///
/// # Errors
/// Everything that does not fit.
pub fn admit<'a>(
    config: &'a Config,
    facts: &'a Facts,
    ledger: &Ledger,
) -> Result<Admitted<'a>, Errors> {
    let mut complaints = Vec::new();
    let given = floors::given(config, facts, &mut complaints);
    floors::floors(config, given, &mut complaints);
    disk::disk(config, given.disk, &facts.disk, &mut complaints);
    io::io(config, &facts.io, &mut complaints);
    links::links(config, &mut complaints);
    ports::ports(config, &mut complaints);
    addresses::addresses(config, facts, &mut complaints);
    ids::uids(config, facts, &mut complaints);
    let ids = ids::ids(config, ledger, &mut complaints);
    control::prefixes(config, &mut complaints);
    let refused = destinations(config, &ids, &mut complaints);
    if complaints.is_empty() {
        Ok(Admitted {
            config,
            facts,
            ids,
            given,
            refused,
        })
    } else {
        Err(Errors::new(config.sources.clone(), complaints))
    }
}

fn destinations(
    config: &Config,
    ids: &BTreeMap<&str, SliceId>,
    complaints: &mut Vec<Complaint>,
) -> Refused {
    let mut all = Refused::new();
    let mut add = |row: u32, rules: &[Refusal]| match refused::entries(row, rules) {
        Ok(entries) => all.extend(entries),
        Err(TooMany { at, ranges, rule }) => complaints.push(Complaint::maybe_at(
            rules.get(rule).map(|rule| rule.at),
            format!(
                "{ranges} ranges of refused ports meet at {at}, {} more than fit",
                ranges - crate::abi::REFUSED_RANGES,
            ),
            "refuse wider ranges of ports, or all ports",
        )),
    };
    add(0, &config.node.refuse);
    for slice in &config.slices {
        if let Some(id) = ids.get(slice.name.as_str()) {
            add(id.index(), &slice.refuse);
        }
    }
    if all.len() > MAX_REFUSED {
        let longest = config
            .slices
            .iter()
            .map(|slice| &slice.refuse)
            .chain([&config.node.refuse]);
        let at = longest
            .max_by_key(|rules| rules.len())
            .and_then(|rules| rules.first())
            .map(|rule| rule.at);
        complaints.push(Complaint::maybe_at(
            at,
            format!(
                "the refused destinations make {} entries, {} more than the node holds",
                all.len(),
                all.len() - MAX_REFUSED
            ),
            "refuse wider prefixes, or refuse for all slices what each refuses by itself",
        ));
    }
    all.sort_by_key(|(key, _)| (key.row, key.address, key.prefix_length));
    all
}
