//! /proc/net/udp and udp6.

use core::ffi::c_void;
use policy::abi::UDP;
use policy::fields::Field;

use super::line::{Ends, View, inode, user};
use crate::kernel;

const TITLE4: &[u8] = b"   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";
const TITLE6: &[u8] = b"  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";

/// The iterator over UDP sockets, those of IPv4.
#[unsafe(link_section = "iter/udp")]
#[unsafe(no_mangle)]
pub extern "C" fn view_udp(context: *const c_void) -> i32 {
    show(context, true, TITLE4);
    0
}

/// The iterator over UDP sockets, those of IPv6.
#[unsafe(link_section = "iter/udp")]
#[unsafe(no_mangle)]
pub extern "C" fn view_udp6(context: *const c_void) -> i32 {
    show(context, false, TITLE6);
    0
}

#[inline(always)]
fn show(context: *const c_void, ipv4: bool, title: &[u8]) -> Option<()> {
    let view = View::begin(context, title)?;
    let ends = Ends::of(view.sock, ipv4)?;
    if !view.shows(view.sock) {
        return None;
    }
    let state: u8 = kernel::field(view.sock, Field::SockState);
    // The kernel counts one for the socket itself.
    let sending: u32 = kernel::field(view.sock, Field::SockSendMemory);
    let waiting: u32 = kernel::field(view.sock, Field::SockReceiveMemory);
    view.print_ends(UDP, &ends, ipv4);
    view.print(
        b" %02X %08X:%08X 00:00000000 00000000 %5u        0 %lu 2 0000000000000000 0\n\0",
        &[
            state as u64,
            sending.saturating_sub(1) as u64,
            waiting as u64,
            user(context) as u64,
            inode(view.sock),
        ],
    );
    Some(())
}
