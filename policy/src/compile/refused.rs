//! Refused destinations as entries of a longest-prefix map.
//!
//! Programs look at the longest matching prefix alone, so each prefix carries the union of all
//! rules around it, less those that except it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use zerocopy::FromZeros;

use crate::abi::{
    REFUSED_RANGES, RefusedKey, RefusedPorts, RefusedRange, TCP, UDP, mapped, refused_row,
};
use crate::config::{PortRange, PortSet, Prefix, Refusal, RefusedProtocol};

/// Most entries of the kernel's map for all slices together.
pub const MAX_REFUSED: usize = 65_536;

/// Bits of the row that come before the address.
const ROW_BITS: u32 = 32;
/// Bits of `::ffff:0:0/96`.
const MAPPED_BITS: u32 = 96;
const ANY: u8 = 0;

/// More ranges at one prefix than an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// The prefix.
    pub at: Prefix,
    /// How many ranges there are.
    pub ranges: usize,
    /// The first of the rules that meet there, by its index.
    pub rule: usize,
}

/// A rule that refuses (`true`) or excepts a prefix.
type Begins = (usize, bool);

/// The address in the map's form, with the length of the prefix in it.
fn bits(prefix: Prefix) -> (u128, u32) {
    let length = u32::from(prefix.length());
    match prefix.address() {
        IpAddr::V4(v4) => (
            u128::from_be_bytes(mapped(v4.octets())),
            MAPPED_BITS + length,
        ),
        IpAddr::V6(v6) => (v6.to_bits(), length),
    }
}

fn covers(outer: (u128, u32), inner: (u128, u32)) -> bool {
    let mask = u128::MAX.checked_shl(128 - outer.1).unwrap_or(0);
    outer.1 <= inner.1 && (outer.0 ^ inner.0) & mask == 0
}

/// The entries that `rules` make for `row` (0: all slices), sorted by address and length.
///
/// # Errors
/// A prefix at which more than [`REFUSED_RANGES`] ranges of ports meet.
pub fn entries(row: u32, rules: &[Refusal]) -> Result<Vec<(RefusedKey, RefusedPorts)>, TooMany> {
    // What begins at each prefix: (rule, whether it refuses or excepts).
    let mut points: BTreeMap<(u128, u32), (Prefix, Vec<Begins>)> = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        let refused = rule.to.iter().map(|to| (to.value, true));
        for (prefix, refuses) in
            refused.chain(rule.except.iter().map(|except| (except.value, false)))
        {
            points
                .entry(bits(prefix))
                .or_insert_with(|| (prefix, Vec::new()))
                .1
                .push((index, refuses));
        }
    }
    // IPv4 lies inside IPv6 in the map: a rule for ::/0 must not reach it.
    let whole_ipv4 = Prefix::around(IpAddr::from([0, 0, 0, 0]), 0);
    if let Ok(whole_ipv4) = whole_ipv4
        && points
            .keys()
            .any(|point| point.1 < MAPPED_BITS && covers(*point, bits(whole_ipv4)))
    {
        points
            .entry(bits(whole_ipv4))
            .or_insert_with(|| (whole_ipv4, Vec::new()));
    }

    // In this order each prefix comes after those around it, so that a stack of the open ones
    // knows what holds.
    let mut entries: Vec<(RefusedKey, RefusedPorts)> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    for (point, (prefix, begins)) in points {
        while open.last().is_some_and(|outer| !covers(outer.point, point)) {
            open.pop();
        }
        let leaves_ipv6 = point == (u128::from_be_bytes(mapped([0; 4])), MAPPED_BITS);
        let outer = open.last();
        let mut holds = match outer {
            Some(outer) if !leaves_ipv6 => outer.holds.clone(),
            _ => BTreeSet::new(),
        };
        let mut excepted = match outer {
            Some(outer) if !leaves_ipv6 => outer.excepted.clone(),
            _ => BTreeSet::new(),
        };
        holds.extend(
            begins
                .iter()
                .filter(|(_, refuses)| *refuses)
                .map(|(rule, _)| *rule),
        );
        excepted.extend(
            begins
                .iter()
                .filter(|(_, refuses)| !*refuses)
                .map(|(rule, _)| *rule),
        );
        let active: Vec<&Refusal> = holds
            .difference(&excepted)
            .filter_map(|rule| rules.get(*rule))
            .collect();
        let ranges = ranges(&active);
        let rule = holds.difference(&excepted).next().copied().unwrap_or(0);
        let ports = pack(&ranges).ok_or(TooMany {
            at: prefix,
            ranges: ranges.len(),
            rule,
        })?;
        // Where nothing changes, the entry around says it all.
        let around = outer.map(|outer| outer.ports);
        if around != Some(ports) && !(around.is_none() && ports.count == 0) {
            let (address, length) = point;
            let key = RefusedKey {
                prefix_length: ROW_BITS + length,
                row: refused_row(row),
                address: address.to_be_bytes(),
            };
            entries.push((key, ports));
        }
        open.push(Open {
            point,
            holds,
            excepted,
            ports,
        });
    }
    Ok(entries)
}

