//! Traffic of one process, and how fast it was: the same in a slice and
//! outside of one. `slice-tests traffic` prints one number.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::sample::Sample;

/// Sent before the clock starts.
const WARM_UP: Duration = Duration::from_millis(100);
/// The fastest of stretches as long as this counts. Both ends share one CPU and
/// never wait for another, so what makes a stretch slower than the fastest is
/// not their own.
const STRETCH: Duration = Duration::from_millis(20);
/// The same for a stream: long enough that what its buffers hold is little.
const STREAM_STRETCH: Duration = Duration::from_millis(100);
/// Bytes of one write of a stream, as iperf3 does it.
const BLOCK: usize = 128 * 1024;
/// Bytes of a datagram.
const DATAGRAM: usize = 64;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// One TCP connection as fast as it can: megabits per second.
    Stream,
    /// One byte there and one back over TCP, by turns: round trips per second.
    Turns,
    /// The same by one thread that has both ends, so that no time goes into
    /// changing threads: nanoseconds of a round trip.
    AloneTurns,
    /// Datagrams between two sockets of one thread: nanoseconds of one, sent
    /// and received.
    AloneDatagrams,
}

impl Kind {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Stream => "stream",
            Kind::Turns => "turns",
            Kind::AloneTurns => "alone-turns",
            Kind::AloneDatagrams => "alone-datagrams",
        }
    }
}

/// Options of `traffic`.
#[derive(clap::Args)]
pub struct Options {
    /// What to send; without it, serve whoever connects to `--server`
    #[arg(value_enum)]
    kind: Option<Kind>,
    /// Where the server listens; without it, this process serves itself
    #[arg(long)]
    server: Option<SocketAddr>,
    /// For how long, in milliseconds
    #[arg(long, default_value_t = 1000)]
    time: u64,
}

