//! What the node owner wrote: `node.toml` and one `slices/NAME.toml` per slice.
//!
//! [`load`] reads a directory, [`parse`] texts already in memory. Both find all errors of all files
//! at once, each with its place and a remedy. A [`Config`] is well-formed; whether its slices fit
//! the node is the matter of [`crate::admission`].
//!
//! Every key is declared once, in `keys`: the reader, the "did you mean", and the tables in
//! `docs/policy.md` come from there.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) mod build;
pub mod capability;
mod control;
mod device;
mod error;
mod fields;
mod keys;
mod link;
mod lists;
mod load;
mod name;
mod ports;
mod prefix;
mod public_key;
mod read;
mod source;
mod syntax;
pub mod trust;
pub mod units;

pub use control::{Control, LENDABLE, Objection, Terms};
pub use device::{BadDevice, DeviceName};
pub use error::{Complaint, Errors, Report};
pub use keys::{MAX_SLICES, reference};
pub use link::{Link, LinkTable, LinkTerms, Quota, SliceLinks};
pub use load::{load, parse};
pub use name::{BadName, SliceName};
pub use ports::{BadPorts, LOOPBACK_PORTS, PortRange, PortSet};
pub use prefix::{BadPrefix, Prefix};
pub use public_key::{BadKey, PublicKey};
pub use source::{At, Cited, Place, Source, Sources};
use units::{Bytes, MilliCores, MilliPercent, Nanoseconds};

/// The whole policy of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The texts all places refer to.
    pub sources: Sources,
    /// `node.toml`.
    pub node: Node,
    /// `slices/*.toml`, sorted by name.
    pub slices: Vec<Slice>,
}

/// `node.toml`: what holds for the node as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Most slices the node can hold: the size of its tables. 1 to 16382.
    pub max_slices: At<u32>,
    /// First of the user ids that belong to slices.
    pub uid_base: At<u32>,
    /// How many consecutive user ids each slice gets.
    pub uids_per_slice: At<u32>,
    /// How long a port stays its owner's after the last socket while TCP may still answer for it.
    pub linger: Nanoseconds,
    /// Most events per second that the node's own processes may cause.
    pub events_per_second: u32,
    /// Ports the node keeps for itself on the shared addresses.
    pub reserved: Ports,
    /// Addresses of the node that no slice may use, unless one is a slice's own.
    pub exclude: Vec<At<Prefix>>,
    /// What all slices together may have.
    pub give: Give,
    /// Links, sorted by name; 8 at most.
    pub links: Vec<Link>,
    /// What is kept of who sent what to whom.
    pub flows: Flows,
    /// TCP port of the node's localhost with the status page; [`Self::reserved`] has it.
    pub page: Option<u16>,
    /// Destinations refused to all slices.
    pub refuse: Vec<Refusal>,
}

/// What is kept of who sent what to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// For how long; 0 where flows are not looked at.
    pub keep: Nanoseconds,
    /// Most bytes on the disk.
    pub cap: Bytes,
}

/// What all slices together may have. Absent means: as [`crate::admission`] finds it on the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Give {
    /// CPU time.
    pub cpu: Option<At<MilliCores>>,
    /// Memory.
    pub memory: Option<At<MemoryGive>>,
    /// Processes and threads.
    pub processes: Option<At<u32>>,
    /// Bytes of the file system that holds the slices' files.
    pub disk: Option<At<MemoryGive>>,
    /// Whether the slices' caps on the disk may be more together than that.
    pub disk_overcommit: bool,
}

/// How much memory or disk slices may have, as the owner says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryGive {
    /// So many bytes.
    Bytes(Bytes),
    /// A part of what the node has.
    OfNode(MilliPercent),
}

/// `slices/NAME.toml`: the policy of one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The slice's name: the file's name without `.toml`; placed at the key `name` or at the top.
    pub name: At<SliceName>,
    /// A line for people.
    pub description: Option<String>,
    /// What the slice is for.
    pub role: Role,
    /// What it may see of the node, and do.
    pub grants: Grants,
    /// Most sockets open at once.
    pub sockets: u32,
    /// Most TCP connections started and not over; absent: as many as sockets.
    pub connections: Option<u32>,
    /// Most TCP connections started in a second.
    pub connections_per_second: u32,
    /// Most events per second.
    pub events_per_second: u32,
    /// Most processes and threads at once.
    pub processes: u32,
    /// Ports on the shared addresses.
    pub ports: SlicePorts,
    /// Addresses of its own.
    pub address: OwnAddress,
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Disk.
    pub disk: Disk,
    /// Reading and writing of the disk.
    pub io: Io,
    /// Links.
    pub links: SliceLinks,
    /// Destinations refused to this slice.
    pub refuse: Vec<Refusal>,
    /// Root, namespaces and credentials of its own; absent: its commands run with the node's files.
    pub context: Option<Context>,
    /// Who logs in; needs a context.
    pub login: Login,
    /// Whether it has raw and packet sockets; needs a context.
    pub raw: Raw,
    /// What it may lend to slices that it makes.
    pub control: Option<Control>,
    /// The slice that made it; absent where the node's owner did.
    pub controller: Option<SliceName>,
}

