//! The account that a slice has on the node, so that sshd knows it: a record
//! below `/run/userdb`, which nss-systemd reads without any service, and the
//! keys that log in. Nothing of it outlives `slice down` or a boot.
//!
//! The account's user id is the last of the slice's own: no other slice and
//! no user of the node has it, and outside the slice it may do nothing.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::exit::{Exit, Failure};

/// Who logs in to a slice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Login {
    /// Public keys, a line each.
    pub keys: Vec<String>,
    /// Keys of certificate authorities, a line each.
    pub authorities: Vec<String>,
}

/// Homes of the accounts; sshd finds the keys there.
pub const HOMES: &str = "/run/slice/logins";
/// What every account has as its shell: a link to this program.
pub const SHELL: &str = "/run/slice/login-shell";
/// The group of all accounts, by which sshd knows them.
pub const GROUP: &str = "slices";

const USERDB: &str = "/run/userdb";
const SWITCH: &str = "/etc/nsswitch.conf";
const KEYS: &str = "authorized_keys";

/// Files of which one must name the program that puts a session into its slice.
const PAM: [&str; 2] = ["/etc/pam.d/sshd", "/etc/pam.d/common-session"];
/// How it is named there.
const PAM_WORD: &str = "login-open";
/// sshd's settings for slices.
const SSHD: &str = "/etc/ssh/sshd_config.d/slice.conf";

/// The last of a slice's ids.
#[must_use]
pub fn uid(first: u32, count: u32) -> u32 {
    first + count.saturating_sub(1)
}

/// Writes the accounts of these slices, and removes all others of ours.
///
/// # Errors
/// The node is not set up for logins: then nothing is written; or a file
/// cannot be written.
pub fn write_all(accounts: &BTreeMap<&str, (u32, &Login)>) -> anyhow::Result<()> {
    let group = (!accounts.is_empty()).then(prepared).transpose()?;
    for name in written()? {
        if !accounts.contains_key(name.as_str()) {
            remove(&name)?;
        }
    }
    let Some(group) = group else {
        return Ok(());
    };
    let program = std::env::current_exe().context("find the path of this program")?;
    link(&program, Path::new(SHELL))?;
    for directory in [USERDB, HOMES] {
        make_directory(Path::new(directory))?;
    }
    for (name, (uid, login)) in accounts {
        write(name, *uid, group, login)?;
    }
    Ok(())
}

/// Refuses accounts on a node that is not set up for logins, before anything is
/// changed for them.
///
/// # Errors
/// There are to be some, and the node is not.
pub fn refuse_unprepared(accounts: bool) -> anyhow::Result<()> {
    if accounts {
        prepared()?;
    }
    Ok(())
}

/// Removes every account of ours.
///
/// # Errors
/// One cannot be removed.
pub fn remove_all() -> anyhow::Result<()> {
    for name in written()? {
        remove(&name)?;
    }
    remove_file(Path::new(SHELL))?;
    match fs::remove_dir(HOMES) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {HOMES}"))
        }
        _ => Ok(()),
    }
}

/// Whether a line of passwd(5) is an account of ours.
#[must_use]
pub fn is_ours(line: &str) -> bool {
    line.split(':').nth(6).is_some_and(|shell| shell == SHELL)
}

/// The group's id, on a node where a login ends in its slice and nowhere else.
fn prepared() -> anyhow::Result<u32> {
    let missing = |what: &str, remedy: &str| {
        Failure::new(Exit::Kernel, format!("let people log in to slices: {what}")).remedy(remedy)
    };
    let switch = fs::read_to_string(SWITCH).unwrap_or_default();
    let asks_systemd = switch.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("passwd:") && words.any(|word| word == "systemd")
    });
    if !asks_systemd {
        let what = format!("the name service does not read {USERDB}");
        return Err(missing(
            &what,
            "install libnss-systemd, or name `systemd` in the line passwd: of /etc/nsswitch.conf",
        )
        .into());
    }
    let group = Command::new("getent")
        .args(["group", GROUP])
        .output()
        .context("run getent")?;
    let group = String::from_utf8_lossy(&group.stdout);
    let Some(gid) = group.split(':').nth(2).and_then(|gid| gid.parse().ok()) else {
        let what = format!("there is no group {GROUP}");
        return Err(missing(&what, "groupadd --system slices").into());
    };
    if !Path::new(SSHD).exists() {
        let what = format!("sshd has no settings for them in {SSHD}");
        return Err(missing(
            &what,
            "copy packaging/ssh/slice.conf there, or install the package",
        )
        .into());
    }
    let named = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .any(|line| line.contains(PAM_WORD))
    };
    if !PAM.into_iter().any(named) {
        return Err(missing(
            "PAM does not put sessions into slices: forwarded ports would be the node's",
            "pam-auth-update --enable slice",
        )
        .into());
    }
    Ok(gid)
}

fn write(name: &str, uid: u32, group: u32, login: &Login) -> anyhow::Result<()> {
    let home = Path::new(HOMES).join(name);
    make_directory(&home)?;
    let authority = |key: &String| format!("cert-authority,principals=\"{name}\" {key}\n");
    let lines: String = login
        .keys
        .iter()
        .map(|key| format!("{key}\n"))
        .chain(login.authorities.iter().map(authority))
        .collect();
    replace(&home.join(KEYS), &lines)?;
    let record = json!({
        "userName": name,
        "uid": uid,
        "gid": group,
        "realName": format!("Slice {name}"),
        "homeDirectory": home,
        "shell": SHELL,
        "disposition": "regular",
    });
    let (by_name, by_id) = records(name, uid);
    replace(&by_name, &record.to_string())?;
    link(Path::new(&format!("{name}.user")), &by_id)
}

/// The record's file, and its other name.
fn records(name: &str, uid: u32) -> (PathBuf, PathBuf) {
    let userdb = Path::new(USERDB);
    (
        userdb.join(format!("{name}.user")),
        userdb.join(format!("{uid}.user")),
    )
}

fn remove(name: &str) -> anyhow::Result<()> {
    let record = Path::new(USERDB).join(format!("{name}.user"));
    if let Ok(text) = fs::read(&record)
        && let Ok(value) = serde_json::from_slice::<serde_json::Value>(&text)
        && let Some(uid) = value["uid"]
            .as_u64()
            .and_then(|uid| u32::try_from(uid).ok())
    {
        remove_file(&records(name, uid).1)?;
    }
    remove_file(&record)?;
    let home = Path::new(HOMES).join(name);
    fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))
}

/// The slices that have an account now.
fn written() -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(HOMES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("read {HOMES}"))?,
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .with_context(|| format!("make {}", path.display()))
}

/// Writes beside, then renames: sshd never reads half a file.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text)
        .and_then(|()| fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("write {}", path.display()))
}

fn link(target: &Path, path: &Path) -> anyhow::Result<()> {
    remove_file(path)?;
    symlink(target, path).with_context(|| format!("make {}", path.display()))
}

fn remove_file(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_of_ours_is_known_by_its_shell() {
        assert!(is_ours(
            "alpha:x:1879113727:990:Slice alpha:/run/slice/logins/alpha:/run/slice/login-shell"
        ));
        assert!(!is_ours(
            "alice:x:1000:1000:/run/slice/login-shell:/home/alice:/bin/sh"
        ));
    }

    #[test]
    fn the_accounts_id_is_the_slices_last() {
        assert_eq!(uid(1_879_048_192, 65_536), 1_879_113_727);
    }
}
