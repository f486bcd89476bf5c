//! Destinations that the node's owner refuses: to all slices or to one, by
//! prefix with exceptions, by protocol and port.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use nix::errno::Errno::{EACCES, ECONNREFUSED, EPERM, ETIMEDOUT};
use policy::Reason;

use crate::node::Node;
use crate::puppet::{Called, Kind, Puppet, Sock};
use crate::runner::{Test, test};
use crate::stage::{EXCEPTED, GAMMA, NODE, PEER, REFUSED, Stage, Sysctl, at, mapped, refused};

pub const TESTS: &[Test] = &[
    test(
        "a_refused_destination_gets_no_connection_and_no_datagram",
        refused_to_all,
    )
    .on_stage(),
    test("an_exception_of_a_refused_prefix_is_open", excepted).on_stage(),
    test(
        "a_port_is_refused_at_every_destination_for_its_protocol_alone",
        ports,
    )
    .on_stage(),
    test(
        "a_destination_refused_to_one_slice_is_open_to_others",
        one_slice,
    )
    .on_stage(),
    test("echo_requests_to_a_refused_destination_are_dropped", echo).on_stage(),
    test(
        "a_destination_refused_later_stops_sockets_that_are_connected",
        later,
    )
    .on_stage(),
    test(
        "a_tcp_server_answers_a_client_whose_port_is_refused",
        answers,
    )
    .on_stage(),
];

/// Everything a program can try to reach one destination: returns how many
/// tries the hooks of calls refuse.
fn every_way(slice: &Puppet, to: SocketAddr) -> Result<i64> {
    let udp = Kind::udp_for(to.ip());
    refused(slice.socket(Kind::tcp_for(to.ip()))?.connect(to), EACCES)?;
    refused(slice.socket(udp)?.connect(to), EACCES)?;
    refused(slice.socket(udp)?.send_to(1, to), EACCES)?;
    refused(slice.server(udp, 0)?.send_to(1, to), EACCES)?;
    if to.is_ipv6() {
        return Ok(4);
    }
    // The same through sockets of both families.
    let to = at(mapped(to.ip()), to.port());
    refused(slice.socket(Kind::TcpDual)?.connect(to), EACCES)?;
    refused(slice.socket(Kind::UdpDual)?.connect(to), EACCES)?;
    refused(slice.socket(Kind::UdpDual)?.send_to(1, to), EACCES)?;
    Ok(7)
}

fn refused_to_all(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (root, outside) = (stage.node()?, stage.outside()?);
    let tcp = outside.server(Kind::TcpDual, 9050)?;
    let udp = outside.server(Kind::UdpDual, 9050)?;
    for name in ["alpha", "beta", "gamma"] {
        let slice = stage.slice(name)?;
        let mut denied = 0;
        let change = stage.change_by(|| {
            for address in REFUSED {
                denied += every_way(&slice, at(address, 9050))?;
            }
            refused(udp.receive_within(50), ETIMEDOUT)
        })?;
        ensure!(change.by(name, "denials.destination") == denied, "{change}");
        ensure!(change.by(name, "external.sent.packets") == 0, "{change}");
    }
    // The node's own processes may.
    for address in REFUSED {
        let client = root.connected(at(address, 9050))?;
        tcp.accept()?.close();
        ensure!(client.receive()?.0 == 0, "closed");
        root.socket(Kind::udp_for(address))?
            .send_to(1, at(address, 9050))?;
        udp.receive()?;
    }
    Ok(())
}

/// A TCP connection and a datagram that arrive.
fn arrives(slice: &Puppet, tcp: &Sock<'_>, udp: &Sock<'_>, to: SocketAddr) -> Result<()> {
    let client = slice.connected(to)?;
    tcp.accept()?.close();
    ensure!(client.receive()?.0 == 0, "closed");
    slice.socket(Kind::udp_for(to.ip()))?.send_to(1, to)?;
    udp.receive()?;
    Ok(())
}

fn excepted(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    let tcp = outside.server(Kind::TcpDual, 9051)?;
    let udp = outside.server(Kind::UdpDual, 9051)?;
    stage.counts(&[], || {
        for address in EXCEPTED.into_iter().chain(PEER) {
            arrives(&alpha, &tcp, &udp, at(address, 9051))?;
        }
        Ok(())
    })?;
    // An exception is from one rule: mail stays refused.
    stage.counts(&[("alpha", Reason::Destination, 2)], || {
        for address in EXCEPTED {
            let socket = alpha.socket(Kind::tcp_for(address))?;
            refused(socket.connect(at(address, 25)), EACCES)?;
        }
        Ok(())
    })
}

fn ports(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    let udp = outside.server(Kind::UdpDual, 25)?;
    stage.counts(&[("alpha", Reason::Destination, 3)], || {
        for address in [PEER[0], PEER[1], mapped(PEER[0])] {
            let kind = if address.is_ipv4() {
                Kind::Tcp4
            } else {
                Kind::TcpDual
            };
            refused(alpha.socket(kind)?.connect(at(address, 25)), EACCES)?;
            // Nobody listens there, which the peer says itself.
            refused(alpha.socket(kind)?.connect(at(address, 26)), ECONNREFUSED)?;
            let kind = if address.is_ipv4() {
                Kind::Udp4
            } else {
                Kind::UdpDual
            };
            alpha.socket(kind)?.send_to(1, at(address, 25))?;
            udp.receive()?;
        }
        Ok(())
    })
}

