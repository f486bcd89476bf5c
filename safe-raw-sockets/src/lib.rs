//! Raw and packet sockets for programs that have no right to make them.
//!
//! An unmodified program calls `socket()`. A seccomp filter ([`filter`]) hands
//! the calls for raw and packet sockets, by their scalar arguments alone, to a
//! [`broker`] of the slice's own: a process in the slice's cgroup, outside its
//! namespaces, with the one right that is needed. It makes the socket, dresses
//! a packet socket with a filter that is locked, and puts the descriptor into
//! the caller. What the socket may send and is shown the programs in the kernel
//! decide, packet by packet.
//!
//! A broker serves one slice. What it uses is the slice's, so that one that is
//! starved or stopped hurts nobody else; it does not need the daemon.

pub mod audit;
pub mod broker;
mod caller;
pub mod filter;
mod packets;
pub mod pcapng;
pub mod port;
pub mod sys;
