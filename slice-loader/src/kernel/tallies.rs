//! Who sent what to whom, as the programs tally it in generations.

use anyhow::Context;
use policy::abi::{TalliedFlow, Tally, TallyRest, rest_index};
use zerocopy::{FromZeros, IntoBytes};

use super::maps::Table;
use super::store::Store;
use crate::sys::bpf;

/// The maps of both generations.
#[derive(Debug)]
pub struct Tallies {
    generation: Table<u32, u64>,
    even: Table<TalliedFlow, Tally>,
    odd: Table<TalliedFlow, Tally>,
    rest: Table<u32, TallyRest>,
}

/// What was tallied in one generation.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// A row per flow.
    pub flows: Vec<(TalliedFlow, Tally)>,
    /// What owners exchanged beside their rows.
    pub rests: Vec<TallyRest>,
}

impl Generation {
    /// Whether nothing was exchanged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.rests.is_empty()
    }
}

impl Tallies {
    /// Opens the pins.
    ///
    /// # Errors
    /// One is missing or of another shape.
    pub fn open(store: &Store) -> anyhow::Result<Self> {
        Ok(Self {
            generation: Table::open(store, "TALLY")?,
            even: Table::open(store, "TALLIES_EVEN")?,
            odd: Table::open(store, "TALLIES_ODD")?,
            rest: Table::open(store, "TALLY_REST")?,
        })
    }

    /// The number of the generation that is filled.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn current(&self) -> anyhow::Result<u64> {
        Ok(self.generation.get(&0)?.unwrap_or(0))
    }

    /// What a generation has now: the one that is filled, or the former one,
    /// which was not removed yet.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn read(&self, number: u64) -> anyhow::Result<Generation> {
        let flows = self.flows(number).all()?;
        let rests = self.rest.all()?.into_iter();
        let first = rest_index(number, 0, self.rows());
        let mine = first..first + self.rows();
        Ok(Generation {
            number,
            flows,
            rests: rests
                .filter(|(row, rest)| {
                    mine.contains(row) && !rest.traffic.as_bytes().iter().all(|byte| *byte == 0)
                })
                .map(|(_, rest)| rest)
                .collect(),
        })
    }

    /// Begins the next generation and waits until nobody adds to the former one,
    /// whose number is returned. The one before that must have been removed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn turn(&self) -> anyhow::Result<u64> {
        let former = self.current()?;
        self.generation.set(&0, &former.wrapping_add(1))?;
        self.settle()?;
        Ok(former)
    }

    /// Waits until nobody adds to the former generation.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn settle(&self) -> anyhow::Result<()> {
        bpf::wait_for_programs().context("wait for the programs that run")
    }

    /// Removes all of a generation that is not filled any more.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self, number: u64) -> anyhow::Result<()> {
        let flows = self.flows(number);
        let keys: Vec<TalliedFlow> = flows.all()?.into_iter().map(|(key, _)| key).collect();
        flows.remove_all(&keys)?;
        let first = rest_index(number, 0, self.rows());
        let used: Vec<(u32, TallyRest)> = self
            .rest
            .all()?
            .into_iter()
            .filter(|(row, rest)| {
                (first..first + self.rows()).contains(row) && *rest != TallyRest::new_zeroed()
            })
            .map(|(row, _)| (row, TallyRest::new_zeroed()))
            .collect();
        self.rest.set_all(&used)
    }

    fn flows(&self, number: u64) -> &Table<TalliedFlow, Tally> {
        if number & 1 == 0 {
            &self.even
        } else {
            &self.odd
        }
    }

    /// Of the per-slice maps.
    fn rows(&self) -> u32 {
        self.rest.rows() / 2
    }
}
