//! The node's life on one page: up, upgrade, reload, down.
//!
//! Each validates everything first, then does everything in order, and puts
//! back what was there when a step fails. What is there is read from the
//! kernel, not remembered, so that a command that was killed half-way leaves
//! nothing that the next one does not see.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use policy::compile::Plan;
use policy::config::{Config, PortSet};
use serde::Serialize;

use super::difference::{Reloaded, describe, only_in};
use super::managed::{self, Made};
use super::policy_files::{self, Wanted};
use super::record::{Lock, Phase, Record, boot};
use super::state::{self, Place, Slices};
use super::{NotUp, autobind, contexts, found, ids, in_force, quotas, snapshot};
use crate::cli::exit::{Exit, Failure};
use crate::context::account;
use crate::context::cgroup::SliceCgroup;
use crate::context::holder::{CGROUPFS, Holder};
use crate::flows;
use crate::kernel::attach::{self, Former, Targets};
use crate::kernel::devices;
use crate::kernel::hook::Hook;
use crate::kernel::links;
use crate::kernel::loopback;
use crate::kernel::maps::{self, Maps, OtherAbi};
use crate::kernel::object::{self, Object};
use crate::kernel::probe;
use crate::kernel::store::Store;
use crate::report::policies::Policies;

/// What `up` did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "did")]
pub enum Up {
    /// Brought the node up.
    Started {
        /// How many slices there are.
        slices: usize,
        /// What the owner should know.
        warnings: Vec<String>,
    },
    /// The node was up, with the same programs.
    Already {
        /// How many slices there are.
        slices: usize,
    },
    /// The node was up; its programs were replaced by those of this version.
    Upgraded {
        /// The version before.
        from: String,
    },
}

/// Brings the node up; where it is up already, brings its programs to this
/// version.
///
/// # Errors
/// The policy or the node do not allow it; nothing is changed then.
pub fn up(policy: &Path) -> anyhow::Result<Up> {
    let lock = Lock::take()?;
    let result = bring_up(policy);
    if result.is_err() && matches!(Record::load(), Ok(None)) {
        // Nothing is left to lock. Why it failed is the news, not this.
        let _ = lock.remove();
    }
    result
}

fn bring_up(policy: &Path) -> anyhow::Result<Up> {
    let config = policy_files::read(policy)?;
    refuse_missing_features()?;
    let mut ledger = ids::load()?;
    match Record::load()? {
        Some(record) if record.phase == Phase::Up && Store::of_node().exists() => {
            return upgrade(record);
        }
        // What an `up` or a `down` that was killed left, or whose pins somebody
        // removed: then no rule is in force, and no slice may run.
        record => clear_away(record.as_ref())?,
    }
    let before = autobind::read()?;
    let made = Made::load()?;
    // Nothing of them runs: their names are the owner's from here on, with other ids.
    for name in made.displaced(&config) {
        ledger.forget(&name);
        ids::save(&ledger)?;
        managed::set_aside(&name)?;
    }
    let made = made.without_displaced(&config);
    let wanted = policy_files::want(
        &config,
        &made,
        &ledger,
        before.clone(),
        &found::scan()?,
        &BTreeSet::new(),
    )?;
    account::refuse_unprepared(!wanted.logins.is_empty())?;
    links::refuse_unshapeable(&names_of_links(&wanted.plan))?;
    ids::save(&wanted.ledger)?;
    let record = Record {
        phase: Phase::Starting,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        object: object::digest(),
        boot: boot()?,
        since: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        policy: std::path::absolute(policy).context("find the policy's directory")?,
        rows: wanted.rows,
        holder: Holder::expected(),
        reserved_ports_before: before.to_string(),
        reserved_ports: wanted.plan.reserved_ports.to_string(),
        exclude: wanted.exclude.clone(),
        links: names_of_links(&wanted.plan),
        flows: wanted.flows,
        edition: 1,
        page: wanted.page,
        slices: wanted.slices.clone(),
        uids_per_slice: wanted.uids_per_slice,
        contexts: wanted.contexts.clone(),
        logins: wanted.logins.clone(),
        controllers: wanted.controllers.clone(),
        digest: snapshot::save(&config.sources)?,
    };
    // From here on `down` finds what there is to put back.
    record.save()?;
    let policies = Policies {
        edition: record.edition,
        ..wanted.policies
    };
    match in_force::save(&policies).and_then(|()| start(record.clone(), &wanted.plan)) {
        Ok(()) => {
            // A slice that does not start is no reason to keep the others down.
            let names: Vec<String> = record.contexts.keys().cloned().collect();
            let mut warnings = wanted.warnings;
            warnings.extend(contexts::autostart(&record, &names));
            Ok(Up::Started {
                slices: wanted.slices.len(),
                warnings,
            })
        }
        Err(error) => Err(match clear_away(Some(&record)) {
            Ok(()) => error,
            Err(left) => error.context(format!(
                "what was half done could not be undone ({left:#}); run `slice down`"
            )),
        }),
    }
}

