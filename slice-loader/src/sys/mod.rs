//! The only unsafe code of the loader: each function here is a safe partner of
//! one system call or library function, and checks what that one trusts.

pub mod bpf;
pub mod btf;
pub mod clock;
pub mod clone;
pub mod heap;
pub mod mount;
pub mod process;
pub mod quota;
pub mod readable;
pub mod readonly;
pub mod seccomp;
pub mod short_file;
pub mod socket;
pub mod tc;
