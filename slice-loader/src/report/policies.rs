//! What holds for a slice: its policy as it is in force, in one form for `/v1/policy`.
//!
//! Tables and keys are those of `slices/NAME.toml`, with what is the case where nothing
//! was written, and in base units: bytes, bit/s, thousandths of a core, milliseconds.
//! Keys and certificates of logins are counted, not told.

use std::net::{Ipv4Addr, Ipv6Addr};

use policy::config::{self, Config};
use serde::{Deserialize, Serialize};

/// The policy of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SlicePolicy {
    /// The slice's name.
    pub name: String,
    /// A line for people.
    pub description: Option<String>,
    /// `slice` or `management`.
    pub role: String,
    /// What a management slice may see: `audit`, `status`.
    pub grants: Vec<String>,
    /// Most sockets open at once.
    pub sockets: u32,
    /// Most TCP connections at once, of those that it starts; absent: as many as
    /// sockets.
    pub connections: Option<u32>,
    /// Most TCP connections that it starts in a second.
    pub connections_per_second: u32,
    /// Most events in a second.
    pub events_per_second: u32,
    /// Most processes and threads at once.
    pub processes: u32,
    /// Ports on the shared addresses.
    pub ports: Ports,
    /// Addresses of its own.
    pub address: Addresses,
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Its own files.
    pub disk: Disk,
    /// Reading and writing of the disk.
    pub io: Io,
    /// What it has of each link of the node.
    pub links: Vec<OnLink>,
    /// Destinations refused to it, beside those refused to all.
    pub refuse: Vec<Refused>,
    /// Raw and packet sockets: `none` or `safe`.
    pub raw: String,
    /// Root, namespaces and credentials of its own; absent where it has none.
    pub context: Option<Context>,
    /// Who logs in.
    pub login: Login,
}

/// Ports of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "PortsPolicy"))]
pub struct Ports {
    /// TCP ports reserved for it.
    pub tcp: Vec<Range>,
    /// UDP ports.
    pub udp: Vec<Range>,
    /// TCP ports on which its programs speak TCP themselves.
    pub raw_tcp: Vec<Range>,
    /// The same for UDP.
    pub raw_udp: Vec<Range>,
    /// Whether it may bind ports that are nobody's.
    pub claim: bool,
    /// Most ports claimed at once.
    pub claims: u32,
}

/// Ports in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "PortRange"))]
pub struct Range {
    /// First.
    pub low: u16,
    /// Last.
    pub high: u16,
}

/// Addresses of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Addresses {
    /// Absent where it has none.
    pub ipv4: Option<Ipv4Addr>,
    /// Likewise.
    pub ipv6: Option<Ipv6Addr>,
}

/// Processor time, in thousandths of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "CpuPolicy"))]
pub struct Cpu {
    /// Guaranteed while it is wanted.
    pub floor: u64,
    /// Weight by which the rest is split.
    pub share: u32,
    /// Most; absent where nothing bounds it.
    pub cap: Option<u64>,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Memory {
    /// Never reclaimed below.
    pub floor: u64,
    /// Most; absent where nothing bounds it.
    pub cap: Option<u64>,
}

/// Its own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Disk {
    /// Most bytes; absent where nothing bounds them.
    pub cap: Option<u64>,
    /// Most files, directories and links, likewise.
    pub inodes: Option<u32>,
}

/// Reading and writing of the disk, in a second; absent where nothing bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "IoPolicy"))]
pub struct Io {
    /// Weight by which the disk is divided; absent: 100.
    pub weight: Option<u32>,
    /// Most bytes read.
    pub read: Option<u64>,
    /// Most bytes written.
    pub write: Option<u64>,
    /// Most reads.
    pub read_operations: Option<u32>,
    /// Most writes.
    pub write_operations: Option<u32>,
}

/// What it has of a link; rates are bit/s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "LinkPolicy"))]
pub struct OnLink {
    /// The device.
    pub name: String,
    /// Guaranteed while it is wanted.
    pub floor: u64,
    /// Weight by which the rest is split.
    pub share: u32,
    /// Most; absent where only the link bounds it.
    pub cap: Option<u64>,
    /// Most packets in a second; absent where nothing bounds them.
    #[serde(default)]
    pub packets: Option<u64>,
    /// Most to exempt networks; absent where only the link bounds it.
    #[serde(default)]
    pub exempt_cap: Option<u64>,
    /// Most that it receives; absent where nothing bounds it.
    #[serde(default)]
    pub receive: Option<u64>,
    /// Most bytes in a period; absent where nothing bounds them.
    pub quota: Option<u64>,
    /// How long a period is, milliseconds; absent where there is no quota.
    pub quota_period: Option<u64>,
}

