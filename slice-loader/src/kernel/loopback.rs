//! What the private loopbacks need of the device lo: for each slice a route by
//! which the kernel picks the slice's own address as the source, and an IPv6
//! address, since that of the loopback is one only.
//!
//! Both are read from the kernel, not remembered: what a command that was
//! killed left is seen by the next. Routes carry a protocol number of ours,
//! addresses lie in our prefix.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use policy::abi::mapped;
use policy::decide::loopback::{localhost_ipv4, localhost_ipv6, row_of};

use super::netlink::Netlink;

/// The device lo has this number in every network namespace.
const LO: u32 = 1;
/// `RT_TABLE_LOCAL`.
const LOCAL: u8 = 255;
/// Who made a route, as `ip route` shows it: a number that nobody in
/// iproute2's list has.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(83);
/// `INFINITY_LIFE_TIME`.
const FOREVER: u32 = u32::MAX;

/// The rows whose loopbacks the kernel knows, in one family each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Loopbacks {
    routes: BTreeSet<u32>,
    addresses: BTreeSet<u32>,
}

/// Makes the kernel know the loopbacks of these rows and of no others.
///
/// # Errors
/// The kernel refuses; what was done before stays.
pub fn set(rows: &BTreeSet<u32>) -> anyhow::Result<()> {
    let mut netlink = Netlink::open()?;
    let now = read(&mut netlink)?;
    let addresses = if has_ipv6() {
        rows.clone()
    } else {
        BTreeSet::new()
    };
    let removed = |now: &BTreeSet<u32>, shall: &BTreeSet<u32>, message: fn(u32) -> _| {
        now.difference(shall).copied().map(message).collect()
    };
    netlink.change(
        0,
        removed(&now.routes, rows, |row| {
            RouteNetlinkMessage::DelRoute(route(row))
        }),
        &[Errno::ESRCH],
    )?;
    netlink.change(
        0,
        removed(&now.addresses, &addresses, |row| {
            RouteNetlinkMessage::DelAddress(address(row))
        }),
        &[Errno::EADDRNOTAVAIL],
    )?;
    let create = NLM_F_CREATE | NLM_F_REPLACE;
    let new = rows.difference(&now.routes).copied().map(route);
    netlink.change(
        create,
        new.map(RouteNetlinkMessage::NewRoute).collect(),
        &[Errno::EEXIST],
    )?;
    let new = addresses.difference(&now.addresses).copied().map(address);
    netlink.change(
        create,
        new.map(RouteNetlinkMessage::NewAddress).collect(),
        &[Errno::EEXIST],
    )
}

/// Whether the device lo has IPv6: then it has ::1, and slices have theirs.
fn has_ipv6() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        .is_ok_and(|disabled| disabled.trim() == "0")
}

fn read(netlink: &mut Netlink) -> anyhow::Result<Loopbacks> {
    let mut found = Loopbacks::default();
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet;
    netlink.list(RouteNetlinkMessage::GetRoute(question), |message| {
        if let RouteNetlinkMessage::NewRoute(route) = message
            && let Some(row) = row_of_route(&route)
        {
            found.routes.insert(row);
        }
    })?;
    let mut question = AddressMessage::default();
    question.header.family = AddressFamily::Inet6;
    netlink.list(RouteNetlinkMessage::GetAddress(question), |message| {
        if let RouteNetlinkMessage::NewAddress(address) = message
            && let Some(row) = row_of_address(&address)
        {
            found.addresses.insert(row);
        }
    })?;
    Ok(found)
}

fn row_of_route(route: &RouteMessage) -> Option<u32> {
    let header = &route.header;
    if header.table != LOCAL || header.protocol != PROTOCOL {
        return None;
    }
    route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute else {
            return None;
        };
        row_of(&mapped(address.octets()))
    })
}

fn row_of_address(address: &AddressMessage) -> Option<u32> {
    address.attributes.iter().find_map(|attribute| {
        let AddressAttribute::Address(IpAddr::V6(address)) = attribute else {
            return None;
        };
        row_of(&address.octets())
    })
}

/// `local 127.a.b.0/24 dev lo src 127.a.b.1`: the longest match for addresses
/// that 127.0.0.0/8 makes local already.
fn route(row: u32) -> RouteMessage {
    let localhost = localhost_ipv4(row);
    let [a, b, c] = [localhost[12], localhost[13], localhost[14]];
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = 24;
    route.header.table = LOCAL;
    route.header.protocol = PROTOCOL;
    route.header.scope = RouteScope::Host;
    route.header.kind = RouteType::Local;
    route.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::new(a, b, c, 0))),
        RouteAttribute::PrefSource(RouteAddress::Inet(Ipv4Addr::new(a, b, c, 1))),
        RouteAttribute::Oif(LO),
    ];
    route
}

/// The address is deprecated, so that the kernel picks it as the source of
/// nothing that is not sent to it.
fn address(row: u32) -> AddressMessage {
    let localhost = IpAddr::V6(Ipv6Addr::from(localhost_ipv6(row)));
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_valid = FOREVER;
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet6;
    address.header.prefix_len = 128;
    address.header.scope = AddressScope::Universe;
    address.header.index = LO;
    address.header.flags = AddressHeaderFlags::Nodad;
    address.attributes = vec![
        AddressAttribute::Address(localhost),
        AddressAttribute::Local(localhost),
        AddressAttribute::CacheInfo(lifetimes),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_recognized() {
        for row in [2, 255, 256, 16383] {
            assert_eq!(row_of_route(&route(row)), Some(row));
            assert_eq!(row_of_address(&address(row)), Some(row));
        }
        let mut of_another = route(2);
        of_another.header.protocol = RouteProtocol::Kernel;
        assert_eq!(row_of_route(&of_another), None);
    }
}
