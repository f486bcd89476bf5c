//! A node to admit policies to, and texts in the place of files.

use policy::admission::{Admitted, Disk, Divider, Facts, Io, admit, rows};
use policy::compile::{Plan, compile};
use policy::config::units::Bytes;
use policy::config::{Config, Errors, PortRange, PortSet, Sources, parse};
use policy::ledger::Ledger;
use std::collections::BTreeSet;

/// A node of 4 CPUs and 8 GiB with two addresses of each family.
pub fn facts() -> Facts {
    Facts {
        cpus: 4,
        memory: Bytes(8 << 30),
        page_size: 4096,
        pid_max: 32768,
        addresses: [
            "203.0.113.1",
            "203.0.113.53",
            "10.0.0.7",
            "2001:db8::1",
            "127.0.0.1",
            "::1",
        ]
        .map(|address| address.parse().unwrap())
        .to_vec(),
        ephemeral: PortRange::new(32768, 60999).unwrap(),
        reserved_ports: PortSet::parse_kernel("8080,9148").unwrap(),
        found_tcp: PortSet::default(),
        found_udp: PortSet::default(),
        disk: Disk {
            size: Bytes(100 << 30),
            inodes: 6_553_600,
            unbounded: None,
        },
        io: Io {
            device: Ok("254:16".into()),
            weights: Ok(vec![Divider::Cost]),
        },
        taken_uids: Vec::new(),
        node_netns: 1,
        slices_level: 3,
    }
}

/// Texts as files: the first is node.toml, the others are `NAME` and the text of a slice.
pub fn sources(node: &str, slices: &[(&str, &str)]) -> Sources {
    let mut sources = Sources::default();
    sources.add("node.toml", node);
    for (name, text) in slices {
        sources.add(format!("slices/{name}.toml"), *text);
    }
    sources
}

/// A node's policy from texts.
pub fn read(node: &str, slices: &[(&str, &str)]) -> Result<Config, Errors> {
    parse(sources(node, slices), &|name| name == "daemon")
}

/// The ledger in which every slice of the policy is new.
pub fn ledger(config: &Config) -> Ledger {
    Ledger::default().assign(
        config.slices.iter().map(|slice| &slice.name.value),
        rows(config),
        &BTreeSet::new(),
    )
}

/// Whether the policy fits [`facts`].
pub fn fits<'a>(config: &'a Config, facts: &'a Facts) -> Result<Admitted<'a>, Errors> {
    admit(config, facts, &ledger(config))
}

/// What the policy compiles to on [`facts`].
pub fn plan(node: &str, slices: &[(&str, &str)]) -> Plan {
    let config = read(node, slices).unwrap();
    let facts = facts();
    compile(&fits(&config, &facts).unwrap())
}
