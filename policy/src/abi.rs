//! Every key and value of every kernel map, and the event record: the contract
//! between the programs and the loader.
//!
//! All are `repr(C)` without padding, so a value is its bytes. Layouts grow
//! only at the end, with a new [`ABI_VERSION`]: pinned maps outlive the loader
//! that made them.
//!
//! | map | kind | key | value | written by | read by |
//! |---|---|---|---|---|---|
//! | `SETTINGS` | array of 1 | 0 | [`Settings`] | loader | programs |
//! | `CGROUPS` | hash | cgroup id (u64) | [`SliceId`] | loader | programs |
//! | `SLICES` | array | row | [`SliceEntry`] | loader | programs |
//! | `STATES` | array | row | [`SliceState`] | programs | loader |
//! | `TRAFFIC` | per-CPU array | row | [`Traffic`] | programs | loader |
//! | `DENIALS` | array | row | [`Denials`] | programs | loader |
//! | `RESERVED` | array | [`port_index`] | [`Reserved`] | loader | programs |
//! | `CLAIMS` | array | [`port_index`] | [`Claim`] | programs | loader |
//! | `ADDRESSES` | hash | [`Address`] | [`AddressEntry`] | loader | programs |
//! | `REFUSED` | LPM trie | [`RefusedKey`] | [`RefusedPorts`] | loader | programs |
//! | `FLOWS` | hash | [`FlowKey`] | [`SliceId`] | programs | programs, loader |
//! | `STARTED` | hash | [`FlowKey`] | [`StartedFlow`] | programs | programs, loader |
//! | `STARTED_RING` | hash | [`StartedAt`] | [`FlowKey`] | programs | programs, loader |
//! | `DEVICES` | hash | number of a device (u32) | [`ArmedDevice`] | loader | programs |
//! | `LINK_OF` | hash | number of a device (u32) | link (u32) | loader | programs |
//! | `LINKS` | array | link | [`LinkEntry`] | loader | programs |
//! | `LINK_STATES` | array | link | [`LinkState`] | programs | programs |
//! | `EXEMPT` | LPM trie | [`ExemptKey`] | [`EXEMPT`] (u32) | loader | programs |
//! | `KNOBS` | array | [`link_index`] | [`LinkKnobs`] | loader | programs |
//! | `BUCKETS` | array | [`link_index`] | [`Bucket`] | programs (loader zeroes) | programs, loader |
//! | `ARRIVES_BY` | hash | number of a device (u32) | link (u32) | loader | programs |
//! | `ARRIVALS` | array | [`arrival_index`] | [`Arrivals`] | programs (loader zeroes) | programs, loader |
//! | `QUOTAS` | array | [`link_index`] | [`QuotaState`] | programs, loader | programs, loader |
//! | `WAITING` | array | link x words + class / 64 | bits (u64) | programs | programs |
//! | `TURNS` | array | [`link_index`] x [`TURNS`] + flow | [`FlowTurn`] | programs | programs |
//! | `DIVIDED` | array | [`link_index`] | class (u32) | programs | programs |
//! | `RAW_OUT`, `NODE_OUT`, `RAW_IN`, `CAPTURE` | program array | 0 | program | loader | kernel |
//! | `AUDITORS` | array of [`AUDITOR_ROWS`] | 0, or who | [`Auditor`] | who audits | programs |
//! | `AUDITORS_LOST` | array of [`AUDITOR_ROWS`] | who | packets that found no room (u64) | programs | who audits |
//! | `AUDITOR_RINGS` | hash of ring buffers | who | [`Audited`] and octets | who audits, programs | who audits |
//! | `AUDIT_OUT`, `AUDIT_IN`, `AUDIT_FRAME` | program array | 0 | program | loader | kernel |
//! | `LOOPBACK` | array | row | [`LoopbackPorts`] | programs (loader zeroes) | programs |
//! | `TALLY` | array of 1 | 0 | generation of tallies (u64) | loader | programs |
//! | `TALLIES_EVEN`, `TALLIES_ODD` | hash | [`TalliedFlow`] | [`Tally`] | programs (loader empties) | loader |
//! | `TALLY_REST` | array | [`rest_index`] | [`TallyRest`] | programs (loader zeroes) | programs, loader |
//! | `TRACED` | array | row | until when the owner is traced, monotonic clock, nanoseconds (u64) | loader | programs |
//! | `TAGS` | socket storage | socket | [`Tag`] | programs, loader | programs |
//! | `EVENTS` | ring buffer | | [`Event`] | programs | loader |

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::SliceId;
use crate::verdict::REASON_ROWS;

/// Version of all layouts here. The loader refuses to adopt pinned maps of
/// another version.
pub const ABI_VERSION: u32 = 1;

/// TCP's number in the IP header; its first row in the port maps is 0.
pub const TCP: u8 = 6;
/// UDP's number in the IP header.
pub const UDP: u8 = 17;

/// Rows of the port maps: 65536 for TCP, then 65536 for UDP.
pub const PORT_ROWS: u32 = 2 << 16;

/// The row of a port in `RESERVED` and `CLAIMS`; `None` where the protocol has
/// no ports of ours.
#[inline(always)]
pub const fn port_index(protocol: u8, port: u16) -> Option<u32> {
    match protocol {
        TCP => Some(port as u32),
        UDP => Some(1 << 16 | port as u32),
        _ => None,
    }
}

