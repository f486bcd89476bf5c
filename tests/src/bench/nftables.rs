//! Ours against nftables, which can tell whose a packet is by the cgroup of its
//! socket too: both attribute, count and police the packets of 1,000 slices.
//!
//! nftables gets the best form it has: one look-up in a verdict map keyed by
//! the cgroup, which jumps to the slice's own chain; there the source address
//! and a refused port are checked and the packet is counted. Both see the same
//! cgroups and the same sockets of the same process.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Measure;
use super::bpf;
use super::loaded::{Direction, Loaded, Place, Size};
use super::sample::{Goal, Sample, measure};
use super::traffic::{self, Kind};
use super::wire;

/// Slices, each with a cgroup.
const SLICES: u32 = 1_000;
/// Interleaved repeats.
const REPEATS: usize = 9;
/// Of one.
const TIME: Duration = Duration::from_millis(400);
const ROOT: &str = "/sys/fs/cgroup";
/// The cgroups' parent, in `ROOT`.
const PARENT: &str = "slice-bench";
/// Depth of the cgroups.
const LEVEL: u32 = 2;

/// What judges the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judge {
    Nobody,
    Ours,
    Nftables,
}

const JUDGES: [Judge; 3] = [Judge::Nobody, Judge::Ours, Judge::Nftables];

const CASES: [(&str, Kind); 2] = [
    (
        "UDP datagram over loopback, 1000 slices",
        Kind::AloneDatagrams,
    ),
    (
        "TCP round trip over loopback, 1000 slices",
        Kind::AloneTurns,
    ),
];

/// Measures each case under each judge by turns.
///
/// # Errors
/// Programs or rules cannot be loaded, or one of them does not count what it
/// is measured with.
pub fn measures(bench: &str, object: &Path) -> Result<Vec<Measure>> {
    let cgroups = Cgroups::new()?;
    let place = Place {
        level: LEVEL,
        cgroups: cgroups.ids()?,
        netns: bpf::netns_cookie()?,
    };
    let size = Size {
        slices: SLICES,
        ports: 1_000,
        own_refusals: false,
    };
    let loaded = Loaded::new(object, size, &place)?;
    let rules = Rules::new()?;
    let root = File::open(ROOT)?;
    // In the last slice from here on.
    cgroups.enter(SLICES)?;
    let mut samples = vec![vec![Sample::default(); JUDGES.len()]; CASES.len()];
    for repeat in 0..REPEATS {
        for turn in 0..JUDGES.len() {
            let at = (turn + repeat) % JUDGES.len();
            let judge = JUDGES[at];
            let counted = |direction| match judge {
                Judge::Nobody => Ok(0),
                Judge::Ours => loaded.counted_of_last(direction),
                Judge::Nftables => rules.counted(direction),
            };
            let before = [counted(Direction::Out)?, counted(Direction::In)?];
            let links = match judge {
                Judge::Ours => loaded.attach(root.as_fd())?,
                _ => Vec::new(),
            };
            if judge == Judge::Nftables {
                rules.hook()?;
            }
            for ((name, kind), samples) in CASES.iter().zip(&mut samples) {
                let number = traffic::send(*kind, None, TIME);
                samples[at].add(number.with_context(|| format!("{name} under {judge:?}"))?);
            }
            if judge == Judge::Nftables {
                rules.unhook()?;
            }
            drop(links);
            for (direction, before) in [Direction::Out, Direction::In].into_iter().zip(before) {
                let packets = counted(direction)? - before;
                ensure!(
                    judge == Judge::Nobody || packets > 100,
                    "{judge:?} counted {packets} packets of the slice ({direction:?})"
                );
            }
        }
    }
    let lines = CASES.iter().zip(&samples).flat_map(|((name, _), samples)| {
        let [bare, ours, nft] = [&samples[0], &samples[1], &samples[2]];
        let line =
            |ours, peer, goal| measure(bench, (*name).to_owned(), "ns", ours, Some(peer), goal);
        [
            line(
                ours,
                ("nftables, cgroup verdict map", nft),
                Goal::RatioBelow(1.0),
            ),
            line(ours, ("no programs", bare), Goal::None),
            measure(
                bench,
                format!("{name}: nftables"),
                "ns",
                nft,
                Some(("no rules", bare)),
                Goal::None,
            ),
        ]
    });
    Ok(lines.collect())
}

