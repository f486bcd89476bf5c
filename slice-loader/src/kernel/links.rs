//! The devices whose rate is divided among slices: the program on their way out,
//! and the queue that keeps its times.

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
    let mut repaired = false;
    let there: Vec<(u32, u32, &String)> = (0..)
        .zip(names)
        .filter_map(|(link, name)| Some((link, number(name)?, name)))
        .collect();
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
