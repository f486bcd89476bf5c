//! Whether a policy file is the owner's: nobody else may be able to write it, or to put another in
//! its place.
//!
//! [`judge`] is the decision on what was seen; the rest looks.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::error::Complaint;

/// Largest policy file that is read.
const LARGEST: u64 = 1 << 20;

/// What a path must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A policy file.
    File,
    /// The policy's own directory, or `slices` in it.
    Directory,
    /// A directory above: others may write it if it is sticky, like /tmp, because they can neither
    /// rename nor remove there what is not theirs.
    Above,
}

/// What was seen at a path, without following a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it is.
    pub kind: SeenKind,
    /// Its owner.
    pub uid: u32,
    /// Its permission bits, sticky bit included.
    pub mode: u32,
    /// How many names it has.
    pub links: u64,
}

/// What was seen at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else.
    Other,
}

/// Why a path is not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// It is a symbolic link.
    Link,
    /// It is not what it must be.
    Kind(Part),
    /// It belongs to this user, who is neither root nor the caller.
    Owner(u32),
    /// Others or a group may write it.
    Writable(u32),
    /// The file has further names, which may lie where others may write.
    Names(u64),
}

const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

/// Decides whether `seen` may be a `part` of the policy of a caller with user id `me`.
///
/// # Errors
/// Why not.
pub fn judge(part: Part, seen: Seen, me: u32) -> Result<(), Distrust> {
    match (part, seen.kind) {
        (_, SeenKind::Link) => return Err(Distrust::Link),
        (Part::File, SeenKind::File) | (Part::Directory | Part::Above, SeenKind::Directory) => {}
        _ => return Err(Distrust::Kind(part)),
    }
    if seen.uid != 0 && seen.uid != me {
        return Err(Distrust::Owner(seen.uid));
    }
    let sticky = part == Part::Above && seen.mode & STICKY != 0;
    if seen.mode & OTHERS_WRITE != 0 && !sticky {
        return Err(Distrust::Writable(seen.mode & 0o7777));
    }
    if part == Part::File && seen.links > 1 {
        return Err(Distrust::Names(seen.links));
    }
    Ok(())
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link => write!(f, "is a symbolic link"),
            Self::Kind(Part::File) => write!(f, "is not a regular file"),
            Self::Kind(_) => write!(f, "is not a directory"),
            Self::Owner(uid) => write!(f, "belongs to user id {uid}, who is neither root nor you"),
            Self::Writable(mode) => write!(f, "may be written by others (mode {mode:04o})"),
            Self::Names(links) => write!(f, "has {links} names (hard links)"),
        }
    }
}

impl Distrust {
    fn help(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Link => {
                String::from("put the file or directory itself there, and name it without links")
            }
            Self::Kind(Part::File) => format!("remove {path}, or make it a regular file"),
            Self::Kind(_) => format!("remove {path}, or make it a directory"),
            Self::Owner(_) => format!("chown root {path}"),
            Self::Writable(_) => format!("chmod go-w {path}"),
            Self::Names(_) => format!("copy it: cp {path} {path}.new && mv {path}.new {path}"),
        }
    }
}

impl From<&Metadata> for Seen {
    fn from(metadata: &Metadata) -> Self {
        let kind = match metadata.file_type() {
            kind if kind.is_symlink() => SeenKind::Link,
            kind if kind.is_dir() => SeenKind::Directory,
            kind if kind.is_file() => SeenKind::File,
            _ => SeenKind::Other,
        };
        Self {
            kind,
            uid: metadata.uid(),
            mode: metadata.mode() & 0o7777,
            links: metadata.nlink(),
        }
    }
}

/// Complains about every directory from / to `directory` that is not to be trusted.
///
/// `directory` is taken from the working directory if it is relative.
pub(super) fn directory(directory: &Path, me: u32, complaints: &mut Vec<Complaint>) -> bool {
    let before = complaints.len();
    let absolute = match absolute(directory) {
        Ok(absolute) => absolute,
        Err(error) => {
            complaints.push(unreadable(directory, "find", &error));
            return false;
        }
    };
    let steps: Vec<&Path> = absolute.ancestors().collect();
    for (depth, step) in steps.iter().enumerate().rev() {
        let part = if depth == 0 {
            Part::Directory
        } else {
            Part::Above
        };
        match fs::symlink_metadata(step) {
            Ok(metadata) => {
                if let Err(distrust) = judge(part, Seen::from(&metadata), me) {
                    complaints.push(distrusted(step, distrust));
                    if distrust == Distrust::Link {
                        // What lies beyond the link is not on this path.
                        return false;
                    }
                }
            }
            Err(error) => {
                complaints.push(unreadable(step, "read", &error));
                return false;
            }
        }
    }
    complaints.len() == before
}

