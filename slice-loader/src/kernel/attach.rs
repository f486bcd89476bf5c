//! Which program is attached where: one table, and links of our own.
//!
//! aya 0.14 can neither order, update nor (for socket options) pin a cgroup
//! link, so all go through `sys::bpf`. A link, unlike a plain attachment,
//! never excludes other tools' programs: several run one after the other.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::Context;
use libbpf_sys as libbpf;

use super::object::Object;
use super::store::Store;
use crate::sys::bpf;

/// The cgroup a program is attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The root: sees the node's own processes too, which are counted and
    /// cannot take the ports of slices.
    Root,
    /// The parent of all slices.
    Slices,
}

/// One program of the object and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// Name of the program in the object, and of its pinned link.
    pub program: &'static str,
    /// The cgroup.
    pub place: Place,
    /// `BPF_CGROUP_*` or `BPF_LSM_CGROUP`.
    pub attach_type: u32,
    /// The LSM hook, for programs of that type.
    pub lsm_hook: Option<&'static str>,
}

const fn at(place: Place, program: &'static str, attach_type: u32) -> Attachment {
    Attachment {
        program,
        place,
        attach_type,
        lsm_hook: None,
    }
}

const fn lsm(program: &'static str, hook: &'static str) -> Attachment {
    Attachment {
        program,
        place: Place::Slices,
        attach_type: libbpf::BPF_LSM_CGROUP,
        lsm_hook: Some(hook),
    }
}

use Place::{Root, Slices};

/// Every program, in the order in which they are attached: those that learn
/// whose a socket is before those that judge by it.
pub const PROGRAMS: &[Attachment] = &[
    at(Root, "sock_create", libbpf::BPF_CGROUP_INET_SOCK_CREATE),
    at(Root, "sock_release", libbpf::BPF_CGROUP_INET_SOCK_RELEASE),
    at(Root, "tcp_state", libbpf::BPF_CGROUP_SOCK_OPS),
    at(Root, "bind4", libbpf::BPF_CGROUP_INET4_BIND),
    at(Root, "bind6", libbpf::BPF_CGROUP_INET6_BIND),
    at(Root, "post_bind4", libbpf::BPF_CGROUP_INET4_POST_BIND),
    at(Root, "post_bind6", libbpf::BPF_CGROUP_INET6_POST_BIND),
    at(Root, "egress", libbpf::BPF_CGROUP_INET_EGRESS),
    at(Root, "ingress", libbpf::BPF_CGROUP_INET_INGRESS),
    lsm("socket_create", "socket_create"),
    at(Slices, "connect4", libbpf::BPF_CGROUP_INET4_CONNECT),
    at(Slices, "connect6", libbpf::BPF_CGROUP_INET6_CONNECT),
    at(Slices, "sendmsg4", libbpf::BPF_CGROUP_UDP4_SENDMSG),
    at(Slices, "sendmsg6", libbpf::BPF_CGROUP_UDP6_SENDMSG),
    at(Slices, "setsockopt", libbpf::BPF_CGROUP_SETSOCKOPT),
    at(Slices, "getsockopt", libbpf::BPF_CGROUP_GETSOCKOPT),
];

/// The two cgroups, open.
#[derive(Debug)]
pub struct Cgroups {
    root: File,
    slices: File,
}

impl Cgroups {
    /// Opens the root of the hierarchy and the parent of the slices.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn open(root: &Path, slices: &Path) -> anyhow::Result<Self> {
        let open = |path: &Path| {
            File::open(path).with_context(|| format!("open cgroup {}", path.display()))
        };
        Ok(Self {
            root: open(root)?,
            slices: open(slices)?,
        })
    }

    fn at(&self, place: Place) -> BorrowedFd<'_> {
        match place {
            Place::Root => self.root.as_fd(),
            Place::Slices => self.slices.as_fd(),
        }
    }
}

