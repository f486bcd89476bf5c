//! `cargo xtask demo`: a stock kernel keeps slices apart, for everybody
//! to see.

use std::io::{Write, stderr, stdout};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::kernel::Kernel;
use crate::machine::Terminal;
use crate::session::{Deadline, Lost, Outcome, Session};
use crate::step::say;
use crate::tree::{self, Tree};
use crate::wire::Frame;

/// Longest demonstration, before stretching.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs `demo`.
pub fn run(mirror: Option<&str>) -> Result<u8> {
    let start = Instant::now();
    let tree = tree::build()?;
    let kernel = Kernel::V6_12;
    let session = Session::prepare(kernel, mirror)?;
    let outcome = loop {
        match show(&session, &tree) {
            // Rare, and not the tree's: a newcomer should not meet it.
            Err(error)
                if error
                    .downcast_ref()
                    .is_some_and(|lost: &Lost| lost.by_emulator) =>
            {
                say(
                    "QEMU ran a breakpoint that was patched away (its fault, mended in 8.1): again",
                );
            }
            result => break result?,
        }
    };
    for line in &outcome.noted {
        say(&format!("the kernel says: {line}"));
    }
    say(&format!("done in {:.0} s", start.elapsed().as_secs_f32()));
    Ok(u8::from(outcome.status != 0 || !outcome.noted.is_empty()))
}

fn show(session: &Session, tree: &Tree) -> Result<Outcome> {
    let scale = session.accelerator.time_scale();
    let vm = session.boot(tree.files(), &["slice-tests", "demo"], Terminal::Report)?;
    session.follow(vm, |frame, deadline| match frame {
        Frame::Hello(release) => {
            say(&format!("Linux {release} is up"));
            *deadline = Deadline {
                what: "the demonstration".to_owned(),
                end: Some(Instant::now() + LIMIT * scale),
            };
        }
        Frame::Out(bytes) => {
            let _ = stdout().write_all(bytes).and_then(|()| stdout().flush());
        }
        Frame::Err(bytes) => {
            let _ = stderr().write_all(bytes);
        }
        Frame::Exit(_) => {}
    })
}
