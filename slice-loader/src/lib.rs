//! The loader of a slice node: from policy files to programs in force.
//!
//! `node` is the node's life cycle and the view on what runs; `kernel` puts
//! programs and maps in place; `context` makes and enters what a slice's
//! processes live in; `flows` keeps who sent what to whom; `daemon` keeps a running node true to its devices and
//! answers questions; `status` tells slices what they may know; `cli` is the command line. `sys` has the only unsafe
//! code.

pub mod audit;
pub mod cli;
pub mod context;
pub mod daemon;
pub mod flows;
pub mod kernel;
pub mod node;
pub mod report;
pub mod status;
mod sys;