/// What to do to have the former programs back.
#[derive(Debug, Default)]
pub struct Undo {
    made: Vec<&'static str>,
    updated: Vec<(&'static str, u32)>,
}

/// Attaches every program of the object: where a link is pinned, its program
/// is replaced, else a link is made and pinned. `undo` grows as work is done,
/// so that it is right after an error too.
///
/// # Errors
/// The first program that cannot be attached.
pub fn attach(
    object: &Object,
    store: &Store,
    cgroups: &Cgroups,
    undo: &mut Undo,
) -> anyhow::Result<()> {
    for attachment in PROGRAMS {
        let name = attachment.program;
        let program = object.program(name)?;
        let path = store.link(name);
        if path.exists() {
            let link =
                bpf::object_get(&path).with_context(|| format!("open link {}", path.display()))?;
            let former = bpf::link_program_id(link.as_fd())
                .with_context(|| format!("ask what link {name} runs"))?;
            undo.updated.push((name, former));
            bpf::link_update(link.as_fd(), program)
                .with_context(|| format!("replace program {name}"))?;
        } else {
            let link = bpf::link_create(
                program,
                cgroups.at(attachment.place),
                attachment.attach_type,
            )
            .with_context(|| {
                format!("attach program {name} to the {:?} cgroup", attachment.place)
            })?;
            bpf::object_pin(link.as_fd(), &path)
                .with_context(|| format!("pin {}", path.display()))?;
            undo.made.push(name);
        }
    }
    Ok(())
}

/// Whether every program of the table is attached.
#[must_use]
pub fn all_there(store: &Store) -> bool {
    PROGRAMS
        .iter()
        .all(|attachment| store.link(attachment.program).exists())
}

/// Removes pinned links of programs that are in the table no more.
///
/// # Errors
/// A link cannot be removed.
pub fn detach_former(store: &Store) -> anyhow::Result<()> {
    for name in store.links()? {
        if !PROGRAMS.iter().any(|attachment| attachment.program == name) {
            let path = store.link(&name);
            std::fs::remove_file(&path)
                .with_context(|| format!("remove link {}", path.display()))?;
        }
    }
    Ok(())
}

impl Undo {
    /// Puts the former programs back. `former` are their descriptors, held
    /// since before the change: an unreferenced program is gone.
    ///
    /// # Errors
    /// The first that cannot be put back; the others are tried.
    pub fn run(self, store: &Store, former: &Former) -> anyhow::Result<()> {
        let mut result = Ok(());
        for name in self.made {
            let path = store.link(name);
            let removed = std::fs::remove_file(&path)
                .with_context(|| format!("remove link {}", path.display()));
            result = result.and(removed);
        }
        for (name, id) in self.updated {
            result = result.and(former.restore(store, name, id));
        }
        result
    }
}

/// The programs that run now, kept alive.
#[derive(Debug)]
pub struct Former {
    programs: Vec<(u32, std::os::fd::OwnedFd)>,
}

impl Former {
    /// Takes hold of the programs of all pinned links.
    ///
    /// # Errors
    /// A link cannot be opened.
    pub fn hold(store: &Store) -> anyhow::Result<Self> {
        let mut programs = Vec::new();
        for name in store.links()? {
            let held = bpf::object_get(&store.link(&name))
                .and_then(|link| bpf::link_program_id(link.as_fd()))
                .and_then(|id| bpf::program_by_id(id).map(|program| (id, program)));
            programs.push(held.with_context(|| format!("hold the program of link {name}"))?);
        }
        Ok(Self { programs })
    }

    fn restore(&self, store: &Store, name: &str, id: u32) -> anyhow::Result<()> {
        let program = self.programs.iter().find(|(held, _)| *held == id);
        let (_, program) =
            program.with_context(|| format!("put program {name} back: it is gone"))?;
        let link =
            bpf::object_get(&store.link(name)).with_context(|| format!("open link {name}"))?;
        bpf::link_update(link.as_fd(), program.as_fd())
            .with_context(|| format!("put program {name} back"))
    }
}