/// An IPv6 address, or an IPv4 address as IPv4-mapped IPv6, in network order.
pub type Address = [u8; 16];

/// The IPv4-mapped form (RFC 4291, 2.5.5.2) of an address in network order.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// The name of a slice, zero-padded: at most 31 characters.
pub type SliceNameBytes = [u8; 32];

macro_rules! layouts {
    ($($(#[$doc:meta])* pub struct $name:ident [$size:literal] {
        $($(#[$field_doc:meta])* pub $field:ident @ $offset:literal : $type:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(
            Clone, Copy, PartialEq, Eq, Debug,
            FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
        };
    )*};
}

layouts! {
    /// What holds for the whole node.
    pub struct Settings [48] {
        /// [`ABI_VERSION`] of the loader that made the maps.
        pub abi_version @ 0: u32,
        /// Depth of the slices' cgroups in the hierarchy: the ancestor level
        /// at which a task's or socket's slice is found.
        pub slices_level @ 4: u32,
        /// Cookie of the node's network namespace; sockets of others are not
        /// ruled (`SO_NETNS_COOKIE`).
        pub node_netns @ 8: u64,
        /// Raised whenever `ADDRESSES`, `REFUSED` or an own address changes:
        /// what sockets remember of earlier checks is void then.
        pub generation @ 16: u32,
        /// [`REFUSES_DESTINATIONS`], [`ADDRESSES_APART`], [`RAW_SLICES`].
        pub flags @ 20: u32,
        /// First port of the range kept for loopback translation.
        pub loopback_low @ 24: u16,
        /// Last port of that range.
        pub loopback_high @ 26: u16,
        /// First port that the kernel picks itself (`ip_local_port_range`).
        pub ephemeral_low @ 28: u16,
        /// Last port that the kernel picks itself.
        pub ephemeral_high @ 30: u16,
        /// How long a port stays claimed after its last socket went while TCP
        /// may still answer for it (TIME_WAIT, orphans), in nanoseconds.
        pub linger_ns @ 32: u64,
        /// Rows of the per-slice maps.
        pub rows @ 40: u32,
        /// Rows of flows that one owner may have in a generation of tallies; 0 where
        /// no flows are tallied. See [`tally_rows`].
        pub tally_rows @ 44: u32,
    }

    /// The policy of one slice as the programs need it. A zeroed row denies.
    pub struct SliceEntry [80] {
        /// The slice in this row; an id of another generation is a destroyed
        /// slice.
        pub id @ 0: SliceId,
        /// [`LIVE`], [`CLAIM`], [`OWN_IPV4`], [`OWN_IPV6`], [`RAW`], [`AUDIT`], [`POLICED`].
        pub flags @ 4: u32,
        /// Most sockets open at once.
        pub sockets_max @ 8: u32,
        /// Most ports claimed at once.
        pub claims_max @ 12: u32,
        /// Most events per second.
        pub events_per_second @ 16: u32,
        /// Most TCP connections that the slice has started and that are not over.
        pub connections_max @ 20: u32,
        /// The slice's own IPv4 address, network order, with [`OWN_IPV4`].
        pub own_ipv4 @ 24: [u8; 4],
        /// Most TCP connections that the slice starts in a second.
        pub connections_per_second @ 28: u32,
        /// The slice's own IPv6 address with [`OWN_IPV6`].
        pub own_ipv6 @ 32: Address,
        /// The slice's name, zero-padded, for those who audit.
        pub name @ 48: SliceNameBytes,
    }

    /// What the programs keep of one slice. Gauges go up and down, counters
    /// only up; all are changed by atomic adds.
    pub struct SliceState [96] {
        /// Sockets made since the slice was created (counter).
        pub sockets_opened @ 0: u64,
        /// Sockets that live (gauge).
        pub sockets_open @ 8: u64,
        /// Ports claimed (gauge).
        pub claims @ 16: u64,
        /// Flows learned (gauge).
        pub flows @ 24: u64,
        /// Second of the monotonic clock that `events_in_second` counts.
        pub events_second @ 32: u64,
        /// Events in that second, those not sent included.
        pub events_in_second @ 40: u64,
        /// Events not sent because of the rate or because the ring was full
        /// (counter).
        pub events_suppressed @ 48: u64,
        /// Until when ports that linger without sockets count against
        /// [`SliceEntry::claims_max`]; see [`crate::decide::claim`].
        pub linger_debt_ns @ 56: u64,
        /// TCP connections that the slice started and that are not over (gauge).
        pub connections @ 64: u64,
        /// TCP connections that the slice started (counter).
        pub connections_started @ 72: u64,
        /// Until when connections have been paid for; see
        /// [`crate::decide::connection`].
        pub connections_paid_ns @ 80: u64,
        /// Flows put into `STARTED` (counter).
        pub started @ 88: u64,
    }

    /// Packets and bytes of one slice on one CPU, counted at the IP layer: the
    /// IP header is in, link headers are not.
    pub struct Traffic [64] {
        /// Packets sent, segments of a GSO packet counted apiece.
        pub sent_packets @ 0: u64,
        /// Bytes sent.
        pub sent_bytes @ 8: u64,
        /// Packets received.
        pub received_packets @ 16: u64,
        /// Bytes received.
        pub received_bytes @ 24: u64,
        /// The same four for traffic inside the node (device lo).
        pub loopback_sent_packets @ 32: u64,
        /// Bytes sent inside the node.
        pub loopback_sent_bytes @ 40: u64,
        /// Packets received inside the node.
        pub loopback_received_packets @ 48: u64,
        /// Bytes received inside the node.
        pub loopback_received_bytes @ 56: u64,
    }

    /// Denied calls and dropped packets of one slice, by the number of the
    /// reason.
    pub struct Denials [256] {
        /// Indexed by [`crate::Reason`].
        pub counts @ 0: [u64; REASON_ROWS as usize],
    }

    /// Who a port of the shared addresses is kept for by policy, or which
    /// older socket of the node was found on it.
    pub struct Reserved [8] {
        /// The owner, where `kind` is [`RESERVED_SLICE`].
        pub owner @ 0: SliceId,
        /// [`RESERVED_NOBODY`], [`RESERVED_SLICE`], [`RESERVED_NODE`] or
        /// [`RESERVED_FOUND`].
        pub kind @ 4: u16,
        /// 0 or [`RESERVED_RAW`].
        pub flags @ 6: u16,
    }

    /// Who holds a port of the shared addresses because of its sockets.
    pub struct Claim [24] {
        /// `owner << 32 | named << 31 | raw << 30 | sockets`: one word, so that taking and
        /// leaving a port is one compare-and-swap. `named`: a program asked for
        /// the port; else the kernel picked it.
        pub holder @ 0: u64,
        /// When the owner took the port, monotonic clock, nanoseconds.
        pub since_ns @ 8: u64,
        /// Until when the port stays the owner's after the last socket went.
        pub linger_until_ns @ 16: u64,
    }

    /// Whose an address of the node is.
    pub struct AddressEntry [8] {
        /// The slice, where `kind` is [`ADDRESS_OWN`].
        pub owner @ 0: SliceId,
        /// [`ADDRESS_SHARED`] or [`ADDRESS_OWN`]; 0 is nobody's.
        pub kind @ 4: u32,
    }

    /// A prefix of destinations, for one slice or (row 0) for all.
    pub struct RefusedKey [24] {
        /// Bits that count: 32 for `row`, then those of the address.
        pub prefix_length @ 0: u32,
        /// [`refused_row`] of the slice's row, or of 0 for all slices.
        pub row @ 4: [u8; 4],
        /// The prefix; IPv4 in mapped form, so its length is 32 + 96 + n.
        pub address @ 8: Address,
    }

    /// Ports refused at the destinations of one prefix: the union of the rules
    /// of all prefixes around it, since the longest match alone is looked at.
    pub struct RefusedPorts [132] {
        /// Rules in use; 0 refuses nothing (an exception).
        pub count @ 0: u32,
        /// The first `count` of them hold.
        pub rules @ 4: [RefusedRange; REFUSED_RANGES],
    }

    /// One range of refused ports.
    pub struct RefusedRange [8] {
        /// IP protocol number; 0 is any, and then ports are not looked at
        /// where the packet has none.
        pub protocol @ 0: u8,
        /// Zero.
        pub reserved @ 1: u8,
        /// First port.
        pub low @ 2: u16,
        /// Last port.
        pub high @ 4: u16,
        /// Zero.
        pub reserved_2 @ 6: u16,
    }

    /// A flow: in `FLOWS` a TCP flow that an autobound socket started, in `STARTED`
    /// also one of UDP, or of ICMP with the identifier as its local port.
    pub struct FlowKey [40] {
        /// IP protocol number.
        pub protocol @ 0: u8,
        /// Zero.
        pub reserved @ 1: u8,
        /// Port on the node.
        pub local_port @ 2: u16,
        /// Port of the peer.
        pub peer_port @ 4: u16,
        /// Zero.
        pub reserved_2 @ 6: u16,
        /// Address on the node.
        pub local @ 8: Address,
        /// Address of the peer.
        pub peer @ 24: Address,
    }

    /// Whose a flow is that no socket of the kernel's holds: what raw sockets
    /// send, and echo requests, whose port is the identifier.
    pub struct StartedFlow [16] {
        /// The slice that sent from it.
        pub owner @ 0: SliceId,
        /// Zero.
        pub reserved @ 4: u32,
        /// Until when it stays the owner's, monotonic clock, nanoseconds.
        pub until_ns @ 8: u64,
    }

    /// A place in a slice's ring of started flows: the next one that is put there
    /// throws out the one that is there.
    pub struct StartedAt [8] {
        /// Row of the slice.
        pub row @ 0: u32,
        /// Below [`STARTED_PER_SLICE`].
        pub position @ 4: u32,
    }

    /// A device on whose way out the frames of packet sockets are looked at.
    pub struct ArmedDevice [8] {
        /// Its Ethernet address.
        pub address @ 0: [u8; 6],
        /// Zero.
        pub reserved @ 6: u16,
    }

    /// What the owner gives a link.
    pub struct LinkEntry [16] {
        /// Rate, bytes per second; 0 where there is no link of this number.
        pub rate @ 0: u64,
        /// 1 where networks are exempt: only then they are looked for, and only then
        /// the rate is divided among what goes there, too.
        pub exempt @ 8: u64,
    }

    /// A network of whose traffic a slice's cap and quota on a link say nothing.
    pub struct ExemptKey [24] {
        /// Bits that count: 32 for what is before the address, then those of it.
        pub prefix_length @ 0: u32,
        /// Number of the link.
        pub link @ 4: u8,
        /// IP version, 4 or 6: what is not one of the two is never exempt.
        pub version @ 5: u8,
        /// Zero.
        pub reserved @ 6: u16,
        /// The network; IPv4 in the first four octets, zeros behind.
        pub address @ 8: Address,
    }

    /// How a link stands; see [`crate::decide::pace`].
    pub struct LinkState [112] {
        /// When rates were divided last, monotonic clock, nanoseconds.
        pub divided_ns @ 0: u64,
        /// 1 while one CPU divides.
        pub busy @ 8: u64,
        /// Rate for one unit of share.
        pub level @ 16: u64,
        /// What all together may send, bytes per second.
        pub budget @ 24: u64,
        /// Bytes sent beyond the rate.
        pub debt @ 32: i64,
        /// Divisions (counter).
        pub divisions @ 40: u64,
        /// Slices among which it was divided last.
        pub slices @ 48: u64,
        /// What is left for shares, bytes per second.
        pub rest @ 56: u64,
        /// The shares that it is left for, of slices that woke since included.
        pub shares @ 64: u64,
        /// While dividing: the sums of [`crate::decide::pace::Sums`].
        pub sums @ 72: [u64; 3],
        /// The same: bits left of a word.
        pub bits @ 96: u64,
        /// The same: number of the word.
        pub word @ 104: u64,
    }

    /// What the owner gives a slice on a link; see [`crate::decide::pace::Knobs`].
    pub struct LinkKnobs [56] {
        /// Bytes per second.
        pub floor @ 0: u64,
        /// Bytes per second.
        pub cap @ 8: u64,
        /// Weight, 0 where the row is not in use.
        pub share @ 16: u32,
        /// The slice.
        pub id @ 20: SliceId,
        /// What it may send in a period, bytes; 0 where that is not bounded.
        pub quota @ 24: u64,
        /// How long a period lasts, nanoseconds.
        pub period_ns @ 32: u64,
        /// Most packets in a second; 0 where they are not bounded.
        pub packets @ 40: u64,
        /// What it may receive, bytes per second; 0 where that is not bounded.
        pub receive @ 48: u64,
    }

    /// What a slice received by a link since that is bounded; see
    /// [`crate::decide::police`]. All but the time only grow.
    pub struct Arrivals [64] {
        /// When all that came would have come at the rate that it may have, monotonic
        /// clock, nanoseconds.
        pub next_ns @ 0: u64,
        /// Bytes that were let through, from the IP header on.
        pub bytes @ 8: u64,
        /// Packets that were let through, segments apiece.
        pub packets @ 16: u64,
        /// Bytes that were dropped, as they were too many.
        pub policed_bytes @ 24: u64,
        /// Packets that were dropped.
        pub policed_packets @ 32: u64,
        /// Zero: two rows are never in one line of a cache.
        pub reserved @ 40: [u64; 3],
    }

    /// What a slice with a quota has sent on a link; see [`crate::decide::quota`].
    pub struct QuotaState [32] {
        /// Bytes in this period, as they are on the wire.
        pub used @ 0: u64,
        /// When the period ends, nanoseconds of the clock that goes on in suspend
        /// (`CLOCK_BOOTTIME`).
        pub ends_ns @ 8: u64,
        /// What the quota lets it send, bytes per second; 0 before it is known.
        pub cap @ 16: u64,
        /// The slice.
        pub id @ 24: SliceId,
        /// Zero.
        pub reserved @ 28: u32,
    }

    /// The token bucket of a slice on a link.
    pub struct Bucket [128] {
        /// When all that was stamped has left, monotonic clock, nanoseconds.
        pub next_ns @ 0: u64,
        /// Rate, bytes per second.
        pub rate @ 8: u64,
        /// Bytes that were let through, as they are on the wire (counter).
        pub bytes @ 16: u64,
        /// Packets that were let through, segments apiece (counter).
        pub packets @ 24: u64,
        /// Bytes that were dropped, as too much waited (counter).
        pub dropped_bytes @ 32: u64,
        /// Packets that were dropped (counter).
        pub dropped_packets @ 40: u64,
        /// 0: it is not divided for; 1: it woke since the last division; 2: it is.
        pub state @ 48: u64,
        /// Packets that were marked (ECN) as those before them waited long (counter).
        pub marks @ 56: u64,
        /// As `next_ns`, for what goes ahead of the queue.
        pub ahead_ns @ 64: u64,
        /// `bytes` at the last division.
        pub bytes_before @ 72: u64,
        /// Bytes that waited at the last division.
        pub queue @ 80: u64,
        /// Demand at the last division, bytes per second.
        pub wants @ 88: u64,
        /// 1 where a packet had to wait since the last division.
        pub waited @ 96: u64,
        /// 1 where `queue` is more than a packet on its way.
        pub stands @ 104: u64,
        /// As `next_ns`, at the most packets in a second that it may send.
        pub packets_next_ns @ 112: u64,
        /// When what TCP sends is marked; see [`crate::decide::mark`].
        pub marking @ 120: u64,
    }

    /// A flow of a slice on a link: those whose hash has the same last bits are one.
    pub struct FlowTurn [24] {
        /// When its last packet leaves, monotonic clock, nanoseconds.
        pub last_ns @ 0: u64,
        /// When all has left that was ahead of its first packet.
        pub round_ns @ 8: u64,
        /// Bytes that it sent since then ahead of the queue.
        pub bytes @ 16: u64,
    }

    /// The ports that a slice has bound on its private loopback.
    pub struct LoopbackPorts [512] {
        /// `sockets << 32 | lap << 24 | protocol << 16 | port`, see
        /// [`crate::decide::loopback::slot`].
        pub slots @ 0: [u64; LOOPBACK_SLOTS],
    }

    /// What a socket carries: its owner, what it holds, and the last checks
    /// that its packets passed.
    pub struct Tag [80] {
        /// Owner, for the socket's life.
        pub id @ 0: SliceId,
        /// Raised by two around each change of the fields from `generation`
        /// on; odd while one is under way.
        pub sequence @ 4: u32,
        /// `TAG_*` bits.
        pub flags @ 8: u64,
        /// 0, or 1 + the [`port_index`] the socket is counted on in `CLAIMS`.
        pub held @ 16: u64,
        /// [`Settings::generation`] at the last full check of a packet.
        pub generation @ 24: u32,
        /// IP version that passed, 0 where none did.
        pub version @ 28: u8,
        /// Protocol that passed.
        pub protocol @ 29: u8,
        /// Zero.
        pub reserved @ 30: u16,
        /// Ports that passed: the first four bytes of the transport header.
        pub ports @ 32: [u8; 4],
        /// Zero.
        pub reserved_2 @ 36: u32,
        /// Source address that passed.
        pub source @ 40: Address,
        /// Destination address that passed.
        pub destination @ 56: Address,
        /// 0, or 1 + the offset above [`Settings::loopback_low`] of the port
        /// that the socket is counted on in `LOOPBACK`.
        pub loopback_held @ 72: u64,
    }

    /// Who reads the packets of all slices; row 0: whether anybody does.
    pub struct Auditor [16] {
        /// Until when, monotonic clock, nanoseconds: one that ends without a word
        /// is written to no longer.
        pub until_ns @ 0: u64,
        /// Who reads: the node, or a slice for as long as it has [`AUDIT`].
        pub owner @ 8: SliceId,
        /// Zero.
        pub reserved @ 12: u32,
    }

    /// A packet of a slice, for those who audit; behind it as many octets as were
    /// captured, from the IP header on.
    pub struct Audited [64] {
        /// Monotonic clock, nanoseconds.
        pub time_ns @ 0: u64,
        /// Whose.
        pub id @ 8: SliceId,
        /// Number of the device.
        pub device @ 12: u32,
        /// Length from the IP header on.
        pub length @ 16: u32,
        /// How many octets are here.
        pub captured @ 20: u32,
        /// [`AUDITED_IN`] or [`AUDITED_OUT`].
        pub way @ 24: u32,
        /// Zero.
        pub reserved @ 28: u32,
        /// The slice's name, zero-padded.
        pub name @ 32: SliceNameBytes,
    }

    /// Who exchanged packets with whom.
    pub struct TalliedFlow [48] {
        /// Whose end is on this node.
        pub owner @ 0: SliceId,
        /// IP protocol number.
        pub protocol @ 4: u8,
        /// Type of ICMP; 0 in others.
        pub kind @ 5: u8,
        /// Port on the node, or identifier of an ICMP echo.
        pub local_port @ 6: u16,
        /// Port of the peer.
        pub peer_port @ 8: u16,
        /// 1 where it stays inside the node (device lo).
        pub inside @ 10: u16,
        /// Zero.
        pub reserved @ 12: u32,
        /// Address on the node.
        pub local @ 16: Address,
        /// Address of the peer.
        pub peer @ 32: Address,
    }

    /// What was exchanged, counted as [`Traffic`] is.
    pub struct Tally [48] {
        /// Packets sent.
        pub sent_packets @ 0: u64,
        /// Bytes sent.
        pub sent_bytes @ 8: u64,
        /// Packets received.
        pub received_packets @ 16: u64,
        /// Bytes received.
        pub received_bytes @ 24: u64,
        /// When the first packet passed, coarse monotonic clock, nanoseconds.
        pub first_ns @ 32: u64,
        /// When the last one did.
        pub last_ns @ 40: u64,
    }

    /// What an owner exchanged in a generation beside its rows.
    pub struct TallyRest [80] {
        /// Whose.
        pub owner @ 0: SliceId,
        /// Zero.
        pub reserved @ 4: u32,
        /// Rows that it has.
        pub rows @ 8: u64,
        /// What found no room, or has no ports and addresses that could be read.
        pub traffic @ 16: Traffic,
    }

    /// One denial, for `slice events`; of an owner that is traced also a call that was
    /// let through.
    pub struct Event [80] {
        /// Monotonic clock, nanoseconds.
        pub time_ns @ 0: u64,
        /// Whose.
        pub id @ 8: SliceId,
        /// Process that made the call; 0 where a packet was dropped outside
        /// of any.
        pub pid @ 12: u32,
        /// Number of the [`crate::Reason`], or [`LET_THROUGH`].
        pub reason @ 16: u8,
        /// Number of the [`Moment`].
        pub moment @ 17: u8,
        /// IP protocol number, or the socket's protocol at `create`.
        pub protocol @ 18: u8,
        /// Address family (`AF_*`).
        pub family @ 19: u8,
        /// Port on the node, 0 where there is none.
        pub local_port @ 20: u16,
        /// Port of the peer, 0 where there is none.
        pub peer_port @ 22: u16,
        /// Address on the node, zero where there is none.
        pub local @ 24: Address,
        /// Address of the peer, zero where there is none.
        pub peer @ 40: Address,
        /// Name of the task (`comm`), zero-padded.
        pub command @ 56: [u8; 16],
        /// Events of this slice suppressed so far.
        pub suppressed @ 72: u64,
    }
}

/// The row of a slice, or 0 for all slices, in a [`RefusedKey`]. The rules for
/// all have a row of their own that differs from every slice's in the first
/// bit: the trie then finds them at once, however many slices have rules.
#[inline(always)]
pub const fn refused_row(row: u32) -> [u8; 4] {
    match row {
        0 => [0xff; 4],
        row => row.to_be_bytes(),
    }
}

/// The reverse of [`refused_row`].
#[inline(always)]
pub const fn refused_row_of(bytes: [u8; 4]) -> u32 {
    match bytes {
        [0xff, 0xff, 0xff, 0xff] => 0,
        bytes => u32::from_be_bytes(bytes),
    }
}

/// Ports that a slice can have bound on its private loopback at once.
pub const LOOPBACK_SLOTS: usize = 64;

/// Flows in `STARTED` that are a slice's at once; a further one takes the place
/// of the oldest.
pub const STARTED_PER_SLICE: u32 = 256;

/// Rows of flows that all owners together may have in a generation.
pub const TALLY_ROWS: u32 = 262_144;

/// Most of them that are one owner's.
pub const TALLY_ROWS_MOST: u32 = 8192;

/// Rows of flows that one of so many owners may have: with all of them at it,
/// there is still room for each.
#[inline(always)]
pub const fn tally_rows(owners: u32) -> u32 {
    let each = TALLY_ROWS / if owners == 0 { 1 } else { owners };
    if each < TALLY_ROWS_MOST {
        each
    } else {
        TALLY_ROWS_MOST
    }
}

/// The row of an owner in `TALLY_REST`, whose per-slice maps have `rows`, in a
/// generation.
#[inline(always)]
pub const fn rest_index(generation: u64, row: u32, rows: u32) -> u32 {
    if generation & 1 == 0 { row } else { rows + row }
}

/// Links that a node can have.
pub const LINKS: u32 = 8;

/// Flows of a slice that are told apart on a link; a power of two.
pub const TURNS: u32 = 64;

/// Classes of a link, where the per-slice maps have `rows`: of each row, by its number,
/// what is sent elsewhere, and behind all of those what is sent to exempt networks.
#[inline(always)]
pub const fn classes(rows: u32) -> u32 {
    rows * 2
}

/// The class of what a row sends to exempt networks.
#[inline(always)]
pub const fn exempt_class(row: u32, rows: u32) -> u32 {
    rows + row
}

/// Words of `WAITING` for a link.
#[inline(always)]
pub const fn waiting_words(rows: u32) -> u32 {
    classes(rows).div_ceil(64)
}

/// A class of a link in the maps that have all [`classes`] for each.
#[inline(always)]
pub const fn link_index(link: u32, class: u32, rows: u32) -> u32 {
    link * classes(rows) + class
}

/// What a row received by a link, in `ARRIVALS`, where the per-slice maps have `rows`.
#[inline(always)]
pub const fn arrival_index(link: u32, row: u32, rows: u32) -> u32 {
    link * rows + row
}

/// In `EXEMPT`: the network is.
pub const EXEMPT: u32 = 1;

/// Rules that one prefix can carry.
pub const REFUSED_RANGES: usize = 16;

/// In [`Settings::flags`]: `REFUSED` is not empty.
pub const REFUSES_DESTINATIONS: u32 = 1;

/// In [`Settings::flags`]: some address of the node is not shared by all: a
/// slice's own, or excluded by policy.
pub const ADDRESSES_APART: u32 = 2;

/// In [`Settings::flags`]: some slice has raw sockets, so that it is looked at
/// whose the flows are that it could listen to.
pub const RAW_SLICES: u32 = 4;

/// In [`SliceEntry::flags`]: the row is in use.
pub const LIVE: u32 = 1;
/// The slice may bind ports that are nobody's.
pub const CLAIM: u32 = 2;
/// The slice has an IPv4 address of its own and uses no other.
pub const OWN_IPV4: u32 = 4;
/// The slice has an IPv6 address of its own and uses no other.
pub const OWN_IPV6: u32 = 8;

/// Raw and packet sockets are made for the slice by its broker.
pub const RAW: u32 = 16;

/// The slice may see the packets of all slices.
pub const AUDIT: u32 = 32;

/// The slice may make namespaces of its own.
pub const NESTED: u32 = 64;

/// What the slice receives is bounded on some link.
pub const POLICED: u32 = 128;

/// Rows of `AUDITORS`: those who audit at once, and row 0 for all.
pub const AUDITOR_ROWS: u32 = 9;
/// Octets of the ring of each who audits.
pub const AUDIT_RING: u32 = 1 << 20;
/// Most octets of a packet that are captured: what an Ethernet carries. Of larger
/// ones, which the device cuts into pieces, the beginning.
pub const AUDIT_MOST: u32 = 1536;
/// The same of small ones, of which more fit into the ring.
pub const AUDIT_SMALL: u32 = 128;

/// In [`Audited::way`]: to the slice.
pub const AUDITED_IN: u32 = 1;
/// From the slice.
pub const AUDITED_OUT: u32 = 2;

/// In [`Reserved::kind`]: nobody's.
pub const RESERVED_NOBODY: u16 = 0;
/// Reserved for a slice.
pub const RESERVED_SLICE: u16 = 1;
/// Reserved for the node by policy.
pub const RESERVED_NODE: u16 = 2;
/// Held by a socket that is older than the programs and not a slice's.
pub const RESERVED_FOUND: u16 = 3;

/// In [`Reserved::flags`]: programs of the slice speak TCP or UDP there
/// themselves, so the kernel does not answer for it.
pub const RESERVED_RAW: u16 = 1;

/// In [`AddressEntry::kind`]: used by the node and all slices without an own
/// address of that family.
pub const ADDRESS_SHARED: u32 = 1;
/// Used by one slice alone.
pub const ADDRESS_OWN: u32 = 2;

/// In [`Claim::holder`]: a program named the port in bind or listens on it. A
/// port that the kernel picked is refused to those who name it, but no reason to
/// drop packets of another socket to which the kernel gave it later.
pub const CLAIM_NAMED: u64 = 1 << 31;

/// In [`Claim::holder`]: a raw socket has the port, on which a program speaks
/// TCP or UDP itself: the kernel does not answer for it.
pub const CLAIM_RAW: u64 = 1 << 30;

/// In [`Claim::holder`]: no socket made the claim, a raw socket sent from the port. The
/// kernel does not know of it, and what it gives the port to has it.
pub const CLAIM_LEASED: u64 = 1 << 29;

/// In [`Tag::flags`]: a descriptor of the socket is open.
pub const TAG_OPEN: u64 = 1;
/// TCP's state machine has not come back to CLOSE.
pub const TAG_RUNNING: u64 = 2;
/// Made in another network namespace: not ruled, not counted.
pub const TAG_ELSEWHERE: u64 = 4;
/// The program asked for SO_REUSEADDR; it takes effect at bind.
pub const TAG_REUSE: u64 = 8;
/// The last bind asked for port 0.
pub const TAG_ANY_PORT: u64 = 16;
/// Bound to a port that the program named.
pub const TAG_BOUND: u64 = 32;
/// A TCP socket that started a flow from a port that it does not hold.
pub const TAG_FLOW: u64 = 64;
/// A socket of the kernel's own (resets, ICMP errors): its packets are
/// attributed by flow and port.
pub const TAG_KERNEL: u64 = 128;
/// The flow in the fields that passed is in `FLOWS`, put there by this socket.
pub const TAG_LEARNED: u64 = 256;
/// The program asked for IPV6_V6ONLY.
pub const TAG_V6ONLY: u64 = 512;
/// Bound to the slice's own address, where ports need no claim.
pub const TAG_OWN: u64 = 1024;
/// A TCP socket that connects or has connected: where the other side did so at
/// the same moment, or is the socket itself, the kernel tells of a connection
/// that came in, and no new socket is there.
pub const TAG_CONNECTING: u64 = 2048;
/// A connection that the node accepted and a login to a slice took over: what
/// it carries is counted for the slice, its port and the socket are the node's.
pub const TAG_ADOPTED: u64 = 4096;

/// Whether a socket is still the connection that was taken over: one that was
/// connected anew is judged as the slice's other sockets are.
#[inline(always)]
pub const fn adopted(flags: u64) -> bool {
    flags & (TAG_ADOPTED | TAG_CONNECTING) == TAG_ADOPTED
}

/// Counted in [`SliceState::connections`].
pub const TAG_CONNECTION: u64 = 8192;

/// A raw socket: what it sends was written by the program, headers too.
pub const TAG_RAW: u64 = 16384;

/// A raw socket that claimed a port for a program that speaks the protocol
/// itself; it is counted on the port as bound ones are.
pub const TAG_RAW_PORT: u64 = 32768;

/// In the place of a reason: nothing was denied.
pub const LET_THROUGH: u8 = 255;
const _: () = assert!(LET_THROUGH as u32 >= REASON_ROWS);

/// Events of an owner in a second while it is traced; denials have those of its policy
/// besides.
pub const TRACED_PER_SECOND: u32 = 1000;

/// The moment of a socket's or packet's life at which a verdict was given.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// `socket(2)`.
    Create = 1,
    /// `bind(2)`.
    Bind = 2,
    /// `connect(2)`.
    Connect = 3,
    /// `sendto(2)`, `sendmsg(2)` with an address.
    Send = 4,
    /// `setsockopt(2)`.
    Option = 5,
    /// A packet on its way out.
    Egress = 6,
    /// A packet on its way in.
    Ingress = 7,
    /// `open(2)`.
    Open = 8,
    /// A packet on its way in, before the kernel looks for its socket.
    Lookup = 9,
    /// A frame that a packet socket sends.
    Frame = 10,
    /// `listen(2)`.
    Listen = 11,
}

impl Moment {
    /// The moment with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Moment> {
        Some(match number {
            1 => Moment::Create,
            2 => Moment::Bind,
            3 => Moment::Connect,
            4 => Moment::Send,
            5 => Moment::Option,
            6 => Moment::Egress,
            7 => Moment::Ingress,
            8 => Moment::Open,
            9 => Moment::Lookup,
            10 => Moment::Frame,
            11 => Moment::Listen,
            _ => return None,
        })
    }

    /// A stable lower-case name.
    pub const fn slug(self) -> &'static str {
        match self {
            Moment::Create => "create",
            Moment::Bind => "bind",
            Moment::Connect => "connect",
            Moment::Send => "send",
            Moment::Option => "option",
            Moment::Egress => "egress",
            Moment::Ingress => "ingress",
            Moment::Open => "open",
            Moment::Lookup => "lookup",
            Moment::Frame => "frame",
            Moment::Listen => "listen",
        }
    }
}

