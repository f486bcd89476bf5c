//! Fetches a page by a TCP of its own: `handshake SERVER:PORT OWN-PORT PATH`.
//!
//! What stock calls cannot say is one line: that the kernel is to leave the port
//! alone ([`port::claim`]), as it would answer the server's SYN+ACK, which it
//! knows nothing of, with a reset.
//!
//! A TCP as small as one can be: one connection, what comes out of order is
//! dropped and comes again, one segment is under way at a time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, error, io};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use safe_raw_sockets::port;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PUSH: u8 = 8;
const ACK: u8 = 16;

/// Sent again after this, so often.
const PATIENCE: Duration = Duration::from_secs(2);
const TIMES: u32 = 8;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let [server, own, path] = &words[..] else {
        eprintln!("usage: handshake SERVER:PORT OWN-PORT PATH");
        return ExitCode::from(2);
    };
    match fetch(server, own, path) {
        Ok(page) => {
            print!("{}", String::from_utf8_lossy(&page));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("handshake: {error}");
            ExitCode::FAILURE
        }
    }
}

fn fetch(server: &str, own: &str, path: &str) -> Result<Vec<u8>, Box<dyn error::Error>> {
    let mut connection = Connection::new(server.parse()?, own.parse()?)?;
    connection.exchange(SYN, &[])?;
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    connection.exchange(ACK | PUSH, request.as_bytes())?;
    while !connection.ended {
        connection.hear()?;
    }
    connection.exchange(ACK | FIN, &[])?;
    Ok(connection.page)
}

struct Connection {
    /// A raw socket of TCP in the clothes of a UDP socket: the calls are the
    /// same, and the standard library has them.
    tcp: UdpSocket,
    here: SocketAddr,
    there: SocketAddr,
    /// What is sent next, and what the server has.
    next: u32,
    acknowledged: u32,
    /// What is expected of the server; unknown before its first segment.
    expected: Option<u32>,
    page: Vec<u8>,
    /// The server sends no more.
    ended: bool,
}

impl Connection {
    fn new(there: SocketAddr, own: u16) -> io::Result<Self> {
        let (family, any): (_, IpAddr) = match there {
            SocketAddr::V4(_) => (AddressFamily::Inet, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (AddressFamily::Inet6, Ipv6Addr::UNSPECIFIED.into()),
        };
        // The kernel knows from where; nothing is sent.
        let probe = UdpSocket::bind((any, 0))?;
        probe.connect(there)?;
        let here = SocketAddr::new(probe.local_addr()?.ip(), own);
        let flags = SockFlag::SOCK_CLOEXEC;
        let tcp = socket(family, SockType::Raw, flags, SockProtocol::Tcp)?;
        port::claim(tcp.as_fd(), SocketAddr::new(any, own))?;
        let tcp = UdpSocket::from(tcp);
        tcp.set_read_timeout(Some(PATIENCE))?;
        // Another one for each run would be better; whoever guesses it could only
        // disturb this page.
        let first = std::process::id().wrapping_mul(0x9e37_79b9);
        Ok(Self {
            tcp,
            here,
            there,
            next: first,
            acknowledged: first,
            expected: None,
            page: Vec::new(),
            ended: false,
        })
    }

    /// Sends a segment until the server says that it has it.
    fn exchange(&mut self, flags: u8, data: &[u8]) -> io::Result<()> {
        let start = self.next;
        // SYN and FIN count as an octet each.
        let end = start
            .wrapping_add(number(data.len()))
            .wrapping_add(u32::from(flags & (SYN | FIN) != 0));
        for _ in 0..TIMES {
            self.next = start;
            self.send(flags, data)?;
            self.next = end;
            while self.hear()? {
                if self.acknowledged == end {
                    return Ok(());
                }
            }
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the server does not answer",
        ))
    }

