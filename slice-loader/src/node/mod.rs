//! The node: what is in force, read from the pinned maps, so that it can be
//! asked with the daemon dead; and its life cycle.

mod addresses;
pub mod autobind;
pub mod contexts;
pub mod control;
pub mod control_log;
mod crew;
mod difference;
pub mod facts;
mod found;
mod ids;
pub mod in_force;
mod lifecycle;
mod managed;
mod policy_files;
mod quotas;
mod record;
mod snapshot;
mod state;

use std::fmt;
use std::ops::AddAssign;
use std::os::fd::RawFd;
use std::path::PathBuf;

use anyhow::Context;
use policy::SliceId;
use policy::abi::{
    Address, AddressEntry, Arrivals, Bucket, Claim, Denials, LinkKnobs, QuotaState,
    RESERVED_NOBODY, Reserved, Settings, SliceEntry, SliceState, TCP, Tag, Traffic, UDP,
    arrival_index,
};
use policy::compile::KnobsAt;
use zerocopy::FromZeros;

pub use difference::Reloaded;
pub use lifecycle::{Up, down, reload, up};
pub use policy_files::examine;
pub use record::{DIRECTORY, Phase, Record, SliceRecord};

use crate::cli::exit::{Exit, Failure};
use crate::context::cgroup::SliceCgroup;
use crate::flows;
use crate::kernel::devices;
use crate::kernel::events::Events;
use crate::kernel::links;
use crate::kernel::maps::{Maps, Table};
use crate::kernel::store::Store;
use crate::kernel::tallies::{Generation, Tallies};
use crate::sys::clock::monotonic_ns;

/// The node is not up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotUp;

impl fmt::Display for NotUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the node is not up")
    }
}

impl std::error::Error for NotUp {}

/// What an owner has on a link.
#[derive(Clone, Copy, Debug)]
pub struct OnLink {
    /// Number of the link.
    pub link: u32,
    /// Whether of what goes to exempt networks.
    pub exempt: bool,
    /// What it is given.
    pub knobs: LinkKnobs,
    /// What it sends.
    pub bucket: Bucket,
    /// What it has sent of its quota, where it has one.
    pub quota: QuotaState,
    /// What came for it since that is bounded; of exempt networks nothing.
    pub arrivals: Arrivals,
}

impl OnLink {
    /// What tells it from all others.
    #[must_use]
    pub const fn key(&self) -> (u32, bool, SliceId) {
        (self.link, self.exempt, self.knobs.id)
    }
}

/// The node that is up.
#[derive(Debug)]
pub struct Node {
    record: Record,
    store: Store,
    maps: Maps,
}

impl Node {
    /// Opens the pins; takes no lock.
    ///
    /// # Errors
    /// [`NotUp`]; [`crate::kernel::maps::OtherAbi`] where another version runs.
    pub fn open() -> anyhow::Result<Self> {
        let record = Record::load()?
            .filter(|record| record.phase == Phase::Up)
            .ok_or(NotUp)?;
        let store = Store::of_node();
        if !store.exists() {
            let message = format!(
                "read the node: somebody removed {}, no rule is in force",
                store.root().display()
            );
            return Err(Failure::new(Exit::Failed, message)
                .remedy("slice down, slice up")
                .into());
        }
        let maps = Maps::open(&store)?;
        Ok(Self {
            record,
            store,
            maps,
        })
    }

    /// What the node remembers of itself.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The slices by name.
    pub fn slices(&self) -> impl Iterator<Item = (&str, SliceId)> {
        self.record
            .slices
            .iter()
            .map(|(name, slice)| (name.as_str(), slice.id()))
    }

