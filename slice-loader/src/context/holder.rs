//! The cgroup below which all slices live, and who keeps it for us.
//!
//! Under systemd a service of its own does, `slice-node.service`: with
//! `Delegate=yes` systemd leaves its subtree alone, and its only process, a
//! placeholder in the leaf `init`, keeps it alive. It cannot be the daemon's
//! own service: that could not be restarted while slices live (systemd before
//! 254 starts the new process in the service's cgroup, which must not hold
//! processes once controllers are enabled below it). Without systemd we make
//! `/sys/fs/cgroup/slice-node` ourselves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use policy::compile::CgroupWrite;
use serde::{Deserialize, Serialize};

use crate::cli::exit::{Exit, Failure};

/// Where cgroup v2 is mounted.
pub const CGROUPFS: &str = "/sys/fs/cgroup";

/// The service that holds the subtree under systemd.
const UNIT: &str = "slice-node.service";

/// The placeholder's leaf.
const LEAF: &str = "init";

/// Controllers that limits need. `io` is enabled where the kernel has it.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Properties of the holder, each against one way of losing the slices.
const PROPERTIES: [&str; 8] = [
    // At the root: below system.slice, which has no floor of memory or CPU
    // time, those of slices would protect nothing.
    "Slice=-.slice",
    "Delegate=yes",
    // Stopping the holder by mistake ends the placeholder only.
    "KillMode=process",
    // The default is a part of the system's, for all slices together.
    "TasksMax=infinity",
    // A slice that runs out of memory must not stop the unit.
    "OOMPolicy=continue",
    "OOMScoreAdjust=-999",
    "Type=notify",
    "StandardInput=null",
];

/// Who keeps the cgroup.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeper {
    /// A transient unit of systemd.
    Systemd,
    /// Nobody but the kernel.
    Kernel,
}

/// The cgroup that holds everything of slices.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Who keeps it.
    pub keeper: Keeper,
    /// Its directory.
    pub path: PathBuf,
    /// Controllers that the root of the hierarchy did not give its children
    /// before us; ours to switch off again. Under systemd they are systemd's.
    pub enables: Vec<String>,
}

impl Holder {
    /// The holder that is there, or a new one.
    ///
    /// # Errors
    /// systemd or the kernel refuses.
    pub fn make() -> anyhow::Result<Self> {
        if Self::expected().keeper == Keeper::Systemd {
            return under_systemd();
        }
        let holder = Self::expected();
        make_directory(&holder.path)?;
        enable_controllers(Path::new(CGROUPFS))?;
        Ok(holder)
    }

