//! A node on which `watch` may make slices, in memory: what it lends is judged as on a node, by
//! [`Room`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use policy::config::{Config, SliceName, Terms};
use policy::lending::Room;

use super::orders::Steps;
use crate::node::control::{Controller, Done, Listed, Refused, Shown, When};
use crate::node::control_log::Act;
use crate::status::fixture::config;

const CONTROLLER: &str = r#"
role = "management"
grants = ["control"]
[control]
slices = 4
prefix = "exp_"
tcp = ["20000-20009"]
memory = "64 MiB"
[context]
image = "debian"
"#;

/// It, for one slice.
pub struct Lender {
    config: Config,
    made: Mutex<BTreeMap<String, Shown>>,
}

impl Default for Lender {
    /// With nothing lent.
    fn default() -> Self {
        Self {
            config: config(&[
                ("node.toml", ""),
                ("slices/alpha.toml", ""),
                ("slices/beta.toml", ""),
                ("slices/watch.toml", CONTROLLER),
            ]),
            made: Mutex::default(),
        }
    }
}

impl Lender {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Shown>) -> T) -> T {
        act(&mut self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is left but for this one.
    fn room(&self, made: &BTreeMap<String, Shown>, but: &str) -> Room<'_> {
        let mut room = self.config.slice("watch").and_then(Room::of).unwrap();
        for (name, one) in made.iter().filter(|(name, _)| *name != but) {
            let name = SliceName::new(name).unwrap();
            room.take(&name, &one.terms).unwrap();
        }
        room
    }
}

fn of(when: When, there: Option<&Shown>) -> anyhow::Result<()> {
    let generation = there.map(|one| one.generation);
    when.holds(generation).map_err(Into::into)
}

impl Steps for Lender {
    fn granted(&self, who: &Controller) -> anyhow::Result<()> {
        if who.name == "watch" {
            Ok(())
        } else {
            Err(Refused::NotGranted.into())
        }
    }

    fn list(&self, who: &Controller) -> anyhow::Result<Listed> {
        self.granted(who)?;
        Ok(self.with(|made| Listed {
            slices: made.values().cloned().collect(),
            lends: self.room(made, "").left(),
        }))
    }

    fn show(&self, who: &Controller, name: &str) -> anyhow::Result<Shown> {
        self.granted(who)?;
        let there = self.with(|made| made.get(name).cloned());
        there.ok_or_else(|| Refused::NoSuchSlice.into())
    }

    fn put(
        &self,
        who: &Controller,
        name: &SliceName,
        terms: Terms,
        when: When,
    ) -> anyhow::Result<Done> {
        self.granted(who)?;
        self.with(|made| {
            let former = made.get(name.as_str()).cloned();
            of(when, former.as_ref())?;
            let judged = self.room(made, name.as_str()).take(name, &terms);
            judged.map_err(Refused::Objections)?;
            let changed = former.as_ref().is_none_or(|one| one.terms != terms);
            let generation = former.as_ref().map_or(0, |one| one.generation);
            let next = Shown {
                name: name.to_string(),
                id: Some(20),
                controller: who.name.clone(),
                generation: generation + u64::from(changed),
                in_force: true,
                running: former.as_ref().map_or(terms.autostart, |one| one.running),
                terms,
            };
            made.insert(name.to_string(), next.clone());
            Ok(Done {
                created: former.is_none(),
                changed,
                slice: Some(next),
                id: Some(20),
                warnings: Vec::new(),
            })
        })
    }

    fn destroy(&self, who: &Controller, name: &SliceName, when: When) -> anyhow::Result<Done> {
        self.granted(who)?;
        self.with(|made| {
            let there = made.get(name.as_str()).ok_or(Refused::NoSuchSlice)?;
            of(when, Some(there))?;
            made.remove(name.as_str());
            Ok(Done {
                created: false,
                changed: true,
                slice: None,
                id: Some(20),
                warnings: Vec::new(),
            })
        })
    }

    fn act(&self, who: &Controller, name: &SliceName, act: Act) -> anyhow::Result<Done> {
        self.granted(who)?;
        self.with(|made| {
            let there = made.get_mut(name.as_str()).ok_or(Refused::NoSuchSlice)?;
            let running = act != Act::Stop;
            let changed = there.running != running || act == Act::Restart;
            there.running = running;
            Ok(Done {
                created: false,
                changed,
                slice: Some(there.clone()),
                id: Some(20),
                warnings: Vec::new(),
            })
        })
    }
}
