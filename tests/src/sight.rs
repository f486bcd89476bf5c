//! What a slice sees of the sockets of others: /proc/net by every way to it, and
//! socket diagnostics.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use libc::{AF_NETLINK, SOCK_DGRAM, SOCK_RAW};
use nix::errno::Errno::{EACCES, EPERM};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use policy::Reason;

use crate::node::Node;
use crate::puppet::{Naming, Opening, Puppet};
use crate::runner::{Test, test};
use crate::stage::{Stage, refused};

pub const TESTS: &[Test] = &[
    test(
        "the_files_that_list_everybodys_sockets_are_closed_to_a_slice_by_every_way",
        closed,
    )
    .on_stage(),
    test(
        "every_file_of_proc_net_is_open_to_the_node_and_to_a_slice_as_the_list_says",
        every_file,
    )
    .on_stage(),
    test(
        "a_slice_in_a_network_namespace_of_its_own_sees_that_and_not_the_nodes",
        own_network,
    )
    .on_stage(),
    test(
        "socket_diagnostics_tell_a_slice_nothing_and_other_netlink_works",
        diagnostics,
    )
    .on_stage(),
    test(
        "a_kernel_without_a_field_or_hook_that_is_needed_is_refused_by_name",
        missing,
    ),
];

/// Files of /proc/net that list sockets, where the kernel has them.
const CLOSED: [&str; 15] = [
    "tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6", "unix",
    "packet", "netlink", "ptype", "mcfilter",
];

/// Files that programs need and that list none.
const OPEN: [&str; 9] = [
    "dev",
    "route",
    "ipv6_route",
    "arp",
    "if_inet6",
    "snmp",
    "snmp6",
    "netstat",
    "sockstat",
];

const WAYS: [Opening; 3] = [Opening::Plain, Opening::Twice, Opening::Ring];

/// `NETLINK_ROUTE`, `NETLINK_SOCK_DIAG`.
const ROUTE: i32 = 0;
const SOCK_DIAG: i32 = 4;
/// `SOL_NETLINK`, `NETLINK_ADD_MEMBERSHIP`.
const SOL_NETLINK: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;

/// The ways to /proc/net of a process.
fn directories(puppet: &Puppet) -> Result<Vec<String>> {
    let pid = puppet.pid()?;
    Ok(vec![
        "/proc/net".into(),
        "/proc/self/net".into(),
        "/proc/thread-self/net".into(),
        "/proc/1/net".into(),
        "/proc/1/task/1/net".into(),
        format!("/proc/{pid}/net"),
        format!("/proc/{pid}/task/{pid}/net"),
        "/proc/self/root/proc/net".into(),
    ])
}

fn closed(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    let directories = directories(&alpha)?;
    let there: Vec<_> = CLOSED
        .into_iter()
        .filter(|name| Path::new("/proc/net").join(name).exists())
        .collect();
    ensure!(there.len() > 10, "this kernel has {there:?} only");
    let tries = i64::try_from(there.len() * directories.len() * WAYS.len())?;
    stage.counts(&[("alpha", Reason::ProcNet, tries)], || {
        for directory in &directories {
            for name in &there {
                for way in WAYS {
                    let path = format!("{directory}/{name}");
                    refused(alpha.read(&path, way), EACCES).context(path)?;
                }
            }
            for name in OPEN {
                for way in WAYS {
                    alpha.read(&format!("{directory}/{name}"), way)?;
                }
            }
        }
        for name in there {
            root.read(&format!("/proc/net/{name}"), Opening::Plain)?;
        }
        Ok(())
    })
}

