//! Slices that slices make: what one with the grant `control` lends to each, out of what its
//! `[control]` sets aside, and never more than that.
//!
//! [`Room`] is what is left to lend; each slice takes its part of it or is refused, by the key, the
//! resource and by how much. [`join`] adds the slices that were made to a policy: those that fit what
//! their controllers have now. The owner's own slices come first in all of it.
//!
//! What a slice may not ask for it has as its controller has it (sockets, claims, capabilities,
//! refused destinations ...) or not at all (grants, addresses, raw ports, namespaces, shares above one).

use std::collections::{BTreeMap, BTreeSet};

use crate::config::units::{BitsPerSecond, Bytes, MilliCores};
use crate::config::{
    At, Config, Context, Cpu, Disk, Grants, Io, LinkTable, Login, Memory, Objection, OwnAddress,
    PortRange, PortSet, Ports, PublicKey, Raw, Role, Slice, SliceLinks, SliceName, SlicePorts,
    Terms,
};

mod promise; // what the node promises for a slice
mod room; // what is left to lend

pub use promise::Promise;
pub use room::Room;
use room::set;

/// A slice that another made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lent {
    /// Its name.
    pub name: SliceName,
    /// Who made it.
    pub controller: SliceName,
    /// What it asked for.
    pub terms: Terms,
}

/// One that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: SliceName,
    /// Who made it.
    pub controller: SliceName,
    /// Why.
    pub why: Vec<Objection>,
    /// Whether the owner has a slice of this name.
    pub displaced: bool,
}

/// A policy with the slices that were made.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The owner's, and those that fit.
    pub config: Config,
    /// The others.
    pub left_out: Vec<LeftOut>,
}

fn ranges(set: &PortSet) -> Vec<At<PortRange>> {
    set.ranges().iter().copied().map(At::default).collect()
}

/// The policy with the slices that were made, in the order in which they take their parts. Ports that
/// a controller lends to nobody are reserved for itself. Those whose controller is in `without` are
/// left out.
#[must_use]
pub fn join(owners: &Config, lent: &[Lent], without: &BTreeMap<SliceName, String>) -> Joined {
    let mut rooms: BTreeMap<&SliceName, Room<'_>> = owners
        .slices
        .iter()
        .filter_map(|slice| Some((&slice.name.value, Room::of(slice)?)))
        .collect();
    let taken: BTreeSet<&SliceName> = owners
        .slices
        .iter()
        .map(|slice| &slice.name.value)
        .collect();
    let mut config = owners.clone();
    let mut left_out = Vec::new();
    for one in lent {
        let displaced = taken.contains(&one.name);
        let result = if displaced {
            Err(vec![Objection::new(
                "name",
                "the node's owner has a slice of this name",
            )])
        } else if let Some(why) = without.get(&one.controller) {
            Err(vec![Objection::new("", why.clone())])
        } else {
            match rooms.get_mut(&one.controller) {
                None => {
                    let why = format!("{} does not control slices", one.controller);
                    Err(vec![Objection::new("", why)])
                }
                Some(room) => room
                    .take(&one.name, &one.terms)
                    .map(|()| made(room.controller, one)),
            }
        };
        match result {
            Ok(slice) => config.slices.extend(slice),
            Err(why) => left_out.push(LeftOut {
                name: one.name.clone(),
                controller: one.controller.clone(),
                why,
                displaced,
            }),
        }
    }
    for slice in &mut config.slices {
        let Some(room) = rooms.get(&slice.name.value) else {
            continue;
        };
        let at = room.control.at;
        let place = |range: &PortRange| At::written(*range, at);
        let own = &mut slice.ports.reserved;
        own.tcp.extend(room.tcp.ranges().iter().map(place));
        own.udp.extend(room.udp.ranges().iter().map(place));
        own.tcp.sort_by_key(|range| range.value);
        own.udp.sort_by_key(|range| range.value);
    }
    config
        .slices
        .sort_by(|a, b| a.name.value.cmp(&b.name.value));
    Joined { config, left_out }
}

/// The slice that these terms make; none where they are none, which [`Terms::faults`] tells.
fn made(by: &Slice, Lent { name, terms, .. }: &Lent) -> Option<Slice> {
    let bytes = |bytes: u64| At::default(Bytes(bytes));
    let cores = |cores: u64| At::default(MilliCores(cores));
    let rate = |bits: u64| At::default(BitsPerSecond(bits));
    let parent = by.context.as_ref()?;
    let on_links = terms.link_floor > 0
        || terms.link_cap.is_some()
        || terms.link_packets.is_some()
        || terms.link_receive.is_some();
    let link = on_links.then(|| LinkTable {
        at: by
            .control
            .as_ref()
            .map_or(crate::config::Place::top(0), |control| control.at),
        floor: Some(rate(terms.link_floor)),
        share: None,
        cap: terms.link_cap.map(rate),
        quota: None,
        quota_period: None,
        exempt_cap: None,
        packets: terms.link_packets,
        receive: terms.link_receive.map(BitsPerSecond),
    });
    Some(Slice {
        name: At::default(name.clone()),
        description: terms.description.clone(),
        role: Role::Slice,
        grants: Grants::default(),
        sockets: by.sockets,
        connections: by.connections,
        connections_per_second: by.connections_per_second,
        events_per_second: by.events_per_second,
        processes: terms.processes.unwrap_or(by.processes),
        ports: SlicePorts {
            reserved: Ports {
                tcp: ranges(&set(&terms.tcp)),
                udp: ranges(&set(&terms.udp)),
            },
            raw: Ports::default(),
            claim: by.ports.claim,
            claims: by.ports.claims,
        },
        address: OwnAddress::default(),
        cpu: Cpu {
            floor: cores(terms.cpu_floor),
            share: 1,
            cap: terms.cpu_cap.map(cores),
        },
        memory: Memory {
            floor: bytes(terms.memory_floor),
            cap: terms.memory_cap.map(bytes),
        },
        disk: Disk {
            cap: terms.disk_cap.map(bytes),
            inodes: None,
        },
        io: Io {
            weight: by.io.weight.filter(|weight| weight.value < WEIGHT),
            ..by.io
        },
        links: SliceLinks {
            every: link,
            one: Vec::new(),
        },
        refuse: by.refuse.clone(),
        context: Some(Context {
            image: At::default(SliceName::new(&terms.image).ok()?),
            hostname: SliceName::new(&terms.hostname).ok()?.to_string(),
            autostart: terms.autostart,
            nested: false,
            stop_after: parent.stop_after,
            capabilities: parent.capabilities.clone(),
        }),
        login: Login {
            keys: terms
                .keys
                .iter()
                .filter_map(|key| PublicKey::parse(key).ok())
                .collect(),
            authorities: Vec::new(),
        },
        raw: if terms.raw { Raw::Safe } else { Raw::None },
        control: None,
        controller: Some(by.name.value.clone()),
    })
}

/// Weight of a slice that says nothing: what is above is not lent.
const WEIGHT: u32 = 100;
