//! The running kernel's type information: where the fields of its structures
//! are. aya 0.14 reads it too and keeps the members to itself.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use libbpf_sys as libbpf;

/// The types of the running kernel.
#[derive(Debug)]
pub struct KernelTypes(NonNull<libbpf::btf>);

/// A member of a structure or union.
struct Member {
    name: String,
    type_id: u32,
    offset_bits: u32,
}

/// Unnamed structures nest no deeper than this.
const DEEPEST: u32 = 8;

thread_local! {
    /// They are some megabytes to read and stay what they are.
    static RUNNING: OnceCell<Rc<KernelTypes>> = const { OnceCell::new() };
}

impl KernelTypes {
    /// The types of the running kernel, read once.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn running() -> io::Result<Rc<KernelTypes>> {
        RUNNING.with(|running| {
            if let Some(types) = running.get() {
                return Ok(Rc::clone(types));
            }
            let types = Rc::new(KernelTypes::load()?);
            Ok(Rc::clone(running.get_or_init(|| types)))
        })
    }

    /// Reads /sys/kernel/btf/vmlinux, or what stands in for it.
    fn load() -> io::Result<KernelTypes> {
        // SAFETY: takes nothing; null or a new object that is ours to free.
        let types = unsafe { libbpf::btf__load_vmlinux_btf() };
        NonNull::new(types)
            .map(KernelTypes)
            .ok_or_else(io::Error::last_os_error)
    }

    /// The number of the kernel's function of this name; programs are attached
    /// to functions by it.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        self.find(name, libbpf::BTF_KIND_FUNC)
    }

    /// The number of the structure of this name.
    #[must_use]
    pub fn structure(&self, name: &str) -> Option<u32> {
        self.find(name, libbpf::BTF_KIND_STRUCT)
    }

    /// The type of this name and kind.
    fn find(&self, name: &str, kind: u32) -> Option<u32> {
        let name = CString::new(name).ok()?;
        // SAFETY: the object lives, the string is NUL-terminated.
        let found = unsafe { libbpf::btf__find_by_name_kind(self.0.as_ptr(), name.as_ptr(), kind) };
        u32::try_from(found).ok().filter(|id| *id != 0)
    }

    /// Where a field is in the structure of this number, in bytes; `path` is
    /// the names of members, joined by dots. `None` where there is none of that
    /// name, or it does not begin at a byte.
    pub fn offset(&self, structure: u32, path: &str) -> Option<u32> {
        let mut inside = structure;
        let mut bits = 0;
        for name in path.split('.') {
            let (offset, type_id) = self.member(inside, name, DEEPEST)?;
            bits += offset;
            inside = type_id;
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// The offset in bits and the type of the member of this name, in unnamed
    /// members too.
    fn member(&self, type_id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let members = self.members(type_id);
        if let Some(member) = members.iter().find(|member| member.name == name) {
            return Some((member.offset_bits, member.type_id));
        }
        let depth = depth.checked_sub(1)?;
        let unnamed = members.iter().filter(|member| member.name.is_empty());
        unnamed
            .filter_map(|member| {
                let (offset, type_id) = self.member(member.type_id, name, depth)?;
                Some((member.offset_bits + offset, type_id))
            })
            .next()
    }

    /// The members of a structure or union; none of any other type.
    fn members(&self, type_id: u32) -> Vec<Member> {
        // SAFETY: the object lives. The library gives -EINVAL and null for
        // numbers that are no types.
        let described = unsafe {
            let id = libbpf::btf__resolve_type(self.0.as_ptr(), type_id);
            let id = u32::try_from(id).unwrap_or(0);
            libbpf::btf__type_by_id(self.0.as_ptr(), id)
        };
        // SAFETY: null, or a type inside the object.
        let Some(head) = (unsafe { described.as_ref() }) else {
            return Vec::new();
        };
        let kind = head.info >> 24 & 0x1f;
        if kind != libbpf::BTF_KIND_STRUCT && kind != libbpf::BTF_KIND_UNION {
            return Vec::new();
        }
        let has_bitfields = head.info >> 31 == 1;
        let count = usize::from(u16::try_from(head.info & 0xffff).unwrap_or(0));
        // SAFETY: `count` members follow the head of a structure or union;
        // the library checked that when it loaded the types.
        let members = unsafe {
            std::slice::from_raw_parts(described.add(1).cast::<libbpf::btf_member>(), count)
        };
        let members = members.iter().map(|member| Member {
            name: self.name(member.name_off),
            type_id: member.type_,
            offset_bits: if has_bitfields {
                member.offset & 0x00ff_ffff
            } else {
                member.offset
            },
        });
        members.collect()
    }

    fn name(&self, offset: u32) -> String {
        // SAFETY: the object lives; null, or a string inside the object.
        let name = unsafe { libbpf::btf__name_by_offset(self.0.as_ptr(), offset) };
        if name.is_null() {
            return String::new();
        }
        // SAFETY: not null, so NUL-terminated and as long-lived as the object.
        unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned()
    }
}

impl Drop for KernelTypes {
    fn drop(&mut self) {
        // SAFETY: the object is ours and nobody uses it any more.
        unsafe { libbpf::btf__free(self.0.as_ptr()) };
    }
}
