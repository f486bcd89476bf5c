//! `/v1/events`: what happens, as it happens, to who may know of it.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{CLIENT, MANAGER, SLICE, open};
use crate::node::Node;
use crate::raw::python;
use crate::runner::{Test, test};
use crate::site::{Site, until};
use crate::stage::Stage;

pub const TEST: Test = test(
    "a_slice_is_told_of_its_own_events_alone_and_goes_on_where_it_was",
    a_slice_is_told_of_its_own_events,
)
.on_stage();

const EVENTS: &str = include_str!("events.py");

/// An id and its document.
type Seen = Vec<(Option<String>, Value)>;

fn program(text: &str) -> String {
    format!("{CLIENT}\n{EVENTS}\n{text}")
}

/// What a slice sees after an event until one of which this is true.
fn seen(site: &Site<'_>, slice: &str, after: Option<&str>, ends: &str) -> Result<Seen> {
    let after = after.map_or("None".to_owned(), |id| format!("'{id}'"));
    let text = format!("print(json.dumps(events({after}, lambda event: {ends})))");
    Ok(serde_json::from_str(&python(
        site,
        slice,
        &program(&text),
    )?)?)
}

/// Whose an event is.
fn owner(document: &Value) -> Option<&str> {
    ["event", "happened"]
        .iter()
        .find_map(|kind| document[kind]["slice"]["name"].as_str())
}

/// A port that is the node's: each try is a denial.
const DENIED: &str = "import socket\n\
    try: socket.socket().bind(('', 2222))\n\
    except OSError: pass";

fn a_slice_is_told_of_its_own_events(node: &mut Node) -> Result<()> {
    let (site, daemon) = open(node)?;
    let stage = Stage::open(node)?;
    site.run_in("alpha", &["python3", "-c", DENIED])?;
    python(&site, SLICE, DENIED)?;
    let denied = "event.get('event', {}).get('reason') == 'port_node'";
    let first = seen(&site, SLICE, None, denied)?;
    let last = |seen: &Seen| seen.last().and_then(|(id, _)| id.clone()).context("no id");
    for (_, document) in &first {
        ensure!(owner(document) == Some(SLICE), "{document}");
        ensure!(document["event"]["pid"].is_null(), "{document}");
    }
    // Numbered as if there were no other.
    let numbers: Vec<_> = first.iter().map(|(id, _)| id.clone()).collect();
    let number =
        |id: &Option<String>| -> Option<usize> { id.as_ref()?.split_once('.')?.1.parse().ok() };
    ensure!(
        numbers
            .iter()
            .enumerate()
            .all(|(place, id)| number(id) == Some(place)),
        "{numbers:?}"
    );
    // Then only what is new.
    site.run_in("alpha", &["python3", "-c", DENIED])?;
    python(&site, SLICE, DENIED)?;
    let again = seen(&site, SLICE, Some(&last(&first)?), denied)?;
    ensure!(
        again.len() == 1 && owner(&again[0].1) == Some(SLICE),
        "{again:?}"
    );
    // Two streams, and no third.
    const THREE: &str = "streams = [open_events() for _ in range(3)]\n\
        print([status for status, *_ in streams])\n";
    // Those whose reader has ended have their places until they are written to.
    std::thread::sleep(Duration::from_secs(7));
    let told = python(&site, SLICE, &program(THREE))?;
    ensure!(told.trim() == "[200, 200, 503]", "{told}");

    let granted = |text: &str| format!("role = \"management\"\ngrants = [\"status\"]\n{text}");
    stage.with_policy(MANAGER, granted, || {
        let text = "seen = events(None, lambda event: \
            event.get('happened', {}).get('what') == 'started')\n\
            print('seen ' + json.dumps(seen))";
        let mut command = Command::new("slice");
        command.args(["exec", MANAGER, "--", "python3", "-c", &program(text)]);
        let all = site.start("events", command)?;
        site.must(&["stop", SLICE])?;
        site.must(&["start", SLICE])?;
        until("it has seen the start", || {
            Ok(all.output().contains("seen "))
        })
        .with_context(|| all.output())?;
        let output = all.output();
        let (_, output) = output.split_once("seen ").context("nothing seen")?;
        let seen: Seen = serde_json::from_str(output.trim())?;
        let whats: Vec<_> = seen
            .iter()
            .map(|(_, document)| {
                (
                    owner(document).unwrap_or_default(),
                    &document["happened"]["what"],
                )
            })
            .collect();
        for what in [
            ("node", "daemon-started"),
            (SLICE, "stopped"),
            (SLICE, "started"),
        ] {
            ensure!(
                whats
                    .iter()
                    .any(|(of, is)| (*of, is.as_str()) == (what.0, Some(what.1))),
                "{whats:?}"
            );
        }
        let owners: BTreeSet<_> = whats.iter().map(|(of, _)| *of).collect();
        ensure!(owners.contains("alpha"), "{owners:?}");
        Ok(())
    })?;
    drop(daemon);
    Ok(())
}
