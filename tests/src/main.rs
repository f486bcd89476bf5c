//! What runs as root inside the VM: the tests, the demo and the benches.
//!
//! `slice-tests run [FILTER...]` runs the tests whose names contain one of the
//! filters. A module of tests is one line here and a `TESTS` table in its file.

mod bench; // the line of a measure, and the list of benches
mod beyond; // another machine, which counts what must never arrive
mod broken; // tests that must fail, and be seen to
mod counters; // every counter of every owner, and how they moved
mod crowd; // many slices that send at once
mod debian; // a machine whose owner installs the package
mod demo; // the demonstration that `cargo xtask demo` shows
mod feature; // what a kernel may lack, and which kernel must not
mod hammer; // a program in a slice that tries what is forbidden, without a pause
mod image; // the distribution as an image that slices' roots begin with
mod inventory; // everything of the machine that a node may touch
mod node; // the machine under test: commands, files, what to undo
mod openmetrics; // a strict reader of that text
mod puppet; // processes in slices that make the calls a test tells them
mod runner; // runs tests and prints verdict lines
mod siege; // a node under load, of which nothing may give way
mod site; // a node with a policy of the test's own
mod ssh; // the distribution's ssh server, and logins from the other machine
mod sshd; // the same with what the package adds: logins to slices
mod stage; // a node with a few slices, and a world outside
mod terminal; // somebody who types at a terminal
mod transcript; // commands that are told, run and shown

#[cfg(test)]
mod manual; // the tables of promises and attacks name real tests

mod accounting; // whose bytes and packets are
mod addresses; // which addresses a slice may use, and who hears them
mod audit; // packets of all slices with their owners
mod beside; // others at work in the same kernel: a firewall, NAT, containers
mod brokers; // who makes a slice's raw sockets is killed, stopped, starved
mod captures; // a capture in a slice under load
mod claims; // how long a port stays its owner's
mod commands; // the command line as scripts use it
mod connections; // how many connections a slice starts
mod contexts; // a slice with a context is a machine of its own
mod denials; // every reason, what is counted and what is told
mod destinations; // what the node's owner refuses
mod disk; // what a slice may have on the disk
mod enter; // what becomes of a command that runs in a slice
mod families; // which sockets a slice may make
mod flows; // who sent what to whom
mod images; // what comes into the store of images
mod interrupted; // up and down that are killed or fail half-way
mod io; // what a slice reads and writes of the disk
mod isolation; // what root of a slice tries in vain
mod lifecycle; // up and down: twice is once, half-way is not at all
mod links; // the rate of a link, divided
mod localhost; // what programs find at 127.0.0.1 and ::1
mod logins; // logging in to slices by ssh
mod loopback; // whose a loopback is
mod loopback_ports; // the ports of a slice's localhost
mod machine; // the VM itself is what the other tests take it for
mod malformed; // what the owner reads about a malformed policy
mod names; // which unix sockets a slice reaches by name
mod owners; // whose a socket is, wherever it goes
mod package; // the Debian package, from its installation until nothing is left of it
mod ports; // whose a port is: the table of bind, row by row
mod race; // two slices, two CPUs, one port
mod raw; // raw and packet sockets that neither spoof nor eavesdrop
mod raw_beside; // raw sockets beside the other sockets of the node
mod raw_calls; // how programs come to raw sockets
mod raw_examples; // the examples of the library for slices
mod raw_ports; // ports on which slices speak TCP and UDP themselves, by policy
mod reload; // a change of policy is applied as a whole or not at all
mod scale; // many slices
mod servers; // real servers and clients in slices
mod sight; // what a slice sees of the sockets of others
mod status_hooks; // what slices are told of the node
mod survival; // the daemon killed, the programs replaced, the policy changed: under load
mod verifier; // how much work the programs make the kernel's verifier
mod views; // files that show a slice its own sockets

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use runner::Test;

/// Every module's tests, in the order in which they run.
const MODULES: &[&[Test]] = &[
    machine::TESTS,
    broken::TESTS,
    // On the stage, with those below.
    enter::TESTS,
    servers::TESTS,
    race::TESTS,
    families::TESTS,
    ports::TESTS,
    claims::TESTS,
    owners::TESTS,
    addresses::TESTS,
    localhost::TESTS,
    loopback::TESTS,
    loopback_ports::TESTS,
    destinations::TESTS,
    connections::TESTS,
    io::TESTS,
    accounting::TESTS,
    flows::TESTS,
    denials::TESTS,
    sight::TESTS,
    names::TESTS,
    views::TESTS,
    contexts::TESTS,
    isolation::TESTS,
    raw::TESTS,
    audit::TESTS,
    raw_beside::TESTS,
    raw_calls::TESTS,
    raw_examples::TESTS,
    captures::TESTS,
    brokers::TESTS,
    raw_ports::TESTS,
    status_hooks::TESTS,
    verifier::TESTS,
    // With nodes of their own.
    images::TESTS,
    disk::TESTS,
    commands::TESTS,
    lifecycle::TESTS,
    interrupted::TESTS,
    beside::TESTS,
    servers::APART,
    loopback::APART,
    logins::TESTS,
    reload::TESTS,
    malformed::TESTS,
    survival::TESTS,
    package::TESTS,
    links::TESTS,
    scale::TESTS,
];

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
        /// Of these only a part, as 2/3: several VMs share the tests
        #[arg(long, default_value = "1/1", value_name = "K/N")]
        part: runner::Part,
        /// Only print the names
        #[arg(long)]
        list: bool,
        /// Leave out this test, which an earlier boot has judged; repeatable
        #[arg(long, value_name = "NAME")]
        done: Vec<String>,
    },
    /// Run one test in this process, for the runner and for debuggers
    One { name: String },
    /// Make the system calls that a test says, in the slice it was put in
    #[command(hide = true)]
    Puppet,
    /// Try what is forbidden, in the slice it was put in
    #[command(hide = true)]
    Hammer,
    /// Race for a port against another slice
    #[command(hide = true)]
    Race { side: u64, rounds: u64 },
    /// Show what a slice node does
    Demo,
    /// Send traffic, and print how fast it was
    #[command(hide = true)]
    Traffic(bench::traffic::Options),
    /// Do what measuring programs do, and print how fast it was
    #[command(hide = true)]
    Probe(bench::probe::Options),
    /// Send more than a link carries, or measure what arrives
    #[command(hide = true, subcommand)]
    Flood(bench::flood::Options),
    /// Send from many slices
    #[command(hide = true)]
    Crowd(crowd::Options),
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
        Task::Run {
            filters,
            part,
            list,
            done,
        } => runner::run(MODULES, &filters, part, list, &done),
        Task::One { name } => runner::one(MODULES, &name),
        Task::Puppet => puppet::run(),
        Task::Hammer => hammer::run(),
        Task::Race { side, rounds } => race::run(side, rounds),
        Task::Demo => demo::run(),
        Task::Traffic(options) => bench::traffic::run(&options),
        Task::Probe(options) => bench::probe::run(&options),
        Task::Flood(options) => bench::flood::run(&options),
        Task::Crowd(options) => crowd::run(&options),
        Task::Bench { name, native } => bench::run(name.as_deref(), native),
    };
    result.unwrap_or_else(|error| {
        eprintln!("slice-tests: {error:#}");
        ExitCode::FAILURE
    })
}
