//! The lives of slices' contexts: start, stop, freeze, destroy. Each changes
//! something under the node's lock, so that no two commands start one slice twice;
//! a slice is asked to end without it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::record::{Record, SliceRecord};
use super::{Node, locked};
use crate::cli::exit::{Exit, Failure, unknown_slice};
use crate::context::cgroup::SliceCgroup;
use crate::context::image::Images;
use crate::context::layer::Layer;
use crate::context::running::{NoAnswer, Running};
use crate::context::start::{self, Recipe, Start};
use crate::context::visit;

/// What has become of a slice's context.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was not running and is now.
    Started,
    /// It was running and is not any more.
    Stopped,
    /// Its processes stand still.
    Frozen,
    /// Its processes go on.
    Thawed,
    /// All that it had on disk is gone.
    Destroyed,
    /// There was nothing to do.
    Already,
}

/// How slices are started, by name.
pub type Contexts = BTreeMap<String, Recipe>;

/// How much longer a slice may take to say that it has stopped than its
/// processes were given.
const SLACK: Duration = Duration::from_secs(1);

/// Starts a slice's context.
///
/// # Errors
/// The slice has none or its image is missing; or what the start meets.
pub fn start(name: &str) -> anyhow::Result<State> {
    locked(|node| {
        let slice = node.slice(name)?;
        if slice.running.is_alive()? {
            return Ok(State::Already);
        }
        slice.start(node.record())?;
        Ok(State::Started)
    })
}

/// Ends everything that runs in a slice: asks first, as long as policy says.
///
/// # Errors
/// A process does not end.
pub fn stop(name: &str) -> anyhow::Result<State> {
    // The slice gets its time without the lock: others need not wait for it.
    let node = Node::open()?;
    let slice = node.slice(name)?;
    let was = slice.cgroup.populated()?;
    slice.ask()?;
    locked(|node| {
        let slice = node.slice(name)?;
        slice.end()?;
        Ok(if was { State::Stopped } else { State::Already })
    })
}

/// Stops a slice and starts it again.
///
/// # Errors
/// As [`stop()`] and [`start()`].
pub fn restart(name: &str) -> anyhow::Result<State> {
    stop(name)?;
    start(name)
}

/// Lets a slice's processes stand still, or go on.
///
/// # Errors
/// The kernel refuses.
pub fn freeze(name: &str, frozen: bool) -> anyhow::Result<State> {
    locked(|node| {
        let slice = node.slice(name)?;
        // Nothing is there to stand still; and a start would wait for a process
        // that begins frozen.
        if frozen && !slice.running.is_alive()? {
            return Ok(State::Already);
        }
        let value = if frozen { "1" } else { "0" };
        if slice.cgroup.read("cgroup.freeze")? == value {
            return Ok(State::Already);
        }
        slice.cgroup.write("cgroup.freeze", value)?;
        Ok(if frozen { State::Frozen } else { State::Thawed })
    })
}

/// Ends a slice and removes all that it has on disk. It is as new when it is
/// started again.
///
/// # Errors
/// As [`stop()`]; or something cannot be removed.
pub fn destroy(name: &str) -> anyhow::Result<State> {
    let node = Node::open()?;
    // What a slice that is no more, or has no context any more, left behind goes
    // likewise.
    let layer = Layer::of(name);
    let has_context = |node: &Node| node.record().contexts.contains_key(name);
    if has_context(&node) || !layer.exists() {
        node.slice(name)?.ask()?;
    }
    locked(|node| {
        if has_context(node) {
            node.slice(name)?.end()?;
        }
        if !layer.exists() {
            return Ok(State::Already);
        }
        layer.remove()?;
        Ok(State::Destroyed)
    })
}

/// Starts those of these slices that start with the node; what could not be
/// started, for the owner.
pub fn autostart(record: &Record, names: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    for name in names {
        let Some((recipe, slice)) = record.contexts.get(name).zip(record.slices.get(name)) else {
            continue;
        };
        if !recipe.autostart {
            continue;
        }
        let slice = Slice::of(record, name, slice, recipe);
        let started = match slice.running.is_alive() {
            Ok(true) => Ok(()),
            Ok(false) => slice.start(record),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            complaints.push(format!("slice {name} was not started: {error:#}"));
        }
    }
    complaints
}

/// A slice that has a context.
#[derive(Debug)]
pub struct Slice<'a> {
    name: &'a str,
    record: &'a SliceRecord,
    recipe: &'a Recipe,
    cgroup: SliceCgroup,
    /// Its context.
    pub running: Running,
}

