//! Commands that run beside a bench until it has what it wants of them.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

/// A command whose words have no spaces, with a pipe at either end. Ended when its
/// input ends.
pub struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// There is no such program.
    pub fn new(command: &str) -> Result<Running> {
        let mut words = command.split(' ');
        let mut child = Command::new(words.next().context("an empty command")?)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command}"))?;
        let output = child.stdout.take().context("a pipe")?;
        Ok(Running {
            child,
            output: BufReader::new(output),
        })
    }

    /// The next line that it writes.
    ///
    /// # Errors
    /// The pipe cannot be read.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    /// Ends its input, and waits for it.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn finish(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().context("wait for a sender")?;
        Ok(())
    }
}
