//! The programs, loaded and not attached, with maps as the loader would have
//! filled them for a number of slices and ports.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::{Array, Map, PerCpuArray};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use libbpf_sys as libbpf;
use policy::SliceId;
use policy::abi::{
    ABI_VERSION, ADDRESS_SHARED, Address, AddressEntry, Bucket, CLAIM, Claim, FlowKey, LIVE,
    LinkEntry, LinkKnobs, LinkState, PORT_ROWS, RAW, RAW_SLICES, REFUSES_DESTINATIONS,
    RESERVED_SLICE, RefusedKey, RefusedPorts, RefusedRange, Reserved, Settings, SliceEntry,
    StartedFlow, TAG_FLOW, TAG_OPEN, TAG_RUNNING, TCP, TURNS, Tag, Traffic, UDP, classes, mapped,
    port_index, refused_row, tally_rows, waiting_words,
};
use policy::decide::raw::ICMP;
use policy::ids::FIRST_SLICE_ROW;
use zerocopy::{FromBytes, FromZeros};

use super::bpf::{self, Kind, Packet};
use super::frame::{Flow, IDENTIFIER, v4};
use super::socket::{self, Past};

/// The node's address, and its peer's.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const PEER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7);

/// The ports owned by slices start here.
const FIRST_PORT: u16 = 1024;
/// Packets by which is checked that a program takes the path it is to take.
const CHECKED: u32 = 8;

/// Which way packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Out,
    In,
}

impl Direction {
    fn program(self) -> &'static str {
        match self {
            Direction::Out => "egress",
            Direction::In => "ingress",
        }
    }

    /// Where programs of this direction are attached.
    pub fn attach_type(self) -> u32 {
        match self {
            Direction::Out => libbpf::BPF_CGROUP_INET_EGRESS,
            Direction::In => libbpf::BPF_CGROUP_INET_INGRESS,
        }
    }
}

/// How the slice's socket came to its port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// It bound it.
    Bound,
    /// The kernel picked it when the socket connected.
    Picked,
}

/// What is on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Slices.
    pub slices: u32,
    /// Ports that they own, of each protocol.
    pub ports: u16,
    /// Whether each slice has refused destinations of its own, not only those
    /// that are refused to all.
    pub own_refusals: bool,
    /// Flows that no bound socket has, of each of the two tables, on a node
    /// where slices have raw sockets; none have without.
    pub flows: Option<u32>,
}

/// Where the programs find the slices.
#[derive(Default)]
pub struct Place {
    /// Depth of the slices' cgroups.
    pub level: u32,
    /// Their ids, a slice each.
    pub cgroups: Vec<u64>,
    /// Cookie of the network namespace.
    pub netns: u64,
}

/// The programs that see packets.
const PACKETS: &[(&str, u32)] = &[
    ("egress", libbpf::BPF_CGROUP_INET_EGRESS),
    ("ingress", libbpf::BPF_CGROUP_INET_INGRESS),
];

/// Those that see packets of raw and packet sockets besides, and what leaves on a
/// link.
pub const RAW_PROGRAMS: &[(&str, Kind)] = &[
    ("raw_out", Kind::Cgroup(libbpf::BPF_CGROUP_INET_EGRESS)),
    ("raw_in", Kind::Cgroup(libbpf::BPF_CGROUP_INET_INGRESS)),
    ("node_out", Kind::Cgroup(libbpf::BPF_CGROUP_INET_EGRESS)),
    ("frame", Kind::Device),
    ("pace", Kind::Device),
    ("capture", Kind::Filter),
];

/// Arrays of which the first program is jumped to.
const JUMPS: &[(&str, &str)] = &[
    ("RAW_OUT", "raw_out"),
    ("RAW_IN", "raw_in"),
    ("NODE_OUT", "node_out"),
];