/// The order keeps "deny is zero": the maps are full before a program runs, and
/// a slice's cgroup exists only when every program does.
fn start(mut record: Record, plan: &Plan) -> anyhow::Result<()> {
    autobind::write(&plan.reserved_ports)?;
    let holder = Holder::make()?;
    let slices = holder.make_slices()?;
    let store = Store::of_node();
    store.create()?;
    let object = Object::load(&store, record.rows, record.links.len())?;
    let maps = Maps::open(&store)?;
    let place = Place {
        maps: &maps,
        holder: &holder,
        links: &record.links,
    };
    let before = Plan {
        disk: state::disk_limits(plan)?,
        ..Plan::empty()
    };
    let changes = before.changes(plan);
    place.write_maps(&changes)?;
    quotas::restore(&maps, &record)?;
    place.write_disk(&changes.disk)?;
    loopback::set(&rows(&record.slices))?;
    let targets = Targets::open(Path::new(CGROUPFS), &slices)?;
    attach::attach(&object, &store, &targets, &mut attach::Undo::default())?;
    devices::refresh(&store, &maps, has_raw(&record))?;
    links::refresh(&store, &maps, &record.links)?;
    state::note_found(&maps)?;
    place.make_cgroups(&record.slices)?;
    holder.refuse_without_io(&changes.cgroups)?;
    place.write_attributes(&changes.cgroups)?;
    account::write_all(&record.accounts())?;
    record.phase = Phase::Up;
    record.save()
}

/// Replaces the programs of a node that is up, each by one update of its link:
/// no packet is judged by nobody. The maps and all they hold stay.
fn upgrade(mut record: Record) -> anyhow::Result<Up> {
    let store = Store::of_node();
    refuse_other_abi(maps::check_abi(&store))?;
    refuse_lost_cgroups(&record)?;
    store.create()?;
    // Somebody may have set the device lo down and up.
    loopback::set(&rows(&record.slices))?;
    if record.object == object::digest() && attach::all_there(&store, !record.links.is_empty()) {
        return Ok(Up::Already {
            slices: record.slices.len(),
        });
    }
    let former = Former::hold(&store)?;
    let made_before = store.maps()?;
    let mut undo = attach::Undo::default();
    let mut replace = || -> anyhow::Result<()> {
        let object = Object::load(&store, record.rows, record.links.len())?;
        let targets = Targets::open(Path::new(CGROUPFS), &record.holder.slices())?;
        attach::attach(&object, &store, &targets, &mut undo)
    };
    if let Err(error) = replace() {
        let undone = undo
            .run(&store, &former)
            .and_then(|()| store.remove_maps_but(&made_before));
        return Err(match undone {
            Ok(()) => error,
            Err(left) => error.context(format!(
                "the former programs could not all be put back: {left:#}"
            )),
        });
    }
    attach::detach_former(&store)?;
    let from = std::mem::replace(&mut record.version, env!("CARGO_PKG_VERSION").to_owned());
    record.object = object::digest();
    record.save()?;
    Ok(Up::Upgraded { from })
}

