//! How long a port stays its owner's: a claim follows TCP's states, not
//! close(2).

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libc::{SO_LINGER, SO_REUSEADDR, SOL_SOCKET};
use nix::errno::Errno::EADDRINUSE;
use policy::Reason;

use crate::node::Node;
use crate::puppet::{Called, Kind, Puppet, Sock};
use crate::runner::{Test, test};
use crate::stage::{FLEETING, LINGER_MS, NODE, PEER, Stage, at, refused};

pub const TESTS: &[Test] = &[
    test(
        "a_port_stays_claimed_while_a_connection_outlives_its_listener",
        outlived,
    )
    .on_stage(),
    test(
        "a_port_in_time_wait_lingers_as_long_as_the_policy_says",
        time_wait,
    )
    .on_stage(),
    test(
        "a_port_whose_orphan_was_not_acknowledged_stays_claimed",
        orphan,
    )
    .on_stage(),
    test("a_port_without_time_wait_is_free_at_once", at_once).on_stage(),
    test(
        "a_connection_that_was_accepted_and_is_used_again_is_counted_again",
        used_again,
    )
    .on_stage(),
    test(
        "a_connection_without_bind_claims_no_port_and_is_a_flow",
        flow,
    )
    .on_stage(),
    test(
        "a_udp_socket_holds_the_port_that_the_kernel_picked",
        udp_picked,
    )
    .on_stage(),
];

/// A connection from outside to a listener of the slice: listener, accepted
/// socket, the peer's socket.
fn connection<'a, 'b>(
    slice: &'a Puppet,
    outside: &'b Puppet,
    family: usize,
    port: u16,
) -> Called<(Sock<'a>, Sock<'a>, Sock<'b>)> {
    let kind = Kind::tcp_for(NODE[family]);
    let listener = slice.socket(kind)?;
    // As servers do, so that they can come back while the last one waits.
    listener.set(SOL_SOCKET, SO_REUSEADDR, 1)?;
    listener.bind(kind.any(port))?;
    listener.listen()?;
    let peer = outside.socket(kind)?;
    peer.bind(at(FLEETING[family], 0))?;
    peer.connect(at(NODE[family], port))?;
    let accepted = listener.accept()?;
    Ok((listener, accepted, peer))
}

/// Whether another slice can bind the port, as far as we decide it: the kernel
/// itself asks for SO_REUSEADDR where its own TIME_WAIT still is.
fn bind_beside(puppet: &Puppet, family: usize, port: u16) -> Called<()> {
    let kind = Kind::tcp_for(NODE[family]);
    let socket = puppet.socket(kind)?;
    socket.set(SOL_SOCKET, SO_REUSEADDR, 1)?;
    socket.bind(kind.any(port))
}

fn outlived(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, outside) = (
        stage.slice("alpha")?,
        stage.slice("beta")?,
        stage.outside()?,
    );
    stage.counts(&[("beta", Reason::PortClaimed, 4)], || {
        for family in [0, 1] {
            let (listener, accepted, peer) = connection(&alpha, &outside, family, 9020)?;
            listener.close();
            refused(bind_beside(&beta, family, 9020), EADDRINUSE)?;
            // A socket on its way out is still the slice's.
            peer.close();
            ensure!(accepted.receive()?.0 == 0, "the peer has closed");
            refused(bind_beside(&beta, family, 9020), EADDRINUSE)?;
            accepted.close();
            free_soon(&beta, family, 9020, Duration::from_millis(LINGER_MS / 2))?;
        }
        Ok(())
    })
}

/// The last acknowledgement is on its way: the port is free when it came, long
/// before a linger would be over.
fn free_soon(puppet: &Puppet, family: usize, port: u16, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    // Denials would be counted: the kernel is asked through its own table.
    while established_on(port)? && Instant::now() < until {
        sleep(Duration::from_millis(5));
    }
    bind_beside(puppet, family, port)?;
    Ok(())
}

