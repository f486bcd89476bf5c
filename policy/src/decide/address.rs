//! May the slice use this address of the node?

use crate::abi::{
    ADDRESS_OWN, ADDRESS_SHARED, Address, AddressEntry, OWN_IPV4, OWN_IPV6, SliceEntry, mapped,
};
use crate::decide::loopback;
use crate::ids::SliceId;
use crate::verdict::{Reason, Verdict};

/// What an address is on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// 0.0.0.0 or ::.
    Wildcard,
    /// The node's loopback: what is in 127.0.0.0/8 and no slice's, and ::1.
    Loopback,
    /// The private loopback of the slice in this row.
    Private(u32),
    /// A multicast group or 255.255.255.255.
    Group,
    /// An address that the node and all slices share.
    Shared,
    /// One slice's own address.
    Own(SliceId),
    /// Not one of the node's, as far as the loader has said.
    Foreign,
}

/// The two halves of an address, as numbers: few comparisons, since the
/// verifier follows each.
#[inline(always)]
pub(crate) const fn halves(address: &Address) -> (u64, u64) {
    let number = u128::from_be_bytes(*address);
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    let low = number as u64;
    ((number >> 64) as u64, low)
}

/// The address of two halves.
#[inline(always)]
pub(crate) const fn from_halves(high: u64, low: u64) -> Address {
    ((high as u128) << 64 | low as u128).to_be_bytes()
}

/// Whether the address is an IPv4 address in mapped form.
#[inline(always)]
pub const fn is_ipv4(address: &Address) -> bool {
    let (high, low) = halves(address);
    high == 0 && low >> 32 == 0xffff
}

/// The place of an address that tells it by itself; `None` where `ADDRESSES`
/// has to be asked.
#[inline(always)]
pub const fn by_itself(address: &Address) -> Option<Place> {
    let (high, low) = halves(address);
    if high >> 56 == 0xff {
        return Some(Place::Group);
    }
    if let Some(row) = loopback::row_of(address) {
        return Some(Place::Private(row));
    }
    if high != 0 {
        return None;
    }
    if low >> 32 == 0xffff {
        let ipv4 = low & 0xffff_ffff;
        return match ipv4 >> 24 {
            0 if ipv4 == 0 => Some(Place::Wildcard),
            127 => Some(Place::Loopback),
            224..=239 => Some(Place::Group),
            255 if ipv4 == 0xffff_ffff => Some(Place::Group),
            _ => None,
        };
    }
    match low {
        0 => Some(Place::Wildcard),
        1 => Some(Place::Loopback),
        _ => None,
    }
}

/// The place that `ADDRESSES` gives; a missing or zeroed entry is foreign.
#[inline(always)]
pub const fn by_entry(entry: Option<AddressEntry>) -> Place {
    match entry {
        Some(AddressEntry {
            kind: ADDRESS_SHARED,
            ..
        }) => Place::Shared,
        Some(AddressEntry {
            kind: ADDRESS_OWN,
            owner,
        }) => Place::Own(owner),
        _ => Place::Foreign,
    }
}

/// The address that a wildcard bind means for this slice, if it is not the
/// wildcard itself: its own. `ipv4` is the socket's family.
///
/// A dual-stack socket can be bound to one address only: with an own IPv6
/// address it is that one, with an own IPv4 address alone it is that one. A
/// socket for IPv6 only (`v6only`) has no use for an IPv4 address.
#[inline(always)]
pub const fn wildcard_means(slice: &SliceEntry, ipv4: bool, v6only: bool) -> Option<Address> {
    if !ipv4 && slice.flags & OWN_IPV6 != 0 {
        return Some(slice.own_ipv6);
    }
    if slice.flags & OWN_IPV4 != 0 && (ipv4 || !v6only) {
        return Some(mapped(slice.own_ipv4));
    }
    None
}

/// May `who` bind to an address at `place`? `ipv4` tells the address's family,
/// `slice` is its row (ignored for the node).
#[inline(always)]
pub fn bind(who: SliceId, slice: &SliceEntry, place: Place, ipv4: bool) -> Verdict {
    let mine = match place {
        Place::Own(owner) => owner.0 == who.0,
        Place::Wildcard | Place::Group => true,
        // A slice's 127.0.0.1 has been translated to a private address.
        Place::Loopback => !who.is_slice(),
        Place::Private(row) => who.is_slice() && row == who.index(),
        Place::Shared => !who.is_slice() || !has_own(slice, ipv4),
        // The node may bind what it likes (IP_FREEBIND, an address to come).
        Place::Foreign => !who.is_slice(),
    };
    Verdict::allow_if(mine, Reason::AddressForeign)
}