    /// Waits for a segment of the server's, and says that it is here; false where
    /// none came in time.
    fn hear(&mut self) -> io::Result<bool> {
        let mut packet = [0; 65_536];
        loop {
            let length = match self.tcp.recv_from(&mut packet) {
                Ok((length, from)) if from.ip() == self.there.ip() => length,
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            if let Some(segment) = Segment::read(&packet[..length], self.here, self.there) {
                self.take(&segment)?;
                return Ok(true);
            }
        }
    }

    fn take(&mut self, segment: &Segment<'_>) -> io::Result<()> {
        if segment.flags & RST != 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if segment.flags & ACK != 0 {
            self.acknowledged = segment.acknowledges;
        }
        if segment.flags & SYN != 0 && self.expected.is_none() {
            self.expected = Some(segment.start.wrapping_add(1));
        } else if self.expected == Some(segment.start) {
            self.page.extend(segment.data);
            self.ended |= segment.flags & FIN != 0;
            let length = number(segment.data.len()) + u32::from(segment.flags & FIN);
            self.expected = Some(segment.start.wrapping_add(length));
        }
        // What takes no room in the sequence is not answered.
        if segment.data.is_empty() && segment.flags & (SYN | FIN) == 0 {
            return Ok(());
        }
        self.send(ACK, &[])
    }

    fn send(&self, flags: u8, data: &[u8]) -> io::Result<()> {
        // The largest segment that the server may send, said once.
        let (options, words): (&[u8], u8) = match flags & SYN {
            0 => (&[], 5),
            _ => (&[2, 4, 0x04, 0xd8], 6),
        };
        let mut segment = Vec::with_capacity(24 + data.len());
        segment.extend(self.here.port().to_be_bytes());
        segment.extend(self.there.port().to_be_bytes());
        segment.extend(self.next.to_be_bytes());
        segment.extend(self.expected.unwrap_or(0).to_be_bytes());
        segment.extend([words << 4, flags]);
        segment.extend(0x7fff_u16.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(options);
        segment.extend(data);
        let check = checksum(self.here.ip(), self.there.ip(), &segment);
        segment[16..18].copy_from_slice(&check.to_be_bytes());
        // A raw socket has no ports.
        let to = SocketAddr::new(self.there.ip(), 0);
        self.tcp.send_to(&segment, to).map(|_| ())
    }
}

/// A segment of the server's.
struct Segment<'p> {
    start: u32,
    acknowledges: u32,
    flags: u8,
    data: &'p [u8],
}

impl<'p> Segment<'p> {
    fn read(packet: &'p [u8], here: SocketAddr, there: SocketAddr) -> Option<Self> {
        // With IPv4 the IP header is in front.
        let tcp = match here {
            SocketAddr::V4(_) => packet.get(usize::from(packet.first()? & 15) * 4..)?,
            SocketAddr::V6(_) => packet,
        };
        let half = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
        let word = |at: usize| Some(u32::from(half(at)?) << 16 | u32::from(half(at + 2)?));
        if half(0)? != there.port() || half(2)? != here.port() {
            return None;
        }
        Some(Self {
            start: word(4)?,
            acknowledges: word(8)?,
            flags: *tcp.get(13)?,
            data: tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?,
        })
    }
}

/// A length; none here is near the end of the type.
fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// RFC 1071 over the addresses, the protocol, the length and the segment.
fn checksum(here: IpAddr, there: IpAddr, segment: &[u8]) -> u16 {
    let mut octets = Vec::with_capacity(40 + segment.len());
    for address in [here, there] {
        match address {
            IpAddr::V4(v4) => octets.extend(v4.octets()),
            IpAddr::V6(v6) => octets.extend(v6.octets()),
        }
    }
    octets.extend([0, 0, 0, 6]);
    octets.extend(number(segment.len()).to_be_bytes());
    octets.extend(segment);
    octets.resize(octets.len().next_multiple_of(2), 0);
    let words = octets.chunks_exact(2);
    let sum = words.fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
        sum + u16::from(carry)
    });
    !sum
}
