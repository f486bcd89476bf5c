//! The pure decisions. Each takes what the hook read and returns a
//! [`crate::Verdict`]; none has effects. The programs call them in the kernel,
//! the tests here on the host.

pub mod address;
pub mod bind;
pub mod claim;
pub mod connection;
pub mod create;
pub mod destination;
pub mod exempt;
pub mod kernel;
pub mod loopback;
pub mod mark;
pub mod option;
pub mod pace;
pub mod police;
pub mod quota;
pub mod raw;
pub mod sight;
