//! Every counter that `slice status` shows, by owner and name, and how they
//! moved.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use policy::Reason;
use serde_json::Value;

/// Owner, and name with dots: `denials.port_reserved`, `external.sent.bytes`.
type Key = (String, String);

/// All counters and gauges at one time.
pub struct Counters(BTreeMap<Key, i64>);

/// Those that moved, and by how much.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change(BTreeMap<Key, i64>);

/// What is counted of an owner.
const COUNTED: &[&str] = &[
    "/sockets/usage",
    "/sockets_opened",
    "/claims/usage",
    "/flows",
    "/external",
    "/loopback",
    "/denials/by_reason",
    "/events_suppressed",
];

/// What is counted of slices alone.
const COUNTED_OF_SLICES: &[&str] = &["/connections/usage", "/connections_started"];

impl Counters {
    /// Reads the output of `slice status -o json`.
    ///
    /// # Errors
    /// It is not what is documented.
    pub fn parse(json: &str) -> Result<Counters> {
        let status: Value = serde_json::from_str(json).context("understand slice status")?;
        let mut counters = BTreeMap::new();
        for row in status["rows"]
            .as_array()
            .context("slice status has no rows")?
        {
            let owner = row["name"].as_str().context("a row has no name")?;
            let of_slices = match row["kind"].as_str() {
                Some("slice") => COUNTED_OF_SLICES,
                _ => &[],
            };
            for path in COUNTED.iter().chain(of_slices) {
                let value = row
                    .pointer(path)
                    .with_context(|| format!("{owner} has no {path}"))?;
                let name = path.trim_start_matches('/');
                let name = name
                    .trim_end_matches("/by_reason")
                    .trim_end_matches("/usage");
                collect(&mut counters, owner, name, value);
            }
        }
        Ok(Counters(counters))
    }

    /// One counter.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn get(&self, owner: &str, name: &str) -> Result<i64> {
        let key = (owner.to_owned(), name.to_owned());
        self.0
            .get(&key)
            .copied()
            .with_context(|| format!("{owner} has no counter {name}"))
    }

    /// What moved since.
    pub fn since(&self, before: &Counters) -> Change {
        let moved = self.0.iter().map(|(key, now)| {
            let then = before.0.get(key).copied().unwrap_or(0);
            (key.clone(), now - then)
        });
        Change(moved.filter(|(_, by)| *by != 0).collect())
    }
}

fn collect(counters: &mut BTreeMap<Key, i64>, owner: &str, name: &str, value: &Value) {
    if let Some(count) = value.as_i64() {
        counters.insert((owner.to_owned(), name.to_owned()), count);
    }
    for (part, value) in value.as_object().into_iter().flatten() {
        collect(counters, owner, &format!("{name}.{part}"), value);
    }
}

impl Change {
    /// The change that consists of these denials.
    pub fn of_denials(denials: &[(&str, Reason, i64)]) -> Change {
        let entry = |(owner, reason, by): &(&str, Reason, i64)| {
            (
                ((*owner).to_owned(), format!("denials.{}", reason.slug())),
                *by,
            )
        };
        Change(
            denials
                .iter()
                .map(entry)
                .filter(|(_, by)| *by != 0)
                .collect(),
        )
    }

    /// The change that consists of these counters.
    pub fn of(counters: &[(&str, &str, i64)]) -> Change {
        let entry = |(owner, name, by): &(&str, &str, i64)| {
            (((*owner).to_owned(), (*name).to_owned()), *by)
        };
        Change(
            counters
                .iter()
                .map(entry)
                .filter(|(_, by)| *by != 0)
                .collect(),
        )
    }

    /// Whether nothing moved.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Denials alone.
    pub fn denials(&self) -> Change {
        self.only("denials.")
    }

    /// Everything but these.
    pub fn without(mut self, start: &str) -> Change {
        self.0.retain(|(_, name), _| !name.starts_with(start));
        self
    }

    /// Counters whose names start so.
    pub fn only(&self, start: &str) -> Change {
        let mut change = self.clone();
        change.0.retain(|(_, name), _| name.starts_with(start));
        change
    }

    /// Counters, not gauges, that went back: none ever may.
    pub fn back(&self) -> Vec<String> {
        let gauges = ["sockets", "connections", "claims", "flows"];
        let back = self
            .0
            .iter()
            .filter(|((_, name), by)| **by < 0 && !gauges.contains(&name.as_str()));
        back.map(|((owner, name), by)| format!("{owner} {name} {by:+}"))
            .collect()
    }

    /// How much one counter moved.
    pub fn by(&self, owner: &str, name: &str) -> i64 {
        self.0
            .get(&(owner.to_owned(), name.to_owned()))
            .copied()
            .unwrap_or(0)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (at, ((owner, name), by)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{owner} {name} {by:+}")?;
        }
        Ok(())
    }
}
