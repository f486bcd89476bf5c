//! The addresses of the node as the programs know them, kept true to the
//! devices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context;
use policy::SliceId;
use policy::abi::{ADDRESS_OWN, ADDRESS_SHARED, Address, AddressEntry, mapped};
use policy::config::Prefix;
use policy::decide::loopback::row_of;

use super::facts;
use super::record::Record;
use crate::kernel::maps::Maps;

/// Writes the shared addresses that devices have now, and removes those that
/// went; slices' own stay. Whether anything changed.
///
/// # Errors
/// The addresses cannot be listed, or the maps not written.
pub fn refresh(maps: &Maps, record: &Record) -> anyhow::Result<bool> {
    let exclude = record
        .exclude
        .iter()
        .map(|prefix| Prefix::parse(prefix).with_context(|| format!("understand prefix {prefix}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let now: BTreeMap<Address, AddressEntry> = maps.addresses.all()?.into_iter().collect();
    let shall = shall_be(&now, &facts::addresses()?, &exclude);
    if shall == now {
        return Ok(false);
    }
    // A new address first: until it is known it is denied.
    let new: Vec<_> = shall
        .iter()
        .filter(|(key, value)| now.get(*key) != Some(value))
        .map(|(k, v)| (*k, *v))
        .collect();
    maps.addresses.set_all(&new)?;
    for gone in now.keys().filter(|key| !shall.contains_key(*key)) {
        maps.addresses.remove(gone)?;
    }
    maps.forget_checks()?;
    Ok(true)
}

fn shall_be(
    now: &BTreeMap<Address, AddressEntry>,
    devices: &[IpAddr],
    exclude: &[Prefix],
) -> BTreeMap<Address, AddressEntry> {
    let shared = AddressEntry {
        owner: SliceId::NODE,
        kind: ADDRESS_SHARED,
    };
    let mut shall: BTreeMap<_, _> = devices
        .iter()
        .filter(|address| {
            let private = row_of(&in_map(**address)).is_some();
            !address.is_loopback()
                && !private
                && !address.is_multicast()
                && !address.is_unspecified()
        })
        .filter(|address| !exclude.iter().any(|prefix| prefix.contains(**address)))
        .map(|address| (in_map(*address), shared))
        .collect();
    shall.extend(now.iter().filter(|(_, entry)| entry.kind == ADDRESS_OWN));
    shall
}

fn in_map(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn devices_addresses_are_shared_but_loopback_excluded_and_own_ones() {
        let own = AddressEntry {
            owner: SliceId(7),
            kind: ADDRESS_OWN,
        };
        let stale = AddressEntry {
            owner: SliceId::NODE,
            kind: ADDRESS_SHARED,
        };
        let now = BTreeMap::from([
            (in_map(ip("10.0.0.9")), own),
            (in_map(ip("10.0.0.1")), stale),
        ]);
        let devices = [
            "127.0.0.1",
            "::1",
            "10.0.0.2",
            "10.0.0.9",
            "10.9.0.1",
            "2001:db8::1",
            "fd53:6c00::2:1",
        ]
        .map(ip);
        let shall = shall_be(&now, &devices, &[Prefix::parse("10.9.0.0/16").unwrap()]);
        let expected = [
            (in_map(ip("10.0.0.2")), stale),
            (in_map(ip("10.0.0.9")), own),
            (in_map(ip("2001:db8::1")), stale),
        ];
        assert_eq!(shall, BTreeMap::from(expected));
    }
}
