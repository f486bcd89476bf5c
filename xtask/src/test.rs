//! `cargo xtask test`: the host's tests and the VM's, on each kernel, and one
//! total.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::kernel::{self, Kernel};
use crate::machine::Terminal;
use crate::session::{Lost, Session};
use crate::step::say;
use crate::verdicts::{Reader, Total, libtest_total};
use crate::{package, packages, tree};

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

/// Runs `test`; the last line is the total.
pub fn run(options: &Options, mirror: Option<&str>) -> Result<u8> {
    if options.self_check {
        return crate::self_check::run(mirror);
    }
    let narrowed = options.kernel.is_some() || !options.filters.is_empty();
    let mut total = Total::default();
    let mut lost = false;
    let mut failures = Vec::new();
    if options.host || !narrowed {
        total.add(host(&mut failures)?);
    }
    if !options.host || options.kernel.is_some() {
        let tree = tree::build()?;
        let mut files = tree.files();
        files.push(package::for_vm(&tree.slice)?);
        for run in on_kernels(options, &files, mirror)? {
            total.add(run.total);
            lost |= !run.lost.is_empty();
            failures.extend(run.failures);
        }
    }
    if total == Total::default() {
        bail!("no test is called like that; `cargo xtask vm --run 'slice-tests run --list'`");
    }
    // A failure may stand thousands of lines above: once more, where one looks.
    for failure in &failures {
        println!("{failure}");
    }
    println!("{total}");
    Ok(if lost { 4 } else { u8::from(total.failed > 0) })
}

/// `cargo test` of all that builds for the host, its totals read on the way.
fn host(failures: &mut Vec<String>) -> Result<Total> {
    packages::ensure(&packages::for_host_tests())?;
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
            if line.starts_with("test ") && line.ends_with("... FAILED") {
                failures.push(format!("host: {line}"));
            }
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

/// How the tests of one kernel ended.
pub struct Run {
    /// All verdicts; a test at which the VM was lost has failed.
    pub total: Total,
    /// Why a VM was lost.
    pub lost: Vec<String>,
    /// A line for each failure.
    pub failures: Vec<String>,
}

/// Boots of one kernel in one run: a lost VM costs one test, not all that come
/// after it, but a tree that loses every VM is not worth more time.
const BOOTS: u32 = 4;

/// How many VMs share the tests of the last kernel, one after the other or at once: it
/// would run alone at the end, and leave a processor idle.
const PARTS_OF_LAST: u32 = 3;

/// As many VMs at once as there are processors, the next begun as one ends: one VM
/// rarely keeps two processors busy. The first kernel, with the long tests, begins.
fn on_kernels(
    options: &Options,
    files: &[(PathBuf, String)],
    mirror: Option<&str>,
) -> Result<Vec<Run>> {
    let kernels = options.kernel.unwrap_or(Choice::All).kernels();
    let mut sessions = Vec::new();
    for &kernel in kernels {
        sessions.push(Session::prepare(kernel, mirror)?);
    }
    let mut jobs: Vec<(&Session, Part)> = Vec::new();
    for (index, session) in sessions.iter().enumerate() {
        let last = index > 0 && index + 1 == sessions.len();
        let of = if last && options.filters.is_empty() {
            PARTS_OF_LAST
        } else {
            1
        };
        jobs.extend((1..=of).map(|which| (session, Part { which, of })));
    }
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicUsize::new(0);
    let runs = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers.min(jobs.len()) {
            scope.spawn(|| {
                while let Some(&(session, part)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = on_kernel(session, part, files, &options.filters);
                    runs.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(run);
                }
            });
        }
    });
    let runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
    runs.into_iter().collect()
}

/// The share of one VM in the tests of a kernel.
#[derive(Clone, Copy)]
pub struct Part {
    /// From 1.
    which: u32,
    of: u32,
}

impl Part {
    /// All tests.
    pub const WHOLE: Part = Part { which: 1, of: 1 };

    fn name(self, kernel: &str) -> String {
        match self.of {
            1 => kernel.to_owned(),
            of => format!("{kernel}, part {} of {of}", self.which),
        }
    }
}

/// Boots the kernel with these files and runs the tests that the filters choose, those
/// of a part of them; after a VM is lost, the rest in another boot.
pub fn on_kernel(
    session: &Session,
    part: Part,
    files: &[(PathBuf, String)],
    filters: &[String],
) -> Result<Run> {
    let label = &part.name(session.kernel.label());
    let share = format!("{}/{}", part.which, part.of);
    let start = Instant::now();
    let mut reader = Reader::new(session.kernel.label(), session.accelerator.time_scale());
    let mut lost = Vec::new();
    for boot in 1.. {
        let mut command = vec!["slice-tests", "run", "--part", &share];
        command.extend(filters.iter().map(String::as_str));
        for name in &reader.judged {
            command.extend(["--done", name]);
        }
        let vm = session.boot(files.to_vec(), &command, Terminal::Report)?;
        reader.begin_boot();
        let error = match session.follow(vm, |frame, deadline| reader.hear(frame, deadline)) {
            Ok(outcome) => {
                for line in &outcome.noted {
                    let words = format!("{label}: FAILED: the kernel says: {line}");
                    say(&words);
                    reader.failures.push(words);
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
        reader.failures.push(words.clone());
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
    Ok(Run {
        total,
        lost,
        failures: reader.failures,
    })
}
