//! What runs as root inside the VM: the tests, the demo and the benches.
//!
//! `slice-tests run [FILTER...]` runs the tests whose names contain one of the
//! filters. A module of tests is one line here and a `TESTS` table in its file.

mod bench; // the line of a measure, and the list of benches
mod broken; // tests that must fail, and be seen to
mod counters; // every counter of every owner, and how they moved
mod demo; // the demonstration that `cargo xtask demo` shows
mod feature; // what a kernel may lack, and which kernel must not
mod node; // the machine under test: commands, files, what to undo
mod puppet; // processes in slices that make the calls a test tells them
mod runner; // runs tests and prints verdict lines
mod stage; // a node with a few slices, and a world outside

#[cfg(test)]
mod manual; // the tables of promises and attacks name real tests

mod machine; // the VM itself is what the other tests take it for
mod ports; // whose a port is: the table of bind, row by row

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use runner::Test;

/// Every module's tests, in the order in which they run.
const MODULES: &[&[Test]] = &[machine::TESTS, broken::TESTS, ports::TESTS];

/// Tests, demo and benches of a slice node; runs as root inside the VM.
#[derive(Parser)]
#[command(name = "slice-tests")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the tests whose names contain one of the filters; all without
    Run {
        filters: Vec<String>,
        /// Only print the names
        #[arg(long)]
        list: bool,
    },
    /// Run one test in this process, for the runner and for debuggers
    One { name: String },
    /// Make the system calls that a test says, in the slice it was put in
    #[command(hide = true)]
    Puppet,
    /// Show what a slice node does
    Demo,
    /// Measure, and print one JSON line for each measure
    Bench {
        /// Which bench; all without
        name: Option<String>,
        /// What can be measured on any machine, without a VM
        #[arg(long)]
        native: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Run { filters, list } => runner::run(MODULES, &filters, list),
        Task::One { name } => runner::one(MODULES, &name),
        Task::Puppet => puppet::run(),
        Task::Demo => demo::run(),
        Task::Bench { name, native } => bench::run(name.as_deref(), native),
    };
    result.unwrap_or_else(|error| {
        eprintln!("slice-tests: {error:#}");
        ExitCode::FAILURE
    })
}
