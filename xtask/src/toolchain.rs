//! The eBPF tool chain: a compiler with a core library for eBPF, and the
//! linker of the same LLVM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Sign, need};
use crate::{place, step, tree};

/// The version that was tried; the newest that the packaged LLVM serves.
const LINKER_VERSION: &str = "0.13.0";

/// The target of the object.
const TARGET: &str = "bpfel-unknown-none";

/// A tool chain that is complete.
pub struct Toolchain {
    rustc: PathBuf,
    linker: PathBuf,
    /// Whether core comes with the compiler; else cargo builds it.
    core: bool,
    llvm: u32,
}

/// Where cargo puts what is built for eBPF; another compiler builds there, so
/// it is kept from the rest.
pub fn target_dir() -> PathBuf {
    place::target().join("ebpf")
}

impl Toolchain {
    /// Makes a cargo command build for eBPF.
    pub fn apply(&self, command: &mut Command) {
        let mut flags = vec![
            format!("-Clinker={}", self.linker.display()),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            "-Ctarget-cpu=v3".to_owned(),
            "-Cpanic=abort".to_owned(),
        ];
        flags.extend(tree::without_paths());
        command
            .args(["--target", TARGET])
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", target_dir())
            .env_remove("RUSTFLAGS")
            // The linker's path may have spaces.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        if !self.core {
            command.arg("-Zbuild-std=core");
        }
    }

    /// The clippy of the eBPF compiler.
    ///
    /// # Errors
    /// It is missing and cannot be installed.
    pub fn clippy(&self) -> Result<PathBuf> {
        let driver = self.rustc.with_file_name("clippy-driver");
        if !driver.exists() {
            packages::ensure(&[need("rust-web-clippy", Sign::Installed)])?;
        }
        Ok(driver)
    }

    /// A tool of the LLVM that made the object, such as `llvm-objdump`.
    pub fn llvm_tool(&self, name: &str) -> PathBuf {
        llvm_prefix(self.llvm).join("bin").join(name)
    }
}

/// Finds the tool chain, installing what is missing.
pub fn ensure() -> Result<Toolchain> {
    let packaged = Path::new("/usr/bin/rustc");
    if let Some(toolchain) = complete(packaged)? {
        return Ok(toolchain);
    }
    if let Some(nightly) = nightly_rustc()
        && let Some(toolchain) = complete(&nightly)?
    {
        return Ok(toolchain);
    }
    packages::ensure(&[
        need("rustc-web", Sign::Installed),
        need("libstd-rust-web-dev-bpf", Sign::Installed),
    ])
    .context(
        "no eBPF compiler: neither the distribution's rustc-web with \
         libstd-rust-web-dev-bpf, nor a rustup nightly with rust-src",
    )?;
    match complete(packaged)? {
        Some(toolchain) => Ok(toolchain),
        None => bail!(
            "{} has no core library for {TARGET}, though its packages are installed",
            packaged.display()
        ),
    }
}

/// The tool chain around this compiler, if it can make eBPF at all.
fn complete(rustc: &Path) -> Result<Option<Toolchain>> {
    let Some((core, llvm)) = ability(rustc) else {
        return Ok(None);
    };
    Ok(Some(Toolchain {
        rustc: rustc.to_path_buf(),
        linker: linker(llvm)?,
        core,
        llvm,
    }))
}

/// Whether the compiler has core for eBPF (true) or its source (false), and
/// the major version of its LLVM.
fn ability(rustc: &Path) -> Option<(bool, u32)> {
    let words = step::output(Command::new(rustc).arg("-vV")).ok()?;
    let llvm = words
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?
        .split('.')
        .next()?
        .parse()
        .ok()?;
    let print = |what: &str| {
        step::output(Command::new(rustc).args(["--print", what, "--target", TARGET])).ok()
    };
    let has_core = print("target-libdir")
        .and_then(|dir| fs::read_dir(dir).ok())
        .is_some_and(|mut dir| {
            dir.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libcore"))
            })
        });
    let source = print("sysroot")
        .map(|root| Path::new(&root).join("lib/rustlib/src/rust/library/core"))
        .is_some_and(|dir| dir.is_dir());
    (has_core || source).then_some((has_core, llvm))
}

fn nightly_rustc() -> Option<PathBuf> {
    step::output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]))
        .ok()
        .map(PathBuf::from)
}

fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// The linker for this LLVM; built from the package registry once.
fn linker(llvm: u32) -> Result<PathBuf> {
    let home = place::tools().join(format!("bpf-linker-{LINKER_VERSION}-llvm{llvm}"));
    let linker = home.join("bin/bpf-linker");
    if works(&linker) {
        return Ok(linker);
    }
    let mut needs = packages::for_host_build();
    needs.extend([
        need(format!("llvm-{llvm}-dev"), Sign::Installed),
        need(format!("libpolly-{llvm}-dev"), Sign::Installed),
        need("g++", Sign::Command("c++")),
    ]);
    packages::ensure(&needs)?;
    // Concurrent set-ups wait for one another; a killed one leaves no lock.
    let _lock = place::lock("bpf-linker")?;
    if works(&linker) {
        return Ok(linker);
    }
    let feature = format!("llvm-{llvm}");
    let mut command = tree::cargo();
    command
        .args(["install", "bpf-linker", "--locked", "--force"])
        .args(["--version", LINKER_VERSION])
        .args(["--no-default-features", "--features", &feature])
        .arg("--root")
        .arg(&home)
        .env("CARGO_TARGET_DIR", place::tools().join("build"))
        .env("LLVM_PREFIX", llvm_prefix(llvm))
        .env_remove("RUSTFLAGS");
    step::run(
        &format!("build bpf-linker {LINKER_VERSION} for LLVM {llvm}"),
        "bpf-linker",
        &mut command,
    )?;
    let _ = fs::remove_dir_all(place::tools().join("build"));
    if !works(&linker) {
        bail!("{} was built and does not start", linker.display());
    }
    Ok(linker)
}

fn works(linker: &Path) -> bool {
    linker.is_file() && step::output(Command::new(linker).arg("--version")).is_ok()
}
