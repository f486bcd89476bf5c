//! What slices with the grant `control` may do with the slices that they made: make, change, destroy,
//! start and stop them. Each change is judged and made under the node's lock, as a whole, by the same
//! steps as `slice reload`, and on the ground of the owner's policy that is in force.
//!
//! The order makes a change that was interrupted one that was made or one that was not: it is written
//! down (`control_log`), then it is the file of the slice that decides (`managed`), then the node is
//! brought to it. Killed in between, [`settle`] does the rest, and writes down how it ended: at once where
//! the daemon lives, and else when it starts.

use std::fs::File;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use policy::config::{Objection, SliceName, Terms};
use policy::lending::Room;
use serde::Serialize;

use super::control_log::{self, Act, Change, Entry};
use super::lifecycle::apply;
use super::managed::{self, Made, Managed};
use super::record::Record;
use super::{Node, NotUp, contexts, facts, snapshot};
use crate::context::layer::Layer;
use crate::context::running::Running;

mod told; // what controllers are told
pub(super) mod turn; // one change at a time

use told::shown;
pub use told::{Done, Listed, Refused, Shown, list, show};
use turn::begin;

/// Who asks: a slice by its name and id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its name.
    pub name: String,
    /// Its id: another slice may have the name by now.
    pub id: u32,
}

/// On which condition something is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Whether the slice must be there, or must not.
    pub there: Option<bool>,
    /// The generation that it must have.
    pub generation: Option<u64>,
}

/// Whether the asker is a slice that may control others, now.
///
/// # Errors
/// [`Refused::NotGranted`].
pub fn granted(record: &Record, who: &Controller) -> anyhow::Result<()> {
    let there = record
        .slices
        .get(&who.name)
        .is_some_and(|slice| slice.id == who.id);
    let recipe = record
        .contexts
        .get(&who.name)
        .filter(|recipe| recipe.control);
    if there && recipe.is_some() {
        Ok(())
    } else {
        Err(Refused::NotGranted.into())
    }
}

/// The slice of this name, if the asker made it.
fn own<'a>(made: &'a Made, who: &Controller, name: &str) -> Option<&'a Managed> {
    let one = made.by_name().get(name)?;
    (one.controller == who.name).then_some(one)
}

impl When {
    /// Whether it holds for a slice of this generation, or for none.
    ///
    /// # Errors
    /// It does not: [`Refused::Changed`].
    pub fn holds(self, generation: Option<u64>) -> Result<(), Refused> {
        let as_said = self.there.is_none_or(|must| must == generation.is_some());
        let same = self.generation.is_none_or(|of| Some(of) == generation);
        if as_said && same {
            Ok(())
        } else {
            Err(Refused::Changed(generation))
        }
    }
}

