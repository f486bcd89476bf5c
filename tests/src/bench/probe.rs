//! What a program does that measures a network: opens sockets, writes packets,
//! captures, asks for echoes; and how fast it was. The same in a slice and
//! outside of one: `slice-tests probe` prints one number.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use policy::abi::UDP;
use socket2::{Domain, Protocol, Socket, Type};

use super::frame::{Flow, v4};
use super::traffic::{fastest, repeat, stay_on_one_cpu};

/// The near end of the wire, and its far end.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// An address on the wire that is nobody's: what is sent there ends at the far
/// end without an answer.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// Their Ethernet addresses.
pub const NEAR_STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const FAR_STATION: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The near end's device.
pub const DEVICE: &str = "bench0";
/// Where the far end sends as many datagrams as it is asked for.
pub const SPRINKLER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(FAR), 5002);

/// Datagrams that are asked for at a time: they fit into a socket's buffer.
const BURST: u16 = 128;
/// IP header of an echo request, in octets.
const IP_HEADER: usize = 20;
const ETHERNET_HEADER: usize = 14;
/// `PACKET_STATISTICS`.
const STATISTICS: i32 = 6;

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// A raw socket is opened and closed: milliseconds of one.
    Open,
    /// The same with a packet socket.
    OpenPacket,
    /// UDP datagrams with a header of one's own: packets per second.
    SendRaw,
    /// The same in frames.
    SendFrames,
    /// Datagrams to a port of one's own are captured, all of them: packets per
    /// second.
    Capture,
    /// An echo is asked for and comes: microseconds.
    Echo,
}

impl Kind {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Open => "open",
            Kind::OpenPacket => "open-packet",
            Kind::SendRaw => "send-raw",
            Kind::SendFrames => "send-frames",
            Kind::Capture => "capture",
            Kind::Echo => "echo",
        }
    }
}

/// Options of `probe`.
#[derive(clap::Args)]
pub struct Options {
    /// What to do; without it, be the far end
    #[arg(value_enum)]
    kind: Option<Kind>,
    /// The port to do it from
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// For how long, in milliseconds
    #[arg(long, default_value_t = 700)]
    time: u64,
}

/// Does it, and prints the number; or serves until it is killed.
///
/// # Errors
/// A socket's.
pub fn run(options: &Options) -> Result<ExitCode> {
    stay_on_one_cpu();
    let time = Duration::from_millis(options.time);
    let Some(kind) = options.kind else {
        return sprinkle();
    };
    let number = match kind {
        Kind::Open => open(time, || raw_socket(Protocol::ICMPV4))?,
        Kind::OpenPacket => open(time, || packet_socket(0))?,
        Kind::SendRaw => send_raw(options.port, time)?,
        Kind::SendFrames => send_frames(options.port, time)?,
        Kind::Capture => capture(options.port, time)?,
        Kind::Echo => echo(time)?,
    };
    println!("{number}");
    Ok(ExitCode::SUCCESS)
}

/// The far end: whoever sends a number gets so many datagrams.
fn sprinkle() -> Result<ExitCode> {
    let socket = UdpSocket::bind(SPRINKLER).context("listen at the far end")?;
    println!("listening");
    loop {
        let mut number = [0; 2];
        let (_, asker) = socket.recv_from(&mut number)?;
        for _ in 0..u16::from_be_bytes(number) {
            // Who does not listen any more is not worth an error.
            let _ = socket.send_to(&[0; 64], asker);
        }
    }
}

fn raw_socket(protocol: Protocol) -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(protocol))
}

fn packet_socket(protocol: u16) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(protocol.to_be()));
    Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
}

fn open(time: Duration, open: impl Fn() -> io::Result<Socket>) -> Result<f64> {
    let sample = repeat(time, || {
        drop(open()?);
        Ok(())
    })?;
    Ok(fastest(&sample)? / 1e6)
}

/// What is sent to nobody: a whole frame.
fn datagram(port: u16) -> Vec<u8> {
    let flow = Flow {
        source: v4(NEAR),
        destination: v4(NOBODY),
        protocol: UDP,
        source_port: port,
        destination_port: 7,
    };
    let mut frame = flow.frame();
    frame[..6].copy_from_slice(&FAR_STATION);
    frame[6..12].copy_from_slice(&NEAR_STATION);
    frame
}

