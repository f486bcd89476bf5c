//! Traces the way to a host by its address: `traceroute [-I] ADDRESS`; by UDP, or
//! with `-I` by echo requests.
//!
//! There is nothing of Slice in it: it runs in a slice with `raw = "safe"` as it
//! runs as root anywhere, because a raw socket is asked for and used as ever. It
//! hears of its own packets only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, error, io};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket};
use nix::sys::socket::{sockopt::Ipv4Ttl, sockopt::Ipv6Ttl};

/// How far it looks, how often it asks each, and how long it waits for them.
const FAR: i32 = 30;
const TIMES: u16 = 3;
const PATIENCE: Duration = Duration::from_secs(3);

/// Where nobody is expected to serve UDP; each question goes to another port.
const FIRST_PORT: u16 = 33434;

fn main() -> ExitCode {
    let mut words: Vec<String> = env::args().skip(1).collect();
    let echoes = words.first().is_some_and(|word| word == "-I");
    if echoes {
        words.remove(0);
    }
    let [address] = &words[..] else {
        eprintln!("usage: traceroute [-I] ADDRESS");
        return ExitCode::from(2);
    };
    match trace(address, echoes) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("traceroute: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the host was reached.
fn trace(address: &str, echoes: bool) -> Result<bool, Box<dyn error::Error>> {
    let mut tracer = Tracer::new(address.parse()?, echoes)?;
    for hop in 1..=FAR {
        let mut line = format!("{hop:2} ");
        let mut end = false;
        for _ in 0..TIMES {
            let start = Instant::now();
            match tracer.ask(hop)? {
                Some(answer) => {
                    let took = start.elapsed().as_secs_f64() * 1000.0;
                    line += &format!(" {} {took:.1} ms", answer.from);
                    end |= answer.last;
                }
                None => line += " *",
            }
        }
        println!("{line}");
        if end {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a raw socket said of a question.
struct Answer {
    from: IpAddr,
    /// Nobody beyond will answer.
    last: bool,
}

struct Tracer {
    to: IpAddr,
    /// A raw socket of ICMP in the clothes of a UDP socket: the calls are the
    /// same, and the standard library has them.
    icmp: UdpSocket,
    /// Where questions by UDP come from.
    udp: Option<UdpSocket>,
    /// What answers quote of all questions: the port, or the identifier.
    own: u16,
    /// And of this one: the port it went to, or its number.
    number: u16,
}

impl Tracer {
    fn new(to: IpAddr, echoes: bool) -> Result<Self, Box<dyn error::Error>> {
        let (family, protocol, any): (_, _, IpAddr) = match to {
            IpAddr::V4(_) => (
                AddressFamily::Inet,
                SockProtocol::Icmp,
                Ipv4Addr::UNSPECIFIED.into(),
            ),
            IpAddr::V6(_) => (
                AddressFamily::Inet6,
                SockProtocol::IcmpV6,
                Ipv6Addr::UNSPECIFIED.into(),
            ),
        };
        let icmp = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        let udp = match echoes {
            true => None,
            // Bound, so that the port is known before the first question.
            false => Some(UdpSocket::bind((any, 0))?),
        };
        let own = match &udp {
            Some(udp) => udp.local_addr()?.port(),
            None => u16::try_from(std::process::id() & 0xffff)?,
        };
        Ok(Self {
            to,
            icmp: icmp.into(),
            udp,
            own,
            number: FIRST_PORT,
        })
    }

    /// Sends a question that lives for so many hops, and waits for an answer.
    fn ask(&mut self, hops: i32) -> io::Result<Option<Answer>> {
        self.number = self.number.wrapping_add(1);
        let through = self.udp.as_ref().unwrap_or(&self.icmp);
        match self.to {
            IpAddr::V4(_) => setsockopt(through, Ipv4Ttl, &hops)?,
            IpAddr::V6(_) => setsockopt(through, Ipv6Ttl, &hops)?,
        }
        if self.udp.is_some() {
            through.send_to(&[0; 32], SocketAddr::new(self.to, self.number))?;
        } else {
            through.send_to(&self.echo(), SocketAddr::new(self.to, 0))?;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut packet = [0; 1500];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.icmp.set_read_timeout(Some(left))?;
            match self.icmp.recv_from(&mut packet) {
                Ok((length, from)) => {
                    if let Some(last) = self.answers(&packet[..length]) {
                        let from = from.ip();
                        return Ok(Some(Answer { from, last }));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn echo(&self) -> [u8; 8] {
        let mut echo = [0; 8];
        echo[0] = if self.to.is_ipv4() { 8 } else { 128 };
        echo[4..6].copy_from_slice(&self.own.to_be_bytes());
        echo[6..8].copy_from_slice(&self.number.to_be_bytes());
        if self.to.is_ipv4() {
            // The kernel does it for IPv6.
            let check = checksum(&echo);
            echo[2..4].copy_from_slice(&check.to_be_bytes());
        }
        echo
    }

    /// Whether a packet is an answer to the question, and then whether it is the
    /// last one.
    fn answers(&self, packet: &[u8]) -> Option<bool> {
        // With IPv4 the IP header is in front.
        let (icmp, [expired, unreachable, reply]) = if self.to.is_ipv4() {
            (after_ipv4(packet, 1)?, [11, 3, 0])
        } else {
            (packet, [3, 1, 129])
        };
        let kind = *icmp.first()?;
        if kind == reply && self.udp.is_none() {
            return self.is_own(icmp, 4).then_some(true);
        }
        if kind != expired && kind != unreachable {
            return None;
        }
        let quoted = icmp.get(8..)?;
        let (protocol, ours) = match self.udp {
            Some(_) => (17, 0),
            None if self.to.is_ipv4() => (1, 4),
            None => (58, 4),
        };
        let quoted = if self.to.is_ipv4() {
            after_ipv4(quoted, protocol)?
        } else if quoted.get(6) == Some(&protocol) {
            quoted.get(40..)?
        } else {
            return None;
        };
        self.is_own(quoted, ours).then_some(kind == unreachable)
    }

    /// Whether both numbers of the question stand here.
    fn is_own(&self, octets: &[u8], at: usize) -> bool {
        let [a, b] = self.own.to_be_bytes();
        let [c, d] = self.number.to_be_bytes();
        octets.get(at..at + 4) == Some(&[a, b, c, d])
    }
}

/// What follows an IPv4 header, where it is of this protocol.
fn after_ipv4(packet: &[u8], protocol: u8) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 15) * 4;
    (*packet.get(9)? == protocol).then(|| packet.get(length..))?
}

/// RFC 1071, of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks_exact(2);
    let sum = words.fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
        sum + u16::from(carry)
    });
    !sum
}
