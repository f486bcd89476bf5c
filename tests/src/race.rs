//! Two slices race for one port on two CPUs: one wins, always.
//!
//! `slice-tests race SIDE ROUNDS` is one runner. Both have the same file as
//! their standard input, an unlinked one of 8-byte cells: two with the round
//! each has reached, then two a round with how its bind(2) ended.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Site, until};
use crate::stage::NODE;

pub const TESTS: &[Test] = &[test(
    "two_slices_race_for_one_port_and_one_wins_each_time",
    two_slices_race_for_one_port_and_one_wins_each_time,
)
.within(120)
.on_stage()];

/// Rounds of each kind of race.
const ROUNDS: u64 = 2000;
/// The port.
const PORT: u16 = 9999;

/// How a bind ended.
const WON: u64 = 1;
const LOST: u64 = 2;
/// With another error: this, and its number.
const FAILED: u64 = 1000;

const EADDRINUSE: i32 = 98;

/// A socket that has the port.
enum Held {
    Tcp(#[expect(dead_code, reason = "held until it is dropped")] TcpListener),
    Udp(#[expect(dead_code, reason = "held until it is dropped")] UdpSocket),
}

/// What the two sides bind; but for the first, the kernel alone would let both
/// have it.
const ADDRESSES: [[IpAddr; 2]; 4] = [
    [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    ],
    [IpAddr::V4(Ipv4Addr::UNSPECIFIED), NODE[1]],
    [NODE[1], NODE[0]],
    [NODE[0], NODE[1]],
];

/// What a side tries in a round.
fn attempt(round: u64, side: u64) -> io::Result<Held> {
    let kind = usize::try_from(round % 8).unwrap_or_default();
    let side = usize::try_from(side % 2).unwrap_or_default();
    let address = (ADDRESSES[kind / 2][side], PORT);
    match kind % 2 {
        0 => TcpListener::bind(address).map(Held::Tcp),
        _ => UdpSocket::bind(address).map(Held::Udp),
    }
}

fn read(cells: &File, cell: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    cells.read_exact_at(&mut bytes, cell * 8)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn write(cells: &File, cell: u64, value: u64) -> io::Result<()> {
    cells.write_all_at(&value.to_ne_bytes(), cell * 8)
}

/// Waits, never sleeping, until the other side has come as far.
fn meet(cells: &File, side: u64, step: u64) -> io::Result<()> {
    write(cells, side, step)?;
    while read(cells, 1 - side)? < step {}
    Ok(())
}

/// Runs one side.
///
/// # Errors
/// The file is not there.
pub fn run(side: u64, rounds: u64) -> Result<ExitCode> {
    let cells = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut cpu = CpuSet::new();
    cpu.set(usize::try_from(side)?);
    sched_setaffinity(None, &cpu).context("stay on one CPU")?;
    for round in 0..rounds {
        meet(&cells, side, 3 * round + 1)?;
        let held = attempt(round, side);
        let outcome = match &held {
            Ok(_) => WON,
            Err(error) if error.raw_os_error() == Some(EADDRINUSE) => LOST,
            Err(error) => FAILED + u64::try_from(error.raw_os_error().unwrap_or(0))?,
        };
        write(&cells, 2 + 2 * round + side, outcome)?;
        // The winner keeps the port until the other has tried.
        meet(&cells, side, 3 * round + 2)?;
        drop(held);
        meet(&cells, side, 3 * round + 3)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn two_slices_race_for_one_port_and_one_wins_each_time(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let before = site.counters()?;
    let path = node.dir().join("cells");
    let cells = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    cells.set_len(8 * (2 + 2 * ROUNDS))?;
    let program = std::env::current_exe()?;
    let program = program.to_str().context("a path in UTF-8")?;
    let rounds = ROUNDS.to_string();
    let mut runners = Vec::new();
    for (side, slice) in ["alpha", "beta"].into_iter().enumerate() {
        let mut command = site.in_slice(slice, &[program, "race", &side.to_string(), &rounds]);
        command.stdin(cells.try_clone()?);
        runners.push(site.start_with_input(slice, command)?);
    }
    until("the race ends", || {
        for runner in &mut runners {
            if let Some(status) = runner.ended()? {
                ensure!(
                    status.success(),
                    "a runner ended with {status}: {}",
                    runner.output()
                );
            }
        }
        Ok(runners
            .iter_mut()
            .all(|runner| matches!(runner.ended(), Ok(Some(_)))))
    })?;
    let mut wins = [0u64; 2];
    for round in 0..ROUNDS {
        let outcomes = [read(&cells, 2 + 2 * round)?, read(&cells, 3 + 2 * round)?];
        match outcomes {
            [WON, LOST] => wins[0] += 1,
            [LOST, WON] => wins[1] += 1,
            _ => anyhow::bail!("round {round} of {ROUNDS} ended with {outcomes:?}"),
        }
    }
    // A race that one side always wins is none.
    ensure!(
        wins.iter().all(|wins| *wins > ROUNDS / 50),
        "wins: {wins:?}"
    );
    let change = site.counters()?.since(&before);
    for slice in ["alpha", "beta"] {
        let claims = change.by(slice, "claims");
        ensure!(claims == 0, "{slice} is left with {claims} claims");
        let denied = change.by(slice, "denials.port_claimed");
        ensure!(
            denied <= i64::try_from(ROUNDS)?,
            "{denied} denials in {ROUNDS} rounds"
        );
    }
    Ok(())
}
