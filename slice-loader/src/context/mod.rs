//! Where a slice's processes live. In this version: its cgroups and its
//! credentials; root, namespaces and login come with their own issues.

pub mod cgroup;
pub mod disk;
pub mod enter;
pub mod holder;
pub mod image;
pub mod layer;
mod trash;
mod unpack;
