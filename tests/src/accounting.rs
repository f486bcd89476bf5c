//! Whose bytes and packets are: exact for exchanges that are known, and in sum
//! what the wire carried.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use libc::{SO_LINGER, SOL_SOCKET, SOL_UDP, UDP_SEGMENT};
use nix::errno::Errno::ECONNREFUSED;
use serde_json::Value;

use crate::counters::Change;
use crate::node::Node;
use crate::puppet::Kind;
use crate::runner::{Test, test};
use crate::stage::{LOOPBACK, NODE, PEER, Stage, at, refused};

pub const TESTS: &[Test] = &[
    test(
        "datagrams_are_counted_to_the_byte_for_their_slice_alone",
        datagrams,
    )
    .on_stage(),
    test(
        "traffic_inside_the_node_is_counted_apart_on_both_sides",
        inside,
    )
    .on_stage(),
    test(
        "traffic_of_processes_outside_the_slices_is_the_nodes",
        of_the_node,
    )
    .on_stage(),
    test(
        "a_datagram_that_is_fragmented_is_counted_once_and_arrives",
        fragments,
    )
    .on_stage(),
    test("a_reset_by_the_kernel_is_counted_but_no_slices", reset).on_stage(),
    test(
        "an_answer_in_time_wait_is_counted_for_the_owner_of_the_port",
        time_wait,
    )
    .on_stage(),
    test("what_all_owners_sent_is_what_the_wire_carried", wire).on_stage(),
    test("sockets_are_counted_when_made_and_when_gone", sockets).on_stage(),
];

/// Bytes of the IP and UDP headers.
const fn udp_headers(address: IpAddr) -> i64 {
    if address.is_ipv4() { 28 } else { 48 }
}

fn datagrams(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    for family in [0, 1] {
        let kind = Kind::udp_for(PEER[family]);
        let (near, far) = (alpha.server(kind, 8060)?, outside.server(kind, 9060)?);
        let change = stage.change_by(|| {
            for _ in 0..10 {
                near.send_to(100, at(PEER[family], 9060))?;
                far.receive()?;
            }
            // One call for ten datagrams, which are divided below the rules.
            near.set_bytes(SOL_UDP, UDP_SEGMENT, 10i32.to_ne_bytes().to_vec())?;
            near.send_to(100, at(PEER[family], 9060))?;
            for _ in 0..10 {
                ensure!(far.receive()?.0 == 10, "it was not divided");
            }
            for _ in 0..5 {
                far.send_to(200, at(NODE[family], 8060))?;
                near.receive()?;
            }
            Ok(())
        })?;
        let headers = udp_headers(PEER[family]);
        let expected = Change::of(&[
            ("alpha", "external.sent.packets", 20),
            (
                "alpha",
                "external.sent.bytes",
                10 * (100 + headers) + 10 * (10 + headers),
            ),
            ("alpha", "external.received.packets", 5),
            ("alpha", "external.received.bytes", 5 * (200 + headers)),
        ]);
        ensure!(change == expected, "{change}, not {expected}");
    }
    Ok(())
}

fn inside(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    // The node's own addresses are inside as well; a slice's loopback is its own.
    for (address, peer, name) in [
        (LOOPBACK[0], &alpha, "alpha"),
        (LOOPBACK[1], &alpha, "alpha"),
        (NODE[0], &beta, "beta"),
        (NODE[1], &beta, "beta"),
    ] {
        let kind = Kind::udp_for(address);
        let (near, far) = (alpha.server(kind, 8061)?, peer.server(kind, 9061)?);
        let change = stage.change_by(|| {
            for _ in 0..3 {
                near.send_to(50, at(address, 9061))?;
                far.receive()?;
            }
            Ok(())
        })?;
        let bytes = 3 * (50 + udp_headers(address));
        let expected = Change::of(&[
            ("alpha", "loopback.sent.packets", 3),
            ("alpha", "loopback.sent.bytes", bytes),
            (name, "loopback.received.packets", 3),
            (name, "loopback.received.bytes", bytes),
        ]);
        ensure!(change == expected, "{change}, not {expected}");
    }
    // A stream: what one sends, segments and acknowledgements, the other gets.
    for family in [0, 1] {
        let listener = alpha.server(Kind::tcp_for(NODE[family]), 8062)?;
        // The kernel 6.1 shows an IPv6 SYN+ACK to no hook: it is left out.
        let client = beta.connected(at(NODE[family], 8062))?;
        let accepted = listener.accept()?;
        let change = stage.change_by(|| {
            for _ in 0..20 {
                client.send(2000)?;
                accepted.receive()?;
            }
            client.shutdown()?;
            while accepted.receive()?.0 > 0 {}
            // Without a reset or a wait on either side nothing is left open.
            accepted.shutdown()?;
            ensure!(client.receive()?.0 == 0, "closed");
            Ok(())
        })?;
        for what in ["packets", "bytes"] {
            let sent = |who| change.by(who, &format!("loopback.sent.{what}"));
            let received = |who| change.by(who, &format!("loopback.received.{what}"));
            ensure!(sent("alpha") == received("beta"), "{what}: {change}");
            ensure!(sent("beta") == received("alpha"), "{what}: {change}");
        }
        ensure!(
            change.by("beta", "loopback.sent.bytes") > 40_000,
            "{change}"
        );
        ensure!(change.by("alpha", "external.sent.bytes") == 0, "{change}");
    }
    Ok(())
}

