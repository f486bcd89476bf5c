//! `cargo xtask test --self-check`: a test run that cannot fail is worth
//! nothing, so each way of failing is made to happen and must be noticed.

use anyhow::Result;

use crate::kernel::Kernel;
use crate::session::Session;
use crate::step::say;
use crate::test;
use crate::tree;
use crate::verdicts::Total;

/// How a boot with broken tests must end.
enum Ending {
    /// With a closing line and these counts.
    Finished { passed: u32, failed: u32 },
    /// Without, and with this in the error.
    Lost(&'static str),
}

/// Names of tests in `tests/src/broken.rs`, one boot each row.
const ROWS: &[(&[&str], Ending)] = &[
    (
        &["broken_test_hangs", "broken_test_crashes"],
        Ending::Finished {
            passed: 0,
            failed: 2,
        },
    ),
    (
        &["broken_kernel_warns"],
        Ending::Finished {
            passed: 1,
            failed: 1,
        },
    ),
    (&["broken_kernel_panics"], Ending::Lost("Kernel panic")),
    (
        &["broken_runner_dies"],
        Ending::Lost("without its closing line"),
    ),
    (
        &["broken_runner_stops"],
        Ending::Lost("test broken_runner_stops did not end in time"),
    ),
];

/// Runs all rows; 1 if a failure went unnoticed.
pub fn run(mirror: Option<&str>) -> Result<u8> {
    let files = [(tree::tests()?, "bin/slice-tests".to_owned())];
    let session = Session::prepare(Kernel::V6_12, mirror)?;
    let mut unnoticed = 0u32;
    for (names, ending) in ROWS {
        let filters: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let run = test::on_kernel(&session, test::Part::WHOLE, &files, &filters)?;
        let noticed = match ending {
            Ending::Finished { passed, failed } => {
                let expected = Total {
                    passed: *passed,
                    failed: *failed,
                    skipped: 0,
                };
                run.lost.is_empty() && run.total == expected
            }
            Ending::Lost(text) => {
                run.total.failed == 1 && run.lost.iter().any(|words| words.contains(text))
            }
        };
        let words = format!("{}; {}", run.total, run.lost.join("; "));
        let names = names.join(" and ");
        if noticed {
            say(&format!("noticed: {names}"));
        } else {
            unnoticed += 1;
            say(&format!("NOT NOTICED: {names}; what came out: {words}"));
        }
    }
    Ok(u8::from(unnoticed > 0))
}
