//! The lives of slices' contexts: start, stop, freeze, destroy. Each changes
//! something under the node's lock, so that no two commands start one slice twice;
//! a slice is asked to end without it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::record::{Record, SliceRecord};
use super::{Node, crew, locked};
use crate::cli::exit::{Exit, Failure, unknown_slice};
use crate::context::cgroup::SliceCgroup;
use crate::context::image::Images;
use crate::context::layer::Layer;
use crate::context::running::{NoAnswer, Running};
use crate::context::start::{self, Recipe, Start};
use crate::context::visit::Asked;

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

/// What has become of each of some slices.
pub type States = Vec<anyhow::Result<State>>;

/// Starts slices' contexts.
///
/// # Errors
/// For all: the node is not up. For one: the slice has no context or its image
/// is missing; or what the start meets.
pub fn start(names: &[String]) -> anyhow::Result<States> {
    start_if(names, |_| Ok(()))
}

/// The same, where the node is such as whoever asks believes.
///
/// # Errors
/// As above, and what `still` says, before anything is done.
pub fn start_if(
    names: &[String],
    still: impl Fn(&Node) -> anyhow::Result<()>,
) -> anyhow::Result<States> {
    each(names, |node, name| {
        still(node)?;
        let slice = node.slice(name)?;
        if slice.running.is_alive()? {
            return Ok(State::Already);
        }
        slice.start(node.record())?;
        Ok(State::Started)
    })
}

/// Ends everything that runs in slices: asks first, as long as policy says.
///
/// # Errors
/// For one: a process does not end.
pub fn stop(names: &[String]) -> anyhow::Result<States> {
    stop_if(names, |_| Ok(()))
}

/// The same, where the node is such as whoever asks believes.
///
/// # Errors
/// As above, and what `still` says, before anything is ended.
pub fn stop_if(
    names: &[String],
    still: impl Fn(&Node) -> anyhow::Result<()>,
) -> anyhow::Result<States> {
    // The slices get their time without the lock, and all at once: nobody need
    // wait for them, and they not for each other.
    let node = Node::open()?;
    still(&node)?;
    let slices = names.iter().map(|name| node.slice(name).map(Some));
    let asked = ask(slices.collect());
    end(names, asked, &still, |node, name, was| {
        node.slice(name)?.end()?;
        Ok(if was { State::Stopped } else { State::Already })
    })
}

/// Stops slices and starts them again.
///
/// # Errors
/// As [`stop()`] and [`start()`].
pub fn restart(names: &[String]) -> anyhow::Result<States> {
    let stopped = stop(names)?;
    let started = start(names)?;
    let both = stopped.into_iter().zip(started);
    Ok(both
        .map(|(stopped, started)| stopped.and(started))
        .collect())
}

/// Lets slices' processes stand still, or go on.
///
/// # Errors
/// For one: the kernel refuses.
pub fn freeze(names: &[String], frozen: bool) -> anyhow::Result<States> {
    each(names, |node, name| {
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

/// Ends slices and removes all that they have on disk. They are as new when
/// they are started again.
///
/// # Errors
/// As [`stop()`]; or something cannot be removed.
pub fn destroy(names: &[String]) -> anyhow::Result<States> {
    let node = Node::open()?;
    let has_context = |node: &Node, name: &str| node.record().contexts.contains_key(name);
    let slices = names.iter().map(|name| {
        // What a slice that is no more, or has no context any more, left behind
        // goes likewise.
        if !has_context(&node, name) && Layer::of(name).exists() {
            return Ok(None);
        }
        node.slice(name).map(Some)
    });
    let asked = ask(slices.collect());
    end(
        names,
        asked,
        |_| Ok(()),
        |node, name, _| {
            if has_context(node, name) {
                node.slice(name)?.end()?;
            }
            let layer = Layer::of(name);
            if !layer.exists() {
                return Ok(State::Already);
            }
            layer.remove()?;
            Ok(State::Destroyed)
        },
    )
}

fn each(
    names: &[String],
    act: impl Fn(&Node, &str) -> anyhow::Result<State>,
) -> anyhow::Result<States> {
    locked(|node| Ok(names.iter().map(|name| act(node, name)).collect()))
}

/// Asks the processes of slices to end, all at once, and waits until they have
/// or their time is over; whether there were any.
fn ask(slices: Vec<anyhow::Result<Option<Slice<'_>>>>) -> Vec<anyhow::Result<bool>> {
    let asked: Vec<anyhow::Result<_>> = slices
        .into_iter()
        .map(|slice| {
            let Some(slice) = slice? else {
                return Ok((None, false));
            };
            let was = slice.cgroup.populated()?;
            Ok((slice.ask()?, was))
        })
        .collect();
    let waited = asked.into_iter().map(|asked| {
        let (asked, was) = asked?;
        asked.map_or(Ok(()), Asked::wait)?;
        Ok(was)
    });
    waited.collect()
}

/// Does the rest for each slice whose processes were asked to end.
fn end(
    names: &[String],
    asked: Vec<anyhow::Result<bool>>,
    still: impl Fn(&Node) -> anyhow::Result<()>,
    act: impl Fn(&Node, &str, bool) -> anyhow::Result<State>,
) -> anyhow::Result<States> {
    locked(|node| {
        still(node)?;
        // The kernel ends them side by side.
        for (name, asked) in names.iter().zip(&asked) {
            if asked.is_ok()
                && let Ok(slice) = node.slice(name)
            {
                slice.cgroup.begin_kill()?;
            }
        }
        let ended = names.iter().zip(asked);
        Ok(ended.map(|(name, was)| act(node, name, was?)).collect())
    })
}

/// Starts those of these slices that start with the node; what could not be
/// started, for the owner.
pub fn autostart(record: &Record, names: &[String]) -> Vec<String> {
    let starting: Vec<Slice<'_>> = names
        .iter()
        .filter_map(|name| {
            let (recipe, slice) = record.contexts.get(name).zip(record.slices.get(name))?;
            recipe
                .autostart
                .then(|| Slice::of(record, name, slice, recipe))
        })
        .collect();
    let complaints = crew::share(&starting, |slice| {
        let started = match slice.running.is_alive() {
            Ok(true) => Ok(()),
            Ok(false) => slice.start(record),
            Err(error) => Err(error),
        };
        let error = started.err()?;
        Some(format!("slice {} was not started: {error:#}", slice.name))
    });
    complaints.unwrap_or_else(|error| {
        vec![format!(
            "some slices were not started: {error:#}; run `slice start --all`"
        )]
    })
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
            id: self.record.id(),
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
    fn ask(&self) -> anyhow::Result<Option<Asked>> {
        if self.cgroup.read("cgroup.freeze")? == "1" {
            self.cgroup.write("cgroup.freeze", "0")?;
        }
        // One that takes no connection is not asked, but ended.
        let connection = match self.running.connect() {
            Err(error) if error.is::<NoAnswer>() => None,
            connection => connection?,
        };
        let Some(connection) = connection else {
            return Ok(None);
        };
        let milliseconds = self.recipe.stop_after_ms;
        let patience = Duration::from_millis(u64::from(milliseconds)) + SLACK;
        Asked::new(connection, milliseconds, patience)
            .with_context(|| format!("stop slice {}", self.name))
            .map(Some)
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
            status: false,
            control: false,
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
