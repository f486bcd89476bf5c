//! From an admitted policy to everything the loader writes: entries of maps, attributes of
//! cgroups, sysctls; and from two of these to the difference. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use zerocopy::FromZeros;

use crate::abi::{
    ABI_VERSION, ADDRESS_OWN, ADDRESS_SHARED, ADDRESSES_APART, AUDIT, Address, AddressEntry, CLAIM,
    LIVE, LinkKnobs, NESTED, OWN_IPV4, OWN_IPV6, POLICED, RAW, RAW_SLICES, REFUSES_DESTINATIONS,
    RESERVED_FOUND, RESERVED_NODE, RESERVED_RAW, RESERVED_SLICE, RefusedKey, RefusedPorts,
    Reserved, Settings, SliceEntry, SliceNameBytes, TCP, UDP, mapped, port_index, refused_row,
    refused_row_of, tally_rows,
};
use crate::admission::{Admitted, rows, shared_addresses};
use crate::config::{LOOPBACK_PORTS, PortSet, Ports, Raw, Slice, SliceName};
use crate::ids::{FIRST_SLICE_ROW, SliceId};

mod cgroups;
mod changes;
pub mod disk;
pub mod exempt;
mod io;
mod link;
pub mod refused;
mod show;
mod weight;

pub use cgroups::{Cgroup, CgroupWrite};
pub use changes::{Changes, MapChanges, Step};
pub use disk::DiskLimits;
pub use exempt::ExemptAt;
pub use link::{KnobsAt, Link};

/// Everything an admitted policy makes the loader write. Two compilations of the same input are
/// equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `SETTINGS`, with `generation` 0: the loader counts it.
    pub settings: Settings,
    /// `SLICES`, by row: the two fixed rows and one per slice.
    pub slices: BTreeMap<u32, SliceEntry>,
    /// `RESERVED`, by [`port_index`]: rows that are somebody's.
    pub reserved: BTreeMap<u32, Reserved>,
    /// `ADDRESSES`.
    pub addresses: BTreeMap<Address, AddressEntry>,
    /// `REFUSED`.
    pub refused: BTreeMap<RefusedAt, RefusedPorts>,
    /// Links, sorted by name: the number of one is its place here. What they are is `LINKS`.
    pub links: Vec<Link>,
    /// `KNOBS`: of the node (row 0) and of every slice on every link.
    pub knobs: BTreeMap<KnobsAt, LinkKnobs>,
    /// `EXEMPT`.
    pub exempt: BTreeSet<ExemptAt>,
    /// Attributes of cgroups, the parent's before its children's.
    pub cgroups: Vec<CgroupWrite>,
    /// Bounds on the disk: the file system's project has the slice's id. Every slice is there.
    pub disk: BTreeMap<SliceId, DiskLimits>,
    /// `net.ipv4.ip_local_reserved_ports`: what the node had, and every port that must not be
    /// picked by the kernel.
    pub reserved_ports: PortSet,
}

/// A key of `REFUSED` in the order of the map: row, address, length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefusedAt {
    /// Row of the slice, 0 for all slices.
    pub row: u32,
    /// The prefix.
    pub address: Address,
    /// Bits of the address that count, in mapped form: 0 to 128.
    pub length: u32,
}

/// Compiles an admitted policy.
#[must_use]
pub fn compile(admitted: &Admitted<'_>) -> Plan {
    let refused: BTreeMap<RefusedAt, RefusedPorts> = admitted
        .refused()
        .iter()
        .map(|(key, ports)| (RefusedAt::from(key), *ports))
        .collect();
    let addresses = addresses(admitted);
    Plan {
        settings: settings(admitted, &addresses, !refused.is_empty()),
        slices: slices(admitted),
        reserved: reserved(admitted),
        addresses,
        refused,
        links: link::links(admitted),
        knobs: link::knobs(admitted),
        exempt: exempt::entries(&admitted.config().node.links),
        cgroups: cgroups::cgroups(admitted),
        disk: disk::disk(admitted),
        reserved_ports: reserved_ports(admitted),
    }
}

fn settings(
    admitted: &Admitted<'_>,
    addresses: &BTreeMap<Address, AddressEntry>,
    refuses: bool,
) -> Settings {
    let (node, facts) = (&admitted.config().node, admitted.facts());
    let apart =
        !node.exclude.is_empty() || addresses.values().any(|entry| entry.kind == ADDRESS_OWN);
    let raw = admitted.slices().any(|(_, slice)| slice.raw == Raw::Safe);
    let owners = admitted.slices().fold(FIRST_SLICE_ROW, |sum, _| sum + 1);
    Settings {
        abi_version: ABI_VERSION,
        slices_level: facts.slices_level,
        node_netns: facts.node_netns,
        flags: if refuses { REFUSES_DESTINATIONS } else { 0 }
            | if apart { ADDRESSES_APART } else { 0 }
            | if raw { RAW_SLICES } else { 0 },
        loopback_low: LOOPBACK_PORTS.low(),
        loopback_high: LOOPBACK_PORTS.high(),
        ephemeral_low: facts.ephemeral.low(),
        ephemeral_high: facts.ephemeral.high(),
        linger_ns: node.linger.0,
        rows: rows(admitted.config()),
        tally_rows: if node.flows.keep.0 == 0 {
            0
        } else {
            tally_rows(owners)
        },
        ..Settings::new_zeroed()
    }
}

