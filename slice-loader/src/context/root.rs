//! The root of a slice: a writable layer over a read-only image, and the file
//! systems that every Unix program expects, mounted in a namespace of its own.
//!
//! Everything here runs in the slice's first process, before any program of
//! the slice does, with the rights of the node's root. What lies below the new
//! root was left there by the slice, so no path below it is trusted: mount
//! points are opened without following symbolic links, and what is written is
//! written into file systems that are new.
//!
//! ```text
//!  /            overlay: the slice's layer over the image, ids mapped
//!  /proc        of the slice's processes; /proc/net with its sockets
//!  /sys         read-only
//!  /sys/fs/cgroup   the slice's cgroup and what it makes below
//!  /dev         null, zero, full, random, urandom, tty; pts, shm, mqueue
//!  /run         empty, but for /run/slice, which is the node's and read-only
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{fchdir, pivot_root};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, mknodat,
    openat2, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::proc_net::ProcNet;
use super::shown::Shown;
use crate::sys;

/// What a slice's root is made of.
#[derive(Debug)]
pub struct Root<'a> {
    /// The image's tree.
    pub image: &'a Path,
    /// What the slice has changed.
    pub upper: &'a Path,
    /// The overlay's own directory beside it.
    pub work: &'a Path,
    /// A directory of the node to put things together on; nothing of it stays.
    pub stage: &'a Path,
    /// The node's views of sockets.
    pub views: &'a Path,
    /// What of the node it sees.
    pub shown: &'a Shown,
    /// The slice's user namespace.
    pub userns: BorrowedFd<'a>,
    /// The first of the slice's ids on the node.
    pub uid: u32,
}

/// Most pseudoterminals of a slice; those of all mounts together are bounded
/// by `kernel.pty.max`.
const PTYS: &str = "256";

/// The group that owns terminals, on every distribution that has one.
const TTY_GROUP: u32 = 5;

/// A file system that is mounted below the root.
struct Mounted {
    target: &'static str,
    kind: &'static str,
    attributes: MountAttrFlags,
    /// Options with their values; `{uid}` and `{tty}` stand for ids.
    options: &'static [(&'static str, &'static str)],
}

/// No programs, no devices.
pub(super) const QUIET: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// In this order: what is below something comes after it.
const MOUNTED: [Mounted; 7] = [
    Mounted {
        target: "proc",
        kind: "proc",
        attributes: QUIET,
        options: &[],
    },
    Mounted {
        target: "sys",
        kind: "sysfs",
        attributes: QUIET.union(MountAttrFlags::MOUNT_ATTR_RDONLY),
        options: &[],
    },
    Mounted {
        target: "sys/fs/cgroup",
        kind: "cgroup2",
        attributes: QUIET,
        options: &[],
    },
    // The only one with device nodes. The slice owns it and can make none.
    Mounted {
        target: "dev",
        kind: "tmpfs",
        attributes: MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        options: &[
            ("mode", "0755"),
            ("uid", "{uid}"),
            ("gid", "{uid}"),
            ("size", "1m"),
            ("nr_inodes", "4096"),
        ],
    },
    Mounted {
        target: "dev/pts",
        kind: "devpts",
        attributes: MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        options: &[
            ("mode", "0620"),
            ("ptmxmode", "0666"),
            ("gid", "{tty}"),
            ("max", PTYS),
        ],
    },
    // What lies in these is the slice's memory and counted there.
    Mounted {
        target: "dev/shm",
        kind: "tmpfs",
        attributes: QUIET,
        options: &[
            ("mode", "1777"),
            ("uid", "{uid}"),
            ("gid", "{uid}"),
            ("nr_inodes", "65536"),
        ],
    },
    Mounted {
        target: "run",
        kind: "tmpfs",
        attributes: MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV),
        options: &[
            ("mode", "0755"),
            ("uid", "{uid}"),
            ("gid", "{uid}"),
            ("nr_inodes", "65536"),
        ],
    },
];

/// Character devices: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

