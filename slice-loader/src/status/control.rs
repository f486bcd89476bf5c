//! Control by slices, from the request to the answer.
//!
//! ```text
//!  nobody's process                             the daemon
//!  front: path, headers, JSON ── Order, Terms ──> orders ──> a process for each change:
//!                                                           the grant, the lock, admission
//!  json:  JSON to a slice's file, and back
//! ```
//!
//! What comes to the daemon are numbers, names and keys ([`policy::config::Terms`]); it parses no text
//! of a slice's.

pub mod documents; // what is told, and asked for
#[cfg(test)]
pub mod fixture; // a node in memory
pub mod front; // the process that parses
pub mod json; // from JSON to the policy language, and from places back to paths
pub mod orders; // the daemon's side
pub mod process; // that makes a change
pub mod routes; // rows of the table of routes

use serde::{Deserialize, Serialize};

use crate::node::control::When;
use crate::node::control_log::Act;

/// Most bytes of what is asked for, as JSON: of a request's body and of what the daemon is handed.
pub const BODY: u32 = 32 << 10;

/// What a slice asks to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Whether it may ask for anything of this.
    May,
    /// To be told of all its slices, and of what is left to lend.
    List,
    /// To be told of one.
    Show(String),
    /// That this slice be there, with the terms that are the question's body.
    Put {
        /// Its name.
        name: String,
        /// On which condition.
        when: When,
    },
    /// That it be there no more, nor anything that it had.
    Destroy {
        /// Its name.
        name: String,
        /// On which condition.
        when: When,
    },
    /// That it start, stop, or both.
    Live {
        /// Its name.
        name: String,
        /// Which.
        act: Act,
    },
}

impl Order {
    /// Whether it is something to be done, which may take its time; else something to be told.
    #[must_use]
    pub const fn changes(&self) -> bool {
        !matches!(self, Self::May | Self::List | Self::Show(_))
    }
}
