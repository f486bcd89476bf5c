//! mkdir(2) in the file system of cgroups: a slice divides its own.

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_set_retval};
use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;
use policy::decide::kernel::divides;
use policy::fields::Field;
use policy::verdict::errno::EAGAIN;

use crate::ctx::allow;
use crate::kernel;
use crate::owner;

/// `CGROUP2_SUPER_MAGIC`.
const CGROUPS: u64 = 0x6367_7270;

/// `security_inode_mkdir`, for tasks in the slices' cgroups.
#[lsm_cgroup(hook = "inode_mkdir")]
pub fn inode_mkdir(ctx: LsmContext) -> i32 {
    let directory: *const c_void = ctx.arg(0);
    let filesystem = kernel::pointer(directory as u64, Field::InodeSuper);
    if kernel::field::<u64>(filesystem, Field::SuperMagic) != CGROUPS {
        return allow();
    }
    let Some(settings) = owner::settings() else {
        return 0;
    };
    // SAFETY: the helper takes nothing.
    let task = unsafe { bpf_get_current_task() };
    let cgroup = kernel::pointer(kernel::pointer(task, Field::TaskCgroups), Field::SetCgroup);
    let slice = kernel::ancestor(cgroup, settings.slices_level);
    if divides(kernel::field(slice, Field::CgroupDying)) {
        return allow();
    }
    // As for those that are there, which the kernel counts itself, there is no
    // event: the errno is the same.
    // SAFETY: the value is an error number, as the helper wants.
    unsafe { bpf_set_retval(-EAGAIN) };
    0
}
