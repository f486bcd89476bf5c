//! What a slice costs that runs and does nothing.

use std::fs;

use anyhow::{Context, Result};

use super::Measure;
use super::context::idle;
use super::sample::{Goal, Sample, measure};
use super::wire::run;
use crate::site::SLICES;

/// Repeats.
const REPEATS: usize = 3;

/// Measures the memory of slices that run, and their disk.
///
/// # Errors
/// They do not start.
pub fn measures(bench: &str) -> Result<Vec<Measure>> {
    let names: Vec<String> = idle().collect();
    let all = names.join(" ");
    let count = f64::from(u32::try_from(names.len())?);
    let [mut node, mut charged, mut disk] = [(); 3].map(|()| Sample::default());
    for _ in 0..REPEATS {
        let before = free()?;
        run(&format!("slice start {all}"))?;
        node.add((before - free()?) / count);
        let mut bytes = 0.0;
        for name in &names {
            let path = format!("{SLICES}/{name}/memory.current");
            let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            bytes += text.trim().parse::<f64>()?;
        }
        charged.add(bytes / count / 1024.0);
        // Before anything writes into it, and on the disk.
        let path = format!("/var/lib/slice/slices/{}", names[0]);
        let used = run(&format!("du -sk {path}"))?;
        let used = used.split_whitespace().next().context("du says nothing")?;
        disk.add(used.parse()?);
        run(&format!("slice destroy --yes {all}"))?;
    }
    let what = |what: &str| format!("{what} of an idle slice ({count} slices)");
    Ok(vec![
        measure(
            bench,
            what("memory of the node's"),
            "KiB",
            &node,
            None,
            Goal::AtMost(1024.0),
        ),
        measure(
            bench,
            what("memory in the cgroup"),
            "KiB",
            &charged,
            None,
            Goal::None,
        ),
        measure(
            bench,
            "disk of a new slice".to_owned(),
            "KiB",
            &disk,
            None,
            Goal::AtMost(100.0),
        ),
    ])
}

/// Free memory, without what is only kept for speed, KiB.
fn free() -> Result<f64> {
    run("sync")?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemFree:"))
        .context("no MemFree")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}
