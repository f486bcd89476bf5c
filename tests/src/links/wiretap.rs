//! When each packet came out of the wire: a capture at the other machine. What a program
//! reads there comes when it runs, which is later where the machine is busy.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::beyond::Beyond;
use crate::site::{Running, Site, until};

/// pcap: the file's header, and that of a packet: seconds, microseconds, octets that
/// are kept, octets that there were.
const FILE: usize = 24;
const PACKET: usize = 16;
const MAGIC: u32 = 0xa1b2_c3d4;
/// What is kept of each.
const KEPT: &str = "96";
/// The header of Ethernet.
const FRAME: usize = 14;
const TCP: u8 = 6;
const UDP_HEADER: usize = 8;

/// A capture that runs.
pub struct Wiretap {
    tcpdump: Running,
    file: PathBuf,
}

/// A packet with bytes for a program.
pub struct Came {
    /// Microseconds, by the calendar.
    pub at_us: u64,
    pub port: u16,
    pub payload: usize,
}

impl Wiretap {
    /// Begins to capture what comes for ports from this one on.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(site: &Site, beyond: &Beyond, first: u16) -> Result<Wiretap> {
        let file = site.policy().with_file_name("wiretap.pcap");
        let (path, ports) = (file.to_str().context("UTF-8")?, format!("{first}-65535"));
        let command = [
            "tcpdump",
            "-i",
            "wire1",
            "-Q",
            "in",
            "-n",
            "-s",
            KEPT,
            "-B",
            "8192",
            "-Z",
            "root",
            "-w",
            path,
            "ip",
            "and",
            "dst",
            "portrange",
            &ports,
        ];
        let tcpdump = site.start("wiretap", beyond.command(&command))?;
        until("tcpdump listens", || {
            Ok(tcpdump.output().contains("listening on"))
        })?;
        Ok(Wiretap { tcpdump, file })
    }

    /// All that came.
    ///
    /// # Errors
    /// Something was lost, or the file is none of pcap.
    pub fn end(self) -> Result<Vec<Came>> {
        self.tcpdump.signal(Signal::INT)?;
        let said = self.tcpdump.finish()?;
        ensure!(said.contains("\n0 packets dropped by kernel"), "{said}");
        let octets = fs::read(&self.file)?;
        fs::remove_file(&self.file)?;
        parse(&octets)
    }
}

fn parse(octets: &[u8]) -> Result<Vec<Came>> {
    let word = |at: usize| -> Result<u32> {
        let bytes = octets[at..]
            .first_chunk()
            .context("the capture is cut off")?;
        Ok(u32::from_le_bytes(*bytes))
    };
    ensure!(word(0)? == MAGIC, "no file of pcap");
    let mut all = Vec::new();
    let mut at = FILE;
    while at < octets.len() {
        let [seconds, micros, kept, length] = [0, 4, 8, 12].map(|field| word(at + field));
        let (kept, length) = (kept? as usize, length? as usize);
        let packet = octets.get(at + PACKET..at + PACKET + kept);
        let packet = packet.context("the capture is cut off")?;
        let at_us = u64::from(seconds?) * 1_000_000 + u64::from(micros?);
        all.extend(came(at_us, packet, length));
        at += PACKET + kept;
    }
    Ok(all)
}

/// `None` of a packet without payload.
fn came(at_us: u64, packet: &[u8], length: usize) -> Option<Came> {
    let ip = packet.get(FRAME..)?;
    let header = usize::from(ip.first()? & 0xf) * 4;
    let inner = ip.get(header..)?;
    let own = match *ip.get(9)? {
        TCP => usize::from(inner.get(12)? >> 4) * 4,
        _ => UDP_HEADER,
    };
    // An Ethernet frame is padded to 60 octets, which are no payload.
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let total = if total == 0 { length - FRAME } else { total };
    let payload = total.checked_sub(header + own)?;
    (payload > 0).then_some(Came {
        at_us,
        port: u16::from_be_bytes([*inner.get(2)?, *inner.get(3)?]),
        payload,
    })
}