fn slices(admitted: &Admitted<'_>) -> BTreeMap<u32, SliceEntry> {
    let fixed = [SliceId::NODE, SliceId::UNATTRIBUTED].map(|id| SliceEntry {
        id,
        // The node has no limits; its events are bounded like everybody's.
        flags: LIVE | CLAIM,
        sockets_max: u32::MAX,
        claims_max: u32::MAX,
        connections_max: u32::MAX,
        connections_per_second: u32::MAX,
        events_per_second: admitted.config().node.events_per_second,
        ..SliceEntry::new_zeroed()
    });
    let slices = admitted.slices().map(|(id, slice)| {
        let mut on_links = admitted.config().node.links.iter();
        let policed = on_links.any(|link| slice.links.on(&link.name.value).receive.is_some());
        slice_entry(id, slice, policed)
    });
    fixed
        .into_iter()
        .chain(slices)
        .map(|entry| (entry.id.index(), entry))
        .collect()
}

fn slice_entry(id: SliceId, slice: &Slice, policed: bool) -> SliceEntry {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let (ipv4, ipv6) = (slice.address.ipv4, slice.address.ipv6);
    SliceEntry {
        id,
        flags: LIVE
            | flag(slice.ports.claim, CLAIM)
            | flag(ipv4.is_some(), OWN_IPV4)
            | flag(ipv6.is_some(), OWN_IPV6)
            | flag(slice.raw == Raw::Safe, RAW)
            | flag(slice.grants.audit, AUDIT)
            | flag(policed, POLICED)
            | flag(
                slice.context.as_ref().is_some_and(|context| context.nested),
                NESTED,
            ),
        sockets_max: slice.sockets,
        claims_max: slice.ports.claims,
        connections_max: slice.connections.unwrap_or(slice.sockets),
        connections_per_second: slice.connections_per_second,
        events_per_second: slice.events_per_second,
        own_ipv4: ipv4.map_or([0; 4], |address| address.octets()),
        own_ipv6: ipv6.map_or([0; 16], |address| address.octets()),
        name: name(&slice.name.value),
    }
}

/// A name as the maps have it: one that is too long for them is none.
fn name(name: &SliceName) -> SliceNameBytes {
    let mut bytes = SliceNameBytes::default();
    for (to, from) in bytes.iter_mut().zip(name.as_str().bytes()) {
        *to = from;
    }
    bytes
}

fn reserved(admitted: &Admitted<'_>) -> BTreeMap<u32, Reserved> {
    let facts = admitted.facts();
    let mut rows = BTreeMap::new();
    let mut keep = |protocol: u8, ports: &PortSet, entry: Reserved| {
        rows.extend(
            ports
                .iter()
                .filter_map(|port| Some((port_index(protocol, port)?, entry))),
        );
    };
    // In this order policy goes over what was found.
    let found = Reserved {
        owner: SliceId::NODE,
        kind: RESERVED_FOUND,
        flags: 0,
    };
    keep(TCP, &facts.found_tcp, found);
    keep(UDP, &facts.found_udp, found);
    let mut keep_both = |ports: &Ports, entry: Reserved| {
        keep(TCP, &ports.tcp_set(), entry);
        keep(UDP, &ports.udp_set(), entry);
    };
    let of_node = Reserved {
        owner: SliceId::NODE,
        kind: RESERVED_NODE,
        flags: 0,
    };
    keep_both(&admitted.config().node.reserved, of_node);
    for (owner, slice) in admitted.slices() {
        let of_slice = |flags| Reserved {
            owner,
            kind: RESERVED_SLICE,
            flags,
        };
        keep_both(&slice.ports.reserved, of_slice(0));
        keep_both(&slice.ports.raw, of_slice(RESERVED_RAW));
    }
    rows
}

fn addresses(admitted: &Admitted<'_>) -> BTreeMap<Address, AddressEntry> {
    let shared = AddressEntry {
        owner: SliceId::NODE,
        kind: ADDRESS_SHARED,
    };
    let mut entries: BTreeMap<Address, AddressEntry> =
        shared_addresses(admitted.config(), admitted.facts())
            .into_iter()
            .map(|address| (in_map(address), shared))
            .collect();
    for (owner, slice) in admitted.slices() {
        let own = AddressEntry {
            owner,
            kind: ADDRESS_OWN,
        };
        let ipv4 = slice.address.ipv4.map(|address| IpAddr::V4(address.value));
        let ipv6 = slice.address.ipv6.map(|address| IpAddr::V6(address.value));
        entries.extend(
            ipv4.into_iter()
                .chain(ipv6)
                .map(|address| (in_map(address), own)),
        );
    }
    entries
}

/// An address as the maps have it.
fn in_map(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn reserved_ports(admitted: &Admitted<'_>) -> PortSet {
    let of = |ports: &Ports| ports.tcp_set().union(&ports.udp_set());
    // The sysctl knows no protocols.
    let loopback: PortSet = [LOOPBACK_PORTS].into_iter().collect();
    let before = admitted
        .facts()
        .reserved_ports
        .union(&loopback)
        .union(&of(&admitted.config().node.reserved));
    admitted.slices().fold(before, |ports, (_, slice)| {
        ports
            .union(&of(&slice.ports.reserved))
            .union(&of(&slice.ports.raw))
    })
}

impl From<&RefusedKey> for RefusedAt {
    fn from(key: &RefusedKey) -> Self {
        let row = refused_row_of(key.row);
        Self {
            row,
            address: key.address,
            length: key.prefix_length.saturating_sub(32),
        }
    }
}

impl RefusedAt {
    /// The key as the kernel's map has it.
    #[must_use]
    pub fn key(&self) -> RefusedKey {
        RefusedKey {
            prefix_length: 32 + self.length,
            row: refused_row(self.row),
            address: self.address,
        }
    }
}
