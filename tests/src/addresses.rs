//! Which addresses a slice may use: bound, as a source, and as a destination
//! that others would like to hear.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP};
use nix::errno::Errno::{EACCES, EADDRINUSE, EADDRNOTAVAIL, EINPROGRESS, EPERM, ETIMEDOUT};
use policy::Reason;

use crate::destinations::dropped;
use crate::node::Node;
use crate::puppet::{Called, Control, Kind};
use crate::runner::{Test, test};
use crate::stage::{
    FOREIGN, GAMMA, GAMMA4, GAMMA6, LOOPBACK, NODE, PEER, Stage, Sysctl, at, mapped, refused,
};

pub const TESTS: &[Test] = &[
    test(
        "an_address_that_is_not_the_nodes_cannot_be_bound",
        foreign_bind,
    )
    .on_stage(),
    test(
        "an_own_address_is_bound_by_its_slice_alone_not_even_by_root",
        own_bind,
    )
    .on_stage(),
    test(
        "a_slice_with_an_own_address_binds_no_shared_one_of_that_family",
        no_shared,
    )
    .on_stage(),
    test(
        "a_wildcard_means_the_own_address_and_all_its_ports",
        wildcard,
    )
    .on_stage(),
    test(
        "an_own_address_is_no_way_to_ports_kept_for_others",
        own_kept,
    )
    .on_stage(),
    test("packets_leave_with_the_own_address", own_source).on_stage(),
    test(
        "nobody_else_hears_what_is_sent_to_an_own_address",
        nobody_else_hears,
    )
    .on_stage(),
    test("options_that_change_addresses_are_refused", options).on_stage(),
    test("a_datagram_with_a_foreign_source_is_refused", packet_info).on_stage(),
    test(
        "a_connected_datagram_with_a_foreign_source_is_refused",
        connected_packet_info,
    )
    .on_stage(),
    test(
        "an_echo_request_with_a_foreign_source_is_dropped",
        echo_source,
    )
    .on_stage(),
    test(
        "packets_from_a_loopback_address_do_not_leave_the_node",
        loopback_source,
    )
    .on_stage(),
    test("headers_that_hide_the_destination_are_dropped", headers).on_stage(),
];

const TCP_ULP: i32 = 31;
const IP_OPTIONS: i32 = 4;
const IP_RETOPTS: i32 = 7;
const IP_PKTINFO: i32 = 8;
const IP_FREEBIND: i32 = 15;
const IP_TRANSPARENT: i32 = 19;
const IPV6_2292PKTOPTIONS: i32 = 6;
const IPV6_2292RTHDR: i32 = 5;
const IPV6_PKTINFO: i32 = 50;
const IPV6_FLOWLABEL_MGR: i32 = 32;
const IPV6_HOPOPTS: i32 = 54;
const IPV6_RTHDR: i32 = 57;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_FREEBIND: i32 = 78;

fn foreign_bind(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    stage.counts(&[("alpha", Reason::AddressForeign, 10)], || {
        for address in FOREIGN {
            for kind in [Kind::tcp_for(address), Kind::udp_for(address)] {
                for port in [0, 8040] {
                    refused(alpha.socket(kind)?.bind(at(address, port)), EADDRNOTAVAIL)?;
                }
            }
        }
        for kind in [Kind::TcpDual, Kind::UdpDual] {
            refused(
                alpha.socket(kind)?.bind(at(mapped(FOREIGN[0]), 8040)),
                EADDRNOTAVAIL,
            )?;
        }
        // The node's own are open.
        for address in NODE.into_iter().chain(LOOPBACK) {
            alpha.server_at(Kind::tcp_for(address), at(address, 8040))?;
            alpha.server_at(Kind::udp_for(address), at(address, 8040))?;
        }
        alpha.server_at(Kind::TcpDual, at(mapped(NODE[0]), 8040))?;
        Ok(())
    })
}

