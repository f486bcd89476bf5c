//! A node to look at: the process that parses as it is, and in the daemon's place
//! answers of a node that is made up.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use policy::abi::{self, Denials, Moment, TCP, UDP};
use policy::verdict::Reason;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::context::running::Life;
use crate::daemon::{Hub, News};
use crate::flows::Whose;
use crate::report::event::Cursor;
use crate::report::happening::What;
use crate::report::links::{Exempt, Quota, Receive};
use crate::report::links_past::Wanted;
use crate::report::policies::Policies;
use crate::report::ports::{PortKind, Protocol};
use crate::report::status::{Cpu, Denied, Node, Total, Volume, Way};
use crate::report::{
    Clock, Link, LinkRow, LinksPast, Names, Owner, Port, Ports, Row, Status, Used,
};
use crate::status::answers::{Attributes, Sight, Source, lists};
use crate::status::control::orders::Desk;
use crate::status::history::{Average, Counters};
use crate::status::hour::{Hour, Moved, Step};
use crate::status::wire::{Notice, Viewer};
use crate::status::{answers::tests::reading, daemon, front};

/// The slices of a small node.
const NAMES: [&str; 8] = [
    "codeen", "coral", "monitor", "netflow", "oasis", "pluto", "scout", "vini",
];

/// The rates of its links, bit/s.
const RATES: [u64; 2] = [1_000_000_000, 100_000_000];