    /// The holder that [`Holder::make`] will make.
    #[must_use]
    pub fn expected() -> Self {
        let (keeper, name) = if Path::new("/run/systemd/system").is_dir() {
            (Keeper::Systemd, UNIT)
        } else {
            (Keeper::Kernel, "slice-node")
        };
        let enables = match keeper {
            Keeper::Systemd => Vec::new(),
            // What cannot be read is reported when it is to be enabled.
            Keeper::Kernel => missing_controllers(Path::new(CGROUPFS)).unwrap_or_default(),
        };
        Self {
            keeper,
            path: Path::new(CGROUPFS).join(name),
            enables: enables.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Whether it is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// The holder's directory of slices, made with controllers for them.
    ///
    /// # Errors
    /// The kernel refuses: most likely the holder has processes of its own.
    pub fn make_slices(&self) -> anyhow::Result<PathBuf> {
        let slices = self.path.join("slices");
        make_directory(&slices)?;
        enable_controllers(&self.path)?;
        enable_controllers(&slices)?;
        Ok(slices)
    }

    /// Refuses to go on where block I/O is to be bounded and slices' cgroups
    /// have no controller for it: an owner of systemd can withhold it, which is
    /// seen only now.
    ///
    /// # Errors
    /// A [`Failure`] with the remedy.
    pub fn refuse_without_io(&self, writes: &[CgroupWrite]) -> anyhow::Result<()> {
        let wanted = writes.iter().any(|write| write.file.starts_with("io."));
        match super::io::controller() {
            Err(none) if wanted => {
                let message = format!("bound block I/O of slices: {}", none.why);
                Err(Failure::new(Exit::Kernel, message)
                    .remedy(none.remedy)
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// The parent of all slices.
    #[must_use]
    pub fn slices(&self) -> PathBuf {
        self.path.join("slices")
    }

    /// How deep below the root of the hierarchy a slice's cgroup lies.
    ///
    /// # Errors
    /// The holder is not below the mount of cgroup v2.
    pub fn slices_level(&self) -> anyhow::Result<u32> {
        let below = self.slices();
        let below = below
            .strip_prefix(CGROUPFS)
            .with_context(|| format!("find {} below {CGROUPFS}", below.display()))?;
        u32::try_from(below.components().count() + 1).context("count the levels of cgroups")
    }

    /// Sets an attribute of the holder itself: under systemd by the property
    /// of the unit, since what systemd delegates it still sets itself.
    ///
    /// # Errors
    /// systemd or the kernel refuses.
    pub fn set(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let property = match (self.keeper, file) {
            (Keeper::Systemd, "cpu.weight") => "CPUWeight",
            (Keeper::Systemd, "memory.min") => "MemoryMin",
            (Keeper::Systemd, _) => {
                bail!("set {file} of {UNIT}: no property of systemd's is known for it")
            }
            (Keeper::Kernel, _) => {
                let path = self.path.join(file);
                return fs::write(&path, value)
                    .with_context(|| format!("write {value} to {}", path.display()));
            }
        };
        systemctl(&[
            "set-property",
            "--runtime",
            UNIT,
            &format!("{property}={value}"),
        ])?;
        Ok(())
    }

    /// Removes the holder; the slices are gone already.
    ///
    /// # Errors
    /// systemd or the kernel refuses.
    pub fn remove(&self) -> anyhow::Result<()> {
        if self.keeper == Keeper::Systemd {
            // The placeholder dies, systemd removes the empty cgroup. After a
            // `down` that was killed the unit may be gone and the cgroup not.
            if !matches!(state()?.as_str(), "inactive" | "failed") {
                systemctl(&["stop", UNIT])?;
            }
            let _ = Command::new("systemctl")
                .args(["--quiet", "reset-failed", UNIT])
                .output();
        }
        super::cgroup::remove_tree(&self.path)?;
        for controller in &self.enables {
            // Somebody else's children may use it by now: then it stays.
            let _ = fs::write(
                Path::new(CGROUPFS).join("cgroup.subtree_control"),
                format!("-{controller}"),
            );
        }
        Ok(())
    }
}

fn under_systemd() -> anyhow::Result<Holder> {
    if state()? != "active" {
        let program = std::env::current_exe().context("find the path of this program")?;
        let mut command = Command::new("systemd-run");
        command.args(["--quiet", "--collect", "--unit", UNIT]);
        command.args([
            "--description",
            "The cgroups of all slices: do not stop, use `slice down`",
        ]);
        for property in PROPERTIES {
            command.args(["--property", property]);
        }
        command.arg(program).args(["hold", LEAF]);
        run(command).context("start the holder of the slices' cgroups")?;
    }
    let path = systemctl(&["show", "--property=ControlGroup", "--value", UNIT])?;
    let holder = Holder::expected();
    ensure!(
        holder.path == Path::new(&format!("{CGROUPFS}{}", path.trim())),
        "find the cgroup of {UNIT}: it is {:?}, not {}; see `systemctl status {UNIT}`",
        path.trim(),
        holder.path.display()
    );
    Ok(holder)
}

/// systemd's ActiveState of the unit; `inactive` where there is none.
fn state() -> anyhow::Result<String> {
    let state = systemctl(&["show", "--property=ActiveState", "--value", UNIT])?;
    Ok(state.trim().to_owned())
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("systemctl");
    command.args(arguments);
    run(command)
}

/// Runs a command of systemd's; its words on failure are the error.
fn run(mut command: Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a cgroup; one that is there is fine.
pub(super) fn make_directory(path: &Path) -> anyhow::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.with_context(|| format!("make cgroup {}", path.display())),
    }
}

/// The controllers that a cgroup has and does not give its children.
fn missing_controllers(cgroup: &Path) -> anyhow::Result<Vec<&'static str>> {
    let list = |file: &str| {
        let path = cgroup.join(file);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let (present, enabled) = (list("cgroup.controllers")?, list("cgroup.subtree_control")?);
    let has = |text: &str, controller| text.split_whitespace().any(|word| word == controller);
    Ok(CONTROLLERS
        .into_iter()
        .filter(|c| has(&present, *c) && !has(&enabled, *c))
        .collect())
}

/// Lets the children of a cgroup have the controllers it has itself.
fn enable_controllers(cgroup: &Path) -> anyhow::Result<()> {
    for controller in missing_controllers(cgroup)? {
        let path = cgroup.join("cgroup.subtree_control");
        fs::write(&path, format!("+{controller}"))
            .with_context(|| format!("enable controller {controller} in {}", path.display()))?;
    }
    Ok(())
}

/// The placeholder: moves itself into the leaf, says so, and waits to be
/// killed.
///
/// # Errors
/// It is not in a cgroup of its own.
pub fn hold(leaf: &Path) -> anyhow::Result<()> {
    let own = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .context("find this process in cgroup v2")?;
    ensure!(
        own.ends_with(UNIT),
        "hold the slices' cgroups: this is not {UNIT} but {own}"
    );
    let leaf = PathBuf::from(format!("{CGROUPFS}{own}")).join(leaf);
    make_directory(&leaf)?;
    let procs = leaf.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("move into {}", procs.display()))?;
    sd_notify::notify(&[sd_notify::NotifyState::Ready])
        .context("tell systemd that the holder is ready")?;
    loop {
        nix::unistd::pause();
    }
}
