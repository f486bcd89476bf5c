//! Who is told what: a node of three slices, of which `watch` has the grant.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::SignedDuration;
use policy::SliceId;
use policy::abi::{
    Arrivals, Bucket, Denials, LIVE, LinkKnobs, QuotaState, SliceEntry, SliceState, TalliedFlow,
    Tally, TallyRest, Traffic, UDP, mapped,
};
use serde_json::Value;
use zerocopy::FromZeros;

use super::*;
use crate::daemon::Hub;
use crate::flows::{History, Whose};
use crate::kernel::tallies::Generation;
use crate::node::OnLink;
use crate::report::flows::HOUR_NS;
use crate::report::happening::What;
use crate::report::links::LinkReading;
use crate::report::links_past::Wanted;
use crate::report::ports::{PortKind, Protocol};
use crate::report::status::{Node, Reading};
use crate::report::{Clock, LinkRow, Names, Owner, Port, Ports};
use crate::status::fixture::config;
use crate::status::hour::{Hour, Moved, Step};
use crate::status::wire::{Exposition, Part};

const NAMES: [(u32, &str); 5] = [(0, ""), (1, ""), (2, "alpha"), (3, "beta"), (4, "watch")];

pub(crate) struct Fake {
    status: Status,
    ports: Ports,
    links: (Timestamp, Vec<Link>),
    table: String,
    hub: Hub,
    policies: Policies,
    directory: PathBuf,
    read: Vec<&'static str>,
}

impl std::ops::Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The id of a name; of one that is no owner, of a slice that is gone.
pub(crate) fn id_of(name: &str) -> u32 {
    let known = NAMES[2..].iter().find(|known| known.1 == name);
    known.map_or(9, |known| known.0)
}

/// The hour of all flows.
pub(crate) const HOUR: i64 = 500_000;

/// What everybody sends, each to a peer of its own: 192.0.2.ID.
fn flows(directory: &Path) {
    let mut history = History::open(&directory.join("flows.db"), 1 << 20).unwrap();
    let at_ns = u64::try_from(HOUR * HOUR_NS).unwrap();
    let clock = Clock {
        monotonic_ns: at_ns,
        realtime_ns: at_ns.into(),
    };
    let flow = |(id, port): (u32, u16)| {
        let flow = TalliedFlow {
            owner: SliceId(id),
            protocol: UDP,
            local_port: 8000,
            peer_port: port,
            local: mapped([198, 51, 100, 1]),
            peer: mapped([192, 0, 2, u8::try_from(id).unwrap()]),
            ..TalliedFlow::new_zeroed()
        };
        let tally = Tally {
            sent_packets: 1,
            sent_bytes: u64::from(id) + 6000,
            first_ns: at_ns,
            last_ns: at_ns,
            ..Tally::new_zeroed()
        };
        (flow, tally)
    };
    let owners = || NAMES.iter().map(|(id, _)| *id).filter(|id| *id != 1);
    let tallied = Generation {
        number: 1,
        flows: owners()
            .flat_map(|id| [(id, 53), (id, 54), (id, 55)])
            .map(flow)
            .collect(),
        rests: owners()
            .map(|id| TallyRest {
                owner: SliceId(id),
                traffic: Traffic {
                    sent_packets: 1,
                    sent_bytes: u64::from(id) + 5000,
                    ..Traffic::new_zeroed()
                },
                ..TallyRest::new_zeroed()
            })
            .collect(),
    };
    let names = Names::new(NAMES[2..].iter().map(|(id, name)| (SliceId(*id), *name)));
    history.keep("here", &clock, &names, &tallied).unwrap();
}

fn policies() -> Policies {
    let files = [
        ("node.toml", ""),
        ("slices/alpha.toml", "sockets = 102\n"),
        (
            "slices/beta.toml",
            "sockets = 103\ndescription = \"hidden\"\n",
        ),
        (
            "slices/watch.toml",
            "role = \"management\"\ngrants = [\"audit\", \"status\"]\n[context]\nimage = \"debian\"\n",
        ),
    ];
    Policies::new(1, &config(&files))
}

