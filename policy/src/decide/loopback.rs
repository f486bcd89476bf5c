//! The private loopback: which address a slice means when it says 127.0.0.1 or
//! ::1, and what it is told of its own.
//!
//! | a program of the slice in row `r` says | the kernel gets |
//! |---|---|
//! | 127.0.0.x | 127.(1 + r / 256).(r % 256).x |
//! | 127.0.1.1 (Debian's name for the host) | the same with x = 254 |
//! | ::1 | fd53:6c00::r:1 |
//!
//! Ports that a program names are translated too: the kernel has one space of
//! ports for an address and the wildcard, so that another slice's wildcard
//! listener would take them. The slice's [`LoopbackPorts`] say which port of the
//! kernel's, in the range kept for this, stands for which ([`slot`]).
//!
//! [`LoopbackPorts`]: crate::abi::LoopbackPorts

use crate::abi::{
    Address, Claim, LOOPBACK_SLOTS, RESERVED_FOUND, RESERVED_NODE, Reserved, TCP, UDP,
};
use crate::decide::address::{Place, by_itself, from_halves, halves};
use crate::ids::{MAX_ROWS, SliceId};
use crate::verdict::{Reason, Verdict};

/// First IPv4 address of row 0: 127.1.0.0.
const FIRST_IPV4: u64 = 0x7f01_0000;
/// Upper half of the prefix of all private IPv6 addresses, fd53:6c00::/96: a
/// unique local one (RFC 4193) that is on the device lo alone.
const PREFIX_IPV6: u64 = 0xfd53_6c00_0000_0000;
/// Mark of a mapped IPv4 address.
const MAPPED: u64 = 0xffff_0000_0000;
/// Last octet of the node's stub resolver (systemd-resolved), 127.0.0.53.
const RESOLVER_HOST: u64 = 53;
/// The stub resolver.
const RESOLVER: u64 = MAPPED | 0x7f00_0035;
/// Port of name servers.
const DNS: u16 = 53;
/// What 127.0.1.1 becomes the last octet of.
const DEBIAN_HOST: u64 = 254;
/// 127.0.1.1.
const DEBIAN: u64 = 0x7f00_0101;

/// Bits of an IPv4 address.
const IPV4: u64 = 0xffff_ffff;

/// What an address means that a program of a slice named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// No loopback address.
    Elsewhere,
    /// The slice's own, which the kernel knows as this.
    Mine(Address),
    /// The node's stub resolver.
    Resolver,
    /// The node's loopback, or another slice's.
    Foreign,
}

const fn ipv4(row: u32, host: u64) -> Address {
    from_halves(0, MAPPED | (FIRST_IPV4 + ((row as u64) << 8) + host))
}

const fn ipv6(row: u32) -> Address {
    from_halves(PREFIX_IPV6, (row as u64) << 16 | 1)
}

/// The address that a slice's 127.0.0.1 is.
#[inline(always)]
pub const fn localhost_ipv4(row: u32) -> Address {
    ipv4(row, 1)
}

/// The address that a slice's ::1 is.
#[inline(always)]
pub const fn localhost_ipv6(row: u32) -> Address {
    ipv6(row)
}

/// The row whose private address this is, if it is one; a row that no slice
/// can have among them.
#[inline(always)]
#[allow(
    clippy::cast_possible_truncation,
    reason = "what is left has 14 or 16 bits"
)]
pub const fn row_of(address: &Address) -> Option<u32> {
    let (high, low) = halves(address);
    if high == PREFIX_IPV6 && low >> 32 == 0 {
        return Some((low >> 16) as u32);
    }
    if high == 0 && low >> 32 == MAPPED >> 32 {
        // Wraps below the range, to what is above it.
        let row = (low & IPV4).wrapping_sub(FIRST_IPV4) >> 8;
        if row < MAX_ROWS as u64 {
            return Some(row as u32);
        }
    }
    None
}

