//! Which program is attached where: one table, and links of our own.
//!
//! aya 0.14 can neither order, update nor (for socket options) pin a cgroup
//! link, so all go through `sys::bpf`, which makes those of a network namespace
//! too. A link, unlike a plain attachment,
//! never excludes other tools' programs: several run one after the other.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use libbpf_sys as libbpf;

use super::hook::Hook;
use super::object::Object;
use super::store::Store;
use crate::sys::bpf;

/// What a program is attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The root: sees the node's own processes too, which are counted and
    /// cannot take the ports of slices.
    Root,
    /// The parent of all slices.
    Slices,
    /// A file, in which the program is run for whoever reads it.
    View,
    /// The node's network namespace.
    Network,
    /// A table of programs, from which others jump to it.
    Jump(&'static str),
    /// The way out of devices; see [`super::hook`].
    Devices(Hook),
}

/// One program of the object and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// Name of the program in the object, and of its pinned link.
    pub program: &'static str,
    /// What it is attached to.
    pub place: Place,
    /// `BPF_CGROUP_*`, `BPF_LSM_CGROUP`, `BPF_SK_LOOKUP` or `BPF_TRACE_ITER`.
    pub attach_type: u32,
    /// The function of the kernel that stands for the LSM hook or for what is
    /// iterated over, in programs of these types.
    pub function: Option<Function>,
}

/// A function of the kernel's that a program is verified against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    /// An LSM hook. A kernel has room for 10 different ones in programs for
    /// cgroups, those of other tools included.
    Lsm(&'static str),
    /// An iterator over objects of the kernel.
    Iterator(&'static str),
}

impl Function {
    /// Its name in the kernel.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Lsm(hook) => format!("bpf_lsm_{hook}"),
            Self::Iterator(kind) => format!("bpf_iter_{kind}"),
        }
    }
}

const fn at(place: Place, program: &'static str, attach_type: u32) -> Attachment {
    Attachment {
        program,
        place,
        attach_type,
        function: None,
    }
}

/// A program named for its LSM hook.
const fn lsm(hook: &'static str) -> Attachment {
    Attachment {
        program: hook,
        place: Place::Slices,
        attach_type: libbpf::BPF_LSM_CGROUP,
        function: Some(Function::Lsm(hook)),
    }
}

const fn view(program: &'static str, kind: &'static str) -> Attachment {
    Attachment {
        program,
        place: Place::View,
        attach_type: libbpf::BPF_TRACE_ITER,
        function: Some(Function::Iterator(kind)),
    }
}

