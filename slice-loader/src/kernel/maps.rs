//! The pinned maps with the types of `policy::abi`: one field per map the
//! loader reads or writes, each checked against the kernel's sizes when it is
//! opened.

use std::marker::PhantomData;
use std::os::fd::RawFd;

use anyhow::{Context, ensure};
use policy::abi::{
    ABI_VERSION, Address, AddressEntry, ArmedDevice, Arrivals, Bucket, Claim, Denials, ExemptKey,
    FlowKey, LinkEntry, LinkKnobs, LoopbackPorts, QuotaState, RefusedKey, RefusedPorts, Reserved,
    Settings, SliceEntry, SliceState, Tag, TallyRest, Traffic, rest_index,
};
use policy::ids::SliceId;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::store::Store;
use crate::sys::bpf;

/// What may be a key or a value: its bytes are all there is to it.
pub trait Plain: FromBytes + IntoBytes + Immutable + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + Copy> Plain for T {}

/// Most entries one batch call writes: bounds the memory of the call.
const WRITE_BATCH: usize = 16_384;

/// A map of the kernel from `K` to `V`; arrays have `u32` keys.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    map: bpf::Map,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Opens the pin of this name.
    ///
    /// # Errors
    /// There is none, or it has keys or values of another size.
    pub fn open(store: &Store, name: &'static str) -> anyhow::Result<Self> {
        let map = open(store, name)?;
        ensure!(
            map.key_size() == size_of::<K>() && map.value_size() == size_of::<V>(),
            "open map {name}: its keys and values have {} and {} bytes, this program's {} and {}",
            map.key_size(),
            map.value_size(),
            size_of::<K>(),
            size_of::<V>(),
        );
        Ok(Self {
            name,
            map,
            types: PhantomData,
        })
    }

    /// The map's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Rows of an array, most entries of others.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.map.max_entries()
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// The kernel refuses; that there is no such key is `None`.
    pub fn get(&self, key: &K) -> anyhow::Result<Option<V>> {
        let mut value = V::new_zeroed();
        let mut bytes = value.as_bytes().to_vec();
        let found = self
            .map
            .lookup(key.as_bytes(), &mut bytes)
            .with_context(|| format!("read map {}", self.name))?;
        if !found {
            return Ok(None);
        }
        value = from_bytes(&bytes);
        Ok(Some(value))
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// The kernel refuses: the map is full, or the row is not there.
    pub fn set(&self, key: &K, value: &V) -> anyhow::Result<()> {
        self.map
            .update(key.as_bytes(), value.as_bytes())
            .with_context(|| format!("write map {}", self.name))
    }

    /// Removes `key`; whether it was there.
    ///
    /// # Errors
    /// The kernel refuses: arrays have no removal.
    pub fn remove(&self, key: &K) -> anyhow::Result<bool> {
        self.map
            .delete(key.as_bytes())
            .with_context(|| format!("remove from map {}", self.name))
    }

    /// Sets many entries.
    ///
    /// # Errors
    /// As [`Table::set`]; entries before the one refused are set.
    pub fn set_all(&self, entries: &[(K, V)]) -> anyhow::Result<()> {
        for batch in entries.chunks(WRITE_BATCH) {
            let mut keys = Vec::with_capacity(batch.len() * size_of::<K>());
            let mut values = Vec::with_capacity(batch.len() * size_of::<V>());
            for (key, value) in batch {
                keys.extend_from_slice(key.as_bytes());
                values.extend_from_slice(value.as_bytes());
            }
            self.map
                .update_batch(&keys, &values, batch.len())
                .with_context(|| format!("write {} entries of map {}", batch.len(), self.name))?;
        }
        Ok(())
    }

    /// Removes many entries of a hash, which must all be there.
    ///
    /// # Errors
    /// The kernel refuses; entries before the one refused are gone.
    pub fn remove_all(&self, keys: &[K]) -> anyhow::Result<()> {
        for batch in keys.chunks(WRITE_BATCH) {
            let bytes: Vec<u8> = batch
                .iter()
                .flat_map(|key| key.as_bytes())
                .copied()
                .collect();
            self.map
                .delete_batch(&bytes, batch.len())
                .with_context(|| format!("remove from map {}", self.name))?;
        }
        Ok(())
    }

    /// All entries, in the kernel's order.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn all(&self) -> anyhow::Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        self.map
            .visit(|keys, values| {
                let keys = keys.chunks_exact(size_of::<K>()).map(from_bytes);
                let values = values.chunks_exact(size_of::<V>()).map(from_bytes);
                entries.extend(keys.zip(values));
            })
            .with_context(|| format!("read map {}", self.name))?;
        Ok(entries)
    }
}

