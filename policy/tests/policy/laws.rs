//! Laws that hold for every input, tried with thousands of generated ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::abi::{TCP, UDP, port_index};
use policy::compile::{Cgroup, compile};
use policy::config::units::{
    BitsPerSecond, Bytes, CPU, MilliCores, MilliPercent, Nanoseconds, PART, RATE, SIZE, TIME,
};
use policy::config::{Place, PortRange, PortSet, Prefix, SliceName, Sources, parse};
use policy::ledger::Ledger;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::node::{facts, fits, read};
use crate::refusals::probes;

fn range() -> impl Strategy<Value = PortRange> {
    // Narrow and near each other, so that they touch and overlap; at both ends of the space too.
    let low = prop_oneof![
        1..60u16,
        65_500..=65_535u16,
        any::<u16>().prop_map(|port| port.max(1))
    ];
    (low, 0..12u16).prop_map(|(low, more)| PortRange::new(low, low.saturating_add(more)).unwrap())
}

fn ports() -> impl Strategy<Value = PortSet> {
    vec(range(), 0..12).prop_map(|ranges| ranges.into_iter().collect())
}

fn all(set: &PortSet) -> BTreeSet<u16> {
    set.iter().collect()
}

/// Prefixes of few networks, nested in each other, of both families.
pub fn prefix() -> impl Strategy<Value = Prefix> {
    let v4 = (0..4u32, 0..=32u8).prop_map(|(low, length)| {
        Prefix::around(
            IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | low << 14 | low)),
            length,
        )
        .unwrap()
    });
    let v6 = (0..4u128, 0..=128u8).prop_filter_map("IPv4 in disguise", |(low, length)| {
        let bits = if low == 3 { 1 << 100 } else { low << 47 | low };
        Prefix::around(IpAddr::V6(Ipv6Addr::from_bits(bits)), length).ok()
    });
    prop_oneof![v4, v6]
}

/// Slices with random reservations, as texts.
pub fn reservations() -> impl Strategy<Value = Vec<(Vec<PortRange>, Vec<PortRange>)>> {
    let ports = || vec((1..3000u16, 0..3u16), 0..4);
    vec((ports(), ports()), 0..6).prop_map(|slices| {
        let ranges = |ports: Vec<(u16, u16)>| {
            // One slice must not list a port twice: that is malformed, not a collision.
            let set: PortSet = ports
                .into_iter()
                .map(|(low, more)| PortRange::new(low, low + more).unwrap())
                .collect();
            set.ranges().to_vec()
        };
        slices
            .into_iter()
            .map(|(tcp, udp)| (ranges(tcp), ranges(udp)))
            .collect()
    })
}

fn list(ranges: &[PortRange]) -> String {
    let quoted: Vec<String> = ranges.iter().map(|range| format!("\"{range}\"")).collect();
    quoted.join(", ")
}

pub fn texts(slices: &[(Vec<PortRange>, Vec<PortRange>)]) -> Vec<(String, String)> {
    // Every other slice speaks the protocols itself: the laws are the same.
    let text = |n: usize, (tcp, udp): &(Vec<PortRange>, Vec<PortRange>)| {
        let (tcp, udp) = (list(tcp), list(udp));
        if n.is_multiple_of(2) {
            return format!("[ports]\ntcp = [{tcp}]\nudp = [{udp}]\n");
        }
        format!(
            "raw = \"safe\"\n[ports]\nraw_tcp = [{tcp}]\nraw_udp = [{udp}]\n[context]\nimage = \"debian\"\n"
        )
    };
    slices
        .iter()
        .enumerate()
        .map(|(n, ports)| (format!("s{n}"), text(n, ports)))
        .collect()
}

pub fn borrowed(texts: &[(String, String)]) -> Vec<(&str, &str)> {
    texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect()
}