/// Whether a TCP socket is bound to the port, TIME_WAIT aside.
fn established_on(port: u16) -> Result<bool> {
    let suffix = format!(":{port:04X}");
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table)?.lines() {
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().unwrap_or_default();
            let state = words.nth(1).unwrap_or_default();
            if local.ends_with(&suffix) && state != "06" {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn time_wait(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, outside) = (
        stage.slice("alpha")?,
        stage.slice("beta")?,
        stage.outside()?,
    );
    let before = stage.counters()?;
    for family in [0, 1] {
        let port = [9021, 9022][family];
        let (listener, accepted, peer) = connection(&alpha, &outside, family, port)?;
        listener.close();
        // The slice closes first: its side is the one that waits.
        accepted.shutdown()?;
        ensure!(peer.receive()?.0 == 0, "the slice has closed");
        peer.close();
        ensure!(accepted.receive()?.0 == 0, "the peer has closed");
        accepted.close();
        refused(bind_beside(&beta, family, port), EADDRINUSE)?;
        let ports = stage
            .machine()
            .must("slice", &["ports", "--slice", "alpha"])?;
        ensure!(
            ports.stdout.contains(&port.to_string()),
            "not shown: {}",
            ports.stdout
        );
        // The owner itself may come back.
        bind_beside(&alpha, family, port)?;
        refused(bind_beside(&beta, family, port), EADDRINUSE)?;
    }
    sleep(Duration::from_millis(LINGER_MS));
    for family in [0, 1] {
        bind_beside(&beta, family, [9021, 9022][family])?;
    }
    let change = stage.counters()?.since(&before);
    ensure!(change.by("alpha", "claims") == 0, "{change}");
    ensure!(change.by("beta", "denials.port_claimed") == 4, "{change}");
    Ok(())
}

fn orphan(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, outside) = (
        stage.slice("alpha")?,
        stage.slice("beta")?,
        stage.outside()?,
    );
    let mut peers = Vec::new();
    for family in [0, 1] {
        let port = [9023, 9024][family];
        let (listener, accepted, peer) = connection(&alpha, &outside, family, port)?;
        listener.close();
        address_of_outside(stage.machine(), "del", family)?;
        accepted.close();
        peers.push(peer);
    }
    // Longer than the linger: TCP still sends its FIN.
    sleep(Duration::from_millis(LINGER_MS + 200));
    stage.counts(&[("beta", Reason::PortClaimed, 2)], || {
        for family in [0, 1] {
            refused(bind_beside(&beta, family, [9023, 9024][family]), EADDRINUSE)?;
        }
        Ok(())
    })?;
    for family in [0, 1] {
        address_of_outside(stage.machine(), "add", family)?;
    }
    // Reset by the peer, TCP is done with it.
    for peer in &peers {
        peer.set_bytes(SOL_SOCKET, SO_LINGER, RESET.concat())?;
    }
    drop(peers);
    for family in [0, 1] {
        free_soon(
            &beta,
            family,
            [9023, 9024][family],
            Duration::from_millis(LINGER_MS / 2),
        )?;
    }
    Ok(())
}

/// SO_LINGER on, for no time: close(2) resets.
const RESET: [[u8; 4]; 2] = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()];

/// Takes the fleeting address from the outside world, or gives it back.
fn address_of_outside(node: &Node, verb: &str, family: usize) -> Result<()> {
    let address = ["198.51.100.3/24", "2001:db8:5::3/64"][family];
    let mut words = vec!["-n", "outside", "addr", verb, address, "dev", "wire0"];
    if family == 1 && verb == "add" {
        words.push("nodad");
    }
    node.must("ip", &words)?;
    Ok(())
}

