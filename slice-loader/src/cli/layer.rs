//! `slice layer`: a slice's files without the slice. Hidden: starting a slice
//! makes them and destroying it removes them; tests of the disk do it by hand.

use std::process::ExitCode;

use super::exit::{Exit, unknown_slice};
use crate::context::layer::Layer;
use crate::node::Node;

/// Makes the layer of a slice that is in force, or removes it.
///
/// # Errors
/// There is no such slice, or as [`Layer::make`] and [`Layer::remove`].
pub fn run(name: &str, remove: bool) -> anyhow::Result<ExitCode> {
    let node = Node::open()?;
    let slice = node
        .record()
        .slices
        .get(name)
        .ok_or_else(|| unknown_slice(name))?;
    let layer = Layer::of(name);
    if remove {
        layer.remove()?;
    } else {
        layer.make(slice.uid, slice.id(), None)?;
    }
    Ok(Exit::Ok.into())
}
