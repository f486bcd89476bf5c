//! The kernels that tests run on, each with the root it belongs to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::archive::Archive;
use crate::root::Root;
use crate::{debootstrap, packages};

/// A kernel by the name that `--kernel` takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kernel {
    /// Debian 12's stock kernel, the oldest that is supported.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's stock kernel; the full suite runs here.
    #[value(name = "6.12")]
    V6_12,
    /// The newest of Debian 13's backports.
    #[value(name = "newest")]
    Newest,
}

/// All of them, the one with the full suite first: what is broken shows early.
pub const ALL: &[Kernel] = &[Kernel::V6_12, Kernel::V6_1, Kernel::Newest];

/// Modules that the initramfs loads; the rest is found on the modules' disk.
/// One that is built in, or that a kernel does not have, is passed over.
const EARLY_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "ext4",
];

impl Kernel {
    /// The name in logs, options and verdict lines.
    pub fn label(self) -> &'static str {
        match self {
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 => "6.12",
            Kernel::Newest => "newest",
        }
    }

    /// The root that this kernel boots.
    pub fn root(self) -> Root {
        match self {
            Kernel::V6_1 => Root::DEBIAN_12,
            Kernel::V6_12 | Kernel::Newest => Root::DEBIAN_13,
        }
    }

    fn backports(self) -> bool {
        self == Kernel::Newest
    }
}

/// A kernel made ready to boot.
pub struct Ready {
    dir: PathBuf,
    /// What `uname -r` says.
    pub release: String,
}

impl Ready {
    /// The image that QEMU loads.
    pub fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The disk with all modules.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules.ext4")
    }

    /// The directory of modules for the initramfs, with their `order`.
    pub fn early(&self) -> PathBuf {
        self.dir.join("early")
    }
}

/// The kernel from the cache, or from the archive.
pub fn ready(kernel: Kernel, mirror: Option<&str>) -> Result<Ready> {
    let suite = kernel.root().suite;
    let package = "linux-image-cloud-amd64";
    let dir = debootstrap::cached(
        "kernels",
        kernel.label(),
        &[
            suite,
            package,
            if kernel.backports() { "backports" } else { "" },
            &EARLY_MODULES.join(" "),
        ],
        |tar| {
            let archive = Archive::of_this_machine(mirror)?;
            let mut command = debootstrap::command()?;
            command.arg("--variant=extract").arg(format!(
                "--include={package}{}",
                if kernel.backports() {
                    format!("/{suite}-backports")
                } else {
                    String::new()
                }
            ));
            command.arg(suite).arg(tar);
            command.args(archive.sources(suite, kernel.backports()));
            Ok((format!("fetch the {} kernel", kernel.label()), command))
        },
        "kernel",
    )?;
    let release = fs::read_to_string(dir.join("release"))
        .with_context(|| format!("read the release in {}", dir.display()))?;
    Ok(Ready { dir, release })
}

/// Makes a bootable kernel in `out` of the unpacked packages in `tree`; runs
/// where files keep their owners.
pub fn assemble(tree: &Path, out: &Path) -> Result<()> {
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .map(|dir| tree.join(dir))
        .find(|dir| dir.is_dir())
        .context("the packages contain no modules")?;
    let mut releases: Vec<String> = fs::read_dir(&modules)?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let (Some(release), None) = (releases.pop(), releases.pop()) else {
        bail!("the packages contain no kernel, or more than one");
    };
    let of_release = modules.join(&release);
    // Since 7.x the image lies with its modules.
    let image = [
        tree.join("boot").join(format!("vmlinuz-{release}")),
        of_release.join("vmlinuz"),
    ]
    .into_iter()
    .find(|file| file.is_file())
    .context("the packages contain no vmlinuz")?;
    fs::copy(&image, out.join("vmlinuz"))?;
    fs::write(out.join("release"), &release)?;

    // depmod looks below lib/modules.
    if !tree.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", tree.join("lib"))?;
    }
    crate::step::output(
        packages::command("depmod")
            .arg("-b")
            .arg(tree)
            .arg(&release),
    )?;
    early_modules(&of_release, &out.join("early"))?;
    debootstrap::make_disk(&of_release, &out.join("modules.ext4"), "256M")
}

fn early_modules(of_release: &Path, out: &Path) -> Result<()> {
    fs::create_dir(out)?;
    let dependencies = fs::read_to_string(of_release.join("modules.dep"))?;
    let mut order: Vec<String> = Vec::new();
    for name in EARLY_MODULES {
        for path in load_order(&dependencies, name) {
            let file = path.rsplit('/').next().unwrap_or(path);
            let plain = file.split(".ko").next().unwrap_or(file);
            if order.iter().any(|done| done == plain) {
                continue;
            }
            let content = unpack(&of_release.join(path))?;
            fs::write(out.join(plain), content)?;
            order.push(plain.to_owned());
        }
    }
    fs::write(out.join("order"), order.join("\n") + "\n")?;
    Ok(())
}

/// The files to load for module `name`, what it needs first; from lines
/// `kernel/path/name.ko.xz: deepest-needed-last ...`.
fn load_order<'a>(dependencies: &'a str, name: &str) -> Vec<&'a str> {
    for line in dependencies.lines() {
        let Some((path, needed)) = line.split_once(':') else {
            continue;
        };
        let file = path.rsplit('/').next().unwrap_or(path);
        let plain = file.split(".ko").next().unwrap_or(file);
        if plain.replace('-', "_") == name {
            let mut files: Vec<&str> = needed.split_whitespace().rev().collect();
            files.push(path);
            return files;
        }
    }
    Vec::new()
}

fn unpack(module: &Path) -> Result<Vec<u8>> {
    let tool = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(fs::read(module)?),
    };
    let output = Command::new(tool).arg("-dc").arg(module).output()?;
    if !output.status.success() {
        bail!("{tool} could not unpack {}", module.display());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::load_order;

    #[test]
    fn modules_load_after_what_they_need() {
        let dependencies = "kernel/a/failover.ko.xz:\n\
            kernel/a/net_failover.ko.xz: kernel/a/failover.ko.xz\n\
            kernel/b/virtio-net.ko.xz: kernel/a/net_failover.ko.xz kernel/a/failover.ko.xz\n";
        assert_eq!(
            load_order(dependencies, "virtio_net"),
            [
                "kernel/a/failover.ko.xz",
                "kernel/a/net_failover.ko.xz",
                "kernel/b/virtio-net.ko.xz"
            ]
        );
        assert!(load_order(dependencies, "ext4").is_empty());
    }
}
