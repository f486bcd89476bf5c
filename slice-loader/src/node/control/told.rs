//! What controllers are told of the slices that they made, and why something is not done.

use std::collections::BTreeMap;
use std::fmt;

use policy::config::{Objection, Terms};
use policy::lending::Room;

use super::{Controller, granted, own};
use crate::context::running::Running;
use crate::node::managed::{self, Made, Managed};
use crate::node::record::Record;
use crate::node::{Node, snapshot};

/// Why something is not done. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The asker may not control slices.
    NotGranted,
    /// It made no slice of this name.
    NoSuchSlice,
    /// The name is somebody's.
    Taken(String),
    /// The condition does not hold; the generation that there is.
    Changed(Option<u64>),
    /// It is asked for more than may be given.
    Objections(Vec<Objection>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGranted => f.write_str("The slice may not control others."),
            Self::NoSuchSlice => f.write_str("You made no slice of that name."),
            Self::Taken(why) => f.write_str(why),
            Self::Changed(Some(generation)) => {
                write!(f, "The slice is of generation {generation} now.")
            }
            Self::Changed(None) => f.write_str("There is no such slice now."),
            Self::Objections(all) => {
                let all: Vec<_> = all.iter().map(managed::said).collect();
                f.write_str(&all.join("; "))
            }
        }
    }
}

impl std::error::Error for Refused {}

/// A slice as its controller is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Its id; absent where it is not in force.
    pub id: Option<u32>,
    /// Who made it.
    pub controller: String,
    /// Another after each change.
    pub generation: u64,
    /// Whether it is in force; else the node's owner gave its controller less since.
    pub in_force: bool,
    /// Whether its context runs.
    pub running: bool,
    /// What it was given.
    pub terms: Terms,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Whether the slice is new.
    pub created: bool,
    /// Whether anything was done.
    pub changed: bool,
    /// The slice; absent where it is gone.
    pub slice: Option<Shown>,
    /// Its id, or that which it had.
    pub id: Option<u32>,
    /// What did not go as it should: that it does not start, for example.
    pub warnings: Vec<String>,
}

/// Who may lend, and what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its slices.
    pub slices: Vec<Shown>,
    /// By key: all that it may lend, and what is left of that; null where nothing bounds it.
    pub lends: BTreeMap<&'static str, [Option<String>; 2]>,
}

/// Lists the asker's slices, and what it has left to lend.
///
/// # Errors
/// [`Refused`]; the node is not up; a file cannot be read.
pub fn list(who: &Controller) -> anyhow::Result<Listed> {
    let node = Node::open()?;
    let record = node.record();
    granted(record, who)?;
    let made = Made::read()?;
    let config = snapshot::load(record)?;
    let mut room = config.slice(&who.name).and_then(Room::of);
    for one in made.lent() {
        // One that is not in force takes nothing.
        let in_force = record.controllers.get(one.name.as_str()) == Some(&who.name);
        if let Some(room) = room.as_mut().filter(|_| in_force) {
            let _ = room.take(&one.name, &one.terms);
        }
    }
    let mine = made
        .by_name()
        .iter()
        .filter(|(_, one)| one.controller == who.name);
    Ok(Listed {
        slices: mine.map(|(name, one)| shown(record, name, one)).collect(),
        lends: room.map(|room| room.left()).unwrap_or_default(),
    })
}

/// Shows one of the asker's slices.
///
/// # Errors
/// As [`list`].
pub fn show(who: &Controller, name: &str) -> anyhow::Result<Shown> {
    let node = Node::open()?;
    granted(node.record(), who)?;
    let made = Made::read()?;
    let one = own(&made, who, name).ok_or(Refused::NoSuchSlice)?;
    Ok(shown(node.record(), name, one))
}

pub(super) fn shown(record: &Record, name: &str, one: &Managed) -> Shown {
    let in_force = record.controllers.get(name) == Some(&one.controller);
    let slice = record.slices.get(name).filter(|_| in_force);
    Shown {
        name: name.to_owned(),
        id: slice.map(|slice| slice.id),
        controller: one.controller.clone(),
        generation: one.generation,
        in_force,
        running: in_force && Running::of(name).is_alive().unwrap_or(false),
        terms: one.terms.clone(),
    }
}