/// What an owner sends of it.
fn sends(id: u32, rate: u64) -> u64 {
    let n = u64::from(id) + 1;
    rate / 80 * (n * 7 % 11) / (1 + n / 10)
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A node that is made up.
pub struct Fixture {
    /// Names of its slices, the first of which has id 2.
    pub names: Vec<String>,
    /// What is shown.
    pub sight: Sight,
    /// Host name.
    pub node: String,
    /// Names of the links.
    pub links: Vec<String>,
    /// What happens.
    pub hub: Hub,
    hour: Hour,
    start: Instant,
    status: Option<Status>,
    ports: Option<Ports>,
    told: Option<(Timestamp, Vec<Link>)>,
}

impl Fixture {
    /// With a few slices, or with so many.
    pub fn new(slices: usize) -> Self {
        let names: Vec<String> = if slices <= NAMES.len() {
            NAMES.map(str::to_owned)[..slices].to_vec()
        } else {
            (0..slices).map(|n| format!("slice_{n:04}")).collect()
        };
        let mut fixture = Self {
            names,
            sight: Sight::All,
            node: "planetlab-1".into(),
            links: vec!["eth0".into(), "eth1".into()],
            hub: Hub::new(500),
            hour: Hour::default(),
            start: Instant::now(),
            status: None,
            ports: None,
            told: None,
        };
        fixture.happen();
        fixture.send();
        fixture
    }

    /// Has its owners have sent for an hour, some more and some less, and one not always.
    fn send(&mut self) {
        let now = Timestamp::now();
        let ids: Vec<u32> = std::iter::once(0).chain(self.slices()).collect();
        for step in 0..360_u32 {
            let moved = |link: usize, id: u32| {
                let phase = (step + 37 * id) % 120;
                let wave = u64::from(phase.min(120 - phase));
                let on = u64::from(id != 3 || step % 150 > 60);
                Moved {
                    link: u32::try_from(link).unwrap(),
                    id: policy::SliceId(id),
                    sent: on * sends(id, RATES[link]) * 10 / 8 * (60 + wave) / 90,
                    dropped: 0,
                }
            };
            let links = 0..RATES.len();
            let moved = links.flat_map(|link| ids.iter().map(move |id| moved(link, *id)));
            let moved: Vec<Moved> = moved.collect();
            let time = now - SignedDuration::from_secs(10 * i64::from(359 - step));
            let over_ns = 10_000_000_000;
            self.hour.add(Step { time, over_ns }, &moved);
        }
    }

    /// The ids of its slices.
    fn slices(&self) -> Range<u32> {
        2..2 + u32::try_from(self.names.len()).unwrap()
    }

    /// Since it began, in milliseconds.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    fn owner(&self, id: u32) -> Owner {
        let name = match id {
            0 => "node".to_owned(),
            1 => "unattributed".to_owned(),
            id => self.names[id as usize - 2].clone(),
        };
        let name = Some(name);
        Owner { id, name }
    }

    /// Has some things happen.
    fn happen(&self) {
        self.hub.tell(Owner::node(), What::DaemonStarted);
        for id in self.slices().take(3) {
            self.hub.tell(self.owner(id), What::Started);
        }
        let outside = [198, 51, 100, 7];
        self.deny(
            2,
            (Reason::PortReserved, Moment::Bind),
            b"nginx",
            (80, None),
        );
        self.deny(
            3,
            (Reason::Destination, Moment::Connect),
            b"python3",
            (0, Some((outside, 25))),
        );
        self.deny(
            2,
            (Reason::SourceForeign, Moment::Egress),
            b"",
            (53_000, Some((outside, 53))),
        );
    }

    /// Has a slice denied something.
    pub fn deny(
        &self,
        id: u32,
        (reason, moment): (Reason, Moment),
        command: &[u8],
        (port, peer): (u16, Option<([u8; 4], u16)>),
    ) {
        let clock = Clock::now().unwrap();
        let mut event: abi::Event = zerocopy::FromZeros::new_zeroed();
        event.time_ns = clock.monotonic_ns;
        event.id = policy::SliceId(id);
        event.pid = 4000 + id;
        event.reason = reason as u8;
        event.moment = moment as u8;
        event.protocol = TCP;
        event.local_port = port;
        if let Some((address, port)) = peer {
            event.protocol = UDP;
            event.peer = abi::mapped(address);
            event.peer_port = port;
        }
        event.command[..command.len()].copy_from_slice(command);
        let name = self.owner(id).name.unwrap();
        let names = Names::new([(policy::SliceId(id), name.as_str())]);
        self.hub.push(&event, &clock, &names);
    }

    /// What it was denied.
    fn denied(&self, id: u32) -> Denials {
        let mut denials: Denials = zerocopy::FromZeros::new_zeroed();
        let n = u64::from(id);
        if id != 1 {
            denials.counts[Reason::PortReserved as usize] = n % 3;
            denials.counts[Reason::Destination as usize] = 4 * (n % 4);
        }
        denials
    }

    fn row_of(&self, id: u32) -> Row {
        let elapsed = self.elapsed();
        let n = u64::from(id);
        let mut row = Row::from(reading(id, self.owner(id).name.as_deref().unwrap()));
        let used = |usage, limit| {
            Some(Used {
                usage,
                limit: Some(limit),
            })
        };
        let sent = n * 40 * elapsed;
        row.external = Way {
            sent: Volume {
                packets: sent / 1000,
                bytes: sent,
            },
            received: Volume {
                packets: sent / 300,
                bytes: sent / 3,
            },
        };
        row.denials = Denied::from(&self.denied(id));
        if id == 1 {
            return row;
        }
        row.cpu = Some(Cpu {
            used_us: elapsed * (30 + 110 * (n % 7)),
            cap_millicores: (id % 3 == 2).then_some(1000),
        });
        row.memory = used((17 * n % 29 + 3) * 9 * MIB, 256 * MIB);
        row.processes = used(n * 7 % 61 + 1, 4096);
        if id > 1 {
            row.context = Some(match id * 5 % 7 % 4 {
                2 => Life::Stopped,
                3 => Life::Frozen,
                _ => Life::Running,
            });
            row.sockets.usage = n * 13 % 97;
            row.disk = used((n * 31 % 40 + 1) * 200 * MIB, 10 * GIB);
        }
        row
    }

    fn link(&self, number: usize, rate: u64) -> Link {
        let ids = std::iter::once(0).chain(self.slices());
        let row = |id: u32| {
            let n = u64::from(id) + 1;
            let sends = sends(id, rate);
            let quota = (id % 4 == 3 && number == 0).then(|| Quota {
                limit: 100 << 30,
                used: (n * 23 % 97) << 30,
                left: (100 - n * 23 % 97) << 30,
                ends: Timestamp::now() + SignedDuration::from_hours(9 * 24),
                cap: (n * 23 % 97 > 90).then_some(2_000_000),
            });
            // The first link has exempt networks.
            let exempt = (number == 0).then(|| Exempt {
                cap: (id == 5).then_some(50_000_000),
                sends: if id % 3 == 2 { 3_000_000 * n } else { 0 },
                may_send: None,
                waits_us: 0,
                sent_bytes: if id % 3 == 2 { (n << 30) + 9 } else { 0 },
                sent_packets: 0,
                dropped_bytes: 0,
                dropped_packets: 0,
                marks: 0,
            });
            let receive = (number == 0 && id % 4 == 2).then(|| Receive {
                cap: 20_000_000,
                receives: 20_000_000_u64.saturating_sub(900_000 * n),
                drops: if id == 2 { 17 } else { 0 },
                received_bytes: n << 31,
                received_packets: n << 20,
                policed_bytes: n << 20,
                policed_packets: 1234 * (n - 2),
            });
            LinkRow {
                owner: self.owner(id),
                floor: if id == 2 { rate / 10 } else { 0 },
                share: if id == 0 { 5 } else { 1 },
                cap: (id == 8).then_some(rate / 5),
                sends,
                may_send: None,
                waits_us: 0,
                sent_bytes: sends / 8 * self.elapsed() / 1000,
                sent_packets: 0,
                dropped_bytes: 0,
                dropped_packets: 0,
                marks: 0,
                drops: 0,
                packets_cap: None,
                quota,
                exempt,
                receive,
            }
        };
        Link {
            name: self.links[number].clone(),
            rate,
            there: true,
            rows: ids.map(row).collect(),
        }
    }
}

