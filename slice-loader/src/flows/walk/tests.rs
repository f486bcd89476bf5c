use std::path::PathBuf;

use policy::abi::{TallyRest, UDP, mapped};
use policy::config::Prefix;

use super::*;
use crate::kernel::tallies::Generation;
use crate::report::{Clock, Names};

const NODE: &str = "boot 1";

/// A database that is gone with this.
pub struct Kept {
    directory: PathBuf,
    history: History,
}

impl Kept {
    fn new(name: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("slice-walk-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        let history = History::open(&directory.join("flows.db"), 64 << 20).unwrap();
        Self { directory, history }
    }

    /// So many flows of a slice in an hour, towards 192.0.2.1 and 192.0.3.1 in turn,
    /// and something beside them.
    fn keep(&mut self, hour: i64, row: u32, flows: u16) {
        let clock = Clock {
            monotonic_ns: u64::try_from(hour * HOUR_NS).unwrap(),
            realtime_ns: i128::from(hour * HOUR_NS),
        };
        let owner = SliceId::new(0, row).unwrap();
        let flow = |port| {
            let flow = TalliedFlow {
                owner,
                protocol: UDP,
                local_port: 8000,
                peer_port: port,
                local: mapped([198, 51, 100, 1]),
                peer: mapped([192, 0, 2 + u8::from(port % 2 == 1), 1]),
                ..TalliedFlow::new_zeroed()
            };
            let tally = Tally {
                sent_packets: 1,
                first_ns: clock.monotonic_ns,
                last_ns: clock.monotonic_ns + 1,
                ..Tally::new_zeroed()
            };
            (flow, tally)
        };
        let tallied = Generation {
            number: 0,
            flows: (0..flows).map(flow).collect(),
            rests: vec![TallyRest {
                owner,
                traffic: Traffic {
                    sent_packets: 1,
                    ..Traffic::new_zeroed()
                },
                ..TallyRest::new_zeroed()
            }],
        };
        let name = |row| {
            (
                SliceId::new(0, row).unwrap(),
                ["alpha", "beta"][row as usize - 2],
            )
        };
        let names = Names::new([name(2), name(3)]);
        self.history.keep(NODE, &clock, &names, &tallied).unwrap();
    }

    /// Page by page: what each told, and how many pages there were.
    fn pages(&self, wanted: &Wanted, whose: Whose, most: usize, work: usize) -> (Vec<String>, u32) {
        let (mut told, mut pages, mut after) = (Vec::new(), 0, None);
        loop {
            let looking = Looking {
                wanted,
                whose,
                after,
                most,
                work,
            };
            let before = told.len();
            let next = self.history.walk(&looking, &mut |row| {
                told.push(match row {
                    Row::Flow(owner, flow, _, (first, _)) => {
                        format!("{} {} {}", first / HOUR_NS, owner.label(), flow.peer_port)
                    }
                    Row::Rest(owner, hour, _) => format!("{hour} {} rest", owner.label()),
                });
            });
            assert!(told.len() - before <= most);
            pages += 1;
            after = next.unwrap();
            let Some(place) = after else {
                return (told, pages);
            };
            // As it goes over the wire.
            assert_eq!(place.to_string().parse(), Ok(place));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn two_slices(name: &str) -> Kept {
    let mut kept = Kept::new(name);
    for (hour, row, flows) in [(10, 2, 5), (10, 3, 4), (12, 3, 6), (12, 2, 3), (13, 3, 2)] {
        kept.keep(hour, row, flows);
    }
    kept
}

const ALPHA: Whose = Whose::One(SliceId(2));

#[test]
fn pages_of_every_size_tell_each_row_once_and_in_one_order() {
    let kept = two_slices("sizes");
    let wanted = Wanted::default();
    for whose in [Whose::All, ALPHA] {
        let (whole, pages) = kept.pages(&wanted, whose, usize::MAX, usize::MAX);
        assert_eq!(pages, 1);
        assert_eq!(whole.len(), if whose == ALPHA { 10 } else { 25 });
        assert!(whole[0].starts_with(if whose == ALPHA { "12" } else { "13" }));
        for most in 1..=whole.len() {
            for work in [1, 2, 3, 7, 1000] {
                let (told, _) = kept.pages(&wanted, whose, most, work);
                assert_eq!(told, whole, "{most} {work}");
            }
        }
    }
}

#[test]
fn whose_is_looked_at_alone_whatever_is_wanted_and_wherever_one_goes_on() {
    let kept = two_slices("whose");
    let of = |wanted: &Wanted| kept.pages(wanted, ALPHA, 3, 1000);
    assert!(
        of(&Wanted::default())
            .0
            .iter()
            .all(|row| row.contains("alpha"))
    );
    let stranger = Wanted {
        slice: Some("beta".into()),
        ..Wanted::default()
    };
    assert_eq!(of(&stranger), (Vec::new(), 1));
    // A place among all: its rows are not told, and how many there are does not show.
    let all = Wanted::default();
    for place in 1..25 {
        let looking = |whose, after, most| Looking {
            wanted: &all,
            whose,
            after,
            most,
            work: usize::MAX,
        };
        let walk = |looking: &Looking<'_>| {
            let mut owners = Vec::new();
            let next = kept.history.walk(looking, &mut |row| match row {
                Row::Flow(owner, ..) | Row::Rest(owner, ..) => owners.push(owner.label()),
            });
            (owners, next.unwrap())
        };
        let (_, after) = walk(&looking(Whose::All, None, place));
        let (owners, _) = walk(&looking(ALPHA, after, usize::MAX));
        assert!(owners.iter().all(|owner| owner == "alpha"), "{owners:?}");
    }
    // One that was destroyed and came again has none of the former one's rows.
    let again = Whose::One(SliceId::new(1, 2).unwrap());
    assert_eq!(kept.pages(&all, again, 3, 1000), (Vec::new(), 1));
}

#[test]
fn others_rows_cost_a_slice_no_work() {
    let mut kept = Kept::new("work");
    kept.keep(10, 2, 2);
    kept.keep(10, 3, 3000);
    let (told, pages) = kept.pages(&Wanted::default(), ALPHA, 1000, 10);
    assert_eq!((told.len(), pages), (3, 1));
    let (told, pages) = kept.pages(&Wanted::default(), Whose::All, 1000, 500);
    assert_eq!(told.len(), 3004);
    assert!(pages > 6, "{pages}");
}

#[test]
fn what_is_wanted_is_chosen_on_every_page() {
    let kept = two_slices("wanted");
    let network = Wanted {
        peer: Prefix::parse("192.0.3.0/24").ok(),
        ..Wanted::default()
    };
    let flows = |wanted: &Wanted, most| {
        let (mut told, _) = kept.pages(wanted, Whose::All, most, 1000);
        told.retain(|row| !row.ends_with("rest"));
        told
    };
    let expected = [
        "13 beta 1",
        "12 alpha 1",
        "12 beta 1",
        "12 beta 3",
        "12 beta 5",
    ];
    for most in 1..5 {
        assert_eq!(flows(&network, most)[..5], expected);
    }
    let at = |hour: i64| Timestamp::from_nanosecond((hour * HOUR_NS).into()).ok();
    let between = Wanted {
        since: at(11),
        until: at(12),
        ..network.clone()
    };
    assert_eq!(flows(&between, 2), expected[1..]);
    // Times beyond what rows have are the first and the last.
    let ever = Wanted {
        since: Some(Timestamp::MIN),
        until: Some(Timestamp::MAX),
        ..network.clone()
    };
    assert_eq!(flows(&ever, 9), flows(&network, 9));
}

#[test]
fn what_is_no_place_is_none() {
    let place = Position {
        hour: 1,
        owner: 0,
        row: None,
    };
    let text = place.to_string();
    for bad in [
        "",
        "00",
        &text[1..],
        &text.replace('1', "g"),
        &text.replace('0', "+"),
        &"ab".repeat(52).to_uppercase(),
        &"ab".repeat(51),
    ] {
        assert_eq!(bad.parse::<Position>(), Err(BadPosition), "{bad}");
    }
}
