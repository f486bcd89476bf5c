//! Runs tests, each in a process of its own, and prints what `cargo xtask
//! test` reads:
//!
//! ```text
//! start NAME (at most 240 s)
//! test NAME ... ok (1.2s)
//! test NAME ... FAILED: first line of the reason
//! test NAME ... skipped: reason
//! done: 12 passed, 1 failed, 2 skipped
//! ```
//! After a failure follow the test's own words, indented. A test that takes
//! longer than its deadline is killed with all it started, and has failed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::feature::Feature;
use crate::node::Node;
use crate::stage;

/// Exit status by which the process of one test says that it skipped.
const SKIPPED: u8 = 77;
/// Where that process puts the first line of its reason.
const REASON: &str = "reason: ";
/// The kernel on which all tests run.
const FULL_SUITE: &str = "6.12";
/// The kernel that runs on the same root as the one of the full suite.
const SAME_ROOT: &str = "newest";
/// Deadline of a test that names none, before stretching.
const DEADLINE_S: u32 = 60;

/// One test: a sentence, and what shows that it is true.
#[derive(Clone, Copy)]
pub struct Test {
    name: &'static str,
    run: fn(&mut Node) -> Result<()>,
    needs: &'static [Feature],
    left_out: LeftOut,
    broken: bool,
    on_stage: bool,
    deadline_s: u32,
}

/// Where a test is not run, and why.
#[derive(Clone, Copy)]
enum LeftOut {
    Nowhere,
    /// It is long.
    Long,
    /// It asks our program, or of the kernel what is the same in all.
    SameOnAll,
    /// It asks the distribution's programs.
    AboutTheRoot,
}

impl LeftOut {
    fn on(self, kernel: &str) -> Option<String> {
        match self {
            LeftOut::Long if kernel != FULL_SUITE => {
                Some(format!("long, runs on {FULL_SUITE} only"))
            }
            LeftOut::SameOnAll if kernel != FULL_SUITE => Some(format!(
                "the same on every kernel, runs on {FULL_SUITE} only"
            )),
            LeftOut::AboutTheRoot if kernel == SAME_ROOT => Some(format!(
                "asks the distribution, which is that of {FULL_SUITE}"
            )),
            _ => None,
        }
    }
}

/// A test without special needs. The name is a sentence.
pub const fn test(name: &'static str, run: fn(&mut Node) -> Result<()>) -> Test {
    Test {
        name,
        run,
        needs: &[],
        left_out: LeftOut::Nowhere,
        broken: false,
        on_stage: false,
        deadline_s: DEADLINE_S,
    }
}

impl Test {
    /// The sentence.
    #[cfg(test)]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Skipped where the kernel lacks one of these.
    pub const fn needs(mut self, features: &'static [Feature]) -> Test {
        self.needs = features;
        self
    }

    /// Plays on the stage, which stays set for the next test that does.
    pub const fn on_stage(mut self) -> Test {
        self.on_stage = true;
        self
    }

    /// Takes long, and runs on one kernel only.
    pub const fn long(mut self) -> Test {
        self.left_out = LeftOut::Long;
        self
    }

    /// Would come out the same on every kernel, and runs on one.
    pub const fn once(mut self) -> Test {
        self.left_out = LeftOut::SameOnAll;
        self
    }

    /// Would come out the same on every kernel of one root, and runs on one.
    pub const fn per_root(mut self) -> Test {
        self.left_out = LeftOut::AboutTheRoot;
        self
    }

    /// Another deadline, in seconds on a machine that does not emulate.
    pub const fn within(mut self, seconds: u32) -> Test {
        self.deadline_s = seconds;
        self
    }

    /// Must fail; runs only when a filter is its whole name.
    pub const fn broken(mut self) -> Test {
        self.broken = true;
        self
    }

    fn chosen_by(&self, filters: &[String]) -> bool {
        if self.broken {
            return filters.iter().any(|filter| filter == self.name);
        }
        filters.is_empty() || filters.iter().any(|filter| self.name.contains(filter))
    }
}

/// The error of a test that cannot say anything here.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

