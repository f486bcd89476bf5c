//! `cargo xtask package`: the product as a Debian package.
//!
//! Everything in it has a row in [`FILES`] or is made by the program itself;
//! `packaging/README.md` says what each thing is for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::deb::{Compression, Staging};
use crate::packages::{self, Sign, need};
use crate::place::{self, Scratch};
use crate::step::{self, say};
use crate::tree;

/// The package's name. `slice` is another's in the distribution.
const NAME: &str = "slice-node";

/// Where its documentation is installed.
const DOC: &str = "usr/share/doc/slice-node";

/// How a file of the tree goes into the package.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As it is.
    Plain,
    /// As it is, and the owner's to change.
    Conffile,
    /// Compressed.
    Gzip,
}

/// Files of the tree and where they are installed. A directory goes with all
/// that is in it.
const FILES: &[(&str, &str, Kind)] = &[
    (
        "packaging/slice.service",
        "usr/lib/systemd/system/slice.service",
        Kind::Plain,
    ),
    (
        "packaging/slice-daemon.service",
        "usr/lib/systemd/system/slice-daemon.service",
        Kind::Plain,
    ),
    (
        "packaging/slice-control.socket",
        "usr/lib/systemd/system/slice-control.socket",
        Kind::Plain,
    ),
    (
        "packaging/slice-control@.service",
        "usr/lib/systemd/system/slice-control@.service",
        Kind::Plain,
    ),
    ("packaging/node.toml", "etc/slice/node.toml", Kind::Conffile),
    (
        "packaging/needrestart.conf",
        "etc/needrestart/conf.d/slice-node.conf",
        Kind::Conffile,
    ),
    (
        "packaging/debian/copyright",
        "usr/share/doc/slice-node/copyright",
        Kind::Plain,
    ),
    (
        "packaging/debian/lintian-overrides",
        "usr/share/lintian/overrides/slice-node",
        Kind::Plain,
    ),
    (
        "policy/examples",
        "usr/share/doc/slice-node/examples",
        Kind::Plain,
    ),
    ("docs", "usr/share/doc/slice-node/manual", Kind::Plain),
    (
        "CHANGELOG.md",
        "usr/share/doc/slice-node/CHANGELOG.md",
        Kind::Gzip,
    ),
    (
        "packaging/ssh/slice.conf",
        "etc/ssh/sshd_config.d/slice.conf",
        Kind::Conffile,
    ),
    (
        "packaging/grafana/slice.json",
        "usr/share/slice-node/grafana/slice.json",
        Kind::Plain,
    ),
    (
        "packaging/pam/slice",
        "usr/share/pam-configs/slice",
        Kind::Plain,
    ),
];

/// The maintainer's scripts, which dpkg runs as root.
pub const SCRIPTS: &[&str] = &["preinst", "postinst", "prerm", "postrm"];

/// Completions: the shell and where it looks for them.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/slice"),
    ("zsh", "usr/share/zsh/vendor-completions/_slice"),
    ("fish", "usr/share/fish/vendor_completions.d/slice.fish"),
];

/// Who answers for a package that says nothing else.
const MAINTAINER: (&str, &str) = ("The Slice authors", "slice@packages.example.org");

/// Options of `package`.
#[derive(clap::Args)]
pub struct Options {
    /// Do not have lintian, the distribution's checker, look at the package
    #[arg(long)]
    no_lintian: bool,
}

/// Which state of the tree this is.
struct Release {
    version: String,
    /// When it was made, seconds since 1970.
    epoch: u64,
}

/// Runs `package`: prints the package's path.
pub fn run(options: &Options) -> Result<u8> {
    packages::ensure(&packages::for_host_build())?;
    let slice = tree::release()?;
    let package = build(
        &slice,
        &Release::of_this_tree()?,
        &place::target().join("package"),
        Compression::Small,
    )?;
    if !options.no_lintian {
        lintian(&package)?;
    }
    println!("{}", package.display());
    Ok(0)
}

/// The package of the program that goes into the VM, for the tests there: made
/// in a moment, and of the same parts. With it its place below /opt/slice.
pub fn for_vm(slice: &Path) -> Result<(PathBuf, String)> {
    let package = build(
        slice,
        &Release::of_this_tree()?,
        &place::vm().join("package"),
        Compression::Quick,
    )?;
    Ok((package, "slice-node.deb".to_owned()))
}

