//! The meaning of everything in Slice: the words, the layout of every kernel
//! map, the decisions, and (with the feature `std`) the policy language and
//! admission.
//!
//! This crate knows nobody. The eBPF programs and the loader both call it, so
//! a rule is written once and tested on the host.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod abi;
#[cfg(feature = "std")]
pub mod admission;
#[cfg(feature = "std")]
pub mod compile;
#[cfg(feature = "std")]
pub mod config;
pub mod decide;
pub mod fields;
pub mod ids;
#[cfg(feature = "std")]
pub mod ledger;
#[cfg(feature = "std")]
pub mod lending;
pub mod verdict;

pub use ids::SliceId;
pub use verdict::{Reason, Verdict};
