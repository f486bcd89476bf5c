//! The roots: Debian with systemd and the servers and clients of the tests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::archive::Archive;
use crate::debootstrap;

/// A release of the distribution.
#[derive(Clone, Copy)]
pub struct Root {
    /// The archive's name of the release.
    pub suite: &'static str,
    name: &'static str,
    /// Beyond what every root has.
    more: &'static [&'static str],
}

impl Root {
    /// systemd 252, OpenSSH 9.2.
    pub const DEBIAN_12: Root = Root {
        suite: "bookworm",
        name: "debian-12",
        more: &[],
    };
    /// systemd 257, OpenSSH 10.
    pub const DEBIAN_13: Root = Root {
        suite: "trixie",
        name: "debian-13",
        more: MONITOR,
    };
    /// The same with what benches compare with: 196 MiB that the tests' root
    /// need not grow by.
    pub const DEBIAN_13_WITH_PEERS: Root = Root {
        name: "debian-13-peers",
        more: PEERS,
        ..Root::DEBIAN_13
    };
}

/// What is installed beyond the essential packages.
const PACKAGES: &[&str] = &[
    // the system
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "libnss-systemd",
    "sudo",
    "kmod",
    "procps",
    "e2fsprogs",
    "quota",
    "xfsprogs",
    "zstd",
    "xz-utils",
    "rsync",
    "libelf1",
    // servers and clients
    "openssh-server",
    "openssh-client",
    "nginx-light",
    "python3-minimal",
    "libpython3-stdlib",
    "curl",
    "iperf3",
    "dnsmasq-base",
    "socat",
    // the network, seen and changed
    "iproute2",
    "iputils-ping",
    "traceroute",
    "mtr-tiny",
    "tcpdump",
    "nftables",
    "ethtool",
    "bpftool",
    "strace",
];

/// What scrapes the status hooks, and the linter that comes with it: 25 MiB to
/// fetch, 110 MiB of disk. One root is enough: it asks nothing of the kernel.
const MONITOR: &[&str] = &["prometheus"];

/// What `cargo xtask bench context` measures against and with: other
/// containers, and a compiler.
const PEERS: &[&str] = &["podman", "crun", "systemd-container", "tcc", "libc6-dev"];

/// systemd units (and generators) that cost boot time and serve nothing in a
/// VM whose disk is thrown away.
const MASKED: &[&str] = &[
    "getty.target",
    "systemd-random-seed.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-journal-flush.service",
    "systemd-journal-catalog-update.service",
    "systemd-hwdb-update.service",
    "systemd-update-done.service",
    "systemd-fsck-root.service",
    "systemd-remount-fs.service",
    "systemd-binfmt.service",
    "systemd-pstore.service",
    "systemd-ask-password-wall.path",
    "systemd-ask-password-console.path",
    "systemd-tpm2-setup.service",
    "systemd-tpm2-setup-early.service",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "ldconfig.service",
    "kmod-static-nodes.service",
    "systemd-modules-load.service",
    "systemd-sysusers.service",
    "systemd-firstboot.service",
    "modprobe@.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-tracing.mount",
];

/// systemd's generators that are masked likewise: consoles are the log and
/// the shell, never a login, and nobody logs in over vsock (whose modules are
/// to be loaded by the tests, or not at all).
const MASKED_GENERATORS: &[&str] = &["systemd-getty-generator", "systemd-ssh-generator"];

/// Starts the agent, early: it needs the bus and the devices, nothing else.
const AGENT_UNIT: &str = "\
[Unit]
Description=Run the command of this boot
After=basic.target dbus.socket

[Service]
ExecStart=/opt/slice/bin/slice-vm
StandardOutput=journal+console
StandardError=journal+console
Environment=HOME=/root LANG=C.UTF-8 SHELL=/bin/bash
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LimitNOFILE=1048576
LimitMEMLOCK=infinity
LimitCORE=0
TasksMax=infinity
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
";

const JOURNALD: &str = "\
[Journal]
Storage=volatile
RateLimitBurst=0
";

/// The root's disk from the cache, or from the archive.
pub fn ready(root: Root, mirror: Option<&str>) -> Result<PathBuf> {
    let packages = [PACKAGES, root.more].concat().join(",");
    let masked = [MASKED, MASKED_GENERATORS].concat().join(",");
    let dir = debootstrap::cached(
        "roots",
        root.name,
        &[root.suite, &packages, &masked, AGENT_UNIT, JOURNALD],
        |tar| {
            let archive = Archive::of_this_machine(mirror)?;
            let mut command = debootstrap::command()?;
            command
                .arg("--variant=minbase")
                .arg(format!("--include={packages}"))
                .arg(root.suite)
                .arg(tar)
                .args(archive.sources(root.suite, false));
            Ok((format!("fetch the root of {}", root.name), command))
        },
        "root",
    )?;
    Ok(dir.join("root.ext4"))
}

/// Makes the disk in `out` of the installed packages in `tree`; runs where
/// files keep their owners.
pub fn assemble(tree: &Path, out: &Path) -> Result<()> {
    let units = tree.join("etc/systemd/system");
    // No server starts by itself: what packages enabled is forgotten.
    for entry in fs::read_dir(&units)?.filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".wants") || name.ends_with(".requires") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    for unit in MASKED {
        let link = units.join(unit);
        let _ = fs::remove_file(&link);
        symlink("/dev/null", &link).with_context(|| format!("mask {unit}"))?;
    }
    let generators = tree.join("etc/systemd/system-generators");
    fs::create_dir_all(&generators)?;
    for generator in MASKED_GENERATORS {
        symlink("/dev/null", generators.join(generator))?;
    }
    fs::write(units.join("slice-vm.service"), AGENT_UNIT)?;
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    symlink("../slice-vm.service", wants.join("slice-vm.service"))?;
    let _ = fs::remove_file(units.join("default.target"));
    symlink(
        "/usr/lib/systemd/system/multi-user.target",
        units.join("default.target"),
    )?;

    fs::write(tree.join("etc/systemd/journald.conf"), JOURNALD)?;
    fs::write(
        tree.join("etc/machine-id"),
        "5c1ce0000000000000000000000000a1\n",
    )?;
    fs::write(tree.join("etc/hostname"), "node\n")?;
    fs::write(
        tree.join("etc/hosts"),
        "127.0.0.1 localhost\n::1 localhost\n10.0.2.15 node\n",
    )?;
    fs::write(tree.join("etc/resolv.conf"), "")?;
    fs::write(tree.join("etc/fstab"), "")?;
    fs::create_dir_all(tree.join("opt/slice"))?;
    for binary in ["slice", "slice-tests"] {
        symlink(
            format!("/opt/slice/bin/{binary}"),
            tree.join("usr/local/bin").join(binary),
        )?;
    }
    for dir in ["var/lib/apt/lists", "var/cache/apt", "var/cache/debconf"] {
        let dir = tree.join(dir);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
            fs::create_dir(&dir)?;
        }
    }
    debootstrap::make_disk(tree, &out.join("root.ext4"), "3G")
}
