//! The start of a slice's context: a first process in the slice's cgroup, with
//! namespaces, root and credentials of the slice's own.
//!
//! All that can be refused is done before any program of the slice runs. The
//! order, and why it is this one:
//!
//! 1. the user namespace, so that the image can be shown with the slice's ids;
//! 2. the first process, born in the cgroup and in namespaces for mounts and
//!    processes that belong to the *node's* root: what it mounts there the
//!    slice can neither take away nor mount again;
//! 3. the root, as the node's root;
//! 4. the slice's user namespace, and with it new namespaces for mounts, host
//!    name and IPC that belong to the slice; mounts that are there are locked;
//! 5. limits, capabilities and the rest of the credentials;
//! 6. the program.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use caps::{CapSet, Capability};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Uid, pipe2, setgroups, sethostname, setresgid, setresuid, setsid};
use policy::SliceId;
use serde::{Deserialize, Serialize};

use super::account;
use super::broker;
use super::calls;
use super::root::{self, Root};
use super::running::{Running, Started};
use super::shown::Shown;
use super::userns;
use crate::kernel::store::Store;
use crate::sys::clone::{self, Side};
use crate::sys::{process, seccomp};

/// How a slice's context is started, as policy says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recipe {
    /// Name of the image.
    pub image: String,
    /// Host name inside.
    pub hostname: String,
    /// Whether it starts with the node.
    pub autostart: bool,
    /// Whether it may make namespaces.
    pub nested: bool,
    /// How long its processes may take to end by themselves, milliseconds.
    pub stop_after_ms: u32,
    /// Capabilities inside, by name.
    pub capabilities: Vec<String>,
    /// Whether a broker makes raw and packet sockets for it.
    #[serde(default)]
    pub raw: bool,
    /// Whether its broker opens streams of the packets of all slices.
    #[serde(default)]
    pub audit: bool,
    /// Whether it may see the rows of all owners. Read anew at each request.
    #[serde(default)]
    pub status: bool,
    /// Whether it may make slices. Read anew at each request.
    #[serde(default)]
    pub control: bool,
}

impl Recipe {
    /// Whether it has a broker.
    #[must_use]
    pub fn has_broker(&self) -> bool {
        self.raw || self.audit
    }
}

/// Everything that a start needs.
#[derive(Debug)]
pub struct Start<'a> {
    /// The slice.
    pub name: &'a str,
    /// Its id.
    pub id: SliceId,
    /// Its first id on the node.
    pub uid: u32,
    /// How many ids it has.
    pub uids: u32,
    /// The directory of its cgroup.
    pub cgroup: &'a Path,
    /// How it is started.
    pub recipe: &'a Recipe,
    /// The image's tree.
    pub image: &'a Path,
    /// The image's version.
    pub version: u32,
    /// What the slice has changed.
    pub upper: &'a Path,
    /// The overlay's directory beside it.
    pub work: &'a Path,
}

/// Most bytes of an error that a child reports.
const REPORT: u64 = 16 * 1024;

/// Kinds of namespaces, by the names of their limits.
const NAMESPACES: [&str; 8] = ["user", "pid", "uts", "ipc", "net", "mnt", "cgroup", "time"];

/// Limits that the kernel keeps per user namespace: what is watched by all
/// users of a node comes out of one memory.
const WATCHES: [(&str, u32); 4] = [
    ("max_inotify_instances", 1024),
    ("max_inotify_watches", 65_536),
    ("max_fanotify_groups", 0),
    ("max_fanotify_marks", 0),
];

/// Open files of a process: soft and hard.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Memory that a process may lock.
const LOCKED_MEMORY: u64 = 8 << 20;

/// Starts it; its first process waits for requests when this returns.
///
/// # Errors
/// What the kernel refuses; or something of the slice is in the way. Nothing
/// is left then.
pub fn start(start: &Start<'_>) -> anyhow::Result<()> {
    let running = Running::of(start.name);
    let listener = running.listen(account::uid(start.uid, start.uids))?;
    let shown = Shown::of(start.name);
    let result = shown
        .make(&resolver())
        .and_then(|()| spawn(start, &running, &shown, listener));
    if result.is_err() {
        // The error is the news.
        let _ = running.remove();
    }
    result
}

