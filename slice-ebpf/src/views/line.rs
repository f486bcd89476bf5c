//! A line of a file of /proc/net: for whom, of whose socket, and how written.
//!
//! The kernel runs a program of a view once for each socket of the reader's
//! network namespace, and once more without one when all were shown.

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_seq_printf, bpf_seq_write};
use core::ffi::c_void;
use core::ptr::read_volatile;
use policy::SliceId;
use policy::abi::{Address, FlowKey, Settings, TCP};
use policy::decide::create::{AF_INET, AF_INET6};
use policy::decide::sight::sees;
use policy::fields::Field;

use crate::claim;
use crate::kernel;
use crate::{loopback, owner};

/// One run of a program of a view.
pub struct View {
    seq: *mut seq_file,
    /// The socket.
    pub sock: u64,
    reader: SliceId,
    settings: &'static Settings,
}

/// Words of the context: what is being written, the socket, its user id.
const META: usize = 0;
const SOCKET: usize = 1;
const USER: usize = 2;

/// Reads a word of the context as the pointer or number that it is.
#[inline(always)]
pub fn word<T: Copy>(context: *const c_void, at: usize) -> T {
    // SAFETY: the contexts of views are words of 8 bytes; the verifier checks.
    unsafe { read_volatile(context.cast::<[u8; 8]>().add(at).cast()) }
}

/// The id of the socket's user, as the reader's user namespace has it.
#[inline(always)]
pub fn user(context: *const c_void) -> u32 {
    word(context, USER)
}

impl View {
    /// Begins a run: writes the file's first line where nothing was written
    /// yet. `None` where there is no socket to show.
    #[inline(always)]
    pub fn begin(context: *const c_void, title: &[u8]) -> Option<View> {
        let meta: *const u64 = word(context, META);
        // SAFETY: the kernel's `bpf_iter_meta`: the file, the session, how
        // many sockets came before; the verifier knows the pointer.
        let (seq, before) = unsafe {
            (
                read_volatile(meta.cast::<*mut seq_file>()),
                read_volatile(meta.add(2)),
            )
        };
        if before == 0 {
            write(seq, title);
        }
        let sock: *const c_void = word(context, SOCKET);
        if sock.is_null() {
            return None;
        }
        let settings = owner::settings()?;
        Some(View {
            seq,
            sock: sock as u64,
            reader: owner::of_task(settings),
            settings,
        })
    }

    /// Whether the reader sees a socket, by the cgroup it was made in.
    #[inline(always)]
    pub fn shows(&self, sock: u64) -> bool {
        sees(self.reader, kernel::owner_of_sock(sock, self.settings))
    }

    /// Whether the reader sees a connection that no socket holds any more.
    #[inline(always)]
    pub fn shows_rest(&self, ends: &Ends) -> bool {
        let key = FlowKey {
            protocol: TCP,
            reserved: 0,
            local_port: ends.local_port,
            peer_port: ends.peer_port,
            reserved_2: 0,
            local: ends.local,
            peer: ends.peer,
        };
        sees(self.reader, claim::owner_of(&key))
    }

    /// Writes as printf(3) does; `format` ends with a zero byte.
    #[inline(always)]
    pub fn print<const N: usize>(&self, format: &[u8], values: &[u64; N]) {
        // SAFETY: both are readable for the lengths given.
        unsafe {
            bpf_seq_printf(
                self.seq,
                format.as_ptr().cast(),
                format.len() as u32,
                values.as_ptr().cast(),
                (N * 8) as u32,
            );
        }
    }

    /// Writes bytes.
    #[inline(always)]
    pub fn write(&self, bytes: &[u8]) {
        write(self.seq, bytes);
    }

    /// An address and a port as the reader's programs know them.
    #[inline(always)]
    fn known(&self, protocol: u8, address: &Address, port: u16) -> (Address, u64) {
        if !self.reader.is_slice() {
            return (*address, port as u64);
        }
        let (address, port) = loopback::told(self.reader, protocol, address, port, self.settings);
        (address, port as u64)
    }

    /// Writes the number of the line and the two ends of a socket.
    #[inline(always)]
    pub fn print_ends(&self, protocol: u8, ends: &Ends, ipv4: bool) {
        let (local, local_port) = self.known(protocol, &ends.local, ends.local_port);
        let (peer, peer_port) = self.known(protocol, &ends.peer, ends.peer_port);
        if ipv4 {
            self.print(
                b"   0: %08X:%04X %08X:%04X\0",
                &[part(&local, 3), local_port, part(&peer, 3), peer_port],
            );
        } else {
            self.print(
                b"   0: %08X%08X%08X%08X:%04X %08X%08X%08X%08X:%04X\0",
                &[
                    part(&local, 0),
                    part(&local, 1),
                    part(&local, 2),
                    part(&local, 3),
                    local_port,
                    part(&peer, 0),
                    part(&peer, 1),
                    part(&peer, 2),
                    part(&peer, 3),
                    peer_port,
                ],
            );
        }
    }
}

#[inline(always)]
fn write(seq: *mut seq_file, bytes: &[u8]) {
    // SAFETY: the bytes are readable for their length.
    unsafe { bpf_seq_write(seq, bytes.as_ptr().cast(), bytes.len() as u32) };
}

/// A word of an address, which /proc/net shows as the processor reads it.
#[inline(always)]
fn part(address: &Address, at: usize) -> u64 {
    u32::from_ne_bytes([
        address[at * 4],
        address[at * 4 + 1],
        address[at * 4 + 2],
        address[at * 4 + 3],
    ]) as u64
}

/// The two ends of a socket.
pub struct Ends {
    pub local: Address,
    pub peer: Address,
    pub local_port: u16,
    pub peer_port: u16,
}

impl Ends {
    /// Those of a socket of this family; `None` where it is of another.
    #[inline(always)]
    pub fn of(sock: u64, ipv4: bool) -> Option<Ends> {
        let family = if ipv4 { AF_INET } else { AF_INET6 };
        if kernel::field::<u16>(sock, Field::SockFamily) != family as u16 {
            return None;
        }
        let (local, peer) = if ipv4 {
            (
                policy::abi::mapped(kernel::field(sock, Field::SockLocal4)),
                policy::abi::mapped(kernel::field(sock, Field::SockPeer4)),
            )
        } else {
            (
                kernel::field(sock, Field::SockLocal6),
                kernel::field(sock, Field::SockPeer6),
            )
        };
        Some(Ends {
            local,
            peer,
            local_port: kernel::field(sock, Field::SockPort),
            peer_port: u16::from_be(kernel::field(sock, Field::SockPeerPort)),
        })
    }
}

/// The number of the file behind a descriptor of a socket; 0 where there is
/// none any more.
#[inline(always)]
pub fn inode(sock: u64) -> u64 {
    let socket = kernel::pointer(sock, Field::SockSocket);
    if socket == 0 {
        return 0;
    }
    let both = socket.wrapping_sub(kernel::offset(Field::SocketAlloc));
    let inode = both.wrapping_add(kernel::offset(Field::SocketInode));
    kernel::field(inode, Field::InodeNumber)
}
