//! What a slice reads from the disk and writes to it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::SLICES;
use crate::stage::{POLICY, Stage};

pub const TESTS: &[Test] = &[
    test(
        "a_slice_reads_and_writes_no_faster_than_its_policy_says",
        no_faster,
    )
    .on_stage(),
    test("a_weight_reaches_the_kernel_or_is_refused_by_name", weights).on_stage(),
];

/// A file on the disk that holds slices' files.
const FILE: &str = "/var/lib/slice/io-test";

/// The file, removed with this.
struct OnDisk;

impl OnDisk {
    fn make(stage: &Stage<'_>) -> Result<OnDisk> {
        let (of, options) = (format!("of={FILE}"), ["bs=64k", "count=32", "conv=fsync"]);
        stage
            .machine()
            .must("dd", &[&["if=/dev/zero", &of], &options[..]].concat())?;
        Ok(OnDisk)
    }

    /// dd(1) in a slice, past the page cache, from the file or to it.
    fn dd(&self, slice: &str, way: Way, options: &[&str]) -> Result<Command> {
        let mut command = Command::new("slice");
        command.args(["run", slice, "--", "dd"]).args(options);
        command.stderr(Stdio::null());
        match way {
            Way::Read => {
                let file = File::open(FILE)?;
                command.args(["of=/dev/null", "iflag=direct"]).stdin(file);
            }
            Way::Write => {
                let file = File::options().write(true).open(FILE)?;
                command.args(["if=/dev/zero", "oflag=direct"]).stdout(file);
            }
        }
        Ok(command)
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = fs::remove_file(FILE);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Read,
    Write,
}

/// How long the slice takes; meanwhile another does the same, and is done first.
fn held_up(disk: &OnDisk, slice: &str, way: Way, options: &[&str]) -> Result<Duration> {
    let begin = Instant::now();
    let mut held = disk.dd(slice, way, options)?.spawn().context("start dd")?;
    let status = disk.dd("alpha", way, options)?.status()?;
    ensure!(status.success(), "alpha's dd ended with {status}");
    let free = begin.elapsed();
    let early = held.try_wait()?;
    let status = held.wait()?;
    ensure!(status.success(), "{slice}'s dd ended with {status}");
    ensure!(
        early.is_none(),
        "{way:?}: it was done before its neighbour, which took {free:?}"
    );
    Ok(begin.elapsed())
}

fn shown(stage: &Stage<'_>) -> Result<Value> {
    let status = stage
        .machine()
        .must("slice", &["status", "patient", "-o", "json"])?;
    Ok(serde_json::from_str::<Value>(&status.stdout)?["rows"][0]["io"].take())
}

fn kernels() -> Result<String> {
    Ok(fs::read_to_string(
        Path::new(SLICES).join("patient/io.max"),
    )?)
}

fn no_faster(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let disk = OnDisk::make(&stage)?;
    // Two MiB, of which it gets one in a second.
    for (way, name) in [(Way::Write, "write"), (Way::Read, "read")] {
        let before = shown(&stage)?;
        let took = held_up(&disk, "patient", way, &["bs=64k", "count=32"])?;
        ensure!(took >= Duration::from_millis(1500), "{way:?}: {took:?}");
        let after = shown(&stage)?;
        let moved = |what: &str| {
            let of = |io: &Value| io[name][what].as_u64().unwrap_or(0);
            of(&after) - of(&before)
        };
        ensure!(
            moved("bytes") >= 2 << 20 && moved("operations") >= 32,
            "{before} became {after}"
        );
        ensure!(
            after[name]["bytes_per_second_limit"] == 1 << 20,
            "{after} is shown"
        );
    }
    let text = stage
        .machine()
        .must("slice", &["status", "patient"])?
        .stdout;
    ensure!(text.contains("at most 1.00 MiB a second"), "{text}");
    // A reload changes what changed: operations in place of bytes.
    let other = |_: &str| String::from("[io]\nwrite_operations = 20\n");
    stage.with_policy("patient", other, || {
        let took = held_up(&disk, "patient", Way::Write, &["bs=4k", "count=40"])?;
        ensure!(took >= Duration::from_millis(1500), "operations: {took:?}");
        let shown = shown(&stage)?;
        ensure!(
            shown["write"]["operations_per_second_limit"] == 20
                && shown["write"]["bytes_per_second_limit"].is_null()
                && shown["read"]["bytes_per_second_limit"].is_null(),
            "{shown} is shown"
        );
        Ok(())
    })?;
    ensure!(
        kernels()?.contains(" rbps=1048576 wbps=1048576 "),
        "{}",
        kernels()?
    );
    stage.with_policy(
        "patient",
        |_| String::new(),
        || {
            ensure!(kernels()?.is_empty(), "no bound is left: {}", kernels()?);
            Ok(())
        },
    )
}

fn weights(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    // Where the kernel's package has it.
    let _ = stage.machine().run("modprobe", &["bfq"])?;
    let files: Vec<_> = [
        ("io.weight", "default 300"),
        ("io.bfq.weight", "default 118"),
    ]
    .into_iter()
    .map(|(file, value)| (Path::new(SLICES).join("patient").join(file), value))
    .filter(|(path, _)| path.exists())
    .collect();
    println!("weights: {files:?}");
    let weighed = |_: &str| String::from("[io]\nweight = 300\n");
    if files.is_empty() {
        let path = Path::new(POLICY).join("slices/patient.toml");
        let before = fs::read_to_string(&path)?;
        fs::write(&path, weighed(&before))?;
        let refused = stage
            .machine()
            .run("slice", &["reload", "--policy", POLICY])?;
        fs::write(&path, before)?;
        ensure!(
            refused.status != 0 && refused.stderr.contains("slice patient has a weight"),
            "{}: {}",
            refused.status,
            refused.stderr
        );
        return Ok(());
    }
    stage.with_policy("patient", weighed, || {
        for (path, value) in &files {
            let text = fs::read_to_string(path)?;
            ensure!(text.lines().any(|line| line == *value), "{path:?}: {text}");
        }
        Ok(())
    })?;
    for (path, _) in &files {
        let text = fs::read_to_string(path)?;
        ensure!(
            text.lines().any(|line| line == "default 100"),
            "{path:?}: {text}"
        );
    }
    Ok(())
}