    /// The owner of this name, `node` and `unattributed` included.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<SliceId> {
        match name {
            "node" => Some(SliceId::NODE),
            "unattributed" => Some(SliceId::UNATTRIBUTED),
            _ => self.record.slices.get(name).map(SliceRecord::id),
        }
    }

    /// The name of this owner; none for a slice that was destroyed.
    #[must_use]
    pub fn name(&self, id: SliceId) -> Option<&str> {
        match id {
            SliceId::NODE => Some("node"),
            SliceId::UNATTRIBUTED => Some("unattributed"),
            _ => self
                .slices()
                .find_map(|(name, slice)| (slice == id).then_some(name)),
        }
    }

    /// The tags of sockets, each by a descriptor of this process.
    #[must_use]
    pub fn tags(&self) -> &Table<RawFd, Tag> {
        &self.maps.tags
    }

    /// The directory of a slice's cgroup, on which its limits sit.
    #[must_use]
    pub fn cgroup(&self, name: &str) -> PathBuf {
        SliceCgroup::of(&self.record.holder.slices(), name)
            .path()
            .to_owned()
    }

    /// What holds for the whole node.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        self.maps
            .settings
            .get(&0)?
            .context("read the settings: they are not there")
    }

    /// A slice's row; none where the row is another's now.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn entry(&self, id: SliceId) -> anyhow::Result<Option<SliceEntry>> {
        Ok(self
            .maps
            .slices
            .get(&id.index())?
            .filter(|entry| entry.id == id))
    }

    /// The same for every row, whosever it is.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn all_entries(&self) -> anyhow::Result<Vec<SliceEntry>> {
        let all = self.maps.slices.all()?;
        Ok(all.into_iter().map(|(_, entry)| entry).collect())
    }

    /// What an owner sent and received, on all CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn traffic(&self, id: SliceId) -> anyhow::Result<Traffic> {
        Ok(self
            .maps
            .traffic
            .get(id.index())?
            .into_iter()
            .fold(Traffic::new_zeroed(), sum))
    }

    /// The same for every row.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn all_traffic(&self) -> anyhow::Result<Vec<Traffic>> {
        self.maps.traffic.fold_all(sum)
    }

    /// What an owner was denied.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn denials(&self, id: SliceId) -> anyhow::Result<Denials> {
        Ok(self
            .maps
            .denials
            .get(&id.index())?
            .unwrap_or_else(Denials::new_zeroed))
    }

    /// The same for every row.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn all_denials(&self) -> anyhow::Result<Vec<Denials>> {
        Ok(self
            .maps
            .denials
            .all()?
            .into_iter()
            .map(|(_, denials)| denials)
            .collect())
    }

    /// What an owner has open.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn state(&self, id: SliceId) -> anyhow::Result<SliceState> {
        Ok(self
            .maps
            .states
            .get(&id.index())?
            .unwrap_or_else(SliceState::new_zeroed))
    }

    /// The same for every row.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn all_states(&self) -> anyhow::Result<Vec<SliceState>> {
        Ok(self
            .maps
            .states
            .all()?
            .into_iter()
            .map(|(_, state)| state)
            .collect())
    }

    /// The ports that are somebody's by policy or were found in use: protocol,
    /// port, whose. Sorted.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn reserved(&self) -> anyhow::Result<Vec<(u8, u16, Reserved)>> {
        let rows = self.maps.reserved.all()?.into_iter();
        Ok(rows
            .filter(|(_, reserved)| reserved.kind != RESERVED_NOBODY)
            .filter_map(with_port)
            .collect())
    }

    /// The links by number: name, and rate in bytes per second.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn links(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let rates = self.maps.links.all()?;
        let names = self.record.links.iter().cloned();
        Ok(names
            .zip(rates)
            .map(|(name, (_, entry))| (name, entry.rate))
            .collect())
    }

    /// What owners have on links.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn on_links(&self) -> anyhow::Result<Vec<OnLink>> {
        if self.record.links.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.maps.states.rows();
        let knobs = self.maps.knobs.all()?;
        let buckets = self.maps.buckets.all()?;
        let quotas = self.maps.quotas.all()?;
        let arrivals: Vec<Arrivals> = self
            .maps
            .arrivals
            .all()?
            .into_iter()
            .map(|(_, of)| of)
            .collect();
        let arrivals = |at: KnobsAt| {
            let index = usize::try_from(arrival_index(at.link, at.row, rows)).ok()?;
            arrivals.get(index).filter(|_| !at.exempt).copied()
        };
        Ok(knobs
            .into_iter()
            .zip(buckets)
            .zip(quotas)
            .map(|(((index, knobs), (_, bucket)), (_, quota))| {
                let at = KnobsAt::at(index, rows);
                OnLink {
                    link: at.link,
                    exempt: at.exempt,
                    knobs,
                    bucket,
                    quota,
                    arrivals: arrivals(at).unwrap_or_else(Arrivals::new_zeroed),
                }
            })
            .filter(|on| on.knobs.share != 0)
            .collect())
    }

    /// The ports held by sockets, or lingering: protocol, port, whose. Sorted.
    ///
    /// # Errors
    /// The map or the clock cannot be read.
    pub fn claims(&self) -> anyhow::Result<Vec<(u8, u16, Claim)>> {
        let now = monotonic_ns().context("read the clock")?;
        let rows = self.maps.claims.all()?.into_iter();
        Ok(rows
            .filter(|(_, claim)| claim.held(now))
            .filter_map(with_port)
            .collect())
    }

    /// Takes who sent what to whom into the database; whether that is kept at all.
    ///
    /// # Errors
    /// As [`flows::drain`].
    pub fn drain_flows(&self) -> anyhow::Result<bool> {
        let kept = self.record.flows.seconds > 0;
        if kept {
            flows::drain(&self.store, &self.record)?;
        }
        Ok(kept)
    }

    /// Who sent what to whom that is not in the database yet.
    ///
    /// # Errors
    /// The maps cannot be opened.
    pub fn tallied(&self) -> anyhow::Result<Vec<Generation>> {
        let tallies = Tallies::open(&self.store)?;
        loop {
            let current = tallies.current()?;
            let former = current.checked_sub(1).into_iter();
            let both = former.chain([current]).map(|number| tallies.read(number));
            let both = both.collect::<anyhow::Result<Vec<_>>>()?;
            // Else one of them may be the next already.
            if tallies.current()? == current {
                return Ok(both);
            }
        }
    }

    /// Has what is decided for an owner told until then, nanoseconds of the monotonic
    /// clock.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn trace(&self, id: SliceId, until_ns: u64) -> anyhow::Result<()> {
        self.maps.traced.set(&id.index(), &until_ns)
    }

    /// The addresses the programs know.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn addresses(&self) -> anyhow::Result<Vec<(Address, AddressEntry)>> {
        self.maps.addresses.all()
    }

    /// The ring of events. It has one reading position: two readers take each
    /// other's events.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn events(&self) -> anyhow::Result<Events> {
        Events::open(&self.store)
    }

    /// Tells the programs of the addresses that devices have now; whether any
    /// changed. Until then a new address is nobody's: denied, not allowed.
    ///
    /// # Errors
    /// The addresses cannot be listed or written.
    pub fn refresh_addresses(&self) -> anyhow::Result<bool> {
        locked(|node| {
            let raw = lifecycle::has_raw(&node.record);
            let store = Store::of_node();
            // One that fails keeps none of the others from being done.
            let addresses = addresses::refresh(&node.maps, &node.record);
            let devices = devices::refresh(&store, &node.maps, raw);
            let links = links::refresh(&store, &node.maps, &node.record.links);
            Ok(addresses? | devices? | links?)
        })
    }

    /// Keeps what slices have sent of their quotas in a file; whether it was new.
    ///
    /// # Errors
    /// A map cannot be read, or the file not be written.
    pub fn save_quotas(&self) -> anyhow::Result<bool> {
        if self.record.links.is_empty() {
            return Ok(false);
        }
        locked(|node| quotas::save(&node.maps, &node.record))
    }

    /// Frees the ports that sockets older than the programs held and hold no
    /// more; whether there were any.
    ///
    /// # Errors
    /// /proc cannot be read, or the map not written.
    pub fn refresh_found(&self) -> anyhow::Result<bool> {
        locked(|node| state::forget_found(&node.maps))
    }
}

