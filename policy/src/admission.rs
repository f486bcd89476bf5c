//! Does this policy fit this node? The answer says which resource does not fit and by how much,
//! and cites both parties where two collide.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::abi::{RefusedKey, RefusedPorts};
use crate::compile::refused::{self, MAX_REFUSED, TooMany};
use crate::config::units::{Bytes, MilliCores};
use crate::config::{
    At, Complaint, Config, Errors, LOOPBACK_PORTS, MemoryGive, Place, PortRange, PortSet, Prefix,
    Refusal, Slice,
};
use crate::ids::{FIRST_SLICE_ROW, SliceId};
use crate::ledger::Ledger;

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
    /// User ids that somebody else has on this node.
    pub taken_uids: Vec<TakenUids>,
    /// Cookie of the node's network namespace.
    pub node_netns: u64,
    /// Depth of the slices' cgroups in the hierarchy.
    pub slices_level: u32,
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
    let given = given(config, facts, &mut complaints);
    floors(config, given, &mut complaints);
    ports(config, &mut complaints);
    addresses(config, facts, &mut complaints);
    uids(config, facts, &mut complaints);
    let ids = ids(config, ledger, &mut complaints);
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

/// Percentage of the node's memory that slices get if the owner says nothing: the rest keeps the
/// node itself alive.
const MEMORY_PERCENT: u64 = 80;
/// Thousandths of a percent in the whole.
const WHOLE: u128 = 100_000;

fn given(config: &Config, facts: &Facts, complaints: &mut Vec<Complaint>) -> Given {
    let give = config.node.give;
    let all_cpu = MilliCores(u64::from(facts.cpus) * 1000);
    let cpu = give.cpu.map_or(all_cpu, |cpu| cpu.value);
    if cpu > all_cpu {
        complaints.push(too_much(
            "CPU",
            give.cpu.and_then(|cpu| cpu.at),
            all_cpu,
            MilliCores(cpu.0 - all_cpu.0),
        ));
    }
    let part = |thousandths: u128| {
        let bytes = u128::from(facts.memory.0) * thousandths / WHOLE;
        Bytes(u64::try_from(bytes).unwrap_or(facts.memory.0))
    };
    let memory = match give.memory.map(|memory| memory.value) {
        None => part(u128::from(MEMORY_PERCENT) * WHOLE / 100),
        Some(MemoryGive::OfNode(percent)) => part(u128::from(percent.0)),
        Some(MemoryGive::Bytes(bytes)) => bytes,
    };
    if memory > facts.memory {
        let at = give.memory.and_then(|memory| memory.at);
        complaints.push(too_much(
            "memory",
            at,
            facts.memory,
            Bytes(memory.0 - facts.memory.0),
        ));
    }
    let processes = give
        .processes
        .map_or(facts.pid_max / 2, |processes| processes.value);
    if processes > facts.pid_max {
        let at = give.processes.and_then(|processes| processes.at);
        complaints.push(too_much(
            "processes",
            at,
            facts.pid_max,
            processes - facts.pid_max,
        ));
    }
    Given {
        cpu,
        memory,
        processes,
    }
}

fn too_much(
    resource: &str,
    at: Option<Place>,
    has: impl std::fmt::Display,
    by: impl std::fmt::Display,
) -> Complaint {
    Complaint::maybe_at(
        at,
        format!("[node.give] gives {by} more {resource} than the node has ({has})"),
        format!("give at most {has}"),
    )
}

/// Floors are promises: all must hold at once.
fn floors(config: &Config, given: Given, complaints: &mut Vec<Complaint>) {
    let give = config.node.give;
    let cpu: Vec<_> = config
        .slices
        .iter()
        .map(|slice| slice.cpu.floor.map(|floor| floor.0))
        .collect();
    let memory: Vec<_> = config
        .slices
        .iter()
        .map(|slice| slice.memory.floor.map(|floor| floor.0))
        .collect();
    let cpu_at = give.cpu.and_then(|cpu| cpu.at);
    let memory_at = give.memory.and_then(|memory| memory.at);
    complaints.extend(floor(
        "CPU",
        "cpu",
        &cpu,
        (given.cpu.0, cpu_at),
        (cores, cores),
    ));
    complaints.extend(floor(
        "memory",
        "memory",
        &memory,
        (given.memory.0, memory_at),
        (down, up),
    ));
}

