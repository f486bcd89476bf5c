//! open(2) of /proc/net's files.

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;
use policy::abi::{Moment, Settings};
use policy::decide::sight::{ProcName, proc_net};
use policy::fields::Field;
use policy::{Reason, Verdict};

use crate::ctx::allow;
use crate::event::Denial;
use crate::kernel;
use crate::owner;

/// `PROC_SUPER_MAGIC`.
const PROC: u64 = 0x9fa0;
/// /proc/net itself, as its entry is named.
const NET: ProcName = *b"net\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Directories of the kernel's that are looked through below /proc/net.
const DEEP: u32 = 4;

/// `security_file_open`, for tasks in the slices' cgroups.
///
/// By what the file is, not by the path to it: /proc/net, /proc/PID/net and
/// /proc/PID/task/TID/net are all one directory, that of the process's network
/// namespace.
#[lsm_cgroup(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let file: *const c_void = ctx.arg(0);
    let inode = kernel::pointer(file as u64, Field::FileInode);
    let filesystem = kernel::pointer(inode, Field::InodeSuper);
    if kernel::field::<u64>(filesystem, Field::SuperMagic) != PROC {
        return allow();
    }
    let Some(settings) = owner::settings() else {
        return 0;
    };
    let Some(name) = name_in_net(inode, settings) else {
        return allow();
    };
    let Verdict::Deny(reason) = proc_net(&name) else {
        return allow();
    };
    let who = owner::of_task(settings);
    let reason = if who.is_slice() {
        reason
    } else {
        Reason::NoPolicy
    };
    Denial::new(who, reason, Moment::Open, 0, 0).refuse();
    0
}

/// The name, directly below /proc/net of the node's network namespace, of the
/// file or of the directory it is in; `None` where the file is elsewhere.
#[inline(always)]
fn name_in_net(inode: u64, settings: &Settings) -> Option<ProcName> {
    let start = inode.wrapping_sub(kernel::offset(Field::ProcInode));
    let mut entry = kernel::pointer(start, Field::ProcEntry);
    let mut depth = 0;
    while depth < DEEP && entry != 0 {
        let parent = kernel::pointer(entry, Field::EntryParent);
        if name_of(parent) == NET {
            // The entry of /proc/net carries its network namespace.
            let net = kernel::pointer(parent, Field::EntryData);
            let here = kernel::field::<u64>(net, Field::NetCookie) == settings.node_netns;
            return here.then(|| name_of(entry));
        }
        entry = parent;
        depth += 1;
    }
    None
}

/// The name of an entry, cut off where it is longer than any that matters.
#[inline(always)]
fn name_of(entry: u64) -> ProcName {
    kernel::text(kernel::pointer(entry, Field::EntryName))
}