impl Reserved {
    /// Whether policy keeps the port for this slice.
    #[inline(always)]
    pub const fn is_for(self, who: SliceId) -> bool {
        self.kind == RESERVED_SLICE && self.owner.0 == who.0
    }

    /// Whether a slice speaks the protocol itself there, by policy.
    #[inline(always)]
    pub const fn raw(self) -> bool {
        self.flags & RESERVED_RAW != 0
    }
}

impl Claim {
    /// The word of `sockets` sockets of `owner` on a port that a program named.
    #[inline(always)]
    pub const fn holder(owner: SliceId, sockets: u32) -> u64 {
        ((owner.0 as u64) << 32) | CLAIM_NAMED | sockets as u64
    }

    /// Whose the port is or last was.
    #[inline(always)]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the upper half of a u64 fits a u32"
    )]
    pub const fn owner(self) -> SliceId {
        SliceId((self.holder >> 32) as u32)
    }

    /// Sockets counted on the port.
    #[inline(always)]
    pub const fn sockets(self) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let sockets = (self.holder & (CLAIM_LEASED - 1)) as u32;
        sockets
    }

    /// Whether a program of the owner speaks the protocol itself there.
    #[inline(always)]
    pub const fn raw(self) -> bool {
        self.holder & CLAIM_RAW != 0 && self.sockets() > 0
    }

    /// Whether it is a lease and no more.
    #[inline(always)]
    pub const fn leased(self) -> bool {
        self.holder & CLAIM_LEASED != 0 && self.sockets() == 0
    }

    /// Whether a program named the port.
    #[inline(always)]
    pub const fn named(self) -> bool {
        self.holder & CLAIM_NAMED != 0
    }

    /// Whether somebody holds the port at `now_ns`.
    #[inline(always)]
    pub const fn held(self, now_ns: u64) -> bool {
        self.sockets() > 0 || now_ns < self.linger_until_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_of_each_protocol_has_its_own_row() {
        assert_eq!(port_index(TCP, 0), Some(0));
        assert_eq!(port_index(TCP, 65535), Some(65535));
        assert_eq!(port_index(UDP, 0), Some(65536));
        assert_eq!(port_index(UDP, 65535), Some(PORT_ROWS - 1));
        assert_eq!(port_index(132, 80), None);
    }

    #[test]
    fn rows_of_flows_suffice_for_all_owners_together() {
        assert_eq!(tally_rows(0), TALLY_ROWS_MOST);
        assert_eq!(tally_rows(3), TALLY_ROWS_MOST);
        for owners in [33, 100, 1026, crate::ids::MAX_ROWS] {
            let each = tally_rows(owners);
            assert!(each > 0 && each * owners <= TALLY_ROWS, "{owners}");
        }
    }

    #[test]
    fn a_claim_is_held_by_sockets_or_by_linger() {
        let owner = SliceId(7);
        let mut claim = Claim {
            holder: Claim::holder(owner, 1),
            since_ns: 0,
            linger_until_ns: 0,
        };
        assert!(claim.held(u64::MAX));
        assert_eq!((claim.owner(), claim.sockets()), (owner, 1));
        claim.holder = Claim::holder(owner, 0);
        assert!(!claim.held(0));
        claim.linger_until_ns = 10;
        assert!(claim.held(9) && !claim.held(10));
    }

    #[test]
    fn a_zeroed_row_is_no_live_slice_and_a_zeroed_address_is_nobodys() {
        assert_eq!(
            SliceEntry::read_from_bytes(&[0; 80]).unwrap().flags & LIVE,
            0
        );
        let entry = AddressEntry::read_from_bytes(&[0; 8]).unwrap();
        assert_ne!(entry.kind, ADDRESS_SHARED);
        assert_ne!(entry.kind, ADDRESS_OWN);
    }
}
