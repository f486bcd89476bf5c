//! One command in a slice, from inside: a child of the slice's first process
//! that reads a request, runs the command and tells how it ended.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use super::request::{ANSWER, Answer, LONGEST, Request, Run, Stdio as Stream};
use super::users::User;
use crate::sys;

/// Directories that programs are found in.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a client may take to say what it wants.
const PATIENCE: i64 = 10;

/// The connection to whoever asked.
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl Connection {
    /// Takes over an accepted socket.
    pub fn from_raw(socket: RawFd) -> Self {
        Self(sys::process::owned(socket))
    }

    fn answer(&self, answer: Answer, descriptor: Option<&OwnedFd>) {
        let bytes = answer.to_bytes();
        let descriptors: Vec<RawFd> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let control = if descriptors.is_empty() {
            &[]
        } else {
            &rights[..]
        };
        // Who is gone is told nothing.
        let _ = sendmsg::<()>(
            self.0.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
    }

    /// The request and its descriptors.
    fn request(&self) -> Option<(Request, Vec<OwnedFd>)> {
        let patience = TimeVal::new(PATIENCE, 0);
        setsockopt(&self.0, sockopt::ReceiveTimeout, &patience).ok()?;
        let mut bytes = vec![0; LONGEST];
        let mut space = nix::cmsg_space!([RawFd; 3]);
        let (length, descriptors) = {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let message = recvmsg::<()>(
                self.0.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )
            .ok()?;
            let mut descriptors = Vec::new();
            for control in message.cmsgs().ok()? {
                if let ControlMessageOwned::ScmRights(rights) = control {
                    descriptors.extend(rights.into_iter().map(sys::process::owned));
                }
            }
            (message.bytes, descriptors)
        };
        let request = Request::from_bytes(bytes.get(..length)?).ok()?;
        Some((request, descriptors))
    }
}

/// Tells whoever asked that no process can be made.
pub fn refuse(connection: &Connection, error: &io::Error) {
    let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
    connection.answer(Answer::NotStarted(errno), None);
}

/// Serves one connection; the status this process ends with is nobody's.
pub fn run(connection: &Connection) -> i32 {
    if let Some((request, descriptors)) = connection.request() {
        let answer = match &request.run {
            Run::Stop(milliseconds) => stop(Duration::from_millis(u64::from(*milliseconds))),
            _ => command(connection, &request, descriptors),
        };
        connection.answer(answer, None);
    }
    0
}

/// Asks every process but the first and this one to end, and waits.
fn stop(patience: Duration) -> Answer {
    let start = Instant::now();
    let tell = |signal| {
        let _ = kill(Pid::from_raw(-1), signal);
    };
    tell(Signal::SIGTERM);
    // A process that is stopped ends only once it goes on.
    tell(Signal::SIGCONT);
    let mut hung_up = false;
    while start.elapsed() < patience && others() {
        // Shells that people sit at do not hear SIGTERM; and who has its own
        // way to end at SIGTERM must not be ended by this one meanwhile.
        if !hung_up && start.elapsed() > patience / 2 {
            tell(Signal::SIGHUP);
            hung_up = true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Answer::Exited(0)
}

/// Whether the slice has processes but its first and this one.
fn others() -> bool {
    let me = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name.bytes().all(|byte| byte.is_ascii_digit()) && name != "1" && name != me
    })
}

fn command(connection: &Connection, request: &Request, descriptors: Vec<OwnedFd>) -> Answer {
    let Some(user) = User::find(&request.user) else {
        return Answer::NoUser;
    };
    let mut command = to_run(&request.run, &user);
    dress(&mut command, request, &user);
    let mut descriptors = descriptors.into_iter();
    let mut terminal = None;
    match request.terminal {
        Some(size) => match Terminal::open(size) {
            Ok(opened) => {
                connection.answer(Answer::Terminal, Some(&opened.master));
                terminal = Some(opened.slave);
            }
            Err(error) => return not_started(&error),
        },
        None => {
            let mut stream = |kind| match kind {
                Stream::Passed => descriptors.next().map_or_else(Stdio::null, Stdio::from),
                Stream::Null => Stdio::null(),
            };
            let [input, output, error] = request.stdio;
            command.stdin(stream(input));
            command.stdout(stream(output));
            command.stderr(stream(error));
        }
    }
    let children = SigSet::from(Signal::SIGCHLD);
    let Ok(ended) = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC) else {
        return Answer::NotStarted(libc::EMFILE);
    };
    let child =
        sys::process::in_new_session(&mut command, Some(user.credentials()), terminal).spawn();
    // What it holds of the streams must end with the command.
    drop(command);
    match child {
        Ok(mut child) => {
            let Some(pid) = i32::try_from(child.id()).ok().map(Pid::from_raw) else {
                return Answer::NotStarted(libc::EAGAIN);
            };
            wait(connection, &ended, pid, || child.try_wait().ok().flatten())
        }
        Err(error) => not_started(&error),
    }
}

