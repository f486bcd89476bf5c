//! Tests that must fail, each in its own way: `cargo xtask test --self-check`
//! runs them by their full names and asserts that each failure is noticed.
//! No other run contains them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, getppid, kill_process};

use crate::node::Node;
use crate::runner::{Test, test};

pub const TESTS: &[Test] = &[
    test("broken_test_hangs", broken_test_hangs)
        .within(2)
        .broken(),
    test("broken_test_crashes", broken_test_crashes).broken(),
    test("broken_kernel_panics", broken_kernel_panics).broken(),
    test("broken_kernel_warns", broken_kernel_warns).broken(),
    test("broken_runner_dies", broken_runner_dies).broken(),
    test("broken_runner_stops", broken_runner_stops)
        .within(1)
        .broken(),
];

fn broken_test_hangs(_: &mut Node) -> Result<()> {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn broken_test_crashes(_: &mut Node) -> Result<()> {
    std::process::abort();
}

fn broken_kernel_panics(_: &mut Node) -> Result<()> {
    fs::write("/proc/sysrq-trigger", "c")?;
    Ok(())
}

fn broken_kernel_warns(_: &mut Node) -> Result<()> {
    // The console cannot tell who wrote to the kernel's log.
    fs::write("/dev/kmsg", "<4>WARNING: CPU: 0 PID: 1 at broken.c:1\n")?;
    Ok(())
}

fn broken_runner_dies(node: &mut Node) -> Result<()> {
    signal_runner(Signal::KILL)?;
    broken_test_hangs(node)
}

fn broken_runner_stops(node: &mut Node) -> Result<()> {
    signal_runner(Signal::STOP)?;
    broken_test_hangs(node)
}

fn signal_runner(signal: Signal) -> Result<()> {
    let runner: Pid = getppid().context("no parent process")?;
    Ok(kill_process(runner, signal)?)
}