impl Root<'_> {
    /// Makes it the root of this process, which has a mount, a process id and
    /// a cgroup namespace of its own; of the node's mounts none is left.
    ///
    /// # Errors
    /// The kernel refuses; or the slice put something in the way.
    pub fn enter(&self) -> anyhow::Result<()> {
        // Nothing that happens here is seen on the node, nor the other way.
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .context("keep mounts apart from the node's")?;
        let net = ProcNet::open(self.views)?;
        let shown = self.shown.open()?;
        let root = self.overlay()?;
        fchdir(&root).context("go to the new root")?;
        // The old root is put over the new one, and taken away.
        pivot_root(".", ".").context("make it the root")?;
        umount2(".", MntFlags::MNT_DETACH).context("let go of the node's root")?;
        nix::unistd::chdir("/").context("go to the new root")?;
        for mounted in &MOUNTED {
            self.mount(root.as_fd(), mounted)
                .with_context(|| format!("mount /{}", mounted.target))?;
        }
        // In the new /run, where nothing is of the slice yet.
        mkdirat(&root, "run/slice", Mode::from_raw_mode(0o755)).context("make /run/slice")?;
        let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&shown, "", &root, "run/slice", onto).context("mount /run/slice")?;
        net.mount(root.as_fd())
    }

    /// The overlay, attached on the stage.
    fn overlay(&self) -> anyhow::Result<OwnedFd> {
        let stage = new("tmpfs", &[("mode", "0700")], MountAttrFlags::empty())
            .context("mount the stage")?;
        attach(&stage, CWD, self.stage)
            .with_context(|| format!("mount the stage on {}", self.stage.display()))?;
        let (lower, root) = (self.stage.join("lower"), self.stage.join("root"));
        for directory in [&lower, &root] {
            std::fs::create_dir(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        let image = open_tree(
            CWD,
            self.image,
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )
        .with_context(|| format!("open the image {}", self.image.display()))?;
        sys::mount::map_ids(image.as_fd(), self.userns)
            .with_context(|| format!("map the ids of the image {}", self.image.display()))?;
        attach(&image, CWD, &lower).context("mount the image")?;
        let path = |path: &Path| -> anyhow::Result<String> {
            let text = path.to_str().context("a path is not UTF-8")?;
            // The overlay's own separators.
            if text.contains([',', ':', '\\']) {
                bail!("{text} has a character that an overlay cannot be told");
            }
            Ok(text.to_owned())
        };
        let options = [
            ("lowerdir", path(&lower)?),
            ("upperdir", path(self.upper)?),
            ("workdir", path(self.work)?),
            // Renaming a directory of the image works, as on any disk.
            ("redirect_dir", String::from("on")),
        ];
        let options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (*k, v.as_str())).collect();
        // Devices are in /dev alone, whatever the image has.
        let overlay = new("overlay", &options, MountAttrFlags::MOUNT_ATTR_NODEV)
            .context("mount the overlay")?;
        attach(&overlay, CWD, &root).context("mount the overlay")?;
        Ok(overlay)
    }

    fn mount(&self, root: BorrowedFd<'_>, mounted: &Mounted) -> anyhow::Result<()> {
        let ids = |text: &str| {
            text.replace("{uid}", &self.uid.to_string())
                .replace("{tty}", &(self.uid + TTY_GROUP).to_string())
        };
        let options: Vec<(&str, String)> = mounted
            .options
            .iter()
            .map(|(key, value)| (*key, ids(value)))
            .collect();
        let options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let mount = new(mounted.kind, &options, mounted.attributes)?;
        if mounted.target == "dev" {
            self.fill_dev(mount.as_fd())?;
        }
        let target = self.directory(root, mounted.target)?;
        move_mount(
            &mount,
            "",
            &target,
            "",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
        )
        .context("attach it")
    }

    /// A directory below the root to mount on; made where it is missing.
    fn directory(&self, root: BorrowedFd<'_>, path: &str) -> anyhow::Result<OwnedFd> {
        let open = || {
            openat2(
                root,
                path,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH,
            )
        };
        match open() {
            Err(Errno::NOENT) => {
                let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
                mkdirat(root, path, Mode::from_raw_mode(0o755))
                    .and_then(|()| {
                        let owner = (Some(uid), Some(gid));
                        chownat(root, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                    })
                    .with_context(|| format!("make the directory /{path}"))?;
                open().with_context(|| format!("open the directory /{path}"))
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                bail!("the slice has put something else in the place of its directory /{path}")
            }
            opened => opened.with_context(|| format!("open the directory /{path}")),
        }
    }

    fn fill_dev(&self, dev: BorrowedFd<'_>) -> anyhow::Result<()> {
        let owner = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.uid)));
        let own = |name: &str| chownat(dev, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW);
        for (name, major, minor) in DEVICES {
            mknodat(
                dev,
                name,
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o666),
                rustix::fs::makedev(major, minor),
            )
            .and_then(|()| own(name))
            .with_context(|| format!("make /dev/{name}"))?;
        }
        for (name, target) in DEVICE_LINKS {
            symlinkat(target, dev, name).with_context(|| format!("make /dev/{name}"))?;
        }
        for name in ["pts", "shm", "mqueue"] {
            mkdirat(dev, name, Mode::from_raw_mode(0o755))
                .and_then(|()| own(name))
                .with_context(|| format!("make /dev/{name}"))?;
        }
        Ok(())
    }
}

/// Message queues belong to the slice's IPC namespace, which is made after the
/// root: called in it.
///
/// # Errors
/// The kernel refuses.
pub fn mount_message_queues() -> anyhow::Result<()> {
    let queues = new("mqueue", &[], QUIET)?;
    attach(&queues, CWD, &PathBuf::from("/dev/mqueue"))
}

/// A file system of its own, mounted nowhere yet. An option without a value is
/// a flag.
pub(super) fn new(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> anyhow::Result<OwnedFd> {
    let system = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .with_context(|| format!("ask the kernel for {kind}"))?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&system, *key)
        } else {
            fsconfig_set_string(&system, *key, *value)
        }
        .with_context(|| format!("set {key}={value} of {kind}"))?;
    }
    fsconfig_create(&system).with_context(|| format!("make a {kind}"))?;
    fsmount(system.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .with_context(|| format!("mount a {kind}"))
}

fn attach(mount: &OwnedFd, at: BorrowedFd<'_>, path: &Path) -> anyhow::Result<()> {
    move_mount(mount, "", at, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context("attach a mount")
}
