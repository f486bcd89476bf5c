//! One boot of one kernel: get everything ready, run one command in the VM,
//! and hand on what it says.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::accelerator::{self, Accelerator};
use crate::kernel::{self, Kernel, Ready};
use crate::machine::{self, Event, Job, Spec, Terminal, Vm};
use crate::packages;
use crate::root::{self, Root};
use crate::tree;
use crate::wire::Frame;

/// Time to the agent's first frame, before stretching.
const BOOT_LIMIT: Duration = Duration::from_secs(45);

/// The VM ended, or had to be ended, without a verdict.
#[derive(Debug)]
pub struct Lost {
    /// Why, and the end of the console.
    pub why: String,
    /// QEMU is to blame, not what ran in it: see [`EMULATOR_FAULT`].
    pub by_emulator: bool,
}

/// The console's word for a fault of QEMU before 8.1: emulating several
/// processors, it can run a breakpoint that the kernel has already patched
/// away. On a processor the kernel's patching of its own code has no such
/// moment, so a boot that shows this says nothing about the tree.
const EMULATOR_FAULT: &str = "int3: ";

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Lost {}

/// What one kernel needs to boot.
pub struct Session {
    /// The kernel's name.
    pub kernel: Kernel,
    ready: Ready,
    root: PathBuf,
    agent: PathBuf,
    /// How instructions run.
    pub accelerator: Accelerator,
}

impl Session {
    /// Gets kernel, root, agent and accelerator ready.
    pub fn prepare(kernel: Kernel, mirror: Option<&str>) -> Result<Session> {
        Session::with_root(kernel, kernel.root(), mirror)
    }

    /// The same with another root.
    pub fn with_root(kernel: Kernel, root: Root, mirror: Option<&str>) -> Result<Session> {
        packages::ensure(&packages::for_vm())?;
        let agent = tree::agent()?;
        let ready = kernel::ready(kernel, mirror)?;
        let root = root::ready(root, mirror)?;
        let accelerator = accelerator::find(&ready, &agent)?;
        Ok(Session {
            kernel,
            ready,
            root,
            agent,
            accelerator,
        })
    }

    /// Boots with these files below /opt/slice, to run `command`.
    pub fn boot(
        &self,
        files: Vec<(PathBuf, String)>,
        command: &[&str],
        terminal: Terminal,
    ) -> Result<Vm> {
        let mut job = Job {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            environment: vec![
                format!("SLICE_VM_KERNEL={}", self.kernel.label()),
                format!("SLICE_VM_RELEASE={}", self.ready.release),
                format!("SLICE_VM_ACCELERATOR={}", self.accelerator.name()),
                format!("SLICE_VM_TIME_SCALE={}", self.accelerator.time_scale()),
            ],
            files,
        };
        for name in ["CI", "TERM", "RUST_BACKTRACE"] {
            if let Ok(value) = std::env::var(name) {
                job.environment.push(format!("{name}={value}"));
            }
        }
        machine::boot(&Spec {
            name: self.kernel.label(),
            kernel: &self.ready,
            root: Some(&self.root),
            agent: &self.agent,
            accelerator: self.accelerator,
            job: &job,
            terminal,
        })
    }

    /// Runs the VM until its command ends. `hear` gets each frame and the
    /// time; it may set the deadline of what comes next. What the console
    /// showed that must fail a run is in `noted`.
    ///
    /// # Errors
    /// [`Lost`], when the VM ends or hangs before the command does.
    pub fn follow(
        &self,
        mut vm: Vm,
        mut hear: impl FnMut(&Frame, &mut Deadline),
    ) -> Result<Outcome> {
        let scale = self.accelerator.time_scale();
        let mut deadline = Deadline {
            what: "the boot".to_owned(),
            end: Some(Instant::now() + BOOT_LIMIT * scale),
        };
        let mut noted = Vec::new();
        loop {
            let left = deadline.end.map_or(Duration::from_secs(3600), |end| {
                end.saturating_duration_since(Instant::now())
            });
            match vm.next(left)? {
                Event::Frame(frame) => {
                    if matches!(frame, Frame::Hello(_)) {
                        deadline = Deadline::none();
                    }
                    hear(&frame, &mut deadline);
                    if let Frame::Exit(status) = frame {
                        self.last_words(&mut vm, &mut noted)?;
                        return Ok(Outcome { status, noted });
                    }
                }
                Event::Noted(line) => noted.push(line),
                Event::Trouble(line) => {
                    // The rest of the trace is worth a moment.
                    let until = Instant::now() + Duration::from_secs(3);
                    while Instant::now() < until {
                        if let Event::Ended(_) = vm.next(Duration::from_millis(500))? {
                            break;
                        }
                    }
                    return Err(self.lost(&vm, &format!("the kernel says: {line}")));
                }
                Event::Ended(words) => {
                    let words = if words.is_empty() {
                        "the VM ended without a verdict".to_owned()
                    } else {
                        format!("QEMU ended: {words}")
                    };
                    return Err(self.lost(&vm, &words));
                }
                Event::Nothing => {
                    if deadline.end.is_some_and(|end| end <= Instant::now()) {
                        let words = format!("{} did not end in time", deadline.what);
                        return Err(self.lost(&vm, &words));
                    }
                }
            }
        }
    }

    /// The console is slower than the agent: what the kernel said before the
    /// command ended may still be on its way.
    fn last_words(&self, vm: &mut Vm, noted: &mut Vec<String>) -> Result<()> {
        let until = Instant::now() + Duration::from_millis(300);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match vm.next(left)? {
                Event::Noted(line) => noted.push(line),
                Event::Trouble(line) => {
                    return Err(self.lost(vm, &format!("the kernel says: {line}")));
                }
                Event::Ended(_) => break,
                Event::Frame(_) | Event::Nothing => {}
            }
        }
        Ok(())
    }

    fn lost(&self, vm: &Vm, why: &str) -> anyhow::Error {
        Lost {
            by_emulator: self.accelerator == Accelerator::Tcg && why.contains(EMULATOR_FAULT),
            why: format!(
                "{}: {why}; the end of the console, {}:\n{}",
                self.kernel.label(),
                vm.console_path().display(),
                vm.console_tail()
            ),
        }
        .into()
    }
}

/// Until when something must have ended.
pub struct Deadline {
    /// What is waited for.
    pub what: String,
    /// Until when; `None` is for ever.
    pub end: Option<Instant>,
}

impl Deadline {
    /// Nothing is waited for.
    pub fn none() -> Deadline {
        Deadline {
            what: "the command".to_owned(),
            end: None,
        }
    }
}

/// How a command in the VM ended.
pub struct Outcome {
    /// Its exit status.
    pub status: u8,
    /// Warnings of the kernel.
    pub noted: Vec<String>,
}
