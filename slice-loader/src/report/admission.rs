//! `slice check`: what the policy would give, if it were put in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use policy::admission::Admitted;
use policy::compile::disk::limits;
use policy::config::{Ports, Raw, Slice};
use serde::{Deserialize, Serialize};

/// The answer to `slice check` about a policy that fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The policy's directory.
    pub policy: PathBuf,
    /// Most slices this node can hold.
    pub max_slices: u32,
    /// Ports the node keeps for itself.
    pub node_ports: PortLists,
    /// CPU time in thousandths of a core: what slices may have together, and
    /// what is promised as floors.
    pub cpu_millicores: Given,
    /// The same for bytes of memory.
    pub memory: Given,
    /// Most processes of all slices together.
    pub processes: u32,
    /// Bytes of the disk: what slices may have together, and the sum of their
    /// caps.
    pub disk: Given,
    /// Bits a second of each link by the device's name: its rate, and the sum of
    /// the floors, the node's own too.
    pub links: BTreeMap<String, Given>,
    /// The slices by name.
    pub slices: Vec<SliceSummary>,
}

/// A resource of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// What slices may have together.
    pub given: u64,
    /// The sum of their floors.
    pub promised: u64,
}

/// Ports as the kernel writes sets of them: `80,8000-8010`; empty for none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortLists {
    /// TCP ports.
    pub tcp: String,
    /// UDP ports.
    pub udp: String,
}

/// What one slice would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceSummary {
    /// Its name.
    pub name: String,
    /// The owner's line about it.
    pub description: Option<String>,
    /// What it may beyond its own affairs: `audit`, `control`, `status`.
    pub grants: Vec<String>,
    /// The slice that made it; absent where the node's owner did.
    #[serde(default)]
    pub controller: Option<String>,
    /// Whether it may have raw and packet sockets.
    pub raw: bool,
    /// The image of its context; absent where it has none.
    pub image: Option<String>,
    /// Ports reserved for it.
    pub ports: PortLists,
    /// The same, on which its programs speak TCP or UDP themselves.
    pub raw_ports: PortLists,
    /// Whether it may bind ports that are nobody's.
    pub claim: bool,
    /// Most ports claimed at once.
    pub claims: u32,
    /// Addresses of its own.
    pub addresses: Vec<String>,
    /// Most sockets open at once.
    pub sockets: u32,
    /// Most TCP connections started and not over.
    pub connections: u32,
    /// Most TCP connections started in a second.
    pub connections_per_second: u32,
    /// Most processes and threads at once.
    pub processes: u32,
    /// CPU time guaranteed, in thousandths of a core.
    pub cpu_floor_millicores: u64,
    /// Weight by which spare CPU time is split.
    pub cpu_share: u32,
    /// Most CPU time, in thousandths of a core; absent where nothing bounds it.
    pub cpu_cap_millicores: Option<u64>,
    /// Bytes of memory guaranteed.
    pub memory_floor: u64,
    /// Most bytes of memory; absent where nothing bounds it.
    pub memory_cap: Option<u64>,
    /// Most bytes on the disk; absent where nothing bounds it.
    pub disk_cap: Option<u64>,
    /// Most files, directories and links; absent where nothing bounds them.
    pub inodes: Option<u64>,
    /// Rules that refuse destinations to this slice alone.
    pub refusals: u64,
}

impl Admission {
    /// The summary of a policy that was admitted.
    #[must_use]
    pub fn new(policy: &Path, admitted: &Admitted<'_>) -> Self {
        let (config, given) = (admitted.config(), admitted.given());
        let floors = |floor: fn(&Slice) -> u64| config.slices.iter().map(floor).sum();
        Self {
            policy: policy.to_path_buf(),
            max_slices: config.node.max_slices.value,
            node_ports: PortLists::from(&config.node.reserved),
            cpu_millicores: Given {
                given: given.cpu.0,
                promised: floors(|slice| slice.promise().cpu().value),
            },
            memory: Given {
                given: given.memory.0,
                promised: floors(|slice| slice.promise().memory().value),
            },
            processes: given.processes,
            disk: Given {
                given: given.disk.0,
                promised: floors(|slice| slice.promise().disk().value),
            },
            links: config
                .node
                .links
                .iter()
                .map(|link| {
                    let floors = config.slices.iter();
                    let floors = floors.map(|slice| slice.promise().link(&link.name.value).value.0);
                    let given = Given {
                        given: link.rate.value.0,
                        promised: link.node.floor.value.0 + floors.sum::<u64>(),
                    };
                    (link.name.value.to_string(), given)
                })
                .collect(),
            slices: config.slices.iter().map(SliceSummary::from).collect(),
        }
    }
}

impl From<&Ports> for PortLists {
    fn from(ports: &Ports) -> Self {
        Self {
            tcp: ports.tcp_set().to_string(),
            udp: ports.udp_set().to_string(),
        }
    }
}

impl From<&Slice> for SliceSummary {
    fn from(slice: &Slice) -> Self {
        let ipv4 = slice.address.ipv4.map(|address| address.value.to_string());
        let ipv6 = slice.address.ipv6.map(|address| address.value.to_string());
        Self {
            name: slice.name.value.to_string(),
            description: slice.description.clone(),
            grants: [
                ("audit", slice.grants.audit),
                ("control", slice.grants.control),
                ("status", slice.grants.status),
            ]
            .into_iter()
            .filter(|(_, has)| *has)
            .map(|(grant, _)| grant.to_owned())
            .collect(),
            controller: slice.controller.as_ref().map(ToString::to_string),
            raw: slice.raw != Raw::None,
            image: slice
                .context
                .as_ref()
                .map(|context| context.image.value.to_string()),
            ports: PortLists::from(&slice.ports.reserved),
            raw_ports: PortLists::from(&slice.ports.raw),
            claim: slice.ports.claim,
            claims: slice.ports.claims,
            addresses: ipv4.into_iter().chain(ipv6).collect(),
            sockets: slice.sockets,
            connections: slice.connections.unwrap_or(slice.sockets),
            connections_per_second: slice.connections_per_second,
            processes: slice.processes,
            cpu_floor_millicores: slice.cpu.floor.value.0,
            cpu_share: slice.cpu.share,
            cpu_cap_millicores: slice.cpu.cap.map(|cap| cap.value.0),
            memory_floor: slice.memory.floor.value.0,
            memory_cap: slice.memory.cap.map(|cap| cap.value.0),
            disk_cap: slice.disk.cap.map(|cap| cap.value.0),
            inodes: Some(limits(slice).inodes).filter(|inodes| *inodes > 0),
            refusals: slice.refuse.len().try_into().unwrap_or(u64::MAX),
        }
    }
}