fn not_started(error: &io::Error) -> Answer {
    Answer::NotStarted(error.raw_os_error().unwrap_or(libc::EINVAL))
}

fn to_run(run: &Run, user: &User) -> Command {
    let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    match run {
        Run::Command(words) => {
            let mut words = words.iter().map(|word| os(word));
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words);
            command
        }
        Run::Line(line) => {
            let mut command = Command::new(&user.shell);
            command.arg("-c").arg(os(line));
            command
        }
        // A shell is a login shell if its name begins with a minus.
        Run::Login | Run::Stop(_) => {
            let mut command = Command::new(&user.shell);
            let name = user.shell.file_name().unwrap_or_default();
            let mut first = OsString::from("-");
            first.push(name);
            command.arg0(first);
            command
        }
    }
}

/// Environment and directory of a login.
fn dress(command: &mut Command, request: &Request, user: &User) {
    command.env_clear();
    for entry in &request.environment {
        if let Some(at) = entry.iter().position(|byte| *byte == b'=')
            && at > 0
        {
            command.env(
                OsStr::from_bytes(&entry[..at]),
                OsStr::from_bytes(&entry[at + 1..]),
            );
        }
    }
    command
        .env("PATH", SEARCH_PATH)
        .env("HOME", &user.home)
        .env("USER", OsString::from_vec(user.name.clone()))
        .env("LOGNAME", OsString::from_vec(user.name.clone()))
        .env("SHELL", &user.shell);
    let home = fs::metadata(&user.home).is_ok_and(|home| home.is_dir());
    command.current_dir(if home {
        user.home.clone()
    } else {
        PathBuf::from("/")
    });
}

/// A terminal of the slice's own: none of the node's ever enters a slice,
/// where a program could type into it.
struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    fn open((rows, columns): (u16, u16)) -> io::Result<Self> {
        use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        if rows != 0 && columns != 0 {
            let size = rustix::termios::Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(&master, size)?;
        }
        Ok(Self { master, slave })
    }
}

/// Passes signals on until the command ends. Where whoever asked is gone, the
/// command is told as by a terminal that hung up.
fn wait(
    connection: &Connection,
    children: &SignalFd,
    pid: Pid,
    mut ended: impl FnMut() -> Option<ExitStatus>,
) -> Answer {
    let group = |signal: Signal| {
        // It leads a group of its own from its start.
        let _ = kill(Pid::from_raw(-pid.as_raw()), signal);
    };
    loop {
        if let Some(status) = ended() {
            return match (status.code(), status.signal()) {
                (Some(code), _) => Answer::Exited(code),
                (None, Some(signal)) => Answer::Signaled(signal),
                (None, None) => Answer::Exited(0),
            };
        }
        let mut ready = [
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(connection.0.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return Answer::NotStarted(libc::EIO),
        }
        if ready[0].any() == Some(true) {
            let _ = children.read_signal();
        }
        if ready[1].any() == Some(true) {
            match signal_from(connection) {
                Some(Some(signal)) => group(signal),
                Some(None) => {}
                None => {
                    group(Signal::SIGHUP);
                    group(Signal::SIGCONT);
                    return Answer::Exited(0);
                }
            }
        }
    }
}

/// A signal to pass on; `None` where the client is gone.
fn signal_from(connection: &Connection) -> Option<Option<Signal>> {
    let mut bytes = [0; ANSWER];
    match nix::sys::socket::recv(connection.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
        Ok(ANSWER) => match Answer::from_bytes(&bytes) {
            Some(Answer::Signaled(signal)) => Some(Signal::try_from(signal).ok()),
            _ => Some(None),
        },
        Ok(0) => None,
        Ok(_) => Some(None),
        Err(Errno::EINTR | Errno::EAGAIN) => Some(None),
        Err(_) => None,
    }
}
