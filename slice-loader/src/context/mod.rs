//! Where a slice's processes live. In this version: its cgroups and its
//! credentials; root, namespaces and login come with their own issues.

pub mod accounts;
pub mod cgroup;
pub mod disk;
pub mod enter;
pub mod holder;
pub mod image;
pub mod layer;
mod trash;
mod unpack;
pub mod init;
pub mod request;
pub mod root;
pub mod running;
pub mod session;
pub mod start;
pub mod userns;
pub mod visit;