impl Source for Fixture {
    fn sight(&mut self, viewer: &Viewer) -> anyhow::Result<Option<Sight>> {
        let own = viewer.name == self.names[0] && viewer.id == 2;
        Ok((own || *viewer == Viewer::node()).then_some(self.sight))
    }

    fn attributes(&mut self) -> anyhow::Result<Attributes> {
        Ok(Attributes {
            time: Timestamp::now(),
            name: self.node.clone(),
            kernel: "6.12.57+deb13-amd64".into(),
            architecture: "x86_64".into(),
            version: "0.1.0".into(),
            since: Timestamp::now() - SignedDuration::from_hours(77),
            cores: 8,
            memory_bytes: 16 * GIB,
            addresses: vec!["192.0.2.1".parse()?, "2001:db8::1".parse()?],
            load: [0.91, 0.74, 0.5],
            slices: Some(Used {
                usage: self.names.len() as u64,
                limit: Some(1024),
            }),
        })
    }

    fn all(&mut self) -> anyhow::Result<&Status> {
        let rows = (0..self.slices().end).map(|id| self.row_of(id)).collect();
        let node = Node {
            name: self.node.clone(),
            kernel: String::new(),
            version: String::new(),
            abi_version: 1,
            policy: "/etc/slice".into(),
            since: Timestamp::UNIX_EPOCH,
            slices: Used::default(),
            daemon: None,
        };
        let mut status = Status::new(Timestamp::now(), node, Vec::new());
        status.rows = rows;
        Ok(self.status.insert(status))
    }

    fn owners(&mut self) -> anyhow::Result<Vec<(String, u32)>> {
        let ids = std::iter::once(0).chain(self.slices()).chain([1]);
        Ok(ids.map(|id| (self.owner(id).label(), id)).collect())
    }

    fn rows(&mut self, owners: &[(&str, u32)]) -> anyhow::Result<Vec<(Timestamp, Arc<Row>)>> {
        let row = |(_, id): &(&str, u32)| (Timestamp::now(), Arc::new(self.row_of(*id)));
        Ok(owners.iter().map(row).collect())
    }

    fn total(&mut self) -> anyhow::Result<Total> {
        Ok(self.all()?.total.clone())
    }

    fn denials(&mut self, of: Option<(&str, u32)>) -> anyhow::Result<lists::OfOwners<Denials>> {
        let owners = self.owners()?.into_iter();
        let picked = owners.filter(|(_, id)| of.is_none_or(|(_, of)| of == *id));
        let denials = picked.map(|(name, id)| (name, id, self.denied(id)));
        Ok((Timestamp::now(), denials.collect()))
    }