proptest! {
    // A failure is kept as a named test, not as a seed.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_quantity_is_read_as_it_was_printed(steps: u64, part: u32) {
        prop_assert_eq!(SIZE.parse(&Bytes(steps).to_string()), Ok(steps));
        prop_assert_eq!(RATE.parse(&BitsPerSecond(steps).to_string()), Ok(steps));
        prop_assert_eq!(TIME.parse(&Nanoseconds(steps).to_string()), Ok(steps));
        prop_assert_eq!(CPU.parse(&MilliCores(steps).to_string()), Ok(steps));
        prop_assert_eq!(PART.parse(&MilliPercent(part).to_string()), Ok(u64::from(part)));
    }

    #[test]
    fn a_round_quantity_is_read_as_it_was_printed(number in 0..9000u64, unit in 0..9usize) {
        for kind in [&SIZE, &RATE, &TIME, &CPU] {
            let size = kind.units[unit % kind.units.len()].1;
            let steps = number * size;
            prop_assert_eq!(kind.parse(&kind.print(steps)), Ok(steps));
        }
    }

    #[test]
    fn no_text_makes_the_quantities_panic(text in "\\PC*") {
        for kind in [&SIZE, &RATE, &TIME, &CPU, &PART] {
            if let Err(bad) = kind.parse(&text) {
                prop_assert!(text.get(bad.span.clone()).is_some(), "{:?}", bad);
            }
        }
    }

    #[test]
    fn sets_of_ports_obey_the_algebra_of_sets(a in ports(), b in ports()) {
        let (x, y) = (all(&a), all(&b));
        prop_assert_eq!(all(&a.union(&b)), &x | &y);
        prop_assert_eq!(all(&a.intersection(&b)), &x & &y);
        prop_assert_eq!(all(&a.difference(&b)), &x - &y);
        prop_assert_eq!(a.len() as usize, x.len());
        prop_assert_eq!(a.is_empty(), x.is_empty());
        for port in 0..100u16 {
            prop_assert_eq!(a.contains(port), x.contains(&port));
        }
        // One form for one set, whatever it was made from.
        prop_assert_eq!(x.iter().map(|port| PortRange::new(*port, *port).unwrap()).collect::<PortSet>(), a);
    }

    #[test]
    fn a_set_of_ports_is_read_as_it_was_printed(a in ports()) {
        prop_assert_eq!(PortSet::parse_kernel(&a.to_string()), Ok(a.clone()));
        prop_assert_eq!(PortSet::parse_kernel(&format!("{a}\n")), Ok(a));
    }

    #[test]
    fn a_prefix_is_read_as_it_was_printed_and_covers_what_it_should(a in prefix(), b in prefix()) {
        prop_assert_eq!(Prefix::parse(&a.to_string()), Ok(a));
        let both = probes().into_iter().filter(|probe| b.contains(*probe));
        if a.covers(b) {
            for probe in both {
                prop_assert!(a.contains(probe));
            }
        }
    }

    #[test]
    fn what_is_admitted_has_no_port_of_two_owners(slices in reservations(), node in vec(range(), 0..2)) {
        let node: PortSet = node.into_iter().filter(|range| range.high() < 61_000).collect();
        let texts = texts(&slices);
        let config = read(&format!("[node.reserved]\ntcp = [{}]\n", list(node.ranges())), &borrowed(&texts)).unwrap();
        let mut owners: BTreeMap<(u8, u16), usize> = BTreeMap::new();
        for port in node.iter() {
            *owners.entry((TCP, port)).or_default() += 1;
        }
        for (tcp, udp) in &slices {
            for port in tcp.iter().flat_map(|range| range.iter()) {
                *owners.entry((TCP, port)).or_default() += 1;
            }
            for port in udp.iter().flat_map(|range| range.iter()) {
                *owners.entry((UDP, port)).or_default() += 1;
            }
        }
        let facts = facts();
        match fits(&config, &facts) {
            Ok(admitted) => {
                prop_assert!(owners.values().all(|owners| *owners == 1));
                let rows: BTreeSet<u32> =
                    owners.keys().map(|(protocol, port)| port_index(*protocol, *port).unwrap()).collect();
                prop_assert_eq!(compile(&admitted).reserved.into_keys().collect::<BTreeSet<u32>>(), rows);
            }
            Err(_) => prop_assert!(owners.values().any(|owners| *owners > 1)),
        }
    }

    #[test]
    fn the_order_of_files_does_not_matter(slices in reservations(), seed: usize) {
        let texts = texts(&slices);
        let compiled = |order: &[(String, String)]| {
            let mut sources = Sources::default();
            for (name, text) in order {
                sources.add(format!("slices/{name}.toml"), text);
            }
            sources.add("node.toml", "");
            let config = parse(sources, &|_| false).unwrap();
            let facts = facts();
            fits(&config, &facts).ok().map(|admitted| compile(&admitted))
        };
        let mut turned = texts.clone();
        if !turned.is_empty() {
            turned.rotate_left(seed % texts.len());
        }
        prop_assert_eq!(compiled(&texts), compiled(&turned));
    }

    #[test]
    fn an_id_is_never_given_twice(rounds in vec(vec(0..9u8, 0..6), 1..12)) {
        let mut ledger = Ledger::default();
        let mut given: BTreeMap<u32, String> = BTreeMap::new();
        let mut living: BTreeSet<String> = BTreeSet::new();
        for round in rounds {
            let names: BTreeSet<SliceName> =
                round.iter().map(|n| SliceName::new(&format!("s{n}")).unwrap()).collect();
            let before = ledger.clone();
            ledger = ledger.assign(&names, 8, &BTreeSet::new());
            prop_assert_eq!(ledger.iter().count(), names.len());
            let rows: BTreeSet<u32> = ledger.iter().map(|(_, id)| id.index()).collect();
            prop_assert_eq!(rows.len(), names.len(), "two slices in one row");
            for (name, id) in ledger.iter() {
                if living.contains(name) {
                    prop_assert_eq!(before.id(name), Some(id));
                } else {
                    prop_assert_eq!(given.insert(id.0, name.to_owned()), None);
                }
            }
            living = names.iter().map(ToString::to_string).collect();
        }
    }

    #[test]
    fn weights_keep_every_floor(slices in vec((0..3000u64, 1..=10u32), 1..20)) {
        let texts: Vec<(String, String)> = slices
            .iter()
            .enumerate()
            .map(|(n, (floor, share))| {
                (format!("s{n}"), format!("[cpu]\nfloor = \"{}\"\nshare = {share}\n", MilliCores(*floor)))
            })
            .collect();
        let config = read("", &borrowed(&texts)).unwrap();
        let mut facts = facts();
        facts.cpus = 64;
        let plan = compile(&fits(&config, &facts).unwrap());
        let weights: BTreeMap<String, u64> = plan
            .cgroups
            .iter()
            .filter(|write| write.file == "cpu.weight")
            .filter_map(|write| match &write.cgroup {
                Cgroup::Slice(name) => Some((name.to_string(), write.value.parse().unwrap())),
                _ => None,
            })
            .collect();
        let sum: u64 = weights.values().sum();
        for (n, (floor, _)) in slices.iter().enumerate() {
            let weight = weights[&format!("s{n}")];
            // A weight is a whole number of ten-thousandths of the largest: that much may lack.
            let part = 64_000 * (weight + 1) / sum.saturating_sub(slices.len() as u64).max(1);
            prop_assert!(part >= *floor, "{} of {} is {}, the floor is {}", weight, sum, part, floor);
        }
    }
}

#[test]
fn a_place_outside_the_text_is_cited_without_panic() {
    let mut sources = Sources::default();
    let file = sources.add("node.toml", "ä\nb");
    for start in 0..9 {
        for end in 0..9 {
            let cited = sources.cite(Place { file, start, end }).unwrap();
            assert!(cited.width >= 1 && cited.line <= 2);
        }
    }
    assert_eq!(
        sources.cite(Place {
            file: 1,
            start: 0,
            end: 0
        }),
        None
    );
}
