//! Reading the kernel's own structures, where no helper tells what is needed.
//!
//! Each read is checked by the kernel when it is made: a pointer that leads
//! nowhere reads as zero, and zero is nobody's.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use core::mem::MaybeUninit;
use core::ptr::read_volatile;
use policy::SliceId;
use policy::abi::Settings;
use policy::fields::{COUNT, Field};

use crate::owner;

/// Offsets of the fields in the running kernel, in bytes; the loader sets them
/// before it loads the programs.
#[unsafe(no_mangle)]
static OFFSETS: [u32; COUNT] = [0; COUNT];

/// Where a field is in its structure.
#[inline(always)]
pub fn offset(field: Field) -> u64 {
    // SAFETY: the row is in the table; volatile, since the loader changes it.
    (unsafe { read_volatile(&raw const OFFSETS[field as usize]) }) as u64
}

/// What can be read as the kernel has it: any bytes are a value.
pub trait Plain: Copy {}

impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl<const N: usize> Plain for [u8; N] {}

/// What is at an address of the kernel.
#[inline(always)]
pub fn at<T: Plain>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all of the value, zeros where it cannot read;
    // any bytes are a value of these types.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
        value.assume_init()
    }
}

/// A field of the structure at an address of the kernel.
#[inline(always)]
pub fn field<T: Plain>(structure: u64, field: Field) -> T {
    at(structure.wrapping_add(offset(field)))
}

/// A pointer in the structure at an address of the kernel.
#[inline(always)]
pub fn pointer(structure: u64, name: Field) -> u64 {
    field(structure, name)
}

/// The text at an address of the kernel, as much as there is room for; padded
/// with zeros.
#[inline(always)]
pub fn text<const N: usize>(address: u64) -> [u8; N] {
    let mut text = [0; N];
    // SAFETY: the helper writes no more than the size given.
    unsafe { bpf_probe_read_kernel_str(text.as_mut_ptr().cast(), N as u32, address as *const _) };
    text
}

/// Whose a socket is, by the cgroup it was made in: for those that no storage
/// can be asked about.
#[inline(always)]
pub fn owner_of_sock(sock: u64, settings: &Settings) -> SliceId {
    let cgroup = pointer(sock, Field::SockCgroup);
    let level = settings.slices_level as u64;
    if field::<u32>(cgroup, Field::CgroupLevel) < level as u32 {
        return SliceId::NODE;
    }
    let ancestor = ancestor(cgroup, settings.slices_level);
    owner::of_cgroup(field(pointer(ancestor, Field::CgroupNode), Field::NodeId))
}

/// The cgroup above this one, or itself, at a level that is not below its own.
#[inline(always)]
pub fn ancestor(cgroup: u64, level: u32) -> u64 {
    let ancestors = cgroup.wrapping_add(offset(Field::CgroupAncestors));
    at(ancestors.wrapping_add(level as u64 * 8))
}

/// Whether a socket is in the node's network namespace.
#[inline(always)]
pub fn in_node(sock: u64, settings: &Settings) -> bool {
    field::<u64>(pointer(sock, Field::SockNet), Field::NetCookie) == settings.node_netns
}
