//! The documents of `/v1` that are made for it; others are reports of `crate::report`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::pages::Written;
use crate::report::flows::{Flow, Other};
use crate::report::policies::{Refused, SlicePolicy};
use crate::report::status::{Row, Total};
use crate::report::{Link, LinkRow, Owner, Port};

/// `/v1/slices`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Slices {
    /// When the oldest of the rows was read.
    pub time: Timestamp,
    /// As in `slice status -o json`.
    pub rows: Written<Row>,
    /// The sum of all rows, those on other pages included; for those who see all.
    pub total: Option<Total>,
    /// The next page: the parameter `after`; absent on the last.
    pub next: Option<String>,
}

/// `/v1/ports`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ports {
    /// When the maps were read.
    pub time: Timestamp,
    /// As in `slice ports -o json`.
    pub ports: Written<Port>,
    /// The next page: the parameter `after`; absent on the last.
    pub next: Option<String>,
}

/// `/v1/links`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Links {
    /// When they were read.
    pub time: Timestamp,
    /// As in `slice link -o json`, with the rows of this page.
    pub links: Vec<Link<Written<LinkRow>>>,
    /// The next page: the parameter `after`; absent on the last.
    pub next: Option<String>,
}

/// `/v1/drops`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Drops {
    /// When the maps were read.
    pub time: Timestamp,
    /// By owner and reason; what never happened is absent.
    pub drops: Written<Drop>,
    /// The next page: the parameter `after`; absent on the last.
    pub next: Option<String>,
}

/// Denied calls and dropped packets of one owner for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Drop {
    /// Whose.
    pub slice: Owner,
    /// Slug of the reason.
    pub reason: String,
    /// The reason as a sentence.
    pub sentence: String,
    /// How many.
    pub count: u64,
}

/// `/v1/flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Flows {
    /// A row for each flow and hour, the latest hour first.
    pub flows: Vec<Flow>,
    /// What owners exchanged beside the rows, by hours: for what, is not known.
    pub others: Vec<Other>,
    /// The next page: the parameter `after`; absent on the last. A page that ends
    /// before the list does may be empty: it looked at as much as it may.
    pub next: Option<String>,
}

/// `/v1/policy`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Policy {
    /// Destinations refused to all slices.
    pub refuse: Vec<Refused>,
    /// What holds for slices, by name.
    pub slices: Written<SlicePolicy>,
    /// The next page: the parameter `after`; absent on the last.
    pub next: Option<String>,
}
