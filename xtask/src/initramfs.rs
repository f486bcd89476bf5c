//! The initramfs: the VM's first process, the few modules it loads, and the
//! tree that is to be tested. A cpio archive ("newc") without compression:
//! writing and unpacking it is a matter of milliseconds.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// An archive that is being written.
pub struct Initramfs {
    out: BufWriter<File>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

impl Initramfs {
    /// Starts the archive `path` anew.
    pub fn create(path: &Path) -> Result<Initramfs> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Initramfs {
            out: BufWriter::new(file),
            inode: 0,
        })
    }

    /// Adds an empty directory; its parent must have been added before.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, DIRECTORY | 0o755, &[])
    }

    /// Adds a file with these contents.
    pub fn text(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        self.entry(name, REGULAR | 0o644, contents)
    }

    /// Adds a file or a directory with all that is in it, links followed.
    pub fn copy(&mut self, from: &Path, name: &str) -> Result<()> {
        let kind = fs::metadata(from).with_context(|| format!("read {}", from.display()))?;
        if !kind.is_dir() {
            let executable = kind.permissions().mode() & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            let contents = fs::read(from).with_context(|| format!("read {}", from.display()))?;
            return self.entry(name, REGULAR | mode, &contents);
        }
        self.directory(name)?;
        let mut entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            self.copy(&entry.path(), &name)?;
        }
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out.flush()?)
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(contents.len())
            .with_context(|| format!("{name} is too large for an initramfs"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        let links = 1;
        // magic, then 13 fields of eight hexadecimal digits: inode, mode, uid,
        // gid, links, time, size, device and rdevice numbers, name size, check
        write!(self.out, "070701")?;
        for field in [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0,
        ] {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(contents)?;
        self.pad(contents.len())
    }

    fn pad(&mut self, length: usize) -> Result<()> {
        let missing = length.next_multiple_of(4) - length;
        Ok(self
            .out
            .write_all([0u8; 3].get(..missing).unwrap_or_default())?)
    }
}