/// All files below a directory.
fn files(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Modules that bring files of their own to /proc/net, also two deep.
const MODULES: [&str; 3] = ["nf_log_syslog", "8021q", "sctp"];

fn every_file(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    for module in MODULES {
        // Not every kernel's packages have each.
        node.run("modprobe", &[module])?;
    }
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    let mut all = Vec::new();
    files(Path::new("/proc/net/"), &mut all)?;
    let (mut open, mut closed) = (BTreeSet::new(), BTreeSet::new());
    for path in &all {
        let text = path.to_str().context("a path in UTF-8")?;
        // Some cannot be read by anybody, or not with another user id.
        let Ok(_) = root.read(text, Opening::Plain) else {
            continue;
        };
        let mode = fs::metadata(path)?.permissions().mode();
        let name = path.strip_prefix("/proc/net")?.components().next();
        let name = name.context("a name")?.as_os_str().to_string_lossy();
        match alpha.read(text, Opening::Plain) {
            Ok(_) => open.insert(name.into_owned()),
            Err(error) if error.errno == EACCES => {
                mode & 0o004 != 0 && closed.insert(text.to_owned())
            }
            Err(error) => return Err(error.into()),
        };
    }
    println!("open: {open:?}\nclosed: {closed:?}");
    // Names that a later kernel adds are closed until somebody has looked.
    let known: BTreeSet<String> = [
        "anycast6",
        "arp",
        "dev",
        "dev_mcast",
        "dev_snmp6",
        "fib_trie",
        "fib_triestat",
        "if_inet6",
        "igmp",
        "igmp6",
        "ipv6_route",
        "netstat",
        "pnp",
        "protocols",
        "psched",
        "route",
        "rt6_stats",
        "rt_cache",
        "snmp",
        "snmp6",
        "sockstat",
        "sockstat6",
        "softnet_stat",
        "stat",
    ]
    .map(str::to_owned)
    .into();
    ensure!(
        open.is_subset(&known),
        "also open: {:?}",
        open.difference(&known)
    );
    for name in OPEN {
        ensure!(open.contains(name), "{name} is closed");
    }
    let deep = closed.iter().filter(|path| path.matches('/').count() > 3);
    ensure!(
        deep.count() > 0,
        "no file was closed in a directory of /proc/net: {closed:?}"
    );
    Ok(())
}

fn own_network(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    alpha.pid()?;
    // The modules that answer it are there: a slice has none loaded.
    node.must("ss", &["-Htux"])?;
    alpha.leave_for_own_network()?;
    stage.counts(&[("alpha", Reason::ProcNet, 2)], || {
        let own = alpha.read("/proc/net/tcp", Opening::Plain)?;
        ensure!(own.lines().count() == 1, "it has {own}");
        alpha.read("/proc/self/net/unix", Opening::Plain)?;
        refused(alpha.read("/proc/1/net/tcp", Opening::Plain), EACCES)?;
        refused(alpha.read("/proc/1/net/unix", Opening::Ring), EACCES)?;
        let socket = alpha.raw_socket(AF_NETLINK, SOCK_RAW, SOCK_DIAG)?;
        socket.named(Naming::Bind, &netlink(1))?;
        socket.send_with(dump(20, 72), None, Vec::new())?;
        Ok(())
    })
}

/// A `sockaddr_nl` to the kernel, in these groups.
fn netlink(groups: u32) -> Vec<u8> {
    let family = u16::try_from(AF_NETLINK).unwrap_or_default().to_ne_bytes();
    [&family[..], &[0; 6], &groups.to_ne_bytes()].concat()
}

/// A netlink request to dump, with zeros behind its head.
fn dump(kind: u16, length: u32) -> Vec<u8> {
    // NLM_F_REQUEST | NLM_F_DUMP
    let flags: u16 = 0x301;
    let mut bytes = [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &[0; 8],
        // sdiag_family: AF_INET; sdiag_protocol: TCP.
        &[2, 6],
    ]
    .concat();
    bytes.resize(usize::try_from(length).unwrap_or_default(), 0);
    // idiag_states: all.
    if length >= 24 {
        bytes[20..24].fill(0xff);
    }
    bytes
}

fn diagnostics(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    stage.counts(&[("alpha", Reason::SocketDiagnostics, 10)], || {
        for kind in [SOCK_RAW, SOCK_DGRAM] {
            let socket = alpha.raw_socket(AF_NETLINK, kind, SOCK_DIAG)?;
            socket.named(Naming::Bind, &netlink(0))?;
            // SOCK_DIAG_BY_FAMILY.
            refused(socket.send_with(dump(20, 72), None, Vec::new()), EPERM)?;
            refused(socket.named(Naming::SendTo, &netlink(0)), EPERM)?;
            // Groups that tell of each socket that is destroyed.
            refused(socket.named(Naming::Bind, &netlink(1)), EPERM)?;
            refused(socket.named(Naming::Bind, &netlink(0x8000_0000)), EPERM)?;
            refused(socket.set(SOL_NETLINK, ADD_MEMBERSHIP, 1), EPERM)?;
        }
        let route = alpha.raw_socket(AF_NETLINK, SOCK_RAW, ROUTE)?;
        route.named(Naming::Bind, &netlink(1))?;
        route.set(SOL_NETLINK, ADD_MEMBERSHIP, 2)?;
        // RTM_GETLINK.
        route.send_with(dump(18, 32), None, Vec::new())?;
        ensure!(route.receive()?.0 > 100, "links are not told");
        // The node asks what it likes.
        let socket = root.raw_socket(AF_NETLINK, SOCK_RAW, SOCK_DIAG)?;
        socket.set(SOL_NETLINK, ADD_MEMBERSHIP, 1)?;
        socket.send_with(dump(20, 72), None, Vec::new())?;
        ensure!(socket.receive()?.0 > 0, "the node is told nothing");
        Ok(())
    })
}

/// The kernel's type information with one name spelt wrongly, in the place of
/// the true one.
struct OtherTypes;

impl OtherTypes {
    const PLACE: &'static str = "/sys/kernel/btf/vmlinux";

    fn without(node: &Node, name: &str) -> Result<OtherTypes> {
        let mut types = fs::read(OtherTypes::PLACE)?;
        let needle = [b"\0", name.as_bytes(), b"\0"].concat();
        let found: Vec<_> = types
            .windows(needle.len())
            .enumerate()
            .filter(|(_, window)| *window == needle.as_slice())
            .map(|(at, _)| at)
            .collect();
        ensure!(!found.is_empty(), "this kernel has no {name} anyway");
        for at in found {
            types[at + 1] = b'?';
        }
        let copy = node.dir().join("types");
        fs::write(&copy, types)?;
        let flags = MsFlags::MS_BIND;
        mount(
            Some(&copy),
            OtherTypes::PLACE,
            None::<&str>,
            flags,
            None::<&str>,
        )
        .context("mount other types")?;
        Ok(OtherTypes)
    }
}

impl Drop for OtherTypes {
    fn drop(&mut self) {
        let _ = umount2(OtherTypes::PLACE, MntFlags::MNT_DETACH);
    }
}

fn missing(node: &mut Node) -> Result<()> {
    let policy = node.dir().join("policy");
    fs::create_dir_all(policy.join("slices"))?;
    fs::write(policy.join("node.toml"), "[node]\nmax_slices = 4\n")?;
    let policy = policy.to_str().context("a path in UTF-8")?;
    for (name, what) in [
        ("sk_cgrp_data", "struct sock.sk_cgrp_data.cgroup"),
        ("bpf_lsm_netlink_send", "bpf_lsm_netlink_send"),
        ("bpf_iter_unix", "bpf_iter_unix"),
    ] {
        let _types = OtherTypes::without(node, name)?;
        let doctor = node.run("slice", &["--policy", policy, "doctor"])?;
        ensure!(
            doctor.status == 5 && doctor.stdout.contains("MISSING") && doctor.stdout.contains(what),
            "doctor ended with {}: {}",
            doctor.status,
            doctor.stdout
        );
        let up = node.run("slice", &["--policy", policy, "up"])?;
        ensure!(
            up.status == 5 && up.stderr.contains(what) && up.stderr.contains("help:"),
            "up ended with {}: {}",
            up.status,
            up.stderr
        );
    }
    Ok(())
}