/// Brings the running node to the policy as it is written now: all of it, or
/// nothing.
///
/// # Errors
/// [`NotUp`]; or the policy or the node do not allow it.
pub fn reload(policy: &Path) -> anyhow::Result<Reloaded> {
    let lock = Lock::take()?;
    let Some(record) = Record::load()?.filter(|record| record.phase == Phase::Up) else {
        lock.remove()?;
        return Err(NotUp.into());
    };
    let config = policy_files::read(policy)?;
    let made = Made::load()?;
    let displaced = made.displaced(&config);
    let made = made.without_displaced(&config);
    let record = if displaced
        .iter()
        .any(|name| record.slices.contains_key(name))
    {
        // Two slices of one name do not change places in one step: first the one ends.
        let former = snapshot::load(&record)?;
        apply(&record, &former, &made, None, |_| Ok(()))?;
        Record::load()?.ok_or(NotUp)?
    } else {
        record
    };
    for name in displaced {
        let mut ledger = ids::load()?;
        ledger.forget(&name);
        ids::save(&ledger)?;
        managed::set_aside(&name)?;
    }
    apply(&record, &config, &made, Some(policy), |_| Ok(()))
}

/// Brings the running node to this policy of the owner's, from this directory if it is another, and
/// to these slices that slices made. The lock is held. `accept` is asked when all is known and
/// nothing is changed yet.
pub(super) fn apply(
    record: &Record,
    config: &Config,
    made: &Made,
    policy: Option<&Path>,
    accept: impl FnOnce(&Wanted) -> anyhow::Result<()>,
) -> anyhow::Result<Reloaded> {
    let store = Store::of_node();
    let maps = refuse_other_abi(Maps::open(&store))?;
    refuse_lost_cgroups(record)?;
    let holder = record.holder.clone();
    let place = Place {
        maps: &maps,
        holder: &holder,
        links: &record.links,
    };
    let before = autobind::parse(&record.reserved_ports_before)?;
    let (held, busy) = (state::held_by_node(&maps)?, state::busy_rows(&maps)?);
    let wanted = policy_files::want(config, made, &ids::load()?, before, &held, &busy)?;
    refuse_unchangeable(record, &wanted)?;
    account::refuse_unprepared(!wanted.logins.is_empty())?;

    let old = place.read(&wanted.plan)?;
    let changes = old.changes(&wanted.plan);
    if changes.other_links {
        refuse_other_links()?;
    }
    let (added, removed) = (
        only_in(&wanted.slices, &record.slices),
        only_in(&record.slices, &wanted.slices),
    );
    let mut reloaded = describe(&old, &wanted, &changes);
    reloaded.added = added.keys().cloned().collect();
    reloaded.removed = removed.keys().cloned().collect();

    let mut next = Record {
        policy: match policy {
            Some(policy) => std::path::absolute(policy).context("find the policy's directory")?,
            None => record.policy.clone(),
        },
        reserved_ports: wanted.plan.reserved_ports.to_string(),
        exclude: wanted.exclude.clone(),
        flows: wanted.flows,
        edition: record.edition + 1,
        page: wanted.page,
        slices: wanted.slices.clone(),
        contexts: wanted.contexts.clone(),
        logins: wanted.logins.clone(),
        controllers: wanted.controllers.clone(),
        ..record.clone()
    };
    accept(&wanted)?;
    // An id is given away before it is used: killed here, it is lost, not given
    // twice.
    ids::save(&wanted.ledger)?;
    // Before the rows of slices that go are another's.
    quotas::save(&maps, record)?;
    let (old, changes) = if place.destroy_strays(&record.slices)? {
        // One that is made anew has none of the bounds that were read of the one before.
        let old = place.read(&wanted.plan)?;
        let changes = old.changes(&wanted.plan);
        (old, changes)
    } else {
        (old, changes)
    };
    if !added.is_empty() {
        // Likewise: a row that is given away is emptied.
        drain_flows(&store, record);
    }
    let policies = Policies {
        edition: next.edition,
        ..wanted.policies
    };
    // One that cannot be read is not put back.
    let former = in_force::load().ok().flatten();
    let snapshot_before = snapshot::raw();
    let mut forward = || -> anyhow::Result<()> {
        for slice in added.values() {
            maps.clear_row(slice.id().index())?;
        }
        autobind::write(&wanted.plan.reserved_ports)?;
        loopback::set(&(&rows(&record.slices) | &rows(&wanted.slices)))?;
        place.make_cgroups(&added)?;
        place.write_attributes(&changes.cgroups)?;
        place.write_disk(&changes.disk)?;
        place.write_maps(&changes)?;
        quotas::restore(&maps, &next)?;
        devices::refresh(&store, &maps, has_raw(&next) || has_raw(record))?;
        links::refresh(&store, &maps, &record.links)?;
        account::write_all(&next.accounts())?;
        // Written whole or not at all: a full /run undoes the rest too.
        in_force::save(&policies)?;
        next.digest = snapshot::save(&config.sources)?;
        next.save()
    };
    if let Err(error) = forward() {
        let back = || -> anyhow::Result<()> {
            let half = place.read(&old)?;
            let changes = half.changes(&old);
            place.write_maps(&changes)?;
            quotas::restore(&maps, record)?;
            place.write_attributes(&changes.cgroups)?;
            place.write_disk(&changes.disk)?;
            place.destroy(&added)?;
            loopback::set(&rows(&record.slices))?;
            account::write_all(&record.accounts())?;
            autobind::write(&old.reserved_ports)?;
            snapshot::put_back(snapshot_before)?;
            // Last: these may be what failed.
            links::refresh(&store, &maps, &record.links)?;
            if let Some(former) = &former {
                // Where it cannot be written, the record's edition says that it is not
                // in force: slices are told nothing of it.
                let _ = in_force::save(former);
            }
            Ok(())
        };
        return Err(match back() {
            Ok(()) => error.context("change the node (the former policy is in force)"),
            Err(left) => error.context(format!(
                "what was half done could not be undone ({left:#}); run `slice reload` again"
            )),
        });
    }
    // What cannot be undone comes last.
    place.destroy(&removed)?;
    if !removed.is_empty() {
        // While their names are known.
        drain_flows(&store, record);
    }
    loopback::set(&rows(&wanted.slices))?;
    devices::refresh(&store, &maps, has_raw(&next))?;
    contexts::forget(removed.keys().map(String::as_str))?;
    reloaded.warnings = wanted.warnings;
    reloaded
        .warnings
        .extend(contexts::end_those_without(&next, record)?);
    // Of a slice that was there before, too: its context is new.
    let fresh = next.contexts.keys().cloned();
    let fresh: Vec<_> = fresh
        .filter(|name| !record.contexts.contains_key(name) || added.contains_key(name))
        .collect();
    reloaded.warnings.extend(contexts::autostart(&next, &fresh));
    reloaded
        .warnings
        .extend(contexts::outdated(&record.contexts, &next.contexts));
    Ok(reloaded)
}

