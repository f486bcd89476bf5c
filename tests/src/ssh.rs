//! The distribution's ssh server on the node, and logins to it as root from the
//! other machine.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::beyond;
use crate::node::Node;

/// The keys of a server and of its user.
pub struct Ssh<'n> {
    node: &'n Node,
}

impl<'n> Ssh<'n> {
    /// Makes the keys.
    ///
    /// # Errors
    /// ssh-keygen fails.
    pub fn new(node: &'n Node) -> Result<Ssh<'n>> {
        let ssh = Ssh { node };
        for key in ["host", "user"] {
            node.must(
                "ssh-keygen",
                &["-q", "-t", "ed25519", "-N", "", "-f", &ssh.path(key)?],
            )?;
        }
        fs::create_dir_all("/run/sshd")?;
        Ok(ssh)
    }

    /// The server, in the foreground.
    ///
    /// # Errors
    /// The test's directory has no name in UTF-8.
    pub fn server(&self) -> Result<Command> {
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f", "/dev/null", "-h", &self.path("host")?]);
        command.args([
            "-o",
            &format!("AuthorizedKeysFile={}", self.path("user.pub")?),
            "-o",
            "StrictModes=no",
            "-o",
            "PidFile=none",
        ]);
        Ok(command)
    }

    /// The words of a login that runs a command on the node; to be said at the
    /// other machine.
    ///
    /// # Errors
    /// The test's directory has no name in UTF-8.
    pub fn login(&self, command: &str) -> Result<Vec<String>> {
        let mut words: Vec<String> = [
            "ssh",
            "-q",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-i",
        ]
        .map(String::from)
        .into();
        words.push(self.path("user")?);
        words.extend([format!("root@{}", beyond::NODE[0]), command.to_owned()]);
        Ok(words)
    }

    fn path(&self, name: &str) -> Result<String> {
        let path = self.node.dir().join(name);
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    }
}