fn of_the_node(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (root, alpha, outside) = (stage.node()?, stage.slice("alpha")?, stage.outside()?);
    for family in [0, 1] {
        let kind = Kind::udp_for(PEER[family]);
        let (near, far) = (root.server(kind, 9062)?, outside.server(kind, 9062)?);
        let slice = alpha.server(kind, 8063)?;
        let change = stage.change_by(|| {
            near.send_to(100, at(PEER[family], 9062))?;
            far.receive()?;
            far.send_to(100, at(NODE[family], 9062))?;
            near.receive()?;
            // The node talks to a slice: each has its side.
            near.send_to(100, at(NODE[family], 8063))?;
            slice.receive()?;
            Ok(())
        })?;
        let bytes = 100 + udp_headers(PEER[family]);
        let expected = Change::of(&[
            ("node", "external.sent.packets", 1),
            ("node", "external.sent.bytes", bytes),
            ("node", "external.received.packets", 1),
            ("node", "external.received.bytes", bytes),
            ("node", "loopback.sent.packets", 1),
            ("node", "loopback.sent.bytes", bytes),
            ("alpha", "loopback.received.packets", 1),
            ("alpha", "loopback.received.bytes", bytes),
        ]);
        ensure!(change == expected, "{change}, not {expected}");
    }
    Ok(())
}

fn fragments(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    for family in [0, 1] {
        let kind = Kind::udp_for(PEER[family]);
        let (near, far) = (alpha.server(kind, 8064)?, outside.server(kind, 9064)?);
        let change = stage.change_by(|| {
            near.send_to(5000, at(PEER[family], 9064))?;
            ensure!(far.receive()?.0 == 5000, "it arrived in part");
            far.send_to(5000, at(NODE[family], 8064))?;
            ensure!(near.receive()?.0 == 5000, "it arrived in part");
            Ok(())
        })?;
        let bytes = 5000 + udp_headers(PEER[family]);
        let expected = Change::of(&[
            ("alpha", "external.sent.packets", 1),
            ("alpha", "external.sent.bytes", bytes),
            ("alpha", "external.received.packets", 1),
            ("alpha", "external.received.bytes", bytes),
        ]);
        ensure!(change == expected, "{change}, not {expected}");
    }
    Ok(())
}

fn reset(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let outside = stage.outside()?;
    for family in [0, 1] {
        let kind = Kind::tcp_for(NODE[family]);
        let knock = outside.socket(kind)?;
        let change =
            stage.change_by(|| refused(knock.connect(at(NODE[family], 9065)), ECONNREFUSED))?;
        // The kernel shows its IPv6 resets to no hook.
        let packets = [1, 0][family];
        let expected = Change::of(&[
            ("unattributed", "external.sent.packets", packets),
            ("unattributed", "external.sent.bytes", packets * 40),
        ]);
        ensure!(change == expected, "{change}, not {expected}");
    }
    Ok(())
}