fn cores(steps: u64) -> String {
    MilliCores(steps).to_string()
}

/// Bytes as people compare them, not less than they are.
fn up(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << 20);
    short(bytes, tenths)
}

/// Bytes as people compare them, not more than they are.
fn down(bytes: u64) -> String {
    short(bytes, (u128::from(bytes) * 10) >> 20)
}

fn short(bytes: u64, tenths: u128) -> String {
    let exact = Bytes(bytes).to_string();
    if exact.len() <= 10 {
        return exact;
    }
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// How a resource is printed: what there is, and what is needed.
type Print = fn(u64) -> String;

fn floor(
    resource: &str,
    key: &str,
    floors: &[At<u64>],
    (given, given_at): (u64, Option<Place>),
    (less, more): (Print, Print),
) -> Option<Complaint> {
    let sum = floors
        .iter()
        .fold(0u64, |sum, floor| sum.saturating_add(floor.value));
    let over = sum.checked_sub(given).filter(|over| *over > 0)?;
    let largest = floors.iter().max_by_key(|floor| floor.value)?;
    let who = match floors.iter().filter(|floor| floor.value > 0).count() {
        1 => String::from("one slice needs"),
        n => format!("{n} slices together need"),
    };
    let message = format!(
        "the {resource} floors do not fit: {who} {}, the node gives {}, {} too much",
        more(sum),
        less(given),
        more(over),
    );
    let help = format!(
        "lower floors by {} in all, or raise `{key}` in [node.give]",
        more(over)
    );
    Some(Complaint::maybe_at(largest.at, message, help).with_other(given_at, "given here"))
}

/// No port has two owners.
fn ports(config: &Config, complaints: &mut Vec<Complaint>) {
    for (protocol, list) in PROTOCOLS {
        // All reservations of the protocol, in the order of ports: neighbours that overlap collide.
        let mut owners: Vec<(At<PortRange>, Option<&Slice>)> = Vec::new();
        owners.extend(
            list(&config.node.reserved)
                .iter()
                .map(|range| (*range, None)),
        );
        for slice in &config.slices {
            owners.extend(
                list(&slice.ports.reserved)
                    .iter()
                    .map(|range| (*range, Some(slice))),
            );
        }
        owners.sort_by_key(|(range, _)| range.value);
        let mut widest: Option<(At<PortRange>, Option<&Slice>)> = None;
        for (range, owner) in owners {
            if let Some(kept) = range.value.overlap(LOOPBACK_PORTS) {
                complaints.push(Complaint::maybe_at(
                    range.at,
                    format!("{protocol} port {kept} cannot be reserved: {LOOPBACK_PORTS} are kept for loopback translation"),
                    "choose another port",
                ));
            }
            if let Some((before, first)) = widest
                && let Some(shared) = before.value.overlap(range.value)
            {
                complaints.push(collision(protocol, shared, (before, first), (range, owner)));
            }
            if widest.is_none_or(|(before, _)| range.value.high() > before.value.high()) {
                widest = Some((range, owner));
            }
        }
    }
    for slice in &config.slices {
        // With an own address of each family the slice never uses a shared one.
        let (Some(ipv4), Some(_)) = (slice.address.ipv4, slice.address.ipv6) else {
            continue;
        };
        let reserved = slice
            .ports
            .reserved
            .tcp
            .first()
            .or(slice.ports.reserved.udp.first());
        if let Some(reserved) = reserved {
            complaints.push(
                Complaint::maybe_at(
                    reserved.at,
                    format!("slice {} reserves ports of the shared addresses and uses none of these", slice.name.value),
                    "remove the reservation: every port of its own addresses is the slice's already",
                )
                .with_other(ipv4.at, "its own address"),
            );
        }
    }
}

type ListOf = fn(&crate::config::Ports) -> &[At<PortRange>];

const PROTOCOLS: [(&str, ListOf); 2] = [("TCP", |ports| &ports.tcp), ("UDP", |ports| &ports.udp)];

fn collision(
    protocol: &str,
    shared: PortRange,
    first: (At<PortRange>, Option<&Slice>),
    second: (At<PortRange>, Option<&Slice>),
) -> Complaint {
    // The slice is asked to give way to the node, the later file to the earlier.
    let (first, second) = if second.1.is_none() || first.1.is_some() && first.0.at > second.0.at {
        (second, first)
    } else {
        (first, second)
    };
    let name = |owner: Option<&Slice>| match owner {
        None => String::from("the node"),
        Some(slice) => format!("slice {}", slice.name.value),
    };
    Complaint::maybe_at(
        second.0.at,
        format!(
            "{protocol} port {shared} is reserved for {} and for {}",
            name(first.1),
            name(second.1)
        ),
        "a port has one owner: remove it from one of the two",
    )
    .with_other(first.0.at, format!("for {}", name(first.1)))
}

/// An own address is one slice's, and nobody shares it.
fn addresses(config: &Config, facts: &Facts, complaints: &mut Vec<Complaint>) {
    let mut owners: BTreeMap<IpAddr, (&Slice, Option<Place>)> = BTreeMap::new();
    for slice in &config.slices {
        let own = slice.address;
        let own = [
            own.ipv4.map(|a| a.map(IpAddr::V4)),
            own.ipv6.map(|a| a.map(IpAddr::V6)),
        ];
        for address in own.into_iter().flatten() {
            if let Some((first, at)) = owners.get(&address.value) {
                complaints.push(
                    Complaint::maybe_at(
                        address.at,
                        format!(
                            "{} belongs to slice {} and to slice {}",
                            address.value, first.name.value, slice.name.value
                        ),
                        "an own address has one owner: remove it from one of the two",
                    )
                    .with_other(*at, format!("slice {}", first.name.value)),
                );
                continue;
            }
            owners.insert(address.value, (slice, address.at));
            let excluded = config
                .node
                .exclude
                .iter()
                .any(|prefix| prefix.contains(address.value));
            if !excluded {
                complaints.push(Complaint::maybe_at(
                    address.at,
                    format!("{} is shared by the node and all slices", address.value),
                    format!("add \"{}\" to `exclude` in [node.addresses]: the node itself then cannot use it", address.value),
                ));
            }
        }
    }
    let all = owners.len() + shared_addresses(config, facts).len();
    if all > MAX_ADDRESSES {
        let message = format!(
            "the node has {all} addresses, {} more than its table holds",
            all - MAX_ADDRESSES
        );
        complaints.push(Complaint::maybe_at(
            config.node.exclude.first().and_then(|prefix| prefix.at),
            message,
            "exclude addresses that slices do not need in [node.addresses]",
        ));
    }
}

/// Entries of the kernel's map of addresses.
const MAX_ADDRESSES: usize = 32_768;

/// The stretch of user ids for all slices fits, and is nobody's.
fn uids(config: &Config, facts: &Facts, complaints: &mut Vec<Complaint>) {
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

fn ids<'a>(
    config: &'a Config,
    ledger: &Ledger,
    complaints: &mut Vec<Complaint>,
) -> BTreeMap<&'a str, SliceId> {
    let (there, most) = (config.slices.len(), config.node.max_slices.value as usize);
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
            .filter(|id| id.is_slice() && id.index() < self::rows(config))
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

/// The addresses of the node that all slices share under this policy.
#[must_use]
pub fn shared_addresses(config: &Config, facts: &Facts) -> Vec<IpAddr> {
    let excluded = |address: &IpAddr| {
        config
            .node
            .exclude
            .iter()
            .any(|prefix: &At<Prefix>| prefix.contains(*address))
    };
    let plain = |address: &IpAddr| {
        !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
    };
    let mut shared: Vec<IpAddr> = facts
        .addresses
        .iter()
        .copied()
        .filter(|a| plain(a) && !excluded(a))
        .collect();
    shared.sort_unstable();
    shared.dedup();
    shared
}
