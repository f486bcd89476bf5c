//! The store of reference images: what the roots of slices begin with.
//!
//! ```text
//! /var/lib/slice/images/          0700: nobody on the node reaches the setuid
//!   debian/                       files inside
//!     last                        the highest version there ever was
//!     1/image.json                where it came from
//!     1/tree/                     the root, unless it is a reference to one
//!     2/...
//! ```
//! A version never changes and its number never means another tree. What is
//! imported is made beside (`.new`) and renamed into place: an import that is
//! killed leaves nothing that the next one does not clear.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use policy::config::SliceName;
use serde::{Deserialize, Serialize};

use super::trash::Trash;
use super::unpack::{self, Source};
use crate::cli::exit::{Exit, Failure};
use crate::node::DIRECTORY;

/// Where images are kept.
const STORE: &str = "/var/lib/slice/images";
/// What is being imported.
const NEW: &str = ".new";
const LOCK: &str = ".lock";
const META: &str = "image.json";
const TREE: &str = "tree";
/// In the directory of a name: the highest version there ever was.
const LAST: &str = "last";

/// The store.
#[derive(Clone, Debug)]
pub struct Images {
    path: PathBuf,
}

/// One version of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Its version, from 1.
    pub version: u32,
    /// The root directory: in the store, or where a reference leads.
    pub tree: PathBuf,
    /// What is known of it.
    pub meta: Meta,
}

/// What is remembered of an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The directory or archive it was made of.
    pub source: PathBuf,
    /// Whether `source` is used as it is, not copied.
    pub reference: bool,
    /// When it was imported, seconds since 1970.
    pub imported: u64,
    /// Bytes of the files in it; 0 for a reference.
    pub bytes: u64,
    /// Files, directories and links in it; 0 for a reference.
    pub inodes: u64,
}

impl Images {
    /// The node's store; made if it is not there.
    ///
    /// # Errors
    /// It cannot be made: the caller is not root.
    pub fn open() -> anyhow::Result<Self> {
        Self::at(Path::new(STORE))
    }

