//! The virtual machine: QEMU's options, what goes in with it, and what comes
//! out of it as events.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::accelerator::Accelerator;
use crate::console::{Console, Finding};
use crate::initramfs::Initramfs;
use crate::kernel::Ready;
use crate::place::{self, Scratch};
use crate::wire::{self, Frame};
use crate::{debootstrap, packages, step};

/// Memory of the guest, in MiB.
const MEMORY_MIB: u32 = 4096;

/// What the agent in the VM does.
#[derive(Default)]
pub struct Job {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// Files and directories of this machine and their place below /opt/slice.
    pub files: Vec<(PathBuf, String)>,
}

/// Who has the terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// The agent reports in frames.
    Report,
    /// A shell in the VM has this process's terminal.
    Shell,
}

/// What to boot.
pub struct Spec<'a> {
    /// For the console's log.
    pub name: &'a str,
    /// The kernel.
    pub kernel: &'a Ready,
    /// The root's disk; without one only the initramfs speaks.
    pub root: Option<&'a Path>,
    /// The static binary that is the first process and the agent.
    pub agent: &'a Path,
    /// How instructions are run.
    pub accelerator: Accelerator,
    /// What to run.
    pub job: &'a Job,
    /// Who has the terminal.
    pub terminal: Terminal,
}

/// What a running VM says.
pub enum Event {
    /// The agent's report.
    Frame(Frame),
    /// The console shows that the kernel is no longer to be trusted.
    Trouble(String),
    /// The console shows something that must fail a test run later.
    Noted(String),
    /// QEMU ended, with its own words if it had any.
    Ended(String),
    /// Nothing for as long as was asked.
    Nothing,
}

/// A running VM; killed when dropped.
pub struct Vm {
    qemu: Child,
    frames: Receiver<Frame>,
    console: Console,
    complaints: PathBuf,
    scratch: Scratch,
    ended: bool,
}

/// Boots.
///
/// # Errors
/// QEMU cannot be started, or its inputs cannot be written.
pub fn boot(spec: &Spec) -> Result<Vm> {
    let scratch = Scratch::new(&place::vm().join("run"))?;
    let initramfs = scratch.join("initramfs");
    write_initramfs(spec, &initramfs)?;
    let disk = scratch.join("slices.ext4");
    if spec.root.is_some() {
        debootstrap::make_slices_disk(&disk)?;
    }
    let log = console_log(spec.name)?;
    fs::File::create(&log)?;
    let complaints = scratch.join("qemu.err");
    let mut command = qemu(spec, &initramfs, &disk, &log);
    command
        // The throw-away layer over the disks lies there.
        .env("TMPDIR", scratch.path());
    match spec.terminal {
        Terminal::Report => command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&complaints)?),
        Terminal::Shell => &mut command,
    };
    let mut qemu = command.spawn().context("start qemu-system-x86_64")?;
    let (sender, frames) = mpsc::channel();
    if let Some(mut port) = qemu.stdout.take() {
        thread::spawn(move || {
            while let Ok(Some(frame)) = Frame::read(&mut port) {
                if sender.send(frame).is_err() {
                    return;
                }
            }
        });
    }
    Ok(Vm {
        qemu,
        frames,
        console: Console::of(log),
        complaints,
        scratch,
        ended: false,
    })
}

