//! `cargo xtask lint`: format, clippy, documentation, and what no compiler
//! checks: atomics in the eBPF object, and the names and sizes of files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step::{self, say};
use crate::{package, packages, place, toolchain, tree};

/// Crates that the host's compiler builds.
const HOST_CRATES: &[&str] = &[
    "policy",
    "safe-raw-sockets",
    "slice-loader",
    "slice-tests",
    "xtask",
];

/// File names that say nothing about what is inside.
const NAMELESS: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

/// From this length a file is asked which noun is missing.
const LONG_FILE: usize = 400;

/// A line in a file that says why its length is right.
const LONG_ALLOWED: &str = "long file:";

type Check = fn() -> Result<()>;

const CHECKS: &[(&str, Check)] = &[
    ("the format", format),
    ("names and lengths of files", files),
    ("clippy", clippy),
    ("clippy on the eBPF programs", clippy_ebpf),
    ("atomics in the eBPF object", atomics),
    ("the documentation", documentation),
    ("the package's scripts", scripts),
];

/// Runs all checks, and fails if one does; a later one may say more.
pub fn run() -> Result<u8> {
    packages::ensure(&packages::for_host_build())?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        say(&format!("checking {name}"));
        if let Err(error) = check() {
            eprintln!("xtask: {error:#}");
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        say("lint: all checks passed");
        return Ok(0);
    }
    say(&format!("lint: failed: {}", failed.join(", ")));
    Ok(1)
}

fn format() -> Result<()> {
    component("rustfmt", "fmt")?;
    step::attached(
        "cargo fmt (`cargo fmt --all` repairs it)",
        tree::cargo().args(["fmt", "--all", "--check"]),
    )
}

fn clippy() -> Result<()> {
    component("clippy", "clippy")?;
    let mut command = tree::cargo();
    command.args(["clippy", "-q", "--all-targets", "--keep-going"]);
    for name in HOST_CRATES {
        command.args(["-p", name]);
    }
    step::attached("clippy", command.args(["--", "-D", "warnings"]))
}

/// Sees to it that cargo has the subcommand, which a minimal tool chain lacks.
fn component(name: &str, subcommand: &str) -> Result<()> {
    if step::output(tree::cargo().args([subcommand, "--version"])).is_ok() {
        return Ok(());
    }
    if packages::find_command("rustup").is_none() {
        return Err(packages::Missing(format!(
            "cargo has no `{subcommand}`; install the package of {name} that belongs to it"
        ))
        .into());
    }
    step::run(
        &format!("install {name}"),
        "rustup",
        Command::new("rustup").args(["component", "add", name]),
    )
}

fn clippy_ebpf() -> Result<()> {
    let toolchain = toolchain::ensure()?;
    let driver = toolchain.clippy()?;
    let mut command = tree::cargo();
    command.args(["check", "-q", "--keep-going", "-p", "slice-ebpf"]);
    toolchain.apply(&mut command);
    // What `cargo clippy` does, with the driver of the eBPF compiler.
    command
        .env("RUSTC_WORKSPACE_WRAPPER", driver)
        .env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    step::attached("clippy", &mut command)
}

/// LLVM turns a relaxed read-modify-write into an instruction without fetch
/// even where its result is used, and the verifier accepts it: a token bucket
/// then limits to another rate than it says. So the object may contain none.
fn atomics() -> Result<()> {
    let object = tree::ebpf()?;
    let listing = step::output(
        Command::new(toolchain::ensure()?.llvm_tool("llvm-objdump"))
            .args(["-d", "--no-show-raw-insn"])
            .arg(&object),
    )?;
    let (fetching, bare) = count_atomics(&listing);
    if !bare.is_empty() {
        bail!(
            "{} has atomics that fetch nothing (an ordering weaker than SeqCst?):\n{}",
            object.display(),
            bare.join("\n")
        );
    }
    if fetching == 0 {
        bail!(
            "{} has no atomics at all: has the listing another form?",
            object.display()
        );
    }
    Ok(())
}

/// The number of fetching atomics, and the lines of the others, each with its
/// function.
fn count_atomics(listing: &str) -> (usize, Vec<String>) {
    let mut function = "";
    let mut fetching = 0;
    let mut bare = Vec::new();
    for line in listing.lines() {
        if let Some(name) = line.strip_suffix(">:") {
            function = name.split('<').next_back().unwrap_or(name);
        } else if ["atomic_fetch_", "cmpxchg", "xchg_"]
            .iter()
            .any(|word| line.contains(word))
        {
            fetching += 1;
        } else if line.contains("lock *(") {
            bare.push(format!("  {function}: {}", line.trim()));
        }
    }
    (fetching, bare)
}

fn documentation() -> Result<()> {
    let mut command = tree::cargo();
    command.args(["doc", "-q", "--no-deps"]);
    for name in HOST_CRATES {
        command.args(["-p", name]);
    }
    // `slice-tests` and `xtask` are programs: their private items are all.
    step::attached("cargo doc", command.env("RUSTDOCFLAGS", "-D warnings"))
}

/// What dpkg runs as root is at least the shell's language. (The units are
/// checked in the VM, where systemd is.)
fn scripts() -> Result<()> {
    for name in package::SCRIPTS {
        let path = package::source_path(name);
        step::output(Command::new("sh").arg("-n").arg(&path))?;
    }
    Ok(())
}

fn files() -> Result<()> {
    let mut sources = Vec::new();
    for name in HOST_CRATES.iter().chain(&["slice-ebpf", "tests"]) {
        let dir = place::project().join(name);
        if dir.is_dir() {
            rust_files(&dir, &mut sources)?;
        }
    }
    let mut nameless = Vec::new();
    for path in &sources {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let parent = path.parent().and_then(Path::file_name).unwrap_or_default();
        if NAMELESS
            .iter()
            .any(|&name| name == stem || name == parent.to_string_lossy())
        {
            nameless.push(path.display().to_string());
        }
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let lines = text.lines().count();
        if lines > LONG_FILE && !text.contains(LONG_ALLOWED) {
            say(&format!(
                "warning: {} has {lines} lines: which noun is missing? (`// {LONG_ALLOWED} \
                 why` if none)",
                path.strip_prefix(place::project())
                    .unwrap_or(path)
                    .display()
            ));
        }
    }
    if !nameless.is_empty() {
        bail!(
            "names that say nothing about what is inside: {}",
            nameless.join(", ")
        );
    }
    Ok(())
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::count_atomics;

    #[test]
    fn an_atomic_that_fetches_nothing_is_found() {
        let listing = "0000 <packet_out>:\n\
            \t 12:\tr1 = atomic_fetch_add((u64 *)(r0 + 0x0), r1)\n\
            \t 13:\tr0 = cmpxchg_64(r6 + 0x0, r0, r2)\n\
            \t 14:\tlock *(u64 *)(r1 + 0x8) += r2\n";
        let (fetching, bare) = count_atomics(listing);
        assert_eq!(fetching, 2);
        assert_eq!(bare, ["  packet_out: 14:\tlock *(u64 *)(r1 + 0x8) += r2"]);
    }
}