/// All that are attached at the root.
const ROOT: &[(&str, u32)] = &[
    ("sock_create", libbpf::BPF_CGROUP_INET_SOCK_CREATE),
    ("sock_release", libbpf::BPF_CGROUP_INET_SOCK_RELEASE),
    ("tcp_state", libbpf::BPF_CGROUP_SOCK_OPS),
    ("bind4", libbpf::BPF_CGROUP_INET4_BIND),
    ("bind6", libbpf::BPF_CGROUP_INET6_BIND),
    ("post_bind4", libbpf::BPF_CGROUP_INET4_POST_BIND),
    ("post_bind6", libbpf::BPF_CGROUP_INET6_POST_BIND),
    ("egress", libbpf::BPF_CGROUP_INET_EGRESS),
    ("ingress", libbpf::BPF_CGROUP_INET_INGRESS),
];

/// Those attached at the slices' parent that have a part in what is sent here:
/// the slice's localhost is an address of its own.
const SLICES: &[(&str, u32)] = &[
    ("connect4", libbpf::BPF_CGROUP_INET4_CONNECT),
    ("connect6", libbpf::BPF_CGROUP_INET6_CONNECT),
    ("getsockname4", libbpf::BPF_CGROUP_INET4_GETSOCKNAME),
    ("getsockname6", libbpf::BPF_CGROUP_INET6_GETSOCKNAME),
];

impl Place {
    /// Without cgroups nothing is attached, and only packets are tried.
    fn programs(&self) -> impl Iterator<Item = &'static (&'static str, u32)> {
        if self.cgroups.is_empty() {
            PACKETS.iter().chain(&[])
        } else {
            ROOT.iter().chain(SLICES)
        }
    }
}

/// Programs and maps of a node.
pub struct Loaded {
    ebpf: Ebpf,
    size: Size,
    slice: SliceId,
    port: u16,
}

/// A program with a socket to run it on, and its twin that does nothing.
pub struct Pair {
    /// Runs the program.
    pub ours: OwnedFd,
    /// Runs a program that does nothing.
    pub idle: OwnedFd,
    _jumps: Option<OwnedFd>,
}

/// Measures on a node of each size by turns, so many times; each with the programs
/// loaded anew, since where the kernel puts a program makes a few nanoseconds of
/// difference. Why nothing was measured, where this machine does not load them.
///
/// # Errors
/// Those of `measure`.
pub fn by_turns(
    object: &Path,
    sizes: &[Size],
    repeats: usize,
    mut measure: impl FnMut(Size, &Loaded) -> Result<()>,
) -> Result<Option<String>> {
    for _ in 0..repeats {
        for &size in sizes {
            match Loaded::new(object, size, &Place::default()) {
                Ok(node) => measure(size, &node)?,
                Err(error) => {
                    let why = format!("the programs cannot be loaded on this machine: {error:#}");
                    return Ok(Some(why));
                }
            }
        }
    }
    Ok(None)
}

