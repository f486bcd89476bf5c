//! connect(2) and sendto(2) of unix sockets: abstract names.
//!
//! Programs on LSM hooks run for the cgroup of the task that makes the call,
//! whoever made the socket; the rights are those of the socket's maker.

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;
use policy::Verdict;
use policy::abi::{Moment, Settings};
use policy::decide::create::AF_UNIX;
use policy::decide::sight::unix_peer;
use policy::fields::Field;

use crate::ctx::allow;
use crate::event::Denial;
use crate::kernel;
use crate::owner;

/// Bytes of the family before the name in a `sockaddr_un`.
pub const FAMILY: u64 = 2;

/// `security_unix_stream_connect`, for tasks in the slices' cgroups: stream and
/// sequenced-packet sockets.
#[lsm_cgroup(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    let (sock, listener): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let Some(settings) = owner::settings() else {
        return 0;
    };
    judged(sock as u64, listener as u64, Moment::Connect, settings)
}

/// `security_unix_may_send`, for tasks in the slices' cgroups: datagram sockets,
/// at connect and with each datagram.
#[lsm_cgroup(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    let (socket, peer): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let Some(settings) = owner::settings() else {
        return 0;
    };
    let sock = kernel::pointer(socket as u64, Field::SocketSock);
    let peer = kernel::pointer(peer as u64, Field::SocketSock);
    judged(sock, peer, Moment::Send, settings)
}

#[inline(always)]
fn judged(sock: u64, peer: u64, moment: Moment, settings: &Settings) -> i32 {
    if !has_abstract_name(peer) {
        return allow();
    }
    let from = kernel::owner_of_sock(sock, settings);
    let Verdict::Deny(reason) = unix_peer(from, kernel::owner_of_sock(peer, settings), true) else {
        return allow();
    };
    let who = owner::of_task(settings);
    Denial::new(who, reason, moment, AF_UNIX as u8, 0).refuse();
    0
}

/// Whether a unix socket has a name that begins with a zero byte.
#[inline(always)]
fn has_abstract_name(sock: u64) -> bool {
    let address = kernel::pointer(sock, Field::UnixAddress);
    if address == 0 {
        return false;
    }
    let length: u32 = kernel::field(address, Field::UnixNameLength);
    let name = address.wrapping_add(kernel::offset(Field::UnixName));
    length as u64 > FAMILY && kernel::at::<u8>(name.wrapping_add(FAMILY)) == 0
}