/// Destinations that are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refused {
    /// Addresses and prefixes.
    pub to: Vec<String>,
    /// Parts of them that stay allowed.
    pub except: Vec<String>,
    /// `any`, `tcp` or `udp`.
    pub protocol: String,
    /// Ports of the destination; empty means all.
    pub ports: Vec<Range>,
}

/// Root, namespaces and credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Context {
    /// The reference image that its root starts from.
    pub image: String,
    /// Host name inside.
    pub hostname: String,
    /// Whether it starts with the node.
    pub autostart: bool,
    /// Whether it may make namespaces of its own.
    pub nested: bool,
    /// How long its processes may take to end by themselves, milliseconds.
    pub stop_after: u64,
    /// Capabilities inside, by name.
    pub capabilities: Vec<String>,
}

/// Who logs in: how many, not who.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Login {
    /// Keys.
    pub keys: u64,
    /// Authorities whose certificates do.
    pub authorities: u64,
}

/// Nanoseconds of a millisecond.
const MILLISECOND: u64 = 1_000_000;

impl SlicePolicy {
    /// The policy of a slice of a node.
    #[must_use]
    pub fn new(node: &config::Node, slice: &config::Slice) -> Self {
        let grants = [
            ("audit", slice.grants.audit),
            ("status", slice.grants.status),
        ];
        let raw = match slice.raw {
            config::Raw::None => "none",
            config::Raw::Safe => "safe",
        };
        let role = match slice.role {
            config::Role::Slice => "slice",
            config::Role::Management => "management",
        };
        let (ports, address) = (&slice.ports, &slice.address);
        Self {
            name: slice.name.value.to_string(),
            description: slice.description.clone(),
            role: role.to_owned(),
            grants: grants
                .into_iter()
                .filter(|(_, has)| *has)
                .map(|(name, _)| name.to_owned())
                .collect(),
            sockets: slice.sockets,
            connections: slice.connections,
            connections_per_second: slice.connections_per_second,
            events_per_second: slice.events_per_second,
            processes: slice.processes,
            ports: Ports {
                tcp: ranges(&ports.reserved.tcp),
                udp: ranges(&ports.reserved.udp),
                raw_tcp: ranges(&ports.raw.tcp),
                raw_udp: ranges(&ports.raw.udp),
                claim: ports.claim,
                claims: ports.claims,
            },
            address: Addresses {
                ipv4: address.ipv4.as_ref().map(|at| at.value),
                ipv6: address.ipv6.as_ref().map(|at| at.value),
            },
            cpu: Cpu {
                floor: slice.cpu.floor.value.0,
                share: slice.cpu.share,
                cap: slice.cpu.cap.as_ref().map(|at| at.value.0),
            },
            memory: Memory {
                floor: slice.memory.floor.value.0,
                cap: slice.memory.cap.as_ref().map(|at| at.value.0),
            },
            disk: Disk {
                cap: slice.disk.cap.as_ref().map(|at| at.value.0),
                inodes: slice.disk.inodes.as_ref().map(|at| at.value),
            },
            io: Io {
                weight: slice.io.weight.as_ref().map(|at| at.value),
                read: slice.io.read.as_ref().map(|at| at.value.0),
                write: slice.io.write.as_ref().map(|at| at.value.0),
                read_operations: slice.io.read_operations.as_ref().map(|at| at.value),
                write_operations: slice.io.write_operations.as_ref().map(|at| at.value),
            },
            links: node
                .links
                .iter()
                .map(|link| OnLink::new(link, &slice.links))
                .collect(),
            refuse: refused(&slice.refuse),
            raw: raw.to_owned(),
            context: slice.context.as_ref().map(Context::new),
            login: Login {
                keys: slice.login.keys.len() as u64,
                authorities: slice.login.authorities.len() as u64,
            },
        }
    }
}

impl OnLink {
    fn new(link: &config::Link, links: &config::SliceLinks) -> Self {
        let terms = links.on(&link.name.value);
        Self {
            name: link.name.value.to_string(),
            floor: terms.floor.value.0,
            share: terms.share,
            cap: terms.cap.map(|at| at.value.0),
            packets: terms.packets.map(u64::from),
            exempt_cap: terms.exempt_cap.map(|at| at.value.0),
            receive: terms.receive.map(|rate| rate.0),
            quota: terms.quota.map(|quota| quota.limit.0),
            quota_period: terms.quota.map(|quota| quota.period.0 / MILLISECOND),
        }
    }
}