use Place::{Devices, Jump, Network, Root, Slices};

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
    lsm("socket_create"),
    lsm("socket_bind"),
    lsm("socket_sendmsg"),
    lsm("netlink_send"),
    lsm("unix_stream_connect"),
    lsm("unix_may_send"),
    lsm("file_open"),
    lsm("inode_mkdir"),
    lsm("kernel_module_request"),
    at(Slices, "connect4", libbpf::BPF_CGROUP_INET4_CONNECT),
    at(Slices, "connect6", libbpf::BPF_CGROUP_INET6_CONNECT),
    at(Slices, "sendmsg4", libbpf::BPF_CGROUP_UDP4_SENDMSG),
    at(Slices, "sendmsg6", libbpf::BPF_CGROUP_UDP6_SENDMSG),
    at(Slices, "recvmsg4", libbpf::BPF_CGROUP_UDP4_RECVMSG),
    at(Slices, "recvmsg6", libbpf::BPF_CGROUP_UDP6_RECVMSG),
    at(Slices, "getsockname4", libbpf::BPF_CGROUP_INET4_GETSOCKNAME),
    at(Slices, "getsockname6", libbpf::BPF_CGROUP_INET6_GETSOCKNAME),
    at(Slices, "getpeername4", libbpf::BPF_CGROUP_INET4_GETPEERNAME),
    at(Slices, "getpeername6", libbpf::BPF_CGROUP_INET6_GETPEERNAME),
    at(Network, "lookup", libbpf::BPF_SK_LOOKUP),
    at(Slices, "setsockopt", libbpf::BPF_CGROUP_SETSOCKOPT),
    at(Slices, "getsockopt", libbpf::BPF_CGROUP_GETSOCKOPT),
    view("view_tcp", "tcp"),
    view("view_tcp6", "tcp"),
    view("view_udp", "udp"),
    view("view_udp6", "udp"),
    view("view_unix", "unix"),
    at(Jump("RAW_OUT"), "raw_out", libbpf::BPF_CGROUP_INET_EGRESS),
    at(Jump("NODE_OUT"), "node_out", libbpf::BPF_CGROUP_INET_EGRESS),
    at(Jump("RAW_IN"), "raw_in", libbpf::BPF_CGROUP_INET_INGRESS),
    at(Jump("CAPTURE"), "capture", 0),
    at(
        Devices(Hook::Frames),
        Hook::Frames.program(),
        libbpf::BPF_TCX_EGRESS,
    ),
    at(
        Devices(Hook::Pace),
        Hook::Pace.program(),
        libbpf::BPF_TCX_EGRESS,
    ),
    at(
        Jump("AUDIT_OUT"),
        "audit_out",
        libbpf::BPF_CGROUP_INET_EGRESS,
    ),
    at(
        Jump("AUDIT_IN"),
        "audit_in",
        libbpf::BPF_CGROUP_INET_INGRESS,
    ),
    at(Jump("AUDIT_FRAME"), "audit_frame", libbpf::BPF_TCX_EGRESS),
];

/// The network namespace of this process, which is the node's: what the sockets
/// of `up` are in (`node_netns`).
const NETWORK: &str = "/proc/self/ns/net";

/// The two cgroups and the network namespace, open.
#[derive(Debug)]
pub struct Targets {
    root: File,
    slices: File,
    network: File,
}

impl Targets {
    /// Opens the root of the hierarchy, the parent of the slices, and the
    /// network namespace of this process.
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
            network: File::open(NETWORK).with_context(|| format!("open {NETWORK}"))?,
        })
    }

    fn link(&self, program: BorrowedFd<'_>, attachment: &Attachment) -> io::Result<OwnedFd> {
        let target = match attachment.place {
            Place::Root => self.root.as_fd(),
            Place::Slices => self.slices.as_fd(),
            Place::Network => self.network.as_fd(),
            Place::View => return bpf::iterator_link_create(program),
            Place::Jump(_) | Place::Devices(_) => {
                return Err(io::Error::other("the program has no link"));
            }
        };
        bpf::link_create(program, target, attachment.attach_type)
    }
}

