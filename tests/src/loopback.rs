//! Whose a loopback is: nobody reaches another's, and what it needs on the device
//! lo comes and goes with its slice.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libc::{SO_BINDTODEVICE, SOL_SOCKET};
use nix::errno::Errno::{EACCES, EADDRNOTAVAIL, ECONNREFUSED, EINPROGRESS, EPERM, ETIMEDOUT};
use policy::Reason;

use crate::node::Node;
use crate::puppet::{Control, Kind, Puppet, Sock};
use crate::runner::{Test, test};
use crate::site::Site;
use crate::stage::{LOOPBACK, NODE, OUTSIDE, PEER, Stage, Sysctl, at, mapped, refused};

pub const TESTS: &[Test] = &[
    test(
        "a_slice_reaches_neither_the_nodes_loopback_nor_another_slices",
        foreign,
    )
    .on_stage(),
    test(
        "the_node_reaches_no_loopback_of_a_slice_and_binds_none",
        node_stays_out,
    )
    .on_stage(),
    test(
        "a_wildcard_listener_is_not_reached_through_anothers_loopback",
        wildcard_listener,
    )
    .on_stage(),
    test(
        "a_wildcard_listener_is_reached_through_its_own_slices_loopback",
        own_wildcard,
    )
    .on_stage(),
    test(
        "no_packet_reaches_a_slices_loopback_from_outside_or_leaves_it",
        outside,
    )
    .on_stage(),
    test(
        "the_nodes_resolver_is_asked_and_nothing_else_of_its_loopback",
        resolver,
    )
    .on_stage(),
    test(
        "a_message_that_names_a_loopback_source_is_sent_from_the_slices_own",
        named_source,
    )
    .on_stage(),
    test(
        "a_network_namespace_of_its_own_has_a_loopback_of_its_own",
        own_network,
    )
    .on_stage(),
];

/// Those that bring a node up themselves.
pub const APART: &[Test] = &[test(
    "routes_and_addresses_of_loopbacks_come_and_go_with_their_slices",
    come_and_go,
)
.within(120)];

/// Owners that have a loopback.
pub const OWNERS: [&str; 3] = ["alpha", "beta", "node"];

/// A puppet of an owner.
///
/// # Errors
/// It cannot be started.
pub fn owner(stage: &Stage<'_>, name: &str) -> Result<Puppet> {
    match name {
        "node" => stage.node(),
        slice => stage.slice(slice),
    }
}

/// The addresses that the kernel has for 127.0.0.1 and ::1 of a slice.
pub fn real(node: &Node, slice: &str) -> Result<[IpAddr; 2]> {
    let status = node.must("slice", &["status", slice, "-o", "json"])?.stdout;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let id = status["rows"][0]["id"].as_u64().context("no id")?;
    let row = u16::try_from(id % 16384)?;
    let [high, low] = row.to_be_bytes();
    Ok([
        IpAddr::V4(Ipv4Addr::new(127, high + 1, low, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd53, 0x6c00, 0, 0, 0, 0, row, 1)),
    ])
}

/// The three ways in which programs say localhost.
pub fn ways(tcp: bool) -> [(Kind, IpAddr); 3] {
    let kinds = if tcp { Kind::TCP } else { Kind::UDP };
    [
        (kinds[0], LOOPBACK[0]),
        (kinds[1], LOOPBACK[1]),
        (kinds[2], mapped(LOOPBACK[0])),
    ]
}

/// A server as servers are written: it does not mind what TCP remembers of the
/// one before.
pub fn serves<'p>(owner: &'p Puppet, kind: Kind, there: SocketAddr) -> Result<Sock<'p>> {
    let server = owner.socket(kind)?;
    if kind.is_tcp() {
        server.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    server.bind(there)?;
    if kind.is_tcp() {
        server.listen()?;
    }
    Ok(server)
}

/// Sends a few bytes from one end of a connection to the other.
pub fn passes(from: &Sock<'_>, to: &Sock<'_>, bytes: usize) -> Result<()> {
    from.send(bytes)?;
    let got = to.receive()?.0;
    ensure!(got == bytes, "{got} bytes came of {bytes}");
    Ok(())
}