/// Changes the node as it is once nobody else changes it: another policy may be
/// in force than before, or none.
fn locked<T>(change: impl FnOnce(&Node) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let lock = record::Lock::take()?;
    match Node::open() {
        Ok(node) => change(&node),
        Err(error) => {
            if error.is::<NotUp>() {
                lock.remove()?;
            }
            Err(error)
        }
    }
}

/// Both together.
pub fn sum(mut all: Traffic, one: Traffic) -> Traffic {
    let add = |to: &mut u64, more: u64| to.add_assign(more);
    add(&mut all.sent_packets, one.sent_packets);
    add(&mut all.sent_bytes, one.sent_bytes);
    add(&mut all.received_packets, one.received_packets);
    add(&mut all.received_bytes, one.received_bytes);
    add(&mut all.loopback_sent_packets, one.loopback_sent_packets);
    add(&mut all.loopback_sent_bytes, one.loopback_sent_bytes);
    add(
        &mut all.loopback_received_packets,
        one.loopback_received_packets,
    );
    add(
        &mut all.loopback_received_bytes,
        one.loopback_received_bytes,
    );
    all
}

/// Protocol and port of a row of the port maps.
fn port_of(row: u32) -> Option<(u8, u16)> {
    let port = u16::try_from(row & 0xffff).ok()?;
    match row >> 16 {
        0 => Some((TCP, port)),
        1 => Some((UDP, port)),
        _ => None,
    }
}

fn with_port<T>((row, value): (u32, T)) -> Option<(u8, u16, T)> {
    port_of(row).map(|(protocol, port)| (protocol, port, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_its_protocol_and_port() {
        for (protocol, port) in [(TCP, 0), (TCP, 80), (UDP, 65535)] {
            let row = policy::abi::port_index(protocol, port).unwrap();
            assert_eq!(port_of(row), Some((protocol, port)));
        }
        assert_eq!(port_of(policy::abi::PORT_ROWS), None);
    }

    #[test]
    fn traffic_of_cpus_adds_up_field_by_field() {
        let one = Traffic {
            sent_packets: 1,
            sent_bytes: 2,
            received_packets: 3,
            received_bytes: 4,
            loopback_sent_packets: 5,
            loopback_sent_bytes: 6,
            loopback_received_packets: 7,
            loopback_received_bytes: 8,
        };
        let two = sum(one, one);
        assert_eq!(
            (
                two.sent_packets,
                two.sent_bytes,
                two.received_packets,
                two.received_bytes
            ),
            (2, 4, 6, 8)
        );
        assert_eq!(
            (two.loopback_sent_packets, two.loopback_received_bytes),
            (10, 16)
        );
    }
}