/// What an address means that a program in the slice of this row binds or
/// sends from.
#[inline(always)]
pub const fn named(row: u32, address: &Address) -> Named {
    let (high, low) = halves(address);
    if high == PREFIX_IPV6 && low >> 32 == 0 {
        // Its own by the name that the kernel has for it.
        return if low == ((row as u64) << 16 | 1) {
            Named::Mine(*address)
        } else {
            Named::Foreign
        };
    }
    if high != 0 {
        return Named::Elsewhere;
    }
    if low == 1 {
        return Named::Mine(ipv6(row));
    }
    if low >> 24 != (MAPPED | 0x7f00_0000) >> 24 {
        return Named::Elsewhere;
    }
    let number = low & IPV4;
    let host = number & 0xff;
    if number == DEBIAN {
        return Named::Mine(ipv4(row, DEBIAN_HOST));
    }
    let by_kernels_name = number >> 8 == (FIRST_IPV4 >> 8) + row as u64;
    if number >> 8 != 0x7f_0000 && !by_kernels_name {
        return Named::Foreign;
    }
    match host {
        RESOLVER_HOST if !by_kernels_name => Named::Resolver,
        RESOLVER_HOST => Named::Foreign,
        DEBIAN_HOST if !by_kernels_name => Named::Foreign,
        host => Named::Mine(ipv4(row, host)),
    }
}

/// The same of an address that a program connects or sends to: there 0.0.0.0
/// and :: are loopback addresses to the kernel.
#[inline(always)]
pub const fn named_destination(row: u32, address: &Address) -> Named {
    let (high, low) = halves(address);
    match (high, low) {
        (0, 0) => Named::Mine(ipv6(row)),
        (0, MAPPED) => Named::Mine(ipv4(row, 1)),
        _ => named(row, address),
    }
}

/// The name by which programs of the slice in this row know an address.
#[inline(always)]
pub const fn shown(row: u32, address: &Address) -> Address {
    let (high, low) = halves(address);
    if high == PREFIX_IPV6 && low == ((row as u64) << 16 | 1) {
        return from_halves(0, 1);
    }
    if high == 0 && low >> 8 == (MAPPED | (FIRST_IPV4 + ((row as u64) << 8))) >> 8 {
        return match low & 0xff {
            DEBIAN_HOST => from_halves(0, MAPPED | DEBIAN),
            host => from_halves(0, MAPPED | 0x7f00_0000 | host),
        };
    }
    *address
}

/// Whether this is the node's stub resolver, which slices may ask: names are
/// looked up there where /etc/resolv.conf says so.
#[inline(always)]
pub const fn is_resolver(address: &Address, port: u16) -> bool {
    let (high, low) = halves(address);
    high == 0 && low == RESOLVER && port == DNS
}

/// Whether a packet is an echo request inside the node from the node's loopback
/// address, which the kernel picked: it names nobody, and the answer is the
/// kernel's. (Sockets for echo requests take part in no translation.)
#[inline(always)]
pub const fn is_echo(from: Place, protocol: u8, inside: bool) -> bool {
    inside && protocol != TCP && protocol != UDP && matches!(from, Place::Loopback)
}

/// May a packet of the slice `who` go to `to`, which is at `place`? To the
/// node's loopback go questions to the resolver, and echo requests, which the
/// kernel itself answers. `inside` tells whether it stays in the node: a socket
/// that is bound to another device would send it to the next machine.
#[inline(always)]
pub fn send(
    who: SliceId,
    place: Place,
    to: &Address,
    protocol: u8,
    port: u16,
    inside: bool,
) -> Verdict {
    let may = match place {
        Place::Private(row) => inside && row == who.index(),
        Place::Loopback => match protocol {
            TCP | UDP => inside && is_resolver(to, port),
            _ => inside,
        },
        _ => true,
    };
    Verdict::allow_if(may, Reason::LoopbackForeign)
}

/// May a packet inside the node, of a socket of the node, go from `from`, port
/// `port`, to `to`? The private loopbacks are the slices' own, whom the
/// resolver answers.
#[inline(always)]
pub const fn node_sends(from: &Address, port: u16, to: &Address) -> Verdict {
    let may = row_of(from).is_none() && (row_of(to).is_none() || is_resolver(from, port));
    Verdict::allow_if(may, Reason::LoopbackForeign)
}

/// May a packet to `to` reach a socket of the slice `who`? `None` where `to` is
/// no loopback address and other rules tell. What comes from another device is
/// no loopback packet, whatever it says.
#[inline(always)]
pub fn receive(who: SliceId, to: &Address, protocol: u8, inside: bool) -> Option<Verdict> {
    let mine = match by_itself(to) {
        Some(Place::Private(row)) => inside && row == who.index(),
        // Echo replies: the kernel finds their socket by its identifier.
        Some(Place::Loopback) => inside && protocol != TCP && protocol != UDP,
        _ => return None,
    };
    Some(Verdict::allow_if(mine, Reason::ReceiveForeign))
}