fn spawn(
    start: &Start<'_>,
    running: &Running,
    shown: &Shown,
    listener: OwnedFd,
) -> anyhow::Result<()> {
    // The kernel bounds a user namespace by what its maker may have. The
    // slice's processes are bounded by its cgroup.
    setrlimit(Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY)
        .context("lift the limit of processes per user")?;
    let userns = userns::make(start.uid, start.uids)?;
    let payload = start.cgroup.join("payload");
    let cgroup =
        File::open(&payload).with_context(|| format!("open cgroup {}", payload.display()))?;
    let program = File::open("/proc/self/exe").context("open this program")?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    let calls = start.recipe.has_broker().then(broker::calls).transpose()?;
    let namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    let side = clone::fork(namespaces, Some(cgroup.as_fd()))
        .with_context(|| format!("make a process in {}", payload.display()))?;
    let child = match side {
        Side::Parent(child) => child,
        Side::Child => {
            drop(read);
            let calls = calls.map(|(to_broker, _)| to_broker);
            let first = become_first(
                start,
                (running, shown),
                &userns,
                program.into(),
                &listener,
                calls.as_ref(),
            );
            let error = match first {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let _ = File::from(write).write_all(format!("{error:#}").as_bytes());
            clone::exit(1);
        }
    };
    // The other end is in the child, and closed by exec.
    drop((write, listener));
    // Before any program of the slice runs, whose calls it is to answer.
    let brokered = match calls {
        Some((to_broker, from_first)) => {
            drop(to_broker);
            broker::start(start, &from_first, &userns)
        }
        None => Ok(()),
    };
    let mut report = String::new();
    File::from(read)
        .take(REPORT)
        .read_to_string(&mut report)
        .context("read a pipe")?;
    if !report.is_empty() {
        let _ = waitpid(child.pid, None);
        bail!("{report}");
    }
    if let Err(error) = brokered {
        let _ = kill(child.pid, Signal::SIGKILL);
        let _ = waitpid(child.pid, None);
        return Err(error);
    }
    running.remember(&Started {
        image: start.recipe.image.clone(),
        version: start.version,
        since: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    })
}

/// In the child, which is the first in its process id namespace.
fn become_first(
    start: &Start<'_>,
    (running, shown): (&Running, &Shown),
    userns: &File,
    program: OwnedFd,
    listener: &OwnedFd,
    calls: Option<&OwnedFd>,
) -> anyhow::Result<std::convert::Infallible> {
    // Modes are given, not left over.
    umask(Mode::empty());
    // A starter that is protected from the out-of-memory killer, or has a
    // priority of its own, does not share that.
    fs::write("/proc/self/oom_score_adj", "0").context("give up protection from being killed")?;
    process::reset_scheduling().context("take the ordinary priority")?;
    process::leave_session_keyring().context("leave the node's keys")?;
    limit_processes()?;
    spread_process_ids(start.id);
    // Its root is the cgroup that this process was born in.
    unshare(CloneFlags::CLONE_NEWCGROUP).context("make a cgroup namespace")?;
    Root {
        image: start.image,
        upper: start.upper,
        work: start.work,
        stage: running.directory(),
        views: &Store::of_node().views(),
        shown,
        userns: userns.as_fd(),
        uid: start.uid,
    }
    .enter()?;

    setns(userns, CloneFlags::CLONE_NEWUSER).context("enter the slice's user namespace")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
        .context("make namespaces for mounts, host name and IPC")?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).context("leave the node's groups")?;
    setresgid(group, group, group).context("become the slice's first group")?;
    setresuid(user, user, user).context("become the slice's root")?;
    root::mount_message_queues().context("mount /dev/mqueue")?;
    sethostname(&start.recipe.hostname).context("set the host name")?;
    limit(start.recipe.nested)?;
    setsid().context("begin a session")?;
    seccomp::confine(&calls::filter()).context("refuse system calls")?;
    if let Some(calls) = calls {
        broker::hand_over_calls(calls)?;
    }
    keep(&start.recipe.capabilities, start.recipe.has_broker())?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .context("unblock signals")?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let streams = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("open /dev/null")?;
    rustix::stdio::dup2_stdin(&streams).context("let go of the starter's input")?;
    rustix::stdio::dup2_stdout(&streams).context("let go of the starter's output")?;
    // What goes wrong from here on is still reported by the pipe.
    rustix::stdio::dup2_stderr(&streams).context("let go of the starter's errors")?;
    let path = CString::new(format!("PATH={}", super::session::SEARCH_PATH))?;
    process::become_program(
        &program,
        &[listener],
        &[c"slice", c"init"],
        &[path.as_c_str(), c"container=slice"],
    )
    .context("run the slice's first program")
}

