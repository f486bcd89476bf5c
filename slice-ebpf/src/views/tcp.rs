//! /proc/net/tcp and tcp6. What the kernel shows of timers is left out, as it
//! does itself for sockets that have none.

use core::ffi::c_void;
use policy::abi::TCP;
use policy::fields::Field;

use super::line::{Ends, View, inode, user};
use crate::kernel;

const TITLE4: &[u8] = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
const TITLE6: &[u8] = b"  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

const SYN_RECEIVED: u8 = 3;
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;
/// The kernel's state of connections that are not accepted yet.
const REQUEST: u8 = 12;

/// The iterator over TCP sockets, those of IPv4.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
pub extern "C" fn view_tcp(context: *const c_void) -> i32 {
    show(context, true, TITLE4);
    0
}

/// The iterator over TCP sockets, those of IPv6.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
pub extern "C" fn view_tcp6(context: *const c_void) -> i32 {
    show(context, false, TITLE6);
    0
}

#[inline(always)]
fn show(context: *const c_void, ipv4: bool, title: &[u8]) -> Option<()> {
    let view = View::begin(context, title)?;
    let ends = Ends::of(view.sock, ipv4)?;
    let (shows, state, tx, rx, number) = match kernel::field(view.sock, Field::SockState) {
        TIME_WAIT => {
            let state: u8 = kernel::field(view.sock, Field::TimeWaitState);
            (view.shows_rest(&ends), state, 0, 0, 0)
        }
        REQUEST => {
            let listener = kernel::pointer(view.sock, Field::RequestListener);
            (view.shows(listener), SYN_RECEIVED, 0, 0, 0)
        }
        state => {
            let (tx, rx) = queues(view.sock, state);
            (view.shows(view.sock), state, tx, rx, inode(view.sock))
        }
    };
    if shows {
        view.print_ends(TCP, &ends, ipv4);
        view.print(
            b" %02X %08X:%08X 00:00000000 00000000 %5u        0 %lu 1 0000000000000000\n\0",
            &[
                state as u64,
                tx as u64,
                rx as u64,
                user(context) as u64,
                number,
            ],
        );
    }
    Some(())
}

/// Bytes sent and not acknowledged, received and not read; of a listener,
/// connections that wait to be accepted.
#[inline(always)]
fn queues(sock: u64, state: u8) -> (u32, u32) {
    if state == LISTEN {
        return (0, kernel::field(sock, Field::SockBacklog));
    }
    let written: u32 = kernel::field(sock, Field::TcpWritten);
    let received: u32 = kernel::field(sock, Field::TcpReceived);
    let waits = received.wrapping_sub(kernel::field(sock, Field::TcpCopied)) as i32;
    (
        written.wrapping_sub(kernel::field(sock, Field::TcpAcknowledged)),
        if waits > 0 { waits as u32 } else { 0 },
    )
}
