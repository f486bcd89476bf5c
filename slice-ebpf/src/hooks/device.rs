//! The device that a packet socket names: one whose frames are looked at.
//!
//! A device that has just come is not among them, so that it is closed to
//! packet sockets until the loader has put the program `frame` on its way out.

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;
use policy::Reason;
use policy::abi::{Moment, RAW, Settings};
use policy::decide::create::AF_PACKET;
use policy::fields::Field;

use crate::ctx::allow;
use crate::event::Denial;
use crate::kernel;
use crate::maps::DEVICES;
use crate::owner;

/// Where a `sockaddr_ll` has the number of the device, and up to where it must
/// reach for the kernel to look.
const NUMBER: u64 = 4;
const ADDRESS: i32 = 8;

/// `security_socket_sendmsg`, for sockets made in the slices' cgroups.
#[lsm_cgroup(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    let (socket, message): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let sock = kernel::pointer(socket as u64, Field::SocketSock);
    if kernel::field::<u16>(sock, Field::SockFamily) != AF_PACKET as u16 {
        return allow();
    }
    let Some(settings) = owner::settings() else {
        return 0;
    };
    let address = kernel::pointer(message as u64, Field::MessageName);
    let device = if address == 0 {
        kernel::field(sock, Field::PacketDevice)
    } else {
        kernel::at(address.wrapping_add(NUMBER))
    };
    judged(sock, device, Moment::Send, settings)
}

/// bind(2) of a packet socket: to all devices, or to one that may be sent on.
#[inline(always)]
pub fn bind(sock: u64, address: u64, length: i32, settings: &Settings) -> i32 {
    let device: u32 = kernel::at(address.wrapping_add(NUMBER));
    if length < ADDRESS || device == 0 {
        return allow();
    }
    judged(sock, device, Moment::Bind, settings)
}

#[inline(always)]
fn judged(sock: u64, device: u32, moment: Moment, settings: &Settings) -> i32 {
    if !kernel::in_node(sock, settings) {
        return allow();
    }
    let who = kernel::owner_of_sock(sock, settings);
    // Policy may have taken them away meanwhile, and with them the program that
    // looks at frames.
    let raw = owner::entry(who).is_some_and(|entry| entry.flags & RAW != 0);
    // SAFETY: only whether it is there matters.
    let armed = unsafe { DEVICES.get(device) }.is_some();
    if raw && armed {
        return allow();
    }
    let reason = if raw {
        Reason::Device
    } else {
        Reason::RawSocket
    };
    Denial::new(who, reason, moment, AF_PACKET as u8, 0).refuse();
    0
}
