//! /proc/net/unix.

use core::ffi::c_void;
use policy::fields::Field;

use super::line::{View, inode};
use crate::hooks::unix::FAMILY;
use crate::kernel;

const TITLE: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n";

/// Bytes of a `sockaddr_un` without its family.
const LONGEST: usize = 108;

const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
/// `SS_UNCONNECTED`, `SS_CONNECTING`, `SS_CONNECTED`, `SS_DISCONNECTING`.
const UNCONNECTED: u64 = 1;
const CONNECTING: u64 = 2;
const CONNECTED: u64 = 3;
const DISCONNECTING: u64 = 4;
/// `__SO_ACCEPTCON`.
const ACCEPTS: u64 = 1 << 16;

/// The iterator over unix sockets. A connection that was accepted counts as
/// made by the one who connected.
#[unsafe(link_section = "iter/unix")]
#[unsafe(no_mangle)]
pub extern "C" fn view_unix(context: *const c_void) -> i32 {
    show(context);
    0
}

#[inline(always)]
fn show(context: *const c_void) -> Option<()> {
    let view = View::begin(context, TITLE)?;
    if !view.shows(view.sock) {
        return None;
    }
    let state: u8 = kernel::field(view.sock, Field::SockState);
    let kind: u16 = kernel::field(view.sock, Field::SockType);
    let listens = if state == LISTEN { ACCEPTS } else { 0 };
    // The kernel's words for sockets that nobody has accepted or all have
    // closed.
    let held = kernel::pointer(view.sock, Field::SockSocket) != 0;
    let connected = match (state, held) {
        (ESTABLISHED, true) => CONNECTED,
        (ESTABLISHED, false) => CONNECTING,
        (_, true) => UNCONNECTED,
        (_, false) => DISCONNECTING,
    };
    view.print(
        b"0000000000000000: 00000002 00000000 %08X %04X %02X %5lu\0",
        &[listens, kind as u64, connected, inode(view.sock)],
    );
    write_name(&view);
    view.write(b"\n");
    Some(())
}

/// A space and the name, zero bytes of an abstract one as `@`; nothing where
/// there is none.
#[inline(always)]
fn write_name(view: &View) -> Option<()> {
    let address = kernel::pointer(view.sock, Field::UnixAddress);
    if address == 0 {
        return None;
    }
    let whole: u32 = kernel::field(address, Field::UnixNameLength);
    let length = (whole as usize).checked_sub(FAMILY as usize)?;
    let start = address.wrapping_add(kernel::offset(Field::UnixName) + FAMILY);
    let is_abstract = kernel::at::<u8>(start) == 0;
    // Of a name in the file system the zero byte at its end counts.
    let length = if is_abstract {
        length
    } else {
        length.checked_sub(1)?
    };
    view.write(b" ");
    let mut at = 0;
    while at < LONGEST && at < length {
        let byte: u8 = kernel::at(start.wrapping_add(at as u64));
        view.write(&[if byte == 0 { b'@' } else { byte }]);
        at += 1;
    }
    Some(())
}