    fn policies(&mut self) -> anyhow::Result<Option<&Policies>> {
        Ok(None)
    }

    fn whose(&mut self, _: &Viewer) -> anyhow::Result<Option<Whose>> {
        Ok(None)
    }

    fn ports(&mut self) -> anyhow::Result<&Ports> {
        let port = |protocol, low, high, id: u32, kind| Port {
            protocol,
            low,
            high,
            owner: self.owner(id),
            kind,
            raw: false,
            sockets: id,
            since: (kind == PortKind::Claimed).then(Timestamp::now),
            lingers_until: None,
        };
        let mut ports = vec![
            port(Protocol::Tcp, 22, 22, 0, PortKind::Reserved),
            port(Protocol::Tcp, 80, 80, 2, PortKind::Reserved),
        ];
        if self.names.len() > 1 {
            ports.push(port(Protocol::Udp, 53, 53, 3, PortKind::Reserved));
            ports.push(port(Protocol::Tcp, 8000, 8010, 3, PortKind::Reserved));
            ports.push(port(Protocol::Tcp, 45_120, 45_120, 3, PortKind::Claimed));
        }
        let time = Timestamp::now();
        Ok(self.ports.insert(Ports { time, ports }))
    }

    fn events(&self, of: Option<u32>, after: Option<Cursor>) -> News {
        self.hub.since(of, after, 100)
    }

    fn links(&mut self) -> anyhow::Result<&(Timestamp, Vec<Link>)> {
        let links = (0..RATES.len()).map(|number| self.link(number, RATES[number]));
        let links = links.collect();
        Ok(self.told.insert((Timestamp::now(), links)))
    }

    fn links_past(
        &mut self,
        of: Option<u32>,
        seconds: u32,
        most: u32,
    ) -> anyhow::Result<LinksPast> {
        let time = Timestamp::now();
        let wanted = Wanted {
            owner: of,
            since: time - SignedDuration::from_secs(seconds.into()),
            most: usize::try_from(most)?,
        };
        let ids = self.slices().map(policy::SliceId);
        let names = Names::new(ids.zip(self.names.iter().map(String::as_str)));
        let links: Vec<_> = self
            .links
            .iter()
            .cloned()
            .zip(RATES.map(|rate| rate / 8))
            .collect();
        let past = self.hour.since(wanted.since);
        Ok(LinksPast::new(past, time, &links, &names, &wanted))
    }

    fn averages(&self, _: u32, _: Counters) -> [Average; 3] {
        Default::default()
    }

    fn table(&self, _: u32) -> Option<&str> {
        None
    }

    fn keep_table(&mut self, _: &str) {}
}

/// One that is served, until this is dropped.
pub struct Served {
    /// Where.
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// To this viewer, at any port.
    pub fn to(viewer: Viewer, fixture: Fixture) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), viewer, fixture)
    }

    /// At this one.
    pub fn at(address: SocketAddr, viewer: Viewer, fixture: Fixture) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let flags = SockFlag::SOCK_CLOEXEC;
                let (ours, theirs) =
                    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
                let (daemon, front) = StdStream::pair().unwrap();
                daemon.set_nonblocking(true).unwrap();
                let (read, write) = UnixStream::from_std(daemon).unwrap().into_split();
                front.set_nonblocking(true).unwrap();
                hand_over(&ours, viewer, listener);
                let desk = Desk::of_node(fixture.hub.clone());
                tokio::select! {
                    ended = front::serve(theirs, front) => panic!("the front ended: {ended:?}"),
                    ended = daemon::serve(read, write, fixture, (PathBuf::new(), desk)) => panic!("the daemon ended: {ended:?}"),
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn hand_over(notices: &OwnedFd, viewer: Viewer, listener: TcpListener) {
    let notice = serde_json::to_vec(&Notice::Listen { key: 1, viewer }).unwrap();
    let descriptors = [listener.as_raw_fd()];
    sendmsg::<()>(
        notices.as_raw_fd(),
        &[std::io::IoSlice::new(&notice)],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
}