impl Loaded {
    /// Loads `object` and fills its maps; the slices own the ports in turn.
    pub fn new(object: &Path, size: Size, place: &Place) -> Result<Loaded> {
        let Size { slices, ports, .. } = size;
        let rows = slices + FIRST_SLICE_ROW;
        let mut loader = EbpfLoader::new();
        for map in ["SLICES", "STATES", "TRAFFIC", "DENIALS", "LOOPBACK"] {
            loader.map_max_entries(map, rows);
        }
        for map in ["KNOBS", "QUOTAS", "BUCKETS", "DIVIDED"] {
            loader.map_max_entries(map, classes(rows));
        }
        loader.map_max_entries("TALLY_REST", 2 * rows);
        loader.map_max_entries("WAITING", waiting_words(rows));
        loader.map_max_entries("TURNS", classes(rows) * TURNS);
        let mut ebpf = loader
            .load_file(object)
            .with_context(|| format!("load the maps of {}", object.display()))?;
        let raw = size.flows.map_or(&[][..], |_| RAW_PROGRAMS);
        let names = place.programs().map(|(name, _)| name);
        for name in names.chain(raw.iter().map(|(name, _)| name)) {
            let program = ebpf
                .program_mut(name)
                .with_context(|| format!("find {name}"))?;
            match program {
                Program::CgroupSkb(program) => program.load(),
                Program::CgroupSock(program) => program.load(),
                Program::CgroupSockAddr(program) => program.load(),
                Program::SockOps(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                Program::SocketFilter(program) => program.load(),
                _ => bail!("{name} is of another kind than the bench knows"),
            }
            .with_context(|| format!("load {name}"))?;
        }
        // The last slice is under test, and has the first port and each
        // `slices`th behind it.
        let turns = u32::from(ports - 1) / slices;
        let last = u16::try_from(turns * slices)?;
        let loaded = Loaded {
            ebpf,
            size,
            slice: SliceId::new(socket::GENERATION, rows - 1)
                .context("more slices than there are rows")?,
            port: FIRST_PORT + last,
        };
        loaded.fill(rows, place)?;
        Ok(loaded)
    }

    fn fill(&self, rows: u32, place: &Place) -> Result<()> {
        let raw = self.size.flows.is_some();
        let id = |row| SliceId::new(socket::GENERATION, row).unwrap_or(SliceId::NODE);
        let settings = Settings {
            abi_version: ABI_VERSION,
            generation: 1,
            slices_level: place.level,
            node_netns: place.netns,
            ephemeral_low: 32_768,
            ephemeral_high: 60_999,
            flags: REFUSES_DESTINATIONS | if raw { RAW_SLICES } else { 0 },
            rows,
            tally_rows: tally_rows(rows),
            ..Settings::new_zeroed()
        };
        self.set("SETTINGS", &[(0_u32, settings)])?;
        let slices: Vec<(u32, SliceEntry)> = (0..rows)
            .filter(|&row| row != SliceId::UNATTRIBUTED.index())
            .map(|row| {
                let entry = SliceEntry {
                    id: id(row),
                    flags: LIVE | CLAIM | if raw { RAW } else { 0 },
                    sockets_max: 100_000,
                    claims_max: 1_000,
                    connections_max: 100_000,
                    connections_per_second: 100_000,
                    ..SliceEntry::new_zeroed()
                };
                (row, entry)
            })
            .collect();
        self.set("SLICES", &slices)?;
        let cgroups: Vec<(u64, SliceId)> = place
            .cgroups
            .iter()
            .copied()
            .zip((FIRST_SLICE_ROW..rows).map(id))
            .collect();
        self.set("CGROUPS", &cgroups)?;
        let shared = AddressEntry {
            kind: ADDRESS_SHARED,
            ..AddressEntry::new_zeroed()
        };
        let addresses = [
            v4(NODE_V4),
            NODE_V6.octets(),
            v4(Ipv4Addr::new(10, 0, 0, 1)),
        ];
        self.set("ADDRESSES", &addresses.map(|address| (address, shared)))?;
        self.set("REFUSED", &refused(rows, self.size.own_refusals))?;
        if let Some(flows) = self.size.flows {
            self.fill_flows(rows, flows)?;
        }
        self.fill_ports(rows)
    }

    /// Flows of all slices, with the identifier of the packets here, and the
    /// programs to jump to.
    fn fill_flows(&self, rows: u32, flows: u32) -> Result<()> {
        for (map, program) in JUMPS {
            self.set(map, &[(0_u32, self.program(program)?.as_raw_fd())])?;
        }
        let key = |number: u32| -> Result<FlowKey> {
            Ok(FlowKey {
                protocol: UDP,
                local_port: u16::try_from(32_768 + number % 28_000)?,
                peer_port: 53,
                local: v4(NODE_V4),
                peer: v4(Ipv4Addr::from_bits(
                    Ipv4Addr::new(10, 1, 0, 0).to_bits() + number,
                )),
                ..FlowKey::new_zeroed()
            })
        };
        let owner = |number| {
            let row = FIRST_SLICE_ROW + number % (rows - FIRST_SLICE_ROW);
            SliceId::new(socket::GENERATION, row).context("more slices than there are rows")
        };
        let started = |owner| StartedFlow {
            owner,
            until_ns: u64::MAX,
            ..StartedFlow::new_zeroed()
        };
        let mut learned = Vec::new();
        let echo = FlowKey {
            protocol: ICMP,
            local_port: IDENTIFIER,
            local: v4(NODE_V4),
            peer: v4(PEER_V4),
            ..FlowKey::new_zeroed()
        };
        let mut starts = vec![(echo, started(self.slice))];
        for number in 0..flows {
            learned.push((key(number)?, owner(number)?));
            starts.push((key(number)?, started(owner(number)?)));
        }
        self.set("FLOWS", &learned)?;
        self.set("STARTED", &starts)
    }

    fn fill_ports(&self, rows: u32) -> Result<()> {
        let mut reserved = Vec::new();
        let mut claims = Vec::new();
        for turn in 0..self.size.ports {
            let row = rows - 1 - u32::from(turn) % self.size.slices;
            let owner =
                SliceId::new(socket::GENERATION, row).context("more slices than there are rows")?;
            for protocol in [TCP, UDP] {
                let index = self.index(protocol, FIRST_PORT + turn)?;
                let holder = Claim::holder(owner, 1);
                reserved.push((
                    index,
                    Reserved {
                        owner,
                        kind: RESERVED_SLICE,
                        flags: 0,
                    },
                ));
                claims.push((
                    index,
                    Claim {
                        holder,
                        ..Claim::new_zeroed()
                    },
                ));
            }
        }
        self.set("RESERVED", &reserved)?;
        self.set("CLAIMS", &claims)
    }

    /// A link on this device that a number of slices wait for, the node beside them
    /// with enough for all that it sends here.
    pub fn fill_link(&self, device: u32, rate: u64, until_ns: u64) -> Result<()> {
        let rows = self.size.slices + FIRST_SLICE_ROW;
        let waits = |row| row >= FIRST_SLICE_ROW;
        let id = |row| SliceId::new(socket::GENERATION, row).unwrap_or(SliceId::NODE);
        let knobs = |row| LinkKnobs {
            floor: if waits(row) { 0 } else { rate },
            cap: u64::MAX,
            share: 1,
            id: if waits(row) { id(row) } else { SliceId(row) },
            ..LinkKnobs::new_zeroed()
        };
        let bucket = |row| Bucket {
            next_ns: if waits(row) { until_ns } else { 0 },
            rate,
            state: u64::from(waits(row)),
            queue: if waits(row) { 1 << 33 } else { 0 },
            stands: u64::from(waits(row)),
            ..Bucket::new_zeroed()
        };
        let bits = |word: u32| {
            let bit = |bit| u64::from(waits(word * 64 + bit) && word * 64 + bit < rows) << bit;
            (0..64).map(bit).fold(0, |bits, bit| bits | bit)
        };
        self.set("LINK_OF", &[(device, 0_u32)])?;
        self.set("LINKS", &[(0_u32, LinkEntry { rate, exempt: 0 })])?;
        self.set("LINK_STATES", &[(0_u32, LinkState::new_zeroed())])?;
        let every = |of: u32| 0..of;
        self.set(
            "KNOBS",
            &every(rows).map(|row| (row, knobs(row))).collect::<Vec<_>>(),
        )?;
        self.set(
            "BUCKETS",
            &every(rows)
                .map(|row| (row, bucket(row)))
                .collect::<Vec<_>>(),
        )?;
        let words = every(waiting_words(rows)).map(|word| (word, bits(word)));
        self.set("WAITING", &words.collect::<Vec<_>>())
    }

    /// Lets the next packet of the link divide its rate.
    pub fn let_divide(&self) -> Result<()> {
        self.set("LINK_STATES", &[(0_u32, LinkState::new_zeroed())])
    }

    /// Packets that the node has sent on the link, and slices among which it was
    /// divided last.
    pub fn of_link(&self) -> Result<(u64, u64)> {
        let buckets = self.ebpf.map("BUCKETS").context("find map BUCKETS")?;
        let buckets = Array::<_, [u8; size_of::<Bucket>()]>::try_from(buckets)?;
        let states = self
            .ebpf
            .map("LINK_STATES")
            .context("find map LINK_STATES")?;
        let states = Array::<_, [u8; size_of::<LinkState>()]>::try_from(states)?;
        let (bucket, state) = (buckets.get(&0, 0)?, states.get(&0, 0)?);
        let bucket = Bucket::read_from_bytes(&bucket).map_err(|_| anyhow!("a bucket's size"))?;
        let state = LinkState::read_from_bytes(&state).map_err(|_| anyhow!("a state's size"))?;
        Ok((bucket.packets, state.slices))
    }

    /// Attaches the programs to the root of the cgroups and to the slices'
    /// parent until the links are dropped.
    pub fn attach(&self, root: BorrowedFd<'_>, slices: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
        let places = ROOT.iter().map(|program| (root, program));
        places
            .chain(SLICES.iter().map(|program| (slices, program)))
            .map(|(place, (name, kind))| {
                bpf::attach(self.program(name)?, place, *kind)
                    .with_context(|| format!("attach {name}"))
            })
            .collect()
    }

    /// Packets that the slice under test, the last one, has sent or received.
    pub fn counted_of_last(&self, direction: Direction) -> Result<u64> {
        self.counted(self.slice.index()..self.slice.index() + 1, direction)
    }

    fn index(&self, protocol: u8, port: u16) -> Result<u32> {
        port_index(protocol, port)
            .filter(|&index| index < PORT_ROWS)
            .with_context(|| format!("protocol {protocol} has no ports"))
    }

    fn set<K, V>(&self, map: &str, entries: &[(K, V)]) -> Result<()>
    where
        K: zerocopy::IntoBytes + zerocopy::Immutable,
        V: zerocopy::IntoBytes + zerocopy::Immutable,
    {
        bpf::set(self.map(map)?, entries).with_context(|| format!("fill map {map}"))
    }

    fn map(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let map = self
            .ebpf
            .map(name)
            .with_context(|| format!("find map {name}"))?;
        let data = match map {
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LpmTrie(data)
            | Map::ProgramArray(data)
            | Map::SkStorage(data)
            | Map::PerCpuArray(data) => data,
            _ => bail!("map {name} is of another kind than the bench knows"),
        };
        Ok(data.fd().as_fd())
    }

    /// The flow of packets that the slice sends over its port.
    pub fn flow(&self, protocol: u8, ipv6: bool) -> Flow {
        let (source, destination): (Address, Address) = if ipv6 {
            (NODE_V6.octets(), PEER_V6.octets())
        } else {
            (v4(NODE_V4), v4(PEER_V4))
        };
        Flow {
            source,
            destination,
            protocol,
            source_port: self.port,
            destination_port: 443,
        }
    }

    /// The program of this direction with a socket of the slice, after making
    /// sure that packets take the way through the slice's rules: the verdict
    /// lets them pass, and the slice's own row counts them.
    pub fn pair(&self, direction: Direction, flow: &Flow, hold: Hold, past: Past) -> Result<Pair> {
        let local = match direction {
            Direction::Out => *flow,
            Direction::In => flow.reversed(),
        };
        let index = self.index(flow.protocol, local.source_port)?;
        let bound = hold == Hold::Bound;
        let tag = Tag {
            id: self.slice,
            flags: TAG_OPEN | TAG_RUNNING | if bound { 0 } else { TAG_FLOW },
            held: if bound { u64::from(index) + 1 } else { 0 },
            ..Tag::new_zeroed()
        };
        let pair = self.with_socket(direction, &tag, past)?;
        let rows = match past {
            Past::OtherSlice(_) => FIRST_SLICE_ROW..self.size.slices + FIRST_SLICE_ROW,
            _ => self.slice.index()..self.slice.index() + 1,
        };
        self.passes(&pair, direction, &Packet::new(flow.frame()), rows)
            .with_context(|| format!("{flow:?}"))?;
        Ok(pair)
    }

    /// The program of this direction with a socket that has the tag.
    pub fn with_socket(&self, direction: Direction, tag: &Tag, past: Past) -> Result<Pair> {
        let kind = direction.attach_type();
        let idle = socket::idle(Kind::Cgroup(kind))?;
        let program = self.program(direction.program())?;
        let jumps = bpf::jump_table(&[program, idle.as_fd()])?;
        let tags = self.map("TAGS")?;
        Ok(Pair {
            ours: socket::tagged(kind, tags, tag, past, &jumps, 0)?,
            idle: socket::tagged(kind, tags, tag, past, &jumps, 1)?,
            _jumps: Some(jumps),
        })
    }

    /// A program that needs no tag.
    pub fn plain(&self, name: &str, kind: Kind) -> Result<Pair> {
        Ok(Pair {
            ours: self.program(name)?.try_clone_to_owned()?,
            idle: socket::idle(kind)?,
            _jumps: None,
        })
    }

    /// Makes sure that packets are let through and counted for these rows.
    pub fn passes(
        &self,
        pair: &Pair,
        direction: Direction,
        packet: &Packet,
        rows: Range<u32>,
    ) -> Result<()> {
        let before = self.counted(rows.clone(), direction)?;
        let run = bpf::test_run(pair.ours.as_fd(), packet, CHECKED)?;
        let counted = self.counted(rows, direction)? - before;
        ensure!(
            run.verdict == 1 && counted == u64::from(CHECKED),
            "{} gave verdict {} and counted {counted} of {CHECKED} packets",
            direction.program(),
            run.verdict
        );
        Ok(())
    }

    /// The slice under test.
    pub fn slice(&self) -> SliceId {
        self.slice
    }

    fn program(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("find {name}"))?;
        Ok(program.fd()?.as_fd())
    }

