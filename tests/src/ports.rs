//! Whose a port is: the table of `bind`, row by row, for TCP and UDP, IPv4,
//! IPv6 and dual-stack sockets.

use anyhow::{Result, ensure};
use nix::errno::Errno::{EACCES, EADDRINUSE};
use policy::Reason;

use crate::node::Node;
use crate::puppet::Kind;
use crate::runner::{Test, test};
use crate::stage::{Stage, refused};

pub const TESTS: &[Test] = &[
    test(
        "a_slice_binds_the_ports_reserved_for_it_below_1024_too",
        a_slice_binds_the_ports_reserved_for_it_below_1024_too,
    )
    .on_stage(),
    test(
        "a_port_reserved_for_a_slice_is_in_use_for_other_slices_and_for_root",
        a_port_reserved_for_a_slice_is_in_use_for_other_slices_and_for_root,
    )
    .on_stage(),
    test(
        "a_port_reserved_for_the_node_is_refused_to_slices_and_open_to_the_node",
        a_port_reserved_for_the_node_is_refused_to_slices_and_open_to_the_node,
    )
    .on_stage(),
];

fn a_slice_binds_the_ports_reserved_for_it_below_1024_too(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    stage.counts(&[], || {
        for kind in Kind::ALL {
            for port in [if kind.is_tcp() { 80 } else { 53 }, 8000, 40000] {
                let server = alpha.server(kind, port)?;
                ensure!(server.name()? == kind.any(port), "bound to {}", server.name()?);
            }
        }
        Ok(())
    })
}

fn a_port_reserved_for_a_slice_is_in_use_for_other_slices_and_for_root(
    node: &mut Node,
) -> Result<()> {
    let stage = Stage::open(node)?;
    let (beta, root) = (stage.slice("beta")?, stage.node()?);
    let expected = [("beta", Reason::PortReserved, 6), ("node", Reason::PortReserved, 6)];
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

fn a_port_reserved_for_the_node_is_refused_to_slices_and_open_to_the_node(
    node: &mut Node,
) -> Result<()> {
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