/// What to do to have the former programs back.
#[derive(Debug, Default)]
pub struct Undo {
    made: Vec<&'static str>,
    updated: Vec<(&'static str, u32)>,
    jumps: Vec<(&'static str, u32)>,
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
    targets: &Targets,
    undo: &mut Undo,
) -> anyhow::Result<()> {
    for attachment in object.attachments() {
        let name = attachment.program;
        let program = object.program(name)?;
        match attachment.place {
            Place::Jump(table) => {
                let former = jump(store, table, program)
                    .with_context(|| format!("put program {name} into {table}"))?;
                undo.jumps.extend(former.map(|former| (table, former)));
                continue;
            }
            Place::Devices(hook) => {
                hook.pin(store, program)?;
                hook.replace(store)?;
                continue;
            }
            _ => {}
        }
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
            let link =
                targets
                    .link(program, attachment)
                    .with_context(|| match attachment.place {
                        Place::View => format!("make a view of program {name}"),
                        Place::Network => {
                            format!("attach program {name} to the network namespace")
                        }
                        place => format!("attach program {name} to the {place:?} cgroup"),
                    })?;
            bpf::object_pin(link.as_fd(), &path)
                .with_context(|| format!("pin {}", path.display()))?;
            undo.made.push(name);
        }
        if attachment.place == Place::View {
            // Whoever can reach it may read it, and nobody else's sockets come.
            fs::set_permissions(&path, Permissions::from_mode(0o444))
                .with_context(|| format!("open {} to readers", path.display()))?;
        }
    }
    Ok(())
}

/// Sets the program of a table of one; the id of the former, if there was one.
fn jump(store: &Store, table: &str, program: BorrowedFd<'_>) -> anyhow::Result<Option<u32>> {
    let table = bpf::object_get(&store.map(table)).and_then(bpf::Map::from_fd)?;
    let mut former = [0; 4];
    let was = table.lookup(&[0; 4], &mut former)?;
    table.update(&[0; 4], &program.as_raw_fd().to_ne_bytes())?;
    Ok(was.then(|| u32::from_ne_bytes(former)))
}

/// Whether every program of the table is attached; those for links, where there
/// are some.
#[must_use]
pub fn all_there(store: &Store, links: bool) -> bool {
    PROGRAMS.iter().all(|attachment| match attachment.place {
        Place::Devices(Hook::Pace) if !links => true,
        Place::Jump(table) => store.map(table).exists(),
        Place::Devices(hook) => hook.pinned_program(store).exists(),
        _ => store.link(attachment.program).exists(),
    })
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
        for (table, id) in self.jumps {
            let back = former
                .program(id)
                .and_then(|program| jump(store, table, program));
            result = result.and(back.map(|_| ()).with_context(|| format!("restore {table}")));
        }
        for (hook, program) in &former.on_devices {
            result = result.and(hook.pin(store, program.as_fd()));
            result = result.and(hook.replace(store));
        }
        result
    }
}

/// The programs that run now, kept alive.
#[derive(Debug)]
pub struct Former {
    programs: Vec<(u32, OwnedFd)>,
    on_devices: Vec<(Hook, OwnedFd)>,
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
        for attachment in PROGRAMS {
            let Place::Jump(table) = attachment.place else {
                continue;
            };
            // A node of an earlier version has no such table.
            if let Ok(table) = bpf::object_get(&store.map(table)).and_then(bpf::Map::from_fd) {
                let mut id = [0; 4];
                if table.lookup(&[0; 4], &mut id)? {
                    let id = u32::from_ne_bytes(id);
                    let program = bpf::program_by_id(id)?;
                    programs.push((id, program));
                }
            }
        }
        let on_devices = [Hook::Frames, Hook::Pace]
            .into_iter()
            .filter_map(|hook| Some((hook, hook.open(store).ok()?)))
            .collect();
        Ok(Self {
            programs,
            on_devices,
        })
    }

    fn program(&self, id: u32) -> anyhow::Result<BorrowedFd<'_>> {
        let program = self.programs.iter().find(|(held, _)| *held == id);
        let (_, program) = program.context("the former program is gone")?;
        Ok(program.as_fd())
    }

    fn restore(&self, store: &Store, name: &str, id: u32) -> anyhow::Result<()> {
        let program = self
            .program(id)
            .with_context(|| format!("put program {name} back"))?;
        let link =
            bpf::object_get(&store.link(name)).with_context(|| format!("open link {name}"))?;
        bpf::link_update(link.as_fd(), program).with_context(|| format!("put program {name} back"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::views;

    #[test]
    fn each_view_is_a_file_that_a_context_can_put_in_place() {
        let views = PROGRAMS.iter().filter(|a| a.place == Place::View);
        let programs: Vec<_> = views.map(|attachment| attachment.program).collect();
        let pins: Vec<_> = views::FILES.iter().map(|(_, pin)| *pin).collect();
        assert_eq!(programs, pins);
        assert!(pins.iter().all(|pin| Store::is_view(pin)));
    }

    #[test]
    fn the_programs_leave_room_for_lsm_hooks_of_other_tools() {
        let hooks = PROGRAMS
            .iter()
            .filter(|a| matches!(a.function, Some(Function::Lsm(_))));
        assert!(hooks.count() < 10);
    }
}
