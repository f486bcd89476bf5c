//! `slice completions` and `slice man`: generated from the definitions that
//! parse the command line, so that they cannot disagree with it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap_complete::Shell;

use super::exit::Exit;
use super::screen::Screen;

pub(super) fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics where its writer fails.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "slice", &mut text);
    let mut out = io::stdout().lock();
    out.write_all(&text)?;
    out.flush()?;
    Ok(Exit::Ok.into())
}

pub(super) fn pages(directory: &Path, screen: &Screen) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(directory)
        .with_context(|| format!("make the directory {}", directory.display()))?;
    clap_mangen::generate_to(super::command(), directory)
        .with_context(|| format!("write man pages into {}", directory.display()))?;
    if !screen.quiet() {
        writeln!(screen.err(), "man pages are in {}", directory.display())?;
    }
    Ok(Exit::Ok.into())
}