/// Sends, and prints the number; or serves until it is killed.
///
/// # Errors
/// A socket's.
pub fn run(options: &Options) -> Result<ExitCode> {
    let time = Duration::from_millis(options.time);
    stay_on_one_cpu();
    match (options.kind, options.server) {
        (Some(kind), server) => println!("{}", send(kind, server, time)?),
        (None, Some(address)) => {
            let listener =
                TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
            println!("listening");
            loop {
                // A client that went away is no reason to leave the others.
                let _ = serve(listener.accept()?.0);
            }
        }
        (None, None) => bail!("say what to send, or where to serve"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps this process, and the server that does the same, on the first CPU:
/// waking another one costs what the machine below likes, which in a virtual
/// one is more than the traffic and differs from one moment to the next. Where
/// it is refused the numbers are only noisier.
pub fn stay_on_one_cpu() {
    let mut first = CpuSet::new();
    first.set(0);
    let _ = sched_setaffinity(None, &first);
}

/// Sends for `time`, and returns the number of this kind. Without a server one
/// is started here, on the loopback address.
///
/// # Errors
/// A socket's.
pub fn send(kind: Kind, server: Option<SocketAddr>, time: Duration) -> Result<f64> {
    match kind {
        Kind::Stream => stream(connect(server)?, time),
        Kind::Turns => turns(connect(server)?, time),
        Kind::AloneTurns => alone_turns(time),
        Kind::AloneDatagrams => alone_datagrams(time),
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The first byte of a connection says what it is for.
const STREAM: u8 = b's';
const TURNS: u8 = b't';

fn connect(server: Option<SocketAddr>) -> Result<TcpStream> {
    let address = match server {
        Some(address) => address,
        None => {
            let listener = TcpListener::bind((HERE, 0)).context("listen")?;
            let address = listener.local_addr()?;
            // Ends with its connection.
            std::thread::spawn(move || listener.accept().map(|(connection, _)| serve(connection)));
            address
        }
    };
    let connection =
        TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

fn serve(mut connection: TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut first = [0];
    connection.read_exact(&mut first)?;
    match first {
        [STREAM] => serve_stream(connection),
        [TURNS] => {
            let mut byte = [0];
            while connection.read(&mut byte)? == 1 {
                connection.write_all(&byte)?;
            }
            Ok(())
        }
        _ => bail!("a connection that is for nothing known"),
    }
}

/// Answers at the end with the highest rate of what came, in bits per second.
fn serve_stream(mut connection: TcpStream) -> Result<()> {
    let mut block = vec![0; BLOCK];
    let mut rates = Sample::default();
    let start = Instant::now();
    let (mut since, mut bits) = (start, 0.0);
    loop {
        let count = connection.read(&mut block)?;
        if count == 0 {
            break;
        }
        bits += f64::from(u32::try_from(count)?) * 8.0;
        if since.elapsed() >= STREAM_STRETCH {
            if start.elapsed() > WARM_UP {
                rates.add(bits / since.elapsed().as_secs_f64());
            }
            (since, bits) = (Instant::now(), 0.0);
        }
    }
    let rate = rates.spread().map_or(0.0, |(_, highest)| highest);
    Ok(connection.write_all(&rate.to_le_bytes())?)
}

fn stream(mut connection: TcpStream, time: Duration) -> Result<f64> {
    connection.write_all(&[STREAM])?;
    let block = vec![0; BLOCK];
    let start = Instant::now();
    while start.elapsed() < time + WARM_UP {
        connection.write_all(&block)?;
    }
    connection.shutdown(Shutdown::Write)?;
    let mut rate = [0; 8];
    connection.read_exact(&mut rate)?;
    Ok(f64::from_le_bytes(rate) / 1e6)
}

/// Calls `step` over and over, first to warm up, then for `time`; returns the
/// nanoseconds of one call in each stretch.
///
/// # Errors
/// Those of `step`.
pub fn repeat(time: Duration, mut step: impl FnMut() -> Result<()>) -> Result<Sample> {
    let mut sample = Sample::default();
    let start = Instant::now();
    while start.elapsed() < WARM_UP + time {
        let stretch = Instant::now();
        let mut calls = 0.0;
        while stretch.elapsed() < STRETCH {
            // The clock is looked at now and then only.
            for _ in 0..16 {
                step()?;
            }
            calls += 16.0;
        }
        let ns = stretch.elapsed().as_secs_f64() * 1e9;
        if start.elapsed() > WARM_UP {
            sample.add(ns / calls);
        }
    }
    Ok(sample)
}

fn turns(mut connection: TcpStream, time: Duration) -> Result<f64> {
    connection.write_all(&[TURNS])?;
    let sample = repeat(time, || {
        connection.write_all(&[1])?;
        Ok(connection.read_exact(&mut [0])?)
    })?;
    Ok(1e9 / fastest(&sample)?)
}

fn alone_turns(time: Duration) -> Result<f64> {
    let listener = TcpListener::bind((HERE, 0))?;
    let mut here = TcpStream::connect(listener.local_addr()?)?;
    let (mut there, _) = listener.accept()?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    let sample = repeat(time, || {
        here.write_all(&[1])?;
        there.read_exact(&mut [0])?;
        there.write_all(&[1])?;
        Ok(here.read_exact(&mut [0])?)
    })?;
    fastest(&sample)
}

fn alone_datagrams(time: Duration) -> Result<f64> {
    let (here, there) = (UdpSocket::bind((HERE, 0))?, UdpSocket::bind((HERE, 0))?);
    here.connect(there.local_addr()?)?;
    let mut bytes = [0; DATAGRAM];
    let sample = repeat(time, || {
        here.send(&[0; DATAGRAM])?;
        there.recv(&mut bytes)?;
        Ok(())
    })?;
    fastest(&sample)
}

/// The least of them.
///
/// # Errors
/// There are none.
pub fn fastest(sample: &Sample) -> Result<f64> {
    Ok(sample.spread().context("no time to measure in")?.0)
}
