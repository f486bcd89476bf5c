//! Senders that want more than a link carries, and who measures what arrives:
//! `slice-tests flood`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Bytes of a write to a stream.
const BLOCK: usize = 64 * 1024;
/// Bytes of a datagram.
pub const DATAGRAM: usize = 1400;
/// Bytes of one of a flow that sends little, and how often it does.
const SPARSE: usize = 100;
const SPARSE_EVERY: Duration = Duration::from_millis(10);
/// How long a sender rests that was told that too much waits.
const REST: Duration = Duration::from_millis(1);

/// What a sender that was late makes up for.
const LATE: Duration = Duration::from_millis(100);
/// What arrives within it is told as one number.
pub const BIN: Duration = Duration::from_millis(5);
/// Bytes that wait for the meter: it is to lose nothing.
const BUFFER: usize = 8 << 20;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// TCP, as much as goes.
    Tcp,
    /// Datagrams at a rate.
    Udp,
    /// A datagram every 10 ms, with the time in it.
    Sparse,
}

/// Options of `flood`.
#[derive(clap::Subcommand)]
pub enum Options {
    /// Send until the standard input ends
    Send {
        /// What
        #[arg(value_enum)]
        kind: Kind,
        /// Where to
        to: SocketAddr,
        /// How many at once
        #[arg(long, default_value_t = 1)]
        flows: usize,
        /// Millions of bits of payload a second, for datagrams
        #[arg(long, default_value_t = 10.0)]
        rate: f64,
    },
    /// Measure what arrives at ports of TCP and UDP, and print it
    Meter {
        /// The first port
        first: u16,
        /// How many
        count: u16,
        /// Milliseconds from the first byte until it is measured
        #[arg(long)]
        after: u64,
        /// For how many
        #[arg(long)]
        during: u64,
    },
}

/// What arrived.
#[derive(Debug, Serialize, Deserialize)]
pub struct Arrived {
    /// Bytes in each [`BIN`], port by port.
    pub bins: Vec<Vec<f64>>,
    /// Microseconds that datagrams with a time in them were on their way, sorted.
    pub delays_us: Vec<f64>,
}

impl Arrived {
    /// Millions of bits a second, port by port.
    pub fn rates(&self) -> Vec<f64> {
        self.bins.iter().map(|bins| rate(bins)).collect()
    }
}

/// Millions of bits a second of what these bins have.
pub fn rate(bins: &[f64]) -> f64 {
    let seconds = BIN.as_secs_f64() * bins.len() as f64;
    bins.iter().sum::<f64>() * 8.0 / seconds / 1e6
}

/// Sends or measures.
///
/// # Errors
/// A socket's.
pub fn run(options: &Options) -> Result<ExitCode> {
    match *options {
        Options::Send {
            kind,
            to,
            flows,
            rate,
        } => {
            for _ in 0..flows {
                thread::spawn(move || send(kind, to, rate / flows as f64));
            }
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
        }
        Options::Meter {
            first,
            count,
            after,
            during,
        } => {
            let window = [after, after + during].map(Duration::from_millis);
            let arrived = Meter::new(first, count, window)?.wait()?;
            println!("{}", serde_json::to_string(&arrived)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn send(kind: Kind, to: SocketAddr, rate: f64) -> Result<()> {
    if kind == Kind::Tcp {
        let mut stream = TcpStream::connect(to)?;
        let block = vec![0; BLOCK];
        loop {
            stream.write_all(&block)?;
        }
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let mut bytes = vec![0; if kind == Kind::Udp { DATAGRAM } else { SPARSE }];
    let every = match kind {
        Kind::Udp => Duration::from_secs_f64(DATAGRAM as f64 * 8.0 / (rate * 1e6)),
        _ => SPARSE_EVERY,
    };
    let mut due = Instant::now();
    loop {
        if kind == Kind::Sparse {
            bytes[..8].copy_from_slice(&now_ns().to_le_bytes());
        }
        // Where too much of a slice waits the kernel says so.
        if socket.send(&bytes).is_err() {
            thread::sleep(REST);
        }
        due = due.max(Instant::now().checked_sub(LATE).unwrap_or(due)) + every;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// The clock by which delays are measured.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec).unsigned_abs()
}

/// Who measures.
struct Meter {
    /// When the first byte came.
    start: OnceLock<Instant>,
    /// From when to when after it.
    window: [Duration; 2],
    bins: Vec<Vec<AtomicU64>>,
    delays_us: Mutex<Vec<f64>>,
}

impl Meter {
    fn new(first: u16, count: u16, window: [Duration; 2]) -> Result<Arc<Self>> {
        let bins = (window[1] - window[0])
            .as_millis()
            .div_ceil(BIN.as_millis());
        let meter = Arc::new(Self {
            start: OnceLock::new(),
            window,
            bins: (0..count)
                .map(|_| (0..bins).map(|_| AtomicU64::new(0)).collect())
                .collect(),
            delays_us: Mutex::default(),
        });
        for port in 0..count {
            let at = (Ipv4Addr::UNSPECIFIED, first + port);
            let listener = TcpListener::bind(at).context("listen")?;
            let datagrams = UdpSocket::bind(at).context("bind")?;
            set_socket_recv_buffer_size_force(&datagrams, BUFFER).context("widen a socket")?;
            let (streams, others) = (Arc::clone(&meter), Arc::clone(&meter));
            let number = usize::from(port);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let meter = Arc::clone(&streams);
                    thread::spawn(move || meter.stream(number, stream));
                }
            });
            thread::spawn(move || others.datagrams(number, &datagrams));
        }
        println!("ready");
        Ok(meter)
    }

    fn stream(&self, number: usize, mut stream: TcpStream) {
        let mut block = vec![0; BLOCK];
        while let Ok(length @ 1..) = stream.read(&mut block) {
            self.came(number, length);
        }
    }

    fn datagrams(&self, number: usize, socket: &UdpSocket) {
        let mut bytes = [0; 2048];
        while let Ok(length) = socket.recv(&mut bytes) {
            let measured = self.came(number, length);
            let time = bytes[..length].first_chunk().filter(|_| length == SPARSE);
            if let (true, Some(time), Ok(mut delays)) = (measured, time, self.delays_us.lock()) {
                let delay = now_ns().saturating_sub(u64::from_le_bytes(*time));
                delays.push(Duration::from_nanos(delay).as_secs_f64() * 1e6);
            }
        }
    }

    /// Whether it is measured.
    fn came(&self, number: usize, length: usize) -> bool {
        let since = self.start.get_or_init(Instant::now).elapsed();
        let bin = since
            .checked_sub(self.window[0])
            .and_then(|since| usize::try_from(since.as_millis() / BIN.as_millis()).ok())
            .and_then(|bin| self.bins[number].get(bin));
        if let Some(bin) = bin {
            bin.fetch_add(length as u64, Ordering::Relaxed);
        }
        bin.is_some()
    }

    fn wait(&self) -> Result<Arrived> {
        while self
            .start
            .get()
            .is_none_or(|start| start.elapsed() < self.window[1])
        {
            thread::sleep(Duration::from_millis(20));
        }
        let bins = self.bins.iter().map(|bins| {
            let bytes = |bin: &AtomicU64| bin.load(Ordering::Relaxed) as f64;
            bins.iter().map(bytes).collect()
        });
        let mut delays_us = self
            .delays_us
            .lock()
            .map_err(|_| anyhow::anyhow!("a thread of the meter ended"))?
            .clone();
        delays_us.sort_by(f64::total_cmp);
        Ok(Arrived {
            bins: bins.collect(),
            delays_us,
        })
    }
}
