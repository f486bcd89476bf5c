//! `/v1/flows` and `/v1/policy`: what a slice is told of itself, and with the grants of
//! all.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{MANAGER, SLICE, get, open};
use crate::node::Node;
use crate::raw::python;
use crate::runner::{Test, test};
use crate::site::{Site, until};
use crate::stage::Stage;

pub const TEST: Test = test(
    "a_slice_is_told_of_its_flows_and_policy_and_with_the_grants_of_all",
    a_slice_is_told_of_its_flows_and_policy,
)
.on_stage()
.once();

/// Datagrams to a port of the neighbour that nothing else sends to.
const SEND: &str = "import socket\n\
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    for _ in range(5): sock.sendto(bytes(100), ('198.51.100.2', 7117))";
const FLOWS: &str = "/v1/flows?peer=198.51.100.2&port=7117&protocol=udp&since=1h";

/// Owners of rows, and the packets that they sent.
fn told(document: &Value, rows: &str) -> Result<(BTreeSet<String>, u64)> {
    let rows = document[rows].as_array().context("no rows")?;
    let name = |row: &Value| row["slice"]["name"].as_str().map(str::to_owned);
    let packets = rows
        .iter()
        .filter_map(|row| row["sent"]["packets"].as_u64());
    Ok((rows.iter().filter_map(name).collect(), packets.sum()))
}

fn of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The names on all pages of policy.
fn policies(site: &Site<'_>, slice: &str) -> Result<BTreeSet<String>> {
    let (mut names, mut path) = (BTreeSet::new(), "/v1/policy?limit=2".to_owned());
    loop {
        let page = get(site, slice, &path)?.json()?;
        let slices = page["slices"].as_array().context("no policies")?;
        ensure!(slices.len() <= 2, "{page}");
        let name = |policy: &Value| policy["name"].as_str().map(str::to_owned);
        names.extend(slices.iter().filter_map(name));
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/policy?limit=2&after={next}"),
            None => return Ok(names),
        }
    }
}

fn a_slice_is_told_of_its_flows_and_policy(node: &mut Node) -> Result<()> {
    let (site, _daemon) = open(node)?;
    let stage = Stage::open(node)?;
    for slice in [SLICE, MANAGER] {
        python(&site, slice, SEND)?;
    }
    let flows = |slice| told(&get(&site, slice, FLOWS)?.json()?, "flows");
    until("the daemon has taken them", || {
        Ok(flows(SLICE)?.1 == 5 && flows(MANAGER)?.1 == 5)
    })?;
    for slice in [SLICE, MANAGER] {
        for path in [FLOWS, "/v1/flows"] {
            let document = get(&site, slice, path)?.json()?;
            ensure!(told(&document, "flows")?.0 == of(&[slice]), "{document}");
        }
        ensure!(policies(&site, slice)? == of(&[slice]), "{slice}");
    }
    let status = site.json(&["status", SLICE])?;
    let policy = get(&site, SLICE, "/v1/policy")?.json()?;
    let (limit, sockets) = (
        &status["rows"][0]["sockets"]["limit"],
        &policy["slices"][0]["sockets"],
    );
    ensure!(limit == sockets, "{limit}, not {sockets}");

    let granted =
        |text: &str| format!("role = \"management\"\ngrants = [\"audit\", \"status\"]\n{text}");
    stage.with_policy(MANAGER, granted, || {
        let both = of(&[SLICE, MANAGER]);
        until("it is told of all", || {
            Ok(flows(MANAGER)? == (both.clone(), 10))
        })?;
        // What root is told, found in the same way.
        let words = ["flows", "--peer", "198.51.100.2", "--port", "7117"];
        ensure!(told(&site.json(&words)?, "flows")? == (both, 10));
        ensure!(flows(SLICE)? == (of(&[SLICE]), 5));
        let all = policies(&site, MANAGER)?;
        let mut expected = super::names(&site)?;
        expected.retain(|name| name != "node" && name != "unattributed");
        ensure!(all == expected, "{all:?}, not {expected:?}");
        let grants = get(&site, MANAGER, &format!("/v1/policy?slice={MANAGER}"))?.json()?;
        let grants = &grants["slices"][0]["grants"];
        ensure!(
            *grants == serde_json::json!(["audit", "status"]),
            "{grants}"
        );
        Ok(())
    })?;
    until("it is told of itself alone", || Ok(flows(MANAGER)?.1 == 5))?;
    ensure!(policies(&site, MANAGER)? == of(&[MANAGER]));
    Ok(())
}
