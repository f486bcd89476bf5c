//! `slice status`: what each owner uses, sends, receives and was denied.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use policy::SliceId;
use policy::abi::{CLAIM, Denials, LIVE, OWN_IPV4, OWN_IPV6, SliceEntry, SliceState, Traffic};
use policy::decide::connection;
use policy::verdict::Reason;
use serde::{Deserialize, Serialize};

use super::{NODE, UNATTRIBUTED, Used};
use crate::context::running::Life;

/// The answer to `slice status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// When the maps were read.
    pub time: Timestamp,
    /// The machine.
    pub node: Node,
    /// The node's row, the slices by name, the row of the unattributed.
    pub rows: Vec<Row>,
    /// The sum of all rows.
    pub total: Total,
}

/// The machine and what runs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its host name.
    pub name: String,
    /// Its kernel, as `uname -r` says it.
    pub kernel: String,
    /// Version of `slice` that put the policy in force.
    pub version: String,
    /// Version of the map layouts.
    pub abi_version: u32,
    /// The directory the policy was read from.
    pub policy: PathBuf,
    /// When the node came up.
    pub since: Timestamp,
    /// Slices there are and that fit the maps.
    pub slices: Used,
    /// The daemon; absent where none runs.
    pub daemon: Option<Daemon>,
}

/// The running daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Its process.
    pub pid: u32,
}

/// Which kind of owner a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum RowKind {
    /// Every process outside the slices.
    Node,
    /// A tenant.
    Slice,
    /// Packets whose owner the kernel does not tell.
    Unattributed,
}

/// Whether the programs let the owner do anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum RowState {
    /// In force.
    Live,
    /// Everything is denied: the row holds no live entry of this owner.
    Denied,
}

/// One owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Row {
    /// The number of its [`SliceId`].
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RowKind,
    /// Whether it is in force.
    pub state: RowState,
    /// Whether its context runs; absent where it has none.
    pub context: Option<Life>,
    /// The slice that made it; absent where the node's owner did.
    #[serde(default)]
    pub controller: Option<String>,
    /// Addresses of its own, as text; empty where it uses the node's.
    pub addresses: Vec<String>,
    /// Whether it may bind ports that are nobody's.
    pub claim: bool,
    /// Sockets open.
    pub sockets: Used,
    /// Sockets made since it was created.
    pub sockets_opened: u64,
    /// TCP connections that it started and that are not over; absent where they
    /// are not counted.
    pub connections: Option<Used>,
    /// What is used up of the connections that it may start in a second,
    /// likewise.
    pub connections_per_second: Option<Used>,
    /// TCP connections started since it was created, likewise.
    pub connections_started: Option<u64>,
    /// Ports claimed.
    pub claims: Used,
    /// Flows learned.
    pub flows: u64,
    /// Processes and threads; absent where they are not counted.
    pub processes: Option<Used>,
    /// Bytes of memory; absent where they are not counted.
    pub memory: Option<Used>,
    /// Bytes of memory that are out on a disk, likewise.
    pub swap: Option<u64>,
    /// CPU time; absent where it is not counted.
    pub cpu: Option<Cpu>,
    /// Bytes of its files on the disk; absent where it has none or they are not
    /// counted.
    pub disk: Option<Used>,
    /// Files, directories and links, likewise.
    pub inodes: Option<Used>,
    /// Read and written of the disk; absent where it is not counted.
    pub io: Option<Io>,
    /// To and from other machines.
    pub external: Way,
    /// Inside the node.
    pub loopback: Way,
    /// Denied calls and dropped packets.
    pub denials: Denied,
    /// Events not sent because of the rate or because the ring was full.
    pub events_suppressed: u64,
}

/// CPU time of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cpu {
    /// Used since the slice was created, in microseconds.
    pub used_us: u64,
    /// Most it may use at a time, in thousandths of a core; absent where
    /// nothing bounds it.
    pub cap_millicores: Option<u64>,
}

/// Use of the block device that slices' files lie on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Io {
    /// From the device.
    pub read: Transfer,
    /// To the device.
    pub write: Transfer,
}

