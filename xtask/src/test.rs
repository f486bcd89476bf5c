//! `cargo xtask test`: the host's tests and the VM's, on each kernel, and one
//! total.

use std::io::{BufRead, BufReader, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::kernel::{self, Kernel};
use crate::machine::Terminal;
use crate::session::{Deadline, Lost, Session};
use crate::step::say;
use crate::tree;
use crate::wire::Frame;

/// What a test may take beyond its own deadline before the VM is ended: the
/// runner ends a mere hang of the test itself.
const GRACE: Duration = Duration::from_secs(30);
/// From the agent's start to the runner's first line, and between two tests.
const BETWEEN: Duration = Duration::from_secs(60);

/// The kernels that `--kernel` names.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    #[value(name = "newest")]
    Newest,
    #[value(name = "all")]
    All,
}

impl Choice {
    fn kernels(self) -> &'static [Kernel] {
        match self {
            Choice::V6_1 => &[Kernel::V6_1],
            Choice::V6_12 => &[Kernel::V6_12],
            Choice::Newest => &[Kernel::Newest],
            Choice::All => kernel::ALL,
        }
    }
}

/// Options of `test`.
#[derive(clap::Args)]
pub struct Options {
    /// Test on this kernel; all by default. With --kernel or a filter only the
    /// VM's tests run
    #[arg(long, value_enum)]
    kernel: Option<Choice>,
    /// Run the host's tests: only them, or besides those of --kernel
    #[arg(long, conflicts_with = "filters")]
    host: bool,
    /// Run tests that must fail, each in its own way (a hang, a crash, a panic
    /// of the kernel ...), and fail where that goes unnoticed
    #[arg(long, conflicts_with_all = ["filters", "kernel", "host"])]
    self_check: bool,
    /// Only VM tests whose names contain one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// A count of verdicts.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Total {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl Total {
    fn add(&mut self, other: Total) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs `test`; the last line is the total.
pub fn run(options: &Options, mirror: Option<&str>) -> Result<u8> {
    if options.self_check {
        return crate::self_check::run(mirror);
    }
    let narrowed = options.kernel.is_some() || !options.filters.is_empty();
    let mut total = Total::default();
    let mut lost = false;
    if options.host || !narrowed {
        total.add(host()?);
    }
    if !options.host || options.kernel.is_some() {
        let files = tree::build()?.files();
        for &kernel in options.kernel.unwrap_or(Choice::All).kernels() {
            let run = on_kernel(kernel, &files, &options.filters, mirror)?;
            total.add(run.total);
            lost |= !run.lost.is_empty();
        }
    }
    if total == Total::default() {
        bail!("no test is called like that; `cargo xtask vm --run 'slice-tests run --list'`");
    }
    println!("{total}");
    Ok(if lost { 4 } else { u8::from(total.failed > 0) })
}

/// `cargo test` of all that builds for the host, its totals read on the way.
fn host() -> Result<Total> {
    let start = Instant::now();
    let mut command = tree::cargo();
    // The totals are on standard output, compilation on standard error.
    let mut child = command
        .args([
            "test",
            "--no-fail-fast",
            "--workspace",
            "--exclude",
            "slice-ebpf",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let mut total = Total::default();
    let mut binaries = 0u32;
    let out = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(out).lines() {
        let line = line?;
        if let Some(count) = libtest_total(&line) {
            total.add(count);
            binaries += 1;
        } else if !line.ends_with("... ok") && !line.is_empty() {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    if !status.success() && total.failed == 0 {
        // A test binary that was killed, or did not compile, prints no total.
        bail!("cargo test ended with {status} and without failed tests: see above");
    }
    say(&format!(
        "host: {binaries} test binaries in {:.1} s",
        start.elapsed().as_secs_f32()
    ));
    Ok(total)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn libtest_total(line: &str) -> Option<Total> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut total = Total::default();
    for part in counts.split("; ") {
        let (number, what) = part.split_once(' ')?;
        let field = match what {
            "passed" => &mut total.passed,
            "failed" => &mut total.failed,
            "ignored" => &mut total.skipped,
            _ => continue,
        };
        *field = number.parse().ok()?;
    }
    Some(total)
}

/// How the tests of one kernel ended.
pub struct Run {
    /// All verdicts; a test at which the VM was lost has failed.
    pub total: Total,
    /// Why a VM was lost.
    pub lost: Vec<String>,
}

/// Boots of one kernel in one run: a lost VM costs one test, not all that come
/// after it, but a tree that loses every VM is not worth more time.
const BOOTS: u32 = 4;

/// Boots `kernel` with these files and runs the tests that the filters choose;
/// after a VM is lost, the rest in another boot.
pub fn on_kernel(
    kernel: Kernel,
    files: &[(PathBuf, String)],
    filters: &[String],
    mirror: Option<&str>,
) -> Result<Run> {
    let session = Session::prepare(kernel, mirror)?;
    let label = kernel.label();
    let start = Instant::now();
    let mut reader = Reader::new(label, session.accelerator.time_scale());
    let mut lost = Vec::new();
    for boot in 1.. {
        let mut command = vec!["slice-tests", "run"];
        command.extend(filters.iter().map(String::as_str));
        for name in &reader.judged {
            command.extend(["--done", name]);
        }
        let vm = session.boot(files.to_vec(), &command, Terminal::Report)?;
        reader.begin_boot();
        let error = match session.follow(vm, |frame, deadline| reader.hear(frame, deadline)) {
            Ok(outcome) => {
                for line in &outcome.noted {
                    say(&format!("{label}: FAILED: the kernel says: {line}"));
                    reader.total.failed += 1;
                }
                if reader.closed() {
                    break;
                }
                anyhow::Error::new(Lost {
                    by_emulator: false,
                    why: format!(
                        "{label}: the runner ended with {} and without its closing line",
                        outcome.status
                    ),
                })
            }
            Err(error) => error,
        };
        let by_emulator = error.downcast_ref::<Lost>().map(|lost| lost.by_emulator);
        match by_emulator {
            None => return Err(error),
            Some(true) if boot < BOOTS => {
                say(&format!(
                    "{label}: QEMU ran a breakpoint that was patched away (its fault, mended \
                     in 8.1); booting again for the rest"
                ));
                continue;
            }
            Some(_) => {}
        }
        let words = match reader.at_work.take() {
            Some(name) => {
                let words = format!("{label}: test {name} FAILED: {error:#}");
                reader.judged.push(name);
                words
            }
            None => format!("{error:#}"),
        };
        eprintln!("xtask: {words}");
        lost.push(words);
        reader.total.failed += 1;
        if boot >= BOOTS || reader.judged_in_boot == 0 {
            break;
        }
        say(&format!("{label}: booting again for the rest"));
    }
    let total = reader.total;
    say(&format!(
        "{label} ({}): {total} in {:.1} s",
        session.accelerator.name(),
        start.elapsed().as_secs_f32()
    ));
    Ok(Run { total, lost })
}

/// Reads the runner's lines as they come.
struct Reader {
    label: &'static str,
    scale: u32,
    partial: Vec<u8>,
    /// Verdicts of all boots.
    total: Total,
    /// Names of the tests that have a verdict.
    judged: Vec<String>,
    /// Verdicts of this boot.
    in_boot: Total,
    judged_in_boot: u32,
    /// The test that was started and has no verdict.
    at_work: Option<String>,
    /// The closing line of this boot.
    done: Option<Total>,
}

impl Reader {
    fn new(label: &'static str, scale: u32) -> Reader {
        Reader {
            label,
            scale,
            partial: Vec::new(),
            total: Total::default(),
            judged: Vec::new(),
            in_boot: Total::default(),
            judged_in_boot: 0,
            at_work: None,
            done: None,
        }
    }

    fn begin_boot(&mut self) {
        self.partial.clear();
        self.in_boot = Total::default();
        self.judged_in_boot = 0;
        self.at_work = None;
        self.done = None;
    }

    /// Whether the closing line came and counts what came before it.
    fn closed(&self) -> bool {
        self.done == Some(self.in_boot)
    }

    fn hear(&mut self, frame: &Frame, deadline: &mut Deadline) {
        match frame {
            Frame::Hello(release) => {
                say(&format!("{}: {release} is up", self.label));
                self.wait_for_next(deadline);
            }
            Frame::Out(bytes) => {
                self.partial.extend_from_slice(bytes);
                while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = self.partial.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line);
                    self.line(line.trim_end(), deadline);
                }
            }
            Frame::Err(bytes) => {
                let _ = stderr().write_all(bytes);
            }
            Frame::Exit(_) => {}
        }
    }

    fn wait_for_next(&mut self, deadline: &mut Deadline) {
        self.at_work = None;
        *deadline = Deadline {
            what: "the runner".to_owned(),
            end: Some(Instant::now() + BETWEEN * self.scale),
        };
    }

    fn line(&mut self, line: &str, deadline: &mut Deadline) {
        if let Some((name, limit)) = started(line) {
            *deadline = Deadline {
                what: format!("test {name}"),
                end: Some(Instant::now() + limit + GRACE),
            };
            self.at_work = Some(name.to_owned());
            return;
        }
        let _ = writeln!(stdout(), "{}: {line}", self.label);
        if let Some((name, verdict)) = verdict(line) {
            self.total.add(verdict);
            self.in_boot.add(verdict);
            self.judged_in_boot += 1;
            self.judged.push(name.to_owned());
            self.wait_for_next(deadline);
        } else if let Some(done) = done(line) {
            self.done = Some(done);
        }
    }
}

/// Reads `start NAME (at most 240 s)`.
fn started(line: &str) -> Option<(&str, Duration)> {
    let (name, rest) = line.strip_prefix("start ")?.split_once(" (at most ")?;
    let seconds = rest.strip_suffix(" s)")?.parse().ok()?;
    Some((name, Duration::from_secs(seconds)))
}

/// Reads `test NAME ... ok (1.2s)` and its like.
fn verdict(line: &str) -> Option<(&str, Total)> {
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let mut total = Total::default();
    if verdict.starts_with("ok (") {
        total.passed = 1;
    } else if verdict.starts_with("FAILED: ") {
        total.failed = 1;
    } else if verdict.starts_with("skipped: ") {
        total.skipped = 1;
    } else {
        return None;
    }
    Some((name, total))
}

/// Reads `done: 12 passed, 1 failed, 2 skipped`.
fn done(line: &str) -> Option<Total> {
    let mut parts = line.strip_prefix("done: ")?.split(", ");
    let mut count = |what: &str| parts.next()?.strip_suffix(what)?.trim().parse().ok();
    Some(Total {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("skipped")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_of_cargo_test_are_read() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered \
                    out; finished in 0.00s";
        let total = libtest_total(line).unwrap();
        assert_eq!((total.passed, total.failed, total.skipped), (3, 2, 1));
        assert_eq!(libtest_total("test a ... ok"), None);
    }

    #[test]
    fn a_test_without_its_verdict_is_known_by_its_start() {
        let mut reader = Reader::new("6.12", 1);
        let mut deadline = Deadline::none();
        let lines = b"start a_b (at most 60 s)\ntest a_b ... ok (0.1s)\nstart c (at most 5 s)\n";
        for byte in lines {
            reader.hear(&Frame::Out(vec![*byte]), &mut deadline);
        }
        assert_eq!(reader.at_work.as_deref(), Some("c"));
        assert_eq!(deadline.what, "test c");
        assert_eq!(reader.total.passed, 1);
        assert!(!reader.closed());
    }

    #[test]
    fn the_rest_of_a_lost_boot_leaves_out_what_was_judged() {
        let mut reader = Reader::new("6.12", 1);
        let mut deadline = Deadline::none();
        let mut hear = |reader: &mut Reader, line: &str| reader.line(line, &mut deadline);
        reader.begin_boot();
        hear(&mut reader, "test a ... ok (0.1s)");
        hear(&mut reader, "start b (at most 60 s)");
        assert_eq!(reader.judged, ["a"]);
        reader.begin_boot();
        hear(&mut reader, "test b ... ok (0.1s)");
        hear(&mut reader, "done: 1 passed, 0 failed, 0 skipped");
        assert!(reader.closed());
        assert_eq!(reader.total.passed, 2);
    }

    #[test]
    fn the_closing_line_is_read() {
        let total = done("done: 12 passed, 1 failed, 2 skipped").unwrap();
        assert_eq!((total.passed, total.failed, total.skipped), (12, 1, 2));
        assert_eq!(done("done: 12 passed"), None);
    }

    #[test]
    fn a_tests_own_words_are_no_verdict() {
        assert_eq!(verdict("    test x ... ok (1s)"), None);
        assert_eq!(verdict("test x ... perhaps"), None);
        assert_eq!(verdict("test x ... FAILED: why").unwrap().1.failed, 1);
    }
}