/// May a socket that is bound to a port of all addresses be found through the
/// loopback of the slice in row `row`, or of the node (row 0)? Only where the
/// port is its own: `reserved` and `claim` say whose it is. A port that the
/// kernel picked and shared is nobody's here; the packet hook knows the socket.
#[inline(always)]
pub fn find(row: u32, reserved: Reserved, claim: Claim) -> Verdict {
    let mine = claim.owner().index() == row;
    let foreign = if claim.sockets() > 0 && claim.named() {
        !mine
    } else {
        let found = matches!(reserved.kind, RESERVED_FOUND | RESERVED_NODE);
        row != SliceId::NODE.index() && found && !(mine && claim.sockets() > 0)
    };
    Verdict::allow_if(!foreign, Reason::LoopbackForeign)
}

/// One slot of a slice's loopback ports. Slot `n` stands for the kernel's ports
/// `loopback_low + n + 64 x lap`: each time it is given to another port the next
/// lap begins, so that what TCP remembers of the former (TIME_WAIT) is in
/// nobody's way.
pub mod slot {
    use super::{LOOPBACK_SLOTS, TCP};

    /// Ports of the kernel that a slot walks through.
    pub const LAPS: u64 = 70;
    /// One socket more or less in a word.
    pub const SOCKET: u64 = 1 << 32;

    /// The word of a port of which no socket is counted yet.
    #[inline(always)]
    const fn of(protocol: u8, port: u16) -> u64 {
        (protocol as u64) << 16 | port as u64
    }

    /// Whether the word is of this port; its sockets may all be gone.
    #[inline(always)]
    pub const fn is_of(word: u64, protocol: u8, port: u16) -> bool {
        (word ^ of(protocol, port)) & 0xff_ffff == 0
    }

    /// Sockets counted.
    #[inline(always)]
    pub const fn sockets(word: u64) -> u64 {
        word >> 32
    }

    #[inline(always)]
    const fn lap(word: u64) -> u64 {
        word >> 24 & 0xff
    }

    /// The word with one more socket of this port; `None` where sockets of
    /// another hold the slot.
    #[inline(always)]
    pub const fn with_one_more(word: u64, protocol: u8, port: u16) -> Option<u64> {
        if is_of(word, protocol, port) {
            return Some(word + SOCKET);
        }
        if sockets(word) != 0 {
            return None;
        }
        // Nobody had a slot of zero: its first lap is the first.
        let next = match lap(word) + 1 {
            _ if word == 0 => 0,
            LAPS => 0,
            next => next,
        };
        Some(SOCKET | next << 24 | of(protocol, port))
    }

