//! No port has two owners.

use crate::config::{At, Complaint, Config, LOOPBACK_PORTS, PortRange, Ports, Slice};

/// No port has two owners.
pub(super) fn ports(config: &Config, complaints: &mut Vec<Complaint>) {
    for (protocol, list) in PROTOCOLS {
        // All reservations of the protocol, in the order of ports: neighbours that overlap collide.
        let mut owners: Vec<Kept<'_>> = Vec::new();
        owners.extend(
            list(&config.node.reserved)
                .iter()
                .map(|range| (*range, None)),
        );
        for slice in &config.slices {
            let (reserved, raw) = (&slice.ports.reserved, &slice.ports.raw);
            owners.extend(
                list(reserved)
                    .iter()
                    .chain(list(raw))
                    .map(|range| (*range, Some(slice))),
            );
        }
        owners.sort_by_key(|(range, _)| range.value);
        let mut widest: Option<Kept<'_>> = None;
        for (range, owner) in owners {
            if let Some(kept) = range.value.overlap(LOOPBACK_PORTS) {
                complaints.push(Complaint::maybe_at(
                    range.at,
                    format!("{protocol} port {kept} cannot be reserved: {LOOPBACK_PORTS} are kept for loopback translation"),
                    "choose another port",
                ));
            }
            if let Some((before, first)) = widest
                && let Some(shared) = before.value.overlap(range.value)
            {
                complaints.push(collision(protocol, shared, (before, first), (range, owner)));
            }
            if widest.is_none_or(|(before, _)| range.value.high() > before.value.high()) {
                widest = Some((range, owner));
            }
        }
    }
    for slice in &config.slices {
        // With an own address of each family the slice never uses a shared one.
        let (Some(ipv4), Some(_)) = (slice.address.ipv4, slice.address.ipv6) else {
            continue;
        };
        let reserved = slice
            .ports
            .reserved
            .tcp
            .first()
            .or(slice.ports.reserved.udp.first());
        if let Some(reserved) = reserved {
            complaints.push(
                Complaint::maybe_at(
                    reserved.at,
                    format!("slice {} reserves ports of the shared addresses and uses none of these", slice.name.value),
                    "remove the reservation: every port of its own addresses is the slice's already",
                )
                .with_other(ipv4.at, "its own address"),
            );
        }
    }
}

/// A reserved range, and the slice it is for; none for the node.
type Kept<'a> = (At<PortRange>, Option<&'a Slice>);

type ListOf = fn(&Ports) -> &[At<PortRange>];

const PROTOCOLS: [(&str, ListOf); 2] = [("TCP", |ports| &ports.tcp), ("UDP", |ports| &ports.udp)];

fn collision(protocol: &str, shared: PortRange, first: Kept<'_>, second: Kept<'_>) -> Complaint {
    // The slice is asked to give way to the node, the later file to the earlier.
    let (first, second) = if second.1.is_none() || first.1.is_some() && first.0.at > second.0.at {
        (second, first)
    } else {
        (first, second)
    };
    if let (Some(one), Some(other)) = (first.1, second.1)
        && one.name.value == other.name.value
    {
        return Complaint::maybe_at(
            second.0.at,
            format!(
                "{protocol} port {shared} of slice {} is in two lists",
                one.name.value
            ),
            "leave it in one: in `raw_tcp` or `raw_udp` where a program speaks the protocol itself",
        )
        .with_other(first.0.at, "the other");
    }
    let name = |owner: Option<&Slice>| match owner {
        None => String::from("the node"),
        Some(slice) => format!("slice {}", slice.name.value),
    };
    Complaint::maybe_at(
        second.0.at,
        format!(
            "{protocol} port {shared} is reserved for {} and for {}",
            name(first.1),
            name(second.1)
        ),
        "a port has one owner: remove it from one of the two",
    )
    .with_other(first.0.at, format!("for {}", name(first.1)))
}
