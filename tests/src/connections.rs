//! How many connections a slice starts: at once, and in a second.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libc::{SO_LINGER, SOL_SOCKET};
use nix::errno::Errno::{EACCES, EADDRNOTAVAIL, ECONNREFUSED, EINPROGRESS, EISCONN, ENETUNREACH};
use policy::Reason;

use crate::counters::Change;
use crate::node::Node;
use crate::puppet::{Kind, Naming, Puppet, Sock};
use crate::runner::{Test, test};
use crate::site::until;
use crate::stage::{LOOPBACK, NODE, PEER, REFUSED, Stage, at, refused};

pub const TESTS: &[Test] = &[
    test(
        "a_slice_has_as_many_connections_as_its_policy_says",
        as_many,
    )
    .on_stage(),
    test("a_connection_counts_until_tcp_is_done_with_it", until_done).on_stage(),
    test("no_way_to_connect_goes_round_the_limit", every_way).on_stage(),
    test(
        "connections_started_at_once_are_no_more_than_the_limit",
        at_once,
    )
    .on_stage(),
    test(
        "a_slice_starts_no_more_connections_in_a_second_than_its_policy_says",
        in_a_second,
    )
    .on_stage(),
    test(
        "a_reload_changes_how_many_connections_a_slice_has",
        reloaded,
    )
    .on_stage(),
];

/// Addresses on the wire that are nobody's.
const UNANSWERED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0x77)),
];

/// Addresses that TCP does not connect to.
const GROUP: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
];

/// TCP_FASTOPEN_CONNECT.
const FASTOPEN_CONNECT: i32 = 30;

