//! What the kernel and the system must have: one table, the only place that
//! asks. Nothing anywhere looks at a version.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use libbpf_sys as libbpf;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use serde::Serialize;

use super::attach::{Function, PROGRAMS};
use super::layout;
use crate::context::disk::Disk;
use crate::context::holder::CGROUPFS;
use crate::sys::btf::KernelTypes;
use crate::sys::{bpf, socket};

/// What a probe found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "detail")]
pub enum Found {
    /// It is there.
    Present,
    /// It is not, and how that shows.
    Missing(String),
}

/// Something the node needs.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// A name for machines.
    pub slug: &'static str,
    /// What it is.
    pub what: &'static str,
    /// What does not work without it.
    pub needed_by: &'static str,
    /// How to get it.
    pub remedy: &'static str,
    probe: fn() -> Found,
}

impl Feature {
    /// Looks for it now.
    #[must_use]
    pub fn probe(&self) -> Found {
        (self.probe)()
    }
}

const OTHER_KERNEL: &str =
    "boot a kernel of Debian 12 or later, or one built with the same options";

/// Everything, in the order in which a missing one explains those after it.
pub const FEATURES: &[Feature] = &[
    Feature {
        slug: "root",
        what: "the rights of root",
        needed_by: "loading programs, cgroups, user ids of slices",
        remedy: "run as root, in no container",
        probe: || {
            present(
                nix::unistd::geteuid().is_root(),
                "this process is not root's",
            )
        },
    },
    Feature {
        slug: "programs",
        what: "the eBPF programs inside this binary",
        needed_by: "everything",
        remedy: "build with `cargo xtask build`",
        probe: || {
            present(
                super::object::is_built_in(),
                "built without SLICE_EBPF_OBJECT",
            )
        },
    },
    Feature {
        slug: "cgroup2",
        what: "cgroup v2 on /sys/fs/cgroup",
        needed_by: "telling slices apart, limits",
        remedy: "mount cgroup2 there; with systemd: boot with systemd.unified_cgroup_hierarchy=1",
        probe: || {
            let kind = statfs(CGROUPFS).map(|s| s.filesystem_type());
            present(
                kind == Ok(CGROUP2_SUPER_MAGIC),
                "another file system is mounted there",
            )
        },
    },
    Feature {
        slug: "cgroup_namespace",
        what: "the initial cgroup namespace",
        needed_by: "finding a slice by the depth of its cgroup",
        remedy: "run on the machine itself, not in a container",
        // The inode of the initial namespace is fixed in the kernel
        // (PROC_CGROUP_INIT_INO).
        probe: || match fs::read_link("/proc/self/ns/cgroup") {
            Ok(link) => present(
                link == Path::new("cgroup:[4026531835]"),
                "this is a container's",
            ),
            Err(error) => Found::Missing(error.to_string()),
        },
    },
    Feature {
        slug: "controllers",
        what: "the cgroup controllers cpu, memory and pids",
        needed_by: "limits of CPU time, memory and processes",
        remedy: "boot without cgroup_disable=; no cgroup v1 hierarchy may hold them",
        probe: || match fs::read_to_string(format!("{CGROUPFS}/cgroup.controllers")) {
            Ok(text) => {
                let missing: Vec<_> = ["cpu", "memory", "pids"]
                    .into_iter()
                    .filter(|c| !text.split_whitespace().any(|w| w == *c))
                    .collect();
                present(
                    missing.is_empty(),
                    &format!("not available: {}", missing.join(", ")),
                )
            }
            Err(error) => Found::Missing(error.to_string()),
        },
    },
    Feature {
        slug: "cgroup_kill",
        what: "cgroup.kill",
        needed_by: "ending all processes of a slice at once",
        remedy: OTHER_KERNEL,
        probe: probe_cgroup_kill,
    },
    Feature {
        slug: "lsm_bpf",
        what: "the bpf LSM, active",
        needed_by: "refusing socket families that go round the ownership of ports",
        remedy: "boot with `bpf` added to the list in /sys/kernel/security/lsm, as lsm=...,bpf",
        probe: || match fs::read_to_string("/sys/kernel/security/lsm") {
            Ok(list) => present(
                list.trim().split(',').any(|lsm| lsm == "bpf"),
                &format!("active are: {}", list.trim()),
            ),
            Err(error) => Found::Missing(format!("/sys/kernel/security/lsm: {error}")),
        },
    },
    Feature {
        slug: "btf",
        what: "the kernel's type information",
        needed_by: "programs on LSM hooks",
        remedy: "boot a kernel with CONFIG_DEBUG_INFO_BTF",
        probe: || {
            present(
                Path::new("/sys/kernel/btf/vmlinux").exists(),
                "/sys/kernel/btf/vmlinux is not there",
            )
        },
    },
    Feature {
        slug: "kernel_functions",
        what: "the LSM hooks and iterators that programs are attached to",
        needed_by: "hiding the sockets of other owners",
        remedy: OTHER_KERNEL,
        probe: probe_functions,
    },
    Feature {
        slug: "kernel_fields",
        what: "the fields of the kernel's structures that programs read",
        needed_by: "hiding the sockets of other owners",
        remedy: "boot a kernel of Debian that this version was tested on, or install a newer version of slice",
        probe: || match layout::offsets() {
            Ok(_) => Found::Present,
            Err(error) => Found::Missing(format!("{error:#}")),
        },
    },
    program_type(
        "cgroup_sock",
        "programs on making, binding and closing sockets",
        libbpf::BPF_PROG_TYPE_CGROUP_SOCK,
    ),
    program_type(
        "cgroup_sock_addr",
        "programs on bind, connect and sendmsg",
        libbpf::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    ),
    program_type(
        "cgroup_skb",
        "programs on packets of cgroups",
        libbpf::BPF_PROG_TYPE_CGROUP_SKB,
    ),
    program_type(
        "cgroup_sockopt",
        "programs on socket options",
        libbpf::BPF_PROG_TYPE_CGROUP_SOCKOPT,
    ),
    program_type(
        "sock_ops",
        "programs on TCP's states",
        libbpf::BPF_PROG_TYPE_SOCK_OPS,
    ),
    program_type("lsm", "programs on LSM hooks", libbpf::BPF_PROG_TYPE_LSM),
    program_type(
        "tracing",
        "programs that iterate over sockets",
        libbpf::BPF_PROG_TYPE_TRACING,
    ),
    program_type(
        "sk_lookup",
        "programs on looking for a packet's socket",
        libbpf::BPF_PROG_TYPE_SK_LOOKUP,
    ),
    program_type(
        "sched_cls",
        "programs on what leaves a device",
        libbpf::BPF_PROG_TYPE_SCHED_CLS,
    ),
    program_type(
        "socket_filter",
        "programs on what a packet socket is shown",
        libbpf::BPF_PROG_TYPE_SOCKET_FILTER,
    ),
    Feature {
        slug: "sk_storage",
        what: "storage on sockets",
        needed_by: "remembering whose a socket is",
        remedy: OTHER_KERNEL,
        probe: || {
            present(
                bpf::probe_map_type(libbpf::BPF_MAP_TYPE_SK_STORAGE),
                "the kernel makes no such map",
            )
        },
    },
    Feature {
        slug: "lpm_trie",
        what: "maps by longest prefix",
        needed_by: "refused destinations",
        remedy: OTHER_KERNEL,
        probe: || {
            present(
                bpf::probe_map_type(libbpf::BPF_MAP_TYPE_LPM_TRIE),
                "the kernel makes no such map",
            )
        },
    },
    Feature {
        slug: "ringbuf",
        what: "ring buffers",
        needed_by: "slice events",
        remedy: OTHER_KERNEL,
        probe: || {
            present(
                bpf::probe_map_type(libbpf::BPF_MAP_TYPE_RINGBUF),
                "the kernel makes no such map",
            )
        },
    },
    Feature {
        slug: "sk_ancestor_cgroup",
        what: "the ancestor cgroups of a socket, in packet programs",
        needed_by: "counting and judging packets by slice",
        remedy: OTHER_KERNEL,
        probe: || {
            let helper = libbpf::BPF_FUNC_sk_ancestor_cgroup_id;
            present(
                bpf::probe_helper(libbpf::BPF_PROG_TYPE_CGROUP_SKB, helper),
                "the kernel has no such helper",
            )
        },
    },
    Feature {
        slug: "netns_cookie",
        what: "cookies of network namespaces",
        needed_by: "leaving sockets of other network namespaces alone",
        remedy: OTHER_KERNEL,
        probe: || match std::net::UdpSocket::bind("127.0.0.1:0").and_then(socket::netns_cookie) {
            Ok(_) => Found::Present,
            Err(error) => Found::Missing(format!("SO_NETNS_COOKIE: {error}")),
        },
    },
    Feature {
        slug: "seccomp",
        what: "filters of system calls",
        needed_by: "keeping keys and asynchronous I/O of the node from slices",
        remedy: OTHER_KERNEL,
        probe: || {
            present(
                Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
                "the kernel has no seccomp filters",
            )
        },
    },
    Feature {
        slug: "reserved_ports",
        what: "net.ipv4.ip_local_reserved_ports",
        needed_by: "keeping the kernel from giving a slice's port to others",
        remedy: "mount /proc",
        probe: || {
            present(
                Path::new(crate::node::autobind::SYSCTL).exists(),
                "the sysctl is not there",
            )
        },
    },
];

