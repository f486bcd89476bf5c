//! The eBPF object that this program carries.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, ensure};
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_obj::btf::{BtfType, Func, FuncLinkage};
use policy::abi::{STARTED_PER_SLICE, TURNS, classes, waiting_words};

use super::attach::{Attachment, Function, PROGRAMS, Place};
use super::hook::Hook;
use super::layout;
use super::store::Store;
use crate::cli::exit::{Exit, Failure};
use crate::sys::btf::KernelTypes;

/// The bytes, as `SLICE_EBPF_OBJECT` named them when this program was built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slice-ebpf.o"));

/// Every map of the object; all are pinned, so that an upgrade keeps them.
const MAPS: &[&str] = &[
    "SETTINGS",
    "CGROUPS",
    "SLICES",
    "STATES",
    "TRAFFIC",
    "DENIALS",
    "RESERVED",
    "CLAIMS",
    "ADDRESSES",
    "REFUSED",
    "FLOWS",
    "STARTED",
    "STARTED_RING",
    "DEVICES",
    "LINK_OF",
    "LINKS",
    "LINK_STATES",
    "EXEMPT",
    "KNOBS",
    "BUCKETS",
    "ARRIVES_BY",
    "ARRIVALS",
    "QUOTAS",
    "WAITING",
    "DIVIDED",
    "TURNS",
    "RAW_OUT",
    "NODE_OUT",
    "RAW_IN",
    "CAPTURE",
    "AUDITORS",
    "AUDITORS_LOST",
    "AUDITOR_RINGS",
    "AUDIT_OUT",
    "AUDIT_IN",
    "AUDIT_FRAME",
    "LOOPBACK",
    "TALLY",
    "TALLIES_EVEN",
    "TALLIES_ODD",
    "TALLY_REST",
    "TRACED",
    "TAGS",
    "EVENTS",
];

/// Maps with one row per slice and the two fixed rows.
const PER_SLICE: &[&str] = &[
    "SLICES", "STATES", "TRAFFIC", "DENIALS", "LOOPBACK", "TRACED",
];

