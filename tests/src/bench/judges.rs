//! The same traffic under different judges: nobody, programs that do nothing,
//! ours, nftables. All see the same cgroups and the same sockets of the same
//! process, so what differs is what they cost.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Measure;
use super::bpf::{self, Kind as ProgramKind};
use super::cgroups::{self, Cgroups};
use super::loaded::{Direction, Loaded, Place, Size};
use super::nftables::Rules;
use super::sample::{Goal, Sample, measure};
use super::socket;
use super::traffic::{self, Kind};
use super::wire::{FAR, Wire};

/// Slices, each with a cgroup.
const SLICES: u32 = 1_000;
/// Interleaved repeats.
const REPEATS: usize = 7;
/// Of one.
const TIME: Duration = Duration::from_millis(250);
/// Of what there is without us, this much is to be left.
const GOAL: f64 = 0.95;

/// What judges the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judge {
    Nobody,
    Idle,
    Ours,
    Nftables,
}

const JUDGES: [Judge; 4] = [Judge::Nobody, Judge::Idle, Judge::Ours, Judge::Nftables];

struct Case {
    name: &'static str,
    unit: &'static str,
    kind: Kind,
    /// Over the wire, or inside the node.
    wire: bool,
}

const fn case(name: &'static str, unit: &'static str, kind: Kind, wire: bool) -> Case {
    Case {
        name,
        unit,
        kind,
        wire,
    }
}

/// What is sent; the last two tell the judges apart best.
const CASES: &[Case] = &[
    case("TCP stream over veth", "Mbit/s", Kind::Stream, true),
    case("TCP stream over loopback", "Mbit/s", Kind::Stream, false),
    case("TCP round trips over veth", "1/s", Kind::Turns, true),
    case("TCP round trips over loopback", "1/s", Kind::Turns, false),
    case(
        "UDP datagram, one thread",
        "ns",
        Kind::AloneDatagrams,
        false,
    ),
    case("TCP round trip, one thread", "ns", Kind::AloneTurns, false),
];

/// The judges at work.
struct Court {
    loaded: Loaded,
    rules: Rules,
    idle: [(OwnedFd, u32); 2],
    root: File,
    slices: File,
}

/// Measures each case under each judge by turns.
///
/// # Errors
/// Programs or rules cannot be loaded, or one of them does not count what it
/// is measured with.
pub fn measures(bench: &str, object: &Path) -> Result<Vec<Measure>> {
    let _wire = Wire::new()?;
    let cgroups = Cgroups::new(SLICES)?;
    let place = Place {
        level: cgroups::LEVEL,
        cgroups: cgroups.ids()?,
        netns: bpf::netns_cookie()?,
    };
    let size = Size {
        slices: SLICES,
        ports: 1_000,
        own_refusals: false,
        flows: None,
    };
    let kinds = [Direction::Out, Direction::In].map(Direction::attach_type);
    let court = Court {
        loaded: Loaded::new(object, size, &place)?,
        rules: Rules::new(cgroups::PARENT, SLICES)?,
        idle: [
            (socket::idle(ProgramKind::Cgroup(kinds[0]))?, kinds[0]),
            (socket::idle(ProgramKind::Cgroup(kinds[1]))?, kinds[1]),
        ],
        root: File::open(cgroups::ROOT)?,
        slices: File::open(Path::new(cgroups::ROOT).join(cgroups::PARENT))?,
    };
    traffic::stay_on_one_cpu();
    // In the last slice from here on.
    cgroups.enter(SLICES)?;
    let mut samples = vec![vec![Sample::default(); JUDGES.len()]; CASES.len()];
    for repeat in 0..REPEATS {
        for turn in 0..JUDGES.len() {
            // Another one comes first each time, so that a drift favours none.
            let at = (turn + repeat) % JUDGES.len();
            court.under(JUDGES[at], || {
                for (case, samples) in CASES.iter().zip(&mut samples) {
                    let server = case.wire.then_some(FAR);
                    let number = traffic::send(case.kind, server, TIME);
                    samples[at].add(
                        number.with_context(|| format!("{} under {:?}", case.name, JUDGES[at]))?,
                    );
                }
                Ok(())
            })?;
        }
    }
    let lines = CASES
        .iter()
        .zip(&samples)
        .flat_map(|(case, samples)| case.lines(bench, samples));
    Ok(lines.collect())
}

impl Case {
    fn lines(&self, bench: &str, samples: &[Sample]) -> Vec<Measure> {
        let [bare, idle, ours, nft] = samples else {
            return Vec::new();
        };
        let what = format!("{}, {SLICES} slices", self.name);
        let line = |what: String, ours, peer, goal| {
            measure(bench, what, self.unit, ours, Some(peer), goal)
        };
        // Of a rate more is better, of a time less is.
        let alone = self.unit == "ns";
        let (keep, beat) = if alone {
            (Goal::None, Goal::RatioBelow(1.0))
        } else {
            (Goal::RatioAtLeast(GOAL), Goal::None)
        };
        vec![
            line(what.clone(), ours, ("no programs", bare), keep),
            line(what, ours, ("nftables, verdict map of cgroups", nft), beat),
            line(
                format!("{}: programs that do nothing", self.name),
                idle,
                ("no programs", bare),
                Goal::None,
            ),
            line(
                format!("{}: nftables", self.name),
                nft,
                ("no rules", bare),
                Goal::None,
            ),
        ]
    }
}

impl Court {
    /// Does something under a judge, and makes sure that the judge saw it.
    fn under(&self, judge: Judge, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.counted(judge)?;
        let links = match judge {
            Judge::Ours => self.loaded.attach(self.root.as_fd(), self.slices.as_fd())?,
            Judge::Idle => {
                let attach = |(program, kind): &(OwnedFd, u32)| {
                    bpf::attach(program.as_fd(), self.root.as_fd(), *kind)
                };
                self.idle.iter().map(attach).collect::<Result<_>>()?
            }
            Judge::Nobody | Judge::Nftables => Vec::new(),
        };
        if judge == Judge::Nftables {
            self.rules.hook()?;
        }
        let result = act();
        if judge == Judge::Nftables {
            self.rules.unhook()?;
        }
        drop(links);
        result?;
        let Some((before, after)) = before.zip(self.counted(judge)?) else {
            return Ok(());
        };
        for (before, after) in before.into_iter().zip(after) {
            let packets = after - before;
            ensure!(
                packets > 100,
                "{judge:?} counted {packets} packets of the slice in one direction"
            );
        }
        Ok(())
    }

    /// Packets that the judge has counted for the slice, out and in.
    fn counted(&self, judge: Judge) -> Result<Option<[u64; 2]>> {
        let of = |direction| match judge {
            Judge::Ours => self.loaded.counted_of_last(direction),
            _ => self.rules.counted(direction),
        };
        Ok(match judge {
            Judge::Nobody | Judge::Idle => None,
            Judge::Ours | Judge::Nftables => Some([of(Direction::Out)?, of(Direction::In)?]),
        })
    }
}