/// May a packet of the slice `who` leave with this source address? `inside`
/// tells whether it stays in the node: the kernel routes packets from ::1 to
/// other machines, where nothing tells whose they are.
#[inline(always)]
pub fn source(who: SliceId, slice: &SliceEntry, place: Place, ipv4: bool, inside: bool) -> Verdict {
    let mine = match place {
        Place::Own(owner) => owner.0 == who.0,
        Place::Private(row) => inside && row == who.index(),
        Place::Shared => !has_own(slice, ipv4),
        Place::Wildcard | Place::Loopback | Place::Group | Place::Foreign => false,
    };
    Verdict::allow_if(mine, Reason::SourceForeign)
}

/// May a packet to an address at `place` reach a socket of the slice `who`?
/// A wildcard socket must not get what was sent to the own address of another
/// slice, nor to an address that policy excludes or that is not known (a
/// network's broadcast address among them). Asked only where some address of
/// the node is not shared.
#[inline(always)]
pub fn receive(who: SliceId, slice: &SliceEntry, place: Place, ipv4: bool) -> Verdict {
    let mine = match place {
        Place::Own(owner) => owner.0 == who.0,
        Place::Shared => !has_own(slice, ipv4),
        Place::Group | Place::Wildcard => true,
        Place::Private(row) => row == who.index(),
        Place::Loopback | Place::Foreign => false,
    };
    Verdict::allow_if(mine, Reason::ReceiveForeign)
}

