//! The ring of events, as the programs write it.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use aya::maps::{Map, MapData, RingBuf};
use policy::abi::Event;
use zerocopy::FromBytes;

use super::store::Store;

/// The reading end of the ring. The kernel keeps one reading position per
/// ring: two readers take each other's events.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    /// Opens the pinned ring.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(store: &Store) -> anyhow::Result<Self> {
        let path = store.map("EVENTS");
        let data =
            MapData::from_pin(&path).with_context(|| format!("open map {}", path.display()))?;
        let map = Map::from_map_data(data).context("open the ring of events")?;
        let ring = RingBuf::try_from(map).context("open the ring of events")?;
        Ok(Self { ring })
    }

    /// The oldest event not read yet. Records of another size are passed over.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            if let Ok((event, _)) = Event::read_from_prefix(&item) {
                return Some(event);
            }
        }
    }
}

impl AsFd for Events {
    /// Readable when there is an event.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
