//! Whose a port is: the table of `bind`, row by row, for TCP and UDP, IPv4,
//! IPv6 and dual-stack sockets.

use anyhow::{Result, ensure};
use libc::{SO_BINDTODEVICE, SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET};
use nix::errno::Errno::{EACCES, EADDRINUSE, EADDRNOTAVAIL, EAGAIN};
use policy::Reason;
use serde_json::Value;

use crate::node::Node;
use crate::puppet::{Called, Kind, Puppet, Sock};
use crate::runner::{Test, test};
use crate::stage::{PEER, Stage, Sysctl, at, refused};

pub const TESTS: &[Test] = &[
    test(
        "a_slice_binds_the_ports_reserved_for_it_below_1024_too",
        own_reserved,
    )
    .on_stage(),
    test(
        "a_port_reserved_for_a_slice_is_in_use_for_other_slices_and_for_root",
        reserved_for_another,
    )
    .on_stage(),
    test(
        "a_port_reserved_for_the_node_is_refused_to_slices_and_open_to_the_node",
        reserved_for_the_node,
    )
    .on_stage(),
    test(
        "a_port_below_1024_that_is_nobodys_is_refused_to_slices_alone",
        privileged,
    )
    .on_stage(),
    test(
        "the_first_to_bind_a_free_port_has_it_in_both_families",
        claimed,
    )
    .on_stage(),
    test(
        "a_claim_ends_with_the_last_socket_of_its_slice",
        last_socket,
    )
    .on_stage(),
    test(
        "reuse_options_and_devices_open_no_port_of_another",
        takeovers,
    )
    .on_stage(),
    test(
        "a_slice_that_may_not_claim_binds_reserved_and_picked_ports_only",
        may_not_claim,
    )
    .on_stage(),
    test(
        "the_range_of_the_loopback_translation_is_nobodys",
        loopback_range,
    )
    .on_stage(),
    test("the_kernel_picks_no_reserved_port", picked_ports).on_stage(),
    test("an_ephemeral_udp_port_is_never_shared", udp_autobind).on_stage(),
    test("port_0_claims_the_port_that_the_kernel_gives", port_0).on_stage(),
    test("slice_ports_shows_who_holds_a_port_and_why", shown).on_stage(),
    test(
        "a_slice_claims_as_many_ports_as_its_policy_says",
        claim_limit,
    )
    .on_stage(),
];

fn own_reserved(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    stage.counts(&[], || {
        for kind in Kind::ALL {
            for port in [if kind.is_tcp() { 80 } else { 53 }, 8000, 40000] {
                let server = alpha.server(kind, port)?;
                ensure!(
                    server.name()? == kind.any(port),
                    "bound to {}",
                    server.name()?
                );
            }
        }
        Ok(())
    })
}

fn reserved_for_another(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (beta, root) = (stage.slice("beta")?, stage.node()?);
    let expected = [
        ("beta", Reason::PortReserved, 6),
        ("node", Reason::PortReserved, 6),
    ];
    stage.counts(&expected, || {
        for puppet in [&beta, &root] {
            for kind in Kind::ALL {
                let port = if kind.is_tcp() { 80 } else { 53 };
                refused(puppet.socket(kind)?.bind(kind.any(port)), EADDRINUSE)?;
            }
        }
        Ok(())
    })
}

fn reserved_for_the_node(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    stage.counts(&[("alpha", Reason::PortNode, 6)], || {
        for kind in Kind::ALL {
            refused(alpha.socket(kind)?.bind(kind.any(2222)), EACCES)?;
            root.server(kind, 2222)?;
        }
        Ok(())
    })
}

fn privileged(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    stage.counts(&[("alpha", Reason::PortPrivileged, 12)], || {
        for kind in Kind::ALL {
            for port in [1, 1023] {
                refused(alpha.socket(kind)?.bind(kind.any(port)), EACCES)?;
                root.server(kind, port)?;
            }
            alpha.server(kind, 1024)?;
        }
        Ok(())
    })
}

fn claimed(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, root) = (stage.slice("alpha")?, stage.slice("beta")?, stage.node()?);
    let expected = [
        ("alpha", Reason::PortClaimed, 18),
        ("beta", Reason::PortClaimed, 36),
        ("node", Reason::PortClaimed, 18),
    ];
    stage.counts(&expected, || {
        for kind in Kind::ALL {
            for (first, others) in [(&alpha, [&beta, &root]), (&root, [&alpha, &beta])] {
                let held = first.server(kind, 9000)?;
                for other in others {
                    for kind in kind.relatives() {
                        refused(other.socket(kind)?.bind(kind.any(9000)), EADDRINUSE)?;
                    }
                }
                // TCP and UDP are two spaces.
                let apart = if kind.is_tcp() {
                    Kind::Udp4
                } else {
                    Kind::Tcp4
                };
                beta.server(apart, 9000)?;
                held.close();
                beta.server(kind, 9000)?;
            }
        }
        Ok(())
    })
}

