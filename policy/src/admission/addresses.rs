//! An own address is one slice's alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Facts;
use crate::config::{At, Complaint, Config, Place, Prefix, Slice};
use crate::decide::loopback::row_of;

/// An own address is one slice's, and nobody shares it.
pub(super) fn addresses(config: &Config, facts: &Facts, complaints: &mut Vec<Complaint>) {
    let mut owners: BTreeMap<IpAddr, (&Slice, Option<Place>)> = BTreeMap::new();
    for slice in &config.slices {
        let own = slice.address;
        let own = [
            own.ipv4.map(|a| a.map(IpAddr::V4)),
            own.ipv6.map(|a| a.map(IpAddr::V6)),
        ];
        for address in own.into_iter().flatten() {
            if let Some((first, at)) = owners.get(&address.value) {
                complaints.push(
                    Complaint::maybe_at(
                        address.at,
                        format!(
                            "{} belongs to slice {} and to slice {}",
                            address.value, first.name.value, slice.name.value
                        ),
                        "an own address has one owner: remove it from one of the two",
                    )
                    .with_other(*at, format!("slice {}", first.name.value)),
                );
                continue;
            }
            owners.insert(address.value, (slice, address.at));
            let excluded = config
                .node
                .exclude
                .iter()
                .any(|prefix| prefix.contains(address.value));
            if !excluded {
                complaints.push(Complaint::maybe_at(
                    address.at,
                    format!("{} is shared by the node and all slices", address.value),
                    format!("add \"{}\" to `exclude` in [node.addresses]: the node itself then cannot use it", address.value),
                ));
            }
        }
    }
    let all = owners.len() + shared_addresses(config, facts).len();
    if all > MAX_ADDRESSES {
        let message = format!(
            "the node has {all} addresses, {} more than its table holds",
            all - MAX_ADDRESSES
        );
        complaints.push(Complaint::maybe_at(
            config.node.exclude.first().and_then(|prefix| prefix.at),
            message,
            "exclude addresses that slices do not need in [node.addresses]",
        ));
    }
}

/// Entries of the kernel's map of addresses.
const MAX_ADDRESSES: usize = 32_768;

/// The addresses of the node that all slices share under this policy.
#[must_use]
pub fn shared_addresses(config: &Config, facts: &Facts) -> Vec<IpAddr> {
    let excluded = |address: &IpAddr| {
        config
            .node
            .exclude
            .iter()
            .any(|prefix: &At<Prefix>| prefix.contains(*address))
    };
    let plain = |address: &IpAddr| {
        let private = match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => row_of(&v6.octets()).is_some(),
        };
        !address.is_loopback() && !private && !address.is_multicast() && !address.is_unspecified()
    };
    let mut shared: Vec<IpAddr> = facts
        .addresses
        .iter()
        .copied()
        .filter(|a| plain(a) && !excluded(a))
        .collect();
    shared.sort_unstable();
    shared.dedup();
    shared
}
