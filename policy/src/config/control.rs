//! `[control]`: what a management slice may lend to slices that it makes itself; and what such a
//! slice may ask for ([`Terms`]).

use serde::{Deserialize, Serialize};

use super::build;
use super::error::{Complaint, Errors};
use super::fields::Fields;
use super::keys::{self, NODE_FILE, SLICE_FILE};
use super::name::SliceName;
use super::ports::PortSet;
use super::source::{Place, Sources};
use super::units::{BitsPerSecond, Bytes, MilliCores};
use super::{Grants, OwnAddress, Ports, Raw, Slice, SliceLinks, read};

/// `[control]` of a slice's file. All of it is set aside for the slices that this one makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Where the table starts.
    pub at: Place,
    /// Most of them at once.
    pub slices: u32,
    /// How their names begin.
    pub prefix: SliceName,
    /// Images that they may begin with; empty: that of this slice.
    pub images: Vec<SliceName>,
    /// Ports to lend.
    pub ports: Ports,
    /// Floors of CPU time to lend, in sum.
    pub cpu: MilliCores,
    /// Caps of CPU time, in sum.
    pub cpu_cap: Option<MilliCores>,
    /// Floors of memory to lend, in sum.
    pub memory: Bytes,
    /// Caps of memory, in sum.
    pub memory_cap: Option<Bytes>,
    /// Caps of the disk, in sum; absent: none is lent.
    pub disk: Option<Bytes>,
    /// Floors on every link, in sum.
    pub link: BitsPerSecond,
    /// Caps on every link, in sum.
    pub link_cap: Option<BitsPerSecond>,
    /// Most packets in a second on every link, in sum.
    pub link_packets: Option<u32>,
    /// What they receive by every link, in sum.
    pub link_receive: Option<BitsPerSecond>,
}

/// `[control]`, and the grant that it needs.
pub(super) fn build(
    fields: &Fields,
    grants: Grants,
    (address, links): (&OwnAddress, &SliceLinks),
    complaints: &mut Vec<Complaint>,
) -> Option<Control> {
    let granted = fields.words("grants").filter(|_| grants.control);
    if !fields.has("control") {
        if let Some(words) = granted {
            let message = "the grant `control` without [control]: there is nothing to lend";
            let help = "add [control] with a `prefix`, or remove the grant";
            complaints.push(Complaint::maybe_at(words.at, message, help));
        }
        return None;
    }
    let table = fields.table("control");
    let at = table.at;
    let mut wrong = |message: &str, help: &str| complaints.push(Complaint::at(at, message, help));
    if !grants.control {
        wrong(
            "[control] without the grant `control`: nothing would be lent",
            "add `role = \"management\"` and `grants = [\"control\"]`, or remove [control]",
        );
    }
    if address.ipv4.is_some() || address.ipv6.is_some() {
        wrong(
            "[control] in a slice with an address of its own: its slices would use the shared ones, which it does not",
            "remove [address], or [control]",
        );
    }
    let tables = || {
        links
            .every
            .iter()
            .chain(links.one.iter().map(|(_, table)| table))
    };
    for (there, message, help) in [
        (
            tables().any(|table| table.quota.is_some()),
            "[control] in a slice with a quota on a link: what its slices send would not count",
            "remove the quota, or [control]",
        ),
        (
            tables().any(|table| table.exempt_cap.is_some()),
            "[control] in a slice with an `exempt_cap`: what its slices send to exempt networks would have no bound",
            "remove `exempt_cap`, or [control]",
        ),
    ] {
        if there {
            wrong(message, help);
        }
    }
    for (table_of, bound, key, bounded) in [
        ("cpu", "cap", "cpu_cap", fields.table("cpu").has("cap")),
        (
            "memory",
            "cap",
            "memory_cap",
            fields.table("memory").has("cap"),
        ),
        ("disk", "cap", "disk", fields.table("disk").has("cap")),
        (
            "link",
            "cap",
            "link_cap",
            tables().any(|table| table.cap.is_some()),
        ),
        (
            "link",
            "packets",
            "link_packets",
            tables().any(|table| table.packets.is_some()),
        ),
        (
            "link",
            "receive",
            "link_receive",
            tables().any(|table| table.receive.is_some()),
        ),
    ] {
        if bounded && !table.has(key) {
            wrong(
                &format!(
                    "[control] without `{key}` in a slice whose [{table_of}] has `{bound}`: its slices would have no bound"
                ),
                &format!("add `{key}`: what all its slices may have together"),
            );
        }
    }
    let Some(prefix) = table.name("prefix") else {
        wrong(
            "[control] has no `prefix`",
            "add for example `prefix = \"exp_\"`: how the names of its slices begin",
        );
        return None;
    };
    Some(Control {
        at,
        slices: build::count(&table, &SLICE_FILE, "control", "slices").value,
        prefix: prefix.value,
        images: table
            .names("images")
            .map(|names| names.value)
            .unwrap_or_default(),
        ports: Ports {
            tcp: table.ports("tcp"),
            udp: table.ports("udp"),
        },
        cpu: table.cpu("cpu").map_or(MilliCores(0), |cpu| cpu.value),
        cpu_cap: table.cpu("cpu_cap").map(|cap| cap.value),
        memory: table.size("memory").map_or(Bytes(0), |memory| memory.value),
        memory_cap: table.size("memory_cap").map(|cap| cap.value),
        disk: table.size("disk").map(|disk| disk.value),
        link: table
            .rate("link")
            .map_or(BitsPerSecond(0), |link| link.value),
        link_cap: table.rate("link_cap").map(|cap| cap.value),
        link_packets: table.count("link_packets").map(|packets| packets.value),
        link_receive: table.rate("link_receive").map(|rate| rate.value),
    })
}

