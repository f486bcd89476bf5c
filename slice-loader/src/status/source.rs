//! The node as the answers need it, read at most once a second however many
//! ask: what is told is at most that old.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use policy::SliceId;
use policy::abi::{ADDRESS_SHARED, Address, AddressEntry, Denials};

use super::answers::lists::OfOwners;
use super::answers::{Attributes, Sight, Source};
use super::history::{Average, Counters, History};
use super::wire::Viewer;
use crate::daemon::{Hub, News};
use crate::flows::Whose;
use crate::node::{Node, in_force};
use crate::report::event::Cursor;
use crate::report::links_past::Wanted;
use crate::report::policies::Policies;
use crate::report::read::LinkSample;
use crate::report::status::{Row, Total};
use crate::report::{Clock, Link, LinksPast, NODE, Ports, Status, UNATTRIBUTED, Used, read};

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(1);

/// Events in one answer: with half a KiB each it is a small one, for which there is
/// room whatever others do not read.
const EVENTS: usize = 100;

/// The node, and what was read of it.
#[derive(Default)]
pub struct Reading {
    history: Arc<Mutex<History>>,
    hub: Option<Hub>,
    links: Option<Aged<(Timestamp, Vec<Link>)>>,
    /// `/slicestat` of all: it is kept, since who asks may want an older one.
    table: Option<Aged<String>>,
    node: Option<Aged<Node>>,
    all: Option<Aged<Status>>,
    ports: Option<Aged<Ports>>,
    rows: BTreeMap<u32, Aged<(Timestamp, Arc<Row>)>>,
    total: Option<Aged<Total>>,
    denials: Option<Aged<OfOwners<Denials>>>,
    policies: Option<Policies>,
}

/// Something, and when it was read.
#[derive(Debug)]
struct Aged<T> {
    since: Instant,
    value: T,
}

