//! Reads the running node into reports. The only file here that touches maps
//! and cgroups; works with the daemon dead.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use nix::sys::socket::{getsockopt, sockopt};
use policy::SliceId;
use policy::abi::{Bucket, SliceEntry};
use zerocopy::FromZeros;

use super::counted::Counted;
use super::flows::{Flows, Gathered, Wanted};
use super::links::{Link, LinkReading, LinkRow};
use super::links_past::{LinksPast, Wanted as WantedPast};
use super::ports::Protocol;
use super::status::{Cpu, Daemon, Reading, Row, Total};
use super::{Clock, Names, Ports, Status, Used, status};
use crate::context::io;
use crate::context::layer::Layer;
use crate::context::running::Running;
use crate::node::{Node, OnLink};
use crate::status::history::{Counters, History, Sample};
use crate::status::hour::Moved;
use crate::sys::clock::boottime_ns;
use crate::sys::short_file;

/// The names of the owners there are now.
#[must_use]
pub fn names(node: &Node) -> Names {
    Names::new(node.slices().map(|(name, id)| (id, name)))
}

/// The report of `slice status`.
///
/// # Errors
/// Where a map cannot be read.
pub fn status(node: &Node) -> anyhow::Result<Status> {
    let clock = Clock::now().context("read the clock")?;
    let host = nix::sys::utsname::uname().context("ask the kernel for its name")?;
    let fixed = [("", SliceId::NODE), ("", SliceId::UNATTRIBUTED)];
    let device = io::shown();
    let counted = Counted::of_all(node)?;
    let readings: Vec<Reading> = fixed
        .into_iter()
        .chain(node.slices())
        .map(|(name, id)| {
            let counted = counted.get(id.index() as usize).copied();
            let row = (name, id, counted.unwrap_or_default());
            reading(node, row, clock.monotonic_ns, device.as_deref())
        })
        .collect();
    let settings = node.settings()?;
    let record = node.record();
    let slices = readings.len() - fixed.len();
    let about = status::Node {
        name: host.nodename().to_string_lossy().into_owned(),
        kernel: host.release().to_string_lossy().into_owned(),
        version: record.version.clone(),
        abi_version: settings.abi_version,
        policy: record.policy.clone(),
        since: Timestamp::from_second(i64::try_from(record.since)?)?,
        slices: Used {
            usage: u64::try_from(slices)?,
            limit: Some(u64::from(
                settings.rows.saturating_sub(policy::ids::FIRST_SLICE_ROW),
            )),
        },
        daemon: daemon(),
    };
    Ok(Status::new(clock.time(), about, readings))
}

/// The sum of the rows of `slice status`, from the maps alone.
///
/// # Errors
/// Where a map cannot be read.
pub fn total(node: &Node) -> anyhow::Result<Total> {
    let (states, traffic, denials) = (node.all_states()?, node.all_traffic()?, node.all_denials()?);
    let fixed = [SliceId::NODE, SliceId::UNATTRIBUTED];
    let mut total = Total::default();
    for id in fixed.into_iter().chain(node.slices().map(|(_, id)| id)) {
        let row = id.index() as usize;
        let state = states.get(row).context("a row is missing")?;
        let traffic = traffic.get(row).context("a row is missing")?;
        let denials = denials.get(row).context("a row is missing")?;
        total.add(state, traffic, denials);
    }
    Ok(total)
}

/// What owners had sent on the links at a moment.
#[derive(Clone, Debug)]
pub struct LinkSample {
    /// Which start of the node: counters of another begin anew.
    node: String,
    clock: Clock,
    on_links: BTreeMap<(u32, bool, SliceId), OnLink>,
}