/// What a slice that another makes may ask for; all else it has as its controller has it, or not at
/// all. These are numbers, names and keys: what is made of them is checked again ([`Terms::faults`]),
/// whoever hands them over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    /// A line for people.
    pub description: Option<String>,
    /// Most processes and threads.
    pub processes: Option<u32>,
    /// TCP ports, as ranges with both ends.
    pub tcp: Vec<(u16, u16)>,
    /// The same for UDP.
    pub udp: Vec<(u16, u16)>,
    /// Thousandths of a core.
    pub cpu_floor: u64,
    /// Likewise.
    pub cpu_cap: Option<u64>,
    /// Bytes.
    pub memory_floor: u64,
    /// Bytes.
    pub memory_cap: Option<u64>,
    /// Bytes.
    pub disk_cap: Option<u64>,
    /// Bits in a second, on every link.
    pub link_floor: u64,
    /// Likewise.
    pub link_cap: Option<u64>,
    /// Packets in a second, on every link.
    pub link_packets: Option<u32>,
    /// Bits in a second that are received, by every link.
    pub link_receive: Option<u64>,
    /// The image.
    pub image: String,
    /// Host name inside.
    pub hostname: String,
    /// Whether it starts when it is made and with the node.
    pub autostart: bool,
    /// Public keys that log in.
    pub keys: Vec<String>,
    /// Whether it has raw and packet sockets.
    pub raw: bool,
}

/// The keys of a slice's file that may be asked for.
pub const LENDABLE: &[&str] = &[
    "description",
    "processes",
    "raw",
    "ports.tcp",
    "ports.udp",
    "cpu.floor",
    "cpu.cap",
    "memory.floor",
    "memory.cap",
    "disk.cap",
    "link.floor",
    "link.cap",
    "link.packets",
    "link.receive",
    "context.image",
    "context.hostname",
    "context.autostart",
    "login.keys",
];

/// Most ranges of ports, and most keys, of one slice.
const MOST: usize = 64;

/// Something that is asked for and cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objection {
    /// The key, as `memory.floor`; empty where it is about the slice as a whole.
    pub field: String,
    /// Why not, and by how much.
    pub message: String,
}

impl Objection {
    /// About this key.
    #[must_use]
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

impl Terms {
    /// What this text of a slice's file asks for; [`LENDABLE`] is for the caller to see to.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn read(name: &str, text: &str) -> Result<Self, Errors> {
        let mut sources = Sources::default();
        let file = sources.add(format!("{name}.toml"), text);
        let mut complaints = Vec::new();
        let other = (&NODE_FILE, "node.toml");
        let fields = read::read(file, text, &SLICE_FILE, other, &mut complaints);
        let name = build::slice_name(name, &fields, file, &|_| false, &mut complaints);
        if !fields.has("context") {
            let message = "there is no `context`: the slice begins with an image";
            let help = "add `context` with an `image`";
            complaints.push(Complaint::at(Place::top(file), message, help));
        }
        let slice = name.map(|name| build::slice(&fields, name, &mut complaints));
        match slice {
            Some(slice) if complaints.is_empty() => Ok(Self {
                processes: fields.count("processes").map(|most| most.value),
                ..Self::of(&slice)
            }),
            _ => Err(Errors::new(sources, complaints)),
        }
    }