fn last_socket(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    for (one, two) in [(Kind::Tcp4, Kind::Tcp6), (Kind::Udp4, Kind::Udp6)] {
        let first = alpha.server(one, 9001)?;
        let second = alpha.server(two, 9001)?;
        first.close();
        refused(beta.server(one, 9001), EADDRINUSE)?;
        second.close();
        beta.server(one, 9001)?;
    }
    Ok(())
}

/// Options that let the kernel give one port to two sockets.
const WAYS: [(&str, &[i32]); 3] = [
    ("SO_REUSEADDR", &[SO_REUSEADDR]),
    ("SO_REUSEPORT", &[SO_REUSEPORT]),
    ("both", &[SO_REUSEADDR, SO_REUSEPORT]),
];

/// Binds with options and to a device.
fn bind_with(
    puppet: &Puppet,
    kind: Kind,
    port: u16,
    options: &[i32],
    device: &str,
) -> Result<Called<()>> {
    let socket = puppet.socket(kind)?;
    for option in options {
        socket.set(SOL_SOCKET, *option, 1)?;
    }
    if !device.is_empty() {
        socket.set_bytes(SOL_SOCKET, SO_BINDTODEVICE, device.as_bytes().to_vec())?;
    }
    Ok(socket.bind(kind.any(port)))
}

fn takeovers(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let denied = 6 * 3 * 3;
    let expected = [
        ("beta", Reason::PortClaimed, denied),
        ("beta", Reason::PortReserved, denied),
    ];
    stage.counts(&expected, || {
        for kind in Kind::ALL {
            for (_, options) in WAYS {
                let held: Vec<_> = [8005, 9002]
                    .into_iter()
                    .map(|port| {
                        let held = alpha.socket(kind)?;
                        for option in options {
                            held.set(SOL_SOCKET, *option, 1)?;
                        }
                        held.set_bytes(SOL_SOCKET, SO_BINDTODEVICE, b"wire0".to_vec())?;
                        held.bind(kind.any(port))?;
                        Ok(held)
                    })
                    .collect::<Result<_>>()?;
                // A bind on another device first opens the kernel's own check
                // of user ids.
                for device in ["lo", "wire0", ""] {
                    for port in [8005, 9002] {
                        refused(bind_with(&beta, kind, port, options, device)?, EADDRINUSE)?;
                    }
                }
                drop(held);
            }
        }
        Ok(())
    })
}

fn may_not_claim(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let strict = stage.slice("strict")?;
    stage.counts(&[("strict", Reason::ClaimForbidden, 6)], || {
        for kind in Kind::ALL {
            refused(strict.socket(kind)?.bind(kind.any(9003)), EACCES)?;
            strict.server(kind, 8100)?;
            strict.server(kind, 0)?;
        }
        Ok(())
    })
}

fn loopback_range(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    let expected = [
        ("alpha", Reason::PortLoopback, 12),
        ("node", Reason::PortLoopback, 12),
    ];
    stage.counts(&expected, || {
        for puppet in [&alpha, &root] {
            for kind in Kind::ALL {
                for port in [61000, 65499] {
                    refused(puppet.socket(kind)?.bind(kind.any(port)), EADDRINUSE)?;
                }
                puppet.server(kind, 65500)?;
            }
        }
        Ok(())
    })
}

fn picked_ports(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (beta, outside) = (stage.slice("beta")?, stage.outside()?);
    let server = outside.server(Kind::TcpDual, 9004)?;
    // The kernel may pick from two ports, and 40000 is alpha's.
    let _range = Sysctl::set("net.ipv4.ip_local_port_range", "39999 40000")?;
    stage.counts(&[], || {
        for kind in Kind::ALL {
            let first = beta.socket(kind)?;
            first.bind(kind.any(0))?;
            ensure!(first.port()? == 39999, "{kind:?} got {}", first.port()?);
            refused(beta.socket(kind)?.bind(kind.any(0)), EADDRINUSE)?;
        }
        for kind in Kind::TCP {
            let first = beta.socket(kind)?;
            first.listen()?;
            ensure!(first.port()? == 39999, "{kind:?} got {}", first.port()?);
            refused(beta.socket(kind)?.listen(), EADDRINUSE)?;
        }
        for peer in PEER {
            let kind = Kind::tcp_for(peer);
            let first = beta.socket(kind)?;
            first.connect(at(peer, 9004))?;
            ensure!(first.port()? == 39999, "{kind:?} got {}", first.port()?);
            refused(beta.socket(kind)?.connect(at(peer, 9004)), EADDRNOTAVAIL)?;
            // Of the closing of both only what does not wait is of interest.
            server.accept()?.close();
            ensure!(first.receive()?.0 == 0, "the peer has closed");
            first.close();

            let kind = Kind::udp_for(peer);
            let first = beta.socket(kind)?;
            first.send_to(1, at(peer, 9004))?;
            ensure!(first.port()? == 39999, "{kind:?} got {}", first.port()?);
            refused(beta.socket(kind)?.send_to(1, at(peer, 9004)), EAGAIN)?;
        }
        Ok(())
    })
}

