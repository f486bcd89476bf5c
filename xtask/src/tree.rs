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
    /// The examples of the library for slices.
    pub examples: Vec<PathBuf>,
}

impl Tree {
    /// The files of the tree and their place below /opt/slice in the VM.
    pub fn files(&self) -> Vec<(PathBuf, String)> {
        let mut files = vec![
            (self.slice.clone(), "bin/slice".to_owned()),
            (self.tests.clone(), "bin/slice-tests".to_owned()),
            (self.object.clone(), "slice-ebpf.o".to_owned()),
        ];
        for path in &self.examples {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.push((path.clone(), format!("bin/{name}")));
        }
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
        examples: examples()?,
    })
}

/// Builds the examples of the library for slices: those in Rust, and the one in C
/// that uses the header.
fn examples() -> Result<Vec<PathBuf>> {
    const RUST: [&str; 2] = ["traceroute", "handshake"];
    const C: &str = "echo";
    let mut command = static_build();
    command.args(["-p", "safe-raw-sockets"]);
    for name in RUST {
        command.args(["--example", name]);
    }
    quiet_unless_watched(&mut command);
    step::attached("build the examples", &mut command)?;
    let mut examples: Vec<_> = RUST
        .iter()
        .map(|name| built("examples").join(name))
        .collect();
    let home = place::project().join("safe-raw-sockets");
    let program = built("examples").join(C);
    let mut command = Command::new("cc");
    command
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .args(["-O2", "-static", "-I"])
        .arg(home.join("include"))
        .arg(home.join("examples").join(C).with_extension("c"))
        .arg("-o")
        .arg(&program);
    step::attached("build the example in C", &mut command)?;
    examples.push(program);
    Ok(examples)
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
    let mut command = static_build();
    command
        // Always both packages: which are chosen decides the features of what
        // they depend on, and so what must be built again.
        .args(["-p", "slice-loader", "-p", "slice-tests"]);
    for name in binaries {
        command.args(["--bin", name]);
    }
    quiet_unless_watched(&mut command);
    Ok(command)
}

fn static_build() -> Command {
    let mut command = cargo();
    command
        .args(["build", "--profile", "vm", "--target", TARGET])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    command
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
