//! Whose a task, socket or packet is.
//!
//! A task is the slice's whose cgroup is its ancestor at the slices' level; a
//! socket is its creator's for life, by the tag it got then; accepted sockets
//! inherit the tag.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_sk_storage_get};
use policy::SliceId;
use policy::abi::{LIVE, Settings, SliceEntry, SliceState, TAG_ELSEWHERE, TAG_OPEN, Tag, adopted};

use crate::claim;
use crate::maps::{CGROUPS, SETTINGS, SLICES, STATES, TAGS};

/// What holds for the node; absent before the loader wrote it.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// The slice whose cgroup this is; the node where it is nobody's.
#[inline(always)]
pub fn of_cgroup(cgroup: u64) -> SliceId {
    // SAFETY: the value is one word and copied at once.
    match unsafe { CGROUPS.get(cgroup) } {
        Some(id) => *id,
        None => SliceId::NODE,
    }
}

/// Whose the running task is.
#[inline(always)]
pub fn of_task(settings: &Settings) -> SliceId {
    // SAFETY: the helper takes a number and asks nothing of its caller.
    of_cgroup(unsafe { bpf_get_current_ancestor_cgroup_id(settings.slices_level as i32) })
}

/// The row of a live owner; `None` for a slice that was destroyed.
#[inline(always)]
pub fn entry(id: SliceId) -> Option<&'static SliceEntry> {
    let entry = SLICES.get(id.index())?;
    (entry.id.0 == id.0 && entry.flags & LIVE != 0).then_some(entry)
}

/// Whom the traffic of a socket is counted for where its rules are the node's:
/// a slice that took a connection over, as long as there is one.
#[inline(always)]
pub fn counted_for(id: SliceId, flags: u64) -> SliceId {
    if adopted(flags) && entry(id).is_none() {
        return SliceId::NODE;
    }
    id
}

/// What is counted of an owner, destroyed or not.
#[inline(always)]
pub fn state(id: SliceId) -> Option<*mut SliceState> {
    STATES.get_ptr_mut(id.index())
}

/// The tag of a socket, if it has one. `sk` is a socket pointer that the
/// verifier knows, or the context of a `cgroup/sock` program.
#[inline(always)]
pub fn tag(sk: *mut c_void) -> Option<*mut Tag> {
    // SAFETY: `sk` comes from the context as it is; the verifier checks it.
    let tag = unsafe { bpf_sk_storage_get(TAGS.as_ptr(), sk, core::ptr::null_mut(), 0) };
    (!tag.is_null()).then_some(tag.cast())
}

/// Tags a socket that has none. Fails where the kernel has no memory.
#[inline(always)]
pub fn tag_new(sk: *mut c_void, id: SliceId, flags: u64) -> Option<*mut Tag> {
    let create = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: as in `tag`.
    let tag = unsafe { bpf_sk_storage_get(TAGS.as_ptr(), sk, core::ptr::null_mut(), create) };
    let tag: *mut Tag = (!tag.is_null()).then_some(tag.cast())?;
    // SAFETY: the storage is ours and new, `sk` is not yet shared or belongs
    // to the node, for which each writer writes the same.
    unsafe {
        (*tag).id = id;
        (*tag).flags = flags;
    }
    Some(tag)
}

/// The tag of a socket at a hook; one without is older than the programs or
/// the kernel's own, so the node's, and is tagged and counted from now on.
/// `here`: it is in the node's network namespace.
#[inline(always)]
pub fn tag_of_older(sk: *mut c_void, here: bool) -> Option<*mut Tag> {
    if let Some(tag) = tag(sk) {
        return Some(tag);
    }
    tag_counted(sk, SliceId::NODE, if here { 0 } else { TAG_ELSEWHERE })
}

/// Tags a socket that has none and counts it as open from now on.
#[inline(always)]
pub fn tag_counted(sk: *mut c_void, who: SliceId, flags: u64) -> Option<*mut Tag> {
    let tag = tag_new(sk, who, TAG_OPEN | flags)?;
    claim::begin(who);
    claim::opened(who);
    Some(tag)
}
