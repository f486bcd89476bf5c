//! The node under test: runs commands, keeps a directory, and undoes at the
//! end of a test what the test has set up.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What one test gets to work with.
pub struct Node {
    dir: PathBuf,
}

/// How a command ended.
pub struct Output {
    /// Exit status; 128 + signal number if it was killed.
    pub status: i32,
    /// Standard output, lossily.
    pub stdout: String,
    /// Standard error, lossily.
    pub stderr: String,
}

impl Node {
    /// Makes the test's own empty directory.
    pub fn new(test: &str) -> Result<Node> {
        let dir = Path::new("/run/slice-tests").join(test);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Node { dir })
    }

    /// The test's own directory, empty at its start.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// It cannot be started; a status other than 0 is no error.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start {program}"))?;
        use std::os::unix::process::ExitStatusExt;
        let signal = output.status.signal().map(|signal| 128 + signal);
        Ok(Output {
            status: output.status.code().or(signal).unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// It cannot be started, or its status is not 0; the error has its words.
    pub fn must(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let output = self.run(program, arguments)?;
        if output.status != 0 {
            bail!(
                "{program} {} ended with {}: {}{}",
                arguments.join(" "),
                output.status,
                output.stderr.trim(),
                output.stdout.trim()
            );
        }
        Ok(output)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