/// One of several VMs that share the tests of a kernel: the first, second and so on
/// (from 1) of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    which: usize,
    of: usize,
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        text.split_once('/')
            .and_then(|(which, of)| {
                Some(Part {
                    which: which.parse().ok()?,
                    of: of.parse().ok()?,
                })
            })
            .filter(|part| (1..=part.of).contains(&part.which))
            .ok_or_else(|| format!("{text} is no part: 1/3 is the first of three"))
    }
}

impl Part {
    /// Its tests. Neighbours stay together, since they share a stage; those that are
    /// left out on this kernel take no time, and go with their neighbours.
    fn cut<T>(self, tests: Vec<T>, takes_time: impl Fn(&T) -> bool) -> Vec<T> {
        let all = tests.iter().filter(|test| takes_time(test)).count();
        let mut before = 0;
        tests
            .into_iter()
            .filter(|test| {
                let part = (before * self.of).checked_div(all).unwrap_or(0);
                before += usize::from(takes_time(test));
                part.min(self.of - 1) + 1 == self.which
            })
            .collect()
    }
}

/// Runs the tests whose names contain one of `filters`, those of a part of them, but
/// not those `done`.
///
/// # Errors
/// The runner itself cannot go on; a failed test is an exit code.
pub fn run(
    modules: &[&[Test]],
    filters: &[String],
    part: Part,
    list: bool,
    done: &[String],
) -> Result<ExitCode> {
    let kernel = kernel();
    let chosen: Vec<&Test> = modules
        .iter()
        .flat_map(|tests| tests.iter())
        .filter(|test| test.chosen_by(filters))
        .collect();
    let chosen: Vec<&Test> = part
        .cut(chosen, |test| test.left_out.on(&kernel).is_none())
        .into_iter()
        .filter(|test| !done.iter().any(|name| name == test.name))
        .collect();
    if list {
        for test in chosen {
            println!("{}", test.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (mut passed, mut failed, mut skipped) = (0u32, 0u32, 0u32);
    let mut chosen = chosen.into_iter().peekable();
    while let Some(test) = chosen.next() {
        let limit = Duration::from_secs(u64::from(test.deadline_s) * time_scale());
        println!("start {} (at most {} s)", test.name, limit.as_secs());
        let start = Instant::now();
        let failed_before = failed;
        let (verdict, words) = judge(test, limit)?;
        match verdict {
            Verdict::Passed => {
                passed += 1;
                let seconds = start.elapsed().as_secs_f32();
                println!("test {} ... ok ({seconds:.1}s)", test.name);
            }
            Verdict::Skipped(reason) => {
                skipped += 1;
                println!("test {} ... skipped: {reason}", test.name);
            }
            Verdict::Failed(reason) => {
                failed += 1;
                println!("test {} ... FAILED: {reason}", test.name);
                for line in words.lines() {
                    println!("    {line}");
                }
            }
        }
        io::stdout().flush()?;
        // A failed test may have left anything behind.
        let failed_here = failed > failed_before;
        if test.on_stage && (failed_here || !chosen.peek().is_some_and(|next| next.on_stage)) {
            stage::strike();
        }
    }
    println!("done: {passed} passed, {failed} failed, {skipped} skipped");
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// Decides about one test; the words are what its process wrote.
fn judge(test: &Test, limit: Duration) -> Result<(Verdict, String)> {
    let kernel = kernel();
    if let Some(reason) = test.left_out.on(&kernel) {
        return Ok((Verdict::Skipped(reason), String::new()));
    }
    if let Some(feature) = test.needs.iter().find(|feature| !feature.present()) {
        return Ok((missing(*feature, &kernel), String::new()));
    }
    let (verdict, words) = run_apart(test, limit)?;
    // Here nothing known is missing, so CI takes no excuse.
    Ok(match verdict {
        Verdict::Skipped(reason) if in_ci() => (
            Verdict::Failed(format!(
                "skipped, though nothing it needs is missing: {reason}"
            )),
            words,
        ),
        verdict => (verdict, words),
    })
}

fn missing(feature: Feature, kernel: &str) -> Verdict {
    let reason = format!("the kernel lacks {feature:?}");
    if in_ci() && feature.expected_on(kernel) {
        Verdict::Failed(format!("{reason}, which {kernel} must have"))
    } else {
        Verdict::Skipped(reason)
    }
}

/// The kernel that runs, by the name that `cargo xtask test --kernel` takes.
fn kernel() -> String {
    std::env::var("SLICE_VM_KERNEL").unwrap_or_default()
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// How many times slower than its own hardware this machine may be.
pub fn time_scale() -> u64 {
    std::env::var("SLICE_VM_TIME_SCALE")
        .ok()
        .and_then(|scale| scale.parse().ok())
        .unwrap_or(1)
}

fn run_apart(test: &Test, limit: Duration) -> Result<(Verdict, String)> {
    let path = "/run/slice-tests.words";
    let mut words = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("open {path}"))?;
    let mut child = Command::new("/proc/self/exe")
        .args(["one", test.name])
        .stdin(Stdio::null())
        .stdout(words.try_clone()?)
        .stderr(words.try_clone()?)
        // A group of its own, so that what it started can be killed with it.
        .process_group(0)
        .spawn()
        .context("start the test's process")?;
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > until {
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // What a test leaves running must not disturb the next; none is fine.
        let _ = kill_process_group(group, Signal::KILL);
    }
    if status.is_none() {
        child.wait()?;
    }
    let mut bytes = Vec::new();
    words.rewind()?;
    words.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let reason = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(REASON))
        .map(str::to_owned);
    let verdict = match status {
        None => Verdict::Failed(format!("no verdict within {} s", limit.as_secs())),
        Some(status) => match (status.code(), status.signal()) {
            (Some(0), _) => Verdict::Passed,
            (Some(code), _) if code == i32::from(SKIPPED) => {
                Verdict::Skipped(reason.unwrap_or_default())
            }
            (_, Some(signal)) => Verdict::Failed(format!("killed by signal {signal}")),
            (code, _) => Verdict::Failed(
                reason.unwrap_or_else(|| format!("ended with {code:?} and no reason")),
            ),
        },
    };
    Ok((verdict, text))
}

/// Runs one test in this process.
///
/// # Errors
/// There is no such test, or its directory cannot be made.
pub fn one(modules: &[&[Test]], name: &str) -> Result<ExitCode> {
    let mut all = modules.iter().flat_map(|tests| tests.iter());
    let Some(test) = all.find(|test| test.name == name) else {
        bail!("no test is called {name}");
    };
    let mut node = Node::new(name)?;
    let result = (test.run)(&mut node);
    drop(node);
    Ok(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reason = format!("{error:#}").replace('\n', " / ");
            println!("{REASON}{reason}");
            if error.is::<Skip>() {
                ExitCode::from(SKIPPED)
            } else {
                ExitCode::FAILURE
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::Part;

    #[test]
    fn parts_are_all_tests_each_once_and_in_order() {
        // Every third takes no time.
        let takes_time = |test: &usize| !test.is_multiple_of(3);
        for count in 0..40 {
            for of in 1..6 {
                let cut = |which| Part { which, of }.cut((0..count).collect(), takes_time);
                let parts: Vec<Vec<usize>> = (1..=of).map(cut).collect();
                assert_eq!(parts.concat(), (0..count).collect::<Vec<_>>());
                let at_work = parts
                    .iter()
                    .map(|part| part.iter().filter(|test| takes_time(test)).count());
                let (least, most) = (at_work.clone().min(), at_work.max());
                assert!(most.unwrap_or(0) - least.unwrap_or(0) <= 1, "{parts:?}");
            }
        }
    }

    #[test]
    fn a_part_is_one_of_those_that_there_are() {
        assert_eq!("2/3".parse(), Ok(Part { which: 2, of: 3 }));
        for text in ["", "1", "0/3", "4/3", "1/0", "0/0", "a/3", "1/3/5"] {
            assert!(text.parse::<Part>().is_err(), "{text}");
        }
    }
}
