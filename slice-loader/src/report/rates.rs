//! `slice top`: what each owner uses and carries now, from two readings of
//! what it used and carried so far.

use jiff::Timestamp;
use serde::Serialize;

use super::status::{Row, RowKind};
use super::{Status, Used};

/// The answer of `slice top`, once for each interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rates {
    /// When the interval ended.
    pub time: Timestamp,
    /// How long it was, in milliseconds.
    pub over_ms: u64,
    /// One for each owner, in the order of `slice status`.
    pub rows: Vec<RowRates>,
}

/// What an owner used in the interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowRates {
    /// The number of its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RowKind,
    /// Processor time, in thousandths of a core; absent where it is not counted.
    pub cpu_millicores: Option<u64>,
    /// Bytes of memory at the end; absent where they are not counted.
    pub memory: Option<Used>,
    /// Processes and threads at the end; absent where they are not counted.
    pub processes: Option<Used>,
    /// Sockets open at the end.
    pub sockets: Used,
    /// To other machines, bytes a second.
    pub sent: u64,
    /// From other machines, bytes a second.
    pub received: u64,
    /// Sent inside the node, bytes a second.
    pub loopback: u64,
    /// Denials a second.
    pub denials: u64,
}

/// By what the owners are ordered, the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Processor time.
    #[default]
    Cpu,
    /// Memory.
    Memory,
    /// Bytes to and from other machines.
    Traffic,
    /// Denials.
    Denials,
    /// The name, the first first.
    Name,
}

impl Rates {
    /// What happened between two readings; counters of an owner that came in
    /// between began at zero.
    #[must_use]
    pub fn between(before: &Status, after: &Status) -> Self {
        let over = after.time.duration_since(before.time);
        // Two readings at one instant: as if there were a millisecond between.
        let over_ms = u64::try_from(over.as_millis()).unwrap_or(0).max(1);
        let row = |now: &Row| {
            let then = before.rows.iter().find(|then| then.id == now.id);
            RowRates::between(then, now, over_ms)
        };
        Self {
            time: after.time,
            over_ms,
            rows: after.rows.iter().map(row).collect(),
        }
    }

    /// Puts those that have the most first.
    pub fn order(&mut self, order: Order) {
        let most = |row: &RowRates| match order {
            Order::Cpu => row.cpu_millicores.unwrap_or(0),
            Order::Memory => row.memory.map_or(0, |used| used.usage),
            Order::Traffic => row.sent.saturating_add(row.received),
            Order::Denials => row.denials,
            Order::Name => 0,
        };
        self.rows
            .sort_by(|a, b| most(b).cmp(&most(a)).then_with(|| a.name.cmp(&b.name)));
    }
}

impl RowRates {
    fn between(then: Option<&Row>, now: &Row, over_ms: u64) -> Self {
        let per_second = |read: fn(&Row) -> u64| {
            let moved = read(now).saturating_sub(then.map_or(0, read));
            let rate = u128::from(moved) * 1000 / u128::from(over_ms);
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        Self {
            id: now.id,
            name: now.name.clone(),
            kind: now.kind,
            // Microseconds in a second are millionths of a core.
            cpu_millicores: now
                .cpu
                .map(|_| per_second(|row| row.cpu.map_or(0, |cpu| cpu.used_us)) / 1000),
            memory: now.memory,
            processes: now.processes,
            sockets: now.sockets,
            sent: per_second(|row| row.external.sent.bytes),
            received: per_second(|row| row.external.received.bytes),
            loopback: per_second(|row| row.loopback.sent.bytes),
            denials: per_second(|row| row.denials.total),
        }
    }
}