impl Node {
    /// The slice of this name, which has a context.
    ///
    /// # Errors
    /// There is none, or it has no context.
    pub fn slice<'a>(&'a self, name: &'a str) -> anyhow::Result<Slice<'a>> {
        let record = self.record();
        let slice = record.slices.get(name).ok_or_else(|| unknown_slice(name))?;
        let recipe = record.contexts.get(name).ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                format!("use the context of slice {name}: its policy gives it none"),
            )
            .remedy(format!(
                "add [context] to slices/{name}.toml and `slice reload`; `slice run {name} -- COMMAND` runs with the node's files"
            ))
        })?;
        Ok(Slice::of(record, name, slice, recipe))
    }
}

impl<'a> Slice<'a> {
    fn of(record: &Record, name: &'a str, slice: &'a SliceRecord, recipe: &'a Recipe) -> Self {
        Self {
            name,
            record: slice,
            recipe,
            cgroup: SliceCgroup::of(&record.holder.slices(), name),
            running: Running::of(name),
        }
    }

    fn start(&self, record: &Record) -> anyhow::Result<()> {
        let image = Images::open()?.newest(&self.recipe.image)?.ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                format!(
                    "start slice {}: there is no image {}",
                    self.name, self.recipe.image
                ),
            )
            .remedy(format!(
                "slice image import {} DIRECTORY-OR-TARBALL",
                self.recipe.image
            ))
        })?;
        let layer = Layer::of(self.name);
        layer.make(self.record.uid, self.record.id(), None)?;
        // What a first process that was killed left behind, if anything; it may
        // have been frozen, and its successor would be born so.
        self.cgroup.end_payload()?;
        self.cgroup.write("cgroup.freeze", "0")?;
        start::start(&Start {
            name: self.name,
            uid: self.record.uid,
            uids: record.uids_per_slice,
            cgroup: self.cgroup.path(),
            recipe: self.recipe,
            image: &image.tree,
            version: image.version,
            upper: &layer.upper(),
            work: &layer.work(),
        })
        .with_context(|| format!("start slice {}", self.name))
    }

    /// Asks its processes to end, if it runs; it may be frozen, and then they
    /// could not.
    fn ask(&self) -> anyhow::Result<()> {
        if self.cgroup.read("cgroup.freeze")? == "1" {
            self.cgroup.write("cgroup.freeze", "0")?;
        }
        // One that takes no connection is not asked, but ended.
        let connection = match self.running.connect() {
            Err(error) if error.is::<NoAnswer>() => None,
            connection => connection?,
        };
        if let Some(connection) = connection {
            let patience = Duration::from_millis(u64::from(self.recipe.stop_after_ms)) + SLACK;
            visit::stop(&connection, self.recipe.stop_after_ms, patience)
                .with_context(|| format!("stop slice {}", self.name))?;
        }
        Ok(())
    }

    /// Ends what still runs, and forgets the context.
    fn end(&self) -> anyhow::Result<()> {
        self.cgroup.kill()?;
        self.running.remove()
    }
}

/// Which running slices another policy was given that holds from their next
/// start on, for the owner.
pub fn outdated(former: &Contexts, next: &Contexts) -> Vec<String> {
    let changed = next.iter().filter(|(name, recipe)| {
        let at_start = |recipe: &Recipe| Recipe {
            autostart: false,
            stop_after_ms: 0,
            ..recipe.clone()
        };
        former
            .get(*name)
            .is_some_and(|before| at_start(before) != at_start(recipe))
            && Running::of(name).is_alive().unwrap_or(false)
    });
    changed
        .map(|(name, _)| {
            format!("the new [context] of slice {name} holds from `slice restart {name}` on")
        })
        .collect()
}

/// Ends the contexts of slices whose policy gives them none any more; what was
/// ended, for the owner.
///
/// # Errors
/// A process does not end.
pub fn end_those_without(next: &Record, former: &Record) -> anyhow::Result<Vec<String>> {
    let mut told = Vec::new();
    for (name, recipe) in &former.contexts {
        let Some(record) = next.slices.get(name) else {
            continue;
        };
        if next.contexts.contains_key(name) {
            continue;
        }
        let slice = Slice::of(next, name, record, recipe);
        if slice.running.is_alive()? {
            told.push(format!(
                "slice {name} has no [context] any more: what ran in it was ended; its files \
                 stay until `slice destroy {name}`"
            ));
        }
        slice.end()?;
    }
    Ok(told)
}

/// Removes what contexts left, once none runs.
///
/// # Errors
/// Something cannot be removed.
pub fn forget_all() -> anyhow::Result<()> {
    crate::context::running::remove_all()
}

/// Removes what the contexts of these slices left, which are gone.
///
/// # Errors
/// Something cannot be removed.
pub fn forget<'n>(names: impl Iterator<Item = &'n str>) -> anyhow::Result<()> {
    let mut result = Ok(());
    for name in names {
        result = result.and(Running::of(name).remove());
    }
    result
}
