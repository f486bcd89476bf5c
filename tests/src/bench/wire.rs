//! A pair of devices into another network namespace: traffic that leaves the
//! node and costs nothing else.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Where the server at the other end listens.
pub const FAR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 5001);

const COMMANDS: &[&str] = &[
    "ip netns add slice-bench",
    "ip link add bench0 type veth peer name bench1 netns slice-bench",
    "ip addr add 192.0.2.1/24 dev bench0",
    "ip link set bench0 up",
    "ip -n slice-bench addr add 192.0.2.2/24 dev bench1",
    "ip -n slice-bench link set bench1 up",
    "ip -n slice-bench link set lo up",
];

/// The wire, with a server of traffic at the far end. Gone when dropped.
pub struct Wire {
    server: Option<Child>,
}

impl Wire {
    /// Lays it.
    ///
    /// # Errors
    /// A command fails.
    pub fn new() -> Result<Wire> {
        let mut wire = Wire { server: None };
        for command in COMMANDS {
            run(command)?;
        }
        let mut server = Command::new("ip")
            .args(["netns", "exec", "slice-bench"])
            .arg(std::env::current_exe()?)
            .args(["traffic", "--server", &FAR.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context("start the server at the far end")?;
        let output = server.stdout.take();
        wire.server = Some(server);
        // It says so when it listens.
        output
            .context("hear from the server")?
            .read_exact(&mut [0])
            .context("hear from the server")?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
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

/// Has a program do what these lines of its standard input say.
///
/// # Errors
/// It refuses one of them.
pub fn feed(program: &str, arguments: &[&str], lines: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    // One that refuses a line need not read the others, and says why.
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut input| input.write_all(lines.as_bytes()));
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.chars().take(400).collect();
    ensure!(
        output.status.success(),
        "{program} ended with {}: {said}",
        output.status
    );
    written.with_context(|| format!("tell {program} what to do"))
}
