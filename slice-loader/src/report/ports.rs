//! `slice ports`: whose each port of the shared addresses is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use policy::SliceId;
use policy::abi::{
    Claim, RESERVED_FOUND, RESERVED_NOBODY, RESERVED_NODE, RESERVED_SLICE, Reserved, TCP, UDP,
};
use serde::{Deserialize, Serialize};

use super::{Clock, Names, Owner};

/// The answer to `slice ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// When the maps were read.
    pub time: Timestamp,
    /// By protocol and number; ports that are nobody's are not listed.
    pub ports: Vec<Port>,
}

/// A port, or a range of reserved ports that no socket holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Port {
    /// Which space of numbers.
    pub protocol: Protocol,
    /// First port.
    pub low: u16,
    /// Last port; `low` for one port alone.
    pub high: u16,
    /// Whose.
    pub owner: Owner,
    /// Why it is the owner's.
    pub kind: PortKind,
    /// Whether programs of the owner speak TCP or UDP there themselves: the
    /// kernel does not answer for it.
    pub raw: bool,
    /// Sockets of the owner on it.
    pub sockets: u32,
    /// When the first of them took it; absent where none holds it.
    pub since: Option<Timestamp>,
    /// Until when the port stays the owner's though its last socket is gone
    /// (TCP may still answer for it); absent while a socket holds it.
    pub lingers_until: Option<Timestamp>,
}

/// The protocols whose ports have owners.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Why a port is its owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum PortKind {
    /// By policy.
    Reserved,
    /// Because a socket of the owner holds it.
    Claimed,
    /// Because a socket of the node held it before the programs were there.
    Found,
}

/// A row of `RESERVED` or `CLAIMS`: where, and the value.
pub type At<T> = ((Protocol, u16), T);

impl Ports {
    /// The report about these rows of the two maps; empty rows are passed over.
    #[must_use]
    pub fn new(
        clock: Clock,
        names: &Names,
        reserved: impl IntoIterator<Item = At<Reserved>>,
        claims: impl IntoIterator<Item = At<Claim>>,
    ) -> Self {
        let mut held: BTreeMap<(Protocol, u16), Claim> = claims
            .into_iter()
            .filter(|(_, claim)| claim.held(clock.monotonic_ns))
            .collect();
        let mut ports: Vec<Port> = Vec::new();
        for (place, reserved) in reserved {
            let Some((owner, kind)) = reading(&reserved) else {
                continue;
            };
            // A claim of another owner on a reserved port is older than the
            // policy; both are shown, since both hold.
            let claim = held
                .get(&place)
                .filter(|claim| claim.owner() == owner)
                .copied();
            if claim.is_some() {
                held.remove(&place);
            }
            ports.push(Port {
                raw: reserved.raw() || claim.is_some_and(Claim::raw),
                ..port(&clock, names, place, owner, kind, claim)
            });
        }
        for (place, claim) in held {
            ports.push(port(
                &clock,
                names,
                place,
                claim.owner(),
                PortKind::Claimed,
                Some(claim),
            ));
        }
        ports.sort_by_key(|port| (port.protocol, port.low));
        Self {
            time: clock.time(),
            ports: collapse(ports),
        }
    }

    /// Only the ports of this owner, where one is named, and of this protocol,
    /// where one is.
    #[must_use]
    pub fn only(mut self, owner: Option<&str>, protocol: Option<Protocol>) -> Self {
        self.ports.retain(|port| {
            owner.is_none_or(|name| port.owner.name.as_deref() == Some(name))
                && protocol.is_none_or(|protocol| port.protocol == protocol)
        });
        self
    }
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// A stable lower-case name.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl PortKind {
    /// A stable lower-case name.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Claimed => "claimed",
            Self::Found => "found",
        }
    }
}

/// Whose a reserved row is, and why; `None` where it is nobody's.
fn reading(reserved: &Reserved) -> Option<(SliceId, PortKind)> {
    match reserved.kind {
        RESERVED_SLICE => Some((reserved.owner, PortKind::Reserved)),
        RESERVED_NODE => Some((SliceId::NODE, PortKind::Reserved)),
        RESERVED_FOUND => Some((SliceId::NODE, PortKind::Found)),
        RESERVED_NOBODY => None,
        _ => None,
    }
}

fn port(
    clock: &Clock,
    names: &Names,
    (protocol, number): (Protocol, u16),
    owner: SliceId,
    kind: PortKind,
    claim: Option<Claim>,
) -> Port {
    let lingering = claim.filter(|claim| claim.sockets() == 0);
    Port {
        protocol,
        low: number,
        high: number,
        owner: names.owner(owner),
        kind,
        raw: claim.is_some_and(Claim::raw),
        sockets: claim.map_or(0, Claim::sockets),
        since: claim.map(|claim| clock.at(claim.since_ns)),
        lingers_until: lingering.map(|claim| clock.at(claim.linger_until_ns)),
    }
}