/// A prefix around the one that is looked at.
struct Open {
    point: (u128, u32),
    /// Rules that refuse here or around.
    holds: BTreeSet<usize>,
    /// Rules that except here or around.
    excepted: BTreeSet<usize>,
    ports: RefusedPorts,
}

/// The union of rules as ranges: of any protocol, of TCP, of UDP; disjoint.
fn ranges(rules: &[&Refusal]) -> Vec<(u8, u16, u16)> {
    let all = |protocol| {
        rules
            .iter()
            .any(|rule| rule.protocol == protocol && rule.ports.is_empty())
    };
    if all(RefusedProtocol::Any) {
        return vec![(ANY, 0, u16::MAX)];
    }
    let some = |protocol| -> PortSet {
        let of_protocol = rules.iter().filter(|rule| rule.protocol == protocol);
        of_protocol
            .flat_map(|rule| rule.ports.iter().map(|range| range.value))
            .collect()
    };
    let (any, tcp, udp) = (
        some(RefusedProtocol::Any),
        some(RefusedProtocol::Tcp),
        some(RefusedProtocol::Udp),
    );
    let every: PortSet = [PortRange::ALL].into_iter().collect();
    let (all_tcp, all_udp) = (all(RefusedProtocol::Tcp), all(RefusedProtocol::Udp));
    let tcp = if all_tcp {
        every.clone()
    } else {
        tcp.union(&any)
    };
    let udp = if all_udp { every } else { udp.union(&any) };
    // What one protocol refuses whole is said in its own range, port 0 included.
    let both = if all_tcp || all_udp {
        PortSet::default()
    } else {
        tcp.intersection(&udp)
    };
    let mut ranges = Vec::new();
    let mut add = |protocol, set: &PortSet| {
        ranges.extend(
            set.ranges()
                .iter()
                .map(|range| (protocol, range.low(), range.high())),
        );
    };
    add(ANY, &both);
    if !all_tcp {
        add(TCP, &tcp.difference(&both));
    }
    if !all_udp {
        add(UDP, &udp.difference(&both));
    }
    if all_tcp {
        ranges.push((TCP, 0, u16::MAX));
    }
    if all_udp {
        ranges.push((UDP, 0, u16::MAX));
    }
    ranges
}

fn pack(ranges: &[(u8, u16, u16)]) -> Option<RefusedPorts> {
    if ranges.len() > REFUSED_RANGES {
        return None;
    }
    let mut ports = RefusedPorts::new_zeroed();
    for (slot, (protocol, low, high)) in ports.rules.iter_mut().zip(ranges) {
        *slot = RefusedRange {
            protocol: *protocol,
            low: *low,
            high: *high,
            ..RefusedRange::new_zeroed()
        };
    }
    ports.count = u32::try_from(ranges.len()).ok()?;
    Some(ports)
}
