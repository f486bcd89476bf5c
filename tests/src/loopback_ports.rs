//! The ports of a slice's localhost: its own, whatever others have.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno::{EADDRINUSE, ECONNREFUSED, EINVAL};
use policy::Reason;

use crate::loopback::{passes, serves, ways};
use crate::node::Node;
use crate::puppet::{Kind, Puppet};
use crate::runner::{Test, test};
use crate::stage::{LOOPBACK, Stage, at, mapped, refused};

pub const TESTS: &[Test] = &[
    test(
        "a_loopback_port_and_anothers_wildcard_port_are_two_ports",
        two_ports,
    )
    .on_stage(),
    test(
        "a_loopback_port_is_bound_once_in_its_slice_and_again_after_it_was_closed",
        bound_once,
    )
    .on_stage(),
    test(
        "a_loopback_port_is_held_as_long_as_connections_to_it_live",
        held_by_connections,
    )
    .on_stage(),
    test(
        "a_slice_has_64_loopback_ports_and_no_more_and_takes_none_of_anothers",
        limit,
    )
    .on_stage(),
];

fn two_ports(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, root) = (stage.slice("alpha")?, stage.slice("beta")?, stage.node()?);
    stage.counts(&[], || {
        for kind in Kind::ALL {
            // Reserved for alpha, below 1024 and above, in either order.
            let low = if kind.is_tcp() { 80 } else { 53 };
            for (port, wide) in [(low, &alpha), (8023, &alpha), (9713, &root)] {
                let private = at(
                    match kind {
                        Kind::Tcp6 | Kind::Udp6 => LOOPBACK[1],
                        Kind::TcpDual | Kind::UdpDual => mapped(LOOPBACK[0]),
                        _ => LOOPBACK[0],
                    },
                    port,
                );
                for private_first in [false, true] {
                    let early = private_first
                        .then(|| serves(&beta, kind, private))
                        .transpose()?;
                    let _wide = serves(wide, kind, kind.any(port))?;
                    let late = (!private_first)
                        .then(|| serves(&beta, kind, private))
                        .transpose()?;
                    let mine = early.or(late).context("a server")?;
                    let client = beta.socket(kind)?;
                    client.connect(private)?;
                    if kind.is_tcp() {
                        mine.accept()?;
                    } else {
                        client.send(1)?;
                        mine.receive()?;
                    }
                }
            }
        }
        // It is no claim.
        let _held = serves(&beta, Kind::Tcp4, at(LOOPBACK[0], 9714))?;
        let ports = node.must("slice", &["ports", "-o", "json"])?.stdout;
        ensure!(
            !ports.contains("9714") && !ports.contains("6100"),
            "{ports}"
        );
        Ok(())
    })
}

fn bound_once(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    for tcp in [true, false] {
        for (kind, address) in ways(tcp) {
            let here = at(address, 9715);
            let server = serves(&alpha, kind, here)?;
            refused(alpha.socket(kind)?.bind(here), EADDRINUSE)?;
            // Bound for good: the kernel refuses, and what it holds stays.
            refused(server.bind(at(address, 9716)), EINVAL)?;
            ensure!(server.name()? == here, "now at {}", server.name()?);
            let client = alpha.socket(kind)?;
            client.connect(here)?;
            client.close();
            server.close();
            refused_or_silent(&alpha, kind, here)?;
            // Again, and as the next after another port was tried in vain.
            let again = alpha.socket(kind)?;
            if tcp {
                again.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            }
            let rival = serves(&alpha, kind, at(address, 9717))?;
            refused(again.bind(at(address, 9717)), EADDRINUSE)?;
            again.bind(here)?;
            ensure!(again.name()? == here, "bound to {}", again.name()?);
            rival.close();
            // A port that the kernel picked is taken as well.
            let picked = alpha.socket(kind)?;
            picked.bind(at(address, 0))?;
            let name = picked.name()?;
            ensure!(name.ip() == address, "bound to {name}");
        }
    }
    Ok(())
}

/// TCP is refused; a datagram is lost, or the next call says it was refused.
fn refused_or_silent(owner: &Puppet, kind: Kind, there: SocketAddr) -> Result<()> {
    let client = owner.socket(kind)?;
    if kind.is_tcp() {
        return refused(client.connect(there), ECONNREFUSED);
    }
    client.connect(there)?;
    client.send(1)?;
    refused(client.receive(), ECONNREFUSED)
}

fn held_by_connections(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    for (kind, address) in ways(true) {
        let here = at(address, 9718);
        let server = serves(&alpha, kind, here)?;
        let client = alpha.socket(kind)?;
        client.connect(here)?;
        let accepted = server.accept()?;
        server.close();
        ensure!(accepted.name()? == here, "now at {}", accepted.name()?);
        ensure!(client.peer()? == here, "now to {}", client.peer()?);
        // As on any machine: the port of a live connection.
        refused(alpha.socket(kind)?.bind(here), EADDRINUSE)?;
        let next = alpha.socket(kind)?;
        next.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        next.bind(here)?;
        next.listen()?;
        let second = alpha.socket(kind)?;
        second.connect(here)?;
        next.accept()?;
        passes(&client, &accepted, 11)?;
    }
    Ok(())
}

fn limit(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let here = |port| at(LOOPBACK[0], port);
    let mut held = Vec::new();
    stage.counts(&[], || {
        for number in 0..64 {
            let kind = [Kind::Tcp4, Kind::Udp4][usize::from(number % 2)];
            held.push(serves(&alpha, kind, here(9720 + number))?);
        }
        Ok(())
    })?;
    stage.counts(&[("alpha", Reason::LoopbackLimit, 2)], || {
        for kind in [Kind::Tcp4, Kind::Udp4] {
            refused(alpha.socket(kind)?.bind(here(9800)), EADDRINUSE)?;
        }
        Ok(())
    })?;
    stage.counts(&[], || {
        // One more socket of a port that is there, and a port that is picked,
        // are none more; and another slice has its own.
        serves(&alpha, Kind::Tcp6, at(LOOPBACK[1], 9720))?;
        serves(&alpha, Kind::Tcp4, here(0))?;
        serves(&beta, Kind::Tcp4, here(9800))?;
        held.pop();
        for _ in 0..100 {
            serves(&alpha, Kind::Udp4, here(9800))?;
        }
        drop(std::mem::take(&mut held));
        for number in 0..64 {
            held.push(serves(&alpha, Kind::Udp4, here(9850 + number))?);
        }
        Ok(())
    })
}