fn build(
    slice: &Path,
    release: &Release,
    directory: &Path,
    compression: Compression,
) -> Result<PathBuf> {
    let mut staging = Staging::new(directory)?;
    for &(from, to, kind) in FILES {
        add(&mut staging, &place::project().join(from), to, kind)?;
    }
    // Where the owner's files of slices go.
    staging.directory("etc/slice/slices")?;

    // Its symbols and line tables are for whoever builds it.
    staging.file("usr/bin/slice", &[], 0o755)?;
    step::output(
        packages::command("strip")
            .args(["--strip-unneeded", "--remove-section=.comment"])
            .arg(slice)
            .arg("-o")
            .arg(staging.path("usr/bin/slice")),
    )?;
    let program = staging.path("usr/bin/slice");
    for &(shell, to) in COMPLETIONS {
        let text = step::output(Command::new(&program).args(["completions", shell]))?;
        staging.file(to, format!("{text}\n").as_bytes(), 0o644)?;
    }
    let pages = Scratch::new(directory)?;
    step::output(
        Command::new(&program)
            .args(["--quiet", "man"])
            .arg(pages.path()),
    )?;
    for page in fs::read_dir(pages.path())? {
        let page = page?;
        let name = page.file_name();
        let to = format!("usr/share/man/man1/{}", name.to_string_lossy());
        staging.gzip(&to, &fs::read(page.path())?)?;
    }
    staging.gzip(
        &format!("{DOC}/changelog"),
        debian_changelog(release)?.as_bytes(),
    )?;
    staging.gzip(&format!("{DOC}/third-party.txt"), third_party()?.as_bytes())?;

    for &name in SCRIPTS {
        let text = source(name)?;
        let abi = policy::abi::ABI_VERSION.to_string();
        staging.control(name, &text.replace("@ABI_VERSION@", &abi))?;
    }
    let control = source("control")?
        .replace("@VERSION@", &release.version)
        .replace("@MAINTAINER@", &maintainer())
        .replace("@INSTALLED_SIZE@", &staging.size_kib()?.to_string());
    staging.control("control", &control)?;

    // Packages of former states are not to be taken for this one.
    for old in fs::read_dir(directory)?.filter_map(Result::ok) {
        if old.path().extension().is_some_and(|end| end == "deb") {
            let _ = fs::remove_file(old.path());
        }
    }
    let to = directory.join(format!("{NAME}_{}_amd64.deb", release.version));
    staging.build(&to, release.epoch, compression)?;
    Ok(to)
}

/// Where a source of the package's own files is.
pub fn source_path(name: &str) -> PathBuf {
    place::project().join("packaging/debian").join(name)
}

fn source(name: &str) -> Result<String> {
    let path = source_path(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn add(staging: &mut Staging, from: &Path, to: &str, kind: Kind) -> Result<()> {
    let read = || fs::read(from).with_context(|| format!("read {}", from.display()));
    if !from.is_dir() {
        return match kind {
            Kind::Plain => staging.file(to, &read()?, 0o644),
            Kind::Conffile => staging.conffile(to, &read()?),
            Kind::Gzip => staging.gzip(to, &read()?),
        };
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let to = format!("{to}/{}", name.to_string_lossy());
        add(staging, &entry.path(), &to, kind)?;
    }
    Ok(())
}

impl Release {
    /// A tag `vVERSION` is that version. Any other commit comes before the
    /// version that it leads to (`~` sorts before everything) and after the
    /// commits before it. What is no checkout is the version, of the day of
    /// its changelog.
    fn of_this_tree() -> Result<Release> {
        let version = env!("CARGO_PKG_VERSION");
        let git = |arguments: &[&str]| {
            step::output(
                Command::new("git")
                    .args(arguments)
                    .current_dir(place::project()),
            )
        };
        let wanted = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => Some(text.parse().context("read SOURCE_DATE_EPOCH")?),
            Err(_) => None,
        };
        let Ok(commit) = git(&["log", "-1", "--format=%ct %h"]) else {
            let changelog = fs::metadata(place::project().join("CHANGELOG.md"))?.modified()?;
            let written = changelog
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs());
            return Ok(Release {
                version: version.to_owned(),
                epoch: wanted.unwrap_or(written),
            });
        };
        let Some((time, hash)) = commit.split_once(' ') else {
            bail!("git shows the last commit as {commit:?}");
        };
        let epoch = time.parse().context("read the time of the last commit")?;
        let changed = !git(&["status", "--porcelain"])?.is_empty();
        let tagged = git(&["tag", "--points-at", "HEAD"])?
            .lines()
            .any(|tag| tag == format!("v{version}"));
        let version = if tagged && !changed {
            version.to_owned()
        } else {
            let at = date(epoch, "+%Y%m%d.%H%M%S")?;
            let changed = if changed { ".changed" } else { "" };
            format!("{version}~git{at}.{hash}{changed}")
        };
        Ok(Release {
            version,
            epoch: wanted.unwrap_or(epoch),
        })
    }
}

