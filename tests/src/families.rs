//! Which sockets a slice may make, by socket(2) and by io_uring, and that
//! nothing it asks for loads a module into the kernel.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use libc::{
    AF_ALG, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, SOCK_DGRAM, SOCK_RAW,
    SOCK_SEQPACKET, SOCK_STREAM,
};
use nix::errno::Errno::{self, EADDRINUSE, EAFNOSUPPORT, EINVAL, EPERM, EPROTONOSUPPORT};
use policy::Reason;

use crate::node::Node;
use crate::puppet::Kind;
use crate::runner::{Test, test};
use crate::stage::{Stage, refused};

pub const TESTS: &[Test] = &[
    test(
        "families_that_have_no_owner_are_refused_before_their_module_loads",
        other_families,
    )
    .on_stage(),
    test(
        "protocols_that_go_round_the_ports_are_refused_before_their_module_loads",
        protocols,
    )
    .on_stage(),
    test("raw_and_packet_sockets_are_refused_with_eperm", raw).on_stage(),
    test("netlink_is_open_where_ordinary_programs_need_it", netlink).on_stage(),
    test("io_uring_is_no_way_round", ring).on_stage(),
    test("ordinary_sockets_are_made_as_always", ordinary).on_stage(),
];

const SOCK_RDM: i32 = 4;
const SOCK_DCCP: i32 = 6;
const SOCK_PACKET: i32 = 10;
const AF_KEY: i32 = 15;
const AF_RDS: i32 = 21;
const AF_CAN: i32 = 29;
const AF_TIPC: i32 = 30;
const AF_BLUETOOTH: i32 = 31;
const AF_KCM: i32 = 41;
const AF_QIPCRTR: i32 = 42;
const AF_SMC: i32 = 43;
const AF_XDP: i32 = 44;

type Row = (i32, i32, i32);

const OTHER_FAMILIES: [Row; 14] = [
    (AF_VSOCK, SOCK_STREAM, 0),
    (AF_VSOCK, SOCK_DGRAM, 0),
    (AF_ALG, SOCK_SEQPACKET, 0),
    (AF_SMC, SOCK_STREAM, 0),
    (AF_SMC, SOCK_STREAM, 1),
    (AF_KCM, SOCK_DGRAM, 0),
    (AF_KCM, SOCK_SEQPACKET, 0),
    (AF_KEY, SOCK_RAW, 2),
    (AF_RDS, SOCK_SEQPACKET, 0),
    (AF_CAN, SOCK_RAW, 1),
    (AF_TIPC, SOCK_RDM, 0),
    (AF_BLUETOOTH, SOCK_SEQPACKET, 0),
    (AF_QIPCRTR, SOCK_DGRAM, 0),
    (AF_XDP, SOCK_RAW, 0),
];

const UDP_LITE: i32 = 136;
const SCTP: i32 = 132;
const MPTCP: i32 = 262;
const SMC: i32 = 256;
const DCCP: i32 = 33;
const L2TP: i32 = 115;
const ICMP: i32 = 1;
const ICMPV6: i32 = 58;

const PROTOCOLS: [Row; 14] = [
    (AF_INET, SOCK_DGRAM, UDP_LITE),
    (AF_INET6, SOCK_DGRAM, UDP_LITE),
    (AF_INET, SOCK_STREAM, SCTP),
    (AF_INET6, SOCK_STREAM, SCTP),
    (AF_INET, SOCK_SEQPACKET, SCTP),
    (AF_INET6, SOCK_SEQPACKET, SCTP),
    (AF_INET, SOCK_STREAM, MPTCP),
    (AF_INET6, SOCK_STREAM, MPTCP),
    (AF_INET, SOCK_STREAM, SMC),
    (AF_INET, SOCK_DCCP, DCCP),
    (AF_INET6, SOCK_DCCP, DCCP),
    (AF_INET, SOCK_DGRAM, L2TP),
    (AF_INET, SOCK_DGRAM, ICMPV6),
    (AF_INET6, SOCK_DGRAM, ICMP),
];

const RAW: [Row; 8] = [
    (AF_INET, SOCK_RAW, ICMP),
    (AF_INET, SOCK_RAW, 255),
    (AF_INET, SOCK_RAW, libc::IPPROTO_TCP),
    (AF_INET6, SOCK_RAW, ICMPV6),
    (AF_INET6, SOCK_RAW, 255),
    (AF_PACKET, SOCK_RAW, 0),
    (AF_PACKET, SOCK_DGRAM, 0x0300),
    // The kernel takes it for AF_PACKET.
    (AF_INET, SOCK_PACKET, 0x0300),
];

const NETLINK_REFUSED: [i32; 9] = [2, 3, 5, 6, 9, 10, 11, 12, 18];
const NETLINK_OPEN: [i32; 4] = [0, 4, 15, 16];

/// Every table, its errno and its reason.
const TABLES: [(&[Row], Errno, Reason); 3] = [
    (&OTHER_FAMILIES, EAFNOSUPPORT, Reason::Family),
    (&PROTOCOLS, EPROTONOSUPPORT, Reason::Protocol),
    (&RAW, EPERM, Reason::RawSocket),
];