/// Joins neighbours of one owner and kind that no socket holds.
fn collapse(ports: Vec<Port>) -> Vec<Port> {
    let mut joined: Vec<Port> = Vec::new();
    for port in ports {
        if let Some(last) = joined.last_mut()
            && last.high.checked_add(1) == Some(port.low)
            && (last.protocol, last.kind, &last.owner) == (port.protocol, port.kind, &port.owner)
            && last.raw == port.raw
            && last.since.is_none()
            && port.since.is_none()
        {
            last.high = port.high;
        } else {
            joined.push(port);
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SliceId = SliceId(2);
    const B: SliceId = SliceId(3);
    const CLOCK: Clock = Clock {
        monotonic_ns: 100,
        realtime_ns: 1_000,
    };

    fn names() -> Names {
        Names::new([(A, "alpha"), (B, "beta")])
    }

    fn tcp<T>(port: u16, value: T) -> At<T> {
        ((Protocol::Tcp, port), value)
    }

    fn claim(owner: SliceId, sockets: u32, linger_until_ns: u64) -> Claim {
        Claim {
            holder: Claim::holder(owner, sockets),
            since_ns: 50,
            linger_until_ns,
        }
    }

    fn kept(owner: SliceId) -> Reserved {
        Reserved {
            owner,
            kind: RESERVED_SLICE,
            flags: 0,
        }
    }

    fn brief(ports: &Ports) -> Vec<(u16, u16, String, &'static str, u32)> {
        ports
            .ports
            .iter()
            .map(|p| (p.low, p.high, p.owner.label(), p.kind.slug(), p.sockets))
            .collect()
    }

    #[test]
    fn reserved_neighbours_are_one_range_until_a_socket_or_another_owner_parts_them() {
        let reserved = (8000..=8009).map(|port| tcp(port, kept(if port < 8008 { A } else { B })));
        let ports = Ports::new(CLOCK, &names(), reserved, [tcp(8003, claim(A, 2, 0))]);
        assert_eq!(
            brief(&ports),
            [
                (8000, 8002, "alpha".into(), "reserved", 0),
                (8003, 8003, "alpha".into(), "reserved", 2),
                (8004, 8007, "alpha".into(), "reserved", 0),
                (8008, 8009, "beta".into(), "reserved", 0),
            ]
        );
    }

    #[test]
    fn a_raw_port_is_told_from_its_neighbours_whoever_made_it_one() {
        let raw = Reserved {
            flags: policy::abi::RESERVED_RAW,
            ..kept(A)
        };
        let mut claimed = claim(A, 1, 0);
        claimed.holder |= policy::abi::CLAIM_RAW;
        let reserved = [
            tcp(80, kept(A)),
            tcp(81, raw),
            tcp(82, raw),
            tcp(84, kept(A)),
        ];
        let claims = [tcp(83, claimed), tcp(84, claimed)];
        let ports = Ports::new(CLOCK, &names(), reserved, claims);
        let told: Vec<_> = ports.ports.iter().map(|p| (p.low, p.high, p.raw)).collect();
        assert_eq!(
            told,
            [
                (80, 80, false),
                (81, 82, true),
                (83, 83, true),
                (84, 84, true)
            ]
        );
    }

    #[test]
    fn a_claim_shows_while_it_is_held_or_lingers_and_no_longer() {
        let claims = [
            tcp(1, claim(A, 1, 0)),
            tcp(2, claim(A, 0, 101)),
            tcp(3, claim(A, 0, 100)),
            tcp(4, claim(SliceId(0), 0, 0)),
        ];
        let ports = Ports::new(CLOCK, &names(), [], claims);
        assert_eq!(
            brief(&ports),
            [
                (1, 1, "alpha".into(), "claimed", 1),
                (2, 2, "alpha".into(), "claimed", 0)
            ]
        );
        assert!(ports.ports[0].lingers_until.is_none());
        assert!(ports.ports[1].lingers_until.is_some());
    }

    #[test]
    fn a_foreign_claim_on_a_reserved_port_shows_beside_the_reservation() {
        let ports = Ports::new(
            CLOCK,
            &names(),
            [tcp(80, kept(A))],
            [tcp(80, claim(B, 1, 0))],
        );
        assert_eq!(
            brief(&ports),
            [
                (80, 80, "alpha".into(), "reserved", 0),
                (80, 80, "beta".into(), "claimed", 1)
            ]
        );
    }

    #[test]
    fn the_highest_port_of_tcp_does_not_join_the_lowest_of_udp() {
        let udp = ((Protocol::Udp, 0), kept(A));
        let ports = Ports::new(CLOCK, &names(), [tcp(65535, kept(A)), udp], []);
        assert_eq!(ports.ports.len(), 2);
    }

    #[test]
    fn a_destroyed_slice_keeps_its_number() {
        let ports = Ports::new(CLOCK, &names(), [], [tcp(9, claim(SliceId(16386), 1, 0))]);
        assert_eq!(ports.ports[0].owner.label(), "gone#16386");
    }
}
