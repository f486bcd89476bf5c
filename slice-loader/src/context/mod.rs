//! What a slice's processes live in: cgroups, namespaces, a root and
//! credentials of the slice's own; the ways in; and what the slice has on disk.

pub mod account; // the accounts that slices have on the node
mod adopt; // the connection that a login came by
pub mod broker; // who makes raw sockets for a slice
pub mod calls; // system calls that a slice does not make
pub mod cgroup; // a slice's cgroups
pub mod disk; // the file system of images and layers
pub mod enter; // a command with the node's files
pub mod holder; // the cgroup of all slices
pub mod image; // reference images
pub mod init; // a slice's first process
pub mod io; // the block device below them
pub mod layer; // what a slice has changed of its image
pub mod login; // sshd's side of a login
pub mod proc_net; // a slice's /proc/net
mod relay; // a terminal of the slice's, shown on the caller's
pub mod request; // what is asked of the first process
pub mod root; // a slice's mounts
pub mod running; // contexts that run
pub mod session; // a command in a context, from inside
pub mod shown; // a slice's /run/slice
pub mod start; // from nothing to a first process
mod streams; // what of the caller's streams enters
mod trash; // removing what tenants made
mod unpack; // archives
pub mod userns; // a slice's user namespace
pub mod users; // the users that a slice knows
pub mod visit; // a command in a context, from outside