/// What only some policies need; without it the others come up.
pub const FOR_SOME: &[Feature] = &[
    Feature {
        slug: "project_quotas",
        what: "project quotas where slices' files lie",
        needed_by: "bounds on the disk: [disk] in a slice's file, disk in [node.give]",
        remedy: "see docs/disk.md: ext4 or xfs, mounted with prjquota",
        probe: || match Disk::open().map(|disk| disk.unbounded()) {
            Ok(None) => Found::Present,
            Ok(Some(unbounded)) => {
                Found::Missing(format!("{}: {}", unbounded.why, unbounded.remedy))
            }
            Err(error) => Found::Missing(format!("{error:#}")),
        },
    },
    Feature {
        slug: "fq",
        what: "the queue discipline fq",
        needed_by: "dividing the rate of a link: [links.NAME] in node.toml",
        remedy: "install the kernel's whole package of modules, or build it with CONFIG_NET_SCH_FQ",
        probe: || present(has_module("sch_fq"), "the kernel has no module sch_fq"),
    },
];

/// Whether the kernel has a module in it, loaded or to be loaded when it is asked for.
fn has_module(name: &str) -> bool {
    if Path::new("/sys/module").join(name).exists() {
        return true;
    }
    let Ok(host) = nix::sys::utsname::uname() else {
        return false;
    };
    let modules = Path::new("/lib/modules").join(host.release());
    ["modules.builtin", "modules.dep"].iter().any(|list| {
        fs::read_to_string(modules.join(list)).is_ok_and(|text| {
            let files = text.lines().filter_map(|line| line.split(':').next());
            files
                .filter_map(|file| file.rsplit('/').next()?.split('.').next())
                .any(|file| file == name)
        })
    })
}