impl LinkSample {
    /// The links now.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn take(node: &Node) -> anyhow::Result<Self> {
        let clock = Clock::now().context("read the clock")?;
        let on_links = node.on_links()?.into_iter();
        Ok(Self {
            node: node.record().identity(),
            clock,
            on_links: on_links.map(|on| (on.key(), on)).collect(),
        })
    }

    /// The moment, in nanoseconds of the monotonic clock.
    #[must_use]
    pub const fn at_ns(&self) -> u64 {
        self.clock.monotonic_ns
    }

    /// The same on the calendar.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.clock.time()
    }

    /// What went out after an earlier sample, and in how many nanoseconds; none where
    /// that was of another start of the node.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<(u64, Vec<Moved>)> {
        if self.node != before.node {
            return None;
        }
        let mut moved: BTreeMap<(u32, SliceId), Moved> = BTreeMap::new();
        for (key, now) in &self.on_links {
            // An id is not given again while the node is up: one that was not there
            // began at zero.
            let then = before.on_links.get(key).map(|on| on.bucket);
            let grew = |read: fn(&Bucket) -> u64| {
                read(&now.bucket).saturating_sub(then.as_ref().map_or(0, read))
            };
            let (link, _, id) = *key;
            // What goes to exempt networks went out, too.
            let all = moved.entry((link, id)).or_insert(Moved {
                link,
                id,
                sent: 0,
                dropped: 0,
            });
            all.sent += grew(|bucket| bucket.bytes);
            all.dropped += grew(|bucket| bucket.dropped_packets);
        }
        let moved = moved
            .into_values()
            .filter(|moved| moved.sent > 0 || moved.dropped > 0);
        let over_ns = self.at_ns().saturating_sub(before.at_ns());
        Some((over_ns, moved.collect()))
    }
}

/// The report of `slice link`: what there is, and what goes out in `during`.
///
/// # Errors
/// Where a map cannot be read.
pub fn links(node: &Node, during: Duration) -> anyhow::Result<Vec<Link>> {
    let before = LinkSample::take(node)?;
    std::thread::sleep(during);
    links_since(node, &before)
}

/// The same, with what went out since `before`.
///
/// # Errors
/// Where a map cannot be read.
pub fn links_since(node: &Node, before: &LinkSample) -> anyhow::Result<Vec<Link>> {
    let names = names(node);
    let after = node.on_links()?;
    let now = Clock::now().context("read the clock")?;
    let (now_ns, boot_ns) = (now.monotonic_ns, boottime_ns().context("read the clock")?);
    let elapsed_ns = now_ns.saturating_sub(before.at_ns());
    let mut links = Vec::new();
    for (number, (name, rate)) in (0..).zip(node.links()?) {
        let reading = |after: &OnLink| LinkReading {
            // Of one that is new nothing went out before.
            before: *before.on_links.get(&after.key()).unwrap_or(after),
            after: *after,
            elapsed_ns,
            now_ns,
            boot_ns,
            time: now.time(),
        };
        let of_link = after.iter().filter(|on| on.link == number);
        let (exempt, rows): (Vec<&OnLink>, Vec<&OnLink>) = of_link.partition(|on| on.exempt);
        let exempt: BTreeMap<SliceId, &OnLink> =
            exempt.into_iter().map(|on| (on.knobs.id, on)).collect();
        let rows = rows.into_iter().map(|after| {
            let exempt = exempt.get(&after.knobs.id).map(|on| reading(on));
            LinkRow::new(&names, &reading(after), exempt.as_ref())
        });
        links.push(Link {
            rate: rate * 8,
            there: crate::kernel::links::number(&name).is_some(),
            rows: rows.collect(),
            name,
        });
    }
    Ok(links)
}

/// What went out on the links in the last hour.
///
/// # Errors
/// Where a map cannot be read.
pub fn links_past(
    node: &Node,
    history: &History,
    wanted: &WantedPast,
) -> anyhow::Result<LinksPast> {
    let (names, links) = (names(node), node.links()?);
    let past = history.hour().since(wanted.since);
    let time = Timestamp::now();
    Ok(LinksPast::new(past, time, &links, &names, wanted))
}

/// What slices have used and carried so far, by id: what averages are made of.
///
/// # Errors
/// Where a map cannot be read.
pub fn sample(node: &Node) -> anyhow::Result<Sample> {
    let at_ns = Clock::now().context("read the clock")?.monotonic_ns;
    let traffic = node.all_traffic()?;
    let counters = |(name, id): (&str, SliceId)| {
        let traffic = traffic.get(id.index() as usize);
        let counters = Counters {
            sent: traffic.map_or(0, |traffic| traffic.sent_bytes),
            received: traffic.map_or(0, |traffic| traffic.received_bytes),
            cpu_us: cpu_us(&node.cgroup(name)).unwrap_or(0),
        };
        (id.0, counters)
    };
    let mut of: Vec<_> = node.slices().map(counters).collect();
    of.sort_unstable_by_key(|(id, _)| *id);
    Ok(Sample { at_ns, of })
}

