//! The loader's tests on the host, one binary.
#![allow(clippy::unwrap_used, reason = "tests")]

/// The command itself, as far as it goes without a node: usage, exit codes, pages.
mod command;
/// What commands print, letter by letter.
mod golden;
