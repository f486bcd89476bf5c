//! Bounds on the disk, as the file system keeps them for a project.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::admission::Admitted;
use crate::config::Slice;
use crate::ids::SliceId;

/// Bytes of a cap for each inode, where policy does not say how many inodes:
/// what mke2fs makes of a disk, so that caps that fit do so in inodes too.
const BYTES_PER_INODE: u64 = 16 << 10;
/// Fewer make no root directory.
const INODES_LEAST: u64 = 64;

/// Most that a slice may have on the disk; 0 is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct DiskLimits {
    /// Bytes.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

impl DiskLimits {
    /// Whether there is no bound.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.bytes == 0 && self.inodes == 0
    }
}

/// What a slice may have.
#[must_use]
pub fn limits(slice: &Slice) -> DiskLimits {
    let bytes = slice.disk.cap.map_or(0, |cap| cap.value.0);
    let by_bytes = if bytes == 0 {
        0
    } else {
        (bytes / BYTES_PER_INODE).max(INODES_LEAST)
    };
    DiskLimits {
        bytes,
        inodes: slice
            .disk
            .inodes
            .map_or(by_bytes, |inodes| u64::from(inodes.value)),
    }
}

/// Every slice has an entry: that it has no bound is to be written, too.
pub(super) fn disk(admitted: &Admitted<'_>) -> BTreeMap<SliceId, DiskLimits> {
    admitted
        .slices()
        .map(|(id, slice)| (id, limits(slice)))
        .collect()
}