impl Fake {
    pub(crate) fn database(&self) -> PathBuf {
        self.directory.join("flows.db")
    }

    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("slice-fake-{}-{count}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        flows(&directory);
        let readings = NAMES.map(|(id, name)| reading(id, name));
        let node = Node {
            name: "here".into(),
            kernel: "6.12".into(),
            version: "1".into(),
            abi_version: 1,
            policy: "/etc/slice".into(),
            since: Timestamp::UNIX_EPOCH,
            slices: Used::default(),
            daemon: None,
        };
        let port = |id: u32, name: &str| Port {
            protocol: Protocol::Tcp,
            low: 8000,
            high: 8000,
            owner: Owner {
                id,
                name: Some(name.to_owned()),
            },
            kind: PortKind::Reserved,
            raw: false,
            sockets: 0,
            since: None,
            lingers_until: None,
        };
        // A time has all sorts of digits.
        let hub = Hub::of_run(5, 10);
        for (id, name) in NAMES {
            let name = Some(name.to_owned());
            hub.tell(Owner { id, name }, What::Started);
        }
        Self {
            status: Status::new(Timestamp::UNIX_EPOCH, node, readings.to_vec()),
            ports: Ports {
                time: Timestamp::UNIX_EPOCH,
                ports: vec![port(2, "alpha"), port(3, "beta"), port(0, "node")],
            },
            links: (
                Timestamp::UNIX_EPOCH,
                vec![Link {
                    name: "eth0".into(),
                    rate: 1_000_000,
                    there: true,
                    rows: NAMES.map(|(id, name)| row_of_link(id, name)).to_vec(),
                }],
            ),
            table: String::new(),
            hub,
            policies: policies(),
            directory,
            read: Vec::new(),
        }
    }

    fn told(&mut self, name: &str, ask: Ask) -> Result<String, Refusal> {
        let id = NAMES.iter().find(|known| known.1 == name).unwrap().0;
        self.told_to(name, id, ask)
    }

    fn told_to(&mut self, name: &str, id: u32, ask: Ask) -> Result<String, Refusal> {
        let viewer = Viewer {
            name: name.to_owned(),
            id,
        };
        let told = answer(self, &viewer, &ask).unwrap();
        told.map(|(_, body)| String::from_utf8(body).unwrap())
    }
}

fn row_of_link(id: u32, name: &str) -> LinkRow {
    let names = Names::new([(SliceId(id), name)]);
    let on_link = |bytes| OnLink {
        link: 0,
        exempt: false,
        knobs: LinkKnobs {
            id: SliceId(id),
            ..LinkKnobs::new_zeroed()
        },
        bucket: Bucket {
            bytes,
            ..Bucket::new_zeroed()
        },
        quota: QuotaState::new_zeroed(),
        arrivals: Arrivals::new_zeroed(),
    };
    let reading = LinkReading {
        before: on_link(0),
        after: on_link(u64::from(id) + 9000),
        elapsed_ns: 1,
        now_ns: 0,
        boot_ns: 0,
        time: Timestamp::UNIX_EPOCH,
    };
    LinkRow::new(&names, &reading, Some(&reading))
}

/// Every row has a number of its own, so that a stranger's shows.
pub(crate) fn reading(id: u32, name: &str) -> Reading {
    let mut denials = Denials::new_zeroed();
    denials.counts[Reason::PortReserved as usize] = u64::from(id) + 7000;
    let mut entry = SliceEntry::new_zeroed();
    entry.id = SliceId(id);
    entry.flags = LIVE;
    entry.sockets_max = 100 + id;
    let mut traffic = Traffic::new_zeroed();
    traffic.sent_bytes = u64::from(id) + 9000;
    Reading {
        id: SliceId(id),
        name: name.to_owned(),
        entry,
        state: SliceState::new_zeroed(),
        now_ns: 0,
        controller: None,
        traffic,
        denials,
        context: None,
        processes: None,
        memory: Some(Used {
            usage: 4096,
            limit: None,
        }),
        cpu: None,
        disk: None,
        inodes: None,
        swap: None,
        io: None,
    }
}

impl Source for Fake {
    fn sight(&mut self, viewer: &Viewer) -> anyhow::Result<Option<Sight>> {
        Ok(match (viewer.name.as_str(), viewer.id) {
            ("watch", 4) => Some(Sight::All),
            ("alpha", 2) | ("beta", 3) => Some(Sight::Own),
            _ => None,
        })
    }

    fn attributes(&mut self) -> anyhow::Result<Attributes> {
        Ok(Attributes {
            time: Timestamp::UNIX_EPOCH,
            name: "here".into(),
            kernel: "6.12".into(),
            architecture: "x86_64".into(),
            version: "1".into(),
            since: Timestamp::UNIX_EPOCH,
            cores: 2,
            memory_bytes: 1 << 30,
            addresses: Vec::new(),
            load: [0.0; 3],
            slices: Some(Used {
                usage: 3,
                limit: Some(32),
            }),
        })
    }