    fn of(slice: &Slice) -> Self {
        let ranges = |set: PortSet| set.ranges().iter().map(|r| (r.low(), r.high())).collect();
        let context = slice.context.as_ref();
        let link = slice.links.every;
        Self {
            description: slice.description.clone(),
            processes: None,
            tcp: ranges(slice.ports.reserved.tcp_set()),
            udp: ranges(slice.ports.reserved.udp_set()),
            cpu_floor: slice.cpu.floor.value.0,
            cpu_cap: slice.cpu.cap.map(|cap| cap.value.0),
            memory_floor: slice.memory.floor.value.0,
            memory_cap: slice.memory.cap.map(|cap| cap.value.0),
            disk_cap: slice.disk.cap.map(|cap| cap.value.0),
            link_floor: link
                .and_then(|link| link.floor)
                .map_or(0, |floor| floor.value.0),
            link_cap: link.and_then(|link| link.cap).map(|cap| cap.value.0),
            link_packets: link.and_then(|link| link.packets),
            link_receive: link.and_then(|link| link.receive).map(|rate| rate.0),
            image: context.map_or_else(String::new, |context| context.image.value.to_string()),
            hostname: context.map_or_else(String::new, |context| context.hostname.clone()),
            autostart: context.is_some_and(|context| context.autostart),
            keys: slice.login.keys.iter().map(ToString::to_string).collect(),
            raw: slice.raw == Raw::Safe,
        }
    }

    /// What is wrong with these by themselves, whoever made them: bounds that the reader of files
    /// keeps as well.
    #[must_use]
    pub fn faults(&self) -> Vec<Objection> {
        let line = |text: &str| !text.chars().any(char::is_control) && text.chars().count() <= 200;
        let ports = |list: &[(u16, u16)]| {
            list.len() <= MOST
                && list
                    .iter()
                    .all(|(low, high)| super::PortRange::new(*low, *high).is_ok())
        };
        let below = |floor: u64, cap: Option<u64>| cap.is_none_or(|cap| floor <= cap);
        let within = |value: Option<u64>, low: u64, high: u64| {
            value.is_none_or(|value| (low..=high).contains(&value))
        };
        let key = |key: &String| super::PublicKey::parse(key).is_ok();
        let checks = [
            ("description", self.description.as_deref().is_none_or(line)),
            ("processes", self.processes != Some(0)),
            ("ports.tcp", ports(&self.tcp)),
            ("ports.udp", ports(&self.udp)),
            ("cpu.floor", self.cpu_floor <= keys::CPU_MOST),
            (
                "cpu.cap",
                within(self.cpu_cap, keys::CPU_LOWEST_CAP, keys::CPU_MOST)
                    && below(self.cpu_floor, self.cpu_cap),
            ),
            (
                "memory.cap",
                within(self.memory_cap, keys::MIB, u64::MAX)
                    && below(self.memory_floor, self.memory_cap),
            ),
            ("disk.cap", within(self.disk_cap, keys::MIB, u64::MAX)),
            ("link.floor", self.link_floor <= keys::RATE_MOST),
            (
                "link.cap",
                within(self.link_cap, keys::RATE_LOWEST_CAP, keys::RATE_MOST)
                    && below(self.link_floor, self.link_cap),
            ),
            (
                "link.packets",
                within(
                    self.link_packets.map(u64::from),
                    crate::decide::pace::PACKETS_LEAST.into(),
                    keys::PACKETS_MOST.into(),
                ),
            ),
            (
                "link.receive",
                within(self.link_receive, keys::RECEIVE_LOWEST, keys::RATE_MOST),
            ),
            ("context.image", SliceName::new(&self.image).is_ok()),
            ("context.hostname", SliceName::new(&self.hostname).is_ok()),
            (
                "login.keys",
                self.keys.len() <= MOST && self.keys.iter().all(key),
            ),
        ];
        let bad = checks.into_iter().filter(|(_, good)| !good);
        bad.map(|(field, _)| Objection::new(field, "is out of range, or too many"))
            .collect()
    }
}
