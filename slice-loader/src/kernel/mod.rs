//! What the loader does with the kernel: probe it, load the programs, attach
//! them, and keep everything below one directory of bpffs.

pub mod attach;
pub mod audit;
pub mod capture;
pub mod devices;
pub mod events;
pub mod hook;
pub mod layout;
pub mod links;
pub mod loopback;
pub mod maps;
mod netlink;
pub mod object;
pub mod probe;
mod queue;
mod segments;
pub mod store;
pub mod tallies;
pub mod views;