fn udp_autobind(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let _range = Sysctl::set("net.ipv4.ip_local_port_range", "50000 50001")?;
    stage.counts(&[("beta", Reason::PortClaimed, 2)], || {
        for peer in PEER {
            let kind = Kind::udp_for(peer);
            let held = reusable(&alpha, kind)?;
            held.bind(kind.any(50000))?;
            ensure!(
                held.get(SOL_SOCKET, SO_REUSEADDR)? == 1,
                "it reads as it was set"
            );

            let second = reusable(&beta, kind)?;
            refused(second.bind(kind.any(50000)), EADDRINUSE)?;
            second.send_to(1, at(peer, 9005))?;
            ensure!(second.port()? == 50001, "it got {}", second.port()?);
            refused(reusable(&beta, kind)?.send_to(1, at(peer, 9005)), EAGAIN)?;
        }
        Ok(())
    })
}

/// A socket with SO_REUSEADDR.
fn reusable(puppet: &Puppet, kind: Kind) -> Called<Sock<'_>> {
    let socket = puppet.socket(kind)?;
    socket.set(SOL_SOCKET, SO_REUSEADDR, 1)?;
    Ok(socket)
}

fn port_0(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    stage.counts(&[("beta", Reason::PortClaimed, 18)], || {
        for kind in Kind::ALL {
            let held = alpha.server(kind, 0)?;
            let port = held.port()?;
            for kind in kind.relatives() {
                refused(beta.socket(kind)?.bind(kind.any(port)), EADDRINUSE)?;
            }
        }
        Ok(())
    })
}

fn shown(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    let _held = [
        alpha.server(Kind::Tcp4, 80)?,
        alpha.server(Kind::Tcp6, 80)?,
        alpha.server(Kind::UdpDual, 9006)?,
        root.server(Kind::Tcp4, 9006)?,
    ];
    let shown = stage.machine().must("slice", &["ports", "-o", "json"])?;
    let shown: Value = serde_json::from_str(&shown.stdout)?;
    let rows = shown["ports"].as_array().cloned().unwrap_or_default();
    let of = |protocol: &str, port: u16| {
        let mut rows = rows.iter().filter(|row| {
            row["protocol"] == protocol
                && row["low"]
                    .as_u64()
                    .is_some_and(|low| low <= u64::from(port))
                && row["high"]
                    .as_u64()
                    .is_some_and(|high| high >= u64::from(port))
        });
        rows.next().cloned().unwrap_or_default()
    };
    let expected: [(&str, u16, &str, &str, u64); 6] = [
        ("tcp", 80, "alpha", "reserved", 2),
        ("udp", 53, "alpha", "reserved", 0),
        ("tcp", 8100, "strict", "reserved", 0),
        ("tcp", 2222, "node", "reserved", 0),
        ("udp", 9006, "alpha", "claimed", 1),
        ("tcp", 9006, "node", "claimed", 1),
    ];
    for (protocol, port, owner, kind, sockets) in expected {
        let row = of(protocol, port);
        let since = row["since"].is_string() == (sockets > 0);
        ensure!(
            row["owner"]["name"] == owner
                && row["kind"] == kind
                && row["sockets"] == sockets
                && since,
            "{protocol} {port} is shown as {row}"
        );
    }
    Ok(())
}

fn claim_limit(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let few = stage.slice("few")?;
    stage.counts(&[("few", Reason::ClaimLimit, 3)], || {
        let first = few.server(Kind::Tcp4, 9007)?;
        let _second = few.server(Kind::Udp6, 9007)?;
        // One port, however many sockets.
        let third = few.server(Kind::Tcp6, 9007)?;
        refused(few.server(Kind::Tcp4, 9008), EADDRINUSE)?;
        refused(few.server(Kind::UdpDual, 9008), EADDRINUSE)?;
        refused(few.server(Kind::Udp4, 0), EADDRINUSE)?;
        first.close();
        third.close();
        few.server(Kind::Tcp4, 9008)?;
        Ok(())
    })
}
