//! Everything that is told of a row as OpenMetrics, one family after the other.

use super::Samples;
use crate::report::LinkRow;
use crate::report::links::{Exempt, Receive};
use crate::report::status::{Row, RowKind, RowState};

/// What kind of number a family has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows while the slice lives.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Always 1: its labels tell something.
    Info,
}

/// One family of each row of a kind.
pub(super) struct Family<T: 'static> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
    pub(super) samples: fn(&T, &mut Samples<'_>),
}

const fn family<T>(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    help: &'static str,
    samples: fn(&T, &mut Samples<'_>),
) -> Family<T> {
    Family {
        name,
        kind,
        unit,
        help,
        samples,
    }
}

use Kind::{Counter, Gauge, Info};

/// Everything that is told of a row.
pub(super) const FAMILIES: &[Family<Row>] = &[
    family("slice", Info, "", "The owner's id, kind and state.", info),
    family(
        "slice_cpu_usage_seconds",
        Counter,
        "seconds",
        "Processor time used.",
        |row, to| {
            if let Some(cpu) = row.cpu {
                to.put(&[], &seconds(cpu.used_us));
            }
        },
    ),
    family(
        "slice_cpu_limit_cores",
        Gauge,
        "cores",
        "Most processor time at a time.",
        |row, to| {
            if let Some(most) = row.cpu.and_then(|cpu| cpu.cap_millicores) {
                to.put(&[], &format!("{}.{:03}", most / 1000, most % 1000));
            }
        },
    ),
    family(
        "slice_memory_usage_bytes",
        Gauge,
        "bytes",
        "Memory used.",
        |row, to| {
            to.usage(row.memory);
        },
    ),
    family(
        "slice_memory_limit_bytes",
        Gauge,
        "bytes",
        "Most memory.",
        |row, to| {
            to.limit(row.memory);
        },
    ),
    family(
        "slice_processes",
        Gauge,
        "",
        "Processes and threads.",
        |row, to| {
            to.usage(row.processes);
        },
    ),
    family(
        "slice_processes_limit",
        Gauge,
        "",
        "Most processes and threads.",
        |row, to| {
            to.limit(row.processes);
        },
    ),
    family(
        "slice_disk_usage_bytes",
        Gauge,
        "bytes",
        "Files of the slice on the disk.",
        |row, to| {
            to.usage(row.disk);
        },
    ),
    family(
        "slice_disk_limit_bytes",
        Gauge,
        "bytes",
        "Most bytes on the disk.",
        |row, to| {
            to.limit(row.disk);
        },
    ),
    family(
        "slice_inodes",
        Gauge,
        "",
        "Files, directories and links.",
        |row, to| {
            to.usage(row.inodes);
        },
    ),
    family(
        "slice_inodes_limit",
        Gauge,
        "",
        "Most files, directories and links.",
        |row, to| {
            to.limit(row.inodes);
        },
    ),
    family(
        "slice_io_bytes",
        Counter,
        "bytes",
        "Read and written of the block device.",
        |row, to| to.io(row, |transfer| transfer.bytes),
    ),
    family(
        "slice_io_operations",
        Counter,
        "",
        "Operations of the block device.",
        |row, to| to.io(row, |transfer| transfer.operations),
    ),
    family("slice_sockets", Gauge, "", "Sockets open.", |row, to| {
        to.usage(Some(row.sockets))
    }),
    family(
        "slice_sockets_limit",
        Gauge,
        "",
        "Most sockets open.",
        |row, to| {
            to.limit(Some(row.sockets));
        },
    ),
    family(
        "slice_sockets_opened",
        Counter,
        "",
        "Sockets made.",
        |row, to| {
            to.number(&[], row.sockets_opened);
        },
    ),
    family(
        "slice_connections",
        Gauge,
        "",
        "TCP connections started and not over.",
        |row, to| {
            to.usage(row.connections);
        },
    ),
    family(
        "slice_connections_limit",
        Gauge,
        "",
        "Most TCP connections started and not over.",
        |row, to| to.limit(row.connections),
    ),
    family(
        "slice_connections_started",
        Counter,
        "",
        "TCP connections started.",
        |row, to| {
            if let Some(started) = row.connections_started {
                to.number(&[], started);
            }
        },
    ),
    family(
        "slice_claimed_ports",
        Gauge,
        "",
        "Ports claimed.",
        |row, to| {
            to.usage(Some(row.claims));
        },
    ),
    family(
        "slice_claimed_ports_limit",
        Gauge,
        "",
        "Most ports claimed.",
        |row, to| {
            to.limit(Some(row.claims));
        },
    ),
    family("slice_flows", Gauge, "", "Flows learned.", |row, to| {
        to.number(&[], row.flows)
    }),
    family(
        "slice_network_bytes",
        Counter,
        "bytes",
        "Sent and received, IP headers included.",
        |row, to| to.network(row, |volume| volume.bytes),
    ),
    family(
        "slice_network_packets",
        Counter,
        "",
        "Packets sent and received.",
        |row, to| to.network(row, |volume| volume.packets),
    ),
    family(
        "slice_drops",
        Counter,
        "",
        "Denied calls and dropped packets by reason; a reason that was never given is absent.",
        |row, to| {
            for (reason, count) in row.denials.reasons() {
                to.number(&[("reason", reason.slug())], count);
            }
        },
    ),
    family(
        "slice_events_suppressed",
        Counter,
        "",
        "Events not sent because of the rate or a full ring.",
        |row, to| to.number(&[], row.events_suppressed),
    ),
];

/// What is told of exempt networks, on links that have some.
fn exempt(row: &LinkRow, to: &mut Samples<'_>, read: fn(&Exempt) -> u64) {
    if let Some(exempt) = &row.exempt {
        to.number(&[], read(exempt));
    }
}

/// What is told of what arrives, where that is bounded.
fn receive(row: &LinkRow, to: &mut Samples<'_>, read: fn(&Receive) -> u64) {
    if let Some(receive) = &row.receive {
        to.number(&[], read(receive));
    }
}

/// Everything that is told of an owner on a link. Rates are bytes a second here, as
/// everything that Prometheus reads.
pub(super) const OF_LINKS: &[Family<LinkRow>] = &[
    family(
        "slice_link_sent_bytes",
        Counter,
        "bytes",
        "Sent on the link, as it is on the wire.",
        |row, to| to.number(&[], row.sent_bytes),
    ),
    family(
        "slice_link_sent_packets",
        Counter,
        "",
        "Packets sent on the link, segments apiece.",
        |row, to| to.number(&[], row.sent_packets),
    ),
    family(
        "slice_link_exempt_sent_bytes",
        Counter,
        "bytes",
        "Sent on the link to exempt networks, which is not in slice_link_sent_bytes.",
        |row, to| exempt(row, to, |of| of.sent_bytes),
    ),
    family(
        "slice_link_exempt_sent_packets",
        Counter,
        "",
        "Packets sent on the link to exempt networks, segments apiece.",
        |row, to| exempt(row, to, |of| of.sent_packets),
    ),
    family(
        "slice_link_exempt_dropped_packets",
        Counter,
        "",
        "Packets to exempt networks dropped since too much waited.",
        |row, to| exempt(row, to, |of| of.dropped_packets),
    ),
    family(
        "slice_link_receive_cap_bytes_per_second",
        Gauge,
        "",
        "Most that the owner may receive by the link; absent where that is not bounded.",
        |row, to| to.rate(row.receive.as_ref().map(|receive| receive.cap)),
    ),
    family(
        "slice_link_received_bytes",
        Counter,
        "bytes",
        "Received by the link since that is bounded, IP headers included.",
        |row, to| receive(row, to, |of| of.received_bytes),
    ),
    family(
        "slice_link_received_packets",
        Counter,
        "",
        "Packets received by the link since that is bounded.",
        |row, to| receive(row, to, |of| of.received_packets),
    ),
    family(
        "slice_link_policed_bytes",
        Counter,
        "bytes",
        "Arrived by the link for the owner and dropped since it was too much.",
        |row, to| receive(row, to, |of| of.policed_bytes),
    ),
    family(
        "slice_link_policed_packets",
        Counter,
        "",
        "Packets that arrived by the link for the owner and were dropped.",
        |row, to| receive(row, to, |of| of.policed_packets),
    ),
    family(
        "slice_link_dropped_bytes",
        Counter,
        "bytes",
        "Dropped before the link since too much waited.",
        |row, to| to.number(&[], row.dropped_bytes),
    ),
    family(
        "slice_link_dropped_packets",
        Counter,
        "",
        "Packets dropped before the link.",
        |row, to| to.number(&[], row.dropped_packets),
    ),
    family(
        "slice_link_marked_packets",
        Counter,
        "",
        "Packets marked (ECN) since much waited before them, to exempt networks included.",
        |row, to| {
            let exempt = row.exempt.as_ref().map_or(0, |of| of.marks);
            to.number(&[], row.marks + exempt);
        },
    ),
    family(
        "slice_link_allowed_bytes_per_second",
        Gauge,
        "",
        "What the owner may send now; absent where it sends nothing.",
        |row, to| to.rate(row.may_send),
    ),
    family(
        "slice_link_floor_bytes_per_second",
        Gauge,
        "",
        "What the owner may always send.",
        |row, to| to.rate(Some(row.floor)),
    ),
    family(
        "slice_link_cap_bytes_per_second",
        Gauge,
        "",
        "Most that the owner may send.",
        |row, to| to.rate(row.cap),
    ),
    family(
        "slice_link_share",
        Gauge,
        "",
        "Weight by which what floors leave is split.",
        |row, to| to.number(&[], row.share.into()),
    ),
    family(
        "slice_link_queue_seconds",
        Gauge,
        "seconds",
        "How long what the owner sent last waits.",
        |row, to| to.put(&[], &seconds(row.waits_us)),
    ),
    family(
        "slice_link_quota_bytes",
        Gauge,
        "bytes",
        "What the owner may send in a period.",
        |row, to| {
            if let Some(quota) = &row.quota {
                to.number(&[], quota.limit);
            }
        },
    ),
    family(
        "slice_link_quota_used_bytes",
        Gauge,
        "bytes",
        "What the owner has sent in the period.",
        |row, to| {
            if let Some(quota) = &row.quota {
                to.number(&[], quota.used);
            }
        },
    ),
    family(
        "slice_link_quota_cap_bytes_per_second",
        Gauge,
        "",
        "Most that the quota leaves to send; absent while there is enough left.",
        |row, to| to.rate(row.quota.as_ref().and_then(|quota| quota.cap)),
    ),
    family(
        "slice_link_quota_end_time_seconds",
        Gauge,
        "seconds",
        "When the next period of the quota begins.",
        |row, to| {
            let ends = row.quota.as_ref().map(|quota| quota.ends.as_second());
            if let Some(ends) = ends.and_then(|ends| u64::try_from(ends).ok()) {
                to.number(&[], ends);
            }
        },
    ),
];

fn info(row: &Row, to: &mut Samples<'_>) {
    let kind = match row.kind {
        RowKind::Node => "node",
        RowKind::Slice => "slice",
        RowKind::Unattributed => "unattributed",
    };
    let state = match row.state {
        RowState::Live => "live",
        RowState::Denied => "denied",
    };
    let id = row.id.to_string();
    to.put(&[("id", &id), ("kind", kind), ("state", state)], "1");
}

/// Microseconds as seconds, exactly.
fn seconds(microseconds: u64) -> String {
    format!(
        "{}.{:06}",
        microseconds / 1_000_000,
        microseconds % 1_000_000
    )
}
