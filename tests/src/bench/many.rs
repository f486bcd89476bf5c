//! A node with a thousand slices, and a socket of each in one program.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::cgroups::{self, join};
use super::htb;
use super::policy;
use super::wire::run;

/// How many.
pub const SLICES: usize = 1_000;
/// Bytes of a datagram.
const DATAGRAM: [u8; 64] = [0; 64];

/// The slices. Gone when dropped.
pub struct Many {
    /// Each slice's.
    sockets: Vec<UdpSocket>,
    /// Each slice's cgroup.
    pub cgroups: Vec<PathBuf>,
    home: PathBuf,
    devices: Vec<String>,
}

/// Whom a device reaches: nobody has the address, and nobody answers.
pub fn far(device: usize) -> Ipv4Addr {
    let number = u8::try_from(device).unwrap_or(0);
    Ipv4Addr::new(198, 51, 100, number * 4 + 2)
}

impl Many {
    /// Lays the devices, of which the first has no shaper, then has the node come up with
    /// this in its file.
    ///
    /// # Errors
    /// The node does not come up, or a slice is given no socket.
    pub fn new(devices: &[&str], prepare: impl FnOnce() -> Result<()>, node: &str) -> Result<Many> {
        let mut many = Many {
            sockets: Vec::new(),
            cgroups: Vec::new(),
            home: cgroups::own()?,
            devices: devices.iter().map(|&device| device.to_owned()).collect(),
        };
        run("ip netns add slice-bench")?;
        for (number, device) in devices.iter().enumerate() {
            lay(number, device)?;
        }
        prepare()?;
        let names: Vec<String> = (0..SLICES).map(|number| format!("s{number}")).collect();
        let slices: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        policy::write(node, &slices)?;
        run(&format!("slice --policy {} up", policy::DIRECTORY))?;
        let limit = Some(4 * SLICES as u64);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit,
                maximum: limit,
            },
        )?;
        let inside = run("slice run s0 -- cat /proc/self/cgroup")?;
        let inside = inside.trim().strip_prefix("0::/").context("a cgroup")?;
        for (at, name) in names.iter().enumerate() {
            let payload = inside.replacen("/s0/", &format!("/{name}/"), 1);
            let payload = Path::new(cgroups::ROOT).join(payload);
            let socket =
                born_in(&payload, at).with_context(|| format!("make a socket of {name}"))?;
            many.sockets.push(socket);
            many.cgroups
                .push(payload.parent().context("a cgroup")?.to_owned());
        }
        join(&many.home)?;
        Ok(many)
    }

    /// Sends a datagram of a slice through a device.
    ///
    /// # Errors
    /// It is refused.
    pub fn send(&self, slice: usize, device: usize, port: u16) -> Result<()> {
        let to = SocketAddrV4::new(far(device), port);
        self.sockets[slice].send_to(&DATAGRAM, to)?;
        Ok(())
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        let _ = join(&self.home);
        let _ = run("slice down");
        for device in &self.devices {
            let _ = run(&format!("ip link del {device}"));
        }
        let _ = run("ip netns del slice-bench");
    }
}

/// Packets that have left by a device.
///
/// # Errors
/// There is no such device.
pub fn packets(device: &str) -> Result<u64> {
    let path = format!("/sys/class/net/{device}/statistics/tx_packets");
    Ok(fs::read_to_string(path)?.trim().parse()?)
}

/// A socket that belongs to the slice of this cgroup, and to the `at`th class of HTB.
fn born_in(cgroup: &Path, at: usize) -> Result<UdpSocket> {
    join(cgroup)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let priority = htb::handle(at);
    // SAFETY: the socket lives, and the option's value is as long as it says.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PRIORITY,
            (&raw const priority).cast(),
            size_of_val(&priority).try_into()?,
        )
    };
    ensure!(done == 0, "{}", std::io::Error::last_os_error());
    Ok(socket)
}

/// A device whose far end takes what comes and does nothing with it.
fn lay(number: usize, device: &str) -> Result<()> {
    let [a, b, c, d] = far(number).octets();
    let near = format!("{a}.{b}.{c}.{}", d - 1);
    for command in [
        format!("ip link add {device} type veth peer name {device} netns slice-bench"),
        format!("ip link set {device} arp off"),
        format!("ip addr add {near}/30 dev {device}"),
        format!("ip link set {device} up"),
        format!("ip -n slice-bench link set {device} up"),
        format!("tc -n slice-bench qdisc add dev {device} clsact"),
        format!("tc -n slice-bench filter add dev {device} ingress matchall action drop"),
    ] {
        run(&command)?;
    }
    Ok(())
}
