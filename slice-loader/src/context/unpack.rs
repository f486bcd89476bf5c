//! Filling the tree of an image, from a directory or from an archive, both
//! through the distribution's tar: owners, modes, times, hard links, extended
//! attributes and capabilities of files stay what they were.
//!
//! An archive may come from anywhere. tar refuses names that lead out of the
//! tree; and where it did not, it would still write nothing else: all other
//! mounts are read-only in the mount namespace that it unpacks in.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::Context;

use crate::cli::exit::{Exit, Failure};
use crate::sys::readonly;

/// What a tree is filled from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A directory, as far as its own file system goes.
    Directory(&'a Path),
    /// A tar archive, plain or packed.
    Archive(&'a Path),
}

/// How archives are packed: first bytes, option of tar, program, its package.
const PACKED: [(&[u8], &str, &str, &str); 3] = [
    (&[0x1f, 0x8b], "--gzip", "gzip", "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "--xz", "xz", "xz-utils"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "--zstd", "zstd", "zstd"),
];

/// Attributes that belong to the files. Others are some kernel's or some file
/// system's: an overlay would obey `trusted.overlay.*` in its lower layer.
const ATTRIBUTES: [&str; 4] = [
    "--xattrs",
    "--xattrs-include=user.*",
    "--xattrs-include=security.capability",
    "--acls",
];

/// Where the programs are; a caller's PATH is not trusted with root's files.
const PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes that go through at once.
const CHUNK: usize = 1 << 18;
/// Of what tar says, so much is told.
const WORDS: usize = 2000;

/// Fills the empty directory `tree`. `tell` gets the bytes read so far, and of
/// how many where that is known.
///
/// # Errors
/// The source cannot be read, or tar refuses something in it.
pub fn unpack(
    source: Source<'_>,
    tree: &Path,
    tell: &mut dyn FnMut(u64, Option<u64>),
) -> anyhow::Result<()> {
    match source {
        Source::Directory(directory) => {
            let mut pack = start(
                tar()
                    .args(["--create", "--file=-", "--one-file-system", "--sparse"])
                    .args(["--numeric-owner", "--warning=no-file-ignored"])
                    .args(ATTRIBUTES)
                    .arg("--directory")
                    .arg(directory)
                    .arg(".")
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped()),
            )?;
            let words = pack.stderr.take().map(listen);
            let out = pack.stdout.take().context("tar has no output")?;
            let unpacked = unpack_stream(out, &[], None, tree, tell);
            // Where unpacking failed, packing did too, by its closed pipe.
            unpacked?;
            finish(pack, words, "pack")
        }
        Source::Archive(path) => {
            let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            let length = file.metadata().ok().map(|looked| looked.len());
            let mut first = [0; 6];
            let count = read_full(&mut file, &mut first)
                .with_context(|| format!("read {}", path.display()))?;
            let first = first.get(..count).unwrap_or_default();
            let mut options = Vec::new();
            if let Some((_, option, program, package)) =
                PACKED.iter().find(|(magic, ..)| first.starts_with(magic))
            {
                if !installed(program) {
                    return Err(Failure::new(
                        Exit::Kernel,
                        format!("the archive is packed by {program}, which is not installed"),
                    )
                    .remedy(format!("apt install {package}"))
                    .into());
                }
                options.push(*option);
            }
            let stream = io::Cursor::new(first.to_vec()).chain(file);
            unpack_stream(stream, &options, length, tree, tell)
        }
    }
}

fn unpack_stream(
    mut from: impl Read,
    options: &[&str],
    length: Option<u64>,
    tree: &Path,
    tell: &mut dyn FnMut(u64, Option<u64>),
) -> anyhow::Result<()> {
    let mut command = tar();
    command
        .args(["--extract", "--file=-", "--numeric-owner"])
        .args(["--same-owner", "--preserve-permissions"])
        .args(ATTRIBUTES)
        .args(options)
        .arg("--directory")
        .arg(tree)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    readonly::but(&mut command, tree)?;
    let mut unpack = start(&mut command)?;
    let words = unpack.stderr.take().map(listen);
    let mut to = unpack.stdin.take().context("tar has no input")?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    tell(done, length);
    loop {
        let count = from.read(&mut buffer).context("read the source")?;
        match to.write_all(buffer.get(..count).unwrap_or_default()) {
            // It ended early, and says why; or it saw the archive's end.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.context("write to tar")?,
        }
        done += u64::try_from(count)?;
        tell(done, length);
        if count == 0 {
            break;
        }
    }
    drop(to);
    // What is behind the archive's end, its packer would wait to write.
    io::copy(&mut from, &mut io::sink()).context("read the source")?;
    finish(unpack, words, "unpack")
}

fn tar() -> Command {
    let mut command = Command::new("tar");
    command
        .env_clear()
        .env("PATH", PROGRAMS)
        .env("LC_ALL", "C.UTF-8");
    command
}

fn start(command: &mut Command) -> anyhow::Result<Child> {
    command
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(Exit::Kernel, "tar is not installed")
                .remedy("apt install tar")
                .into(),
            _ => anyhow::Error::new(error).context("start tar"),
        })
}

/// Reads what a program says, so that it never waits to be heard.
fn listen(mut from: ChildStderr) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // Half of what was said is better than nothing.
        let _ = from.read_to_end(&mut bytes);
        bytes.truncate(WORDS);
        String::from_utf8_lossy(&bytes).trim().to_owned()
    })
}

fn finish(mut child: Child, words: Option<JoinHandle<String>>, what: &str) -> anyhow::Result<()> {
    let status = child.wait().context("wait for tar")?;
    let words = words
        .and_then(|words| words.join().ok())
        .unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    let message = format!("tar could not {what} it ({status}): {words}");
    Err(Failure::new(Exit::Failed, message)
        .remedy("import an archive of a whole root, or a directory that nobody changes meanwhile")
        .into())
}

fn installed(program: &str) -> bool {
    PROGRAMS
        .split(':')
        .any(|directory| PathBuf::from(directory).join(program).is_file())
}

/// Reads until the buffer is full or there is no more.
fn read_full(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match from.read(rest)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}