    fn at(path: &Path) -> anyhow::Result<Self> {
        if let Some(above) = path.parent() {
            // As the ids beside it, it may be seen by everybody.
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(above)
                .with_context(|| format!("make {}", above.display()))?;
        }
        close(path)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Adds a version made of a directory or a tar archive (plain, or packed by
    /// gzip, xz or zstd), or one that refers to a directory. `tell` gets the
    /// bytes read so far, and of how many where that is known.
    ///
    /// # Errors
    /// The source cannot be read or holds something that an image may not;
    /// nothing is changed then.
    pub fn import(
        &self,
        name: &str,
        source: &Path,
        reference: bool,
        tell: &mut dyn FnMut(u64, Option<u64>),
    ) -> anyhow::Result<Image> {
        check_name(name)?;
        let source =
            fs::canonicalize(source).with_context(|| format!("find {}", source.display()))?;
        let _lock = self.lock()?;
        let trash = Trash::of(&self.path)?;
        let new = self.path.join(NEW);
        // What an import that was killed left.
        trash.take(&new)?;
        trash.empty()?;
        let result = self
            .make(&new, &source, reference, tell)
            .and_then(|meta| self.put_in_place(&new, name, meta));
        if result.is_err() {
            // Why it failed is the news; the next import clears the rest.
            let _ = trash.take(&new).and_then(|()| trash.empty());
        }
        result.with_context(|| format!("import {} as {name}", source.display()))
    }

    fn make(
        &self,
        new: &Path,
        source: &Path,
        reference: bool,
        tell: &mut dyn FnMut(u64, Option<u64>),
    ) -> anyhow::Result<Meta> {
        close(new)?;
        let is_directory = source.is_dir();
        if is_directory {
            self.refuse_own(source)?;
        }
        let (mut bytes, mut inodes) = (0, 0);
        if reference {
            refuse_as_reference(source, is_directory)?;
        } else {
            let tree = new.join(TREE);
            DirBuilder::new()
                .mode(0o755)
                .create(&tree)
                .with_context(|| format!("make {}", tree.display()))?;
            let from = if is_directory {
                Source::Directory(source)
            } else {
                Source::Archive(source)
            };
            unpack::unpack(from, &tree, tell)?;
            (bytes, inodes) = keep_files_only(&tree)?;
            if inodes == 0 {
                return Err(Failure::new(Exit::Failed, "there is nothing in it").into());
            }
        }
        let meta = Meta {
            source: source.to_owned(),
            reference,
            imported: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            bytes,
            inodes,
        };
        let path = new.join(META);
        fs::write(&path, serde_json::to_string_pretty(&meta)? + "\n")
            .with_context(|| format!("write {}", path.display()))?;
        // On the disk before it has a name.
        let directory = File::open(new).with_context(|| format!("open {}", new.display()))?;
        nix::unistd::syncfs(directory).with_context(|| format!("sync {}", new.display()))?;
        Ok(meta)
    }

    fn put_in_place(&self, new: &Path, name: &str, meta: Meta) -> anyhow::Result<Image> {
        let directory = self.path.join(name);
        close(&directory)?;
        let last = directory.join(LAST);
        let before = fs::read_to_string(&last)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let highest = self.versions(name)?.into_keys().next_back();
        let version = before.max(highest).unwrap_or(0).saturating_add(1);
        // The number first: killed here, one is left out, none is given twice.
        fs::write(&last, format!("{version}\n"))
            .with_context(|| format!("write {}", last.display()))?;
        let path = directory.join(version.to_string());
        fs::rename(new, &path).with_context(|| format!("make {}", path.display()))?;
        Ok(image(&path, name, version, meta))
    }

    /// A node's own slices must not come into an image of theirs.
    fn refuse_own(&self, source: &Path) -> anyhow::Result<()> {
        let within = self.path.starts_with(source);
        let one_mount = fs::metadata(source)
            .and_then(|there| Ok(there.dev() == fs::metadata(&self.path)?.dev()))
            .with_context(|| format!("look at {}", source.display()))?;
        if within && one_mount || source.starts_with(&self.path) {
            return Err(Failure::new(
                Exit::Failed,
                format!("the images in {} lie within it", self.path.display()),
            )
            .remedy("import a directory that was made for this: mmdebstrap stable /srv/debian")
            .into());
        }
        Ok(())
    }

    /// All images, by name and version.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self) -> anyhow::Result<Vec<Image>> {
        let mut images = Vec::new();
        for name in names(&self.path)? {
            if SliceName::new(&name).is_ok() {
                images.extend(self.versions(&name)?.into_values());
            }
        }
        images.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        Ok(images)
    }

    /// The highest version of that name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn newest(&self, name: &str) -> anyhow::Result<Option<Image>> {
        check_name(name)?;
        Ok(self.versions(name)?.into_values().next_back())
    }

    /// One version.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn get(&self, name: &str, version: u32) -> anyhow::Result<Option<Image>> {
        check_name(name)?;
        Ok(self.versions(name)?.remove(&version))
    }

    /// Removes one version. What slices wrote over it stays theirs.
    ///
    /// # Errors
    /// There is no such version, or a slice runs in it.
    pub fn remove(&self, name: &str, version: u32) -> anyhow::Result<()> {
        check_name(name)?;
        let _lock = self.lock()?;
        if self.get(name, version)?.is_none() {
            return Err(unknown(name, Some(version)).into());
        }
        let users = used_by(name, version)?;
        if !users.is_empty() {
            return Err(Failure::new(
                Exit::Failed,
                format!("remove version {version} of {name}: {} in it", run(&users)),
            )
            .remedy(format!(
                "restart what runs in it after importing a newer version, or: slice stop {}",
                users.join(" ")
            ))
            .into());
        }
        let trash = Trash::of(&self.path)?;
        trash.take(&self.path.join(name).join(version.to_string()))?;
        trash.empty()
    }

    /// The versions of a name. A directory without a readable account of
    /// itself is none.
    fn versions(&self, name: &str) -> anyhow::Result<BTreeMap<u32, Image>> {
        let directory = self.path.join(name);
        let mut versions = BTreeMap::new();
        for entry in names(&directory)? {
            let Some(version) = entry.parse().ok().filter(|version| *version > 0) else {
                continue;
            };
            let path = directory.join(&entry);
            let Ok(text) = fs::read_to_string(path.join(META)) else {
                continue;
            };
            let meta = serde_json::from_str(&text)
                .with_context(|| format!("understand {}", path.join(META).display()))?;
            versions.insert(version, image(&path, name, version, meta));
        }
        Ok(versions)
    }

    fn lock(&self) -> anyhow::Result<Flock<File>> {
        let path = self.path.join(LOCK);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Failure::new(
                Exit::Busy,
                "change the images: another command imports or removes one",
            )
            .remedy(format!("see which: fuser -v {}", path.display()))
            .into(),
            errno => anyhow::Error::new(errno).context(format!("lock {}", path.display())),
        })
    }
}