/// The rows of these owners alone, in this order.
///
/// # Errors
/// Where a map cannot be read.
pub fn rows(node: &Node, owners: &[(&str, SliceId)]) -> anyhow::Result<Vec<Row>> {
    let clock = Clock::now().context("read the clock")?;
    let device = io::shown();
    // A whole table takes as long as some four calls for one of its rows each take for as many
    // rows: with fewer owners than that it is not read.
    let rows = usize::try_from(node.record().rows)?;
    let all = if owners.len() * 4 > rows {
        Some(Counted::of_all(node)?)
    } else {
        None
    };
    let row = |&(name, id): &(&str, SliceId)| {
        let known = all.as_ref().and_then(|all| all.get(id.index() as usize));
        let counted = known.map_or_else(|| Counted::of(node, id), |known| Ok(*known))?;
        let reading = reading(
            node,
            (name, id, counted),
            clock.monotonic_ns,
            device.as_deref(),
        );
        Ok(Row::from(reading))
    };
    owners.iter().map(row).collect()
}

/// The report of `slice ports`.
///
/// # Errors
/// Where a map cannot be read.
pub fn ports(node: &Node) -> anyhow::Result<Ports> {
    let place = |protocol, port| {
        Protocol::ALL
            .into_iter()
            .find(|p| p.number() == protocol)
            .map(|protocol| (protocol, port))
    };
    let reserved = node.reserved()?;
    let claims = node.claims()?;
    // After the maps: a claim must not seem to lie ahead of the clock.
    let clock = Clock::now().context("read the clock")?;
    Ok(Ports::new(
        clock,
        &names(node),
        reserved
            .into_iter()
            .filter_map(|(protocol, port, value)| Some((place(protocol, port)?, value))),
        claims
            .into_iter()
            .filter_map(|(protocol, port, value)| Some((place(protocol, port)?, value))),
    ))
}

/// The report of `slice flows`, with `most` rows at most.
///
/// # Errors
/// Where a map cannot be read.
pub fn flows(node: Option<&Node>, wanted: &Wanted, most: usize) -> anyhow::Result<Flows> {
    // The kernel first: what is taken from it meanwhile is in the database then,
    // which says so.
    let tallied = node.map_or_else(|| Ok(Vec::new()), Node::tallied)?;
    let clock = Clock::now().context("read the clock")?;
    let mut gathered = Gathered::default();
    let identity = node.map(|node| node.record().identity());
    let last = match crate::flows::kept()? {
        Some(history) => history.gather(
            wanted,
            identity.as_deref().unwrap_or_default(),
            &mut gathered,
        )?,
        None => None,
    };
    for generation in &tallied {
        if let Some(node) = node
            && last.is_none_or(|last| last < generation.number)
        {
            gathered.add_tallied(wanted, &clock, &names(node), generation);
        }
    }
    Ok(gathered.report(clock.time(), most))
}

fn reading(
    node: &Node,
    (name, id, counted): (&str, SliceId, Counted),
    now_ns: u64,
    device: Option<&str>,
) -> Reading {
    let cgroup = id.is_slice().then(|| node.cgroup(name));
    let used = |usage, limit| {
        let cgroup = cgroup.as_deref()?;
        Some(Used {
            usage: number(cgroup, usage)?,
            limit: number(cgroup, limit),
        })
    };
    // A file system that does not tell is no reason to tell nothing.
    let disk = id
        .is_slice()
        .then(|| Layer::of(name).usage().ok().flatten())
        .flatten();
    let context = cgroup
        .as_deref()
        .filter(|_| node.record().contexts.contains_key(name))
        .map(|cgroup| Running::of(name).life(cgroup));
    Reading {
        id,
        name: name.to_owned(),
        context,
        controller: node.record().controllers.get(name).cloned(),
        // One that is another's by now says nothing of this.
        entry: Some(counted.entry)
            .filter(|entry| entry.id == id)
            .unwrap_or_else(SliceEntry::new_zeroed),
        state: counted.state,
        now_ns,
        traffic: counted.traffic,
        denials: counted.denials,
        processes: used("pids.current", "pids.max"),
        memory: used("memory.current", "memory.max"),
        swap: cgroup
            .as_deref()
            .and_then(|cgroup| number(cgroup, "memory.swap.current")),
        cpu: cgroup.as_deref().and_then(cpu),
        disk: disk.map(|usage| usage.bytes),
        inodes: disk.map(|usage| usage.inodes),
        io: cgroup
            .as_deref()
            .and_then(|cgroup| io::used(cgroup, device?)),
    }
}