    /// How far above `loopback_low` the kernel's port of this slot is.
    #[inline(always)]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "below 64 x 70, by the slot and the laps"
    )]
    pub const fn offset(number: usize, word: u64) -> u16 {
        number as u16 + LOOPBACK_SLOTS as u16 * lap(word) as u16
    }

    /// The slot behind the kernel's port at this offset.
    #[inline(always)]
    pub const fn at(offset: u16) -> usize {
        offset as usize % LOOPBACK_SLOTS
    }

    /// The port that programs know, of the kernel's port at this offset;
    /// `None` where the slot stands for another now.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the lower bits are meant")]
    pub const fn named(word: u64, protocol: u8, offset: u16) -> Option<u16> {
        let mine = word != 0
            && (word >> 16) as u8 == protocol
            && lap(word) == offset as u64 / LOOPBACK_SLOTS as u64;
        if mine { Some(word as u16) } else { None }
    }

    /// Where to begin to look for a free slot.
    #[inline(always)]
    pub const fn first(protocol: u8, port: u16) -> usize {
        let apart = if protocol == TCP {
            0
        } else {
            LOOPBACK_SLOTS / 2
        };
        (port as usize + apart) % LOOPBACK_SLOTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::mapped;
    use proptest::prelude::*;

    fn v4(text: &str) -> Address {
        mapped(text.parse::<std::net::Ipv4Addr>().unwrap().octets())
    }

    fn v6(text: &str) -> Address {
        text.parse::<std::net::Ipv6Addr>().unwrap().octets()
    }

    #[test]
    fn the_loopback_of_a_row_is_where_the_documentation_says() {
        for (row, said, real) in [
            (2, v4("127.0.0.1"), v4("127.1.2.1")),
            (2, v4("127.0.1.1"), v4("127.1.2.254")),
            (2, v6("::1"), v6("fd53:6c00::2:1")),
            (258, v4("127.0.0.9"), v4("127.2.2.9")),
            (16383, v4("127.0.0.255"), v4("127.64.255.255")),
            (16383, v6("::1"), v6("fd53:6c00::3fff:1")),
        ] {
            assert_eq!(named(row, &said), Named::Mine(real), "{said:?}");
            assert_eq!(shown(row, &real), said, "{real:?}");
            assert_eq!(row_of(&real), Some(row), "{real:?}");
        }
    }

    #[test]
    fn the_nodes_and_other_slices_loopbacks_are_foreign() {
        for said in [
            "127.1.3.1",
            "127.65.0.1",
            "127.255.255.255",
            "127.0.2.1",
            "127.0.1.2",
            "127.0.0.254",
            "127.1.2.53",
        ] {
            assert_eq!(named(2, &v4(said)), Named::Foreign, "{said}");
        }
        for said in ["fd53:6c00::3:1", "fd53:6c00::2:2", "fd53:6c00::"] {
            assert_eq!(named(2, &v6(said)), Named::Foreign, "{said}");
        }
    }

    #[test]
    fn addresses_beside_the_loopbacks_are_elsewhere() {
        for said in ["128.0.0.1", "126.255.255.255", "10.0.0.1", "0.0.0.0"] {
            assert_eq!(named(2, &v4(said)), Named::Elsewhere, "{said}");
            assert_eq!(row_of(&v4(said)), None);
        }
        for said in ["::", "::2", "fd53:6c00::1:0:0", "fd53:6c01::2:1", "ff02::1"] {
            assert_eq!(named(2, &v6(said)), Named::Elsewhere, "{said}");
            assert_eq!(row_of(&v6(said)), None);
        }
        assert_eq!(row_of(&v4("127.0.255.255")), None);
        assert_eq!(row_of(&v4("127.65.0.0")), None);
    }

    #[test]
    fn a_wildcard_destination_is_the_slices_own_loopback() {
        assert_eq!(
            named_destination(2, &v4("0.0.0.0")),
            Named::Mine(v4("127.1.2.1"))
        );
        assert_eq!(
            named_destination(2, &v6("::")),
            Named::Mine(v6("fd53:6c00::2:1"))
        );
        assert_eq!(
            named_destination(2, &v4("127.0.0.7")),
            Named::Mine(v4("127.1.2.7"))
        );
    }

    #[test]
    fn the_resolver_is_one_address_and_one_port() {
        assert_eq!(named(2, &v4("127.0.0.53")), Named::Resolver);
        assert!(is_resolver(&v4("127.0.0.53"), 53));
        assert!(!is_resolver(&v4("127.0.0.53"), 5353));
        assert!(!is_resolver(&v4("127.0.0.1"), 53));
    }

    #[test]
    fn a_slices_packets_stay_on_its_own_loopback() {
        let (a, b) = (SliceId(2), SliceId(3));
        let foreign = Verdict::Deny(Reason::LoopbackForeign);
        let on = |who, to: &Address, protocol, port, inside| {
            let place = by_itself(to).unwrap_or(Place::Shared);
            super::send(who, place, to, protocol, port, inside)
        };
        let send = |who, to: &Address, protocol, port| on(who, to, protocol, port, true);
        assert_eq!(send(a, &v4("127.1.2.1"), TCP, 80), Verdict::Allow);
        assert_eq!(send(b, &v4("127.1.2.1"), TCP, 80), foreign);
        assert_eq!(send(b, &v6("fd53:6c00::2:1"), UDP, 80), foreign);
        assert_eq!(send(a, &v4("127.0.0.1"), TCP, 80), foreign);
        assert_eq!(send(a, &v6("::1"), UDP, 53), foreign);
        assert_eq!(send(a, &v4("127.0.0.53"), UDP, 53), Verdict::Allow);
        assert_eq!(send(a, &v4("127.0.0.53"), UDP, 54), foreign);
        assert_eq!(send(a, &v4("127.0.0.1"), 1, 0), Verdict::Allow);
        assert_eq!(send(a, &v4("10.0.0.1"), TCP, 80), Verdict::Allow);
        // On another device than lo.
        for (to, protocol, port) in [
            ("127.1.2.1", TCP, 80),
            ("127.0.0.53", UDP, 53),
            ("127.0.0.1", 1, 0),
        ] {
            assert_eq!(on(a, &v4(to), protocol, port, false), foreign, "{to}");
        }
        assert_eq!(on(a, &v6("fd53:6c00::2:1"), UDP, 80, false), foreign);
        assert_eq!(on(a, &v4("10.0.0.1"), TCP, 80, false), Verdict::Allow);
    }

    #[test]
    fn the_nodes_packets_stay_off_the_slices_loopbacks_but_for_answers_of_the_resolver() {
        let foreign = Verdict::Deny(Reason::LoopbackForeign);
        let (node, slice) = (v4("127.0.0.1"), v4("127.1.2.1"));
        assert_eq!(node_sends(&node, 80, &node), Verdict::Allow);
        assert_eq!(node_sends(&node, 80, &slice), foreign);
        assert_eq!(node_sends(&slice, 80, &slice), foreign);
        assert_eq!(node_sends(&slice, 80, &node), foreign);
        assert_eq!(node_sends(&v4("127.0.0.53"), 53, &slice), Verdict::Allow);
        assert_eq!(node_sends(&v6("::1"), 53, &v6("fd53:6c00::2:1")), foreign);
    }

    #[test]
    fn a_slice_hears_its_own_loopback_and_nobody_elses() {
        let a = SliceId(2);
        let foreign = Some(Verdict::Deny(Reason::ReceiveForeign));
        assert_eq!(
            receive(a, &v4("127.1.2.1"), TCP, true),
            Some(Verdict::Allow)
        );
        assert_eq!(receive(a, &v4("127.1.2.1"), TCP, false), foreign);
        assert_eq!(receive(a, &v4("127.1.3.1"), TCP, true), foreign);
        assert_eq!(receive(a, &v4("127.0.0.1"), TCP, true), foreign);
        assert_eq!(receive(a, &v6("::1"), UDP, true), foreign);
        assert_eq!(receive(a, &v4("127.0.0.1"), 1, true), Some(Verdict::Allow));
        assert_eq!(receive(a, &v4("10.0.0.1"), TCP, true), None);
    }

    #[test]
    fn a_listener_on_all_addresses_is_found_through_its_owners_loopback_alone() {
        use crate::abi::{CLAIM_NAMED, RESERVED_NOBODY, RESERVED_SLICE};
        let (a, b, node) = (SliceId(2), SliceId(3), SliceId::NODE);
        let foreign = Verdict::Deny(Reason::LoopbackForeign);
        let claim = |owner, sockets, named| Claim {
            holder: Claim::holder(owner, sockets) & if named { !0 } else { !CLAIM_NAMED },
            since_ns: 0,
            linger_until_ns: 0,
        };
        let reserved = |kind, owner| Reserved {
            owner,
            kind,
            flags: 0,
        };
        let nobodys = reserved(RESERVED_NOBODY, node);
        for owner in [a, b, node] {
            for row in [a, b, node].map(SliceId::index) {
                let verdict = find(row, nobodys, claim(owner, 1, true));
                let own = owner.index() == row;
                assert_eq!(verdict.is_allow(), own, "{owner:?} through row {row}");
                // A socket that is gone, and one that may be gone.
                assert_eq!(find(row, nobodys, claim(owner, 0, true)), Verdict::Allow);
                assert_eq!(find(row, nobodys, claim(owner, 1, false)), Verdict::Allow);
            }
        }
        let nothing = claim(node, 0, false);
        for kind in [RESERVED_FOUND, RESERVED_NODE] {
            assert_eq!(find(a.index(), reserved(kind, node), nothing), foreign);
            assert_eq!(
                find(node.index(), reserved(kind, node), nothing),
                Verdict::Allow
            );
        }
        // The socket that was found is gone, and the slice got its port.
        assert_eq!(
            find(
                a.index(),
                reserved(RESERVED_FOUND, node),
                claim(a, 1, false)
            ),
            Verdict::Allow
        );
        assert_eq!(
            find(a.index(), reserved(RESERVED_SLICE, a), claim(a, 1, true)),
            Verdict::Allow
        );
    }

    #[test]
    fn a_slot_tells_its_port_protocol_and_sockets() {
        assert!(!slot::is_of(0, TCP, 0));
        let one = slot::with_one_more(0, UDP, 65535).unwrap();
        let two = slot::with_one_more(one, UDP, 65535).unwrap();
        assert!(slot::is_of(two, UDP, 65535));
        assert!(!slot::is_of(two, TCP, 65535) && !slot::is_of(two, UDP, 65534));
        assert_eq!((slot::sockets(one), slot::sockets(two)), (1, 2));
        assert_eq!(slot::with_one_more(two, TCP, 80), None);
        assert_eq!(slot::offset(63, two), 63);
        assert_eq!(slot::named(two, UDP, 63), Some(65535));
        assert_eq!(slot::named(two, TCP, 63), None);
    }

    #[test]
    fn a_slot_keeps_its_port_until_another_needs_it_which_gets_the_next_of_the_kernels() {
        let mut word = 0;
        let mut before = Vec::new();
        for port in 1..=70 {
            word = slot::with_one_more(word, TCP, port).unwrap() - slot::SOCKET;
            let again = slot::with_one_more(word, TCP, port).unwrap() - slot::SOCKET;
            assert_eq!(again, word, "closed and bound again");
            let offset = slot::offset(5, word);
            assert!(offset < crate::config::LOOPBACK_PORTS.high() - 61000);
            assert_eq!(
                (slot::at(offset), slot::named(word, TCP, offset)),
                (5, Some(port))
            );
            assert!(!before.contains(&offset));
            before.push(offset);
            for earlier in &before[..before.len() - 1] {
                assert_eq!(slot::named(word, TCP, *earlier), None);
            }
        }
        word = slot::with_one_more(word, TCP, 71).unwrap();
        assert_eq!(slot::offset(5, word), 5);
    }

    fn any_address() -> impl Strategy<Value = Address> {
        prop_oneof![
            any::<u32>().prop_map(|n| mapped(n.to_be_bytes())),
            any::<[u8; 3]>().prop_map(|n| mapped([127, n[0], n[1], n[2]])),
            any::<u8>().prop_map(|n| mapped([127, 0, 0, n])),
            any::<Address>(),
            any::<u64>().prop_map(|low| from_halves(PREFIX_IPV6, low)),
            any::<u32>().prop_map(|low| from_halves(PREFIX_IPV6, low.into())),
            (0u64..4).prop_map(|low| from_halves(0, low)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_translated_is_shown_as_it_was_named(
            row in 0..MAX_ROWS, address in any_address()
        ) {
            if let Named::Mine(real) = named(row, &address) {
                prop_assert_eq!(row_of(&real), Some(row));
                if row_of(&address).is_none() {
                    prop_assert_eq!(shown(row, &real), address);
                } else {
                    prop_assert_eq!(real, address);
                }
            }
        }

        #[test]
        fn no_slice_is_given_or_shown_an_address_of_another(
            row in 0..MAX_ROWS, other in 0..MAX_ROWS, address in any_address()
        ) {
            prop_assume!(row != other);
            if let Named::Mine(real) = named_destination(row, &address) {
                prop_assert_ne!(named_destination(other, &address), Named::Mine(real));
                prop_assert_eq!(named_destination(other, &real), Named::Foreign);
                prop_assert_eq!(shown(other, &real), real);
            }
        }

        #[test]
        fn a_private_address_is_in_127_8_or_in_the_prefix(
            row in 0..MAX_ROWS, address in any_address()
        ) {
            if let Named::Mine(real) = named_destination(row, &address) {
                let (high, low) = halves(&real);
                let inside = high == 0 && low >> 24 == (MAPPED | 0x7f00_0000) >> 24
                    || high == PREFIX_IPV6 && low >> 32 == 0;
                prop_assert!(inside, "{:?}", real);
                // Never the node's own.
                prop_assert_eq!(by_itself(&real), Some(Place::Private(row)));
            }
        }

        #[test]
        fn what_is_elsewhere_is_shown_as_it_is(row in 0..MAX_ROWS, address in any_address()) {
            if named(row, &address) == Named::Elsewhere {
                prop_assert_eq!(shown(row, &address), address);
                prop_assert_eq!(row_of(&address), None);
            }
        }
    }
}
