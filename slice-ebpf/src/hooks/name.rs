//! getsockname(2), getpeername(2) and accept(2) of a slice's socket: programs
//! see their loopback as they named it.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use policy::abi::TAG_ELSEWHERE;

use crate::atomic;
use crate::ctx::SockAddr;
use crate::{loopback, owner};

/// `BPF_CGROUP_INET4_GETSOCKNAME`.
#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(ctx: SockAddrContext) -> i32 {
    show(ctx, true)
}

/// `BPF_CGROUP_INET6_GETSOCKNAME`.
#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(ctx: SockAddrContext) -> i32 {
    show(ctx, false)
}

/// `BPF_CGROUP_INET4_GETPEERNAME`.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    show(ctx, true)
}

/// `BPF_CGROUP_INET6_GETPEERNAME`.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    show(ctx, false)
}

/// Shows the address of a call as the slice knows it; the kernel takes no other
/// answer than 1.
#[inline(always)]
pub fn show(ctx: SockAddrContext, ipv4: bool) -> i32 {
    let call = SockAddr(ctx.sock_addr);
    let (Some(settings), Some(tag)) = (owner::settings(), owner::tag(call.sk().cast())) else {
        return 1;
    };
    // SAFETY: the storage lives as long as the socket that runs the hook.
    let (who, flags) = unsafe { ((*tag).id, atomic::load(&raw const (*tag).flags)) };
    if who.is_slice() && flags & TAG_ELSEWHERE == 0 {
        loopback::show(&call, who, call.protocol(), ipv4, settings);
    }
    1
}
