//! A change is made by a process of its own: who starts a context makes a child of itself, which a
//! process with several threads cannot, nor may the daemon in its sandbox; and what goes wrong there
//! ends no daemon. It goes on where the daemon ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::orders::{self, OfNode, Outcome};
use super::{BODY, Order};
use crate::node::control;
use crate::status::wire::Viewer;

/// Where systemd has such a process started for each connection, by `slice-control.socket`.
const SOCKET: &str = "/run/slice-control.sock";
/// Most bytes of what it is told: octets are written as numbers.
const MOST: u64 = 8 * BODY as u64;

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Task {
    /// To do what a slice asks for.
    Order {
        viewer: Viewer,
        order: Order,
        body: Vec<u8>,
    },
    /// To do what was left of a change that was interrupted.
    Settle,
}

/// Has it done.
///
/// # Errors
/// The process cannot be started, or ended before it answered.
pub fn have_done(viewer: &Viewer, order: &Order, body: &[u8]) -> anyhow::Result<Outcome> {
    let task = Task::Order {
        viewer: viewer.clone(),
        order: order.clone(),
        body: body.to_vec(),
    };
    if let Some(outcome) = hand_over(&task)? {
        return Ok(outcome);
    }
    // It was killed, for want of memory perhaps: what it left is not left until the daemon starts.
    if let Err(error) = have_settled() {
        tracing::warn!("could not finish what a slice had done to others: {error:#}");
    }
    bail!("it ended before it answered")
}

/// Has done what was left, if anything may be.
///
/// # Errors
/// The process cannot be started.
pub fn have_settled() -> anyhow::Result<()> {
    if control::is_settled() {
        return Ok(());
    }
    hand_over(&Task::Settle).map(drop)
}

fn hand_over(task: &Task) -> anyhow::Result<Option<Outcome>> {
    let task = serde_json::to_vec(task)?;
    let told = match UnixStream::connect(SOCKET) {
        Ok(mut stream) => {
            stream.write_all(&task)?;
            stream.shutdown(Shutdown::Write)?;
            line(stream)
        }
        // No systemd that has the unit.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            by_child(&task)
        }
        Err(error) => Err(error),
    };
    let told = told.context("hand a change to the process that makes it")?;
    Ok(serde_json::from_str(&told).ok())
}

/// A line and not all up to the end: what it starts may hold the other end.
fn line(from: impl Read) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(from).read_line(&mut line)?;
    Ok(line)
}

fn by_child(task: &[u8]) -> io::Result<String> {
    let mut child = Command::new("/proc/self/exe")
        .arg0("slice")
        .arg("control-do")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut to| to.write_all(task));
    let told = child.stdout.take().map_or(Ok(String::new()), line);
    child.wait()?;
    written.and(told)
}

/// Does what it is told by standard input, and answers in a line. Run by the daemon.
///
/// # Errors
/// It is told nothing that it understands.
pub fn run() -> anyhow::Result<()> {
    let mut text = Vec::new();
    io::stdin().take(MOST).read_to_end(&mut text)?;
    let (viewer, order, body) = match serde_json::from_slice(&text)? {
        Task::Order {
            viewer,
            order,
            body,
        } => (viewer, order, body),
        Task::Settle => return control::settle(),
    };
    let outcome = orders::answer(&OfNode, &viewer, &order, &body);
    let mut line = serde_json::to_vec(&outcome)?;
    line.push(b'\n');
    let mut to = io::stdout();
    // Where nobody hears it, it is done all the same.
    let _ = to.write_all(&line).and_then(|()| to.flush());
    Ok(())
}
