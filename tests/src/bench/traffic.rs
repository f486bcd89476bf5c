//! Traffic of one process, and how fast it was: the same in a slice and
//! outside of one. `slice-tests traffic` prints one number.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Sent before the clock starts.
const WARM_UP: Duration = Duration::from_millis(100);
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
    /// waking the other: nanoseconds of a round trip.
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
    #[arg(value_enum)]
    kind: Kind,
    /// Address of the server
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    server: IpAddr,
    /// Network namespace of the server
    #[arg(long)]
    netns: Option<String>,
    /// For how long, in milliseconds
    #[arg(long, default_value_t = 1000)]
    time: u64,
}

/// Sends, and prints the number.
///
/// # Errors
/// A socket's.
pub fn run(options: &Options) -> Result<std::process::ExitCode> {
    let time = Duration::from_millis(options.time);
    println!(
        "{}",
        send(options.kind, options.server, options.netns.as_deref(), time)?
    );
    Ok(std::process::ExitCode::SUCCESS)
}

/// Sends for `time`, and returns the number of this kind.
///
/// # Errors
/// A socket's.
pub fn send(kind: Kind, server: IpAddr, netns: Option<&str>, time: Duration) -> Result<f64> {
    match kind {
        Kind::Stream => stream(server, netns, time),
        Kind::Turns => turns(server, netns, time),
        Kind::AloneTurns => alone_turns(server, time),
        Kind::AloneDatagrams => alone_datagrams(server, time),
    }
}

/// Calls `step` over and over, first to warm up, then for `time`; returns the
/// calls and how long they took.
fn repeat(time: Duration, mut step: impl FnMut() -> Result<()>) -> Result<(f64, f64)> {
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        step()?;
    }
    let start = Instant::now();
    let mut calls = 0.0;
    while start.elapsed() < time {
        // The clock is looked at now and then only.
        for _ in 0..16 {
            step()?;
        }
        calls += 16.0;
    }
    Ok((calls, start.elapsed().as_secs_f64()))
}

/// Serves one connection in a thread of its own.
fn serve<T: Send + 'static>(
    address: IpAddr,
    netns: Option<&str>,
    serve: impl FnOnce(TcpStream) -> Result<T> + Send + 'static,
) -> Result<(SocketAddr, JoinHandle<Result<T>>)> {
    let netns = netns.map(|name| Path::new("/run/netns").join(name));
    let (bound, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        if let Some(path) = netns {
            let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("enter {}", path.display()))?;
        }
        let listener =
            TcpListener::bind((address, 0)).with_context(|| format!("listen on {address}"))?;
        bound.send(listener.local_addr()?)?;
        let (connection, _) = listener.accept()?;
        serve(connection)
    });
    match wait.recv() {
        Ok(address) => Ok((address, thread)),
        Err(_) => match joined(thread) {
            Err(error) => Err(error),
            Ok(_) => Err(anyhow!("the server did not say where it listens")),
        },
    }
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow!("the server's thread panicked"))?
}

fn stream(server: IpAddr, netns: Option<&str>, time: Duration) -> Result<f64> {
    let (address, thread) = serve(server, netns, |mut connection| {
        let mut block = vec![0; BLOCK];
        let mut bytes = 0.0;
        let mut start = Instant::now();
        let begin = start;
        loop {
            let count = connection.read(&mut block)?;
            if count == 0 {
                return Ok(bytes * 8.0 / start.elapsed().as_secs_f64() / 1e6);
            }
            if begin == start && begin.elapsed() >= WARM_UP {
                start = Instant::now();
            } else if begin != start {
                bytes += f64::from(u32::try_from(count)?);
            }
        }
    })?;
    let mut connection = TcpStream::connect(address).context("connect")?;
    let block = vec![0; BLOCK];
    let start = Instant::now();
    while start.elapsed() < time + WARM_UP {
        connection.write_all(&block)?;
    }
    connection.shutdown(Shutdown::Write)?;
    joined(thread)
}

fn turns(server: IpAddr, netns: Option<&str>, time: Duration) -> Result<f64> {
    let (address, thread) = serve(server, netns, |mut connection| {
        connection.set_nodelay(true)?;
        let mut byte = [0];
        while connection.read(&mut byte)? == 1 {
            connection.write_all(&byte)?;
        }
        Ok(())
    })?;
    let mut connection = TcpStream::connect(address).context("connect")?;
    connection.set_nodelay(true)?;
    let (turns, seconds) = repeat(time, || {
        connection.write_all(&[1])?;
        Ok(connection.read_exact(&mut [0])?)
    })?;
    connection.shutdown(Shutdown::Write)?;
    joined(thread)?;
    Ok(turns / seconds)
}

fn alone_turns(server: IpAddr, time: Duration) -> Result<f64> {
    let listener = TcpListener::bind((server, 0))?;
    let mut here = TcpStream::connect(listener.local_addr()?)?;
    let (mut there, _) = listener.accept()?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    let (turns, seconds) = repeat(time, || {
        here.write_all(&[1])?;
        there.read_exact(&mut [0])?;
        there.write_all(&[1])?;
        Ok(here.read_exact(&mut [0])?)
    })?;
    Ok(seconds * 1e9 / turns)
}

fn alone_datagrams(server: IpAddr, time: Duration) -> Result<f64> {
    let (here, there) = (UdpSocket::bind((server, 0))?, UdpSocket::bind((server, 0))?);
    here.connect(there.local_addr()?)?;
    let mut bytes = [0; DATAGRAM];
    let (datagrams, seconds) = repeat(time, || {
        here.send(&[0; DATAGRAM])?;
        there.recv(&mut bytes)?;
        Ok(())
    })?;
    Ok(seconds * 1e9 / datagrams)
}
