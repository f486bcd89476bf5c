//! The programs that the kernel runs for a slice node: a table of contents.
//!
//! No rule is decided here. A hook reads its context, finds the owner, asks
//! `policy::decide`, counts, and returns.
#![no_std]
#![no_main]
#![allow(
    internal_features,
    reason = "the packaged core has no 64-bit atomics for this target"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "contexts widen protocols, families and ports to 32 bits, helpers join two of those in 64"
)]
#![feature(asm_experimental_arch, core_intrinsics)]

mod arrival; // what a slice may receive by a link
mod atomic; // fetch-and-add and compare-and-swap as the BPF instruction set has them
mod audit; // packets of all slices for those who may see them
mod claim; // ports held by sockets, and flows
mod connection; // connections that a slice starts
mod ctx; // reading the contexts that the kernel hands over
mod destination; // what the node's owner refuses
mod event; // counting a denial and telling of it
mod exempt; // networks that do not count against what a slice has on a link
mod flow; // flows that no socket of the kernel's holds
mod kernel; // reading the kernel's own structures
mod link; // what a slice may send on a link, and when
mod loopback; // the ports of a slice's private loopback
mod maps; // every map
mod octets; // a packet's octets, wherever they are
mod owner; // whose a task, socket or packet is
mod packet; // the headers of a packet
mod passed; // what a socket remembers of the checks its packets passed
mod place; // what an address is on this node
mod port; // may the owner bind a port?
mod quota; // what a slice has sent of its quota
mod tally; // who sent what to whom

mod hooks {
    //! One file per moment of a socket's or packet's life.
    mod audited; // a packet that was let through, for those who audit
    mod bind; // bind(2), before the kernel looks at the port
    mod bound; // bind(2), after the kernel gave the port
    mod connect; // connect(2)
    mod create; // socket(2)
    mod device; // bind(2) and sendmsg(2) of packet sockets
    mod divide; // mkdir(2) of cgroups
    mod egress; // a packet leaves a socket
    mod frame; // a packet socket sends a frame, and is shown frames
    mod ingress; // a packet reaches a socket
    mod lookup; // the kernel looks for a packet's socket
    mod module; // the kernel is about to load a module
    mod name; // getsockname(2), getpeername(2), accept(2)
    mod netlink; // socket diagnostics
    mod node; // a packet leaves a socket of the node, or of the kernel itself
    mod open; // open(2) of /proc/net's files
    mod option; // setsockopt(2), getsockopt(2)
    mod pace; // a packet reaches a link
    mod raw; // what raw sockets send and receive
    mod raw_port; // a raw socket claims a port
    mod receive; // recvfrom(2), recvmsg(2)
    mod release; // the last close(2)
    mod send; // sendto(2), sendmsg(2) with an address
    mod tcp; // TCP's states
    pub mod unix; // connect(2) and sendto(2) of unix sockets
}

mod views {
    //! What stands in for files of /proc/net: the reader's own sockets.
    mod line; // a line of such a file
    mod tcp; // /proc/net/tcp, tcp6
    mod udp; // /proc/net/udp, udp6
    mod unix; // /proc/net/unix
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Helpers that the kernel keeps for GPL-compatible programs are in use.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
