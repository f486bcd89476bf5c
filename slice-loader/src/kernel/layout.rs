//! Where the running kernel has the fields that programs read: the offsets of
//! `policy::fields`, from the kernel's type information.

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
    let types = KernelTypes::load().context("read the kernel's BTF")?;
    let mut offsets = [0; COUNT];
    let mut missing = Vec::new();
    for (offset, field) in offsets.iter_mut().zip(Field::ALL) {
        match types.offset(field.structure(), field.path()) {
            Some(found) => *offset = found,
            None => missing.push(format!("struct {}.{}", field.structure(), field.path())),
        }
    }
    if !missing.is_empty() {
        bail!("the kernel's BTF has no {}", missing.join(", "));
    }
    Ok(offsets)
}