fn foreign(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, root) = (stage.slice("alpha")?, stage.slice("beta")?, stage.node()?);
    let real = real(node, "alpha")?;
    for family in [0, 1] {
        let (tcp, udp) = (
            Kind::tcp_for(LOOPBACK[family]),
            Kind::udp_for(LOOPBACK[family]),
        );
        let here = at(LOOPBACK[family], 9708);
        let _server = serves(&alpha, tcp, here)?;
        let ear = serves(&alpha, udp, here)?;
        let _other = serves(&root, tcp, here)?;
        let other = serves(&root, udp, here)?;
        // By any port: the one that is named, and those of the kernel.
        let ports = [9708, 61000, 61063];
        let count = 3 * 3;
        let expected = [
            ("beta", Reason::LoopbackForeign, count),
            ("beta", Reason::AddressForeign, 2),
        ];
        stage.counts(&expected, || {
            for port in ports {
                let there = at(real[family], port);
                refused(beta.socket(tcp)?.connect(there), ECONNREFUSED)?;
                refused(beta.socket(udp)?.connect(there), ECONNREFUSED)?;
                refused(beta.socket(udp)?.send_to(1, there), ECONNREFUSED)?;
            }
            refused(beta.socket(tcp)?.bind(at(real[family], 0)), EADDRNOTAVAIL)?;
            refused(
                beta.socket(udp)?.bind(at(real[family], 9708)),
                EADDRNOTAVAIL,
            )
        })?;
        // It is the slice's own by either name.
        alpha.socket(udp)?.send_to(1, at(real[family], 9708))?;
        ear.receive()?;
        refused(ear.receive_within(50), ETIMEDOUT)?;
        refused(other.receive_within(50), ETIMEDOUT)?;
    }
    // The rest of 127.0.0.0/8 is nobody's.
    for text in ["127.0.0.53", "127.0.2.1", "127.200.0.1"] {
        let there = at(text.parse()?, 9708);
        stage.counts(&[("beta", Reason::LoopbackForeign, 2)], || {
            refused(beta.socket(Kind::Tcp4)?.connect(there), ECONNREFUSED)?;
            let as_ipv6 = at(mapped(there.ip()), 9708);
            refused(
                beta.socket(Kind::UdpDual)?.send_to(1, as_ipv6),
                ECONNREFUSED,
            )
        })?;
        refused(beta.socket(Kind::Tcp4)?.bind(there), EADDRNOTAVAIL)?;
    }
    Ok(())
}

fn node_stays_out(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    let real = real(node, "alpha")?;
    for family in [0, 1] {
        let (tcp, udp) = (
            Kind::tcp_for(LOOPBACK[family]),
            Kind::udp_for(LOOPBACK[family]),
        );
        let _server = serves(&alpha, tcp, at(LOOPBACK[family], 9709))?;
        let ear = serves(&alpha, udp, at(LOOPBACK[family], 9709))?;
        stage.counts(&[("node", Reason::AddressForeign, 2)], || {
            refused(
                root.socket(tcp)?.bind(at(real[family], 9709)),
                EADDRNOTAVAIL,
            )?;
            refused(root.socket(udp)?.bind(at(real[family], 0)), EADDRNOTAVAIL)
        })?;
        let change = stage.change_by(|| {
            for port in [9709, 61000, 61001, 61002] {
                let sent = root.socket(udp)?.send_to(1, at(real[family], port));
                if family == 0 {
                    refused(sent, EPERM)?;
                }
                let client = root.socket(tcp)?;
                refused(
                    client.connect_within(at(real[family], port), 50),
                    EINPROGRESS,
                )?;
            }
            Ok(())
        })?;
        let counted = change.by("node", "denials.loopback_foreign");
        ensure!(counted >= 8, "{change}");
        ensure!(
            change.denials().by("alpha", "denials.receive_foreign") == 0,
            "{change}"
        );
        refused(ear.receive_within(50), ETIMEDOUT)?;
    }
    Ok(())
}

