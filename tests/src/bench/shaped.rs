//! Devices of a rate, two of each: one that is a link of the node, and one with the
//! equivalent tree of HTB.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::flood::{Arrived, Kind};
use super::policy;
use super::wire::run;

/// Millions of bits a second.
pub const RATES: [u32; 5] = [1, 10, 50, 100, 300];
/// Ports that slices send to: the first slice to the first.
const FIRST: u16 = 9200;
/// The slices, with what a link's tables say of them.
pub const SLICES: [(&str, &str); 2] = [("wide", "[link]\nshare = 3\n"), ("narrow", "")];
/// What they get of a link when both want it.
pub const PARTS: [f64; 2] = [0.75, 0.25];
/// Until it is measured.
const AFTER_MS: u64 = 1500;
/// A datagram and a segment on the wire, of what their payload is.
const OF_UDP: f64 = 1442.0 / 1400.0;
const OF_TCP: f64 = 1514.0 / 1448.0;
/// Of a link's rate, what a sender of datagrams wants.
const WANTED: f64 = 1.5;

/// Who shapes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shaper {
    Slice,
    Htb,
}

impl Shaper {
    fn device(self, rate: u32) -> String {
        let letter = match self {
            Shaper::Slice => 's',
            Shaper::Htb => 'h',
        };
        format!("{letter}{rate}")
    }

    /// The address at the far end; that of the near end is one less.
    fn peer(self, rate: u32) -> [u8; 4] {
        let number = RATES.iter().position(|of| *of == rate).unwrap_or(0);
        let number = u8::try_from(number).unwrap_or(0);
        [
            192,
            0,
            2,
            number * 8 + if self == Shaper::Htb { 6 } else { 2 },
        ]
    }
}

/// Who sends: the number of a slice, what, and in how many flows.
pub type Sender = (usize, Kind, usize);

/// The devices, and the node that is up on them. Gone when dropped.
pub struct Shaped(());

impl Shaped {
    /// Makes them.
    ///
    /// # Errors
    /// The kernel lacks something, or the node does not come up.
    pub fn new() -> Result<Shaped> {
        let shaped = Shaped(());
        run("ip netns add slice-bench")?;
        run("ip -n slice-bench link set lo up")?;
        for rate in RATES {
            for shaper in [Shaper::Slice, Shaper::Htb] {
                pair(shaper, rate)?;
            }
            tree(&Shaper::Htb.device(rate), rate)?;
        }
        policy::write(&SLICES)?;
        let links: String = RATES
            .iter()
            .map(|rate| {
                let device = Shaper::Slice.device(*rate);
                format!("[links.{device}]\nrate = \"{rate} Mbit/s\"\n")
            })
            .collect();
        policy::add_to_node(&links)?;
        run(&format!("slice --policy {} up", policy::DIRECTORY))?;
        Ok(shaped)
    }

    /// What arrives in a time while these send; rates as the wire has them.
    ///
    /// # Errors
    /// One of them does not run.
    pub fn carry(
        &self,
        shaper: Shaper,
        rate: u32,
        senders: &[Sender],
        during: Duration,
    ) -> Result<Arrived> {
        let program = std::env::current_exe()?;
        let program = program.to_str().context("a path in UTF-8")?;
        let mut meter = Running::new(&format!(
            "ip netns exec slice-bench {program} flood meter {FIRST} {} --after {AFTER_MS} --during {}",
            SLICES.len(),
            during.as_millis()
        ))?;
        meter.line().context("start the meter")?;
        let address = shaper.peer(rate).map(|part| part.to_string()).join(".");
        let running = senders
            .iter()
            .map(|&(slice, kind, flows)| {
                let port = usize::from(FIRST) + slice;
                let kind_name = format!("{kind:?}").to_lowercase();
                let wanted = f64::from(rate) * WANTED;
                Running::new(&format!(
                    "slice run {} -- {program} flood send {kind_name} {address}:{port} --flows {flows} --rate {wanted}",
                    SLICES[slice].0
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let line = meter.line().context("hear from the meter")?;
        for sender in running {
            sender.finish()?;
        }
        let mut arrived: Arrived =
            serde_json::from_str(&line).with_context(|| format!("the meter says {line}"))?;
        for &(slice, kind, _) in senders.iter().filter(|sender| sender.1 != Kind::Sparse) {
            arrived.rates[slice] *= if kind == Kind::Tcp { OF_TCP } else { OF_UDP };
        }
        // The next finds nothing of this one in a queue.
        std::thread::sleep(Duration::from_millis(300));
        Ok(arrived)
    }
}

impl Drop for Shaped {
    fn drop(&mut self) {
        let _ = run("slice down");
        for rate in RATES {
            for shaper in [Shaper::Slice, Shaper::Htb] {
                let _ = run(&format!("ip link del {}", shaper.device(rate)));
            }
        }
        let _ = run("ip netns del slice-bench");
    }
}

fn pair(shaper: Shaper, rate: u32) -> Result<()> {
    let device = shaper.device(rate);
    let far = shaper.peer(rate);
    let near = [far[0], far[1], far[2], far[3] - 1];
    let [near, far] = [near, far].map(|parts| parts.map(|part| part.to_string()).join("."));
    for command in [
        format!("ip link add {device} type veth peer name {device} netns slice-bench"),
        format!("ip addr add {near}/30 dev {device}"),
        format!("ip link set {device} up"),
        format!("ip -n slice-bench addr add {far}/30 dev {device}"),
        format!("ip -n slice-bench link set {device} up"),
    ] {
        run(&command)?;
    }
    Ok(())
}

/// The best that HTB can be given: a class for each slice with its part and all of
/// the link as a ceiling, and leaves that keep flows apart.
fn tree(device: &str, rate: u32) -> Result<()> {
    run(&format!(
        "tc qdisc add dev {device} root handle 1: htb default 10"
    ))?;
    run(&format!(
        "tc class add dev {device} parent 1: classid 1:1 htb rate {rate}mbit ceil {rate}mbit"
    ))?;
    for (slice, part) in PARTS.iter().enumerate() {
        let class = 10 + slice;
        let part = f64::from(rate * 1_000_000) * part;
        for command in [
            format!(
                "tc class add dev {device} parent 1:1 classid 1:{class} htb rate {part}bit ceil {rate}mbit quantum 1514"
            ),
            format!("tc qdisc add dev {device} parent 1:{class} fq_codel"),
        ] {
            run(&command)?;
        }
        for protocol in ["tcp", "udp"] {
            run(&format!(
                "tc filter add dev {device} parent 1: protocol ip flower ip_proto {protocol} dst_port {} classid 1:{class}",
                usize::from(FIRST) + slice
            ))?;
        }
    }
    Ok(())
}

/// A command whose words have no spaces, with a pipe at either end. Ended when its
/// input ends.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn new(command: &str) -> Result<Running> {
        let mut words = command.split(' ');
        let mut child = Command::new(words.next().context("an empty command")?)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command}"))?;
        let output = child.stdout.take().context("a pipe")?;
        Ok(Running {
            child,
            output: BufReader::new(output),
        })
    }

    /// The next line that it writes.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    fn finish(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().context("wait for a sender")?;
        Ok(())
    }
}