fn own_bind(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    let (gamma, gamma4) = (stage.slice("gamma")?, stage.slice("gamma4")?);
    let expected = [
        ("alpha", Reason::AddressForeign, 5),
        ("gamma4", Reason::AddressForeign, 5),
        ("node", Reason::AddressForeign, 5),
    ];
    stage.counts(&expected, || {
        for address in GAMMA {
            for kind in [Kind::tcp_for(address), Kind::udp_for(address)] {
                for other in [&alpha, &gamma4, &root] {
                    refused(other.socket(kind)?.bind(at(address, 9049)), EADDRNOTAVAIL)?;
                }
                gamma.server_at(kind, at(address, 9049))?;
            }
        }
        for other in [&alpha, &gamma4, &root] {
            let socket = other.socket(Kind::TcpDual)?;
            refused(socket.bind(at(mapped(GAMMA[0]), 9049)), EADDRNOTAVAIL)?;
        }
        Ok(())
    })
}

fn no_shared(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    // The slice, and whether it has an own address of each family.
    for (name, own) in [
        ("gamma", [true, true]),
        ("gamma4", [true, false]),
        ("gamma6", [false, true]),
    ] {
        let slice = stage.slice(name)?;
        let count = own.iter().filter(|own| **own).count() * 2;
        let expected = [(name, Reason::AddressForeign, i64::try_from(count)?)];
        stage.counts(&expected, || {
            for family in [0, 1] {
                let address = NODE[family];
                for kind in [Kind::tcp_for(address), Kind::udp_for(address)] {
                    let socket = slice.socket(kind)?;
                    let bound = socket.bind(at(address, 9041));
                    if own[family] {
                        refused(bound, EADDRNOTAVAIL)?
                    } else {
                        bound?
                    }
                    slice.server_at(kind, at(LOOPBACK[family], 9042))?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn wildcard(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    // Where another slice has the wildcard, the kernel itself refuses the port
    // at every address; here it has the node's.
    let _held = NODE
        .into_iter()
        .flat_map(|address| {
            [
                (Kind::tcp_for(address), at(address, 8046)),
                (Kind::udp_for(address), at(address, 8046)),
            ]
        })
        .map(|(kind, at)| alpha.server_at(kind, at))
        .collect::<Called<Vec<_>>>()?;
    // What each family of socket is bound to: IPv4, IPv6, both.
    for (name, means) in [
        ("gamma", [GAMMA[0], GAMMA[1], GAMMA[1]]),
        ("gamma4", [GAMMA4, Kind::Tcp6.any(0).ip(), mapped(GAMMA4)]),
        ("gamma6", [Kind::Tcp4.any(0).ip(), GAMMA6, GAMMA6]),
    ] {
        let slice = stage.slice(name)?;
        let change = stage.change_by(|| {
            for (means, kinds) in means.into_iter().zip([
                [Kind::Tcp4, Kind::Udp4],
                [Kind::Tcp6, Kind::Udp6],
                [Kind::TcpDual, Kind::UdpDual],
            ]) {
                // gamma4's IPv6-only socket has a shared address.
                let shared = means.is_unspecified();
                for kind in kinds {
                    for port in if shared { [0, 9043] } else { [443, 9044] } {
                        let server = slice.server(kind, port)?;
                        let name = server.name()?;
                        ensure!(
                            name.ip() == means,
                            "{kind:?} is bound to {name}, not {means}"
                        );
                    }
                }
            }
            Ok(())
        })?;
        ensure!(
            change.without("sockets_opened").is_empty(),
            "{name}: counted"
        );
    }
    Ok(())
}

fn own_kept(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let gamma = stage.slice("gamma")?;
    let expected = [
        ("gamma", Reason::PortReserved, 10),
        ("gamma", Reason::PortNode, 10),
    ];
    stage.counts(&expected, || {
        for kind in Kind::ALL {
            let mut places = vec![kind.any(0).ip()];
            match kind {
                Kind::TcpDual | Kind::UdpDual => {}
                _ => places.push(GAMMA[usize::from(kind.family() == libc::AF_INET6)]),
            }
            for place in places {
                refused(gamma.socket(kind)?.bind(at(place, 8047)), EADDRINUSE)?;
                refused(gamma.socket(kind)?.bind(at(place, 2222)), EACCES)?;
            }
        }
        Ok(())
    })
}

fn own_source(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let outside = stage.outside()?;
    let tcp = outside.server(Kind::TcpDual, 9044)?;
    let udp = [
        outside.server(Kind::Udp4, 9044)?,
        outside.server(Kind::Udp6, 9044)?,
    ];
    for (name, sources) in [
        ("alpha", NODE),
        ("gamma", GAMMA),
        ("gamma4", [GAMMA4, NODE[1]]),
        ("gamma6", [NODE[0], GAMMA6]),
    ] {
        let slice = stage.slice(name)?;
        stage.counts(&[], || {
            for (family, source) in sources.into_iter().enumerate() {
                let to = at(PEER[family], 9044);
                let client = slice.connected(to)?;
                ensure!(
                    client.name()?.ip() == source,
                    "{name} connects from {}",
                    client.name()?
                );
                tcp.accept()?.close();
                // The peer closes first, so that nothing waits.
                ensure!(client.receive()?.0 == 0, "closed");

                let heard = |what: &str| -> Result<()> {
                    let from = udp[family].receive()?.1.map(|from| from.ip());
                    ensure!(
                        from == Some(source),
                        "{name} {what} from {from:?}, not {source}"
                    );
                    Ok(())
                };
                let sender = slice.socket(Kind::udp_for(source))?;
                sender.send_to(1, to)?;
                heard("sends")?;
                sender.send_to(1, to)?;
                heard("sends again")?;
                let connected = slice.socket(Kind::udp_for(source))?;
                connected.connect(to)?;
                connected.send(1)?;
                heard("sends connected")?;
                let bound = slice.server(Kind::udp_for(source), 0)?;
                bound.send_to(1, to)?;
                heard("sends bound")?;
            }
            // An IPv4 destination through a socket of both families.
            let dual = slice.socket(Kind::UdpDual)?;
            dual.send_to(1, at(mapped(PEER[0]), 9044))?;
            let from = udp[0].receive()?.1.map(|from| from.ip());
            ensure!(
                from == Some(sources[0]),
                "{name} sends mapped from {from:?}"
            );
            let dual = slice.socket(Kind::TcpDual)?;
            dual.connect(at(mapped(PEER[0]), 9044))?;
            ensure!(
                dual.name()?.ip() == mapped(sources[0]),
                "{name} from {}",
                dual.name()?
            );
            tcp.accept()?.close();
            ensure!(dual.receive()?.0 == 0, "closed");
            Ok(())
        })?;
    }
    Ok(())
}

fn nobody_else_hears(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    let (gamma, outside) = (stage.slice("gamma")?, stage.outside()?);
    let kinds = |tcp: bool| {
        if tcp {
            [Kind::Tcp4, Kind::Tcp6]
        } else {
            [Kind::Udp4, Kind::Udp6]
        }
    };
    for family in [0, 1] {
        let [own, shared] = [GAMMA, NODE].map(|address| at(address[family], 9045));
        let udp = kinds(false)[family];
        let ears = [
            alpha.server(udp, 9045)?,
            alpha.server(kinds(true)[family], 9045)?,
        ];
        stage.counts(&[("alpha", Reason::ReceiveForeign, 2)], || {
            outside.socket(udp)?.send_to(1, own)?;
            refused(ears[0].receive_within(100), ETIMEDOUT)?;
            let knock = outside.socket(kinds(true)[family])?;
            refused(knock.connect_within(own, 200), EINPROGRESS)
        })?;
        // What is sent to the shared address is heard.
        outside.socket(udp)?.send_to(1, shared)?;
        ears[0].receive()?;
        let knock = outside.connected(shared)?;
        ears[1].accept()?.close();
        ensure!(knock.receive()?.0 == 0, "closed");
        drop(knock);

        drop(ears);
        let ears = [alpha.server_at(udp, shared)?];
        stage.counts(&[], || {
            let own_ears = [
                gamma.server(udp, 9045)?,
                gamma.server(kinds(true)[family], 9045)?,
            ];
            outside.socket(udp)?.send_to(1, own)?;
            own_ears[0].receive()?;
            let knock = outside.connected(own)?;
            own_ears[1].accept()?.close();
            ensure!(knock.receive()?.0 == 0, "closed");
            refused(ears[0].receive_within(50), ETIMEDOUT)
        })?;
    }
    Ok(())
}

fn options(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    let rows: [(i32, i32, Vec<u8>); 11] = [
        (IPPROTO_TCP, TCP_ULP, b"smc".to_vec()),
        (IPPROTO_IP, IP_OPTIONS, vec![1, 1, 1, 0]),
        (IPPROTO_IP, IP_FREEBIND, vec![1, 0, 0, 0]),
        (IPPROTO_IP, IP_TRANSPARENT, vec![1, 0, 0, 0]),
        (IPPROTO_IPV6, IPV6_2292RTHDR, vec![1, 0, 0, 0]),
        (IPPROTO_IPV6, IPV6_2292PKTOPTIONS, vec![0; 8]),
        (IPPROTO_IPV6, IPV6_FLOWLABEL_MGR, label(PEER[1])),
        (IPPROTO_IPV6, IPV6_HOPOPTS, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        (IPPROTO_IPV6, IPV6_RTHDR, routing_header(PEER[1])),
        (IPPROTO_IPV6, IPV6_TRANSPARENT, vec![1, 0, 0, 0]),
        (IPPROTO_IPV6, IPV6_FREEBIND, vec![1, 0, 0, 0]),
    ];
    let mut expected = 0;
    let change = stage.change_by(|| {
        for kind in Kind::ALL {
            let socket = alpha.socket(kind)?;
            for (level, name, value) in &rows {
                if *level == IPPROTO_IPV6 && kind.family() == libc::AF_INET {
                    continue;
                }
                refused(socket.set_bytes(*level, *name, value.clone()), EPERM)?;
                expected += 1;
            }
        }
        Ok(())
    })?;
    ensure!(
        change.by("alpha", "denials.option") == expected,
        "{change}, not {expected}"
    );
    Ok(())
}

/// The lease of a flow label that nobody else may use meanwhile.
fn label(address: IpAddr) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    if let IpAddr::V6(v6) = address {
        bytes[..16].copy_from_slice(&v6.octets());
    }
    // The label; IPV6_FL_A_GET, IPV6_FL_S_EXCL; IPV6_FL_F_CREATE.
    bytes[16..22].copy_from_slice(&[0, 0, 0, 7, 0, 1]);
    bytes[22..24].copy_from_slice(&1u16.to_ne_bytes());
    bytes
}

/// A routing header of type 2 with one address.
fn routing_header(address: IpAddr) -> Vec<u8> {
    let mut bytes = vec![0, 2, 2, 1, 0, 0, 0, 0];
    if let IpAddr::V6(v6) = address {
        bytes.extend(v6.octets());
    }
    bytes
}

/// The control message that asks for a source address.
fn source(address: IpAddr) -> Control {
    match address {
        IpAddr::V4(v4) => {
            // Device, source, and a field for the receiver.
            let value = [[0; 4], v4.octets(), [0; 4]].concat();
            Control {
                level: IPPROTO_IP,
                name: IP_PKTINFO,
                value,
            }
        }
        IpAddr::V6(v6) => {
            let value = [&v6.octets()[..], &[0; 4]].concat();
            Control {
                level: IPPROTO_IPV6,
                name: IPV6_PKTINFO,
                value,
            }
        }
    }
}

fn packet_info(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, gamma, outside) = (
        stage.slice("alpha")?,
        stage.slice("gamma")?,
        stage.outside()?,
    );
    for family in [0, 1] {
        let to = at(PEER[family], 9046);
        let ear = outside.server(Kind::udp_for(PEER[family]), 9046)?;
        let expected = [
            // The kernel itself refuses an IPv6 source that is not the node's.
            ("alpha", Reason::AddressForeign, 2 - i64::try_from(family)?),
            ("gamma", Reason::AddressForeign, 1),
        ];
        stage.counts(&expected, || {
            let kind = Kind::udp_for(PEER[family]);
            let spoof = |from| vec![source(from)];
            let sender = alpha.socket(kind)?;
            refused(
                sender.send_with(vec![1], Some(to), spoof(GAMMA[family])),
                EADDRNOTAVAIL,
            )?;
            let other = sender.send_with(vec![1], Some(to), spoof(FOREIGN[family]));
            ensure!(other.is_err(), "a foreign source was sent");
            sender.send_with(vec![1], Some(to), spoof(NODE[family]))?;
            let sender = gamma.socket(kind)?;
            refused(
                sender.send_with(vec![1], Some(to), spoof(NODE[family])),
                EADDRNOTAVAIL,
            )?;
            sender.send_with(vec![1], Some(to), spoof(GAMMA[family]))?;
            for from in [NODE[family], GAMMA[family]] {
                let heard = ear.receive()?.1.map(|heard| heard.ip());
                ensure!(heard == Some(from), "heard {heard:?}, not {from}");
            }
            refused(ear.receive_within(50), ETIMEDOUT)
        })?;
    }
    Ok(())
}

fn connected_packet_info(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    for family in [0, 1] {
        let ear = outside.server(Kind::udp_for(PEER[family]), 9047)?;
        stage.counts(&[("alpha", Reason::AddressForeign, 1)], || {
            let sender = alpha.socket(Kind::udp_for(PEER[family]))?;
            sender.connect(at(PEER[family], 9047))?;
            let spoof = vec![source(GAMMA[family])];
            refused(sender.send_with(vec![1], None, spoof), EADDRNOTAVAIL)?;
            refused(ear.receive_within(50), ETIMEDOUT)?;
            sender.send(1)?;
            ear.receive()?;
            Ok(())
        })?;
    }
    Ok(())
}

fn echo_source(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    let _range = Sysctl::set("net.ipv4.ping_group_range", "0 2147483647")?;
    for family in [0, 1] {
        let (kind, protocol) = [(libc::AF_INET, 1), (libc::AF_INET6, 58)][family];
        let request = || vec![[8, 128][family], 0, 0, 0, 0, 0, 0, 1];
        let to = Some(at(PEER[family], 0));
        // Echo sockets reach no hook of bind or send.
        stage.counts(
            &[("alpha", Reason::SourceForeign, 2 - i64::try_from(family)?)],
            || {
                let socket = alpha.raw_socket(kind, libc::SOCK_DGRAM, protocol)?;
                let spoof = vec![source(GAMMA[family])];
                // The IPv6 one does not look at the address that a message names.
                dropped(family, socket.send_with(request(), to, spoof))?;
                socket.send_with(request(), to, Vec::new())?;
                for _ in 0..=family {
                    socket.receive()?;
                }
                refused(socket.receive_within(50), ETIMEDOUT)?;
                let socket = alpha.raw_socket(kind, libc::SOCK_DGRAM, protocol)?;
                socket.bind(at(GAMMA[family], 0))?;
                dropped(family, socket.send_with(request(), to, Vec::new()))?;
                refused(socket.receive_within(50), ETIMEDOUT)
            },
        )?;
    }
    Ok(())
}

fn loopback_source(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    for family in [0, 1] {
        let ear = outside.server(Kind::udp_for(PEER[family]), 9050)?;
        // The kernel itself keeps those of IPv4 inside, those of IPv6 it does
        // not.
        let denied = i64::try_from(family)?;
        stage.counts(&[("alpha", Reason::SourceForeign, denied)], || {
            let sender = alpha.socket(Kind::udp_for(PEER[family]))?;
            sender.bind(at(LOOPBACK[family], 0))?;
            let sent = sender.send_to(1, at(PEER[family], 9050));
            ensure!(sent.is_err(), "it was sent");
            refused(ear.receive_within(50), ETIMEDOUT)
        })?;
    }
    Ok(())
}

fn headers(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, outside) = (stage.slice("alpha")?, stage.outside()?);
    let record_route = vec![7, 7, 4, 0, 0, 0, 0, 0];
    let controls = [
        Control {
            level: IPPROTO_IP,
            name: IP_RETOPTS,
            value: record_route,
        },
        Control {
            level: IPPROTO_IPV6,
            name: IPV6_RTHDR,
            value: routing_header(PEER[1]),
        },
    ];
    for (family, control) in controls.into_iter().enumerate() {
        let ear = outside.server(Kind::udp_for(PEER[family]), 9048)?;
        stage.counts(&[("alpha", Reason::Header, 1)], || {
            let sender = alpha.socket(Kind::udp_for(PEER[family]))?;
            let to = at(PEER[family], 9048);
            refused(sender.send_with(vec![1], Some(to), vec![control]), EPERM)?;
            refused(ear.receive_within(50), ETIMEDOUT)
        })?;
    }
    Ok(())
}