fn image(path: &Path, name: &str, version: u32, meta: Meta) -> Image {
    let tree = if meta.reference {
        meta.source.clone()
    } else {
        path.join(TREE)
    };
    Image {
        name: name.to_owned(),
        version,
        tree,
        meta,
    }
}

/// The slices that run in a version now. `slice start` says so in
/// `/run/slice/contexts/NAME/context.json`.
///
/// # Errors
/// One cannot be understood: it may be in use by it.
pub fn used_by(name: &str, version: u32) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Context {
        image: Option<String>,
        version: Option<u32>,
    }
    let contexts = Path::new(DIRECTORY).join("contexts");
    let mut users = Vec::new();
    for slice in names(&contexts)? {
        let path = contexts.join(&slice).join("context.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let context: Context = serde_json::from_str(&text)
            .with_context(|| format!("understand {}", path.display()))?;
        if context.image.as_deref() == Some(name) && context.version == Some(version) {
            users.push(slice);
        }
    }
    users.sort();
    Ok(users)
}

/// What to say where an image is named that does not exist.
#[must_use]
pub fn unknown(name: &str, version: Option<u32>) -> Failure {
    let what = match version {
        Some(version) => format!("version {version} of the image {name}"),
        None => format!("the image {name}"),
    };
    Failure::new(Exit::Usage, format!("find {what}: there is none"))
        .remedy("`slice image list` lists those there are")
}

fn check_name(name: &str) -> anyhow::Result<()> {
    SliceName::new(name).map(drop).map_err(|bad| {
        Failure::new(Exit::Usage, format!("the image's name {name:?} {bad}"))
            .remedy("write a lower-case letter and up to 30 more of a-z, 0-9 and _")
            .into()
    })
}

fn run(slices: &[String]) -> String {
    match slices {
        [one] => format!("slice {one} runs"),
        all => format!("{} slices run ({})", all.len(), all.join(" ")),
    }
}

/// The root of the node is no image: its root is the slices' root too, who
/// would read the node's shadow passwords and host keys.
fn refuse_as_reference(source: &Path, is_directory: bool) -> anyhow::Result<()> {
    let why = if !is_directory {
        "a reference is to a directory, and this is none"
    } else if source == Path::new("/") {
        "the root of every slice would read the node's keys and passwords"
    } else {
        return Ok(());
    };
    Err(Failure::new(Exit::Usage, why)
        .remedy("refer to a directory that was made for this, or leave out --reference")
        .into())
}

/// Takes device nodes and sockets out of a tree; what is left, in bytes and
/// names. Nobody but us has seen the tree yet, and its links are not followed.
fn keep_files_only(tree: &Path) -> anyhow::Result<(u64, u64)> {
    let (mut bytes, mut inodes) = (0, 0);
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", directory.display()))?;
            let path = entry.path();
            let looked = entry
                .metadata()
                .with_context(|| format!("look at {}", path.display()))?;
            let kind = looked.file_type();
            if kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
                continue;
            }
            inodes += 1;
            if kind.is_dir() {
                directories.push(path);
            } else {
                bytes += looked.len() / looked.nlink().max(1);
            }
        }
    }
    Ok((bytes, inodes))
}

/// Makes a directory that nobody but root may enter, or makes it so.
fn close(path: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let looked = fs::symlink_metadata(path)
                .with_context(|| format!("look at {}", path.display()))?;
            if !looked.is_dir() {
                return Err(error).with_context(|| format!("make {}", path.display()));
            }
            if looked.permissions().mode() & 0o7777 == 0o700 {
                return Ok(());
            }
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
                .with_context(|| format!("close {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("make {}", path.display())),
    }
}

/// The names in a directory, but those that begin with a dot; none where it is
/// not there.
fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", directory.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry
            .with_context(|| format!("read {}", directory.display()))?
            .file_name();
        if let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
