//! Verdict lines: what the runner in the VM and `cargo test` print, read into
//! counts.

use std::io::{Write, stderr, stdout};
use std::time::{Duration, Instant};

use crate::session::Deadline;
use crate::step::say;
use crate::wire::Frame;

/// What a test may take beyond its own deadline before the VM is ended: the
/// runner ends a mere hang of the test itself.
const GRACE: Duration = Duration::from_secs(30);
/// From the agent's start to the runner's first line, and between two tests.
const BETWEEN: Duration = Duration::from_secs(60);

/// A count of verdicts.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Total {
    /// Held.
    pub passed: u32,
    /// Did not, or came to no verdict.
    pub failed: u32,
    /// Could not be tried here.
    pub skipped: u32,
}

impl Total {
    /// Adds another count.
    pub fn add(&mut self, other: Total) {
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

/// Reads the runner's lines as they come.
pub struct Reader {
    label: &'static str,
    scale: u32,
    partial: Vec<u8>,
    /// Verdicts of all boots.
    pub total: Total,
    /// Names of the tests that have a verdict.
    pub judged: Vec<String>,
    /// The verdict lines of those that failed, for the end of the run.
    pub failures: Vec<String>,
    /// Verdicts of this boot.
    in_boot: Total,
    /// How many those are.
    pub judged_in_boot: u32,
    /// The test that was started and has no verdict.
    pub at_work: Option<String>,
    /// The closing line of this boot.
    done: Option<Total>,
}

impl Reader {
    /// Before the first boot.
    pub fn new(label: &'static str, scale: u32) -> Reader {
        Reader {
            label,
            scale,
            partial: Vec::new(),
            total: Total::default(),
            judged: Vec::new(),
            failures: Vec::new(),
            in_boot: Total::default(),
            judged_in_boot: 0,
            at_work: None,
            done: None,
        }
    }

    /// A boot begins: what was half said is forgotten.
    pub fn begin_boot(&mut self) {
        self.partial.clear();
        self.in_boot = Total::default();
        self.judged_in_boot = 0;
        self.at_work = None;
        self.done = None;
    }

    /// Whether the closing line came and counts what came before it.
    pub fn closed(&self) -> bool {
        self.done == Some(self.in_boot)
    }

    /// Takes in a frame, and sets the deadline of what comes next.
    pub fn hear(&mut self, frame: &Frame, deadline: &mut Deadline) {
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
            if verdict.failed > 0 {
                self.failures.push(format!("{}: {line}", self.label));
            }
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

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
pub fn libtest_total(line: &str) -> Option<Total> {
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
    fn what_failed_is_kept_for_the_end() {
        let mut reader = Reader::new("6.12", 1);
        let mut deadline = Deadline::none();
        reader.line("test a ... ok (0.1s)", &mut deadline);
        reader.line("test b ... FAILED: 3 is not 4", &mut deadline);
        assert_eq!(reader.failures, ["6.12: test b ... FAILED: 3 is not 4"]);
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
