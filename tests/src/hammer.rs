//! The hammer: `slice-tests hammer`, run inside a slice, tries what the policy
//! of a siege (`siege.rs`) forbids it, without a pause, until its input ends.
//! Then it says how often it tried, and what it got away with.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{io, thread};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::beyond::{PEER, REFUSED_PORT};

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Attempts of all kinds.
    pub tries: u64,
    /// Those that were not refused with the error that they must get.
    pub broken: u64,
    /// The first of these.
    pub first: Option<String>,
}

/// One thing that is forbidden, the error that it must get, and its name.
struct Attempt {
    name: &'static str,
    errno: i32,
    make: fn(&Sockets) -> io::Result<()>,
}

/// Sockets that live as long as the hammer, as old as the siege: what was
/// remembered of them must not become a way round.
struct Sockets {
    /// Bound to ::1 and connected to the other machine.
    forger: UdpSocket,
    plain: UdpSocket,
    plain6: UdpSocket,
}

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;

const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "send from ::1 to another machine",
        errno: EPERM,
        make: |sockets| sockets.forger.send(b"x").map(drop),
    },
    Attempt {
        name: "send from ::1 to another machine by a new socket",
        errno: EPERM,
        make: |_| forger()?.send(b"x").map(drop),
    },
    Attempt {
        name: "bind TCP port 80",
        errno: EADDRINUSE,
        make: |_| TcpListener::bind("0.0.0.0:80").map(drop),
    },
    Attempt {
        name: "bind TCP port 80 of IPv6",
        errno: EADDRINUSE,
        make: |_| TcpListener::bind("[::]:80").map(drop),
    },
    Attempt {
        name: "bind UDP port 53",
        errno: EADDRINUSE,
        make: |_| UdpSocket::bind("0.0.0.0:53").map(drop),
    },
    Attempt {
        name: "bind TCP port 81, which is nobody's",
        errno: EACCES,
        make: |_| TcpListener::bind("0.0.0.0:81").map(drop),
    },
    Attempt {
        name: "bind an address that the node does not have",
        errno: EADDRNOTAVAIL,
        make: |_| UdpSocket::bind("203.0.113.9:9000").map(drop),
    },
    Attempt {
        name: "send to a refused port",
        errno: EACCES,
        make: |sockets| sockets.plain.send_to(b"x", refused(PEER[0])).map(drop),
    },
    Attempt {
        name: "send to a refused port of IPv6",
        errno: EACCES,
        make: |sockets| sockets.plain6.send_to(b"x", refused(PEER[1])).map(drop),
    },
    Attempt {
        name: "connect to a refused port",
        errno: EACCES,
        make: |_| TcpStream::connect_timeout(&refused(PEER[0]), Duration::from_secs(5)).map(drop),
    },
];

fn refused(address: &str) -> SocketAddr {
    let ip = address
        .parse()
        .unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    SocketAddr::new(ip, REFUSED_PORT)
}

fn forger() -> io::Result<UdpSocket> {
    let socket = loop {
        match UdpSocket::bind("[::1]:0") {
            // The kernel picked a port that another owner has at another address.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => break bound?,
        }
    };
    socket.connect((PEER[1], 9))?;
    Ok(socket)
}

/// Hammers until the end of the standard input.
///
/// # Errors
/// Its own sockets cannot be made.
pub fn run() -> Result<ExitCode> {
    let sockets = Sockets {
        forger: forger()?,
        plain: UdpSocket::bind("0.0.0.0:0")?,
        plain6: UdpSocket::bind("[::]:0")?,
    };
    let ended = Arc::new(AtomicBool::new(false));
    let end = ended.clone();
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        end.store(true, Ordering::Relaxed);
    });
    let mut tally = Tally::default();
    println!("hammering");
    while !ended.load(Ordering::Relaxed) {
        for attempt in ATTEMPTS {
            tally.tries += 1;
            let made = (attempt.make)(&sockets);
            let got = match &made {
                Err(error) if error.raw_os_error() == Some(attempt.errno) => continue,
                Err(error) => error.to_string(),
                Ok(()) => "success".to_owned(),
            };
            tally.broken += 1;
            tally
                .first
                .get_or_insert(format!("{}: {got}", attempt.name));
        }
    }
    println!("{}", serde_json::to_string(&tally)?);
    Ok(ExitCode::SUCCESS)
}
