//! Where the running kernel has the fields that programs read: the offsets of
//! `policy::fields`, from the kernel's type information.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use policy::fields::{COUNT, Field};

use crate::sys::btf::KernelTypes;

/// The constant of the object that holds them.
pub const CONSTANT: &str = "OFFSETS";

/// The offset of every field, in bytes, in the order of their numbers.
///
/// # Errors
/// The kernel tells nothing of its types, or has none of the name.
pub fn offsets() -> anyhow::Result<[u32; COUNT]> {
    let types = KernelTypes::running().context("read the kernel's BTF")?;
    let mut offsets = [0; COUNT];
    let mut missing = Vec::new();
    // Looked for by name among more than a hundred thousand, so once each.
    let mut structures = BTreeMap::new();
    for (offset, field) in offsets.iter_mut().zip(Field::ALL) {
        let structure = *structures
            .entry(field.structure())
            .or_insert_with_key(|name| types.structure(name));
        match structure.and_then(|structure| types.offset(structure, field.path())) {
            Some(found) => *offset = found,
            None => missing.push(format!("struct {}.{}", field.structure(), field.path())),
        }
    }
    if !missing.is_empty() {
        bail!("the kernel's BTF has no {}", missing.join(", "));
    }
    Ok(offsets)
}