/// An array with one `V` per CPU in each row.
#[derive(Debug)]
pub struct PerCpu<V> {
    name: &'static str,
    map: bpf::Map,
    types: PhantomData<V>,
}

impl<V: Plain> PerCpu<V> {
    fn open(store: &Store, name: &'static str) -> anyhow::Result<Self> {
        let map = open(store, name)?;
        let stride = size_of::<V>().next_multiple_of(8);
        ensure!(
            map.key_size() == 4 && map.value_size() % stride == 0 && map.value_size() > 0,
            "open map {name}: its values have another size than this program's"
        );
        Ok(Self {
            name,
            map,
            types: PhantomData,
        })
    }

    fn values(bytes: &[u8]) -> impl Iterator<Item = V> + '_ {
        bytes
            .chunks_exact(size_of::<V>().next_multiple_of(8))
            .map(|value| from_bytes(&value[..size_of::<V>()]))
    }

    /// The values of all CPUs in a row; empty where there is no such row.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn get(&self, row: u32) -> anyhow::Result<Vec<V>> {
        let mut bytes = vec![0; self.map.value_size()];
        let found = self
            .map
            .lookup(row.as_bytes(), &mut bytes)
            .with_context(|| format!("read map {}", self.name))?;
        Ok(if found {
            Self::values(&bytes).collect()
        } else {
            Vec::new()
        })
    }

    /// Zeroes a row on all CPUs.
    ///
    /// # Errors
    /// There is no such row.
    pub fn clear(&self, row: u32) -> anyhow::Result<()> {
        self.map
            .update(row.as_bytes(), &vec![0; self.map.value_size()])
            .with_context(|| format!("clear a row of map {}", self.name))
    }

    /// Each row, its CPUs' values folded into one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn fold_all(&self, fold: impl Fn(V, V) -> V) -> anyhow::Result<Vec<V>> {
        let mut rows = Vec::new();
        self.map
            .visit(|_, values| {
                rows.extend(
                    values
                        .chunks_exact(self.map.value_size())
                        .map(|row| Self::values(row).fold(V::new_zeroed(), &fold)),
                );
            })
            .with_context(|| format!("read map {}", self.name))?;
        Ok(rows)
    }
}

fn open(store: &Store, name: &'static str) -> anyhow::Result<bpf::Map> {
    let path = store.map(name);
    bpf::object_get(&path)
        .and_then(bpf::Map::from_fd)
        .with_context(|| format!("open map {}", path.display()))
}

/// The value with these bytes; the callers cut exactly as many.
fn from_bytes<T: Plain>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).unwrap_or_else(|_| T::new_zeroed())
}

/// A slice's row in all maps that count, zeroed.
const NO_DENIALS: Denials = Denials {
    counts: [0; policy::verdict::REASON_ROWS as usize],
};

/// Every map that the loader reads or writes.
#[derive(Debug)]
#[allow(missing_docs, reason = "named and described in policy::abi")]
pub struct Maps {
    pub settings: Table<u32, Settings>,
    pub cgroups: Table<u64, SliceId>,
    pub slices: Table<u32, SliceEntry>,
    pub states: Table<u32, SliceState>,
    pub traffic: PerCpu<Traffic>,
    pub denials: Table<u32, Denials>,
    pub reserved: Table<u32, Reserved>,
    pub claims: Table<u32, Claim>,
    pub addresses: Table<Address, AddressEntry>,
    pub refused: Table<RefusedKey, RefusedPorts>,
    pub flows: Table<FlowKey, SliceId>,
    pub loopback: Table<u32, LoopbackPorts>,
    pub tags: Table<RawFd, Tag>,
    pub devices: Table<u32, ArmedDevice>,
    pub link_of: Table<u32, u32>,
    pub links: Table<u32, LinkEntry>,
    pub knobs: Table<u32, LinkKnobs>,
    pub exempt: Table<ExemptKey, u32>,
    pub buckets: Table<u32, Bucket>,
    pub tally_rest: Table<u32, TallyRest>,
    pub quotas: Table<u32, QuotaState>,
    pub traced: Table<u32, u64>,
    pub arrives_by: Table<u32, u32>,
    pub arrivals: Table<u32, Arrivals>,
}