    fn all(&mut self) -> anyhow::Result<&Status> {
        self.read.push("all");
        Ok(&self.status)
    }

    fn owners(&mut self) -> anyhow::Result<Vec<(String, u32)>> {
        self.read.push("owners");
        let rows = self.status.rows.iter();
        Ok(rows.map(|row| (row.name.clone(), row.id)).collect())
    }

    fn rows(&mut self, owners: &[(&str, u32)]) -> anyhow::Result<Vec<(Timestamp, Arc<Row>)>> {
        if owners.iter().any(|(name, _)| *name != "alpha") {
            self.read.push("row");
        }
        let row = |(name, id): &(&str, u32)| {
            let mut rows = self.status.rows.iter();
            let row = rows.find(|row| row.id == *id && row.name == *name);
            (Timestamp::UNIX_EPOCH, Arc::new(row.unwrap().clone()))
        };
        Ok(owners.iter().map(row).collect())
    }

    fn total(&mut self) -> anyhow::Result<Total> {
        self.read.push("total");
        Ok(self.status.total.clone())
    }

    fn denials(&mut self, of: Option<(&str, u32)>) -> anyhow::Result<lists::OfOwners<Denials>> {
        if of.is_none() {
            self.read.push("denials");
        }
        let rows = self.status.rows.iter();
        let picked = rows.filter(|row| of.is_none_or(|(_, id)| row.id == id));
        let of = picked.map(|row| {
            let denials = reading(row.id, &row.name).denials;
            (row.name.clone(), row.id, denials)
        });
        Ok((Timestamp::UNIX_EPOCH, of.collect()))
    }

    fn policies(&mut self) -> anyhow::Result<Option<&Policies>> {
        Ok(Some(&self.policies))
    }

    fn whose(&mut self, viewer: &Viewer) -> anyhow::Result<Option<Whose>> {
        let sight = self.sight(viewer)?;
        Ok(sight.map(|sight| match sight {
            Sight::Own => Whose::One(SliceId(viewer.id)),
            Sight::All => Whose::All,
        }))
    }

    fn ports(&mut self) -> anyhow::Result<&Ports> {
        Ok(&self.ports)
    }

    fn events(&self, of: Option<u32>, after: Option<Cursor>) -> News {
        let mut news = self.hub.since(of, after, 10);
        // The time of day has any digits: none of them is a number of others.
        for item in &mut news.items {
            if let Item::Happened(happening) = item {
                happening.time = Timestamp::UNIX_EPOCH;
            }
        }
        news
    }

    fn links(&mut self) -> anyhow::Result<&(Timestamp, Vec<Link>)> {
        Ok(&self.links)
    }

    fn links_past(
        &mut self,
        of: Option<u32>,
        seconds: u32,
        most: u32,
    ) -> anyhow::Result<LinksPast> {
        let mut hour = Hour::default();
        let moved = NAMES.map(|(id, _)| Moved {
            link: 0,
            id: SliceId(id),
            sent: u64::from(id) + 9000,
            dropped: 0,
        });
        let (time, over_ns) = (Timestamp::UNIX_EPOCH, 8_000_000_000);
        hour.add(Step { time, over_ns }, &moved);
        let wanted = Wanted {
            owner: of,
            since: time - SignedDuration::from_secs(seconds.into()),
            most: usize::try_from(most)?,
        };
        let names = Names::new(NAMES.map(|(id, name)| (SliceId(id), name)));
        let links = [("eth0".to_owned(), 1_000)];
        let past = hour.since(wanted.since);
        Ok(LinksPast::new(past, time, &links, &names, &wanted))
    }

    fn averages(&self, id: u32, now: history::Counters) -> [Average; 3] {
        assert_eq!(now.sent, u64::from(id) + 9000);
        Default::default()
    }

    fn table(&self, max_age: u32) -> Option<&str> {
        (max_age > 0).then_some(self.table.as_str())
    }

    fn keep_table(&mut self, table: &str) {
        self.table = table.to_owned();
    }
}

fn asks() -> Vec<Ask> {
    vec![
        Ask::Node,
        ports(None),
        links(None),
        drops(None),
        slices(),
        policy(None),
        Ask::LinksPast {
            seconds: 60,
            most: 2,
        },
        Ask::Events { after: None },
        Ask::Slicestat(0),
        Ask::Slicestat(9),
        Ask::Rows(Form::Metrics(Exposition::OpenMetrics)),
    ]
}

fn part() -> Part {
    Part {
        after: None,
        most: 1000,
    }
}

