//! `cargo xtask`: set up, build, test, show and measure the project. This
//! file parses, dispatches and picks the exit code.

mod accelerator;
mod archive;
mod bench;
mod console;
mod deb;
mod debootstrap;
mod demo;
mod initramfs;
mod kernel;
mod lint;
mod machine;
#[path = "../../tests/src/bench/measure.rs"]
mod measure;
mod package;
mod packages;
mod place;
mod plot;
mod root;
mod self_check;
mod session;
mod step;
mod test;
mod toolchain;
mod tree;
mod verdicts;
mod vm;
#[expect(dead_code, reason = "the writing half is the VM agent's")]
#[path = "../../tests/src/wire.rs"]
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The exit codes, for --help and for `main`.
const EXIT_CODES: &str = "\
Exit codes:
  0  done, and everything that was judged is good
  1  a test, the demo, a check or a build failed
  2  the command line is wrong
  3  packages are missing that this user may not install; the line to type is printed
  4  the VM ended without a verdict: panic, hang or lockup; the console's tail is printed
`vm --run` ends with the command's own status.";

/// Builds, tests, shows and measures the project; what is missing on this
/// machine is found and installed on the way, and cached under target/.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXIT_CODES)]
struct Arguments {
    /// Debian mirror for roots and kernels, instead of the one that this
    /// machine's apt uses
    #[arg(long, global = true, env = "SLICE_MIRROR", value_name = "URL")]
    mirror: Option<String>,
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find and install all that the other commands need
    Setup(SetupOptions),
    /// Show what a slice node does: two slices on one address, kept apart
    Demo,
    /// Run the host's tests and the VM's on all kernels; the last line is the
    /// total
    Test(test::Options),
    /// Build the eBPF object, `slice` and the VM's tests
    Build,
    /// Build the product as a Debian package; the last line is its path
    Package(package::Options),
    /// Check format, lints, documentation, the eBPF object and file names
    Lint,
    /// Measure, natively and in the VM; a table, or a line of JSON each
    Bench(bench::Options),
    /// Boot a kernel with this tree installed: a root shell, or one command
    Vm(vm::Options),
    #[command(hide = true)]
    Assemble {
        kind: String,
        tar: PathBuf,
        tree: PathBuf,
        out: PathBuf,
    },
}

#[derive(clap::Args)]
struct SetupOptions {
    /// Fetch roots and kernels again, to get the archive's newest
    #[arg(long)]
    refresh: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mirror = arguments.mirror.as_deref();
    match run(arguments.command, mirror) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(if error.is::<packages::Missing>() {
                3
            } else if error.is::<session::Lost>() {
                4
            } else {
                1
            })
        }
    }
}

fn run(task: Task, mirror: Option<&str>) -> Result<u8> {
    match task {
        Task::Setup(options) => {
            if options.refresh {
                debootstrap::forget()?;
            }
            tree::agent()?;
            toolchain::ensure()?;
            for &kernel in kernel::ALL {
                kernel::ready(kernel, mirror)?;
                root::ready(kernel.root(), mirror)?;
            }
            Ok(0)
        }
        Task::Build => tree::build().map(|tree| {
            for path in [tree.object, tree.slice, tree.tests] {
                println!("{}", path.display());
            }
            0
        }),
        Task::Package(options) => package::run(&options),
        Task::Demo => demo::run(mirror),
        Task::Test(options) => test::run(&options, mirror),
        Task::Lint => lint::run(),
        Task::Bench(options) => bench::run(&options, mirror),
        Task::Vm(options) => vm::run(&options, mirror),
        Task::Assemble {
            kind,
            tar,
            tree,
            out,
        } => debootstrap::assemble(&kind, &tar, &tree, &out).map(|()| 0),
    }
}
