//! The users that a slice knows, from its own `/etc/passwd` and `/etc/group`:
//! read inside the slice, with the slice's rights.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::sys::process::Credentials;

/// A user of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The name.
    pub name: Vec<u8>,
    /// The user id, inside.
    pub uid: u32,
    /// The group id, inside.
    pub gid: u32,
    /// Groups beside it, inside.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: PathBuf,
    /// The shell.
    pub shell: PathBuf,
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
const SHELL: &str = "/bin/sh";

impl User {
    /// The user of this name. A slice without account files has its root.
    #[must_use]
    pub fn find(name: &[u8]) -> Option<Self> {
        let passwd = fs::read(PASSWD).unwrap_or_default();
        let groups = fs::read(GROUP).unwrap_or_default();
        Self::in_files(name, &passwd, &groups).or_else(|| (name == b"root").then(Self::root))
    }

    /// What the process is to become.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        Credentials {
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.clone(),
        }
    }

    fn root() -> Self {
        Self {
            name: b"root".to_vec(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: PathBuf::from("/"),
            shell: PathBuf::from(SHELL),
        }
    }

    fn in_files(name: &[u8], passwd: &[u8], groups: &[u8]) -> Option<Self> {
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let user = lines(passwd).find_map(|fields| match fields.as_slice() {
            [user, _, uid, gid, _, home, shell] if *user == name => Some(Self {
                name: name.to_vec(),
                uid: number(uid)?,
                gid: number(gid)?,
                groups: Vec::new(),
                home: path(home),
                shell: if shell.is_empty() {
                    PathBuf::from(SHELL)
                } else {
                    path(shell)
                },
            }),
            _ => None,
        })?;
        let member = |members: &[u8]| members.split(|byte| *byte == b',').any(|m| m == name);
        let groups = lines(groups).filter_map(|fields| match fields.as_slice() {
            [_, _, gid, members] if member(members) => number(gid),
            _ => None,
        });
        Some(Self {
            groups: groups.collect(),
            ..user
        })
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|byte| *byte == b'\n')
        .map(|line| line.split(|byte| *byte == b':').collect())
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nbroken:x:1\n\
        alice:x:1000:1000:Alice,,,:/home/alice:\n";
    const GROUP: &[u8] = b"root:x:0:\nsudo:x:27:bob,alice\nadm:x:4:alicex\n";

    #[test]
    fn a_user_is_found_with_shell_home_and_groups() {
        let alice = User::in_files(b"alice", PASSWD, GROUP).unwrap();
        assert_eq!((alice.uid, alice.gid, alice.groups), (1000, 1000, vec![27]));
        assert_eq!(alice.shell, PathBuf::from("/bin/sh"));
        let root = User::in_files(b"root", PASSWD, GROUP).unwrap();
        assert_eq!(root.shell, PathBuf::from("/bin/bash"));
    }

    #[test]
    fn who_is_not_there_or_written_half_is_nobody() {
        for name in [&b"bob"[..], b"broken", b"", b"alice:x"] {
            assert_eq!(User::in_files(name, PASSWD, GROUP), None);
        }
    }
}