/// 1,000 cgroups; gone when dropped.
struct Cgroups {
    /// Where this process was before.
    home: PathBuf,
}

fn path(slice: u32) -> PathBuf {
    Path::new(ROOT).join(PARENT).join(format!("s{slice}"))
}

impl Cgroups {
    fn new() -> Result<Cgroups> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("find our own cgroup")?;
        let cgroups = Cgroups {
            home: Path::new(ROOT).join(own),
        };
        for slice in 1..=SLICES {
            let path = path(slice);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        Ok(cgroups)
    }

    /// The kernel's ids, in the slices' order: inode numbers.
    fn ids(&self) -> Result<Vec<u64>> {
        (1..=SLICES)
            .map(|slice| Ok(fs::metadata(path(slice))?.ino()))
            .collect()
    }

    fn enter(&self, slice: u32) -> Result<()> {
        join(&path(slice))
    }
}

fn join(cgroup: &Path) -> Result<()> {
    let file = cgroup.join("cgroup.procs");
    fs::write(&file, "0").with_context(|| format!("write {}", file.display()))
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let _ = join(&self.home);
        for slice in 1..=SLICES {
            let _ = fs::remove_dir(path(slice));
        }
        let _ = fs::remove_dir(Path::new(ROOT).join(PARENT));
    }
}

/// The rules of nftables, in no hook; gone when dropped.
struct Rules(());

/// The two chains that send each packet to its slice's chain.
const HOOKS: &str = "\
add chain inet slice-bench output { type filter hook output priority 0; }
add chain inet slice-bench input { type filter hook input priority 0; }
add rule inet slice-bench output socket cgroupv2 level 2 vmap @out
add rule inet slice-bench input socket cgroupv2 level 2 vmap @in
";
const NO_HOOKS: &str = "\
delete chain inet slice-bench output
delete chain inet slice-bench input
";

impl Rules {
    fn new() -> Result<Rules> {
        let rules = Rules(());
        let mut text = String::from("table inet slice-bench {\n");
        for slice in 1..=SLICES {
            text += &format!(
                "chain o{slice} {{ ip saddr != {{ 127.0.0.0/8, 192.0.2.1 }} drop; \
                 tcp dport 25 drop; counter accept; }}\nchain i{slice} {{ counter accept; }}\n"
            );
        }
        for (map, chain) in [("out", 'o'), ("in", 'i')] {
            let elements: Vec<String> = (1..=SLICES)
                .map(|slice| format!("\"{PARENT}/s{slice}\" : goto {chain}{slice}"))
                .collect();
            let elements = elements.join(",\n");
            text +=
                &format!("map {map} {{ type cgroupsv2 : verdict; elements = {{ {elements} }} }}\n");
        }
        text += "}\n";
        nft(&text)?;
        Ok(rules)
    }

    fn hook(&self) -> Result<()> {
        nft(HOOKS)
    }

    fn unhook(&self) -> Result<()> {
        nft(NO_HOOKS)
    }

    /// Packets in the counter of the last slice's chain.
    fn counted(&self, direction: Direction) -> Result<u64> {
        let chain = if direction == Direction::Out {
            'o'
        } else {
            'i'
        };
        let text = wire::run(&format!("nft list chain inet slice-bench {chain}{SLICES}"))?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words
            .iter()
            .position(|word| *word == "packets")
            .context("find the counter")?;
        let number = words.get(at + 1).context("find the counter's number")?;
        number.parse().with_context(|| format!("read {number}"))
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        let _ = nft("delete table inet slice-bench");
    }
}

fn nft(text: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start nft")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.chars().take(400).collect();
    ensure!(
        output.status.success(),
        "nft ended with {}: {said}",
        output.status
    );
    Ok(())
}
