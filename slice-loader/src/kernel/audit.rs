//! Reading the packets of all slices: who does has a ring of its own, into which
//! the programs copy for as long as it says every few seconds that it still
//! reads. One that ends, or is killed, costs nothing any more after that; one
//! that is slow loses packets, which are counted, and holds nobody up.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, bail};
use aya::maps::{Map, MapData, RingBuf};
use policy::SliceId;
use policy::abi::{AUDIT_RING, AUDITOR_ROWS, Audited, Auditor};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::store::Store;
use crate::sys::bpf;
use crate::sys::clock::monotonic_ns;

/// For how long the programs write to one who does not say that it still reads.
const LEASE_NS: u64 = 5_000_000_000;

/// The right to read: a ring and the three maps, without which nobody can.
#[derive(Debug)]
pub struct Right {
    ring: OwnedFd,
    auditors: OwnedFd,
    lost: OwnedFd,
    rings: OwnedFd,
}

impl Right {
    /// Makes a ring, whose memory is counted where this process is.
    ///
    /// # Errors
    /// The node is not up, or the kernel refuses.
    pub fn new(store: &Store) -> anyhow::Result<Self> {
        let map = |name| {
            let path = store.map(name);
            bpf::object_get(&path).with_context(|| format!("open map {}", path.display()))
        };
        Ok(Self {
            auditors: map("AUDITORS")?,
            lost: map("AUDITORS_LOST")?,
            rings: map("AUDITOR_RINGS")?,
            ring: bpf::ring_create(AUDIT_RING).context("make a ring")?,
        })
    }

    /// What another program is handed.
    #[must_use]
    pub fn descriptors(&self) -> [&OwnedFd; 4] {
        [&self.ring, &self.auditors, &self.lost, &self.rings]
    }

    /// What was handed over.
    #[must_use]
    pub fn of([ring, auditors, lost, rings]: [OwnedFd; 4]) -> Self {
        Self {
            ring,
            auditors,
            lost,
            rings,
        }
    }

    /// From now on the packets of all slices come, for `owner`.
    ///
    /// # Errors
    /// As many read as can at once, or the kernel refuses.
    pub fn begin(&self, owner: SliceId) -> anyhow::Result<Reading> {
        let map = |fd: &OwnedFd| bpf::Map::from_fd(fd.try_clone()?);
        let (auditors, lost, rings) = (map(&self.auditors)?, map(&self.lost)?, map(&self.rings)?);
        let data = MapData::from_fd(self.ring.try_clone()?)?;
        let ring_id = data.info().context("ask for the ring's number")?.id();
        let mut ring = RingBuf::try_from(Map::from_map_data(data)?).context("open the ring")?;
        // What an earlier reading left.
        while ring.next().is_some() {}
        let Some(row) = free_row(&auditors, &rings, &self.ring)? else {
            bail!(io::Error::from_raw_os_error(libc::EBUSY));
        };
        let mut reading = Reading {
            row,
            owner,
            auditors,
            lost,
            rings,
            ring,
            ring_id,
            until_ns: 0,
            lost_before: 0,
        };
        reading.lost_before = reading.lost_ever()?;
        reading.go_on()?;
        Ok(reading)
    }
}

/// Takes a row that nobody has, or somebody who ended without a word.
fn free_row(auditors: &bpf::Map, rings: &bpf::Map, ring: &OwnedFd) -> anyhow::Result<Option<u32>> {
    let descriptor = ring.as_raw_fd().to_ne_bytes();
    for row in 1..AUDITOR_ROWS {
        if rings.insert(row.as_bytes(), &descriptor)? {
            return Ok(Some(row));
        }
    }
    for row in 1..AUDITOR_ROWS {
        if until(auditors, row)? < monotonic_ns()?
            && rings.delete(row.as_bytes())?
            && rings.insert(row.as_bytes(), &descriptor)?
        {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

fn until(auditors: &bpf::Map, row: u32) -> anyhow::Result<u64> {
    let mut auditor = Auditor::new_zeroed();
    auditors.lookup(row.as_bytes(), auditor.as_mut_bytes())?;
    Ok(auditor.until_ns)
}

/// Packets that come, until this is dropped.
pub struct Reading {
    row: u32,
    owner: SliceId,
    auditors: bpf::Map,
    lost: bpf::Map,
    rings: bpf::Map,
    ring: RingBuf<MapData>,
    ring_id: u32,
    /// Up to here the row is its own.
    until_ns: u64,
    lost_before: u64,
}

impl Reading {
    /// Says that this still reads; to be said every second.
    ///
    /// # Errors
    /// It was not said for so long that another took the place, or the kernel
    /// refuses.
    pub fn go_on(&mut self) -> anyhow::Result<()> {
        if !self.has_row()? {
            bail!("stood still for so long that another took its place");
        }
        self.until_ns = monotonic_ns()?.saturating_add(LEASE_NS);
        let auditor = Auditor {
            until_ns: self.until_ns,
            owner: self.owner,
            reserved: 0,
        };
        for row in [self.row, 0] {
            self.auditors.update(row.as_bytes(), auditor.as_bytes())?;
        }
        Ok(())
    }

    /// Hands the oldest packet that was not read to `read`; whether there was one.
    pub fn take(&mut self, read: impl FnOnce(&Audited, &[u8])) -> bool {
        let Some(item) = self.ring.next() else {
            return false;
        };
        if let Ok((packet, octets)) = Audited::read_from_prefix(&item) {
            let captured = usize::try_from(packet.captured).unwrap_or(usize::MAX);
            read(&packet, &octets[..captured.min(octets.len())]);
        }
        true
    }

    /// Packets that found no room since the reading began.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn lost(&self) -> anyhow::Result<u64> {
        Ok(self.lost_ever()?.saturating_sub(self.lost_before))
    }

    fn lost_ever(&self) -> anyhow::Result<u64> {
        let mut lost = 0_u64;
        self.lost.lookup(self.row.as_bytes(), lost.as_mut_bytes())?;
        Ok(lost)
    }

    /// Whether its row is not another's meanwhile.
    fn has_row(&self) -> anyhow::Result<bool> {
        if monotonic_ns()? < self.until_ns {
            return Ok(true);
        }
        let mut ring = 0_u32;
        let any = self
            .rings
            .lookup(self.row.as_bytes(), ring.as_mut_bytes())?;
        Ok(any && ring == self.ring_id)
    }

    fn end(&self) -> anyhow::Result<()> {
        if !self.has_row()? {
            return Ok(());
        }
        let none = Auditor::new_zeroed();
        self.auditors.update(self.row.as_bytes(), none.as_bytes())?;
        self.rings.delete(self.row.as_bytes())?;
        for row in 1..AUDITOR_ROWS {
            if until(&self.auditors, row)? != 0 {
                return Ok(());
            }
        }
        // The last one puts out the light; one who comes this moment says again
        // within a second that it reads.
        self.auditors.update(0_u32.as_bytes(), none.as_bytes())?;
        Ok(())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // What fails ends with the lease.
        let _ = self.end();
    }
}

impl AsFd for Reading {
    /// Readable when there is a packet.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
