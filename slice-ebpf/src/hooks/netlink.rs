//! Socket diagnostics: what a slice's netlink sockets may ask and hear.

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;
use policy::abi::{Moment, Settings};
use policy::decide::create::{AF_NETLINK, AF_PACKET};
use policy::decide::sight::{netlink_groups, netlink_request};
use policy::fields::Field;
use policy::{SliceId, Verdict};

use super::device;
use crate::ctx::allow;
use crate::event::Denial;
use crate::kernel;
use crate::owner;

/// Bytes of a `sockaddr_nl`, and where in it the groups are.
const ADDRESS: i32 = 12;
const GROUPS: u64 = 8;

/// `security_netlink_send`, for tasks in the slices' cgroups.
#[lsm_cgroup(hook = "netlink_send")]
pub fn netlink_send(ctx: LsmContext) -> i32 {
    let sock: *const c_void = ctx.arg(0);
    let sock = sock as u64;
    let Some(settings) = owner::settings() else {
        return 0;
    };
    let protocol = kernel::field(sock, Field::SockProtocol);
    judged(
        netlink_request(protocol),
        sock,
        protocol,
        Moment::Send,
        settings,
    )
}

/// `security_socket_bind`, for tasks in the slices' cgroups.
#[lsm_cgroup(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    let (socket, address, length): (*const c_void, *const c_void, i32) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let Some(settings) = owner::settings() else {
        return 0;
    };
    let sock = kernel::pointer(socket as u64, Field::SocketSock);
    let family: u16 = kernel::field(sock, Field::SockFamily);
    if family == AF_PACKET as u16 {
        return device::bind(sock, address as u64, length, settings);
    }
    if family != AF_NETLINK as u16 || length < ADDRESS {
        return allow();
    }
    let protocol = kernel::field(sock, Field::SockProtocol);
    let groups = kernel::at((address as u64).wrapping_add(GROUPS));
    judged(
        netlink_groups(protocol, groups),
        sock,
        protocol,
        Moment::Bind,
        settings,
    )
}

/// Refuses what is denied, in the node's network namespace.
#[inline(always)]
fn judged(verdict: Verdict, sock: u64, protocol: u16, moment: Moment, settings: &Settings) -> i32 {
    let Verdict::Deny(reason) = verdict else {
        return allow();
    };
    if !kernel::in_node(sock, settings) {
        return allow();
    }
    refuse(owner::of_task(settings), reason, moment, protocol)
}

/// The denial of a call on a netlink socket.
#[inline(always)]
pub fn refuse(who: SliceId, reason: policy::Reason, moment: Moment, protocol: u16) -> i32 {
    Denial::new(who, reason, moment, AF_NETLINK as u8, protocol as u8).refuse();
    0
}
