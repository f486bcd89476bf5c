//! Floors are promises: all of them must fit what the owner gives.

use super::{Facts, Given};
use crate::config::units::{Bytes, MilliCores};
use crate::config::{At, Complaint, Config, MemoryGive, Place};

/// Percentage of the node's memory that slices get if the owner says nothing: the rest keeps the
/// node itself alive.
const MEMORY_PERCENT: u64 = 80;
/// Thousandths of a percent in the whole.
const WHOLE: u128 = 100_000;

pub(super) fn given(config: &Config, facts: &Facts, complaints: &mut Vec<Complaint>) -> Given {
    let give = config.node.give;
    let all_cpu = MilliCores(u64::from(facts.cpus) * 1000);
    let cpu = give.cpu.map_or(all_cpu, |cpu| cpu.value);
    if cpu > all_cpu {
        complaints.push(too_much(
            "CPU",
            give.cpu.and_then(|cpu| cpu.at),
            all_cpu,
            MilliCores(cpu.0 - all_cpu.0),
        ));
    }
    let part = |thousandths: u128| part(facts.memory, thousandths);
    let memory = match give.memory.map(|memory| memory.value) {
        None => part(u128::from(MEMORY_PERCENT) * WHOLE / 100),
        Some(MemoryGive::OfNode(percent)) => part(u128::from(percent.0)),
        Some(MemoryGive::Bytes(bytes)) => bytes,
    };
    if memory > facts.memory {
        let at = give.memory.and_then(|memory| memory.at);
        complaints.push(too_much(
            "memory",
            at,
            facts.memory,
            Bytes(memory.0 - facts.memory.0),
        ));
    }
    let processes = give
        .processes
        .map_or(facts.pid_max / 2, |processes| processes.value);
    if processes > facts.pid_max {
        let at = give.processes.and_then(|processes| processes.at);
        complaints.push(too_much(
            "processes",
            at,
            facts.pid_max,
            processes - facts.pid_max,
        ));
    }
    Given {
        cpu,
        memory,
        processes,
        disk: super::disk::given(config, &facts.disk, complaints),
    }
}

/// So many thousandths of a percent of something.
pub(super) fn part(whole: Bytes, thousandths: u128) -> Bytes {
    let bytes = u128::from(whole.0) * thousandths / WHOLE;
    Bytes(u64::try_from(bytes).unwrap_or(whole.0))
}

pub(super) fn too_much(
    resource: &str,
    at: Option<Place>,
    has: impl std::fmt::Display,
    by: impl std::fmt::Display,
) -> Complaint {
    Complaint::maybe_at(
        at,
        format!("[node.give] gives {by} more {resource} than the node has ({has})"),
        format!("give at most {has}"),
    )
}

/// Floors are promises: all must hold at once.
pub(super) fn floors(config: &Config, given: Given, complaints: &mut Vec<Complaint>) {
    let give = config.node.give;
    let cpu: Vec<_> = config
        .slices
        .iter()
        .map(|slice| slice.promise().cpu())
        .collect();
    let memory: Vec<_> = config
        .slices
        .iter()
        .map(|slice| slice.promise().memory())
        .collect();
    let cpu_at = give.cpu.and_then(|cpu| cpu.at);
    let memory_at = give.memory.and_then(|memory| memory.at);
    complaints.extend(floor(
        "CPU",
        "cpu",
        &cpu,
        (given.cpu.0, cpu_at),
        (cores, cores),
    ));
    complaints.extend(floor(
        "memory",
        "memory",
        &memory,
        (given.memory.0, memory_at),
        (down, up),
    ));
}

fn cores(steps: u64) -> String {
    MilliCores(steps).to_string()
}

/// Bytes as people compare them, not less than they are.
pub(super) fn up(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << 20);
    short(bytes, tenths)
}

/// Bytes as people compare them, not more than they are.
pub(super) fn down(bytes: u64) -> String {
    short(bytes, (u128::from(bytes) * 10) >> 20)
}

fn short(bytes: u64, tenths: u128) -> String {
    let exact = Bytes(bytes).to_string();
    if exact.len() <= 10 {
        return exact;
    }
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// How a resource is printed: what there is, and what is needed.
type Print = fn(u64) -> String;

fn floor(
    resource: &str,
    key: &str,
    floors: &[At<u64>],
    (given, given_at): (u64, Option<Place>),
    (less, more): (Print, Print),
) -> Option<Complaint> {
    let sum = floors
        .iter()
        .fold(0u64, |sum, floor| sum.saturating_add(floor.value));
    let over = sum.checked_sub(given).filter(|over| *over > 0)?;
    let largest = floors.iter().max_by_key(|floor| floor.value)?;
    let who = match floors.iter().filter(|floor| floor.value > 0).count() {
        1 => String::from("one slice needs"),
        n => format!("{n} slices together need"),
    };
    let message = format!(
        "the {resource} floors do not fit: {who} {}, the node gives {}, {} too much",
        more(sum),
        less(given),
        more(over),
    );
    let help = format!(
        "lower floors by {} in all, or raise `{key}` in [node.give]",
        more(over)
    );
    Some(Complaint::maybe_at(largest.at, message, help).with_other(given_at, "given here"))
}