/// The modules that the kernel has loaded.
fn modules() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string("/proc/modules")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect())
}

/// Makes every socket of one table, which must be refused and load nothing.
fn table_is_refused(node: &Node, table: usize) -> Result<()> {
    let stage = Stage::open(node)?;
    let (rows, errno, reason) = TABLES[table];
    let alpha = stage.slice("alpha")?;
    alpha.pid()?;
    let before = modules()?;
    let count = i64::try_from(rows.len())?;
    let change = stage.change_by(|| {
        for (family, kind, protocol) in rows {
            refused(alpha.raw_socket(*family, *kind, *protocol), errno)?;
        }
        Ok(())
    })?;
    // How many events are told depends on what the slice did in this second.
    let change = change.without("events_suppressed");
    ensure!(
        change == crate::counters::Change::of_denials(&[("alpha", reason, count)]),
        "{change}"
    );
    let after = modules()?;
    ensure!(
        after == before,
        "loaded: {:?}",
        after.difference(&before).collect::<Vec<_>>()
    );
    Ok(())
}

fn other_families(node: &mut Node) -> Result<()> {
    table_is_refused(node, 0)
}

fn protocols(node: &mut Node) -> Result<()> {
    table_is_refused(node, 1)
}

fn raw(node: &mut Node) -> Result<()> {
    table_is_refused(node, 2)
}

fn netlink(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    stage.counts(&[("alpha", Reason::Netlink, 18)], || {
        for kind in [SOCK_RAW, SOCK_DGRAM] {
            for protocol in NETLINK_REFUSED {
                refused(
                    alpha.raw_socket(AF_NETLINK, kind, protocol),
                    EPROTONOSUPPORT,
                )?;
            }
            for protocol in NETLINK_OPEN {
                alpha.raw_socket(AF_NETLINK, kind, protocol)?;
            }
        }
        Ok(())
    })
}

fn ring(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let before = modules()?;
    let counted = |reason| -> Result<i64> {
        let rows = TABLES
            .iter()
            .filter(|table| table.2 == reason)
            .map(|table| table.0.len());
        Ok(i64::try_from(rows.sum::<usize>())?)
    };
    let expected = [
        ("beta", Reason::Family, counted(Reason::Family)?),
        ("beta", Reason::Protocol, counted(Reason::Protocol)?),
        ("beta", Reason::RawSocket, counted(Reason::RawSocket)?),
        ("beta", Reason::Netlink, 9),
    ];
    stage.counts(&expected, || {
        for (rows, errno, _) in TABLES {
            for (family, kind, protocol) in rows {
                refused(beta.ring_socket(*family, *kind, *protocol), errno)?;
            }
        }
        for protocol in NETLINK_REFUSED {
            refused(
                beta.ring_socket(AF_NETLINK, SOCK_RAW, protocol),
                EPROTONOSUPPORT,
            )?;
        }
        Ok(())
    })?;
    ensure!(modules()? == before, "a module was loaded");
    // A socket that was made so is ruled like any other.
    for (family, kind) in [(AF_INET, Kind::Tcp4), (AF_INET6, Kind::TcpDual)] {
        let socket = beta.ring_socket(family, SOCK_STREAM, 0)?;
        refused(socket.bind(kind.any(80)), EADDRINUSE)?;
        match socket.ring_bind(kind.any(80)) {
            // Before 6.11 io_uring cannot bind.
            Err(error) if error.errno == EINVAL => {}
            called => refused(called, EADDRINUSE)?,
        }
        let socket = alpha.ring_socket(family, SOCK_STREAM, 0)?;
        socket.bind(kind.any(80))?;
    }
    Ok(())
}

fn ordinary(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    let _range = crate::stage::Sysctl::set("net.ipv4.ping_group_range", "0 2147483647")?;
    let change = stage.change_by(|| {
        for (family, kind, protocol) in [
            (AF_UNIX, SOCK_STREAM, 0),
            (AF_UNIX, SOCK_DGRAM, 0),
            (AF_UNIX, SOCK_SEQPACKET, 0),
            (AF_INET, SOCK_STREAM, 0),
            (AF_INET, SOCK_STREAM, libc::IPPROTO_TCP),
            (AF_INET, SOCK_DGRAM, libc::IPPROTO_UDP),
            (AF_INET, SOCK_DGRAM, ICMP),
            (AF_INET6, SOCK_STREAM, 0),
            (AF_INET6, SOCK_DGRAM, 0),
            (AF_INET6, SOCK_DGRAM, ICMPV6),
        ] {
            alpha.raw_socket(family, kind, protocol)?;
            alpha.ring_socket(family, kind, protocol)?;
        }
        Ok(())
    })?;
    ensure!(change.by("alpha", "sockets_opened") == 14, "{change}");
    ensure!(
        change.without("sockets_opened").is_empty(),
        "sockets are left or denied"
    );
    Ok(())
}
