//! Long steps: one line each with what is done and how long it takes, the
//! tool's own words in a log of which the end is shown when the step fails.

use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::place;

/// Says something on standard error, where all progress goes.
pub fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// Runs `command` as the step `title`; its output goes to the log `log`.
///
/// # Errors
/// The command cannot be started or fails; then the log's end is in the error.
pub fn run(title: &str, log: &str, command: &mut Command) -> Result<()> {
    let path = place::log(log)?;
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let start = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
    let live = stderr().is_terminal();
    if !live {
        say(&format!("{title} ..."));
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if live {
            let hint: String = tail(&path, 1).chars().take(50).collect();
            eprint!(
                "\r\x1b[Kxtask: {title} ... {} s  {}",
                start.elapsed().as_secs(),
                hint.trim()
            );
            let _ = stderr().flush();
        }
        std::thread::sleep(Duration::from_millis(if live { 200 } else { 20 }));
    };
    if live {
        eprint!("\r\x1b[K");
    }
    let seconds = start.elapsed().as_secs_f32();
    if !status.success() {
        bail!(
            "{title}: {} ended with {status}; the end of {}:\n{}",
            command.get_program().to_string_lossy(),
            path.display(),
            tail(&path, 25)
        );
    }
    say(&format!("{title}: done in {seconds:.1} s"));
    Ok(())
}

/// The last `lines` lines of a text file, lossily; empty if there is none.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text
        .split(['\n', '\r'])
        .filter(|line| !line.is_empty())
        .collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}

/// What `command` prints on standard output, trimmed.
///
/// # Errors
/// It cannot be started, fails (its standard error is quoted), or prints bytes
/// that are not UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Runs a command that talks to the terminal itself, such as cargo.
///
/// # Errors
/// It cannot be started or fails.
pub fn attached(title: &str, command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{title}: start {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{title}: failed ({status})");
    }
    Ok(())
}
