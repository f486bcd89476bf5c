//! Builds this tree: the eBPF object, and the static programs that run in
//! the VM.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{packages, place, step, toolchain};

/// The VM's target: glibc, linked statically, so that one build runs on every
/// release.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// First process and agent of the VM.
const AGENT: &str = "slice-vm";

/// What has been built.
pub struct Tree {
    /// The eBPF object.
    pub object: PathBuf,
    /// The one binary of the product.
    pub slice: PathBuf,
    /// Tests, demo and benches.
    pub tests: PathBuf,
}

impl Tree {
    /// The files of the tree and their place below /opt/slice in the VM.
    pub fn files(&self) -> Vec<(PathBuf, String)> {
        let mut files = vec![
            (self.slice.clone(), "bin/slice".to_owned()),
            (self.tests.clone(), "bin/slice-tests".to_owned()),
            (self.object.clone(), "slice-ebpf.o".to_owned()),
        ];
        for (name, place) in [("policy/examples", "examples"), ("docs", "docs")] {
            let path = place::project().join(name);
            if path.is_dir() {
                files.push((path, place.to_owned()));
            }
        }
        files
    }
}

/// Cargo as it was called for this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(place::project());
    command
}

/// Builds everything that goes into the VM.
pub fn build() -> Result<Tree> {
    let object = ebpf()?;
    let mut command = static_cargo(&["slice", "slice-tests", AGENT])?;
    command.env("SLICE_EBPF_OBJECT", &object);
    step::attached("build slice and slice-tests", &mut command)?;
    Ok(Tree {
        object,
        slice: built("slice"),
        tests: built("slice-tests"),
    })
}

/// Builds `slice` as owners of nodes get it, with the eBPF object inside.
pub fn release() -> Result<PathBuf> {
    let object = ebpf()?;
    let mut command = cargo();
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(without_paths());
    command
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(["-p", "slice-loader", "--bin", "slice"])
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("SLICE_EBPF_OBJECT", &object);
    quiet_unless_watched(&mut command);
    step::attached("build slice", &mut command)?;
    Ok(place::target().join(TARGET).join("release/slice"))
}

/// Builds the tests alone.
pub fn tests() -> Result<PathBuf> {
    step::attached("build slice-tests", &mut static_cargo(&["slice-tests"])?)?;
    Ok(built("slice-tests"))
}

/// Builds the VM's agent alone; nothing to do after [`build`].
pub fn agent() -> Result<PathBuf> {
    step::attached("build the VM's agent", &mut static_cargo(&[AGENT])?)?;
    Ok(built(AGENT))
}

/// Builds the eBPF object.
pub fn ebpf() -> Result<PathBuf> {
    let toolchain = toolchain::ensure()?;
    let mut command = cargo();
    command.args(["build", "-p", "slice-ebpf", "--release"]);
    quiet_unless_watched(&mut command);
    toolchain.apply(&mut command);
    step::attached("build the eBPF object", &mut command)?;
    Ok(toolchain::target_dir().join("bpfel-unknown-none/release/slice-ebpf"))
}

/// Flags that keep this machine's paths out of what is built: another machine
/// builds the same bytes, and whoever has them learns nothing of this one.
pub fn without_paths() -> [String; 2] {
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .unwrap_or_default();
    [
        format!("--remap-path-prefix={home}=/cargo"),
        format!("--remap-path-prefix={}=/slice", place::project().display()),
    ]
}

fn static_cargo(binaries: &[&str]) -> Result<Command> {
    packages::ensure(&packages::for_host_build())?;
    let mut command = cargo();
    command
        .args(["build", "--profile", "vm", "--target", TARGET])
        // Always both packages: which are chosen decides the features of what
        // they depend on, and so what must be built again.
        .args(["-p", "slice-loader", "-p", "slice-tests"])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    for name in binaries {
        command.args(["--bin", name]);
    }
    quiet_unless_watched(&mut command);
    Ok(command)
}

/// On a terminal cargo shows how far it is; a log only wants its complaints.
fn quiet_unless_watched(command: &mut Command) {
    if !std::io::stderr().is_terminal() {
        command.arg("-q");
    }
}

fn built(name: &str) -> PathBuf {
    place::target().join(TARGET).join("vm").join(name)
}
