//! Everything that is told of a row as OpenMetrics, one family after the other.

use super::Samples;
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

/// One family of each row.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
    pub(super) samples: fn(&Row, &mut Samples<'_>),
}

const fn family(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    help: &'static str,
    samples: fn(&Row, &mut Samples<'_>),
) -> Family {
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
pub(super) const FAMILIES: &[Family] = &[
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
