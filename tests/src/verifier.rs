//! What the kernel's verifier has to look at before it lets the programs in.
//! It gives up at a million instructions, and a change that looks small can
//! double its work: `verifier.toml` records the count of each program on each
//! kernel, and no count may go far from it unnoticed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::Program;
use aya::{Btf, EbpfLoader};

use crate::node::Node;
use crate::runner::{Test, test};

pub const TESTS: &[Test] = &[
    test(
        "the_verifiers_work_has_not_doubled",
        the_verifiers_work_has_not_doubled,
    ),
    test("a_doubled_count_is_noticed", a_doubled_count_is_noticed),
];

/// The object under test, in the VM.
pub const OBJECT: &str = "/opt/slice/slice-ebpf.o";

/// Counts of programs, by name.
pub type Counts = BTreeMap<String, u32>;

/// The counts that were looked at and found right, by kernel.
const RECORDED: &str = include_str!("../verifier.toml");

/// A count may be this many times the recorded one, or less by as much: where
/// it fell so far the record would let it double.
const FACTOR: u32 = 2;

/// The recorded counts for this kernel (`6.1`, `6.12`, `newest`).
///
/// # Errors
/// There are none.
pub fn recorded(kernel: &str) -> Result<Counts> {
    let mut all: BTreeMap<String, Counts> =
        toml::from_str(RECORDED).context("read tests/verifier.toml")?;
    all.remove(kernel)
        .with_context(|| format!("tests/verifier.toml has no [\"{kernel}\"]"))
}

/// Loads every program of the object and asks how many instructions the
/// verifier looked at.
///
/// # Errors
/// The kernel refuses a program.
pub fn counts(object: &Path) -> Result<Counts> {
    let mut ebpf = EbpfLoader::new()
        .load_file(object)
        .with_context(|| format!("load the maps of {}", object.display()))?;
    let types = Btf::from_sys_fs()?;
    let mut counts = Counts::new();
    for (name, program) in ebpf.programs_mut() {
        load(name, program, &types).with_context(|| format!("load {name}"))?;
        let count = program
            .info()?
            .verified_instruction_count()
            .context("this kernel does not tell what its verifier did")?;
        counts.insert(name.to_owned(), count);
    }
    Ok(counts)
}

fn load(name: &str, program: &mut Program, types: &Btf) -> Result<()> {
    match program {
        Program::CgroupSkb(program) => program.load()?,
        Program::CgroupSock(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        Program::CgroupSockopt(program) => program.load()?,
        Program::SkLookup(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        Program::SocketFilter(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        // The programs are named for their hooks.
        Program::LsmCgroup(program) => program.load(name, types)?,
        // A view is named for what it iterates over, and for the family.
        Program::Iter(program) => {
            let kind = name.trim_start_matches("view_").trim_end_matches('6');
            program.load(kind, types)?;
        }
        _ => bail!("it is of a kind that nobody here knows"),
    }
    Ok(())
}

/// What differs too much, a sentence each.
fn complaints(recorded: &Counts, counts: &Counts) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, &count) in counts {
        match recorded.get(name) {
            None => complaints.push(format!("{name} is not recorded; it has {count}")),
            Some(&before) if count > before.saturating_mul(FACTOR) => {
                complaints.push(format!("{name} went from {before} to {count} instructions"));
            }
            Some(&before) if count.saturating_mul(FACTOR) < before => complaints.push(format!(
                "{name} went down from {before} to {count} instructions: record it"
            )),
            Some(_) => {}
        }
    }
    let gone = recorded.keys().filter(|name| !counts.contains_key(*name));
    complaints.extend(gone.map(|name| format!("{name} is recorded and not in the object")));
    complaints
}

fn the_verifiers_work_has_not_doubled(_: &mut Node) -> Result<()> {
    let kernel = std::env::var("SLICE_VM_KERNEL")?;
    let counts = counts(Path::new(OBJECT))?;
    let table: String = counts
        .iter()
        .map(|(name, count)| format!("{name} = {count}\n"))
        .collect();
    println!("[\"{kernel}\"]\n{table}");
    let complaints = complaints(&recorded(&kernel)?, &counts);
    ensure!(
        complaints.is_empty(),
        "{}; where that is right, put this into tests/verifier.toml:\n[\"{kernel}\"]\n{table}",
        complaints.join("; ")
    );
    Ok(())
}

fn a_doubled_count_is_noticed(_: &mut Node) -> Result<()> {
    let counts = |egress: u32| Counts::from([("egress".to_owned(), egress)]);
    for (before, after, noticed) in [
        (100, 100, 0),
        (100, 200, 0),
        (100, 201, 1),
        (100, 50, 0),
        (100, 49, 1),
    ] {
        let complaints = complaints(&counts(before), &counts(after));
        ensure!(
            complaints.len() == noticed,
            "from {before} to {after}: {complaints:?}"
        );
    }
    ensure!(
        complaints(&Counts::new(), &counts(1)).len() == 1,
        "a new program went unnoticed"
    );
    ensure!(
        complaints(&counts(1), &Counts::new()).len() == 1,
        "a lost program went unnoticed"
    );
    Ok(())
}
