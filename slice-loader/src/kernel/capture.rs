//! The filter of a slice's packet sockets.
//!
//! A socket's filter is not told whose the socket is, so each slice has a filter
//! of its own: a few instructions that name the slice and jump to the program
//! `capture`, which is shared, and replaced for all by an upgrade.

use std::os::fd::OwnedFd;

use anyhow::Context;
use policy::SliceId;

use super::store::Store;
use crate::sys::bpf;

/// The filter for the packet sockets of a slice.
///
/// # Errors
/// The node is not up, or the kernel refuses.
pub fn filter(id: SliceId) -> anyhow::Result<OwnedFd> {
    let path = Store::of_node().map("CAPTURE");
    let map = bpf::object_get(&path).with_context(|| format!("open map {}", path.display()))?;
    bpf::filter_of(&map, id.0).context("make the filter of a slice's packet sockets")
}