/// One direction of block I/O. Usage is since the slice was created, limits are
/// per second; absent where nothing bounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Transfer {
    /// Bytes so far.
    pub bytes: u64,
    /// Operations so far.
    pub operations: u64,
    /// Most bytes in a second.
    pub bytes_per_second_limit: Option<u64>,
    /// Most operations in a second.
    pub operations_per_second_limit: Option<u64>,
}

/// Traffic of one kind, both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Way {
    /// Out.
    pub sent: Volume,
    /// In.
    pub received: Volume,
}

/// Packets and bytes, counted at the IP layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Volume {
    /// Packets; segments of a GSO packet apiece.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

/// Denials of one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Denied {
    /// All of them.
    pub total: u64,
    /// By the slug of the reason, every reason listed.
    pub by_reason: BTreeMap<Cow<'static, str>, u64>,
}

/// Sums over all rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Total {
    /// Sockets open.
    pub sockets: u64,
    /// Ports claimed.
    pub claims: u64,
    /// To and from other machines.
    pub external: Way,
    /// Inside the node.
    pub loopback: Way,
    /// Denied calls and dropped packets.
    pub denials: u64,
}

/// What was read of one row.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Whose.
    pub id: SliceId,
    /// The slice's name; not looked at for the two fixed rows.
    pub name: String,
    /// `SLICES`.
    pub entry: SliceEntry,
    /// `STATES`.
    pub state: SliceState,
    /// The clock of [`SliceState::connections_paid_ns`] when it was read.
    pub now_ns: u64,
    /// `TRAFFIC`, all CPUs together.
    pub traffic: Traffic,
    /// `DENIALS`.
    pub denials: Denials,
    /// Whether its context runs.
    pub context: Option<Life>,
    /// The slice that made it.
    pub controller: Option<String>,
    /// Processes of its cgroup.
    pub processes: Option<Used>,
    /// Memory of its cgroup.
    pub memory: Option<Used>,
    /// Swapped memory of its cgroup.
    pub swap: Option<u64>,
    /// CPU time of its cgroup.
    pub cpu: Option<Cpu>,
    /// Bytes of its layer.
    pub disk: Option<Used>,
    /// Files, directories and links of its layer.
    pub inodes: Option<Used>,
    /// Block I/O of its cgroup.
    pub io: Option<Io>,
}

impl Status {
    /// The report about these rows: node first, slices by name, unattributed last.
    #[must_use]
    pub fn new(time: Timestamp, node: Node, readings: Vec<Reading>) -> Self {
        let mut rows: Vec<Row> = readings.into_iter().map(Row::from).collect();
        rows.sort_by(|a, b| (a.kind.place(), &a.name).cmp(&(b.kind.place(), &b.name)));
        let total = Total::of(&rows);
        Self {
            time,
            node,
            rows,
            total,
        }
    }

    /// The same report about one owner; `None` if there is none of that name.
    #[must_use]
    pub fn only(mut self, name: &str) -> Option<Self> {
        self.rows.retain(|row| row.name == name);
        if self.rows.is_empty() {
            return None;
        }
        self.total = Total::of(&self.rows);
        Some(self)
    }
}

impl RowKind {
    /// What the row of this id is about.
    #[must_use]
    pub fn of(id: SliceId) -> Self {
        match id {
            SliceId::NODE => Self::Node,
            SliceId::UNATTRIBUTED => Self::Unattributed,
            _ => Self::Slice,
        }
    }

    const fn place(self) -> u8 {
        match self {
            Self::Node => 0,
            Self::Slice => 1,
            Self::Unattributed => 2,
        }
    }
}

