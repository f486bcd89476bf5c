//! The benches: each measures, and prints one [`Measure`] per line.

mod bare; // clone3 and an overlay, and nothing else
mod bpf; // calls of bpf(2) that aya lacks
pub mod cgroups; // a cgroup for each slice
mod classes; // what a packet costs where many slices send on a link
mod context; // the bench of contexts and logins
pub mod flood; // senders that want more than there is, and who measures
mod frame; // packets as a test run takes them
mod htb; // the peer that divides rates
mod idle; // what a slice costs that does nothing
mod judges; // the same traffic under nobody, ours, nftables
mod link; // the bench of links
mod lives; // made, started, stopped, removed
mod loaded; // the programs, with maps as a node would have them
mod many; // a thousand slices, and a socket of each
mod measure; // the line that every bench prints
mod mixed; // policies by chance, and what each slice should have
mod nftables; // the peer that knows cgroups too
mod paced; // what the program at a link costs
mod packets; // what the packet programs cost
mod policy; // the policy of a node that comes up for a bench
mod ports; // the bench of tagging, ports and accounting
pub mod probe; // what a program does that measures a network
mod probes; // the same in a slice and outside
mod product; // a node that is up against one that is not
mod raw; // the bench of raw and packet sockets
mod redivided; // until a link is divided anew
mod running; // commands that run meanwhile
mod sample; // repeats, medians, goals
mod shaped; // devices of a rate, ours and HTB's
mod socket; // a tagged socket for a test run
mod status; // the bench of status hooks
pub mod traffic; // what is sent, and how fast it was
mod visits; // one command in a slice, by its owner and by ssh
mod wire; // devices into another network namespace
mod work; // work that calls the kernel much, inside and outside
mod written; // what the packet programs cost where slices have raw sockets

use std::process::ExitCode;

use anyhow::{Result, bail};

pub use measure::Measure;

/// A bench: what can be measured without a VM, and what inside one.
struct Bench {
    name: &'static str,
    native: fn() -> Result<Vec<Measure>>,
    in_vm: fn() -> Result<Vec<Measure>>,
}

/// All benches.
const BENCHES: &[Bench] = &[
    Bench {
        name: ports::NAME,
        native: ports::native,
        in_vm: ports::in_vm,
    },
    Bench {
        name: context::NAME,
        native: context::native,
        in_vm: context::in_vm,
    },
    Bench {
        name: raw::NAME,
        native: raw::native,
        in_vm: raw::in_vm,
    },
    Bench {
        name: link::NAME,
        native: link::native,
        in_vm: link::in_vm,
    },
    Bench {
        name: status::NAME,
        native: status::native,
        in_vm: status::in_vm,
    },
];

/// Runs the bench `name`, or all, and prints a line for each measure.
///
/// # Errors
/// There is no such bench, or it cannot go on; what it merely cannot measure
/// it says in a line.
pub fn run(name: Option<&str>, native: bool) -> Result<ExitCode> {
    let chosen: Vec<&Bench> = BENCHES
        .iter()
        .filter(|bench| name.is_none_or(|name| name == bench.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!(
            "no bench is called {}; there are: {}",
            name.unwrap_or("anything"),
            names.join(", ")
        );
    }
    for bench in chosen {
        let measures = if native {
            (bench.native)()?
        } else {
            (bench.in_vm)()?
        };
        for measure in measures {
            println!("{}", serde_json::to_string(&measure)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
