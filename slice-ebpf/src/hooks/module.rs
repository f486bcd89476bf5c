//! The kernel is about to load a module because a task asked for what is in it.

use aya_ebpf::helpers::bpf_get_current_uid_gid;
use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use policy::Verdict;
use policy::abi::Moment;
use policy::decide::kernel::loads_module;

use crate::ctx::allow;
use crate::event::Denial;
use crate::owner;

/// `security_kernel_module_request`, for tasks in the slices' cgroups: a family of
/// generic netlink, a discipline of terminals, a socket option; whatever way leads
/// there.
#[lsm_cgroup(hook = "kernel_module_request")]
pub fn kernel_module_request(_ctx: LsmContext) -> i32 {
    let Some(settings) = owner::settings() else {
        return 0;
    };
    let who = owner::of_task(settings);
    // The node's ids: 0 is its root, who mounts a slice's root from inside the
    // slice's cgroup.
    let uid = bpf_get_current_uid_gid() as u32;
    let flags = owner::entry(who).map_or(0, |entry| entry.flags);
    let Verdict::Deny(reason) = loads_module(uid, flags) else {
        return allow();
    };
    Denial::new(who, reason, Moment::Create, 0, 0).refuse();
    0
}