/// Name servers of the node: those that systemd-resolved asks, where it runs,
/// since its own address is the node's loopback.
fn resolver() -> Vec<u8> {
    ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"]
        .iter()
        .find_map(|path| fs::read(path).ok())
        .unwrap_or_default()
}

/// Begins to count process ids at another number in each slice. Programs make
/// ICMP identifiers and source ports of theirs: those of two slices would be the
/// same ones again and again, and ports below 1024.
fn spread_process_ids(id: SliceId) {
    const FIRST: u32 = 1024;
    /// Ids are given from FIRST to here, far enough below the least that
    /// `kernel.pid_max` is on any node.
    const LAST: u32 = 28_000;
    // A stride that has no divisor in common with the range.
    let number = FIRST + id.index().wrapping_mul(4001) % (LAST - FIRST);
    // A kernel without it counts from 1.
    let _ = fs::write("/proc/sys/kernel/ns_last_pid", number.to_string());
}

/// What each process of the slice may use, whoever started it may use more or
/// less: while it still has the rights to raise a limit.
fn limit_processes() -> anyhow::Result<()> {
    let limits = [
        (Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1),
        (Resource::RLIMIT_MEMLOCK, LOCKED_MEMORY, LOCKED_MEMORY),
        // The kernel's own sign for "no core dump, not to a program either"
        // (fs/coredump.c): the node's handler runs as the node's root.
        (Resource::RLIMIT_CORE, 1, 1),
    ];
    for (resource, soft, hard) in limits {
        setrlimit(resource, soft, hard).with_context(|| format!("limit {resource:?}"))?;
    }
    Ok(())
}

/// What a slice can use of tables that all slices share, and namespaces.
fn limit(nested: bool) -> anyhow::Result<()> {
    let set = |name: &str, most: u32, required: bool| {
        let path = format!("/proc/sys/user/{name}");
        match fs::write(&path, most.to_string()) {
            // Older kernels have no such limit, or no such thing.
            Err(error) if !required && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            written => written.with_context(|| format!("write {most} to {path}")),
        }
    };
    if !nested {
        for kind in NAMESPACES {
            set(&format!("max_{kind}_namespaces"), 0, kind != "time")?;
        }
    }
    for (name, most) in WATCHES {
        set(name, most, false)?;
    }
    Ok(())
}

/// Takes every capability out of what programs can ever have but these; those
/// that only a newer kernel knows, too.
/// With a broker the one that programs ask themselves for: it means nothing
/// outside the slice's user namespace, and the broker looks for it.
fn keep(capabilities: &[String], broker: bool) -> anyhow::Result<()> {
    const LAST: &str = "/proc/sys/kernel/cap_last_cap";
    let last: u8 = fs::read_to_string(LAST)
        .with_context(|| format!("read {LAST}"))?
        .trim()
        .parse()
        .with_context(|| format!("understand {LAST}"))?;
    let kept: Vec<u8> = capabilities
        .iter()
        .filter_map(|name| {
            format!("CAP_{}", name.to_uppercase())
                .parse::<Capability>()
                .ok()
        })
        .chain(broker.then_some(Capability::CAP_NET_RAW))
        .map(|capability| capability.index())
        .collect();
    for number in (0..=last).filter(|number| !kept.contains(number)) {
        process::drop_from_bounding(number)
            .with_context(|| format!("give up capability {number}"))?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).with_context(|| format!("give up {set:?} capabilities"))?;
    }
    Ok(())
}
