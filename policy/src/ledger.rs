//! Which slice has which id, and which ids were given away before.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::SliceName;
use crate::ids::{FIRST_SLICE_ROW, SliceId};

/// The rows of the per-slice maps as they were given to slices.
///
/// The loader keeps it as long as anything may remember an id (records, sockets, quotas): beyond
/// `slice down`. A name that comes back after its slice was destroyed gets another id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// By name: the id of each slice that lives.
    ids: BTreeMap<String, u32>,
    /// By row: the generation that the row's next slice gets, for rows that were in use.
    next: BTreeMap<u32, u32>,
}

impl Ledger {
    /// The id of a slice that lives.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<SliceId> {
        self.ids.get(name).copied().map(SliceId)
    }

    /// The slices that live, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, SliceId)> {
        self.ids
            .iter()
            .map(|(name, id)| (name.as_str(), SliceId(*id)))
    }

    /// Takes a name's id away: whoever has the name next gets another.
    pub fn forget(&mut self, name: &str) {
        self.ids.remove(name);
    }

    /// The ledger after the slices that live became exactly `names`: who stays keeps its id, who is
    /// new gets a row below `rows` that was used least often, the lowest first. A name for which
    /// there is no row left is not in the result. Rows in `busy` are not given away: sockets of
    /// their former slice still count there.
    #[must_use]
    pub fn assign<'a>(
        &self,
        names: impl IntoIterator<Item = &'a SliceName>,
        rows: u32,
        busy: &BTreeSet<u32>,
    ) -> Self {
        let names: BTreeSet<&str> = names.into_iter().map(SliceName::as_str).collect();
        let mut new = Self {
            ids: BTreeMap::new(),
            next: self.next.clone(),
        };
        for (name, id) in self.iter() {
            if names.contains(name) && id.index() < rows {
                new.ids.insert(name.to_owned(), id.0);
            }
        }
        let used: BTreeSet<u32> = new.iter().map(|(_, id)| id.index()).collect();
        let mut free: Vec<(u32, u32)> = (FIRST_SLICE_ROW..rows)
            .filter(|row| !used.contains(row) && !busy.contains(row))
            .map(|row| (new.next.get(&row).copied().unwrap_or(0), row))
            .collect();
        // Taken from the end: the least used, then the lowest.
        free.sort_unstable_by(|a, b| b.cmp(a));
        for name in names {
            if new.ids.contains_key(name) {
                continue;
            }
            // A row whose generations are used up gives no id, and is not asked again.
            while let Some((generation, row)) = free.pop() {
                if let Some(id) = SliceId::new(generation, row) {
                    new.ids.insert(name.to_owned(), id.0);
                    new.next.insert(row, generation + 1);
                    break;
                }
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<SliceName> {
        names
            .iter()
            .map(|name| SliceName::new(name).unwrap())
            .collect()
    }

    #[test]
    fn a_slice_keeps_its_id_while_it_lives_and_gets_another_when_it_comes_back() {
        let first = Ledger::default().assign(&names(&["b", "a"]), 5, &BTreeSet::new());
        assert_eq!(first.id("a"), SliceId::new(0, 2));
        assert_eq!(first.id("b"), SliceId::new(0, 3));
        let second = first.assign(&names(&["b", "c"]), 5, &BTreeSet::new());
        assert_eq!(second.id("b"), first.id("b"));
        // The row that was never used comes before the one that was.
        assert_eq!(second.id("c"), SliceId::new(0, 4));
        let third = second.assign(&names(&["a", "b", "c"]), 5, &BTreeSet::new());
        assert_eq!(third.id("a"), SliceId::new(1, 2));
    }

    #[test]
    fn without_a_row_there_is_no_id() {
        let ledger = Ledger::default().assign(&names(&["a", "b"]), 3, &BTreeSet::new());
        assert_eq!((ledger.id("a"), ledger.id("b")), (SliceId::new(0, 2), None));
        // Fewer rows than before: who is beyond them does not keep its id.
        let wide = Ledger::default().assign(&names(&["a", "b"]), 4, &BTreeSet::new());
        assert_eq!(
            wide.assign(&names(&["b"]), 3, &BTreeSet::new()).id("b"),
            SliceId::new(1, 2)
        );
    }

    #[test]
    fn a_row_whose_generations_are_used_up_is_not_used_again() {
        let worn = Ledger {
            ids: BTreeMap::new(),
            next: BTreeMap::from([(2, 1 << 18)]),
        };
        assert_eq!(
            worn.assign(&names(&["a"]), 3, &BTreeSet::new()).id("a"),
            None
        );
        assert_eq!(
            worn.assign(&names(&["a"]), 4, &BTreeSet::new()).id("a"),
            SliceId::new(0, 3)
        );
    }

    #[test]
    fn a_row_that_sockets_still_refer_to_is_not_given_away() {
        let first = Ledger::default().assign(&names(&["a"]), 3, &BTreeSet::new());
        let busy = BTreeSet::from([2]);
        assert_eq!(first.assign(&names(&["b"]), 3, &busy).id("b"), None);
        // Who stays keeps a busy row.
        assert_eq!(
            first.assign(&names(&["a"]), 3, &busy).id("a"),
            first.id("a")
        );
    }
}