fn send_raw(port: u16, time: Duration) -> Result<f64> {
    let socket = raw_socket(Protocol::from(libc::IPPROTO_RAW))?;
    let frame = datagram(port);
    let packet = &frame[ETHERNET_HEADER..];
    let to = SocketAddrV4::new(NOBODY, 0).into();
    let sample = repeat(time, || {
        ensure!(socket.send_to(packet, &to)? == packet.len(), "sent in part");
        Ok(())
    })?;
    Ok(1e9 / fastest(&sample)?)
}

fn send_frames(port: u16, time: Duration) -> Result<f64> {
    let socket = packet_socket(0)?;
    bind(&socket)?;
    let frame = datagram(port);
    let sample = repeat(time, || {
        ensure!(socket.send(&frame)? == frame.len(), "sent in part");
        Ok(())
    })?;
    Ok(1e9 / fastest(&sample)?)
}

/// Binds a packet socket to the wire, for IPv4: then it is shown what comes and
/// not what leaves.
fn bind(socket: &Socket) -> Result<()> {
    let number = rustix::net::netdevice::name_to_index(socket, DEVICE)?;
    let family = u16::try_from(libc::AF_PACKET)?;
    let protocol = u16::try_from(libc::ETH_P_IP)?.to_be();
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
    // SAFETY: the closure writes a whole `sockaddr_ll`, which fits, and says
    // its length.
    let (_, address) = unsafe {
        socket2::SockAddr::try_init(|storage, length| {
            storage
                .cast::<libc::sockaddr_ll>()
                .write(libc::sockaddr_ll {
                    sll_family: family,
                    sll_protocol: protocol,
                    sll_ifindex: number.cast_signed(),
                    sll_hatype: 0,
                    sll_pkttype: 0,
                    sll_halen: 0,
                    sll_addr: [0; 8],
                });
            *length = size;
            Ok(())
        })
    }?;
    Ok(socket.bind(&address)?)
}

/// What one asks for comes in bursts; the sender's time is in the number, as
/// both share a CPU.
fn capture(port: u16, time: Duration) -> Result<f64> {
    let asker = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    asker.bind(&SocketAddrV4::new(NEAR, port).into())?;
    asker.connect(&SPRINKLER.into())?;
    // What is captured is not read a second time.
    asker.set_recv_buffer_size(1)?;
    let socket = packet_socket(0)?;
    bind(&socket)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut octets = [MaybeUninit::uninit(); 256];
    let mut best = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed() < time {
        let burst = Instant::now();
        asker.send(&BURST.to_be_bytes())?;
        for number in 0..BURST {
            socket
                .recv(&mut octets)
                .with_context(|| format!("{number} of {BURST} packets captured"))?;
        }
        best = best.min(burst.elapsed().as_secs_f64());
    }
    let lost = lost(&socket)?;
    ensure!(lost == 0, "{lost} packets were lost");
    Ok(f64::from(BURST) / best)
}

/// Packets for which there was no room.
fn lost(socket: &Socket) -> Result<u32> {
    let mut statistics = [0_u32; 2];
    let mut length = libc::socklen_t::try_from(size_of_val(&statistics))?;
    // SAFETY: the kernel writes at most `length` octets, which there are.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            STATISTICS,
            statistics.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    ensure!(
        code == 0,
        "ask for what was lost: {}",
        io::Error::last_os_error()
    );
    Ok(statistics[1])
}

fn echo(time: Duration) -> Result<f64> {
    let mut socket = raw_socket(Protocol::ICMPV4)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(&SocketAddrV4::new(FAR, 0).into())?;
    let identifier = u16::try_from(std::process::id() & 0xffff)?;
    let [high, low] = identifier.to_be_bytes();
    let mut request = [8, 0, 0, 0, high, low, 0, 1];
    // One's complement of the sum of its words.
    let sum = 0xffff - (0x0801 + u32::from(identifier)) % 0xffff;
    request[2..4].copy_from_slice(&u16::try_from(sum)?.to_be_bytes());
    let mut octets = [0; 256];
    let sample = repeat(time, || {
        ensure!(socket.send(&request)? == request.len(), "sent in part");
        for _ in 0..16 {
            let length = socket.read(&mut octets).context("an echo comes")?;
            let answer = octets.get(IP_HEADER..length).unwrap_or_default();
            if answer.first() == Some(&0) && answer.get(4..6) == Some(&[high, low]) {
                return Ok(());
            }
        }
        bail!("other packets came and no echo");
    })?;
    Ok(fastest(&sample)? / 1e3)
}