/// Makes a slice, or gives one that the asker made other terms. The same terms again change nothing.
///
/// # Errors
/// [`Refused`], and nothing is changed; or a step fails, and what was there is put back.
pub fn put(who: &Controller, name: &SliceName, terms: Terms, when: When) -> anyhow::Result<Done> {
    let (_turn, record) = begin()?;
    granted(&record, who)?;
    let made = Made::load()?;
    let text = name.as_str();
    let there = own(&made, who, text);
    when.holds(there.map(|one| one.generation))?;
    if there.is_some_and(|one| one.leaving) {
        return Err(Refused::Taken("The slice is being destroyed.".into()).into());
    }
    if let Some(same) = there.filter(|one| one.terms == terms)
        && record.controllers.contains_key(text)
    {
        let slice = shown(&record, text, same);
        return Ok(Done {
            created: false,
            changed: false,
            id: slice.id,
            slice: Some(slice),
            warnings: Vec::new(),
        });
    }
    let config = snapshot::load(&record)?;
    objections(&config, &made, who, (name, &terms))?;
    // After that: of names that do not begin as its own do it is told nothing.
    if there.is_none() {
        free(&record, &made, text)?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = u64::try_from(now.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
    let next = Managed {
        controller: who.name.clone(),
        created: there.map_or(now, |one| one.created),
        generation: there.map_or(now, |one| now.max(one.generation + 1)),
        leaving: false,
        terms,
    };
    let former = there.cloned();
    let log = Change::of(
        (&who.name, who.id),
        if former.is_some() {
            Act::Change
        } else {
            Act::Create
        },
        text,
        (former.as_ref().map(|one| &one.terms), Some(&next.terms)),
    );
    let all = made.with(text, Some(next.clone()));
    let applied = apply(&record, &config, &all, None, |wanted| {
        if let Some(out) = wanted.left_out.iter().find(|out| out.name == *name) {
            return Err(Refused::Objections(out.why.iter().map(own_affair).collect()).into());
        }
        log.begin()?;
        managed::write(text, Some(&next))
    });
    let reloaded = log.end(applied, || undo(&record, text, former.as_ref()))?;
    let record = Record::load()?.ok_or(NotUp)?;
    let slice = shown(&record, text, &next);
    let about = format!("slice {text} ");
    let warnings = reloaded.warnings.into_iter();
    Ok(Done {
        created: former.is_none(),
        changed: true,
        id: slice.id,
        slice: Some(slice),
        // Those about others are the owner's.
        warnings: warnings.filter(|said| said.contains(&about)).collect(),
    })
}

/// Puts back the file of a slice, if the node is as it was.
fn undo(before: &Record, name: &str, former: Option<&Managed>) -> anyhow::Result<()> {
    // Each change of the node is another edition, whatever it changes of a slice.
    if Record::load()?.is_some_and(|now| now.edition != before.edition) {
        // Only the end of it failed: the file is true.
        return Ok(());
    }
    managed::write(name, former)
}

/// What does not fit the node as a whole tells of others.
fn own_affair(why: &Objection) -> Objection {
    if !why.field.is_empty() {
        return why.clone();
    }
    tracing::warn!("a slice was not made: {}", why.message);
    Objection::new(
        "",
        "The node has no room for it now; its owner is told why.",
    )
}

/// Whether the name is nobody's, nor are files that a slice of this name left.
fn free(record: &Record, made: &Made, name: &str) -> anyhow::Result<()> {
    let taken = record.slices.contains_key(name)
        || made.by_name().contains_key(name)
        || facts::known_of(&[name.to_owned()])?.contains(name);
    if taken {
        return Err(Refused::Taken("The name is somebody else's.".into()).into());
    }
    if Layer::of(name).exists() {
        let why = "Files of an earlier slice of that name are on the disk; the node's owner removes them.";
        return Err(Refused::Taken(why.into()).into());
    }
    Ok(())
}

/// Everything that the asker may not give, with what it has given to others.
fn objections(
    config: &policy::config::Config,
    made: &Made,
    who: &Controller,
    (name, terms): (&SliceName, &Terms),
) -> anyhow::Result<()> {
    let room = config.slice(&who.name).and_then(Room::of);
    let mut room = room.ok_or(Refused::NotGranted)?;
    let others = made.lent().into_iter();
    let others = others.filter(|one| one.controller.as_str() == who.name && one.name != *name);
    for one in others {
        // One that does not fit any more takes nothing; whoever wants its part gets it.
        let _ = room.take(&one.name, &one.terms);
    }
    room.take(name, terms)
        .map_err(|wrong| Refused::Objections(wrong).into())
}

/// Ends a slice that the asker made and removes all that it has. Before anything of it ends its file
/// says that it goes: interrupted from there on, it is destroyed when that is settled.
///
/// # Errors
/// As [`put`]; one that was interrupted goes on when it is asked for again.
pub fn destroy(who: &Controller, name: &SliceName, when: When) -> anyhow::Result<Done> {
    let text = name.as_str();
    let (former, log, id) = {
        let (_turn, record) = begin()?;
        granted(&record, who)?;
        let made = Made::load()?;
        let there = own(&made, who, text).ok_or(Refused::NoSuchSlice)?;
        when.holds(Some(there.generation))?;
        let former = there.clone();
        let gone = Managed {
            leaving: true,
            ..former.clone()
        };
        let log = Change::of(
            (&who.name, who.id),
            Act::Destroy,
            text,
            (Some(&former.terms), None),
        );
        log.begin()?;
        if let Err(error) = managed::write(text, Some(&gone)) {
            return log.end(Err(error), || Ok(()));
        }
        (former, log, record.slices.get(text).map(|slice| slice.id))
    };
    // What runs in it has its time to end, without the lock. What cannot be asked is ended below.
    let names = [text.to_owned()];
    if let Err(error) = contexts::stop_if(&names, |node| mine(node, who, text).map(drop)) {
        tracing::debug!("could not ask {text} to end: {error:#}");
    }
    {
        // Without a turn it is as if it were interrupted.
        let (_turn, record) = begin()?;
        let forward = || {
            let (made, config) = (Made::load()?, snapshot::load(&record)?);
            let made = made.without_displaced(&config);
            apply(&record, &config, &made, None, |_| Ok(()))
        };
        log.end(forward(), || undo(&record, text, Some(&former)))?;
    }
    bury(text)?;
    Ok(Done {
        created: false,
        changed: true,
        slice: None,
        id,
        warnings: Vec::new(),
    })
}

/// Removes what a slice left that is not in force any more; its file when nothing of it is in
/// its place.
fn bury(name: &str) -> anyhow::Result<()> {
    let locked = begin()?;
    let (_, record) = &locked;
    let made = Made::load()?;
    let leaving = made.by_name().get(name).is_some_and(|one| one.leaving);
    // The owner may have a slice of this name by now.
    if !leaving || record.slices.contains_key(name) {
        return Ok(());
    }
    Running::of(name).remove()?;
    let layer = Layer::of(name);
    layer.set_aside()?;
    managed::write(name, None)?;
    // Its names may be any number: nobody waits for them.
    drop(locked);
    layer.clear_away()
}

/// Starts, stops or restarts a slice that the asker made.
///
/// # Errors
/// [`Refused`]; or what the start or stop meets.
pub fn act(who: &Controller, name: &SliceName, act: Act) -> anyhow::Result<Done> {
    let text = name.as_str();
    let names = [text.to_owned()];
    let still = |node: &Node| mine(node, who, text).map(drop);
    still(&Node::open()?)?;
    let log = Change::of((&who.name, who.id), act, text, (None, None));
    // It has no turn: by this is known that somebody is left to write how it ended.
    let _acting = acting(FlockArg::LockShared)?;
    log.begin()?;
    let did = || -> anyhow::Result<bool> {
        let one = |states: contexts::States| -> anyhow::Result<bool> {
            let state = states.into_iter().next();
            let state = state.unwrap_or(Ok(contexts::State::Already))?;
            Ok(state != contexts::State::Already)
        };
        let stopped = match act {
            Act::Stop | Act::Restart => one(contexts::stop_if(&names, still)?)?,
            _ => false,
        };
        let started = match act {
            Act::Start | Act::Restart => one(contexts::start_if(&names, still)?)?,
            _ => false,
        };
        Ok(stopped || started)
    };
    let changed = log.end(did(), || Ok(()))?;
    let node = Node::open()?;
    let one = mine(&node, who, text)?;
    let slice = shown(node.record(), text, &one);
    Ok(Done {
        created: false,
        changed,
        id: slice.id,
        slice: Some(slice),
        warnings: Vec::new(),
    })
}

/// The slice that the asker made and that is in force.
fn mine(node: &Node, who: &Controller, name: &str) -> anyhow::Result<Managed> {
    granted(node.record(), who)?;
    let made = Made::load()?;
    let one = own(&made, who, name).ok_or(Refused::NoSuchSlice)?;
    if node.record().controllers.get(name) != Some(&who.name) {
        let why = "The slice is not in force: the node's owner gave you less since.";
        return Err(Refused::Taken(why.into()).into());
    }
    Ok(one.clone())
}

/// A lock that those have who start and stop slices.
fn acting(how: FlockArg) -> anyhow::Result<Flock<File>> {
    let open = || File::open(managed::DIRECTORY);
    let lock = |file| Flock::lock(file, how).map_err(|(_, errno)| errno.into());
    open()
        .and_then(lock)
        .with_context(|| format!("lock {}", managed::DIRECTORY))
}

/// Whether nothing can be left of a change: none was ever begun.
#[must_use]
pub fn is_settled() -> bool {
    let paths = [managed::DIRECTORY, control_log::PATH];
    paths.iter().all(|path| !Path::new(path).exists())
}

/// The changes of which nobody is left to write how they ended. Those that have turns are over: the
/// turn is the caller's.
fn left() -> anyhow::Result<Vec<Entry>> {
    let alone = acting(FlockArg::LockExclusiveNonblock);
    let mut left = control_log::open()?;
    let is_act = |act| matches!(act, Act::Start | Act::Stop | Act::Restart);
    left.retain(|entry| alone.is_ok() || !is_act(entry.act));
    Ok(left)
}

/// Writes how a change ended that was interrupted, once the node is as the files say.
fn end(entry: Entry, made: &Made, record: &Record) {
    let (who, name) = (&entry.controller.0, entry.slice.as_str());
    let there = made.by_name().get(name);
    let there = there.filter(|one| one.controller == *who && !one.leaving);
    let done = match entry.act {
        Act::Create | Act::Change => there.is_some_and(|one| {
            record.controllers.contains_key(name) && Some(&one.terms) == entry.after.as_ref()
        }),
        Act::Destroy => there.is_none(),
        Act::Start | Act::Stop | Act::Restart => false,
    };
    let ended = if done {
        Ok(())
    } else {
        Err(anyhow::anyhow!("it was interrupted"))
    };
    // What it says of a failure is that of the entry.
    let _ = Change::left(entry).end(ended, || Ok(()));
}

/// Does what was left when the daemon, or the machine, ended in the middle of a change.
///
/// # Errors
/// It cannot be done.
pub fn settle() -> anyhow::Result<()> {
    if is_settled() {
        return Ok(());
    }
    let leaving: Vec<String> = {
        let (_turn, record) = begin()?;
        let made = Made::load()?;
        // A log that cannot be read is no reason to leave the node as it is.
        let left = left().unwrap_or_else(|error| {
            tracing::warn!("{error:#}");
            Vec::new()
        });
        if made.by_name().is_empty() && record.controllers.is_empty() && left.is_empty() {
            return Ok(());
        }
        let config = snapshot::load(&record)?;
        apply(
            &record,
            &config,
            &made.clone().without_displaced(&config),
            None,
            |_| Ok(()),
        )?;
        let record = Record::load()?.ok_or(NotUp)?;
        // In force, but not started yet: to `apply` they are nothing new.
        let created = left.iter().filter(|entry| entry.act == Act::Create);
        let created: Vec<_> = created.map(|entry| entry.slice.clone()).collect();
        for warning in contexts::autostart(&record, &created) {
            tracing::warn!("{warning}");
        }
        for entry in left {
            end(entry, &made, &record);
        }
        let all = made.by_name().iter().filter(|(_, one)| one.leaving);
        all.map(|(name, _)| name.clone()).collect()
    };
    leaving.iter().try_for_each(|name| bury(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_made_to_the_slice_that_was_meant_and_no_other() {
        let there = Managed {
            controller: "ctl".into(),
            created: 1,
            generation: 7,
            leaving: false,
            terms: Terms::default(),
        };
        let when = |there, generation| When { there, generation };
        for (when, with, without) in [
            (when(None, None), true, true),
            (when(Some(true), None), true, false),
            (when(Some(false), None), false, true),
            (when(Some(true), Some(7)), true, false),
            (when(Some(true), Some(6)), false, false),
            (when(None, Some(7)), true, false),
        ] {
            assert_eq!(when.holds(Some(7)).is_ok(), with, "{when:?}");
            assert_eq!(when.holds(None).is_ok(), without, "{when:?}");
        }
        // Of another's slice the condition is not even looked at.
        let made = Made::default().with("exp_a", Some(there));
        let who = |name: &str| Controller {
            name: name.into(),
            id: 1,
        };
        assert!(own(&made, &who("ctl"), "exp_a").is_some());
        for (who, name) in [
            (who("ctl"), "exp_b"),
            (who("exp_a"), "exp_a"),
            (who("other"), "exp_a"),
        ] {
            assert_eq!(own(&made, &who, name), None);
        }
    }
}