/// What is there, if it is fresh; else what is read now.
fn fresh<T>(
    slot: &mut Option<Aged<T>>,
    read: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<&T> {
    if !slot.as_ref().is_some_and(Aged::fresh) {
        // What is stale is nothing, also where it cannot be read anew.
        *slot = None;
        let value = read()?;
        *slot = Some(Aged::now(value));
    }
    let aged = slot.as_ref().context("it was read")?;
    Ok(&aged.value)
}

impl<T> Aged<T> {
    fn now(value: T) -> Self {
        Self {
            since: Instant::now(),
            value,
        }
    }

    fn fresh(&self) -> bool {
        self.since.elapsed() < FRESH
    }
}

/// What was before. No code under the lock leaves it half changed.
pub fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reading {
    /// Nothing read yet; this was before.
    #[must_use]
    pub fn new(history: Arc<Mutex<History>>, hub: Hub) -> Self {
        Self {
            history,
            hub: Some(hub),
            ..Self::default()
        }
    }

    fn node(&mut self) -> anyhow::Result<&Node> {
        fresh(&mut self.node, Node::open)
    }
}

impl Source for Reading {
    fn sight(&mut self, viewer: &Viewer) -> anyhow::Result<Option<Sight>> {
        let record = self.node()?.record();
        if *viewer == Viewer::node() {
            return Ok(record.page.is_some().then_some(Sight::All));
        }
        let slice = record.slices.get(&viewer.name);
        if slice.is_none_or(|slice| slice.id != viewer.id) {
            return Ok(None);
        }
        let granted = record
            .contexts
            .get(&viewer.name)
            .is_some_and(|recipe| recipe.status);
        Ok(Some(if granted { Sight::All } else { Sight::Own }))
    }

    fn attributes(&mut self) -> anyhow::Result<Attributes> {
        let node = self.node()?;
        let host = nix::sys::utsname::uname().context("ask the kernel for its name")?;
        let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
        let rows = node.settings()?.rows;
        let most = rows.saturating_sub(policy::ids::FIRST_SLICE_ROW);
        let record = node.record();
        Ok(Attributes {
            time: Timestamp::now(),
            name: text(host.nodename()),
            kernel: text(host.release()),
            architecture: text(host.machine()),
            version: record.version.clone(),
            since: Timestamp::from_second(i64::try_from(record.since)?)?,
            cores: std::thread::available_parallelism().map_or(0, |cores| cores.get() as u64),
            memory_bytes: memory().unwrap_or(0),
            addresses: shared(&node.addresses()?),
            load: load().unwrap_or_default(),
            slices: Some(Used {
                usage: u64::try_from(record.slices.len())?,
                limit: Some(u64::from(most)),
            }),
        })
    }

    fn all(&mut self) -> anyhow::Result<&Status> {
        let node = fresh(&mut self.node, Node::open)?;
        fresh(&mut self.all, || read::status(node))
    }

    fn owners(&mut self) -> anyhow::Result<Vec<(String, u32)>> {
        Ok(owners(self.node()?))
    }

    fn rows(&mut self, owners: &[(&str, u32)]) -> anyhow::Result<Vec<(Timestamp, Arc<Row>)>> {
        let is_stale = |id: &u32| !self.rows.get(id).is_some_and(Aged::fresh);
        let stale = owners.iter().filter(|(_, id)| is_stale(id));
        let stale: Vec<_> = stale.map(|(name, id)| (*name, SliceId(*id))).collect();
        if !stale.is_empty() {
            // They are as old as the first of what is read of them.
            let (since, time) = (Instant::now(), Timestamp::now());
            let read = read::rows(self.node()?, &stale)?;
            for ((_, id), row) in stale.into_iter().zip(read) {
                let value = (time, Arc::new(row));
                self.rows.insert(id.0, Aged { since, value });
            }
        }
        let of = |(_, id): &(&str, u32)| self.rows.get(id).map(|row| row.value.clone());
        owners
            .iter()
            .map(|owner| of(owner).context("it was read"))
            .collect()
    }

    fn total(&mut self) -> anyhow::Result<Total> {
        let node = fresh(&mut self.node, Node::open)?;
        fresh(&mut self.total, || read::total(node)).cloned()
    }

    fn denials(&mut self, of: Option<(&str, u32)>) -> anyhow::Result<OfOwners<Denials>> {
        let node = fresh(&mut self.node, Node::open)?;
        if let Some((name, id)) = of {
            let denials = node.denials(SliceId(id))?;
            return Ok((Timestamp::now(), vec![(name.to_owned(), id, denials)]));
        }
        let denials = fresh(&mut self.denials, || {
            let rows = node.all_denials()?;
            let of = |(name, id): (String, u32)| {
                let denials = rows.get(SliceId(id).index() as usize).copied();
                Some((name, id, denials?))
            };
            let of = owners(node).into_iter().filter_map(of).collect();
            Ok((Timestamp::now(), of))
        });
        denials.cloned()
    }

    fn policies(&mut self) -> anyhow::Result<Option<&Policies>> {
        let edition = self.node()?.record().edition;
        let known = self.policies.as_ref();
        if known.is_none_or(|policies| policies.edition != edition) {
            self.policies = in_force::of_edition(edition)?;
        }
        Ok(self.policies.as_ref())
    }

    fn whose(&mut self, viewer: &Viewer) -> anyhow::Result<Option<Whose>> {
        // Users of the node are told of nobody's, the node's included.
        if *viewer == Viewer::node() || self.sight(viewer)?.is_none() {
            return Ok(None);
        }
        let contexts = &self.node()?.record().contexts;
        let audits = contexts
            .get(&viewer.name)
            .is_some_and(|recipe| recipe.audit);
        Ok(Some(if audits {
            Whose::All
        } else {
            Whose::One(SliceId(viewer.id))
        }))
    }

    /// Between two scrapes nothing is kept.
    fn forget(&mut self) {
        self.node.take_if(|node| !node.fresh());
        self.all.take_if(|all| !all.fresh());
        self.ports.take_if(|ports| !ports.fresh());
        self.links.take_if(|links| !links.fresh());
        self.total.take_if(|total| !total.fresh());
        self.denials.take_if(|denials| !denials.fresh());
        self.rows.retain(|_, row| row.fresh());
        self.policies = None;
    }

    fn ports(&mut self) -> anyhow::Result<&Ports> {
        let node = fresh(&mut self.node, Node::open)?;
        fresh(&mut self.ports, || read::ports(node))
    }

    fn events(&self, of: Option<u32>, after: Option<Cursor>) -> News {
        match &self.hub {
            Some(hub) => hub.since(of, after, EVENTS),
            None => News::default(),
        }
    }

    fn links(&mut self) -> anyhow::Result<&(Timestamp, Vec<Link>)> {
        let node = fresh(&mut self.node, Node::open)?;
        fresh(&mut self.links, || {
            let now_ns = Clock::now().context("read the clock")?.monotonic_ns;
            let before = lock(&self.history).links(now_ns);
            let before = match before {
                Some(before) => before,
                // The daemon has just begun: nothing went out yet that it knows of.
                None => LinkSample::take(node)?,
            };
            Ok((Timestamp::now(), read::links_since(node, &before)?))
        })
    }

    fn links_past(
        &mut self,
        of: Option<u32>,
        seconds: u32,
        most: u32,
    ) -> anyhow::Result<LinksPast> {
        let node = fresh(&mut self.node, Node::open)?;
        let ago = SignedDuration::from_secs(seconds.into());
        let wanted = Wanted {
            owner: of,
            since: Timestamp::now().saturating_sub(ago)?,
            most: usize::try_from(most)?,
        };
        read::links_past(node, &lock(&self.history), &wanted)
    }

    fn averages(&self, id: u32, now: Counters) -> [Average; 3] {
        match Clock::now() {
            Ok(clock) => lock(&self.history).averages(id, clock.monotonic_ns, now),
            Err(_) => Default::default(),
        }
    }

    fn table(&self, max_age: u32) -> Option<&str> {
        let most = FRESH.max(Duration::from_secs(max_age.into()));
        let table = self.table.as_ref()?;
        (table.since.elapsed() < most).then_some(table.value.as_str())
    }

    fn keep_table(&mut self, table: &str) {
        self.table = Some(Aged::now(table.to_owned()));
    }
}

/// Names and ids: the node, the slices by name, the unattributed.
fn owners(node: &Node) -> Vec<(String, u32)> {
    let slices = node.slices().map(|(name, id)| (name.to_owned(), id.0));
    std::iter::once((NODE.to_owned(), SliceId::NODE.0))
        .chain(slices)
        .chain([(UNATTRIBUTED.to_owned(), SliceId::UNATTRIBUTED.0)])
        .collect()
}

/// Addresses that the slices share and by which others reach them, of all that the programs know.
fn shared(known: &[(Address, AddressEntry)]) -> Vec<IpAddr> {
    let shared = known
        .iter()
        .filter(|(_, entry)| entry.kind == ADDRESS_SHARED);
    let mut addresses: Vec<_> = shared
        .map(|(address, _)| IpAddr::from(*address).to_canonical())
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        })
        .collect();
    addresses.sort_unstable();
    addresses
}

/// Bytes of memory of the machine.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The load averages.
fn load() -> Option<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let mut words = text.split(' ').map(|word| word.parse().ok());
    Some([words.next()??, words.next()??, words.next()??])
}

#[cfg(test)]
mod tests {
    use policy::abi::{ADDRESS_OWN, mapped};

    use super::*;

    #[test]
    fn of_the_addresses_those_are_told_that_slices_share() {
        let entry = |owner, kind| AddressEntry {
            owner: SliceId(owner),
            kind,
        };
        let six = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let shared_one = entry(SliceId::NODE.0, ADDRESS_SHARED);
        let known = [
            (six("fe80::1"), shared_one),
            (six("2001:db8::1"), shared_one),
            (mapped([192, 0, 2, 1]), shared_one),
            (mapped([10, 0, 0, 5]), entry(7, ADDRESS_OWN)),
        ];
        let told: Vec<_> = shared(&known).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["192.0.2.1", "2001:db8::1"]);
    }
}