    /// Packets of slices that their rows have counted.
    fn counted(&self, rows: Range<u32>, direction: Direction) -> Result<u64> {
        let map = self.ebpf.map("TRAFFIC").context("find map TRAFFIC")?;
        let map = PerCpuArray::<_, [u8; size_of::<Traffic>()]>::try_from(map)?;
        let mut packets = 0;
        for row in rows {
            for bytes in map.get(&row, 0)?.iter() {
                let Ok(traffic) = Traffic::read_from_bytes(bytes) else {
                    continue;
                };
                packets += match direction {
                    Direction::Out => traffic.sent_packets + traffic.loopback_sent_packets,
                    Direction::In => traffic.received_packets + traffic.loopback_received_packets,
                };
            }
        }
        Ok(packets)
    }
}

/// Mail, refused to all; and an exception of each slice's own.
fn refused(rows: u32, own: bool) -> Vec<(RefusedKey, RefusedPorts)> {
    let mut mail = RefusedPorts::new_zeroed();
    mail.count = 1;
    mail.rules[0] = RefusedRange {
        protocol: TCP,
        low: 25,
        high: 25,
        ..RefusedRange::new_zeroed()
    };
    let key = |row: u32, network: [u8; 4], length: u32| RefusedKey {
        prefix_length: 32 + 96 + length,
        row: refused_row(row),
        address: mapped(network),
    };
    let mut rules = vec![(key(0, [0; 4], 0), mail)];
    if own {
        let none = RefusedPorts::new_zeroed();
        rules.extend((FIRST_SLICE_ROW..rows).map(|row| (key(row, [203, 0, 113, 0], 24), none)));
    }
    rules
}