/// A file with one number; `None` where it says `max` or is not there, as for
/// a controller that this node does not have.
fn number(cgroup: &Path, file: &str) -> Option<u64> {
    short_file::read(&cgroup.join(file))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The time that a cgroup has used.
fn cpu_us(cgroup: &Path) -> Option<u64> {
    let stat = short_file::read(&cgroup.join("cpu.stat")).ok()?;
    let used = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    used.parse().ok()
}

fn cpu(cgroup: &Path) -> Option<Cpu> {
    let used_us = cpu_us(cgroup)?;
    let cap = short_file::read(&cgroup.join("cpu.max"))
        .ok()
        .and_then(|text| {
            let (quota, period) = text.trim().split_once(' ')?;
            let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
            quota.checked_mul(1000)?.checked_div(period)
        });
    Some(Cpu {
        used_us,
        cap_millicores: cap,
    })
}

/// The daemon, if one answers at its socket.
fn daemon() -> Option<Daemon> {
    let stream = UnixStream::connect(crate::daemon::SOCKET).ok()?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).ok()?;
    Some(Daemon {
        pid: u32::try_from(peer.pid()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::abi::{Arrivals, LinkKnobs, QuotaState};

    fn sample(node: &str, second: u64, bytes: &[(u32, u64)]) -> LinkSample {
        let on_links = bytes.iter().map(|(id, bytes)| {
            let on = OnLink {
                link: 0,
                exempt: false,
                knobs: LinkKnobs::new_zeroed(),
                bucket: Bucket {
                    bytes: *bytes,
                    ..Bucket::new_zeroed()
                },
                quota: QuotaState::new_zeroed(),
                arrivals: Arrivals::new_zeroed(),
            };
            ((0, false, SliceId(*id)), on)
        });
        LinkSample {
            node: node.to_owned(),
            clock: Clock {
                monotonic_ns: second * 1_000_000_000,
                realtime_ns: 0,
            },
            on_links: on_links.collect(),
        }
    }

    #[test]
    fn a_counter_that_begins_anew_is_no_bytes() {
        let before = sample("a", 10, &[(2, 100), (3, 500), (4, 7)]);
        // 3 went backwards, 4 is gone, 258 is a new slice in the row of 2.
        let after = sample("a", 22, &[(2, 150), (3, 20), (258, 60)]);
        let (over_ns, moved) = after.since(&before).unwrap();
        assert_eq!(over_ns, 12_000_000_000);
        let moved: Vec<_> = moved.iter().map(|moved| (moved.id.0, moved.sent)).collect();
        assert_eq!(moved, [(2, 50), (258, 60)]);
        assert_eq!(sample("b", 22, &[(2, 150)]).since(&before), None);
    }

    #[test]
    fn what_went_to_exempt_networks_went_out() {
        let before = sample("a", 10, &[(2, 100), (3, 500)]);
        let mut after = sample("a", 22, &[(2, 150), (3, 500)]);
        let exempt = sample("a", 22, &[(2, 7)]).on_links.into_values();
        after
            .on_links
            .extend(exempt.map(|on| ((0, true, SliceId(2)), on)));
        let (_, moved) = after.since(&before).unwrap();
        let moved: Vec<_> = moved.iter().map(|moved| (moved.id.0, moved.sent)).collect();
        assert_eq!(moved, [(2, 57)]);
    }
}
