//! Whether QEMU may use KVM here: opening /dev/kvm proves nothing (QEMU can
//! still abort, or the guest hang), so a kernel is booted to a verdict.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::kernel::Ready;
use crate::machine::{self, Event, Job, Spec, Terminal};
use crate::place;
use crate::step::say;

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accelerator {
    /// The processor runs them.
    Kvm,
    /// QEMU translates them, one thread for each of the guest's processors.
    Tcg,
}

impl Accelerator {
    /// The name that the guest and the cache see.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }

    /// By how much deadlines are stretched.
    pub fn time_scale(self) -> u32 {
        match self {
            Accelerator::Kvm => 1,
            Accelerator::Tcg => 4,
        }
    }
}

/// How long a KVM guest may take to its first words.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// The accelerator of this machine; found once per boot of the machine.
pub fn find(kernel: &Ready, agent: &Path) -> Result<Accelerator> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let cache = place::vm().join("accelerator");
    let known = fs::read_to_string(&cache).unwrap_or_default();
    if let Some(name) = known.strip_prefix(boot.trim()) {
        match name.trim() {
            "kvm" => return Ok(Accelerator::Kvm),
            "tcg" => return Ok(Accelerator::Tcg),
            _ => {}
        }
    }
    let opens = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    let found = if opens && boots(kernel, agent)? {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    };
    say(match found {
        Accelerator::Kvm => "KVM boots a kernel here and is used",
        Accelerator::Tcg => "KVM boots no kernel here: emulating",
    });
    fs::create_dir_all(place::vm())?;
    fs::write(&cache, format!("{} {}", boot.trim(), found.name()))
        .with_context(|| format!("write {}", cache.display()))?;
    Ok(found)
}

fn boots(kernel: &Ready, agent: &Path) -> Result<bool> {
    let mut vm = machine::boot(&Spec {
        name: "probe",
        kernel,
        root: None,
        agent,
        accelerator: Accelerator::Kvm,
        job: &Job::default(),
        terminal: Terminal::Report,
    })?;
    let start = Instant::now();
    while let Some(left) = PROBE_LIMIT.checked_sub(start.elapsed()) {
        match vm.next(left)? {
            Event::Frame(crate::wire::Frame::Exit(0)) => return Ok(true),
            Event::Ended(_) | Event::Trouble(_) => return Ok(false),
            Event::Frame(_) | Event::Noted(_) | Event::Nothing => {}
        }
    }
    Ok(false)
}
