//! What happens to a slice or to the node and is no denial.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Owner;
use super::event::Cursor;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Happening {
    /// Where the reader may go on.
    #[cfg_attr(test, schemars(with = "String"))]
    pub cursor: Cursor,
    /// When the daemon saw it.
    pub time: Timestamp,
    /// To whom.
    pub slice: Owner,
    /// What.
    pub what: What,
    /// The same as a sentence.
    pub sentence: String,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum What {
    /// The daemon came up: what it was before is told no more.
    DaemonStarted,
    /// Addresses, devices or queues of the node changed or were put right.
    Adjusted,
    /// A slice's context started.
    Started,
    /// A slice's context ended.
    Stopped,
    /// A slice was made by the one that controls it.
    Created,
    /// It was given other terms.
    Changed,
    /// It was destroyed.
    Destroyed,
}

impl What {
    /// As a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::DaemonStarted => "The daemon started; events from before are gone.",
            Self::Adjusted => "Addresses, devices or queues changed or were put right.",
            Self::Started => "The slice's context started.",
            Self::Stopped => "The slice's context ended.",
            Self::Created => "The slice was made by the slice that controls it.",
            Self::Changed => "The slice was given other terms by the slice that controls it.",
            Self::Destroyed => "The slice was destroyed by the slice that controls it.",
        }
    }
}