/// Ends all slices and removes everything of the node. Whether there was
/// anything.
///
/// # Errors
/// A process of a slice does not end: then the rules stay in force; or a step
/// fails: then the others are done.
pub fn down() -> anyhow::Result<bool> {
    let lock = Lock::take()?;
    let record = Record::load()?;
    let there = record.is_some() || Store::of_node().exists() || Holder::expected().exists();
    clear_away(record.as_ref())?;
    lock.remove()?;
    Ok(there)
}

/// Removes whatever there is of a node, half-done work included.
fn clear_away(record: Option<&Record>) -> anyhow::Result<()> {
    if let Some(record) = record.filter(|record| record.phase == Phase::Up) {
        // Killed from here on, the node is not up. A full /run, which may be
        // why it goes down, must not keep it up.
        let _ = Record {
            phase: Phase::Starting,
            ..record.clone()
        }
        .save();
    }
    let holder = record.map_or_else(Holder::expected, |record| record.holder.clone());
    // The slices' processes first, and under the rules.
    SliceCgroup::all(&holder.slices()).kill()?;
    // Also where a `down` was killed before: the maps tell whether there is something.
    if let Some(record) = record.filter(|_| Maps::open(&Store::of_node()).is_ok()) {
        drain_flows(&Store::of_node(), record);
    }
    let mut result = SliceCgroup::all(&holder.slices()).remove();
    result = result.and(links::remove_all(&Store::of_node()));
    // Nobody sends any more. What `up` left half done has counted nothing.
    if let (Some(record), Ok(maps)) = (record, Maps::open(&Store::of_node())) {
        result = result.and(quotas::save(&maps, record).map(drop));
    }
    result = result.and(Hook::Frames.remove_all(&Store::of_node()));
    result = result.and(Store::of_node().remove());
    result = result.and(loopback::set(&BTreeSet::new()));
    if let Some(record) = record {
        result = result.and(put_ports_back(record));
    }
    result = result.and(account::remove_all());
    result = result.and(contexts::forget_all());
    if holder.exists() {
        result = result.and(holder.remove());
    }
    result?;
    Record::remove()
}

