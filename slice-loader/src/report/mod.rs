//! What the node says about itself: one form for `-o json`, for the daemon's
//! API and, rendered, for people.
//!
//! Everything here is computed from map values that were read, not from maps,
//! so that tests on the host see the same numbers as the node's owner.
//! Field names are promised for `/v1`; fields are only added.

use serde::{Deserialize, Serialize};

pub mod admission;
pub mod clock;
mod counted;
pub mod event;
pub mod flows;
pub mod happening;
pub mod links;
pub mod links_past;
pub mod policies;
pub mod ports;
pub mod rates;
pub mod read;
pub mod status;

pub use clock::Clock;
pub use event::Event;
pub use links::{Link, LinkRow};
pub use links_past::LinksPast;
pub use ports::{Port, PortKind, Ports};
pub use status::{Row, RowKind, Status};

/// An owner as it appears in every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Owner {
    /// The number of [`policy::SliceId`].
    pub id: u32,
    /// The slice's name, `node` or `unattributed`; absent for a slice that was
    /// destroyed while records of it live.
    pub name: Option<String>,
}

/// What is used of something, and how much there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Used {
    /// Used now.
    pub usage: u64,
    /// Most that may be used; absent where nothing bounds it.
    pub limit: Option<u64>,
}

impl Owner {
    /// The node itself.
    #[must_use]
    pub fn node() -> Self {
        Self {
            id: policy::SliceId::NODE.0,
            name: Some(NODE.to_owned()),
        }
    }

    /// The name, or what to call an owner that has none any more.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => format!("gone#{}", self.id),
        }
    }
}

/// Names of the owners, by id.
#[derive(Clone, Debug, Default)]
pub struct Names(std::collections::BTreeMap<u32, String>);

impl Names {
    /// The node's two fixed rows and these slices.
    #[must_use]
    pub fn new<'a>(slices: impl IntoIterator<Item = (policy::SliceId, &'a str)>) -> Self {
        let fixed = [
            (policy::SliceId::NODE, NODE),
            (policy::SliceId::UNATTRIBUTED, UNATTRIBUTED),
        ];
        Self(
            fixed
                .into_iter()
                .chain(slices)
                .map(|(id, name)| (id.0, name.to_owned()))
                .collect(),
        )
    }

    /// Whether there is an owner with this id.
    #[must_use]
    pub fn knows(&self, id: policy::SliceId) -> bool {
        self.0.contains_key(&id.0)
    }

    /// The owner with this id.
    #[must_use]
    pub fn owner(&self, id: policy::SliceId) -> Owner {
        Owner {
            id: id.0,
            name: self.0.get(&id.0).cloned(),
        }
    }
}

/// How the node's own row is called.
pub const NODE: &str = "node";
/// How the row of packets without an owner is called.
pub const UNATTRIBUTED: &str = "unattributed";
