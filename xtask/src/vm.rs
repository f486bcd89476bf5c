//! `cargo xtask vm`: a root shell in the VM, or one command.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::kernel::Kernel;
use crate::machine::Terminal;
use crate::package;
use crate::session::{Deadline, Session};
use crate::step::{self, say};
use crate::tree::{self, Tree};
use crate::wire::Frame;

/// Options of `vm`.
#[derive(clap::Args)]
pub struct Options {
    /// The kernel to boot
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// Run this shell command as root instead of a shell, print what it
    /// prints, power off, and end with its exit status
    #[arg(long, value_name = "CMD")]
    run: Option<String>,
    /// Do not build or install this tree: only Debian
    #[arg(long)]
    bare: bool,
    /// Put this file or directory into the VM, below /opt/slice; repeatable
    #[arg(long, value_name = "PATH")]
    put: Vec<PathBuf>,
    /// End the VM when the command takes longer than this many seconds
    #[arg(long, value_name = "SECONDS", requires = "run")]
    timeout: Option<u64>,
}

/// Runs `vm`.
pub fn run(options: &Options, mirror: Option<&str>) -> Result<u8> {
    let tree = if options.bare {
        None
    } else {
        Some(tree::build()?)
    };
    let session = Session::prepare(options.kernel, mirror)?;
    let mut files = tree.as_ref().map(Tree::files).unwrap_or_default();
    if let Some(tree) = &tree {
        files.push(package::for_vm(&tree.slice)?);
    }
    for path in &options.put {
        let Some(name) = path.file_name() else {
            bail!(
                "--put {}: has no name to be known by in the VM",
                path.display()
            );
        };
        files.push((path.clone(), name.to_string_lossy().into_owned()));
    }
    if let Some(line) = &options.run {
        let vm = session.boot(files, &["/bin/bash", "-c", line], Terminal::Report)?;
        let outcome = session.follow(vm, |frame, deadline| pass_on(frame, deadline, options))?;
        for line in &outcome.noted {
            say(&format!("the kernel says: {line}"));
        }
        return Ok(outcome.status);
    }
    if !std::io::stdin().is_terminal() {
        bail!("a shell needs a terminal; to run one command: cargo xtask vm --run 'CMD'");
    }
    say(&format!(
        "booting {} ({}); `exit` or ctrl-a x ends it",
        options.kernel.label(),
        session.accelerator.name()
    ));
    let size = step::output(std::process::Command::new("stty").args(["-F", "/dev/tty", "size"]));
    let (rows, columns) = size
        .ok()
        .and_then(|size| {
            size.split_once(' ')
                .map(|(r, c)| (r.to_owned(), c.to_owned()))
        })
        .unwrap_or_else(|| ("24".to_owned(), "80".to_owned()));
    let shell = format!(
        "exec setsid --ctty --wait bash -c 'stty sane rows {rows} cols {columns}; exec bash -l' \
         <>/dev/hvc0 >&0 2>&0"
    );
    let mut vm = session.boot(files, &["/bin/bash", "-c", &shell], Terminal::Shell)?;
    vm.wait()?;
    Ok(0)
}

fn pass_on(frame: &Frame, deadline: &mut Deadline, options: &Options) {
    // A closed pipe at the reader's end is the reader's business.
    match frame {
        Frame::Hello(_) => {
            *deadline = Deadline {
                what: "the command".to_owned(),
                end: options
                    .timeout
                    .map(|seconds| Instant::now() + Duration::from_secs(seconds)),
            };
        }
        Frame::Out(bytes) => {
            let _ = stdout().write_all(bytes).and_then(|()| stdout().flush());
        }
        Frame::Err(bytes) => {
            let _ = stderr().write_all(bytes);
        }
        Frame::Exit(_) => {}
    }
}