fn date(epoch: u64, format: &str) -> Result<String> {
    step::output(
        Command::new("date")
            .args(["-u", "-d", &format!("@{epoch}"), format])
            .env("LC_ALL", "C"),
    )
}

fn maintainer() -> String {
    let of = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    format!(
        "{} <{}>",
        of("DEBFULLNAME", MAINTAINER.0),
        of("DEBEMAIL", MAINTAINER.1)
    )
}

/// The history in the distribution's form: which state of the tree this is.
/// What changed for people is in CHANGELOG.md.
fn debian_changelog(release: &Release) -> Result<String> {
    Ok(format!(
        "{NAME} ({}) unstable; urgency=medium\n\n  * Built from the tree; what changed for its users \
         is in CHANGELOG.md.\n\n -- {}  {}\n",
        release.version,
        maintainer(),
        date(release.epoch, "-R")?
    ))
}

/// What is linked into the program beside the distribution's libraries: crates,
/// versions and licences.
fn third_party() -> Result<String> {
    let mut lines = std::collections::BTreeSet::new();
    for package in ["slice-loader", "slice-ebpf"] {
        let listed = step::output(tree::cargo().args([
            "tree",
            "--package",
            package,
            "--edges=normal",
            "--no-dedupe",
            "--prefix=none",
            "--format={p} {l}",
        ]))?;
        // Those of this tree have their path behind the version.
        lines.extend(
            listed
                .lines()
                .filter(|line| !line.contains(" (/"))
                .map(|line| line.replace(" (proc-macro)", "")),
        );
    }
    let lines: Vec<String> = lines.into_iter().collect();
    Ok(format!("{}\n", lines.join("\n")))
}

/// Has the distribution's checker look: its errors fail, the rest is shown.
fn lintian(package: &Path) -> Result<()> {
    packages::ensure(&[need("lintian", Sign::Command("lintian"))])?;
    let output = packages::command("lintian")
        .args(["--fail-on=error", "--tag-display-limit=0", "--allow-root"])
        .arg(package)
        .output()
        .context("start lintian")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        say(&format!("lintian: {line}"));
    }
    if !output.status.success() {
        bail!(
            "lintian has errors about {}: {}",
            package.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of `packaging/` that do not go into a package as they are.
    const SOURCES: &[&str] = &["packaging/README.md", "packaging/debian/control"];

    fn all_files(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all_files(&path, found);
            } else {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_file_for_packaging_is_in_the_package_and_every_file_of_the_package_is_there() {
        let mut found = Vec::new();
        all_files(&place::project().join("packaging"), &mut found);
        for path in found {
            let name = path.strip_prefix(place::project()).unwrap();
            let name = name.to_str().unwrap();
            let script = SCRIPTS
                .iter()
                .any(|script| name == format!("packaging/debian/{script}"));
            assert!(
                script || SOURCES.contains(&name) || FILES.iter().any(|(from, ..)| *from == name),
                "{name} goes into no package"
            );
        }
        for (from, ..) in FILES {
            assert!(place::project().join(from).exists(), "there is no {from}");
        }
        for script in SCRIPTS {
            assert!(
                source(script).unwrap().starts_with("#!/bin/sh\n"),
                "{script}"
            );
        }
    }

    #[test]
    fn a_version_that_is_not_tagged_comes_before_the_version_it_leads_to() {
        let release = Release::of_this_tree().unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let compared = Command::new("dpkg")
            .args(["--compare-versions", &release.version, "le", version])
            .status();
        assert!(compared.unwrap().success(), "{}", release.version);
        assert!(release.version.starts_with(version));
    }
}
