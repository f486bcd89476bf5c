//! Whose a socket is: its creator's, for life, wherever it goes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno::{EADDRINUSE, ENOBUFS, EPERM};
use policy::Reason;

use crate::counters::Change;
use crate::node::Node;
use crate::puppet::{Kind, Puppet};
use crate::runner::{Test, test};
use crate::stage::{PEER, POLICY, Stage, at, refused};

pub const TESTS: &[Test] = &[
    test("a_socket_that_was_passed_stays_its_creators", passed).on_stage(),
    test("a_socket_that_was_inherited_stays_its_creators", inherited).on_stage(),
    test("a_nested_cgroup_counts_for_its_slice", nested).on_stage(),
    test(
        "a_network_namespace_of_the_slices_own_is_not_ruled",
        own_network,
    )
    .on_stage(),
    test(
        "a_slice_opens_as_many_sockets_as_its_policy_says",
        socket_limit,
    )
    .on_stage(),
    test("a_socket_of_a_destroyed_slice_can_do_nothing", destroyed).on_stage(),
];

fn passed(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, outside) = (
        stage.slice("alpha")?,
        stage.slice("beta")?,
        stage.outside()?,
    );
    let servers = [
        outside.server(Kind::Udp4, 9030)?,
        outside.server(Kind::Udp6, 9030)?,
    ];
    for kind in Kind::ALL {
        let change = stage.change_by(|| {
            let made = alpha.socket(kind)?;
            let taken = beta.take(&made)?;
            made.close();
            // The port is alpha's, the process beta's.
            taken.bind(kind.any(8030))?;
            refused(beta.socket(kind)?.bind(kind.any(8030)), EADDRINUSE)?;
            taken.close();
            let made = beta.socket(kind)?;
            let taken = alpha.take(&made)?;
            refused(taken.bind(kind.any(8030)), EADDRINUSE)?;
            Ok(())
        })?;
        ensure!(change.by("beta", "denials.port_reserved") == 2, "{change}");
        ensure!(change.by("alpha", "sockets_opened") == 1, "{change}");
        ensure!(change.by("beta", "sockets_opened") == 2, "{change}");
        ensure!(
            change.only("sockets").without("sockets_opened").is_empty(),
            "{change}"
        );
    }
    for (family, peer) in PEER.into_iter().enumerate() {
        let change = stage.change_by(|| {
            let made = alpha.socket(Kind::udp_for(peer))?;
            beta.take(&made)?.send_to(10, at(peer, 9030))?;
            servers[family].receive()?;
            Ok(())
        })?;
        ensure!(change.by("alpha", "external.sent.packets") == 1, "{change}");
        ensure!(change.by("beta", "external.sent.packets") == 0, "{change}");
    }
    Ok(())
}

fn inherited(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let root = stage.node()?;
    for kind in Kind::ALL {
        let made = root.socket(kind)?;
        let alpha = stage.slice_with("alpha", Some(made.give()?))?;
        let inherited = alpha.inherited()?;
        made.close();
        stage.counts(&[("node", Reason::PortReserved, 1)], || {
            refused(inherited.bind(kind.any(8031)), EADDRINUSE)
        })?;
        // As the node's it holds ports for the node.
        let change = stage.change_by(|| Ok(inherited.bind(kind.any(9033))?))?;
        ensure!(change == Change::of(&[("node", "claims", 1)]), "{change}");
    }
    Ok(())
}

/// The cgroup of a process.
fn cgroup_of(puppet: &Puppet) -> Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", puppet.pid()?))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(PathBuf::from("/sys/fs/cgroup").join(path.context("no cgroup")?))
}

fn nested(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    let payload = cgroup_of(&alpha)?;
    ensure!(
        payload.ends_with("slices/alpha/payload"),
        "it runs in {}",
        payload.display()
    );
    let inner = payload.join("inner");
    let innermost = inner.join("innermost");
    fs::create_dir_all(&innermost)?;
    fs::write(innermost.join("cgroup.procs"), alpha.pid()?.to_string())?;
    let denied = stage.counts(&[("alpha", Reason::PortNode, 6)], || {
        for kind in Kind::ALL {
            alpha.server(kind, 8032)?;
            refused(
                alpha.socket(kind)?.bind(kind.any(2222)),
                nix::errno::Errno::EACCES,
            )?;
        }
        Ok(())
    });
    drop(alpha);
    // A cgroup can be removed once its last process has been reaped.
    for cgroup in [&innermost, &inner] {
        fs::remove_dir(cgroup).with_context(|| format!("remove {}", cgroup.display()))?;
    }
    denied
}

fn own_network(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let here = beta.socket(Kind::Tcp4)?;
    beta.leave_for_own_network()?;
    let held = alpha.server(Kind::TcpDual, 80)?;
    let change = stage.change_by(|| {
        for kind in Kind::ALL {
            for port in [80, 22, 2222, 61000] {
                beta.server(kind, port)?;
            }
        }
        Ok(())
    })?;
    ensure!(change.without("sockets").is_empty(), "it counts");
    // A socket made before stays where it was made.
    stage.counts(&[("beta", Reason::PortReserved, 1)], || {
        refused(here.bind(Kind::Tcp4.any(80)), EADDRINUSE)
    })?;
    held.close();
    Ok(())
}

fn socket_limit(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let small = stage.slice("small")?;
    let change = stage.change_by(|| {
        let first = small.socket(Kind::Tcp4)?;
        let _others = [
            small.socket(Kind::Tcp6)?,
            small.socket(Kind::Udp4)?,
            small.socket(Kind::Udp6)?,
        ];
        for kind in Kind::ALL {
            refused(small.socket(kind), ENOBUFS)?;
        }
        refused(
            small.ring_socket(libc::AF_INET, libc::SOCK_STREAM, 0),
            ENOBUFS,
        )?;
        // Other families are bounded by descriptors and memory.
        small.raw_socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        first.close();
        small.socket(Kind::UdpDual)?;
        Ok(())
    })?;
    ensure!(change.by("small", "denials.socket_limit") == 7, "{change}");
    ensure!(change.by("small", "sockets") == 0, "{change}");
    Ok(())
}

fn destroyed(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (machine, file) = (
        stage.machine(),
        PathBuf::from(POLICY).join("slices/doomed.toml"),
    );
    fs::write(&file, "")?;
    machine.must("slice", &["reload", "--policy", POLICY])?;
    let doomed = stage.slice("doomed")?;
    let root = stage.node()?;
    let mut sockets = Vec::new();
    for kind in Kind::ALL {
        let bound = doomed.server(kind, 0)?;
        sockets.push((kind, root.take(&doomed.socket(kind)?)?, root.take(&bound)?));
    }
    fs::remove_file(&file)?;
    machine.must("slice", &["reload", "--policy", POLICY])?;
    for (kind, unbound, bound) in &sockets {
        refused(unbound.bind(kind.any(9032)), EPERM)?;
        let peer = if kind.family() == libc::AF_INET {
            PEER[0]
        } else {
            PEER[1]
        };
        refused(unbound.connect(at(peer, 9032)), EPERM)?;
        if !kind.is_tcp() {
            refused(bound.send_to(1, at(peer, 9032)), EPERM)?;
        }
    }
    Ok(())
}
