//! recvfrom(2) and recvmsg(2) on a slice's UDP socket: the sender as the slice
//! knows it.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use super::name::show;

/// `BPF_CGROUP_UDP4_RECVMSG`.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    show(ctx, true)
}

/// `BPF_CGROUP_UDP6_RECVMSG`.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    show(ctx, false)
}