/// What was tallied is kept, as far as that can be: no reason to stop at.
fn drain_flows(store: &Store, record: &Record) {
    if record.flows.seconds == 0 {
        return;
    }
    if let Err(error) = flows::drain(store, record) {
        tracing::warn!(error = %format!("{error:#}"), "could not keep the flows of the last seconds");
    }
}

/// Whether some slice has packet sockets.
pub(super) fn has_raw(record: &Record) -> bool {
    record.contexts.values().any(|recipe| recipe.raw)
}

/// The rows of slices.
fn rows(slices: &Slices) -> BTreeSet<u32> {
    slices.values().map(|slice| slice.id().index()).collect()
}

fn put_ports_back(record: &Record) -> anyhow::Result<()> {
    let before = autobind::parse(&record.reserved_ports_before)?;
    let ours = autobind::parse(&record.reserved_ports)?;
    let now = autobind::read()?;
    let back: PortSet = autobind::put_back(&now, &before, &ours);
    if back == now {
        Ok(())
    } else {
        autobind::write(&back)
    }
}

fn refuse_missing_features() -> anyhow::Result<()> {
    let missing = probe::missing();
    let Some((first, _)) = missing.first() else {
        return Ok(());
    };
    let list: Vec<_> = missing
        .iter()
        .map(|(feature, detail)| format!("{} ({detail})", feature.what))
        .collect();
    let message = format!("start the node: missing: {}", list.join("; "));
    Err(Failure::new(Exit::Kernel, message)
        .remedy(format!(
            "{}; `slice doctor` has the whole list",
            first.remedy
        ))
        .into())
}

/// The names of a plan's links, by number.
fn names_of_links(plan: &Plan) -> Vec<String> {
    plan.links.iter().map(|link| link.name.clone()).collect()
}

fn refuse_other_links() -> anyhow::Result<()> {
    let message = "change which links node.toml has: that cannot change while the node is up";
    bail!(
        Failure::new(Exit::Policy, message)
            .remedy("change it back (rates may change), or: slice down, slice up")
    )
}

/// Pinned maps of another layout can be neither adopted nor changed.
fn refuse_other_abi<T>(result: anyhow::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| match error.downcast::<OtherAbi>() {
        Ok(other) => Failure::new(Exit::Failed, format!("change the node: {other}"))
            .remedy("end it with `slice down` (which ends the slices' processes), then `slice up`")
            .into(),
        Err(error) => error,
    })
}

/// Somebody stopped the holder's unit or removed the cgroups.
fn refuse_lost_cgroups(record: &Record) -> anyhow::Result<()> {
    let slices = record.holder.slices();
    if slices.is_dir() {
        return Ok(());
    }
    let message = format!(
        "change the node: its cgroup {} was removed by somebody",
        slices.display()
    );
    Err(Failure::new(Exit::Failed, message)
        .remedy("make it anew: slice down, slice up")
        .into())
}

/// What the tables' sizes and running processes' ids depend on.
fn refuse_unchangeable(record: &Record, wanted: &Wanted) -> anyhow::Result<()> {
    let what = if record.rows != wanted.rows {
        "max_slices"
    } else if record.slices.iter().any(|(name, old)| {
        wanted
            .slices
            .get(name)
            .is_some_and(|new| new.id == old.id && new.uid != old.uid)
    }) {
        "uid_base or uids_per_slice"
    } else {
        return Ok(());
    };
    let message = format!("change {what} in node.toml: it cannot change while the node is up");
    bail!(Failure::new(Exit::Policy, message).remedy("change it back, or: slice down, slice up"))
}
