//! The last close(2) of a socket.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use policy::abi::TAG_OPEN;

use crate::claim;
use crate::owner;

/// `BPF_CGROUP_INET_SOCK_RELEASE`: no descriptor is left; TCP may still run.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    if let (Some(tag), Some(settings)) = (owner::tag(ctx.as_ptr()), owner::settings()) {
        claim::end(tag, TAG_OPEN, false, settings);
    }
    1
}
