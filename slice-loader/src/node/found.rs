//! Ports that sockets of the node hold which are older than the programs: no
//! bind hook ever saw them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use anyhow::Context;
use policy::abi::{TCP, UDP};
use procfs::net::{TcpState, UdpState};
use procfs::process::FDTarget;

/// A port that a socket holds now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Holding {
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// Whether the socket is bound to a loopback address and so in nobody's
    /// way on the node's other addresses.
    pub loopback: bool,
    /// The socket, as `/proc/PID/fd` names it.
    pub inode: u64,
    /// Whether the programs saw the bind: then the port is claimed already.
    pub claimed: bool,
}

/// All ports held in the node's network namespace: by TCP sockets that listen
/// and UDP sockets that wait for anybody. Connected ones own their flow, not
/// the port. A TCP socket that is bound and neither listens nor connects is
/// not in /proc and not here; binding its port then fails in the kernel.
///
/// # Errors
/// /proc/net cannot be read. A node without IPv6 has no sockets of it.
pub fn scan() -> anyhow::Result<BTreeSet<Holding>> {
    let mut held = BTreeSet::new();
    let six = std::path::Path::new("/proc/net/tcp6").exists();
    let tcp6 = if six {
        procfs::net::tcp6().context("read /proc/net/tcp6")?
    } else {
        Vec::new()
    };
    for entry in procfs::net::tcp()
        .context("read /proc/net/tcp")?
        .into_iter()
        .chain(tcp6)
    {
        if entry.state == TcpState::Listen {
            held.insert(holding(TCP, entry.local_address, entry.inode));
        }
    }
    let udp6 = if six {
        procfs::net::udp6().context("read /proc/net/udp6")?
    } else {
        Vec::new()
    };
    for entry in procfs::net::udp()
        .context("read /proc/net/udp")?
        .into_iter()
        .chain(udp6)
    {
        if entry.state == UdpState::Close {
            held.insert(holding(UDP, entry.local_address, entry.inode));
        }
    }
    Ok(held)
}

fn holding(protocol: u8, local: std::net::SocketAddr, inode: u64) -> Holding {
    let address = match local.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    };
    Holding {
        protocol,
        port: local.port(),
        loopback: address.is_loopback(),
        inode,
        claimed: false,
    }
}

/// Which process has each of these sockets open, as `nginx (pid 812)`. One
/// that cannot be looked into is passed over.
#[must_use]
pub fn processes(sockets: &BTreeSet<u64>) -> HashMap<u64, String> {
    let mut names = HashMap::new();
    let Ok(processes) = procfs::process::all_processes() else {
        return names;
    };
    for process in processes.flatten() {
        let Ok(descriptors) = process.fd() else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            if let FDTarget::Socket(inode) = descriptor.target
                && sockets.contains(&inode)
            {
                let name = process
                    .stat()
                    .map_or_else(|_| String::from("a process"), |stat| stat.comm);
                names
                    .entry(inode)
                    .or_insert_with(|| format!("{name} (pid {})", process.pid()));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn listening_and_waiting_sockets_are_found_with_their_process_connected_ones_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let waiting = UdpSocket::bind("0.0.0.0:0").unwrap();
        let held = scan().unwrap();
        let find = |protocol, port| {
            held.iter()
                .find(|h| (h.protocol, h.port) == (protocol, port))
        };
        let listening = find(TCP, listener.local_addr().unwrap().port()).unwrap();
        assert!(listening.loopback);
        assert!(find(TCP, stream.local_addr().unwrap().port()).is_none());
        assert!(
            !find(UDP, waiting.local_addr().unwrap().port())
                .unwrap()
                .loopback
        );
        let names = processes(&BTreeSet::from([listening.inode]));
        let suffix = format!("(pid {})", std::process::id());
        assert!(names[&listening.inode].ends_with(&suffix), "{names:?}");
    }
}
