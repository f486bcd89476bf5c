//! Trees of packages from the archive, made into cached disks without root
//! and without loop devices.

use std::ffi::OsString;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::place::{self, Scratch};
use crate::{archive, kernel, packages, root, step};

/// Changes when what is made of the packages changes.
const FORMAT: &str = "1";

/// Files of no use in a VM that lives for minutes.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/bug/*",
    "/usr/share/lintian/*",
];

/// mmdebstrap with the options that every tree shares.
pub fn command() -> Result<Command> {
    let mut command = packages::command("mmdebstrap");
    for option in archive::apt_options()? {
        command.arg(format!("--aptopt={option}"));
    }
    for path in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg("--format=tar");
    Ok(command)
}

/// The directory `vm/AREA/NAME-KEY`, made if it is not there: `fetch` gives
/// the step's title and the command that writes a tar file, `kind` says what
/// [`assemble`] makes of it. Interrupting loses only the unfinished step.
pub fn cached(
    area: &str,
    name: &str,
    contents: &[&str],
    fetch: impl FnOnce(&Path) -> Result<(String, Command)>,
    kind: &str,
) -> Result<PathBuf> {
    let area = place::vm().join(area);
    let dir = area.join(format!("{name}-{:016x}", key(contents)));
    if dir.is_dir() {
        return Ok(dir);
    }
    packages::ensure(&packages::for_vm())?;
    let _lock = place::lock(name)?;
    if dir.is_dir() {
        return Ok(dir);
    }
    let scratch = Scratch::new(&area)?;
    let tar = scratch.join("tree.tar");
    let (title, mut command) = fetch(&tar)?;
    step::run(&title, &format!("fetch-{name}"), &mut command)?;
    let out = scratch.join("out");
    fs::create_dir(&out)?;
    let mut command = with_owners(&["assemble", kind])?;
    command.arg(&tar).arg(scratch.join("tree")).arg(&out);
    step::run(
        &format!("make the disk of {name}"),
        &format!("disk-{name}"),
        &mut command,
    )?;
    // Whole or not at all; then what it replaces is of no more use.
    fs::rename(&out, &dir).with_context(|| format!("put {} in place", dir.display()))?;
    for old in fs::read_dir(&area)?.filter_map(Result::ok) {
        let stale = old
            .file_name()
            .to_str()
            .and_then(|file| file.strip_prefix(name))
            .is_some_and(|rest| rest.len() == 17 && rest.starts_with('-'));
        if stale && old.path() != dir {
            let _ = fs::remove_dir_all(old.path());
        }
    }
    Ok(dir)
}

fn key(contents: &[&str]) -> u64 {
    let mut hasher = fnv::FnvHasher::default();
    for part in [FORMAT].iter().chain(contents).chain(LEFT_OUT) {
        hasher.write(part.as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// This program again, where files can belong to anybody: as it is for root,
/// in a user namespace with the user's subordinate ids otherwise.
fn with_owners(arguments: &[&str]) -> Result<Command> {
    let itself: OsString = std::env::current_exe()?.into();
    let mut command = if packages::is_root() {
        Command::new(itself)
    } else {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--map-auto", "--"]);
        command.arg(itself);
        command
    };
    command.args(arguments);
    Ok(command)
}

/// The hidden command `assemble`: unpacks `tar` into `tree` and makes of it
/// what `kind` names in `out`.
pub fn assemble(kind: &str, tar: &Path, tree: &Path, out: &Path) -> Result<()> {
    fs::create_dir(tree)?;
    // Device nodes are the kernel's business there, and not everybody's to make.
    step::output(
        Command::new("tar")
            .args(["-x", "--numeric-owner", "--exclude=./dev/*", "-f"])
            .arg(tar)
            .arg("-C")
            .arg(tree),
    )?;
    fs::remove_file(tar)?;
    match kind {
        "kernel" => kernel::assemble(tree, out)?,
        _ => root::assemble(tree, out)?,
    }
    // Here, and not by the caller, whose user may not own these files.
    fs::remove_dir_all(tree)?;
    Ok(())
}

/// Makes a sparse ext4 file system of `size` that holds `tree`.
///
/// # Errors
/// mke2fs cannot, for instance because `tree` does not fit.
pub fn make_disk(tree: &Path, disk: &Path, size: &str) -> Result<()> {
    step::output(
        packages::command("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal"])
            .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", "-d"])
            .arg(tree)
            .arg(disk)
            .arg(size),
    )?;
    Ok(())
}

/// Makes an empty, sparse ext4 file system that can bound projects, with room
/// for a million files: what a node keeps its slices' files on.
///
/// # Errors
/// mke2fs cannot.
pub fn make_slices_disk(disk: &Path) -> Result<()> {
    step::output(
        packages::command("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-m", "0"])
            // Without quota in the features the kernel would want a scan first.
            .args(["-O", "^has_journal,quota,project"])
            // The file is new: nothing of it needs to be written as zeroes.
            .args([
                "-E",
                "assume_storage_prezeroed=1,nodiscard,root_owner=0:0,quotatype=prjquota",
            ])
            .arg(disk)
            .arg("16G"),
    )?;
    Ok(())
}

/// Forgets all roots and kernels, so that they are fetched again.
pub fn forget() -> Result<()> {
    for area in ["roots", "kernels"] {
        let dir = place::vm().join(area);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
    }
    Ok(())
}
