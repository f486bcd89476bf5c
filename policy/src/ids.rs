//! Who owns something: the identity of a slice.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of a [`SliceId`] that select the slice's row in the per-slice maps.
pub const INDEX_BITS: u32 = 14;

/// Most rows a per-slice map may have, the two fixed rows included.
pub const MAX_ROWS: u32 = 1 << INDEX_BITS;

/// First row that a slice may have: the rows below are [`SliceId::NODE`] and
/// [`SliceId::UNATTRIBUTED`].
pub const FIRST_SLICE_ROW: u32 = 2;

/// The identity of an owner: a generation in the upper bits, the row of the
/// per-slice maps in the lower [`INDEX_BITS`].
///
/// A row is used again after its slice is destroyed, with another generation,
/// so that an id is never reused while records of it live: a socket tagged for
/// a destroyed slice does not become the property of the row's next slice.
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct SliceId(pub u32);

impl SliceId {
    /// The node itself: every process outside the slices.
    pub const NODE: SliceId = SliceId(0);
    /// Packets whose owner the kernel does not tell: its own resets, ICMP
    /// errors, acknowledgements sent for TIME_WAIT.
    pub const UNATTRIBUTED: SliceId = SliceId(1);

    /// The id of row `index` in its `generation`; `None` where either does not
    /// fit or the row is one of the two fixed ones.
    pub const fn new(generation: u32, index: u32) -> Option<SliceId> {
        if index < FIRST_SLICE_ROW || index >= MAX_ROWS || generation >= 1 << (32 - INDEX_BITS) {
            return None;
        }
        Some(SliceId(generation << INDEX_BITS | index))
    }

    /// The row of the per-slice maps.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & (MAX_ROWS - 1)
    }

    /// How often the row was given away before.
    pub const fn generation(self) -> u32 {
        self.0 >> INDEX_BITS
    }

    /// Whether this is a tenant, not the node or the unattributed row.
    #[inline(always)]
    pub const fn is_slice(self) -> bool {
        self.index() >= FIRST_SLICE_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_row_and_generation() {
        let id = SliceId::new(5, 77).unwrap();
        assert_eq!((id.generation(), id.index(), id.is_slice()), (5, 77, true));
    }

    #[test]
    fn the_fixed_rows_and_what_does_not_fit_are_no_slices() {
        assert_eq!(SliceId::new(0, 0), None);
        assert_eq!(SliceId::new(0, 1), None);
        assert_eq!(SliceId::new(0, MAX_ROWS), None);
        assert_eq!(SliceId::new(1 << 18, 2), None);
        assert!(!SliceId::NODE.is_slice());
        assert!(!SliceId::UNATTRIBUTED.is_slice());
    }
}
