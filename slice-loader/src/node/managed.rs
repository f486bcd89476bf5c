//! The slices that slices made: a file for each in /var/lib/slice/managed, root's, beside the owner's
//! policy and apart from it. Who removes a file and reloads takes the slice off the node.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use policy::config::{Config, Objection, SliceName, Terms};
use policy::lending::{LeftOut, Lent};
use serde::{Deserialize, Serialize};

use super::facts;
use super::record::{read_json, write_json};

/// Where the files are.
pub const DIRECTORY: &str = "/var/lib/slice/managed";

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Managed {
    /// Who made it.
    pub controller: String,
    /// When, in microseconds since 1970: the later is left out first.
    pub created: u64,
    /// Another after each change, and never one that a slice of this name had before.
    pub generation: u64,
    /// Whether it is being destroyed: then it is not in force, and its files go.
    #[serde(default)]
    pub leaving: bool,
    /// What it asked for.
    pub terms: Terms,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Made {
    by_name: BTreeMap<String, Managed>,
    known: Vec<LeftOut>,
    warnings: Vec<String>,
}

impl Made {
    /// Reads them, and asks the account database for their names.
    ///
    /// # Errors
    /// As [`Made::read`]; getent cannot be run.
    pub fn load() -> anyhow::Result<Self> {
        let mut made = Self::read()?;
        let names: Vec<String> = made.by_name.keys().cloned().collect();
        if !names.is_empty() {
            let known = facts::known_of(&names)?;
            made.known = made
                .lent_all()
                .into_iter()
                .filter(|one| known.contains(one.name.as_str()))
                .map(|one| LeftOut {
                    name: one.name,
                    controller: one.controller,
                    why: vec![Objection::new(
                        "name",
                        "the node has an account or group of this name",
                    )],
                    displaced: false,
                })
                .collect();
        }
        Ok(made)
    }

    /// Reads them alone: no other program is waited for, and none of them is known to have the name
    /// of an account.
    ///
    /// # Errors
    /// The directory cannot be read; a file that cannot is a warning, since no slice may keep the
    /// node down.
    pub fn read() -> anyhow::Result<Self> {
        let mut made = Self::default();
        let entries = match fs::read_dir(DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(made),
            entries => entries.with_context(|| format!("list {DIRECTORY}"))?,
        };
        for entry in entries {
            let path = entry.with_context(|| format!("list {DIRECTORY}"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(name) = name.strip_suffix(".json") else {
                continue;
            };
            let read = SliceName::new(name)
                .map_err(|bad| anyhow::anyhow!("the name \"{name}\" {bad}"))
                .and_then(|_| read_json::<Managed>(&path));
            match read {
                Ok(Some(one)) => drop(made.by_name.insert(name.to_owned(), one)),
                // It went meanwhile.
                Ok(None) => {}
                Err(error) => made.warnings.push(format!(
                    "{} is left out: {error:#}; remove it",
                    path.display()
                )),
            }
        }
        Ok(made)
    }

    /// All by name, those that are being destroyed too.
    #[must_use]
    pub fn by_name(&self) -> &BTreeMap<String, Managed> {
        &self.by_name
    }

    /// With this one, or without any of the name.
    #[must_use]
    pub fn with(mut self, name: &str, one: Option<Managed>) -> Self {
        match one {
            Some(one) => drop(self.by_name.insert(name.to_owned(), one)),
            None => drop(self.by_name.remove(name)),
        }
        self
    }

    /// Those whose names the owner has given to slices of the policy.
    #[must_use]
    pub fn displaced(&self, owners: &Config) -> Vec<String> {
        let names = self.by_name.keys();
        names
            .filter(|name| owners.slice(name).is_some())
            .cloned()
            .collect()
    }

    /// Without these.
    #[must_use]
    pub fn without_displaced(mut self, owners: &Config) -> Self {
        for name in self.displaced(owners) {
            self.by_name.remove(&name);
            self.warnings.push(format!(
                "slice {name} was made by a slice and is the owner's now: the former is gone, what it \
                 had on disk goes with `slice destroy {name}`"
            ));
        }
        self.known
            .retain(|out| owners.slice(out.name.as_str()).is_none());
        self
    }

    /// Those that shall be in force, the earliest first.
    #[must_use]
    pub fn lent(&self) -> Vec<Lent> {
        let mut lent = self.lent_all();
        lent.retain(|one| self.known.iter().all(|out| out.name != one.name));
        lent
    }

    fn lent_all(&self) -> Vec<Lent> {
        let mut all: Vec<_> = self
            .by_name
            .iter()
            .filter(|(_, one)| !one.leaving)
            .collect();
        all.sort_by_key(|(name, one)| (one.created, *name));
        all.into_iter()
            .filter_map(|(name, one)| {
                Some(Lent {
                    name: SliceName::new(name).ok()?,
                    controller: SliceName::new(&one.controller).ok()?,
                    terms: one.terms.clone(),
                })
            })
            .collect()
    }

    /// Those that have the name of an account.
    #[must_use]
    pub fn known(&self) -> &[LeftOut] {
        &self.known
    }

    /// What the owner should know.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Why a slice is left out, for the owner.
#[must_use]
pub fn sentence(out: &LeftOut) -> String {
    let why: Vec<String> = out.why.iter().map(said).collect();
    format!(
        "slice {} that {} made is left out: {}; its files stay, and so does {DIRECTORY}/{}.json until you remove it",
        out.name,
        out.controller,
        why.join("; "),
        out.name
    )
}

/// `memory.floor: 1 GiB ...`.
#[must_use]
pub fn said(objection: &Objection) -> String {
    if objection.field.is_empty() {
        objection.message.clone()
    } else {
        format!("{}: {}", objection.field, objection.message)
    }
}

/// Writes the file of a slice, whole or not at all; or removes it.
///
/// # Errors
/// It cannot be written or removed.
pub fn write(name: &str, one: Option<&Managed>) -> anyhow::Result<()> {
    let path = path(name);
    match one {
        Some(one) => write_json(&path, one),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.with_context(|| format!("remove {}", path.display())),
        },
    }
}

/// Puts the file of a slice aside whose name is the owner's now.
///
/// # Errors
/// It cannot be renamed.
pub fn set_aside(name: &str) -> anyhow::Result<()> {
    let path = path(name);
    fs::rename(&path, path.with_extension("displaced"))
        .with_context(|| format!("put {} aside", path.display()))
}

/// A name of a slice has neither dots nor slashes.
fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use policy::config::{Sources, parse};

    use super::*;

    fn one(controller: &str, created: u64) -> Managed {
        Managed {
            controller: controller.into(),
            created,
            generation: created,
            leaving: false,
            terms: Terms::default(),
        }
    }

    #[test]
    fn who_was_made_first_has_its_part_first_and_who_leaves_has_none() {
        let leaving = Managed {
            leaving: true,
            ..one("ctl", 1)
        };
        let made = Made::default()
            .with("exp_a", Some(one("ctl", 3)))
            .with("exp_b", Some(one("ctl", 2)))
            .with("exp_c", Some(leaving))
            .with("exp_d", Some(one("ctl", 4)))
            .with("exp_d", None);
        let names: Vec<_> = made.lent().iter().map(|one| one.name.to_string()).collect();
        assert_eq!(names, ["exp_b", "exp_a"]);
        assert!(made.by_name().contains_key("exp_c"));
    }

    #[test]
    fn a_name_that_is_the_owners_now_is_taken_out_and_told() {
        let mut sources = Sources::default();
        sources.add("node.toml", "");
        sources.add("slices/exp_a.toml", "");
        let owners = parse(sources, &|_| false).unwrap();
        let made = Made::default()
            .with("exp_a", Some(one("ctl", 1)))
            .with("exp_b", Some(one("ctl", 2)));
        assert_eq!(made.displaced(&owners), ["exp_a"]);
        let made = made.without_displaced(&owners);
        assert_eq!(made.by_name().keys().collect::<Vec<_>>(), ["exp_b"]);
        assert_eq!(made.warnings().len(), 1);
    }

    #[test]
    fn a_file_is_what_was_written_and_nothing_else_is_understood() {
        let text = serde_json::to_string(&one("ctl", 7)).unwrap();
        assert_eq!(
            serde_json::from_str::<Managed>(&text).unwrap(),
            one("ctl", 7)
        );
        for other in [
            text.replace("\"leaving\"", "\"grants\""),
            text.replace("\"raw\":false", "\"raw\":false,\"nested\":true"),
            text.replace("\"tcp\":[]", "\"tcp\":[[1,70000]]"),
            text.replace("\"cpu_floor\":0", "\"cpu_floor\":-1"),
        ] {
            assert!(serde_json::from_str::<Managed>(&other).is_err(), "{other}");
        }
    }
}