/// A number that differs where the object differs (FNV-1a, 64 bits).
#[must_use]
pub fn digest() -> u64 {
    OBJECT.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Whether there is an object at all.
#[must_use]
pub fn is_built_in() -> bool {
    !OBJECT.is_empty()
}

/// The loaded object: programs verified, maps pinned, nothing attached.
pub struct Object {
    ebpf: Ebpf,
    paces: bool,
}

impl Object {
    /// Loads the object. Maps pinned in the store are used as they are; others
    /// are made and pinned there, the per-slice ones with `rows` rows.
    ///
    /// # Errors
    /// No object was built in, or the kernel refuses a map or a program: the
    /// verifier's words are in the source.
    pub fn load(store: &Store, rows: u32, links: usize) -> anyhow::Result<Self> {
        if OBJECT.is_empty() {
            return Err(Failure::new(
                Exit::Kernel,
                "load the programs: this slice was built without them",
            )
            .remedy("build it with `cargo xtask build`, which makes the eBPF object first")
            .into());
        }
        let offsets = layout::offsets()?;
        let mut loader = EbpfLoader::new();
        loader.override_global(layout::CONSTANT, &offsets[..], true);
        for name in MAPS {
            loader.map_pin_path(name, store.map(name));
        }
        // There is one CGROUPS entry per slice.
        loader.map_max_entries("CGROUPS", rows);
        for name in PER_SLICE {
            loader.map_max_entries(name, rows);
        }
        for name in ["STARTED", "STARTED_RING"] {
            loader.map_max_entries(name, rows.saturating_mul(STARTED_PER_SLICE));
        }
        loader.map_max_entries("TALLY_REST", rows.saturating_mul(2));
        let links = u32::try_from(links)?;
        // A node without links needs none of these, and one that has some no more.
        let classes = classes(rows);
        for (name, of_each) in [
            ("KNOBS", classes),
            ("BUCKETS", classes),
            ("ARRIVALS", rows),
            ("QUOTAS", classes),
            ("DIVIDED", classes),
            ("WAITING", waiting_words(rows)),
            ("TURNS", classes.saturating_mul(TURNS)),
        ] {
            loader.map_max_entries(name, of_each.saturating_mul(links).max(1));
        }
        let mut ebpf = loader.load(OBJECT).context("load the programs' maps")?;
        for (name, program) in ebpf.programs() {
            let known = PROGRAMS.iter().any(|attachment| attachment.program == name);
            ensure!(
                known,
                "load program {name}: nothing says where it belongs ({:?})",
                program.prog_type()
            );
        }
        let btf = functions()?;
        for attachment in PROGRAMS {
            if links == 0 && attachment.place == Place::Devices(Hook::Pace) {
                continue;
            }
            let name = attachment.program;
            let program = ebpf
                .program_mut(name)
                .with_context(|| format!("find program {name} in the object"))?;
            load(program, attachment.function, &btf)
                .with_context(|| format!("load program {name}"))?;
        }
        Ok(Self {
            ebpf,
            paces: links > 0,
        })
    }

    /// The loaded program of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn program(&self, name: &str) -> anyhow::Result<BorrowedFd<'_>> {
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("find program {name}"))?;
        Ok(program
            .fd()
            .with_context(|| format!("use program {name}"))?
            .as_fd())
    }

    /// The programs that were loaded: without links, none that paces.
    pub fn attachments(&self) -> impl Iterator<Item = &'static Attachment> {
        let left_out =
            |attachment: &&Attachment| self.paces || attachment.place != Place::Devices(Hook::Pace);
        PROGRAMS.iter().filter(left_out)
    }

    /// Instructions the verifier looked at, per program.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn verifier_costs(&self) -> anyhow::Result<BTreeMap<&'static str, u32>> {
        self.attachments()
            .map(|attachment| {
                let name = attachment.program;
                let info = crate::sys::bpf::program_info(self.program(name)?)
                    .with_context(|| format!("ask about program {name}"))?;
                Ok((name, info.verified_instructions))
            })
            .collect()
    }
}

/// What aya asks of the kernel's types when it loads a program: the functions
/// that ours are attached to, at their numbers. With all of its types, which
/// aya has parsed once already and keeps to itself, it would take four times as
/// long.
fn functions() -> anyhow::Result<Btf> {
    let types = KernelTypes::running().context("read the kernel's BTF")?;
    let mut functions = BTreeMap::new();
    for function in PROGRAMS.iter().filter_map(|program| program.function) {
        let name = function.name();
        let number = types
            .function(&name)
            .with_context(|| format!("find function {name} in the kernel's BTF"))?;
        functions.insert(number, name);
    }
    let mut btf = Btf::new();
    let mut next = 1;
    for (number, name) in functions {
        for _ in next..number {
            btf.add_type(BtfType::Unknown);
        }
        let name = btf.add_string(&name);
        next = btf.add_type(BtfType::Func(Func::new(name, 0, FuncLinkage::Static))) + 1;
    }
    Ok(btf)
}

/// aya has a loading method per type.
fn load(program: &mut Program, function: Option<Function>, btf: &Btf) -> Result<(), ProgramError> {
    match (program, function) {
        (Program::CgroupSock(program), None) => program.load(),
        (Program::CgroupSockAddr(program), None) => program.load(),
        (Program::CgroupSockopt(program), None) => program.load(),
        (Program::CgroupSkb(program), None) => program.load(),
        (Program::SockOps(program), None) => program.load(),
        (Program::LsmCgroup(program), Some(Function::Lsm(hook))) => program.load(hook, btf),
        (Program::Iter(program), Some(Function::Iterator(kind))) => program.load(kind, btf),
        (Program::SkLookup(program), None) => program.load(),
        (Program::SchedClassifier(program), None) => program.load(),
        (Program::SocketFilter(program), None) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
