//! sshd's side of a login: when PAM opens a session for a slice's account, the
//! process of sshd that holds it moves into the slice's cgroup, before it forks
//! the one that runs as the account; so what is forwarded is the slice's. The
//! account's shell then runs what was asked for in the slice's context.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, bail};
use policy::config::SliceName;

use super::adopt;
use super::cgroup;
use super::request::Run;
use super::running::Running;
use super::visit::{self, Visited};
use crate::node::Node;

/// What sshd is told to run whatever the user asked for, so that a subsystem
/// of its own (`internal-sftp`) never runs on the node.
const FORCED: &str = "slice-login";
/// sshd's own server of files, by the name that its settings call it.
const INTERNAL_SFTP: &str = "internal-sftp";
/// Where distributions keep the program that does the same.
const SFTP_SERVER: &str = "for s in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server \
    /usr/lib/ssh/sftp-server; do [ -x $s ] && exec $s; done; exec sftp-server";

/// Puts the process that called pam_exec(8) into the slice of `PAM_USER`.
/// Standard output is shown to who logs in.
///
/// # Errors
/// The account is none of a slice's, or its slice does not run: no session.
pub fn open_session() -> anyhow::Result<()> {
    if std::env::var("PAM_TYPE").as_deref() != Ok("open_session") {
        return Ok(());
    }
    let name = std::env::var("PAM_USER").context("find out who logs in")?;
    let node = Node::open().context("this node's slices are down; try again later")?;
    if !node.record().logins.contains_key(&name) {
        bail!("{name} is no slice that people log in to");
    }
    let leaf = cgroup::leaf(&node.cgroup(&name), "login")?;
    // First, so that a session that waits for the slice waits as part of it.
    let sshd = nix::unistd::getppid();
    if sshd.as_raw() <= 1 {
        bail!("the session ended before it began");
    }
    fs::write(leaf.join("cgroup.procs"), sshd.to_string())
        .with_context(|| format!("put the session into slice {name}"))?;
    if !Running::of(&name).is_alive()? {
        bail!("slice {name} is stopped; ask the node's owner to start it");
    }
    // Who may not look into sshd (yama's ptrace_scope = 3) can still log in.
    if let Err(error) = adopt::connections(&node, &name, sshd) {
        eprintln!("slice: the connection stays the node's: {error:#}");
    }
    Ok(())
}

/// Whether this program was called as the shell of an account.
#[must_use]
pub fn is_shell(name: &OsString) -> bool {
    let name = name.as_bytes();
    let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    name.strip_prefix(b"-").unwrap_or(name) == b"login-shell"
}

/// Runs what was asked for in the slice whose account this is; the status of
/// the shell.
#[must_use]
pub fn shell(arguments: &[OsString]) -> u8 {
    match in_slice(arguments) {
        Ok(Visited::NotStarted(errno)) => {
            eprintln!("slice: the shell: {}", io::Error::from_raw_os_error(errno));
            Visited::NotStarted(errno).code()
        }
        Ok(Visited::SliceEnded) => {
            eprintln!("slice: the slice was stopped");
            Visited::SliceEnded.code()
        }
        Ok(visited) => visited.code(),
        Err(error) => {
            eprintln!("slice: {error:#}");
            u8::MAX
        }
    }
}

fn in_slice(arguments: &[OsString]) -> anyhow::Result<Visited> {
    // sshd has set it; another one would only lead to a socket that this
    // account may not use.
    let name = std::env::var("USER").unwrap_or_default();
    if SliceName::new(&name).is_err() {
        bail!("USER does not say which slice this is");
    }
    let Some(connection) = Running::of(&name).connect()? else {
        bail!("slice {name} is stopped; ask the node's owner to start it");
    };
    let run = wanted(arguments, std::env::var_os("SSH_ORIGINAL_COMMAND"))?;
    visit::visit(&connection, run, "root", visit::at_terminal())
}

/// What the user asked for.
fn wanted(arguments: &[OsString], original: Option<OsString>) -> anyhow::Result<Run> {
    let line = match arguments {
        [] => return Ok(Run::Login),
        [c, line] if c == "-c" && line == FORCED => match original {
            None => return Ok(Run::Login),
            Some(original) => original,
        },
        [c, line] if c == "-c" => line.clone(),
        _ => bail!("a login shell takes no arguments but -c LINE"),
    };
    let words = line.as_bytes();
    // With whatever options sshd would have given itself.
    if words
        .strip_prefix(INTERNAL_SFTP.as_bytes())
        .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b' '))
    {
        return Ok(Run::Line(SFTP_SERVER.as_bytes().to_vec()));
    }
    Ok(Run::Line(words.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_shell_runs_what_the_user_asked_for() {
        let line = |text: &str| Run::Line(text.as_bytes().to_vec());
        let run = |given: &[&str], original: Option<&str>| {
            wanted(&words(given), original.map(OsString::from)).unwrap()
        };
        assert_eq!(run(&[], None), Run::Login);
        assert_eq!(run(&["-c", FORCED], None), Run::Login);
        assert_eq!(run(&["-c", FORCED], Some("id; exit 3")), line("id; exit 3"));
        assert_eq!(
            run(&["-c", "rsync --server ."], None),
            line("rsync --server .")
        );
        assert!(wanted(&words(&["-l"]), None).is_err());
    }

    #[test]
    fn sshds_own_file_server_never_runs_on_the_node() {
        for original in ["internal-sftp", "internal-sftp -l INFO"] {
            let run = wanted(&words(&["-c", FORCED]), Some(original.into())).unwrap();
            assert_eq!(run, Run::Line(SFTP_SERVER.as_bytes().to_vec()));
        }
        let other = wanted(&words(&["-c", FORCED]), Some("internal-sftpx".into())).unwrap();
        assert_eq!(other, Run::Line(b"internal-sftpx".to_vec()));
    }

    #[test]
    fn it_is_a_shell_by_the_name_it_is_called() {
        for name in ["-login-shell", "login-shell", "/run/slice/login-shell"] {
            assert!(is_shell(&name.into()), "{name}");
        }
        for name in ["slice", "-slice", "login-shell2"] {
            assert!(!is_shell(&name.into()), "{name}");
        }
    }
}
