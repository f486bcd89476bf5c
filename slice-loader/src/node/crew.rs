//! Many slices at a time: processes of this program that each do a part of the
//! work. Threads would not do: starting a slice forks, and a fork of a program
//! with threads has the locks of all of them.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use crate::sys::clone::{self, Side};

/// Does something for each item, in as many processes as there are processors;
/// what it had to say, in the order of the items.
///
/// # Errors
/// A process cannot be made, or did not come to its end: nobody knows then for
/// which of its items something was done.
pub fn share<T>(items: &[T], work: impl Fn(&T) -> Option<String>) -> anyhow::Result<Vec<String>> {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let count = processors.min(items.len());
    if count <= 1 {
        return Ok(items.iter().filter_map(work).collect());
    }
    let mut members = Vec::new();
    let mut made = Ok(());
    for first in 0..count {
        // Every `count`th, so that all end at about the same time.
        let part = || items.iter().enumerate().skip(first).step_by(count);
        match member(|| {
            part()
                .filter_map(|(at, item)| Some((at, work(item)?)))
                .collect()
        }) {
            Ok(member) => members.push(member),
            Err(error) => {
                made = Err(error);
                break;
            }
        }
    }
    // Also where one could not be made: the others hold what they work on.
    let mut said = Vec::new();
    for member in members {
        match member.end() {
            Ok(words) => said.extend(words),
            Err(error) => made = made.and(Err(error)),
        }
    }
    made?;
    said.sort_unstable();
    Ok(said.into_iter().map(|(_, words)| words).collect())
}

/// What was said of items, by their place.
type Said = Vec<(usize, String)>;

/// A process that does its part.
struct Member {
    pid: Pid,
    says: OwnedFd,
}

fn member(part: impl FnOnce() -> Said) -> anyhow::Result<Member> {
    let (says, write) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    let side = clone::fork(CloneFlags::empty(), None).context("make a process")?;
    let child = match side {
        Side::Parent(child) => child,
        Side::Child => {
            // Whoever kills the command means all of it.
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            // A panic must not go on into what only the parent shall do.
            let done = catch_unwind(AssertUnwindSafe(part));
            let told = done.is_ok_and(|said| {
                serde_json::to_vec(&said)
                    .is_ok_and(|text| File::from(write).write_all(&text).is_ok())
            });
            clone::exit(i32::from(!told))
        }
    };
    Ok(Member {
        pid: child.pid,
        says,
    })
}

impl Member {
    /// Waits until it has done its part.
    fn end(self) -> anyhow::Result<Said> {
        let mut text = Vec::new();
        let read = File::from(self.says).read_to_end(&mut text);
        let status = waitpid(self.pid, None).context("wait for a process")?;
        read.context("read a pipe")?;
        serde_json::from_slice(&text)
            .with_context(|| format!("share the work: a process ended early ({status:?})"))
    }
}