/// A sockaddr_in or sockaddr_in6.
fn bytes(address: SocketAddr) -> Vec<u8> {
    let family: u16 = if address.is_ipv4() { 2 } else { 10 };
    let mut bytes = family.to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(v4) => {
            bytes.extend(v4.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(v6) => {
            bytes.extend([0; 4]);
            bytes.extend(v6.octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

/// What the slice has and has started moves by this.
#[track_caller]
fn moves(
    stage: &Stage<'_>,
    slice: &str,
    by: (i64, i64),
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let line = std::panic::Location::caller().line();
    let change = stage.change_by(act)?.only("connections");
    let expected = Change::of(&[
        (slice, "connections", by.0),
        (slice, "connections_started", by.1),
    ]);
    ensure!(
        change == expected,
        "line {line}: {change} moved, not {expected}"
    );
    Ok(())
}

/// So many connections, held.
fn connections<'p>(puppet: &'p Puppet, to: SocketAddr, many: usize) -> Result<Vec<Sock<'p>>> {
    (0..many)
        .map(|_| puppet.connected(to).map_err(Into::into))
        .collect()
}

fn as_many(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (dialer, alpha) = (stage.slice("dialer")?, stage.slice("alpha")?);
    let outside = stage.outside()?;
    let _listener = outside.server(Kind::TcpDual, 9095)?;
    for (family, peer) in PEER.into_iter().enumerate() {
        let to = at(peer, 9095);
        let mut held = connections(&dialer, to, 3)?;
        let socket = dialer.socket(Kind::tcp_for(peer))?;
        stage.counts(&[("dialer", Reason::ConnectionLimit, 2)], || {
            refused(socket.connect(to), EADDRNOTAVAIL)?;
            refused(dialer.connected(to), EADDRNOTAVAIL)
        })?;
        let json = stage
            .machine()
            .must("slice", &["status", "dialer", "-o", "json"])?;
        let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
        let shown = &json["rows"][0]["connections"];
        ensure!(
            *shown == serde_json::json!({"usage": 3, "limit": 3}),
            "{shown} is shown"
        );
        let text = stage.machine().must("slice", &["status", "dialer"])?.stdout;
        ensure!(text.contains("connections  3 of 3 open, "), "{text}");
        stage.counts(&[], || {
            // Others, and what is no connection that the slice starts to outside.
            alpha.connected(to)?.close();
            dialer.socket(Kind::udp_for(peer))?.connect(to)?;
            let loopback = LOOPBACK[family];
            let own = dialer.server_at(Kind::tcp_for(peer), at(loopback, 9096))?;
            dialer.connected(at(loopback, 9096))?.close();
            own.accept()?.close();
            let port = [9097, 9098][family];
            let server = dialer.server(Kind::TcpDual, port)?;
            let caller = outside.connected(at(NODE[family], port))?;
            let accepted = server.accept()?;
            caller.close();
            ensure!(accepted.receive()?.0 == 0, "closed");
            Ok(())
        })?;
        // One that ends makes room for one, on a socket that was refused, too.
        drop(held.pop());
        until("the connection is over", || Ok(socket.connect(to).is_ok()))?;
        stage.counts(&[("dialer", Reason::ConnectionLimit, 1)], || {
            refused(dialer.connected(to), EADDRNOTAVAIL)
        })?;
        // What another rule refuses is none.
        moves(&stage, "dialer", (0, 0), || {
            refused(dialer.connected(at(REFUSED[family], 9095)), EACCES)
        })?;
        drop((held, socket));
        settled(&stage, "dialer")?;
    }
    Ok(())
}

/// Waits until the slice has no connection: the peer answers for the end of
/// each.
fn settled(stage: &Stage<'_>, slice: &str) -> Result<()> {
    until("all connections are over", || {
        Ok(stage.counters()?.get(slice, "connections")? == 0)
    })
}

fn until_done(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (dialer, beta) = (stage.slice("dialer")?, stage.slice("beta")?);
    let outside = stage.outside()?;
    settled(&stage, "dialer")?;
    for (family, peer) in PEER.into_iter().enumerate() {
        let (open, closed) = (at(peer, 9095), at(peer, 9098));
        let kind = Kind::tcp_for(peer);
        let listener = outside.server(kind, 9095)?;
        // Refused by the peer.
        let socket = dialer.socket(kind)?;
        moves(&stage, "dialer", (0, 2), || {
            refused(socket.connect(closed), ECONNREFUSED)?;
            refused(socket.connect(closed), ECONNREFUSED)
        })?;
        // Connected twice: once, and it stays.
        moves(&stage, "dialer", (1, 1), || {
            socket.connect(open)?;
            refused(socket.connect(open), EISCONN)
        })?;
        // Ended by the peer, with the descriptor still open.
        moves(&stage, "dialer", (-1, 0), || {
            let accepted = listener.accept()?;
            let reset = [1i32, 0].map(i32::to_ne_bytes).concat();
            accepted.set_bytes(SOL_SOCKET, SO_LINGER, reset)?;
            accepted.close();
            ensure!(socket.receive().is_err(), "it was reset");
            Ok(())
        })?;
        socket.close();
        // TCP reaches no group: no hook sees it fail, so it counts until it is closed.
        let socket = dialer.socket(kind)?;
        moves(&stage, "dialer", (1, 2), || {
            refused(socket.connect(at(GROUP[family], 9095)), ENETUNREACH)?;
            refused(socket.connect(at(GROUP[family], 9095)), ENETUNREACH)
        })?;
        moves(&stage, "dialer", (-1, 0), || {
            socket.close();
            Ok(())
        })?;
        // Nobody answers; a second call changes nothing; the end is the end.
        let nobody = at(UNANSWERED[family], 9095);
        let socket = dialer.socket(kind)?;
        moves(&stage, "dialer", (1, 1), || {
            refused(socket.connect_within(nobody, 50), EINPROGRESS)?;
            ensure!(socket.connect_within(nobody, 50).is_err(), "no answer");
            Ok(())
        })?;
        moves(&stage, "dialer", (-1, 0), || {
            socket.close();
            Ok(())
        })?;
        // Disconnected and connected again.
        let socket = dialer.socket(kind)?;
        moves(&stage, "dialer", (0, 1), || {
            socket.connect(open)?;
            socket.disconnect()?;
            Ok(())
        })?;
        // Passed on, it stays the connection of the slice that made the socket.
        moves(&stage, "dialer", (1, 1), || Ok(socket.connect(open)?))?;
        let passed = beta.take(&socket)?;
        moves(&stage, "dialer", (0, 0), || {
            socket.close();
            Ok(())
        })?;
        passed.close();
        settled(&stage, "dialer")?;
    }
    // The end of the process ends them.
    let _listener = outside.server(Kind::TcpDual, 9099)?;
    let held = connections(&dialer, at(PEER[0], 9099), 3)?;
    ensure!(dialer.connected(at(PEER[0], 9099)).is_err(), "no fourth");
    std::mem::forget(held);
    drop(dialer);
    settled(&stage, "dialer")
}

fn every_way(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let dialer = stage.slice("dialer")?;
    let outside = stage.outside()?;
    let _listener = outside.server(Kind::TcpDual, 9095)?;
    for peer in PEER {
        settled(&stage, "dialer")?;
        let (to, kind) = (at(peer, 9095), Kind::tcp_for(peer));
        let [fast, ring, deferred] = [(); 3].map(|()| dialer.socket(kind));
        let (fast, ring, deferred) = (fast?, ring?, deferred?);
        deferred.set(libc::IPPROTO_TCP, FASTOPEN_CONNECT, 1)?;
        moves(&stage, "dialer", (3, 3), || {
            fast.named(Naming::FastOpen, &bytes(to))?;
            ring.named(Naming::RingConnect, &bytes(to))?;
            Ok(deferred.connect(to)?)
        })?;
        stage.counts(&[("dialer", Reason::ConnectionLimit, 4)], || {
            let fourth = dialer.socket(kind)?;
            refused(fourth.named(Naming::FastOpen, &bytes(to)), EADDRNOTAVAIL)?;
            refused(fourth.named(Naming::RingConnect, &bytes(to)), EADDRNOTAVAIL)?;
            refused(fourth.connect(to), EADDRNOTAVAIL)?;
            fourth.set(libc::IPPROTO_TCP, FASTOPEN_CONNECT, 1)?;
            refused(fourth.connect(to), EADDRNOTAVAIL)
        })?;
        // Both families of one socket.
        if peer.is_ipv4() {
            let dual = dialer.socket(Kind::TcpDual)?;
            let mapped = at(crate::stage::mapped(peer), 9095);
            stage.counts(&[("dialer", Reason::ConnectionLimit, 1)], || {
                refused(dual.connect(mapped), EADDRNOTAVAIL)
            })?;
        }
        drop((fast, ring, deferred));
    }
    settled(&stage, "dialer")
}

fn at_once(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let outside = stage.outside()?;
    let _listener = outside.server(Kind::TcpDual, 9095)?;
    settled(&stage, "dialer")?;
    let puppets = [stage.slice("dialer")?, stage.slice("dialer")?];
    for _ in 0..3 {
        let held = scope(|threads| {
            let race = |puppet| {
                threads.spawn(move || -> Vec<Sock<'_>> {
                    let tries = (0..6).map(|_| Puppet::connected(puppet, at(PEER[1], 9095)));
                    tries.filter_map(Result::ok).collect()
                })
            };
            let running = [race(&puppets[0]), race(&puppets[1])];
            running.map(|thread| thread.join().unwrap_or_default())
        });
        let many: usize = held.iter().map(Vec::len).sum();
        ensure!(many == 3, "{many} connections were let through, not 3");
        drop(held);
        settled(&stage, "dialer")?;
    }
    Ok(())
}

fn in_a_second(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (slow, alpha) = (stage.slice("slow")?, stage.slice("alpha")?);
    for (family, peer) in PEER.into_iter().enumerate() {
        let closed = at(peer, 9098);
        // However long it was quiet: a second's worth.
        sleep(Duration::from_millis(2500));
        let (mut started, mut denied) = (0u32, 0u32);
        let begin = Instant::now();
        let change = stage.change_by(|| {
            let socket = slow.socket(Kind::tcp_for(peer))?;
            while denied < 40 {
                ensure!(started < 2000, "nothing holds it up");
                match socket.connect(closed) {
                    Err(refused) if refused.errno == ECONNREFUSED => started += 1,
                    Err(refused) if refused.errno == EADDRNOTAVAIL => denied += 1,
                    other => other.context("a connect that is refused")?,
                }
            }
            Ok(())
        })?;
        let most = 20.0 + 20.0 * begin.elapsed().as_secs_f64();
        ensure!(
            f64::from(started) <= most && started >= 20,
            "{started} were started, from 20 to {most}"
        );
        ensure!(
            change.by("slow", "connections_started") == i64::from(started)
                && change.by("slow", "denials.connection_rate") == i64::from(denied),
            "{change}, not {started} and {denied}"
        );
        // Its neighbour, and its own loopback, are not held up.
        for _ in 0..30 {
            refused(alpha.connected(closed), ECONNREFUSED)?;
            let loopback = LOOPBACK[family];
            refused(slow.connected(at(loopback, 9098)), ECONNREFUSED)?;
        }
        let json = stage
            .machine()
            .must("slice", &["status", "slow", "-o", "json"])?;
        let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
        let shown = &json["rows"][0]["connections_per_second"];
        ensure!(
            shown["limit"] == 20 && shown["usage"].as_u64().is_some_and(|used| used <= 20),
            "{shown} is shown"
        );
    }
    Ok(())
}

fn reloaded(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let dialer = stage.slice("dialer")?;
    let outside = stage.outside()?;
    let _listener = outside.server(Kind::TcpDual, 9095)?;
    settled(&stage, "dialer")?;
    let to = at(PEER[0], 9095);
    let held = connections(&dialer, to, 2)?;
    let one = |_: &str| "connections = 1\nconnections_per_second = 5\n".to_owned();
    stage.with_policy("dialer", one, || {
        // Those there are stay; no more begin.
        for socket in &held {
            socket.send(1)?;
        }
        refused(dialer.connected(to), EADDRNOTAVAIL)
    })?;
    dialer.connected(to)?;
    Ok(())
}