const fn program_type(slug: &'static str, what: &'static str, program_type: u32) -> Feature {
    macro_rules! probe {
        ($($kind:ident)*) => {
            match program_type {
                $(libbpf::$kind => || present(bpf::probe_program_type(libbpf::$kind), "the kernel loads no such program"),)*
                _ => || Found::Missing(String::from("no probe is written for it")),
            }
        };
    }
    let probe: fn() -> Found = probe!(
        BPF_PROG_TYPE_CGROUP_SOCK BPF_PROG_TYPE_CGROUP_SOCK_ADDR BPF_PROG_TYPE_CGROUP_SKB
        BPF_PROG_TYPE_CGROUP_SOCKOPT BPF_PROG_TYPE_SOCK_OPS BPF_PROG_TYPE_LSM BPF_PROG_TYPE_TRACING
        BPF_PROG_TYPE_SK_LOOKUP BPF_PROG_TYPE_SCHED_CLS BPF_PROG_TYPE_SOCKET_FILTER
    );
    Feature {
        slug,
        what,
        needed_by: "the ownership of ports and packets",
        remedy: OTHER_KERNEL,
        probe,
    }
}

fn present(is: bool, else_detail: &str) -> Found {
    if is {
        Found::Present
    } else {
        Found::Missing(else_detail.to_owned())
    }
}

fn probe_functions() -> Found {
    let types = match KernelTypes::running() {
        Ok(types) => types,
        Err(error) => return Found::Missing(format!("read the kernel's BTF: {error}")),
    };
    let needed = PROGRAMS.iter().filter_map(|program| program.function);
    let missing: BTreeSet<_> = needed
        .map(Function::name)
        .filter(|name| types.function(name).is_none())
        .collect();
    let missing: Vec<_> = missing.into_iter().collect();
    present(
        missing.is_empty(),
        &format!("the kernel's BTF has no {}", missing.join(", ")),
    )
}

/// The root cgroup has no such file; any other has it.
fn probe_cgroup_kill() -> Found {
    let Ok(entries) = fs::read_dir(CGROUPFS) else {
        return Found::Missing(format!("{CGROUPFS} cannot be read"));
    };
    let mut cgroups = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists());
    match cgroups.next() {
        Some(cgroup) => present(
            cgroup.join("cgroup.kill").exists(),
            "cgroups have no such file",
        ),
        None => {
            // A machine without any cgroup: make one to look.
            let path = Path::new(CGROUPFS).join("slice-probe");
            if let Err(error) = fs::create_dir(&path) {
                return Found::Missing(format!("make {}: {error}", path.display()));
            }
            let found = present(
                path.join("cgroup.kill").exists(),
                "cgroups have no such file",
            );
            let _ = fs::remove_dir(&path);
            found
        }
    }
}

/// The features that are missing, with what the probe saw.
#[must_use]
pub fn missing() -> Vec<(&'static Feature, String)> {
    bpf::silence_libbpf();
    FEATURES
        .iter()
        .filter_map(|feature| match feature.probe() {
            Found::Present => None,
            Found::Missing(detail) => Some((feature, detail)),
        })
        .collect()
}

/// Keeps the library that probes from writing to standard error.
pub fn quiet() {
    bpf::silence_libbpf();
}
