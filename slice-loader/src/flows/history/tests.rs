use super::*;
use crate::report::flows::Flows;
use jiff::Timestamp;
use policy::abi::{TalliedFlow, Tally, TallyRest, UDP, mapped};
use zerocopy::FromZeros;

const NODE: &str = "boot 1";

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slice-flows-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn open(&self, bytes: u64) -> History {
        History::open(&self.0.join("flows.db"), bytes).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn id(row: u32) -> SliceId {
    SliceId::new(0, row).unwrap()
}

fn names() -> Names {
    Names::new([(id(2), "alpha"), (id(3), "beta")])
}

/// The clock at an hour since 1970, and so long since boot.
fn clock(hour: i64) -> Clock {
    Clock {
        monotonic_ns: u64::try_from(hour * HOUR_NS).unwrap(),
        realtime_ns: i128::from(hour * HOUR_NS),
    }
}

fn generation(number: u64, row: u32, hour: i64, flows: u16) -> Generation {
    let at = clock(hour).monotonic_ns;
    let flow = |port| {
        let flow = TalliedFlow {
            owner: id(row),
            protocol: UDP,
            local_port: 8000,
            peer_port: port,
            local: mapped([198, 51, 100, 1]),
            peer: mapped([192, 0, 2, 9]),
            ..TalliedFlow::new_zeroed()
        };
        let tally = Tally {
            sent_packets: 1,
            sent_bytes: 100,
            first_ns: at,
            last_ns: at + 1,
            ..Tally::new_zeroed()
        };
        (flow, tally)
    };
    Generation {
        number,
        flows: (0..flows).map(flow).collect(),
        rests: vec![TallyRest {
            owner: id(row),
            traffic: Traffic {
                sent_packets: 1,
                sent_bytes: 100,
                ..Traffic::new_zeroed()
            },
            ..TallyRest::new_zeroed()
        }],
    }
}

fn ask(history: &mut History, wanted: &Wanted) -> Flows {
    let mut gathered = Gathered::default();
    history.gather(wanted, NODE, &mut gathered).unwrap();
    gathered.report(Timestamp::UNIX_EPOCH, usize::MAX)
}

/// Packets in rows and beside them.
fn packets(flows: &Flows) -> (u64, u64) {
    let rows = flows.flows.iter().map(|flow| flow.sent.packets).sum();
    let others = flows.others.iter();
    (rows, others.map(|other| other.external.sent.packets).sum())
}

#[test]
fn what_is_kept_is_found_again_and_rows_of_one_flow_add_up() {
    let directory = Directory::new("found");
    let mut history = directory.open(16 << 20);
    assert_eq!(history.last(NODE).unwrap(), None);
    for (number, hour) in [(0, 10), (1, 10), (2, 12)] {
        let tallied = generation(number, 2, hour, 3);
        history
            .keep(NODE, &clock(hour), &names(), &tallied)
            .unwrap();
    }
    history
        .keep(NODE, &clock(12), &names(), &generation(3, 3, 12, 1))
        .unwrap();
    assert_eq!(history.last(NODE).unwrap(), Some(3));
    assert_eq!(history.last("another").unwrap(), None);
    let mut reader = History::read(&directory.0.join("flows.db")).unwrap();
    let all = ask(&mut reader, &Wanted::default());
    assert_eq!((all.flows.len(), packets(&all)), (4, (10, 4)));
    let at = |hour: i64| Timestamp::from_nanosecond((hour * HOUR_NS).into()).ok();
    let early = Wanted {
        until: at(11),
        ..Wanted::default()
    };
    let early = ask(&mut reader, &early);
    assert_eq!((early.flows.len(), packets(&early)), (3, (6, 2)));
    let late = Wanted {
        since: at(11),
        port: Some(0),
        ..Wanted::default()
    };
    let late = ask(&mut reader, &late);
    let owners: Vec<_> = late.flows.iter().map(|flow| flow.slice.label()).collect();
    assert_eq!(owners, ["alpha", "beta"]);
    for (network, found) in [
        ("192.0.2.0/24", 4),
        ("192.0.3.0/24", 0),
        ("::/0", 0),
        ("0.0.0.0/0", 4),
    ] {
        let peer = Prefix::parse(network).ok();
        let found_there = ask(
            &mut reader,
            &Wanted {
                peer,
                ..Wanted::default()
            },
        );
        assert_eq!(found_there.flows.len(), found, "{network}");
    }
}

#[test]
fn what_is_too_old_is_forgotten_and_a_slice_that_is_gone_keeps_its_name() {
    let directory = Directory::new("old");
    let mut history = directory.open(16 << 20);
    let now = Clock::now().unwrap();
    let hour = now.nanoseconds(now.monotonic_ns) / HOUR_NS;
    let kept = Kept {
        seconds: 5 * 3600,
        bytes: 16 << 20,
    };
    history
        .keep(
            NODE,
            &clock(hour - 7),
            &names(),
            &generation(0, 2, hour - 7, 2),
        )
        .unwrap();
    let gone = Names::new([(id(3), "beta")]);
    history
        .keep(
            NODE,
            &clock(hour - 3),
            &gone,
            &generation(1, 2, hour - 3, 1),
        )
        .unwrap();
    history.bound(kept).unwrap();
    let all = ask(&mut history, &Wanted::default());
    assert_eq!((all.flows.len(), packets(&all)), (1, (1, 1)));
    assert_eq!(all.flows[0].slice.label(), "alpha");
}

#[test]
fn a_full_database_adds_up_the_rows_of_whoever_has_most_and_loses_no_packet() {
    let directory = Directory::new("full");
    let bytes = 2 << 20;
    let mut history = directory.open(bytes);
    let now = Clock::now().unwrap();
    let hour = now.nanoseconds(now.monotonic_ns) / HOUR_NS;
    history
        .keep(NODE, &clock(hour), &names(), &generation(0, 3, hour, 5))
        .unwrap();
    let kept = Kept {
        seconds: 100 * 3600,
        bytes,
    };
    for number in 1..20 {
        let at = hour - 20 + i64::try_from(number).unwrap();
        let tallied = generation(number, 2, at, 4000);
        history.keep(NODE, &clock(at), &names(), &tallied).unwrap();
        history.bound(kept).unwrap();
        let size = std::fs::metadata(directory.0.join("flows.db"))
            .unwrap()
            .len();
        assert!(size <= bytes, "{size}");
    }
    let alpha = ask(
        &mut history,
        &Wanted {
            slice: Some("alpha".into()),
            ..Wanted::default()
        },
    );
    let (rows, beside) = packets(&alpha);
    assert_eq!(rows + beside, 19 * 4001);
    assert!(rows > 0 && beside > 19, "{rows} {beside}");
    let beta = ask(
        &mut history,
        &Wanted {
            slice: Some("beta".into()),
            ..Wanted::default()
        },
    );
    assert_eq!(packets(&beta), (5, 1));
}

#[test]
fn a_generation_that_does_not_fit_is_not_half_there() {
    let directory = Directory::new("half");
    let mut history = directory.open(0);
    let before = history.keep(NODE, &clock(10), &names(), &generation(0, 2, 10, 20_000));
    assert!(before.is_err());
    assert_eq!(history.last(NODE).unwrap(), None);
    assert_eq!(packets(&ask(&mut history, &Wanted::default())), (0, 0));
    history
        .keep(NODE, &clock(10), &names(), &generation(0, 2, 10, 10))
        .unwrap();
    assert_eq!(packets(&ask(&mut history, &Wanted::default())), (10, 1));
}

#[test]
fn a_broken_database_is_put_aside() {
    let directory = Directory::new("broken");
    std::fs::write(directory.0.join("flows.db"), vec![7; 8192]).unwrap();
    let mut history = directory.open(16 << 20);
    history
        .keep(NODE, &clock(10), &names(), &generation(0, 2, 10, 1))
        .unwrap();
    assert!(directory.0.join("flows.db.broken").exists());
}

#[test]
fn one_that_is_broken_further_in_is_put_aside_when_that_shows() {
    let directory = Directory::new("deep");
    let path = directory.0.join("flows.db");
    let tallied = generation(0, 2, 10, 5000);
    let keep = |history: &mut History, number| {
        let next = Generation {
            number,
            ..tallied.clone()
        };
        history.keep(NODE, &clock(10), &names(), &next)
    };
    keep(&mut directory.open(16 << 20), 0).unwrap();
    let mut octets = std::fs::read(&path).unwrap();
    // All but what is read when it is opened.
    octets[20 << 10..].fill(7);
    std::fs::write(&path, octets).unwrap();
    let error = keep(&mut directory.open(16 << 20), 1).unwrap_err();
    assert!(failed_by_damage(&error), "{error:#}");
    put_aside(&path).unwrap();
    keep(&mut directory.open(16 << 20), 1).unwrap();
    assert!(directory.0.join("flows.db.broken").exists());
}

#[test]
fn a_bound_that_was_lowered_is_kept_at_once_and_nothing_is_lost() {
    const OWNERS: u32 = 200;
    const HOURS: u16 = 40;
    let directory = Directory::new("lowered");
    let mut history = directory.open(64 << 20);
    let now = Clock::now().unwrap();
    let first = now.nanoseconds(now.monotonic_ns) / HOUR_NS - i64::from(HOURS);
    for number in 0..HOURS {
        let at = first + i64::from(number);
        let flows = (2..2 + OWNERS).flat_map(|row| generation(0, row, at, 6).flows);
        let tallied = Generation {
            number: number.into(),
            flows: flows.collect(),
            rests: Vec::new(),
        };
        history.keep(NODE, &clock(at), &names(), &tallied).unwrap();
    }
    let pages = |history: &History| history.number("page_count").unwrap();
    let before = pages(&history);
    let kept = Kept {
        seconds: 1000 * 3600,
        bytes: 2 << 20,
    };
    history.bound(kept).unwrap();
    let after = pages(&history);
    assert!(after < before / 2 && after <= 512, "{before}, then {after}");
    let (rows, beside) = packets(&ask(&mut history, &Wanted::default()));
    assert_eq!(rows + beside, u64::from(OWNERS) * u64::from(HOURS) * 6);
    assert!(rows > 0, "{beside}");
}