fn slices() -> Ask {
    Ask::Slices {
        kind: None,
        part: part(),
    }
}

fn ports(slice: Option<&str>) -> Ask {
    Ask::Ports {
        slice: slice.map(str::to_owned),
        protocol: None,
        kind: None,
        port: None,
        part: part(),
    }
}

fn links(slice: Option<&str>) -> Ask {
    Ask::Links {
        link: None,
        slice: slice.map(str::to_owned),
        part: part(),
    }
}

fn drops(slice: Option<&str>) -> Ask {
    Ask::Drops {
        slice: slice.map(str::to_owned),
        reason: None,
        part: part(),
    }
}

fn policy(slice: Option<&str>) -> Ask {
    Ask::Policy {
        slice: slice.map(str::to_owned),
        part: part(),
    }
}

fn one(name: &str) -> Ask {
    Ask::Rows(Form::One(name.into()))
}

#[test]
fn without_the_grant_a_slice_is_told_of_itself_alone_whatever_it_asks() {
    let mut fake = Fake::new();
    // A table for another must not be taken for its own.
    fake.table = "beta,3\n".into();
    for ask in asks() {
        let told = fake.told("alpha", ask.clone()).unwrap();
        for stranger in [
            "beta",
            "watch",
            "beta,",
            "unattributed",
            "\"node\"",
            "7003",
            "7000",
            "9003",
            "9000",
            "total\":{\"",
            "32",
            "hidden",
            "103",
        ] {
            assert!(!told.contains(stranger), "{ask:?} tells {stranger}: {told}");
        }
    }
    for name in ["beta", "watch", "node", "unattributed", "nobody"] {
        assert_eq!(fake.told("alpha", one(name)), Err(Refusal::NoSuchSlice));
    }
    let own: Value = serde_json::from_str(&fake.told("alpha", one("alpha")).unwrap()).unwrap();
    assert_eq!((&own["name"], &own["id"]), (&"alpha".into(), &2.into()));
    // Nor is more read for it than its own row.
    assert_eq!(fake.read, [""; 0]);
}

#[test]
fn with_the_grant_it_is_told_of_all() {
    let mut fake = Fake::new();
    for (ask, words) in [
        (Ask::Node, &["\"usage\":3", "\"limit\":32"][..]),
        (ports(None), &["alpha", "beta", "node"]),
        (ports(Some("beta")), &["beta"]),
        (links(None), &["eth0", "alpha", "beta", "9000", "9003"]),
        (policy(None), &["alpha", "hidden", "\"sockets\":103"]),
        (
            Ask::LinksPast {
                seconds: 60,
                most: 2,
            },
            // 9004 and 9003 bytes, and 9000, 9001 and 9002 of the others.
            &["watch", "beta", "9003", "27003", "\"others\":{"],
        ),
        (
            Ask::Events { after: None },
            &[
                "alpha",
                "beta",
                "\"id\":0",
                "data: {\"happened\":{\"cursor\":\"",
            ],
        ),
        (Ask::Slicestat(0), &["alpha,2,", "beta,3,", "watch,4,"]),
        // The one that was made just now.
        (Ask::Slicestat(9), &["alpha,2,", "beta,3,", "watch,4,"]),
        (
            slices(),
            &[
                "alpha",
                "beta",
                "watch",
                "node",
                "unattributed",
                "total\":{\"",
            ],
        ),
        (drops(None), &["7000", "7002", "7003"]),
        (
            Ask::Rows(Form::Metrics(Exposition::OpenMetrics)),
            &[
                "slice=\"beta\"",
                "slice=\"unattributed\"",
                "slice_node_slices 3",
                "slice_link_sent_bytes_total{slice=\"beta\",link=\"eth0\"} 9003",
            ],
        ),
    ] {
        let told = fake.told("watch", ask.clone()).unwrap();
        for word in words {
            assert!(told.contains(word), "{ask:?} does not tell {word}: {told}");
        }
    }
    for name in ["alpha", "watch", "node", "unattributed"] {
        assert!(fake.told("watch", one(name)).is_ok(), "{name}");
    }
    assert_eq!(fake.told("watch", one("nobody")), Err(Refusal::NoSuchSlice));
}

#[test]
fn who_is_no_slice_any_more_is_told_nothing_also_where_another_has_its_name() {
    let mut fake = Fake::new();
    for ask in asks() {
        assert_eq!(fake.told_to("gone", 9, ask.clone()), Err(Refusal::Gone));
        assert_eq!(fake.told_to("watch", 258, ask), Err(Refusal::Gone));
    }
}