impl Vm {
    /// Waits for the next event, at most `patience`.
    ///
    /// # Errors
    /// The console's log cannot be read.
    pub fn next(&mut self, patience: Duration) -> Result<Event> {
        let until = Instant::now() + patience;
        loop {
            match self.console.look()? {
                Some(Finding::Fatal(line)) => return Ok(Event::Trouble(line)),
                Some(Finding::Noted(line)) => return Ok(Event::Noted(line)),
                None => {}
            }
            let slice = Duration::from_millis(100);
            let left = until.saturating_duration_since(Instant::now()).min(slice);
            match self.frames.recv_timeout(left) {
                Ok(frame) => return Ok(Event::Frame(frame)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(left),
            }
            if self.ended {
                return Ok(Event::Ended(step::tail(&self.complaints, 5)));
            }
            // Seen ended once, the frames and the console are read once more.
            self.ended = self.qemu.try_wait()?.is_some();
            if !self.ended && Instant::now() >= until {
                return Ok(Event::Nothing);
            }
        }
    }

    /// Waits for QEMU to end by itself.
    pub fn wait(&mut self) -> Result<()> {
        self.qemu.wait()?;
        self.ended = true;
        Ok(())
    }

    /// The last lines on the console.
    pub fn console_tail(&self) -> String {
        step::tail(self.console.path(), 40)
    }

    /// The console's log.
    pub fn console_path(&self) -> &Path {
        self.console.path()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(self.scratch.path());
    }
}

fn write_initramfs(spec: &Spec, path: &Path) -> Result<()> {
    let mut archive = Initramfs::create(path)?;
    archive.copy(spec.agent, "init")?;
    archive.copy(&spec.kernel.early(), "modules")?;
    archive.directory("payload")?;
    archive.directory("payload/bin")?;
    archive.copy(spec.agent, "payload/bin/slice-vm")?;
    archive.directory("payload/job")?;
    for (name, words) in [
        ("command", &spec.job.command),
        ("environment", &spec.job.environment),
    ] {
        let mut text = words.join("\0");
        text.push('\0');
        archive.text(&format!("payload/job/{name}"), text.as_bytes())?;
    }
    for (from, to) in &spec.job.files {
        archive.copy(from, &format!("payload/{to}"))?;
    }
    archive.finish()
}

/// Boots that this process has begun.
static BOOTS: AtomicU32 = AtomicU32::new(0);

/// The log of this boot; `NAME.log` is a link to the newest.
fn console_log(name: &str) -> Result<PathBuf> {
    let dir = place::vm().join("logs");
    fs::create_dir_all(&dir)?;
    let boot = BOOTS.fetch_add(1, Ordering::Relaxed);
    let own = format!("{name}-{}-{boot}.log", std::process::id());
    // Logs of runs that are over are overwritten by nobody: keep only those
    // of today's working day.
    for entry in fs::read_dir(&dir)?.filter_map(Result::ok) {
        let age = entry.metadata().and_then(|meta| meta.modified());
        if age.is_ok_and(|at| at.elapsed().unwrap_or_default() > Duration::from_secs(86_400)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let link = dir.join(format!("{name}.log"));
    let fresh = dir.join(format!(".{own}"));
    let _ = fs::remove_file(&fresh);
    std::os::unix::fs::symlink(&own, &fresh)?;
    fs::rename(&fresh, &link)?;
    Ok(dir.join(own))
}

fn qemu(spec: &Spec, initramfs: &Path, disk: &Path, log: &Path) -> Command {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    // However this process ends, the VM ends with it.
    let mut command = packages::command("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command.arg(packages::command("qemu-system-x86_64").get_program());
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-no-reboot", "-machine", "q35"]);
    command.args(match spec.accelerator {
        Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
        Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
    });
    command
        .args(["-smp", &processors.to_string()])
        .args(["-m", &MEMORY_MIB.to_string()]);
    command.arg("-kernel").arg(spec.kernel.image());
    command.arg("-initrd").arg(initramfs);
    command.args(["-append", &command_line(spec)]);

    command
        .arg("-chardev")
        .arg(option("file,id=console,path=", log));
    command.args(["-serial", "chardev:console"]);
    command.args(["-device", "virtio-serial-pci"]);
    match spec.terminal {
        Terminal::Report => {
            // Standard output by name: a chardev of kind stdio would close at
            // the end of its input.
            command.args(["-chardev", "file,id=wire,path=/dev/stdout"]);
            let port = format!("virtserialport,chardev=wire,name={}", wire::PORT);
            command.args(["-device", &port]);
        }
        Terminal::Shell => {
            command.args(["-chardev", "stdio,id=shell,mux=on,signal=off"]);
            command.args(["-device", "virtconsole,chardev=shell"]);
            command.args(["-mon", "chardev=shell"]);
        }
    }
    if let Some(root) = spec.root {
        for (id, path, mode) in [
            ("root", root, "snapshot=on"),
            ("modules", &spec.kernel.modules(), "readonly=on"),
            // Made for this boot and removed with its scratch directory.
            ("slices", disk, "discard=unmap"),
        ] {
            let drive = format!("id={id},if=none,format=raw,cache=unsafe,{mode},file=");
            command.arg("-drive").arg(option(&drive, path));
            command.args(["-device", &format!("virtio-blk-pci,drive={id}")]);
        }
        command.args(["-netdev", "user,id=outside,restrict=on"]);
        command.args(["-device", "virtio-net-pci,netdev=outside,romfile="]);
    }
    command
}

/// An option that ends in a path; QEMU wants commas doubled.
fn option(prefix: &str, path: &Path) -> String {
    format!("{prefix}{}", path.to_string_lossy().replace(',', ",,"))
}

fn command_line(spec: &Spec) -> String {
    let mut words = vec![
        "console=ttyS0",
        "loglevel=5",
        "printk.time=1",
        // The first oops ends the run, with its text on the console.
        "oops=panic",
        "panic=-1",
        "net.ifnames=0",
        "random.trust_cpu=on",
        "systemd.show_status=0",
        "systemd.gpt_auto=0",
        // A busy host stops the guest's processors for seconds: not a lockup.
        "nmi_watchdog=0",
        "watchdog_thresh=60",
        "rcupdate.rcu_cpu_stall_timeout=120",
    ];
    if spec.root.is_none() {
        words.push("slice.probe");
    }
    if spec.accelerator == Accelerator::Tcg {
        // QEMU's time stamp counter is the host's, the same on all processors.
        words.push("tsc=reliable");
    }
    words.join(" ")
}
