//! The listeners of all slices, held by the daemon: one for each directory that
//! is shown to a slice as its `/run/slice`. And that of the status page on the node's
//! localhost, where policy says so.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

use super::quota::BACKLOG;
use super::wire::Viewer;
use crate::context::shown;
use crate::node::Node;
use crate::report::happening::What;

/// The name of the socket in a slice's directory.
pub const NAME: &str = "status.sock";
/// What it is called until it can be connected to.
const NEW: &str = ".status.sock";

/// A slice's listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Tells it from others, also from earlier ones of the same slice.
    pub key: u64,
    /// Whose it is.
    pub viewer: Viewer,
    /// The socket.
    pub socket: Arc<OwnedFd>,
    /// Which file it is, so that one is missed that was removed or replaced; or which
    /// port.
    file: (u64, u64),
}

/// Those of all slices.
#[derive(Debug, Default)]
pub struct Listeners {
    by_name: BTreeMap<String, Listener>,
    page: Option<Listener>,
    /// Why there was none at the last look.
    page_failed: Option<String>,
    last: u64,
    /// Those that are found first were there before the daemon.
    followed: bool,
}

/// What has changed.
#[derive(Debug, Default)]
pub struct Change {
    /// Those that came.
    pub come: Vec<Listener>,
    /// Keys and slices of those that went.
    pub gone: Vec<(u64, Viewer)>,
    /// Whether those that came did so just now.
    just_now: bool,
}

impl Change {
    /// Contexts that started and ended; a listener that was replaced is neither.
    pub fn happened(&self) -> Vec<(&Viewer, What)> {
        let come = self.come.iter().map(|listener| &listener.viewer);
        let come: Vec<_> = come.filter(|_| self.just_now).collect();
        let gone: Vec<_> = self.gone.iter().map(|(_, viewer)| viewer).collect();
        // The page is no context.
        let of_slice = |viewer: &&&Viewer| **viewer != &Viewer::node();
        let ended = gone.iter().filter(|viewer| !come.contains(viewer));
        let started = come.iter().filter(|viewer| !gone.contains(viewer));
        let (ended, started) = (ended.filter(of_slice), started.filter(of_slice));
        let ended = ended.map(|viewer| (*viewer, What::Stopped));
        ended
            .chain(started.map(|viewer| (*viewer, What::Started)))
            .collect()
    }
}

impl Listeners {
    /// All that there are.
    pub fn all(&self) -> Vec<Listener> {
        self.by_name.values().chain(&self.page).cloned().collect()
    }

    /// Makes what is missing, lets go of what is too much.
    ///
    /// # Errors
    /// The node is not up, or the directories cannot be read. One that cannot
    /// be made is no error: it is told, and tried again the next time.
    pub fn follow(&mut self) -> anyhow::Result<Change> {
        // First the directories: one that a slice gets meanwhile is of the slice
        // that the record has then, or is looked at again.
        let names = directories().context("list the slices' directories")?;
        let node = Node::open()?;
        let mut change = Change {
            just_now: std::mem::replace(&mut self.followed, true),
            ..Change::default()
        };
        let mut next = BTreeMap::new();
        for name in names {
            let Some(slice) = node.record().slices.get(&name) else {
                continue;
            };
            let viewer = Viewer {
                name: name.clone(),
                id: slice.id,
            };
            let directory = Path::new(shown::DIRECTORY).join(&name);
            let there = self.by_name.remove(&name);
            let kept = there.filter(|listener| {
                let same = listener.viewer == viewer
                    && file(&directory.join(NAME)).is_ok_and(|file| file == listener.file);
                if !same {
                    change.gone.push((listener.key, listener.viewer.clone()));
                }
                same
            });
            let listener = match kept {
                Some(listener) => listener,
                None => match bind(&directory) {
                    Ok((socket, file)) => {
                        self.last += 1;
                        let listener = Listener {
                            key: self.last,
                            viewer,
                            socket: Arc::new(socket.into()),
                            file,
                        };
                        change.come.push(listener.clone());
                        listener
                    }
                    // A slice that was stopped meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => {
                        tracing::warn!(slice = name, "could not listen for the slice: {error}");
                        continue;
                    }
                },
            };
            next.insert(name, listener);
        }
        let rest = std::mem::replace(&mut self.by_name, next);
        change
            .gone
            .extend(rest.into_values().map(|gone| (gone.key, gone.viewer)));
        self.follow_page(node.record().page, &mut change);
        Ok(change)
    }

    /// The same of the status page.
    fn follow_page(&mut self, port: Option<u16>, change: &mut Change) {
        let place = |port: u16| (0, u64::from(port));
        if let Some(gone) = self.page.take_if(|page| port.map(place) != Some(page.file)) {
            change.gone.push((gone.key, gone.viewer));
        }
        let Some(port) = port.filter(|_| self.page.is_none()) else {
            return;
        };
        match bind_page(port) {
            Ok(socket) => {
                self.last += 1;
                let listener = Listener {
                    key: self.last,
                    viewer: Viewer::node(),
                    socket: Arc::new(socket.into()),
                    file: place(port),
                };
                change.come.push(listener.clone());
                self.page = Some(listener);
                self.page_failed = None;
            }
            Err(error) => {
                // It is tried again at every look, and told once.
                let why = error.to_string();
                if self.page_failed.as_ref() != Some(&why) {
                    tracing::warn!("could not serve the status page on 127.0.0.1:{port}: {why}");
                }
                self.page_failed = Some(why);
            }
        }
    }
}

/// The names that have a directory.
fn directories() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(shown::DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// A listener in this directory, in the place of any that was there.
fn bind(directory: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let (new, name) = (directory.join(NEW), directory.join(NAME));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(&new)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    socket.set_nonblocking(true)?;
    // For all users of the slice; on the node nobody reaches the directory.
    fs::set_permissions(&new, Permissions::from_mode(0o666))?;
    fs::rename(&new, &name)?;
    let file = file(&name)?;
    Ok((socket, file))
}

/// The listener of the page, which no other machine reaches, and no slice.
fn bind_page(port: u16) -> io::Result<TcpListener> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    socket.set_nonblocking(true)?;
    // Connections have it of their listener: who takes them may not set it.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    Ok(socket)
}

fn file(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