impl Context {
    fn new(context: &config::Context) -> Self {
        Self {
            image: context.image.value.to_string(),
            hostname: context.hostname.clone(),
            autostart: context.autostart,
            nested: context.nested,
            stop_after: context.stop_after.0 / MILLISECOND,
            capabilities: context
                .capabilities
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
        }
    }
}

fn ranges(ranges: &[config::At<config::PortRange>]) -> Vec<Range> {
    let range = |at: &config::At<config::PortRange>| Range {
        low: at.value.low(),
        high: at.value.high(),
    };
    ranges.iter().map(range).collect()
}

/// What these rules refuse.
#[must_use]
pub fn refused(rules: &[config::Refusal]) -> Vec<Refused> {
    let texts = |prefixes: &[config::At<config::Prefix>]| {
        let prefixes = prefixes.iter();
        prefixes.map(|at| at.value.to_string()).collect()
    };
    let rule = |rule: &config::Refusal| Refused {
        to: texts(&rule.to),
        except: texts(&rule.except),
        protocol: match rule.protocol {
            config::RefusedProtocol::Any => "any",
            config::RefusedProtocol::Tcp => "tcp",
            config::RefusedProtocol::Udp => "udp",
        }
        .to_owned(),
        ports: ranges(&rule.ports),
    };
    rules.iter().map(rule).collect()
}

/// The policy of a node, as far as slices are told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Which change of policy this is; that of the node's record.
    pub edition: u64,
    /// What is refused to all slices.
    pub refuse: Vec<Refused>,
    /// The slices, by name.
    pub slices: Vec<SlicePolicy>,
}

impl Policies {
    /// What a policy says.
    #[must_use]
    pub fn new(edition: u64, config: &Config) -> Self {
        let slices = config.slices.iter();
        let mut slices: Vec<_> = slices
            .map(|slice| SlicePolicy::new(&config.node, slice))
            .collect();
        slices.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            edition,
            refuse: refused(&config.node.refuse),
            slices,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "[links.eth0]\nrate = \"1 Gbit/s\"\n[[refuse]]\nto = [\"192.0.2.0/24\"]\nprotocol = \"tcp\"\nports = [25]\n";
    const ALPHA: &str = "description = \"Measures\"\n\
        sockets = 7\nraw = \"safe\"\n\
        [ports]\ntcp = [80, \"8000-8010\"]\nclaims = 3\n\
        [cpu]\nfloor = \"0.5 cores\"\ncap = \"1.5 cores\"\n\
        [memory]\nfloor = \"1 MiB\"\n\
        [link]\nfloor = \"1 Mbit/s\"\nquota = \"1 GB\"\nquota_period = \"1 h\"\n\
        [context]\nimage = \"debian\"\nstop_after = \"2 s\"\n\
        [login]\nkeys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl secret@home\"]\n";

    #[test]
    fn a_policy_is_told_in_base_units_with_defaults_and_without_keys() {
        let files = [("node.toml", NODE), ("slices/alpha.toml", ALPHA)];
        let config = crate::status::fixture::config(&files);
        let policies = Policies::new(3, &config);
        let text = serde_json::to_string(&policies).unwrap();
        for secret in ["AAAAC3", "secret", "ssh-"] {
            assert!(!text.contains(secret), "{text}");
        }
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        let alpha = &told["slices"][0];
        for (pointer, expected) in [
            ("/sockets", "7"),
            ("/processes", "4096"),
            (
                "/ports/tcp",
                r#"[{"high":80,"low":80},{"high":8010,"low":8000}]"#,
            ),
            ("/ports/claims", "3"),
            ("/cpu", r#"{"cap":1500,"floor":500,"share":1}"#),
            ("/memory", r#"{"cap":null,"floor":1048576}"#),
            ("/links/0/quota_period", "3600000"),
            ("/links/0/floor", "1000000"),
            ("/links/0/cap", "null"),
            ("/context/stop_after", "2000"),
            ("/login", r#"{"authorities":0,"keys":1}"#),
            ("/raw", r#""safe""#),
            ("/grants", "[]"),
        ] {
            let value = alpha.pointer(pointer).unwrap();
            assert_eq!(value.to_string(), expected, "{pointer}");
        }
        assert_eq!(told["refuse"][0]["to"][0], "192.0.2.0/24");
        assert_eq!(serde_json::from_str::<Policies>(&text).unwrap(), policies);
    }
}