impl From<Reading> for Row {
    fn from(reading: Reading) -> Self {
        let Reading {
            id, entry, state, ..
        } = reading;
        let kind = RowKind::of(id);
        // The row of the unattributed makes no calls: it has no entry to be live.
        let live = kind == RowKind::Unattributed || (entry.flags & LIVE != 0 && entry.id == id);
        let limit = |most: u32| match kind {
            RowKind::Slice if live => Some(u64::from(most)),
            _ => None,
        };
        // Programs count the connections of slices alone.
        let of_slice = |usage, most| {
            (kind == RowKind::Slice).then(|| Used {
                usage,
                limit: limit(most),
            })
        };
        let in_second = connection::used(
            state.connections_paid_ns,
            entry.connections_per_second,
            reading.now_ns,
        );
        let [external, loopback] = Way::both(&reading.traffic);
        Self {
            id: id.0,
            name: match kind {
                RowKind::Node => NODE.to_owned(),
                RowKind::Slice => reading.name,
                RowKind::Unattributed => UNATTRIBUTED.to_owned(),
            },
            kind,
            state: if live {
                RowState::Live
            } else {
                RowState::Denied
            },
            context: reading.context,
            controller: reading.controller,
            addresses: own_addresses(&entry),
            claim: kind != RowKind::Slice || entry.flags & CLAIM != 0,
            sockets: Used {
                usage: state.sockets_open,
                limit: limit(entry.sockets_max),
            },
            sockets_opened: state.sockets_opened,
            connections: of_slice(state.connections, entry.connections_max),
            connections_per_second: of_slice(in_second, entry.connections_per_second),
            connections_started: (kind == RowKind::Slice).then_some(state.connections_started),
            claims: Used {
                usage: state.claims,
                limit: limit(entry.claims_max),
            },
            flows: state.flows,
            processes: reading.processes,
            memory: reading.memory,
            swap: reading.swap,
            cpu: reading.cpu,
            disk: reading.disk,
            inodes: reading.inodes,
            io: reading.io,
            external,
            loopback,
            denials: Denied::from(&reading.denials),
            events_suppressed: state.events_suppressed,
        }
    }
}

impl From<&Denials> for Denied {
    fn from(denials: &Denials) -> Self {
        // A newer object may count reasons that this loader has no name for:
        // they are part of the total.
        Self {
            total: denials
                .counts
                .iter()
                .fold(0, |sum, count| sum.saturating_add(*count)),
            by_reason: Reason::ALL
                .iter()
                .map(|reason| (reason.slug().into(), denials.counts[*reason as usize]))
                .collect(),
        }
    }
}

impl Denied {
    /// The reasons that were ever given, the most frequent first.
    #[must_use]
    pub fn reasons(&self) -> Vec<(Reason, u64)> {
        let mut given: Vec<(Reason, u64)> = Reason::ALL
            .iter()
            .filter_map(|reason| Some((*reason, *self.by_reason.get(reason.slug())?)))
            .filter(|(_, count)| *count > 0)
            .collect();
        given.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
        given
    }
}

impl Total {
    /// Adds what was read of an owner.
    pub fn add(&mut self, state: &SliceState, traffic: &Traffic, denials: &Denials) {
        let [external, loopback] = Way::both(traffic);
        let denied = denials.counts.iter();
        self.sockets += state.sockets_open;
        self.claims += state.claims;
        self.external.add(&external);
        self.loopback.add(&loopback);
        self.denials += denied.fold(0_u64, |sum, count| sum.saturating_add(*count));
    }

    fn of(rows: &[Row]) -> Self {
        let mut total = Self::default();
        for row in rows {
            total.sockets += row.sockets.usage;
            total.claims += row.claims.usage;
            total.external.add(&row.external);
            total.loopback.add(&row.loopback);
            total.denials += row.denials.total;
        }
        total
    }
}

impl Way {
    /// Of an owner's traffic that to and from other machines, and that inside the node.
    #[must_use]
    pub fn both(traffic: &Traffic) -> [Self; 2] {
        let volume = |packets, bytes| Volume { packets, bytes };
        let external = Self {
            sent: volume(traffic.sent_packets, traffic.sent_bytes),
            received: volume(traffic.received_packets, traffic.received_bytes),
        };
        let loopback = Self {
            sent: volume(traffic.loopback_sent_packets, traffic.loopback_sent_bytes),
            received: volume(
                traffic.loopback_received_packets,
                traffic.loopback_received_bytes,
            ),
        };
        [external, loopback]
    }

    fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.sent, other.sent),
            (&mut self.received, other.received),
        ] {
            sum.packets += part.packets;
            sum.bytes += part.bytes;
        }
    }
}

fn own_addresses(entry: &SliceEntry) -> Vec<String> {
    let v4 =
        (entry.flags & OWN_IPV4 != 0).then(|| std::net::Ipv4Addr::from(entry.own_ipv4).to_string());
    let v6 =
        (entry.flags & OWN_IPV6 != 0).then(|| std::net::Ipv6Addr::from(entry.own_ipv6).to_string());
    v4.into_iter().chain(v6).collect()
}
