//! The transcript of a demonstration: each step is a line of prose, the command
//! as one would type it, and what it wrote.

use std::fs::File;
use std::io::{Write, stdout};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Where commands run.
pub const DIRECTORY: &str = "/run/demo";
/// What is written by what goes on in the background.
const LOG: &str = "/run/demo/background.log";
/// How long a server may take until it answers; emulated machines are slow.
const READY: Duration = Duration::from_secs(30);

/// The run so far.
pub struct Show {
    start: Instant,
    steps: u32,
    background: Vec<Background>,
}

impl Default for Show {
    fn default() -> Show {
        Show {
            start: Instant::now(),
            steps: 0,
            background: Vec::new(),
        }
    }
}

impl Show {
    /// Begins a part.
    pub fn title(&self, text: &str) {
        println!("\n{text}\n{}", "-".repeat(text.len()));
    }

    /// Tells, runs and prints; the command must end with this status and write
    /// all of these. What it wrote.
    ///
    /// # Errors
    /// It came out otherwise.
    pub fn step(
        &mut self,
        prose: &str,
        command: &str,
        status: i32,
        says: &[&str],
    ) -> Result<String> {
        self.tell(prose, command)?;
        let done = sh(command);
        for line in done.output.lines() {
            println!("    {line}");
        }
        stdout().flush()?;
        ensure!(
            done.status == status,
            "`{command}` ended with {}, not {status}",
            done.status
        );
        for said in says {
            ensure!(
                done.output.contains(said),
                "`{command}` does not say {said:?}"
            );
        }
        Ok(done.output)
    }

    /// Tells, and starts something that goes on.
    ///
    /// # Errors
    /// It does not start.
    pub fn background(&mut self, prose: &str, command: &str) -> Result<()> {
        self.tell(prose, &format!("{command} &"))?;
        self.background.push(background(command, LOG)?);
        Ok(())
    }

    /// Says how long everything took.
    pub fn end(&self) {
        let (steps, seconds) = (self.steps, self.start.elapsed().as_secs());
        println!("\nVerdict: {steps} of {steps} steps came out as announced, in {seconds} s.");
    }

    fn tell(&mut self, prose: &str, command: &str) -> Result<()> {
        self.steps += 1;
        println!("\n{prose}\n  $ {command}");
        stdout().flush()?;
        Ok(())
    }
}

/// How a command line ended.
pub struct Done {
    /// Its status.
    pub status: i32,
    /// Both streams, as a terminal shows them.
    pub output: String,
}

/// Runs a shell's command line in the demonstration's directory.
pub fn sh(line: &str) -> Done {
    let output = Command::new("sh")
        .args(["-c", &format!("{{ {line}\n}} 2>&1")])
        .current_dir(DIRECTORY)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => Done {
            status: output.status.code().unwrap_or(-1),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
        },
        Err(error) => Done {
            status: -1,
            output: format!("start sh: {error}"),
        },
    }
}

/// A program that runs until this is dropped.
pub struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a shell's command line that writes to a file.
///
/// # Errors
/// It does not start.
pub fn background(line: &str, log: &str) -> Result<Background> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {log}"))?;
    let child = Command::new("sh")
        .args(["-c", line])
        .current_dir(DIRECTORY)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {line}"))?;
    Ok(Background(child))
}

/// Waits until something holds.
///
/// # Errors
/// It does not in time.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds() {
        ensure!(
            start.elapsed() < READY,
            "waited {} s in vain: {what}",
            READY.as_secs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