fn at_once(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, outside) = (
        stage.slice("alpha")?,
        stage.slice("beta")?,
        stage.outside()?,
    );
    let before = stage.counters()?;
    for family in [0, 1] {
        // A reset: no state is left.
        let (listener, accepted, _peer) = connection(&alpha, &outside, family, 9025)?;
        listener.close();
        accepted.set_bytes(SOL_SOCKET, SO_LINGER, RESET.concat())?;
        accepted.close();
        bind_beside(&beta, family, 9025)?;
        // A listener without connections, and a socket that did nothing.
        let kind = Kind::tcp_for(NODE[family]);
        alpha.server(kind, 9025)?.close();
        bind_beside(&beta, family, 9025)?;
        let idle = alpha.socket(kind)?;
        idle.bind(kind.any(9025))?;
        idle.close();
        bind_beside(&beta, family, 9025)?;
        // A connection that nobody answers.
        let lost = alpha.socket(kind)?;
        lost.bind(kind.any(9025))?;
        ensure!(
            lost.connect(at(PEER[family], 9)).is_err(),
            "nobody listens there"
        );
        lost.close();
        bind_beside(&beta, family, 9025)?;
    }
    let change = stage.counters()?.since(&before);
    for owner in ["alpha", "beta"] {
        ensure!(
            change.by(owner, "claims") == 0 && change.by(owner, "sockets") == 0,
            "{change}"
        );
    }
    ensure!(change.denials().is_empty(), "{change}");
    Ok(())
}

fn flow(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    let server = outside.server(Kind::TcpDual, 9026)?;
    for peer in PEER {
        let before = stage.counters()?;
        let client = alpha.connected(at(peer, 9026))?;
        let change = stage.counters()?.since(&before);
        ensure!(change.by("alpha", "flows") == 1, "{change}");
        ensure!(change.by("alpha", "sockets") == 1, "{change}");
        ensure!(change.by("alpha", "claims") == 0, "{change}");
        server.accept()?.close();
        ensure!(client.receive()?.0 == 0, "the peer has closed");
        client.close();
        let until = Instant::now() + Duration::from_secs(2);
        loop {
            let change = stage.counters()?.since(&before);
            if change.by("alpha", "flows") == 0 && change.by("alpha", "sockets") == 0 {
                break;
            }
            ensure!(Instant::now() < until, "{change}");
        }
    }
    Ok(())
}

fn udp_picked(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    for peer in PEER {
        let kind = Kind::udp_for(peer);
        let socket = alpha.socket(kind)?;
        socket.send_to(1, at(peer, 9027))?;
        let port = socket.port()?;
        for kind in Kind::UDP {
            refused(beta.socket(kind)?.bind(kind.any(port)), EADDRINUSE)?;
        }
        // Connected and forgotten, the kernel picks another, and the first is
        // nobody's.
        socket.connect(at(peer, 9027))?;
        socket.disconnect()?;
        socket.send_to(1, at(peer, 9027))?;
        let other = socket.port()?;
        if other != port {
            beta.server(kind, port)?;
        }
        refused(beta.socket(kind)?.bind(kind.any(other)), EADDRINUSE)?;
        socket.close();
        beta.server(kind, other)?;
    }
    Ok(())
}

/// connect(2) to nowhere brings TCP to CLOSE under a descriptor that stays open.
fn used_again(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    for (address, nobody) in NODE.into_iter().zip(PEER) {
        let listener = alpha.server(Kind::tcp_for(address), 8072)?;
        let peer = outside.socket(Kind::tcp_for(address))?;
        let before = stage.counters()?;
        peer.connect(at(address, 8072))?;
        let accepted = listener.accept()?;
        for _ in 0..5 {
            accepted.disconnect()?;
            // Nobody answers; that it was tried is enough.
            let _ = accepted.connect_within(at(nobody, 9), 0);
        }
        let change = stage.counters()?.since(&before);
        ensure!(change.by("alpha", "sockets") == 1, "{change}");
        accepted.disconnect()?;
        // A port that it is bound to is free when it is closed.
        accepted.bind(at(address, 8073))?;
        let change = stage.counters()?.since(&before);
        ensure!(change.by("alpha", "claims") == 1, "{change}");
        accepted.close();
        let change = stage.counters()?.since(&before);
        ensure!(
            change.by("alpha", "claims") == 0 && change.by("alpha", "sockets") == 0,
            "{change}"
        );
        // Nor is a flow kept that its last packet, a reset, would have begun.
        ensure!(change.by("alpha", "flows") == 0, "{change}");
    }
    Ok(())
}