/// Raw and packet sockets of a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Raw {
    /// None.
    #[default]
    None,
    /// Those that send and see the slice's own packets only.
    Safe,
}

/// A slice's own root, namespaces and credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The reference image its root starts from.
    pub image: At<SliceName>,
    /// Host name inside.
    pub hostname: String,
    /// Whether the node starts it when it comes up.
    pub autostart: bool,
    /// Whether it may make namespaces of its own.
    pub nested: bool,
    /// How long `slice stop` lets its processes end by themselves.
    pub stop_after: Nanoseconds,
    /// Capabilities inside its user namespace, by name.
    pub capabilities: Vec<&'static str>,
}

/// Who logs in to a slice by ssh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// Keys that do.
    pub keys: Vec<PublicKey>,
    /// Authorities whose certificates for the slice's name do.
    pub authorities: Vec<PublicKey>,
}

/// What a slice is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A tenant.
    Slice,
    /// It looks after the node.
    Management,
}

/// What a management slice may see of the node, and do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Every packet of every slice, with whose it is.
    pub audit: bool,
    /// Slices that it makes itself, out of what [`Control`] lends.
    pub control: bool,
    /// The rows of all owners.
    pub status: bool,
}

/// Port lists of the two protocols, as written: sorted, disjoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// TCP ports.
    pub tcp: Vec<At<PortRange>>,
    /// UDP ports.
    pub udp: Vec<At<PortRange>>,
}

/// Which ports a slice has and may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePorts {
    /// Ports reserved for the slice.
    pub reserved: Ports,
    /// The same, on which programs of the slice speak TCP or UDP themselves.
    pub raw: Ports,
    /// Whether the slice may bind ports that are nobody's.
    pub claim: bool,
    /// Most ports claimed at once.
    pub claims: u32,
}

/// Addresses that belong to one slice alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnAddress {
    /// The slice's only IPv4 address.
    pub ipv4: Option<At<Ipv4Addr>>,
    /// The slice's only IPv6 address.
    pub ipv6: Option<At<Ipv6Addr>>,
}

/// CPU of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Guaranteed while the slice wants it.
    pub floor: At<MilliCores>,
    /// Weight by which spare CPU time is split. 1 to 1000.
    pub share: u32,
    /// Never more than this.
    pub cap: Option<At<MilliCores>>,
}

/// Memory of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Never reclaimed below this.
    pub floor: At<Bytes>,
    /// Never more than this.
    pub cap: Option<At<Bytes>>,
}

/// Disk of a slice: its own files, not those of the image it begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Never more bytes than this.
    pub cap: Option<At<Bytes>>,
    /// Never more files, directories and links than this.
    pub inodes: Option<At<u32>>,
}

/// Reading and writing of the disk that holds a slice's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Weight by which the disk is divided, 1 to 10,000; absent: 100.
    pub weight: Option<At<u32>>,
    /// Never more bytes read in a second.
    pub read: Option<At<Bytes>>,
    /// Never more bytes written in a second.
    pub write: Option<At<Bytes>>,
    /// Never more reads in a second.
    pub read_operations: Option<At<u32>>,
    /// Never more writes in a second.
    pub write_operations: Option<At<u32>>,
}

/// One `[[refuse]]`: destinations that may not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where the table starts.
    pub at: Place,
    /// The destinations.
    pub to: Vec<At<Prefix>>,
    /// Parts of them that stay allowed as far as this rule goes.
    pub except: Vec<At<Prefix>>,
    /// Which protocol.
    pub protocol: RefusedProtocol,
    /// Which ports of the destination; empty means all.
    pub ports: Vec<At<PortRange>>,
}

/// The protocol of a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusedProtocol {
    /// Every protocol; with `ports`, TCP and UDP.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Config {
    /// The slice of that name.
    #[must_use]
    pub fn slice(&self, name: &str) -> Option<&Slice> {
        self.slices.iter().find(|slice| slice.name.as_str() == name)
    }
}

impl Ports {
    /// The TCP ports as a set.
    #[must_use]
    pub fn tcp_set(&self) -> PortSet {
        self.tcp.iter().map(|range| range.value).collect()
    }

    /// The UDP ports as a set.
    #[must_use]
    pub fn udp_set(&self) -> PortSet {
        self.udp.iter().map(|range| range.value).collect()
    }
}