fn wildcard_listener(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let owners = OWNERS
        .map(|name| owner(&stage, name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    // A port that policy keeps, and free ones.
    for (whose, port) in [(0, 8021), (0, 9710), (1, 9711), (2, 9712), (2, 2222)] {
        for (number, kind) in Kind::TCP.into_iter().enumerate() {
            let server = serves(&owners[whose], kind, kind.any(port))?;
            let udp = Kind::UDP[number];
            let ear = owners[whose].server(udp, port)?;
            for (who, other) in owners.iter().enumerate().filter(|(who, _)| *who != whose) {
                for family in [0, 1] {
                    let there = at(LOOPBACK[family], port);
                    let (tcp, udp) = (Kind::tcp_for(there.ip()), Kind::udp_for(there.ip()));
                    // A slice is refused by its call, the node and a datagram
                    // where the packet would find the socket.
                    stage.counts(&[(OWNERS[who], Reason::LoopbackForeign, 3)], || {
                        let start = Instant::now();
                        refused(other.socket(tcp)?.connect(there), ECONNREFUSED)?;
                        ensure!(start.elapsed() < Duration::from_secs(1), "it took long");
                        let connected = other.socket(udp)?;
                        if who == 2 {
                            connected.connect(there)?;
                            connected.send(1)?;
                            refused(connected.receive(), ECONNREFUSED)?;
                        } else {
                            refused(connected.connect(there), ECONNREFUSED)?;
                        }
                        Ok(other.socket(udp)?.send_to(1, there)?)
                    })?;
                }
            }
            refused(ear.receive_within(50), ETIMEDOUT)?;
            // By the node's address it is reached by all.
            let family = usize::from(kind == Kind::Tcp6);
            for other in &owners {
                let _client = other.connected(at(NODE[family], port))?;
                server.accept()?;
            }
        }
    }
    Ok(())
}

fn own_wildcard(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    stage.counts(&[], || {
        for name in ["alpha", "node"] {
            let owner = owner(&stage, name)?;
            for family in [0, 1] {
                let (tcp, udp) = (
                    Kind::tcp_for(LOOPBACK[family]),
                    Kind::udp_for(LOOPBACK[family]),
                );
                let here = at(LOOPBACK[family], 8022 + u16::from(name == "node") * 1700);
                let server = owner.server(tcp, here.port())?;
                let client = owner.connected(here)?;
                let accepted = server.accept()?;
                ensure!(accepted.name()? == here, "accepted at {}", accepted.name()?);
                passes(&client, &accepted, 30)?;
                let ear = owner.server(udp, here.port())?;
                let client = owner.socket(udp)?;
                client.send_to(3, here)?;
                let from = ear.receive()?.1.context("from nobody")?;
                ear.send_to(4, from)?;
                ensure!(client.receive()?.1 == Some(here), "another answers");
                // A listener on localhost alone comes first.
                if name == "alpha" {
                    let nearer = serves(&owner, tcp, here)?;
                    let _client = owner.connected(here)?;
                    nearer.accept()?;
                }
            }
        }
        Ok(())
    })
}

/// The machine's default routes, there again when this is dropped.
struct DefaultRoutes<'n> {
    node: &'n Node,
    routes: [(&'static str, String); 2],
}

impl<'n> DefaultRoutes<'n> {
    fn keep(node: &'n Node) -> Result<DefaultRoutes<'n>> {
        let of = |family| -> Result<_> {
            let routes = node.must("ip", &[family, "route", "show", "default"])?;
            Ok((family, routes.stdout))
        };
        let routes = [of("-4")?, of("-6")?];
        Ok(DefaultRoutes { node, routes })
    }
}

impl Drop for DefaultRoutes<'_> {
    fn drop(&mut self) {
        for (family, routes) in &self.routes {
            let _ = self.node.run("ip", &[*family, "route", "del", "default"]);
            for route in routes.lines() {
                let words: Vec<&str> = route.split_whitespace().collect();
                let words = [&[*family, "route", "replace"], &words[..]].concat();
                let _ = self.node.run("ip", &words);
            }
        }
    }
}

fn outside(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    let real = real(node, "alpha")?;
    // As a hostile neighbour would: it knows where the node is.
    let route = [
        "-n",
        OUTSIDE,
        "-6",
        "route",
        "replace",
        "fd53:6c00::/96",
        "via",
    ];
    node.must("ip", &[&route[..], &["2001:db8:5::1"]].concat())?;
    let route = ["-n", OUTSIDE, "route", "replace", "127.1.0.0/16", "via"];
    node.must("ip", &[&route[..], &["198.51.100.1"]].concat())?;
    // And the node sends on what is nobody's.
    let _routes = DefaultRoutes::keep(node)?;
    let default = ["route", "replace", "default", "via"];
    node.must("ip", &[&default[..], &["198.51.100.2"]].concat())?;
    node.must("ip", &[&["-6"], &default[..], &["2001:db8:5::2"]].concat())?;
    let _localnet = Sysctl::set("net.ipv4.conf.wire0.route_localnet", "1")?;
    node.must(
        "ip",
        &[
            "netns",
            "exec",
            OUTSIDE,
            "sysctl",
            "-qw",
            "net.ipv4.conf.wire0.route_localnet=1",
        ],
    )?;
    for family in [0, 1] {
        let (tcp, udp) = (
            Kind::tcp_for(LOOPBACK[family]),
            Kind::udp_for(LOOPBACK[family]),
        );
        let _servers = [
            serves(&alpha, tcp, at(LOOPBACK[family], 9730))?,
            alpha.server(tcp, 8024)?,
        ];
        let ears = [
            serves(&alpha, udp, at(LOOPBACK[family], 9730))?,
            alpha.server(udp, 8024)?,
        ];
        for port in (61000..=61063).chain([8024, 9730]) {
            let there = at(real[family], port);
            outside.socket(udp)?.send_to(1, there)?;
        }
        for port in [61002, 8024, 9730] {
            refused(
                outside.socket(tcp)?.connect(at(real[family], port)),
                ECONNREFUSED,
            )?;
        }
        for ear in &ears {
            refused(ear.receive_within(50), ETIMEDOUT)?;
        }
        // The other way: nothing leaves.
        let ear = outside.server(Kind::udp_for(PEER[family]), 9731)?;
        let sender = alpha.socket(udp)?;
        sender.bind(at(LOOPBACK[family], 9732))?;
        let sent = sender.send_to(1, at(PEER[family], 9731));
        ensure!(sent.is_err(), "it was sent");
        refused(ear.receive_within(50), ETIMEDOUT)?;
        // Nor by a device that the socket is bound to: at once, and after the same
        // passed on lo.
        let bound =
            |socket: &Sock<'_>| socket.set_bytes(SOL_SOCKET, SO_BINDTODEVICE, b"wire0".to_vec());
        for before in [false, true] {
            let sender = alpha.socket(udp)?;
            if before {
                sender.connect(at(LOOPBACK[family], 9730))?;
                sender.send(1)?;
                bound(&sender)?;
            } else {
                bound(&sender)?;
                sender.connect(at(LOOPBACK[family], 9730))?;
            }
            refused(sender.send(1), EPERM).with_context(|| format!("family {family}, {before}"))?;
        }
    }
    node.must(
        "ip",
        &["-n", OUTSIDE, "-6", "route", "del", "fd53:6c00::/96"],
    )?;
    node.must("ip", &["-n", OUTSIDE, "route", "del", "127.1.0.0/16"])?;
    Ok(())
}

fn resolver(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    // A port of the node's resolver that is reserved for a slice is not its own.
    let unreserved = |text: &str| text.replace("ports.udp = [53, ", "ports.udp = [");
    stage.with_policy("alpha", unreserved, || asked(&stage, node))
}

fn asked(stage: &Stage<'_>, node: &Node) -> Result<()> {
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    let stub = at("127.0.0.53".parse()?, 53);
    let ear = serves(&root, Kind::Udp4, stub)?;
    let server = serves(&root, Kind::Tcp4, stub)?;
    let aside = serves(&root, Kind::Udp4, at(stub.ip(), 54))?;
    let source = real(node, "alpha")?[0];
    stage.counts(&[], || {
        for connected in [false, true] {
            let client = alpha.socket(Kind::Udp4)?;
            if connected {
                client.connect(stub)?;
                client.send(5)?;
            } else {
                client.send_to(5, stub)?;
            }
            // The node can tell who asks.
            let from = ear.receive()?.1.context("from nobody")?;
            ensure!(from.ip() == source, "from {from}");
            ear.send_to(6, from)?;
            ensure!(client.receive()? == (6, Some(stub)), "no answer");
        }
        let client = alpha.connected(stub)?;
        let accepted = server.accept()?;
        passes(&client, &accepted, 7)?;
        passes(&accepted, &client, 8)
    })?;
    stage.counts(&[("alpha", Reason::LoopbackForeign, 3)], || {
        refused(
            alpha.socket(Kind::Udp4)?.send_to(1, at(stub.ip(), 54)),
            ECONNREFUSED,
        )?;
        refused(
            alpha.socket(Kind::Udp4)?.connect(at(stub.ip(), 54)),
            ECONNREFUSED,
        )?;
        refused(
            alpha.socket(Kind::Tcp4)?.connect(at(stub.ip(), 54)),
            ECONNREFUSED,
        )
    })?;
    refused(aside.receive_within(50), ETIMEDOUT)?;
    // The owner may refuse it like any destination.
    stage.with_rule("alpha", "udp", 53, || {
        stage.counts(&[("alpha", Reason::Destination, 2)], || {
            refused(alpha.socket(Kind::Udp4)?.send_to(1, stub), EACCES)?;
            refused(alpha.socket(Kind::Udp4)?.connect(stub), EACCES)
        })
    })
}

fn named_source(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let foreign = real(node, "alpha")?;
    for family in [0, 1] {
        let udp = Kind::udp_for(LOOPBACK[family]);
        let here = at(LOOPBACK[family], 9733);
        let ear = serves(&alpha, udp, here)?;
        let client = alpha.socket(udp)?;
        client.send_with(vec![1], Some(here), vec![source(LOOPBACK[family])])?;
        let from = ear.receive()?.1.context("from nobody")?;
        ensure!(from.ip() == LOOPBACK[family], "from {from}");
        let ear = serves(&beta, udp, here)?;
        let client = beta.socket(udp)?;
        let sent = client.send_with(vec![1], Some(here), vec![source(foreign[family])]);
        refused(sent, EADDRNOTAVAIL)?;
        refused(ear.receive_within(50), ETIMEDOUT)?;
    }
    Ok(())
}

/// `IP_PKTINFO` or `IPV6_PKTINFO` with a source.
fn source(address: IpAddr) -> Control {
    let (level, name, value) = match address {
        IpAddr::V4(v4) => {
            let mut value = vec![0; 12];
            value[4..8].copy_from_slice(&v4.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, value)
        }
        IpAddr::V6(v6) => {
            let mut value = v6.octets().to_vec();
            value.extend([0; 4]);
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, value)
        }
    };
    Control { level, name, value }
}

fn own_network(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    let before = serves(&alpha, Kind::Tcp4, at(LOOPBACK[0], 9734))?;
    alpha.leave_for_own_network()?;
    let pid = alpha.pid()?;
    stage.counts(&[], || {
        for (kind, address, hexadecimal) in [
            (Kind::Tcp4, LOOPBACK[0], "0100007F:2607"),
            (
                Kind::Tcp6,
                LOOPBACK[1],
                "00000000000000000000000001000000:2607",
            ),
        ] {
            // The device lo of a new namespace is down: ::1 is not there yet.
            let server = alpha.socket(kind)?;
            if kind == Kind::Tcp6 && server.bind(at(address, 9735)).is_err() {
                continue;
            }
            if kind == Kind::Tcp4 {
                server.bind(at(address, 9735))?;
            }
            server.listen()?;
            let file = ["tcp", "tcp6"][usize::from(kind == Kind::Tcp6)];
            let table = fs::read_to_string(format!("/proc/{pid}/net/{file}"))?;
            ensure!(
                table.contains(hexadecimal),
                "it is not at {address}: {table}"
            );
        }
        Ok(())
    })?;
    // What was made before stays where it was.
    ensure!(
        before.name()? == at(LOOPBACK[0], 9734),
        "{}",
        before.name()?
    );
    Ok(())
}

fn come_and_go(node: &mut Node) -> Result<()> {
    let site = Site::new(
        node,
        &[
            ("node.toml", "[node]\nmax_slices = 8\n"),
            ("slices/one.toml", ""),
        ],
    )?;
    let known = || -> Result<(usize, usize)> {
        let routes = node.must("ip", &["route", "show", "table", "local", "proto", "83"])?;
        let addresses = node.must("ip", &["-6", "-o", "addr", "show", "dev", "lo"])?;
        Ok((
            routes.stdout.lines().count(),
            addresses.stdout.matches("fd53:6c00::").count(),
        ))
    };
    let expect = |count: usize, when: &str| -> Result<()> {
        let known = known()?;
        ensure!(known == (count, count), "{known:?} {when}");
        Ok(())
    };
    expect(0, "before")?;
    site.must(&["up"])?;
    expect(1, "after up")?;
    site.write("slices/two.toml", "")?;
    site.must(&["reload"])?;
    expect(2, "after a slice came")?;
    site.remove("slices/one.toml")?;
    site.must(&["reload"])?;
    expect(1, "after a slice went")?;
    // What somebody took away, or a killed command left, the next one mends.
    let row = real(node, "two")?;
    let address = format!("{}/128", row[1]);
    node.must("ip", &["-6", "addr", "del", &address, "dev", "lo"])?;
    let network = format!(
        "{}/24",
        row[0].to_string().trim_end_matches(".1").to_owned() + ".0"
    );
    let route = [
        "route", "del", "local", &network, "dev", "lo", "table", "local",
    ];
    node.must("ip", &route)?;
    let stray = ["-6", "addr", "add", "fd53:6c00::7:1/128", "dev", "lo"];
    node.must("ip", &stray)?;
    expect_pair(known()?, (0, 1))?;
    site.must(&["up"])?;
    expect(1, "after up has mended it")?;
    site.must(&["down"])?;
    expect(0, "after down")
}

fn expect_pair(known: (usize, usize), expected: (usize, usize)) -> Result<()> {
    ensure!(known == expected, "{known:?}, not {expected:?}");
    Ok(())
}
