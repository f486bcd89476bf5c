//! Refused destinations: the one entry that the kernel's map finds says what all rules say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::abi::{RefusedPorts, TCP, UDP, mapped};
use policy::compile::{RefusedAt, compile};
use policy::config::{Prefix, RefusedProtocol};
use policy::decide::destination;
use policy::verdict::Verdict;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::laws::prefix;
use crate::node::{facts, fits, read};

/// A `[[refuse]]` as text; exceptions are made to lie in what is refused.
pub fn refusal() -> impl Strategy<Value = String> {
    let protocol = prop_oneof![Just("any"), Just("tcp"), Just("udp")];
    (vec(prefix(), 1..4), vec(prefix(), 0..3), protocol, vec(1..9u16, 0..4)).prop_map(
        |(to, except, protocol, ports)| {
            let except: Vec<_> = except
                .into_iter()
                .filter(|except| to.iter().any(|to| to.covers(*except)))
                .collect();
            let list = |prefixes: &[Prefix]| {
                let quoted: Vec<String> = prefixes.iter().map(|prefix| format!("\"{prefix}\"")).collect();
                quoted.join(", ")
            };
            let ports: BTreeSet<u16> = ports.into_iter().collect();
            format!(
                "[[refuse]]\nto = [{}]\nexcept = [{}]\nprotocol = \"{protocol}\"\nports = {ports:?}\n",
                list(&to),
                list(&except),
            )
            .replace('{', "[")
            .replace('}', "]")
        },
    )
}

/// What the longest matching prefix says, as the kernel's map would find it.
fn looked_up(
    map: &BTreeMap<RefusedAt, RefusedPorts>,
    row: u32,
    address: IpAddr,
) -> Option<&RefusedPorts> {
    let bits = u128::from_be_bytes(in_map(address));
    let matches = |at: &RefusedAt| {
        let mask = u128::MAX.checked_shl(128 - at.length).unwrap_or(0);
        at.row == row && (u128::from_be_bytes(at.address) ^ bits) & mask == 0
    };
    map.iter()
        .filter(|(at, _)| matches(at))
        .max_by_key(|(at, _)| at.length)
        .map(|(_, ports)| ports)
}

fn in_map(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Addresses at and beside the edges of the prefixes above.
pub fn probes() -> Vec<IpAddr> {
    let v4 = [0, 1, 2, 3, 0x4001, 0x8002, 0xc003, 0xc004, 0x0100_0000];
    let v6 = [0u128, 1, 1 << 47 | 1, 2 << 47 | 2, 1 << 100, 1 << 127];
    let v4 = v4.map(|low| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 ^ low)));
    let v6 = v6.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
    v4.into_iter().chain(v6).collect()
}

/// The packets whose answers tell all rules of [`refusal`] apart: protocol and port.
const PACKETS: [(u8, u16); 8] = [
    (TCP, 1),
    (TCP, 4),
    (TCP, 8),
    (TCP, 443),
    (UDP, 1),
    (UDP, 4),
    (UDP, 443),
    (1, 0),
];

/// The port of a packet, where its protocol has ports.
fn port_of(protocol: u8, port: u16) -> Option<u16> {
    (protocol == TCP || protocol == UDP).then_some(port)
}

pub fn answers(map: &BTreeMap<RefusedAt, RefusedPorts>, row: u32) -> Vec<bool> {
    let mut answers = Vec::new();
    for address in probes() {
        let found = looked_up(map, row, address);
        answers.extend(PACKETS.map(|(protocol, port)| {
            destination::refused(found, protocol, port_of(protocol, port)) != Verdict::Allow
        }));
    }
    answers
}

proptest! {
    // A failure is kept as a named test, not as a seed.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_longest_prefix_says_what_all_rules_say(rules in vec(refusal(), 0..5)) {
        let config = read("", &[("a", &rules.concat())]).unwrap();
        let facts = facts();
        let plan = compile(&fits(&config, &facts).unwrap());
        for address in probes() {
            for (protocol, port) in PACKETS {
                let refused = config.slices[0].refuse.iter().any(|rule| {
                    let protocol_fits = match rule.protocol {
                        RefusedProtocol::Any => true,
                        RefusedProtocol::Tcp => protocol == TCP,
                        RefusedProtocol::Udp => protocol == UDP,
                    };
                    rule.to.iter().any(|to| to.value.contains(address))
                        && !rule.except.iter().any(|except| except.value.contains(address))
                        && protocol_fits
                        && (rule.ports.is_empty() || rule.ports.iter().any(|ports| ports.value.contains(port)))
                });
                let found = looked_up(&plan.refused, 2, address);
                let verdict = destination::refused(found, protocol, port_of(protocol, port));
                prop_assert_eq!(verdict != Verdict::Allow, refused, "{} {}:{}", address, protocol, port);
            }
        }
    }
}