/// Reads a policy file that is to be trusted; otherwise complains and returns `None`.
pub(super) fn file(path: &Path, me: u32, complaints: &mut Vec<Complaint>) -> Option<String> {
    let read = || -> io::Result<Result<Vec<u8>, Complaint>> {
        // First without opening: a FIFO would block, a link would be followed.
        let named = fs::symlink_metadata(path)?;
        if let Err(distrust) = judge(Part::File, Seen::from(&named), me) {
            return Ok(Err(distrusted(path, distrust)));
        }
        let file = File::open(path)?;
        let opened = file.metadata()?;
        if (opened.dev(), opened.ino()) != (named.dev(), named.ino()) {
            return Ok(Err(Complaint::of(
                path,
                "the file changed while it was opened",
                "try again",
            )));
        }
        if opened.len() > LARGEST {
            let message = format!("the file has {} bytes", opened.len());
            return Ok(Err(Complaint::of(
                path,
                message,
                "a policy file has at most 1 MiB",
            )));
        }
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(Ok(bytes))
    };
    match read() {
        Err(error) => complaints.push(unreadable(path, "read", &error)),
        Ok(Err(complaint)) => complaints.push(complaint),
        Ok(Ok(bytes)) => match String::from_utf8(bytes) {
            Ok(text) => return Some(text),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let line = error.as_bytes()[..valid]
                    .iter()
                    .filter(|byte| **byte == b'\n')
                    .count()
                    + 1;
                let message = format!("line {line} is not UTF-8 text");
                complaints.push(Complaint::of(path, message, "save the file as UTF-8"));
            }
        },
    }
    None
}

/// The names in a directory, sorted.
pub(super) fn names(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The path from /, without `.` and `..`. Taking `..` away by name is right because a symbolic link
/// anywhere on the path is refused.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    let mut absolute = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        match part {
            Component::ParentDir => {
                absolute.pop();
            }
            part => absolute.push(part),
        }
    }
    Ok(absolute)
}

fn distrusted(path: &Path, distrust: Distrust) -> Complaint {
    Complaint::of(
        path,
        format!("{} {distrust}", path.display()),
        distrust.help(path),
    )
}

pub(super) fn unreadable(path: &Path, verb: &str, error: &io::Error) -> Complaint {
    let help = match error.kind() {
        io::ErrorKind::NotFound => super::load::MISSING_HELP,
        io::ErrorKind::PermissionDenied => "run this as root",
        _ => "see whether the file system is sound",
    };
    Complaint::of(
        path,
        format!("cannot {verb} {}: {error}", path.display()),
        help,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u32 = 1000;

    fn seen(kind: SeenKind, uid: u32, mode: u32) -> Seen {
        Seen {
            kind,
            uid,
            mode,
            links: 1,
        }
    }

    #[test]
    fn only_the_owners_and_roots_own_files_are_trusted() {
        use Part::{Above, Directory, File};
        for (part, it, verdict) in [
            (File, seen(SeenKind::File, 0, 0o644), Ok(())),
            (File, seen(SeenKind::File, ME, 0o600), Ok(())),
            (
                File,
                seen(SeenKind::File, 1001, 0o644),
                Err(Distrust::Owner(1001)),
            ),
            (
                File,
                seen(SeenKind::File, 0, 0o664),
                Err(Distrust::Writable(0o664)),
            ),
            (
                File,
                seen(SeenKind::File, 0, 0o646),
                Err(Distrust::Writable(0o646)),
            ),
            // A sticky bit on a file protects nothing.
            (
                File,
                seen(SeenKind::File, 0, 0o1646),
                Err(Distrust::Writable(0o1646)),
            ),
            (File, seen(SeenKind::Link, 0, 0o777), Err(Distrust::Link)),
            (
                File,
                seen(SeenKind::Other, 0, 0o600),
                Err(Distrust::Kind(File)),
            ),
            (
                File,
                seen(SeenKind::Directory, 0, 0o755),
                Err(Distrust::Kind(File)),
            ),
            (
                File,
                Seen {
                    links: 2,
                    ..seen(SeenKind::File, 0, 0o600)
                },
                Err(Distrust::Names(2)),
            ),
            (Directory, seen(SeenKind::Directory, 0, 0o755), Ok(())),
            (
                Directory,
                seen(SeenKind::Directory, 0, 0o1777),
                Err(Distrust::Writable(0o1777)),
            ),
            (
                Directory,
                seen(SeenKind::File, 0, 0o755),
                Err(Distrust::Kind(Directory)),
            ),
            (Above, seen(SeenKind::Directory, 0, 0o1777), Ok(())),
            (
                Above,
                seen(SeenKind::Directory, 0, 0o777),
                Err(Distrust::Writable(0o777)),
            ),
            (
                Above,
                seen(SeenKind::Directory, 1001, 0o755),
                Err(Distrust::Owner(1001)),
            ),
            (Above, seen(SeenKind::Link, 0, 0o777), Err(Distrust::Link)),
        ] {
            assert_eq!(judge(part, it, ME), verdict, "{part:?} {it:?}");
        }
    }

    #[test]
    fn dots_are_taken_out_of_a_path() {
        assert_eq!(
            absolute(Path::new("/a/./b/../c")).unwrap(),
            Path::new("/a/c")
        );
        assert_eq!(absolute(Path::new("/../a")).unwrap(), Path::new("/a"));
    }
}
