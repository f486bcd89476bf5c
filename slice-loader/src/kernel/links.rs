//! The devices whose rate is divided among slices: the program on their way out,
//! and the queue that keeps its times.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::devices::is_gone;
use super::hook::Hook;
use super::maps::Maps;
use super::queue;
use super::segments;
use super::store::Store;
use crate::cli::exit::{Exit, Failure};
use crate::sys::bpf;

/// The number of the device of this name, if it is there.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?;
    text.trim().parse().ok()
}

/// Refuses links that cannot be shaped, before anything is changed.
///
/// # Errors
/// There is no such device, or somebody else has set its queue.
pub fn refuse_unshapeable(names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let Some(number) = number(name) else {
            let message = format!("shape link {name}: there is no such device");
            bail!(Failure::new(Exit::Policy, message).remedy(
                "`ip link` lists the devices; it must be there when the node comes up, and may \
                 go and come again later"
            ));
        };
        if let Some(root) = queue::root(number)?
            && root.set
            && root.kind != "fq"
        {
            let message = format!(
                "shape link {name}: somebody has given it the queue discipline {}",
                root.kind
            );
            bail!(
                Failure::new(Exit::Policy, message)
                    .remedy(format!("take it away: tc qdisc del dev {name} root"))
            );
        }
    }
    Ok(())
}

/// Shapes these links, whose place in the list is their number; puts right what
/// somebody has changed since. A device that is gone comes again. Whether anything had
/// to be done.
///
/// # Errors
/// The kernel refuses.
pub fn refresh(store: &Store, maps: &Maps, names: &[String]) -> anyhow::Result<bool> {
    let there: Vec<(u32, u32, &String)> = (0..)
        .zip(names)
        .filter_map(|(link, name)| Some((link, number(name)?, name)))
        .collect();
    let mut repaired = tell_what_arrives(maps, &there)?;
    let known = maps.link_of.all()?;
    for (device, link) in &known {
        if !there
            .iter()
            .any(|(at, number, _)| (at, number) == (link, device))
        {
            maps.link_of.remove(device)?;
            Hook::Pace.disarm(store, *device)?;
            repaired = true;
        }
    }
    if there.is_empty() {
        return Ok(repaired);
    }
    let program = Hook::Pace.open(store)?;
    let mut failed = Ok(());
    for (link, number, name) in there {
        let known = known.contains(&(number, link));
        match shape(store, maps, program.as_fd(), link, number, known) {
            Ok(changed) => repaired |= changed,
            Err(error) if is_gone(&error) => {}
            // One that fails keeps none of the others from being shaped.
            Err(error) => failed = failed.and(Err(error.context(format!("shape link {name}")))),
        }
    }
    failed.map(|()| repaired)
}

/// Tells by which devices arrives what comes by a link: by itself, and by those above it
/// (a VLAN, a bridge, a bond), which are the device of a packet when its socket is
/// found. One above several links is the first one's. Whether anything changed.
fn tell_what_arrives(maps: &Maps, links: &[(u32, u32, &String)]) -> anyhow::Result<bool> {
    let mut wanted = BTreeMap::new();
    for (link, number, _) in links {
        wanted.insert(*number, *link);
    }
    for (link, _, name) in links {
        let mut above = vec![(*name).clone()];
        while let Some(device) = above.pop() {
            for upper in uppers(&device) {
                let Some(number) = number(&upper) else {
                    continue;
                };
                if let Entry::Vacant(place) = wanted.entry(number) {
                    place.insert(*link);
                    above.push(upper);
                }
            }
        }
    }
    let known: BTreeMap<u32, u32> = maps.arrives_by.all()?.into_iter().collect();
    for device in known.keys().filter(|device| !wanted.contains_key(device)) {
        maps.arrives_by.remove(device)?;
    }
    for (device, link) in wanted
        .iter()
        .filter(|(device, link)| known.get(device) != Some(link))
    {
        maps.arrives_by.set(device, link)?;
    }
    Ok(known != wanted)
}

/// The devices right above this one.
fn uppers(name: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/sys/class/net/{name}"))
        .into_iter()
        .flatten();
    entries
        .filter_map(|entry| {
            let file = entry.ok()?.file_name();
            file.to_str()?.strip_prefix("upper_").map(str::to_owned)
        })
        .collect()
}

/// Shapes one link; whether anything had to be done.
fn shape(
    store: &Store,
    maps: &Maps,
    program: BorrowedFd<'_>,
    link: u32,
    number: u32,
    known: bool,
) -> anyhow::Result<bool> {
    let root = queue::root(number)?;
    let mark = queue_mark(store, number);
    // What somebody else's fq lets wait is not known.
    let marked = mark.exists();
    let paced = marked && root.as_ref().is_some_and(queue::paces);
    if !paced {
        // First the mark, by which it is taken away: this may be killed.
        if !marked {
            bpf::object_pin(program, &mark)?;
        }
        queue::put(number)?;
    }
    let rate = maps.links.get(&link)?.map_or(0, |entry| entry.rate);
    segments::bound(number, rate)?;
    let fresh = Hook::Pace.arm(store, program, number)?;
    if !known {
        maps.link_of.set(&number, &link)?;
    }
    Ok(!paced || fresh || !known)
}

/// Shapes no link any more.
///
/// # Errors
/// The kernel refuses.
pub fn remove_all(store: &Store) -> anyhow::Result<()> {
    let mut result = Hook::Pace.remove_all(store);
    for name in store.names("paced")? {
        let Some(number) = name
            .strip_suffix("_queue")
            .and_then(|text| text.parse().ok())
        else {
            continue;
        };
        result = result
            .and(queue::take_away(number))
            .and(segments::unbound(number));
        let mark = queue_mark(store, number);
        result = result
            .and(fs::remove_file(&mark).with_context(|| format!("remove {}", mark.display())));
    }
    result
}

/// Says that the queue of a device is ours.
fn queue_mark(store: &Store, number: u32) -> PathBuf {
    store.root().join("paced").join(format!("{number}_queue"))
}
