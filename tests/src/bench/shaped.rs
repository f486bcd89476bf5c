//! Devices of a rate, two of each: one that is a link of the node, and one with the
//! equivalent tree of HTB.

use std::time::Duration;

use anyhow::{Context, Result};

use super::flood::{Arrived, Kind};
use super::htb::{self, By, Class};
use super::policy;
use super::running::Running;
use super::wire::run;

/// Millions of bits a second.
pub const RATES: [u32; 6] = [1, 10, MIXED, 50, 100, 300];
/// The device that each slice may have terms of its own on.
pub const MIXED: u32 = 40;
/// Ports that slices send to: the first slice to the first.
const FIRST: u16 = 9200;
/// The slices, with what a link's tables say of them.
pub const SLICES: [(&str, &str); 6] = [
    ("wide", "[link]\nshare = 3\n"),
    ("narrow", ""),
    ("third", ""),
    ("fourth", ""),
    ("fifth", ""),
    ("sixth", ""),
];
/// What the first two get of a link when both want it.
pub const PARTS: [f64; 2] = [0.75, 0.25];
const SHARES: [u32; 2] = [3, 1];
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
    /// Ours first, or the other: by turns, so that a drift favours neither.
    pub fn by_turns(repeat: usize) -> [Shaper; 2] {
        let mut shapers = [Shaper::Slice, Shaper::Htb];
        shapers.rotate_left(repeat % 2);
        shapers
    }

    /// The device of this rate.
    pub fn device(self, rate: u32) -> String {
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

/// When it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// From the first byte on.
    pub after: Duration,
    pub during: Duration,
}

impl Window {
    /// Once all have begun.
    pub fn of(during: Duration) -> Window {
        Window {
            after: Duration::from_millis(1500),
            during,
        }
    }
}

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
            let bits = f64::from(rate) * 1e6;
            let class = |(part, share): (f64, u32)| Class {
                rate: bits * part,
                ceiling: bits,
                share,
            };
            let classes: Vec<Class> = PARTS.into_iter().zip(SHARES).map(class).collect();
            Self::htb(rate, &classes)?;
        }
        let links: String = RATES
            .iter()
            .map(|rate| {
                let device = Shaper::Slice.device(*rate);
                format!("[links.{device}]\nrate = \"{rate} Mbit/s\"\n")
            })
            .collect();
        policy::write(&links, &SLICES)?;
        run(&format!("slice --policy {} up", policy::DIRECTORY))?;
        Ok(shaped)
    }

    /// Gives HTB's device of this rate these classes.
    ///
    /// # Errors
    /// tc refuses them.
    pub fn htb(rate: u32, classes: &[Class]) -> Result<()> {
        let device = Shaper::Htb.device(rate);
        // A tree is not replaced by another in place.
        let _ = run(&format!("tc qdisc del dev {device} root"));
        htb::tree(&device, f64::from(rate) * 1e6, classes, By::Port(FIRST))
    }

    /// Starts who measures.
    ///
    /// # Errors
    /// It does not run.
    pub fn meter(&self, window: Window) -> Result<Running> {
        let mut meter = Running::new(&format!(
            "ip netns exec slice-bench {} flood meter {FIRST} {} --after {} --during {}",
            program()?,
            SLICES.len(),
            window.after.as_millis(),
            window.during.as_millis()
        ))?;
        meter.line().context("start the meter")?;
        Ok(meter)
    }

    /// Starts a sender.
    ///
    /// # Errors
    /// It does not run.
    pub fn send(&self, shaper: Shaper, rate: u32, sender: Sender) -> Result<Running> {
        let (slice, kind, flows) = sender;
        let address = shaper.peer(rate).map(|part| part.to_string()).join(".");
        let port = usize::from(FIRST) + slice;
        let kind_name = format!("{kind:?}").to_lowercase();
        let wanted = f64::from(rate) * WANTED;
        Running::new(&format!(
            "slice run {} -- {} flood send {kind_name} {address}:{port} --flows {flows} --rate {wanted}",
            SLICES[slice].0,
            program()?
        ))
    }

    /// What a meter says that has ended; as the wire has it, when these sent.
    ///
    /// # Errors
    /// It says nothing that is understood.
    pub fn arrived(&self, meter: &mut Running, senders: &[Sender]) -> Result<Arrived> {
        let line = meter.line().context("hear from the meter")?;
        let mut arrived: Arrived =
            serde_json::from_str(&line).with_context(|| format!("the meter says {line}"))?;
        for &(slice, kind, _) in senders.iter().filter(|sender| sender.1 != Kind::Sparse) {
            let on_wire = if kind == Kind::Tcp { OF_TCP } else { OF_UDP };
            for bytes in &mut arrived.bins[slice] {
                *bytes *= on_wire;
            }
        }
        Ok(arrived)
    }

    /// What arrives in a time while these send.
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
        let mut meter = self.meter(Window::of(during))?;
        let running = senders
            .iter()
            .map(|&sender| self.send(shaper, rate, sender))
            .collect::<Result<Vec<_>>>()?;
        let arrived = self.arrived(&mut meter, senders);
        for sender in running {
            sender.finish()?;
        }
        // The next finds nothing of this one in a queue.
        std::thread::sleep(Duration::from_millis(300));
        arrived
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

fn program() -> Result<String> {
    let program = std::env::current_exe()?;
    Ok(program.to_str().context("a path in UTF-8")?.to_owned())
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