fn time_wait(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    let listener = alpha.server(Kind::Tcp4, 8069)?;
    let peer = outside.connected(at(NODE[0], 8069))?;
    // The slice closes first and is done; the peer's end still comes.
    listener.accept()?.close();
    listener.close();
    ensure!(peer.receive()?.0 == 0, "the slice has closed");
    let change = stage.change_by(|| {
        peer.close();
        Ok(())
    })?;
    let expected = Change::of(&[
        ("alpha", "external.sent.packets", 1),
        ("alpha", "external.sent.bytes", 52),
    ]);
    // Newer kernels show it to no hook; it is never another's.
    let change = change.without("sockets");
    ensure!(
        change == expected || change.is_empty(),
        "{change}, not {expected}"
    );
    Ok(())
}

/// Packets and bytes that left on the wire, by the device's own counters, the
/// link headers taken off.
fn on_the_wire(node: &Node) -> Result<(i64, i64)> {
    let shown = node.must("ip", &["-s", "-j", "link", "show", "wire0"])?;
    let shown: Value = serde_json::from_str(&shown.stdout)?;
    let count = |name: &str| {
        shown
            .pointer(&format!("/0/stats64/tx/{name}"))
            .and_then(Value::as_i64)
            .context("no counter")
    };
    let (packets, bytes) = (count("packets")?, count("bytes")?);
    Ok((packets, bytes - 14 * packets))
}

fn wire(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, root) = (stage.slice("alpha")?, stage.slice("beta")?, stage.node()?);
    let outside = stage.outside()?;
    let listener = outside.server(Kind::TcpDual, 9066)?;
    let _sink = outside.server(Kind::UdpDual, 9067)?;
    let before = on_the_wire(stage.machine())?;
    let change = stage.change_by(|| {
        for peer in PEER {
            for puppet in [&alpha, &beta, &root] {
                let client = puppet.connected(at(peer, 9066))?;
                let accepted = listener.accept()?;
                client.send(1000)?;
                accepted.receive()?;
                accepted.send(1000)?;
                client.receive()?;
                // Both ways of an end without a wait: closed first over there,
                // and a reset.
                if peer.is_ipv4() {
                    accepted.close();
                    ensure!(client.receive()?.0 == 0, "closed");
                } else {
                    let reset = [1i32, 0].map(i32::to_ne_bytes).concat();
                    client.set_bytes(SOL_SOCKET, SO_LINGER, reset)?;
                }
                drop(client);
                puppet
                    .socket(Kind::udp_for(peer))?
                    .send_to(100, at(peer, 9067))?;
            }
        }
        Ok(())
    })?;
    let after = on_the_wire(stage.machine())?;
    let owners = ["alpha", "beta", "node", "unattributed"];
    let sum = |name: &str| {
        owners
            .iter()
            .map(|owner| change.by(owner, name))
            .sum::<i64>()
    };
    let counted = (sum("external.sent.packets"), sum("external.sent.bytes"));
    let carried = (after.0 - before.0, after.1 - before.1);
    ensure!(
        counted == carried,
        "counted {counted:?}, carried {carried:?}: {change}"
    );
    for owner in ["alpha", "beta", "node"] {
        ensure!(change.by(owner, "external.sent.packets") > 8, "{change}");
    }
    Ok(())
}

fn sockets(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    let made = stage.change_by(|| {
        let made = Kind::ALL.map(|kind| alpha.socket(kind));
        ensure!(made.iter().all(Result::is_ok), "a socket was refused");
        // Those of a process that is gone are gone, too.
        std::mem::forget(made);
        Ok(())
    })?;
    let expected = Change::of(&[("alpha", "sockets", 6), ("alpha", "sockets_opened", 6)]);
    ensure!(made == expected, "{made}, not {expected}");
    let mut alpha = Some(alpha);
    let gone = stage.change_by(|| {
        drop(alpha.take());
        Ok(())
    })?;
    let expected = Change::of(&[("alpha", "sockets", -6)]);
    ensure!(gone == expected, "{gone}, not {expected}");

    // An accepted socket is its listener's owner's.
    let alpha = stage.slice("alpha")?;
    let listener = alpha.server(Kind::TcpDual, 8067)?;
    for address in NODE {
        let peer = outside.socket(Kind::tcp_for(address))?;
        let before = stage.counters()?;
        peer.connect(at(address, 8067))?;
        let accepted = listener.accept()?;
        let change = stage.counters()?.since(&before);
        ensure!(change.by("alpha", "sockets") == 1, "{change}");
        ensure!(change.by("alpha", "sockets_opened") == 1, "{change}");
        peer.close();
        ensure!(accepted.receive()?.0 == 0, "closed");
    }
    Ok(())
}
