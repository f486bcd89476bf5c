//! Which unix sockets a slice reaches by name: abstract ones of its own alone,
//! those in the file system as ever.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use libc::{AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
use nix::errno::Errno::{EADDRINUSE, ECONNREFUSED};
use policy::Reason;

use crate::node::Node;
use crate::puppet::{Naming, Puppet, Sock};
use crate::runner::{Test, test};
use crate::stage::{Stage, refused};

pub const TESTS: &[Test] = &[
    test(
        "an_abstract_socket_is_reached_by_its_own_slice_alone",
        abstract_names,
    )
    .on_stage(),
    test(
        "an_abstract_socket_is_reached_with_the_rights_of_the_socket_that_asks",
        passed,
    )
    .on_stage(),
    test(
        "a_name_in_the_file_system_and_a_socket_without_name_are_reached_as_always",
        paths,
    )
    .on_stage(),
    test(
        "an_abstract_name_in_use_is_all_that_another_slice_learns",
        squatted,
    )
    .on_stage(),
];

/// The address of an abstract unix socket.
pub fn hidden(name: &str) -> Vec<u8> {
    unix(&format!("\0{name}"))
}

/// The address of a unix socket.
fn unix(name: &str) -> Vec<u8> {
    let family = u16::try_from(AF_UNIX).unwrap_or_default().to_ne_bytes();
    [&family[..], name.as_bytes()].concat()
}

const KINDS: [i32; 3] = [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM];

/// A unix socket with a name; one of the kinds with connections listens.
pub fn bound<'p>(puppet: &'p Puppet, kind: i32, address: &[u8]) -> Result<Sock<'p>> {
    let socket = puppet.raw_socket(AF_UNIX, kind, 0)?;
    socket.named(Naming::Bind, address)?;
    if kind != SOCK_DGRAM {
        socket.listen()?;
    }
    Ok(socket)
}

/// The name of a puppet's abstract socket of a kind.
fn name(owner: &str, kind: i32) -> Vec<u8> {
    hidden(&format!("sight/{owner}/{kind}"))
}

fn abstract_names(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let puppets = [
        ("node", stage.node()?),
        ("alpha", stage.slice("alpha")?),
        ("beta", stage.slice("beta")?),
    ];
    let mut servers = Vec::new();
    for (owner, puppet) in &puppets {
        for kind in KINDS {
            servers.push(bound(puppet, kind, &name(owner, kind))?);
        }
    }
    // Two others, with connect for each kind and one datagram besides.
    let count = 2 * (3 + 1);
    let expected = [
        ("alpha", Reason::AbstractForeign, count),
        ("beta", Reason::AbstractForeign, count),
    ];
    stage.counts(&expected, || {
        for (from, puppet) in &puppets {
            for (to, _) in &puppets {
                let allowed = from == to || *from == "node";
                for (kind, how) in KINDS
                    .map(|kind| (kind, Naming::Connect))
                    .into_iter()
                    .chain([(SOCK_DGRAM, Naming::SendTo)])
                {
                    let socket = puppet.raw_socket(AF_UNIX, kind, 0)?;
                    let called = socket.named(how, &name(to, kind));
                    if allowed {
                        called?;
                    } else {
                        refused(called, ECONNREFUSED).context(format!("{from} to {to}"))?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// One end of a pair of connected unix sockets of this process, which is the
/// node's.
fn connected_to(address: &str) -> Result<OwnedFd> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let address = SocketAddr::from_abstract_name(address)?;
    Ok(UnixStream::connect_addr(&address)?.into())
}

fn passed(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, root) = (stage.slice("alpha")?, stage.slice("beta")?, stage.node()?);
    let kind = SOCK_STREAM;
    let servers = [
        bound(&root, kind, &hidden("sight/passed/node"))?,
        bound(&alpha, kind, &hidden("sight/passed/alpha"))?,
        bound(&beta, kind, &hidden("sight/passed/beta"))?,
    ];
    // A connection of the node's that a slice was started with.
    let heir = stage.slice_with("alpha", Some(connected_to("sight/passed/node")?))?;
    let accepted = servers[0].accept()?;
    let expected = [
        ("alpha", Reason::AbstractForeign, 1),
        ("beta", Reason::AbstractForeign, 1),
    ];
    stage.counts(&expected, || {
        // It stays the socket of the slice that made it, in other hands.
        let given = beta.raw_socket(AF_UNIX, kind, 0)?;
        let taken = alpha.take(&given)?;
        refused(
            taken.named(Naming::Connect, &hidden("sight/passed/alpha")),
            ECONNREFUSED,
        )?;
        taken.named(Naming::Connect, &hidden("sight/passed/beta"))?;
        // The node's, before it was connected, is no way to the node.
        let given = root.raw_socket(AF_UNIX, kind, 0)?;
        let taken = beta.take(&given)?;
        refused(
            taken.named(Naming::Connect, &hidden("sight/passed/node")),
            ECONNREFUSED,
        )?;
        let inherited = heir.inherited()?;
        inherited.send(3)?;
        ensure!(accepted.receive()?.0 == 3, "nothing came");
        Ok(())
    })
}

fn paths(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, root) = (stage.slice("alpha")?, stage.slice("beta")?, stage.node()?);
    let directory = Path::new("/run/slice-stage/sight");
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
    let path = |owner: &str, kind| unix(&format!("/run/slice-stage/sight/{owner}.{kind}\0"));
    let puppets = [("node", &root), ("alpha", &alpha), ("beta", &beta)];
    let mut servers = Vec::new();
    for (owner, puppet) in puppets {
        for kind in KINDS {
            servers.push(bound(puppet, kind, &path(owner, kind))?);
            let file = directory.join(format!("{owner}.{kind}"));
            fs::set_permissions(file, fs::Permissions::from_mode(0o777))?;
        }
    }
    stage.counts(&[], || {
        for (from, puppet) in puppets {
            for (to, _) in puppets {
                for kind in KINDS {
                    let socket = puppet.raw_socket(AF_UNIX, kind, 0)?;
                    let called = socket.named(Naming::Connect, &path(to, kind));
                    called.with_context(|| format!("{from} to {to}"))?;
                    if kind == SOCK_DGRAM {
                        socket.send(1)?;
                    }
                }
            }
        }
        Ok(())
    })?;
    fs::remove_dir_all(directory)?;
    Ok(())
}

fn squatted(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let address = hidden("sight/squatted");
    let _server = bound(&alpha, SOCK_STREAM, &address)?;
    // No hook sees the bind of a unix socket. What the manual says of it:
    let socket = beta.raw_socket(AF_UNIX, SOCK_STREAM, 0)?;
    refused(socket.named(Naming::Bind, &address), EADDRINUSE)
}