#[inline(always)]
const fn has_own(slice: &SliceEntry, ipv4: bool) -> bool {
    slice.flags & (if ipv4 { OWN_IPV4 } else { OWN_IPV6 }) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{CLAIM, LIVE};
    use zerocopy::FromZeros;

    const A: SliceId = SliceId(2);
    const B: SliceId = SliceId(3);

    fn slice(flags: u32) -> SliceEntry {
        SliceEntry {
            id: A,
            flags: LIVE | CLAIM | flags,
            own_ipv4: [10, 0, 0, 5],
            own_ipv6: v6("2001:db8::5"),
            ..SliceEntry::new_zeroed()
        }
    }

    fn v6(text: &str) -> Address {
        text.parse::<std::net::Ipv6Addr>().unwrap().octets()
    }

    fn v4(text: &str) -> Address {
        mapped(text.parse::<std::net::Ipv4Addr>().unwrap().octets())
    }

    #[test]
    fn addresses_that_tell_their_place_by_themselves() {
        for (address, place) in [
            (v4("0.0.0.0"), Some(Place::Wildcard)),
            (v6("::"), Some(Place::Wildcard)),
            (v4("127.0.0.1"), Some(Place::Loopback)),
            (v4("127.255.0.9"), Some(Place::Loopback)),
            (v4("127.1.2.9"), Some(Place::Private(2))),
            (v6("fd53:6c00::2:1"), Some(Place::Private(2))),
            (v6("::1"), Some(Place::Loopback)),
            (v4("224.0.0.1"), Some(Place::Group)),
            (v4("239.255.255.255"), Some(Place::Group)),
            (v4("255.255.255.255"), Some(Place::Group)),
            (v6("ff02::1"), Some(Place::Group)),
            (v4("10.0.0.1"), None),
            (v4("240.0.0.1"), None),
            (v4("0.0.0.1"), None),
            (v6("2001:db8::1"), None),
            (v6("::2"), None),
            (v6("::127.0.0.1"), None),
        ] {
            assert_eq!(by_itself(&address), place, "{address:?}");
        }
    }

    #[test]
    fn a_slice_binds_shared_addresses_unless_it_has_its_own() {
        assert_eq!(bind(A, &slice(0), Place::Shared, true), Verdict::Allow);
        let denied = Verdict::Deny(Reason::AddressForeign);
        assert_eq!(bind(A, &slice(OWN_IPV4), Place::Shared, true), denied);
        assert_eq!(
            bind(A, &slice(OWN_IPV4), Place::Shared, false),
            Verdict::Allow
        );
        assert_eq!(bind(A, &slice(OWN_IPV6), Place::Shared, false), denied);
    }

    #[test]
    fn nobody_binds_the_own_address_of_another_not_even_the_node() {
        let denied = Verdict::Deny(Reason::AddressForeign);
        assert_eq!(bind(A, &slice(0), Place::Own(A), true), Verdict::Allow);
        assert_eq!(bind(B, &slice(0), Place::Own(A), true), denied);
        assert_eq!(bind(SliceId::NODE, &slice(0), Place::Own(A), true), denied);
    }

    #[test]
    fn an_unknown_address_is_the_nodes_only() {
        assert_eq!(
            bind(SliceId::NODE, &slice(0), Place::Foreign, true),
            Verdict::Allow
        );
        assert_eq!(
            bind(A, &slice(0), by_entry(None), true),
            Verdict::Deny(Reason::AddressForeign)
        );
        assert_eq!(by_entry(Some(AddressEntry::new_zeroed())), Place::Foreign);
    }

    #[test]
    fn packets_leave_with_addresses_of_the_slice_only() {
        let denied = Verdict::Deny(Reason::SourceForeign);
        for place in [Place::Wildcard, Place::Group, Place::Foreign, Place::Own(B)] {
            assert_eq!(source(A, &slice(0), place, true, true), denied, "{place:?}");
        }
        for place in [Place::Shared, Place::Own(A)] {
            assert_eq!(
                source(A, &slice(0), place, true, false),
                Verdict::Allow,
                "{place:?}"
            );
        }
        assert_eq!(
            source(A, &slice(OWN_IPV4), Place::Shared, true, false),
            denied
        );
    }

    #[test]
    fn packets_from_a_slices_loopback_stay_inside_the_node_and_are_its_own() {
        let denied = Verdict::Deny(Reason::SourceForeign);
        let (own, other) = (Place::Private(A.index()), Place::Private(B.index()));
        assert_eq!(source(A, &slice(0), own, false, true), Verdict::Allow);
        assert_eq!(source(A, &slice(0), own, false, false), denied);
        assert_eq!(source(A, &slice(0), other, false, true), denied);
        assert_eq!(source(A, &slice(0), Place::Loopback, false, true), denied);
    }

    #[test]
    fn a_loopback_is_bound_by_whose_it_is() {
        let denied = Verdict::Deny(Reason::AddressForeign);
        let own = Place::Private(A.index());
        assert_eq!(bind(A, &slice(0), own, true), Verdict::Allow);
        assert_eq!(bind(B, &slice(0), own, true), denied);
        assert_eq!(bind(SliceId::NODE, &slice(0), own, true), denied);
        assert_eq!(bind(A, &slice(0), Place::Loopback, true), denied);
        assert_eq!(
            bind(SliceId::NODE, &slice(0), Place::Loopback, true),
            Verdict::Allow
        );
    }

    #[test]
    fn packets_for_an_own_address_reach_its_slice_only() {
        let denied = Verdict::Deny(Reason::ReceiveForeign);
        assert_eq!(receive(A, &slice(0), Place::Own(B), true), denied);
        assert_eq!(
            receive(A, &slice(OWN_IPV4), Place::Own(A), true),
            Verdict::Allow
        );
        assert_eq!(receive(A, &slice(OWN_IPV4), Place::Shared, true), denied);
        assert_eq!(
            receive(A, &slice(OWN_IPV4), Place::Shared, false),
            Verdict::Allow
        );
        assert_eq!(receive(A, &slice(0), Place::Foreign, true), denied);
        for place in [Place::Loopback, Place::Private(B.index())] {
            assert_eq!(receive(A, &slice(0), place, true), denied, "{place:?}");
        }
        for place in [Place::Shared, Place::Private(A.index()), Place::Group] {
            assert_eq!(
                receive(A, &slice(0), place, true),
                Verdict::Allow,
                "{place:?}"
            );
        }
    }

    #[test]
    fn a_wildcard_means_the_own_address() {
        assert_eq!(wildcard_means(&slice(OWN_IPV4), false, true), None);
        assert_eq!(wildcard_means(&slice(0), true, false), None);
        assert_eq!(
            wildcard_means(&slice(OWN_IPV4), true, false),
            Some(v4("10.0.0.5"))
        );
        assert_eq!(
            wildcard_means(&slice(OWN_IPV4), false, false),
            Some(v4("10.0.0.5"))
        );
        assert_eq!(wildcard_means(&slice(OWN_IPV6), true, false), None);
        assert_eq!(
            wildcard_means(&slice(OWN_IPV4 | OWN_IPV6), false, false),
            Some(v6("2001:db8::5"))
        );
    }
}
