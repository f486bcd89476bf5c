//! Sockets of many slices that send at once, and what of it arrives: bin by bin, by the
//! meter's clock or by a capture's.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::wiretap::Came;
use super::{OF_TCP, OF_UDP};
use crate::bench::cgroups;
use crate::bench::flood::{Arrived, BIN};
use crate::beyond::{Beyond, PEER};
use crate::site::{Running, Site, until};

/// The port that the first sends to.
pub const FIRST: u16 = 9300;
/// Who is no slice.
const NODE: &str = "node";

/// Who sends, by the sockets' numbers, and what of it arrived.
pub struct Crowd<'s, 'n> {
    pub site: &'s Site<'n>,
    pub beyond: &'s Beyond<'n>,
    /// The slices, one for each socket.
    pub slices: Vec<String>,
    /// Of every second socket, Mbit/s.
    pub datagrams: Option<f64>,
    pub turns: Option<u64>,
}

impl Crowd<'_, '_> {
    /// Has them send, and measures from `after` on, seconds from the first byte on; `meanwhile`
    /// is done as soon as they send.
    ///
    /// # Errors
    /// Something does not run.
    pub fn sends(
        &self,
        [after, during]: [f64; 2],
        meanwhile: impl FnOnce(Instant) -> Result<()>,
    ) -> Result<Seen> {
        let program = std::env::current_exe()?;
        let program = program.to_str().context("a path in UTF-8")?;
        let ms = |seconds: f64| format!("{:.0}", seconds * 1e3);
        let (first, count) = (FIRST.to_string(), self.slices.len().to_string());
        let (after, long) = (ms(after), ms(during));
        let meter = [
            program, "flood", "meter", &first, &count, "--after", &after, "--during", &long,
        ];
        let mut meter = self.site.start("meter", self.beyond.command(&meter))?;
        until("the meter is ready", || {
            Ok(meter.output().contains("ready"))
        })?;
        let mut crowd = std::process::Command::new(program);
        crowd.args(["crowd", PEER[0], &first]);
        if let Some(rate) = self.datagrams {
            crowd.args(["--datagrams", &rate.to_string()]);
        }
        if let Some(turns) = self.turns {
            crowd.args(["--turns", &turns.to_string()]);
        }
        crowd.args(self.homes()?);
        let crowd = self.site.start("crowd", crowd)?;
        until("they send", || Ok(crowd.output().contains("begins")))?;
        let begun = Instant::now();
        meanwhile(begun)?;
        let end = begun + Duration::from_secs_f64(during + 60.0);
        while meter.ended()?.is_none() {
            ensure!(Instant::now() < end, "the meter has not ended");
            sleep(Duration::from_millis(100));
        }
        crowd.finish()?;
        self.seen(&meter)
    }

    fn seen(&self, meter: &Running) -> Result<Seen> {
        let output = meter.output();
        let line = output.lines().last().context("the meter says nothing")?;
        let arrived: Arrived = serde_json::from_str(line)?;
        Ok(self.seen_of(&arrived.bins))
    }

    /// The same of packets that were captured.
    ///
    /// # Errors
    /// There are none.
    pub fn seen_of_packets(&self, came: &[Came], [after, during]: [f64; 2]) -> Result<Seen> {
        let start = came.first().context("nothing came")?.at_us;
        let count = bin_of(during).context("no time")?;
        let mut bins = vec![vec![0.0; count]; self.slices.len()];
        for packet in came {
            let since = packet.at_us.saturating_sub(start) as f64 / 1e6 - after;
            let of_socket = &mut bins[usize::from(packet.port - FIRST)];
            if let Some(bin) = bin_of(since).and_then(|bin| of_socket.get_mut(bin)) {
                *bin += packet.payload as f64;
            }
        }
        Ok(self.seen_of(&bins))
    }

    fn seen_of(&self, of_sockets: &[Vec<f64>]) -> Seen {
        let mut names: Vec<&str> = Vec::new();
        let mut bits: Vec<Vec<f64>> = Vec::new();
        for (number, (slice, bins)) in self.slices.iter().zip(of_sockets).enumerate() {
            let is_datagrams = self.datagrams.is_some() && number % 2 == 1;
            let payload = if is_datagrams { OF_UDP } else { OF_TCP };
            let bins = bins.iter().map(|bytes| bytes * 8.0 / payload);
            match names.iter().position(|name| name == slice) {
                Some(at) => bits[at]
                    .iter_mut()
                    .zip(bins)
                    .for_each(|(sum, bits)| *sum += bits),
                None => {
                    names.push(slice);
                    bits.push(bins.collect());
                }
            }
        }
        Seen { bits }
    }

    /// Where processes of each owner are.
    fn homes(&self) -> Result<Vec<PathBuf>> {
        let mine = cgroups::own()?;
        let some = self.slices.iter().find(|slice| *slice != NODE);
        let some = some.context("only the node sends")?;
        // Those of slices are alike but for the name.
        let told = self.site.run_in(some, &["cat", "/proc/self/cgroup"])?;
        let path = told.stdout.trim().strip_prefix("0::/");
        let path = path.with_context(|| format!("no cgroup: {}", told.stderr))?;
        let home = |owner: &String| match owner.as_str() {
            NODE => mine.clone(),
            slice => {
                let path = path.replacen(&format!("/{some}/"), &format!("/{slice}/"), 1);
                Path::new(cgroups::ROOT).join(path)
            }
        };
        Ok(self.slices.iter().map(home).collect())
    }
}

/// Bits on the wire in each [`BIN`], slice by slice.
pub struct Seen {
    bits: Vec<Vec<f64>>,
}

/// In which bin a moment is, in seconds; `None` before the first.
fn bin_of(seconds: f64) -> Option<usize> {
    let time = Duration::try_from_secs_f64(seconds).ok()?;
    usize::try_from(time.as_micros() / BIN.as_micros()).ok()
}

/// How many bins are so many milliseconds.
fn bins(ms: usize) -> usize {
    ms / BIN.as_millis() as usize
}

impl Seen {
    /// Mbit/s of each slice between two moments of what was measured, in seconds.
    pub fn rates(&self, [from, to]: [f64; 2]) -> Vec<f64> {
        let [from_bin, to_bin] = [from, to].map(|seconds| bin_of(seconds).unwrap_or(0));
        let of = |bits: &Vec<f64>| bits[from_bin..to_bin.min(bits.len())].iter().sum::<f64>();
        self.bits
            .iter()
            .map(|bits| of(bits) / (to - from) / 1e6)
            .collect()
    }

    /// Mbit/s of a slice and of all in each window of so many milliseconds.
    pub fn windows(&self, slice: usize, ms: usize) -> Vec<[f64; 2]> {
        let bins_of = bins(ms);
        let mbit = |bits: f64| bits / (ms as f64 * 1e3);
        (0..=self.bits[slice].len() - bins_of)
            .map(|from| {
                let of = |bits: &Vec<f64>| bits[from..from + bins_of].iter().sum::<f64>();
                [
                    mbit(of(&self.bits[slice])),
                    mbit(self.bits.iter().map(of).sum()),
                ]
            })
            .collect()
    }
}
