//! `cargo xtask bench`: measures on this machine and in the VM, as a table or
//! as lines of JSON.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::kernel::Kernel;
use crate::machine::Terminal;
use crate::measure::Measure;
use crate::plot;
use crate::root::Root;
use crate::session::{Deadline, Session};
use crate::step::say;
use crate::tree::{self, Tree};
use crate::wire::Frame;

/// Longest bench in the VM, before stretching.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Options {
    /// Which bench; all without
    name: Option<String>,
    /// A table, or one line of JSON for each measure
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// The kernel of the part that runs in the VM
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// Also draw what was measured, as SVG files in this directory
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
    /// Only what is measured on this machine, without a VM
    #[arg(long)]
    native: bool,
}

/// Runs `bench`; 1 if a goal was missed.
pub fn run(options: &Options, mirror: Option<&str>) -> Result<u8> {
    let tree = tree::build()?;
    let mut words = vec!["bench"];
    words.extend(options.name.as_deref());
    say("measuring on this machine");
    let mut lines = native(&tree, &words)?;
    if !options.native {
        // The product as its owners get it, not as tests do.
        let tree = Tree {
            slice: tree::release()?,
            ..tree
        };
        lines += &in_vm(&tree, &words, options.kernel, mirror)?;
    }
    let measures = read(&lines)?;
    let mut out = std::io::stdout().lock();
    match options.output {
        Format::Json => {
            for measure in &measures {
                writeln!(out, "{}", serde_json::to_string(measure)?)?;
            }
        }
        Format::Table => write!(out, "{}", table(&measures))?,
    }
    if let Some(directory) = &options.plots {
        for name in plot::write(directory, &measures)? {
            say(&format!("drew {}", directory.join(name).display()));
        }
    }
    let missed = measures.iter().any(|measure| measure.met == Some(false));
    Ok(u8::from(missed))
}

fn native(tree: &Tree, words: &[&str]) -> Result<String> {
    let output = Command::new(&tree.tests)
        .args(words)
        .arg("--native")
        .env("SLICE_EBPF_OBJECT", &tree.object)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", tree.tests.display()))?;
    if !output.status.success() {
        bail!("the bench on this machine ended with {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn in_vm(tree: &Tree, words: &[&str], kernel: Kernel, mirror: Option<&str>) -> Result<String> {
    let root = match kernel {
        // Systemd and OpenSSH as they are there, and nobody to compare with.
        Kernel::V6_1 => kernel.root(),
        Kernel::V6_12 | Kernel::Newest => Root::DEBIAN_13_WITH_PEERS,
    };
    let session = Session::with_root(kernel, root, mirror)?;
    let scale = session.accelerator.time_scale();
    say(&format!(
        "measuring in the VM ({}, {})",
        kernel.label(),
        session.accelerator.name()
    ));
    let mut command = vec!["slice-tests"];
    command.extend(words);
    let vm = session.boot(tree.files(), &command, Terminal::Report)?;
    let mut lines = Vec::new();
    let outcome = session.follow(vm, |frame, deadline| match frame {
        Frame::Hello(_) => {
            *deadline = Deadline {
                what: "the bench".to_owned(),
                end: Some(Instant::now() + LIMIT * scale),
            };
        }
        Frame::Out(bytes) => lines.extend_from_slice(bytes),
        Frame::Err(bytes) => {
            let _ = std::io::stderr().write_all(bytes);
        }
        Frame::Exit(_) => {}
    })?;
    if outcome.status != 0 {
        bail!("the bench in the VM ended with {}", outcome.status);
    }
    Ok(String::from_utf8(lines)?)
}

fn read(lines: &str) -> Result<Vec<Measure>> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("a bench printed: {line}")))
        .collect()
}

/// One line for each measure, columns as wide as needed.
fn table(measures: &[Measure]) -> String {
    let heading = [
        "bench", "measure", "unit", "ours", "peer", "ratio", "goal", "met", "kernel",
    ]
    .map(str::to_owned);
    let mut rows = vec![heading];
    rows.extend(measures.iter().map(|measure| {
        let peer = match (&measure.peer_name, measure.peer) {
            (Some(name), Some(_)) => {
                format!("{} ({name})", number(measure.peer, measure.peer_spread))
            }
            _ => number(measure.peer, measure.peer_spread),
        };
        let met = match measure.met {
            Some(true) => "yes".to_owned(),
            Some(false) => "NO".to_owned(),
            None => measure.why.clone().unwrap_or_else(|| "-".to_owned()),
        };
        [
            measure.bench.clone(),
            measure.measure.clone(),
            measure.unit.clone(),
            number(measure.ours, measure.spread),
            peer,
            number(measure.ratio, None),
            measure.goal.clone().unwrap_or_else(|| "-".to_owned()),
            met,
            measure.kernel.clone(),
        ]
    }));
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..9).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Three significant digits, and the spread where it is known.
fn number(value: Option<f64>, spread: Option<(f64, f64)>) -> String {
    let plain = |value: f64| match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        size if size > 0.0 => format!("{value:.2e}"),
        _ => "0".to_owned(),
    };
    match (value, spread) {
        (None, _) => "-".to_owned(),
        (Some(value), None) => plain(value),
        (Some(value), Some((least, most))) => {
            format!("{} [{} .. {}]", plain(value), plain(least), plain(most))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{read, table};

    #[test]
    fn a_line_of_a_bench_becomes_a_row() {
        let line = r#"{"bench":"ports","measure":"packet out","unit":"ns","ours":123.4,"peer":246.8,"peer_name":"nftables","ratio":0.5,"goal":"below 1","met":true,"kernel":"6.12","spread":[120.0,130.0]}"#;
        let unknown = r#"{"bench":"ports","measure":"tcp","unit":"Mbit/s","ours":null,"peer":null,"peer_name":null,"ratio":null,"goal":"at least 0.95","met":null,"why":"no veth","kernel":"6.12"}"#;
        let measures = read(&format!("{line}\n{unknown}\n")).unwrap();
        let text = table(&measures);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 3);
        assert!(rows[1].contains("123 [120 .. 130]"), "{text}");
        assert!(rows[1].contains("247 (nftables)"), "{text}");
        assert!(rows[2].contains("no veth"), "{text}");
        assert!(read("not json").is_err());
    }
}
