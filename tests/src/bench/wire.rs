//! A pair of devices into another network namespace: traffic that leaves the
//! node and costs nothing else.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The network namespace of the other end.
pub const NETNS: &str = "slice-bench";
/// The address of the other end.
pub const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

const COMMANDS: &[&str] = &[
    "ip netns add slice-bench",
    "ip link add bench0 type veth peer name bench1 netns slice-bench",
    "ip addr add 192.0.2.1/24 dev bench0",
    "ip link set bench0 up",
    "ip -n slice-bench addr add 192.0.2.2/24 dev bench1",
    "ip -n slice-bench link set bench1 up",
    "ip -n slice-bench link set lo up",
];

/// Gone when dropped.
pub struct Wire(());

impl Wire {
    /// Lays it.
    ///
    /// # Errors
    /// A command fails.
    pub fn new() -> Result<Wire> {
        let wire = Wire(());
        for command in COMMANDS {
            run(command)?;
        }
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The pair goes with either end.
        let _ = run("ip link del bench0");
        let _ = run("ip netns del slice-bench");
    }
}

/// Runs a command whose words have no spaces; returns what it printed.
pub fn run(command: &str) -> Result<String> {
    let mut words = command.split_whitespace();
    let program = words.next().context("an empty command")?;
    let output = Command::new(program)
        .args(words)
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "`{command}` ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