fn one_slice(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, outside) = (
        stage.slice("alpha")?,
        stage.slice("beta")?,
        stage.outside()?,
    );
    let udp = outside.server(Kind::UdpDual, 7779)?;
    stage.counts(&[("beta", Reason::Destination, 4)], || {
        for address in PEER {
            let kind = Kind::udp_for(address);
            for port in [7770, 7779] {
                refused(beta.socket(kind)?.send_to(1, at(address, port)), EACCES)?;
            }
            for port in [7769, 7780] {
                beta.socket(kind)?.send_to(1, at(address, port))?;
            }
            alpha.socket(kind)?.send_to(1, at(address, 7779))?;
            udp.receive()?;
        }
        Ok(())
    })
}

/// An echo request without data; the kernel fills in identifier and checksum.
fn echo_request(address: IpAddr) -> Vec<u8> {
    vec![if address.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 1]
}

/// Checks that an echo request was dropped: the kernel's IPv6 echo socket
/// does not hand the error on.
pub fn dropped(family: usize, called: Called<()>) -> Result<()> {
    if family == 0 {
        refused(called, EPERM)
    } else {
        Ok(called?)
    }
}

fn echo(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    let _range = Sysctl::set("net.ipv4.ping_group_range", "0 2147483647")?;
    for family in [0, 1] {
        let kind = [(libc::AF_INET, 1), (libc::AF_INET6, 58)][family];
        let socket = alpha.raw_socket(kind.0, libc::SOCK_DGRAM, kind.1)?;
        let ask = |to: IpAddr| socket.send_with(echo_request(to), Some(at(to, 0)), Vec::new());
        stage.counts(&[("alpha", Reason::Destination, 1)], || {
            dropped(family, ask(REFUSED[family]))?;
            ask(EXCEPTED[family])?;
            let from = socket.receive()?.1.map(|from| from.ip());
            ensure!(from == Some(EXCEPTED[family]), "{from:?} answered");
            refused(socket.receive_within(50), ETIMEDOUT)
        })?;
    }
    Ok(())
}

fn later(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    let ear = outside.server(Kind::UdpDual, 9052)?;
    let senders = PEER
        .into_iter()
        .map(|peer| {
            let socket = alpha.socket(Kind::udp_for(peer))?;
            socket.connect(at(peer, 9052))?;
            socket.send(1)?;
            ear.receive()?;
            Ok(socket)
        })
        .collect::<Result<Vec<_>>>()?;
    stage.with_rule("alpha", "udp", 9052, || {
        stage.counts(&[("alpha", Reason::Destination, 2)], || {
            for sender in &senders {
                refused(sender.send(1), EPERM)?;
            }
            refused(ear.receive_within(50), ETIMEDOUT)
        })
    })?;
    for sender in &senders {
        sender.send(1)?;
        ear.receive()?;
    }
    // A connection, of a socket that was bound first too.
    let listener = outside.server(Kind::TcpDual, 9053)?;
    let mut pairs = Vec::new();
    for bound in [false, true] {
        let client = alpha.socket(Kind::Tcp4)?;
        if bound {
            client.bind(Kind::Tcp4.any(0))?;
        }
        client.connect(at(PEER[0], 9053))?;
        let far = listener.accept()?;
        client.send(1)?;
        far.receive()?;
        // Who closes first has it in TIME_WAIT, where other tests look.
        pairs.push((far, client));
    }
    stage.with_rule("alpha", "tcp", 9053, || {
        for (far, client) in &pairs {
            let change = stage.change_by(|| {
                client.send(1)?;
                refused(far.receive_within(300), ETIMEDOUT)
            })?;
            let denied = change.by("alpha", "denials.destination");
            ensure!(denied > 0, "{change}");
        }
        Ok(())
    })?;
    for (far, _) in &pairs {
        far.receive()?;
    }
    Ok(())
}

/// Clients choose their ports themselves.
fn answers(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, gamma) = (stage.slice("alpha")?, stage.slice("gamma")?);
    let outside = stage.outside()?;
    for family in [0, 1] {
        for (slice, address) in [(&alpha, NODE[family]), (&gamma, GAMMA[family])] {
            let kind = Kind::tcp_for(address);
            let server = slice.server_at(kind, at(address, 9054))?;
            let client = outside.socket(kind)?;
            client.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            client.bind(kind.any(25))?;
            stage.counts(&[], || {
                client.connect(at(address, 9054))?;
                let accepted = server.accept()?;
                accepted.send(1)?;
                ensure!(client.receive()?.0 == 1, "it came from {address}");
                client.close();
                ensure!(accepted.receive()?.0 == 0, "closed");
                Ok(())
            })?;
        }
    }
    // What it asks for itself it chooses: from its own address too.
    for address in PEER {
        let client = gamma.socket(Kind::tcp_for(address))?;
        client.bind(at(GAMMA[usize::from(address.is_ipv6())], 9055))?;
        refused(client.connect(at(address, 25)), EACCES)?;
    }
    Ok(())
}