/// Pinned maps of another layout than this program's.
#[derive(Debug)]
pub struct OtherAbi {
    /// The version of the pinned maps.
    pub theirs: u32,
}

impl std::fmt::Display for OtherAbi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the running node has map layouts of version {}, this program of {ABI_VERSION}",
            self.theirs
        )
    }
}

impl std::error::Error for OtherAbi {}

impl Maps {
    /// Opens the pins.
    ///
    /// # Errors
    /// [`OtherAbi`], or a pin is missing or of another shape.
    pub fn open(store: &Store) -> anyhow::Result<Self> {
        check_abi(store)?;
        Ok(Self {
            settings: Table::open(store, "SETTINGS")?,
            cgroups: Table::open(store, "CGROUPS")?,
            slices: Table::open(store, "SLICES")?,
            states: Table::open(store, "STATES")?,
            traffic: PerCpu::open(store, "TRAFFIC")?,
            denials: Table::open(store, "DENIALS")?,
            reserved: Table::open(store, "RESERVED")?,
            claims: Table::open(store, "CLAIMS")?,
            addresses: Table::open(store, "ADDRESSES")?,
            refused: Table::open(store, "REFUSED")?,
            flows: Table::open(store, "FLOWS")?,
            loopback: Table::open(store, "LOOPBACK")?,
            tags: Table::open(store, "TAGS")?,
            devices: Table::open(store, "DEVICES")?,
            link_of: Table::open(store, "LINK_OF")?,
            links: Table::open(store, "LINKS")?,
            knobs: Table::open(store, "KNOBS")?,
            exempt: Table::open(store, "EXEMPT")?,
            buckets: Table::open(store, "BUCKETS")?,
            tally_rest: Table::open(store, "TALLY_REST")?,
            quotas: Table::open(store, "QUOTAS")?,
            traced: Table::open(store, "TRACED")?,
            arrives_by: Table::open(store, "ARRIVES_BY")?,
            arrivals: Table::open(store, "ARRIVALS")?,
        })
    }

    /// Makes void what sockets remember of earlier checks of their packets.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_checks(&self) -> anyhow::Result<()> {
        let mut settings = self
            .settings
            .get(&0)?
            .context("read the settings: they are not there")?;
        settings.generation = settings.generation.wrapping_add(1);
        self.settings.set(&0, &settings)
    }

    /// Zeroes what a row counted and held for its former slice.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear_row(&self, row: u32) -> anyhow::Result<()> {
        self.traffic.clear(row)?;
        self.denials.set(&row, &NO_DENIALS)?;
        self.loopback.set(&row, &LoopbackPorts::new_zeroed())?;
        self.traced.set(&row, &0)?;
        let rows = self.states.rows();
        // Of both classes: one lies behind the other.
        let of_links = (row..self.buckets.rows()).step_by(usize::try_from(rows)?);
        for index in of_links.filter(|_| self.buckets.rows() >= rows) {
            self.buckets.set(&index, &Bucket::new_zeroed())?;
            self.quotas.set(&index, &QuotaState::new_zeroed())?;
        }
        let of_links = (row..self.arrivals.rows()).step_by(usize::try_from(rows)?);
        for index in of_links.filter(|_| self.arrivals.rows() >= rows) {
            self.arrivals.set(&index, &Arrivals::new_zeroed())?;
        }
        for generation in [0, 1] {
            let index = rest_index(generation, row, rows);
            self.tally_rest.set(&index, &TallyRest::new_zeroed())?;
        }
        self.states.set(&row, &SliceState::new_zeroed())
    }
}

/// Refuses pinned maps of another ABI. Only the first field of the settings is
/// looked at: it stays where it is in all versions.
///
/// # Errors
/// [`OtherAbi`], or the settings cannot be read. Zero is the version of maps
/// that were made and not filled yet.
pub fn check_abi(store: &Store) -> anyhow::Result<()> {
    let map = open(store, "SETTINGS")?;
    let mut bytes = vec![0; map.value_size()];
    map.lookup(0_u32.as_bytes(), &mut bytes)
        .context("read map SETTINGS")?;
    let theirs = u32::read_from_prefix(&bytes).map_or(0, |(version, _)| version);
    if theirs != ABI_VERSION && theirs != 0 {
        return Err(OtherAbi { theirs }.into());
    }
    Ok(())
}
