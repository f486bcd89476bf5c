//! The process that makes raw and packet sockets for a slice: in the slice's
//! cgroup, so that the sockets are the slice's and what it uses is counted
//! there; outside the slice's namespaces, with one right and no files.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::unistd::{Gid, Uid, pipe2, setgroups, setresgid, setresuid, setsid};
use policy::SliceId;
use safe_raw_sockets::broker::{self, Namespaces};
use safe_raw_sockets::{filter, sys};

use super::cgroup;
use super::start::Start;
use crate::audit;
use crate::kernel::audit::Right;
use crate::kernel::capture;
use crate::kernel::store::Store;
use crate::sys::clone::{self, Side};
use crate::sys::process;

/// What the broker says when it serves.
const SERVES: &str = ".";

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// Files it has open: the sockets that it is making, and what it reads.
const OPEN_FILES: u64 = 32;

/// Not to be killed for the slice's appetite: it uses next to nothing.
const LAST_TO_BE_KILLED: &str = "-1000";

/// The way on which the first process hands over its calls.
///
/// # Errors
/// The kernel refuses.
pub fn calls() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("make a pair of sockets")
}

/// In the first process: from now on the broker answers its calls for raw and
/// packet sockets, and those of all that it starts.
///
/// # Errors
/// The kernel refuses.
pub fn hand_over_calls(to_broker: &OwnedFd) -> anyhow::Result<()> {
    let listener =
        sys::listen(&filter::program()).context("have calls for raw sockets answered")?;
    let descriptors = [listener.as_raw_fd()];
    sendmsg::<()>(
        to_broker.as_raw_fd(),
        &[IoSlice::new(b".")],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .context("hand over the calls for raw sockets")?;
    Ok(())
}

/// Starts the broker of a slice whose first process is on its way.
///
/// # Errors
/// The kernel refuses; or the first process failed, which tells why itself.
pub fn start(start: &Start<'_>, from_first: &OwnedFd, userns: &File) -> anyhow::Result<()> {
    let Some(listener) = receive(from_first)? else {
        return Ok(());
    };
    let filter = capture::filter(start.id)?;
    let audit = start.recipe.audit;
    let packets = File::open("/proc/net/packet").context("open /proc/net/packet")?;
    let program = File::open("/proc/self/exe").context("open this program")?;
    let leaf = cgroup::leaf(start.cgroup, "broker")?;
    let cgroup = File::open(&leaf).with_context(|| format!("open cgroup {}", leaf.display()))?;
    let mut words = vec![c"slice".to_owned(), c"broker".to_owned()];
    if audit {
        words.push(std::ffi::CString::new(format!("--audit={}", start.id.0))?);
    }
    if start.recipe.nested {
        let number = userns.metadata().context("ask for a namespace's number")?;
        words.push(std::ffi::CString::new(number.ino().to_string())?);
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    let side = clone::fork(CloneFlags::empty(), Some(cgroup.as_fd()))
        .with_context(|| format!("make a process in {}", leaf.display()))?;
    let Side::Child = side else {
        drop(write);
        return ready(read);
    };
    drop(read);
    let words: Vec<_> = words.iter().map(|word| word.as_c_str()).collect();
    let write = OwnedFd::from(File::from(write));
    let packets = packets.into();
    let become_broker = || -> anyhow::Result<std::convert::Infallible> {
        detach()?;
        // Here, so that its memory is the slice's.
        let right = audit.then(|| Right::new(&Store::of_node())).transpose()?;
        let mut inherited = vec![&listener, &filter, &packets, &write];
        inherited.extend(right.iter().flat_map(Right::descriptors));
        process::become_program(&program.into(), &inherited, &words, &[]).context("run the broker")
    };
    let Err(error) = become_broker();
    let _ = nix::unistd::write(&write, format!("{error:#}").as_bytes());
    clone::exit(1);
}

/// Waits until the broker says that it serves, or why it does not.
fn ready(report: OwnedFd) -> anyhow::Result<()> {
    let mut said = String::new();
    File::from(report)
        .read_to_string(&mut said)
        .context("hear from the broker")?;
    match said.as_str() {
        SERVES => Ok(()),
        "" => bail!("start the broker of raw sockets: it ended"),
        why => bail!("start the broker of raw sockets: {why}"),
    }
}

/// Away from who started it.
fn detach() -> anyhow::Result<()> {
    setsid()?;
    std::env::set_current_dir("/")?;
    fs::write("/proc/self/oom_score_adj", LAST_TO_BE_KILLED)?;
    process::reset_scheduling()?;
    process::leave_session_keyring()?;
    let streams = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&streams)?;
    rustix::stdio::dup2_stdout(&streams)?;
    rustix::stdio::dup2_stderr(&streams)?;
    Ok(())
}

/// The broker itself. `userns` is the number of the slice's user namespace
/// where it can make others, `audit` the slice's id where it may see the packets
/// of all slices.
///
/// # Errors
/// It was not started as [`start`] does.
pub fn run(userns: Option<u64>, audit: Option<u32>) -> anyhow::Result<()> {
    let ([listener, filter, packets, report], audit) = match audit {
        None => (process::inherited()?, None),
        Some(id) => {
            let [a, b, c, d, ring, auditors, lost, rings] = process::inherited()?;
            let right = Right::of([ring, auditors, lost, rings]);
            ([a, b, c, d], Some(audit::opener(right, SliceId(id))))
        }
    };
    let mut report = File::from(report);
    let prepared = prepare(userns);
    let said = match &prepared {
        Ok(_) => SERVES.to_owned(),
        Err(error) => format!("{error:#}"),
    };
    report.write_all(said.as_bytes())?;
    drop(report);
    broker::serve(broker::Broker {
        listener,
        filter,
        packets,
        namespaces: prepared?,
        audit,
    })
    .context("answer calls for raw sockets")
}

/// Gives up every right that is not needed; the namespaces to compare with.
fn prepare(userns: Option<u64>) -> anyhow::Result<Option<Namespaces>> {
    let mut rights = CapsHashSet::from([Capability::CAP_NET_RAW]);
    let namespaces = match userns {
        None => None,
        Some(user) => {
            // To see in which namespaces a caller is.
            rights.insert(Capability::CAP_SYS_PTRACE);
            let net = fs::metadata("/proc/self/ns/net")?.ino();
            Some(Namespaces { net, user })
        }
    };
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).context("limit open files")?;
    keep(&rights).context("give up rights")?;
    // Mounted with hidepid, nobody's rights can be seen.
    fs::read("/proc/1/status")
        .context("read /proc/1/status as nobody: remount /proc without hidepid")?;
    Ok(namespaces)
}

/// Nobody, with these rights for good and no others.
fn keep(rights: &CapsHashSet) -> anyhow::Result<()> {
    prctl::set_keepcaps(true)?;
    setgroups(&[])?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    caps::set(None, CapSet::Effective, rights)?;
    caps::set(None, CapSet::Permitted, rights)?;
    caps::clear(None, CapSet::Inheritable)?;
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    Ok(())
}

/// The descriptor that the first process sends; none where it failed before.
fn receive(from_first: &OwnedFd) -> anyhow::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(
        from_first.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .context("hear from the slice's first process")?;
    if message.bytes == 0 {
        return Ok(None);
    }
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(rights) = control
            && let [right] = rights[..]
        {
            return Ok(Some(process::owned(right)));
        }
    }
    bail!("hear from the slice's first process: it sent no calls")
}
