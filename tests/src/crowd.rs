//! Many slices that send at once: `slice-tests crowd`, one program with sockets of each,
//! so that a hundred slices cost no more than their packets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::bench::cgroups::{join, own};

/// Payload of a write to a stream, and of a datagram.
const BLOCK: [u8; 4096] = [0; 4096];
const DATAGRAM: usize = 1400;
/// What waits in a stream's socket: who is told to rest is silent soon.
const BUFFER: usize = 16 << 10;
/// How long one rests that is told that too much waits.
const REST: Duration = Duration::from_millis(2);

/// Who sends, where to, and when.
#[derive(clap::Args)]
pub struct Options {
    /// The other machine
    to: Ipv4Addr,
    /// The port that the first sends to; the next sends to the next
    first: u16,
    /// Every second one sends datagrams, millions of bits of payload a second
    #[arg(long)]
    datagrams: Option<f64>,
    /// Every so many milliseconds the next one begins or rests, all but the first
    #[arg(long)]
    turns: Option<u64>,
    /// Cgroups that the sockets are born in, one for each
    cgroups: Vec<PathBuf>,
}

/// What one sends by.
enum Way {
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

/// Whether one sends, and who does.
struct Sender {
    sends: Arc<AtomicBool>,
    thread: Thread,
}

impl Sender {
    fn start(way: Way, every: Duration) -> Sender {
        let sends = Arc::new(AtomicBool::new(false));
        let gate = Arc::clone(&sends);
        let thread = thread::spawn(move || {
            // Its end is no matter here: who measures misses its bytes.
            let _ = send(way, every, &gate);
        });
        Sender {
            sends,
            thread: thread.thread().clone(),
        }
    }

    fn turn(&self) {
        self.sends.fetch_xor(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// Sends until the standard input ends.
///
/// # Errors
/// A cgroup or a socket cannot be had.
pub fn run(options: &Options) -> Result<ExitCode> {
    let most = Some(4 * options.cgroups.len() as u64 + 64);
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit)?;
    let home = own()?;
    let ways: Vec<Way> = options
        .cgroups
        .iter()
        .zip(options.first..)
        .enumerate()
        .map(|(at, (cgroup, port))| {
            let datagrams = options.datagrams.is_some() && at % 2 == 1;
            let to = SocketAddrV4::new(options.to, port);
            born_in(cgroup, to, datagrams).with_context(|| format!("{}", cgroup.display()))
        })
        .collect::<Result<_>>()?;
    join(&home)?;
    let rate = options.datagrams.unwrap_or(1.0) * 1e6 / 8.0;
    let every = Duration::from_secs_f64(DATAGRAM as f64 / rate);
    let senders: Vec<Sender> = ways
        .into_iter()
        .map(|way| Sender::start(way, every))
        .collect();
    println!("begins");
    match options.turns {
        None => senders.iter().for_each(Sender::turn),
        Some(turns) => {
            let turns = Duration::from_millis(turns);
            thread::spawn(move || {
                senders[0].turn();
                let mut due = Instant::now();
                for sender in senders[1..].iter().cycle() {
                    due += turns;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    sender.turn();
                }
            });
        }
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(ExitCode::SUCCESS)
}

fn born_in(cgroup: &Path, to: SocketAddrV4, datagrams: bool) -> Result<Way> {
    join(cgroup)?;
    if datagrams {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to)?;
        return Ok(Way::Datagrams(socket));
    }
    let stream = TcpStream::connect(to)?;
    set_socket_send_buffer_size(&stream, BUFFER)?;
    Ok(Way::Stream(stream))
}

fn send(mut way: Way, every: Duration, sends: &AtomicBool) -> Result<()> {
    let mut due = Instant::now();
    loop {
        while !sends.load(Ordering::Relaxed) {
            thread::park();
            due = Instant::now();
        }
        match &mut way {
            Way::Stream(stream) => stream.write_all(&BLOCK)?,
            Way::Datagrams(socket) => {
                if socket.send(&BLOCK[..DATAGRAM]).is_err() {
                    thread::sleep(REST);
                }
                due += every;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
    }
}
