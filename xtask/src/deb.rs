//! One Debian package from a tree of staged files.
//!
//! By the distribution's own dpkg-deb, which every Debian and Ubuntu has: the
//! format's fine print (member order, checksums, owners without being root) is
//! dpkg's to keep, and a library for it would be a second dpkg. The same files,
//! version and time give the same bytes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::place::Scratch;
use crate::step;

/// How much time to spend on size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// For people to download.
    Small,
    /// For a VM that unpacks it once.
    Quick,
}

impl Compression {
    /// Never by as many threads as there are processors: their number would
    /// be in the bytes.
    fn options(self) -> &'static [&'static str] {
        match self {
            Compression::Small => &["-Zxz", "-z9", "--threads-max=1"],
            Compression::Quick => &["-Zgzip", "-z1", "--threads-max=1"],
        }
    }
}

/// Files on their way into a package.
pub struct Staging {
    scratch: Scratch,
    /// Paths of configuration files, which dpkg never overwrites when the
    /// owner has changed them.
    conffiles: Vec<String>,
}

impl Staging {
    /// An empty one in a scratch directory below `parent`.
    pub fn new(parent: &Path) -> Result<Staging> {
        let staging = Staging {
            scratch: Scratch::new(parent)?,
            conffiles: Vec::new(),
        };
        staging.directory("")?;
        Ok(staging)
    }

    /// Where a path of the installed system is staged.
    pub fn path(&self, to: &str) -> PathBuf {
        self.scratch.join("root").join(to)
    }

    /// Adds a directory and those above it, open to all as the system's are.
    pub fn directory(&self, to: &str) -> Result<()> {
        let mut path = self.path("");
        for part in Path::new(to) {
            path.push(part);
            let _ = fs::create_dir(&path);
            set_mode(&path, 0o755)?;
        }
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        set_mode(&path, 0o755)
    }

    /// Adds a file with these contents.
    pub fn file(&self, to: &str, contents: &[u8], mode: u32) -> Result<()> {
        let path = self.path(to);
        if let Some(parent) = Path::new(to).parent().and_then(Path::to_str) {
            self.directory(parent)?;
        }
        fs::write(&path, contents).with_context(|| format!("write {}", path.display()))?;
        set_mode(&path, mode)
    }

    /// Adds a file with these contents compressed, and `.gz` after its name.
    pub fn gzip(&self, to: &str, contents: &[u8]) -> Result<()> {
        // No time and no name inside: they would be today's.
        let mut gzip = Command::new("gzip")
            .args(["-9", "-n", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start gzip")?;
        let mut input = gzip.stdin.take().context("gzip has no input")?;
        let contents = contents.to_owned();
        let writer = std::thread::spawn(move || input.write_all(&contents));
        let output = gzip.wait_with_output().context("wait for gzip")?;
        match writer.join() {
            Ok(written) => written.context("write to gzip")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        ensure!(output.status.success(), "gzip ended with {}", output.status);
        self.file(&format!("{to}.gz"), &output.stdout, 0o644)
    }

    /// Adds a configuration file.
    pub fn conffile(&mut self, to: &str, contents: &[u8]) -> Result<()> {
        self.conffiles.push(format!("/{to}"));
        self.file(to, contents, 0o644)
    }

    /// Adds a file of the package's own: its description or a script of the
    /// maintainer's.
    pub fn control(&self, name: &str, contents: &str) -> Result<()> {
        let script = contents.starts_with("#!");
        let mode = if script { 0o755 } else { 0o644 };
        self.file(&format!("DEBIAN/{name}"), contents.as_bytes(), mode)
    }

    /// The size of all files in KiB, as `Installed-Size` wants it.
    pub fn size_kib(&self) -> Result<u64> {
        let sizes = self.listed()?.into_iter().map(|name| {
            let size = fs::metadata(self.path(&name)).map_or(0, |file| file.len());
            size.div_ceil(1024)
        });
        Ok(sizes.sum())
    }

    /// Makes the package `to`; no file in it is younger than `epoch`, seconds
    /// since 1970.
    pub fn build(&self, to: &Path, epoch: u64, compression: Compression) -> Result<()> {
        let mut files = self.listed()?;
        files.retain(|name| !self.conffiles.contains(&format!("/{name}")));
        let sums = step::output(
            Command::new("md5sum")
                .args(["--"])
                .args(&files)
                .current_dir(self.path("")),
        )?;
        self.control("md5sums", &format!("{sums}\n"))?;
        if !self.conffiles.is_empty() {
            self.control("conffiles", &format!("{}\n", self.conffiles.join("\n")))?;
        }
        // Made under another name: what has the right one is whole.
        let beside = self.scratch.join("package.deb");
        step::output(
            Command::new("dpkg-deb")
                .args(["--build", "--root-owner-group"])
                .args(compression.options())
                .arg(self.path(""))
                .arg(&beside)
                .env("SOURCE_DATE_EPOCH", epoch.to_string()),
        )?;
        fs::rename(&beside, to).with_context(|| format!("write {}", to.display()))
    }

    /// All files that will be installed, in the order of their names.
    fn listed(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let root = self.path("");
        list(&root, &root, &mut found)?;
        found.retain(|name| !name.starts_with("DEBIAN/"));
        found.sort();
        Ok(found)
    }
}

fn list(root: &Path, directory: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            list(root, &path, found)?;
            continue;
        }
        let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) else {
            bail!("{} has a name that no package takes", path.display());
        };
        found.push(name.to_owned());
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(parent: &Path, name: &str) -> Vec<u8> {
        let mut staging = Staging::new(parent).unwrap();
        staging
            .file("usr/bin/thing", b"#!/bin/sh\n", 0o755)
            .unwrap();
        staging.gzip("usr/share/man/man1/thing.1", b".TH").unwrap();
        staging.conffile("etc/thing.toml", b"a = 1\n").unwrap();
        let control = "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n";
        staging.control("control", control).unwrap();
        let to = parent.join(name);
        staging.build(&to, 86_400, Compression::Quick).unwrap();
        fs::read(&to).unwrap()
    }

    #[test]
    fn the_same_files_give_the_same_package_and_all_belong_to_root() {
        let parent = std::env::temp_dir().join(format!("slice-deb-{}", std::process::id()));
        let one = built(&parent, "one.deb");
        // So that times and inodes are others.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(one == built(&parent, "two.deb"), "the bytes differ");
        let listed = step::output(
            Command::new("dpkg-deb")
                .arg("-c")
                .arg(parent.join("one.deb")),
        )
        .unwrap();
        assert!(
            listed.lines().all(|line| line.contains(" root/root ")),
            "{listed}"
        );
        assert!(listed.contains("1970-01-02"), "{listed}");
        assert!(
            listed.contains("./usr/share/man/man1/thing.1.gz"),
            "{listed}"
        );
        fs::remove_dir_all(parent).unwrap();
    }
}
