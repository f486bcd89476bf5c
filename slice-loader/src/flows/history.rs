//! The database of flows: a row per owner, flow and hour.
//!
//! SQLite, since commands read it beside the daemon that writes, and since
//! neither a kill nor a full disk leaves it half written. It is written ahead
//! (WAL) and not waited for: what a power failure takes are the last seconds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::statvfs::statvfs;
use policy::SliceId;
use policy::abi::{Address, Traffic};
use policy::config::Prefix;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};

use super::Kept;
use super::walk::{Looking, Row};
use crate::kernel::tallies::Generation;
use crate::report::flows::{Gathered, HOUR_NS, Wanted};
use crate::report::{Clock, Names, Owner};

const SECOND_NS: i64 = 1_000_000_000;

/// How long one waits for another's transaction.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than one transaction needs.
const ROOM: u64 = 64 << 20;

/// Rows of an hour lie together, in it those of an owner, in these those of a peer: so
/// a slice that asks for its own touches no other's, and one that has many writes them
/// in one place.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS owners (
    number INTEGER PRIMARY KEY,
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (id, name)
) STRICT;
CREATE TABLE IF NOT EXISTS flows (
    hour INTEGER NOT NULL,
    peer BLOB NOT NULL,
    peer_port INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    protocol INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    inside INTEGER NOT NULL,
    local BLOB NOT NULL,
    local_port INTEGER NOT NULL,
    sent_packets INTEGER NOT NULL,
    sent_bytes INTEGER NOT NULL,
    received_packets INTEGER NOT NULL,
    received_bytes INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (hour, owner, peer, peer_port, protocol, kind, inside, local, local_port)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rests (
    hour INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    sent_packets INTEGER NOT NULL,
    sent_bytes INTEGER NOT NULL,
    received_packets INTEGER NOT NULL,
    received_bytes INTEGER NOT NULL,
    inside_sent_packets INTEGER NOT NULL,
    inside_sent_bytes INTEGER NOT NULL,
    inside_received_packets INTEGER NOT NULL,
    inside_received_bytes INTEGER NOT NULL,
    PRIMARY KEY (hour, owner)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taken (node TEXT PRIMARY KEY, generation INTEGER NOT NULL) STRICT;
";

const ADD_FLOW: &str = "
INSERT INTO flows VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
ON CONFLICT DO UPDATE SET
    sent_packets = sent_packets + excluded.sent_packets,
    sent_bytes = sent_bytes + excluded.sent_bytes,
    received_packets = received_packets + excluded.received_packets,
    received_bytes = received_bytes + excluded.received_bytes,
    first = min(first, excluded.first),
    last = max(last, excluded.last)";

/// Adds rows (SQL) to what owners have beside their flows.
macro_rules! add_to_rests {
    ($rows:literal) => {
        concat!(
            "INSERT INTO rests ",
            $rows,
            " ON CONFLICT DO UPDATE SET
    sent_packets = sent_packets + excluded.sent_packets,
    sent_bytes = sent_bytes + excluded.sent_bytes,
    received_packets = received_packets + excluded.received_packets,
    received_bytes = received_bytes + excluded.received_bytes,
    inside_sent_packets = inside_sent_packets + excluded.inside_sent_packets,
    inside_sent_bytes = inside_sent_bytes + excluded.inside_sent_bytes,
    inside_received_packets = inside_received_packets + excluded.inside_received_packets,
    inside_received_bytes = inside_received_bytes + excluded.inside_received_bytes"
        )
    };
}

const ADD_REST: &str = add_to_rests!("VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");

/// What was picked to be folded: hours of owners.
const PICKED: &str = "
CREATE TEMP TABLE IF NOT EXISTS picked (hour INTEGER NOT NULL, owner INTEGER NOT NULL,
    PRIMARY KEY (hour, owner)) STRICT, WITHOUT ROWID;
DELETE FROM picked;
";

/// What an owner's rows of an hour are together, beside its rows from now on. This and
/// the next go through the rows once, however many were picked.
const FOLD: &str = add_to_rests!(
    "SELECT hour, owner,
    sum(sent_packets * (inside = 0)), sum(sent_bytes * (inside = 0)),
    sum(received_packets * (inside = 0)), sum(received_bytes * (inside = 0)),
    sum(sent_packets * inside), sum(sent_bytes * inside),
    sum(received_packets * inside), sum(received_bytes * inside)
FROM flows WHERE (hour, owner) IN (SELECT hour, owner FROM picked) GROUP BY hour, owner"
);

const FORGET_PICKED: &str =
    "DELETE FROM flows WHERE (hour, owner) IN (SELECT hour, owner FROM picked)";

/// The database.
#[derive(Debug)]
pub struct History {
    pub(super) db: Connection,
}

impl History {
    /// Opens it for writing, made if it is not there, of `bytes` at most. One that
    /// is broken is put aside.
    ///
    /// # Errors
    /// It cannot be opened or made.
    pub fn open(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        match Self::open_whole(path, bytes) {
            Err(error) if is_damage(&error) => {
                put_aside(path)?;
                Self::open_whole(path, bytes)
            }
            opened => opened,
        }
        .with_context(|| format!("open the database {}", path.display()))
    }

    fn open_whole(path: &Path, bytes: u64) -> rusqlite::Result<Self> {
        let db = Connection::open(path)?;
        db.busy_timeout(PATIENCE)?;
        // Before the first table, else it has no effect.
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "temp_store", "MEMORY")?;
        db.execute_batch(TABLES)?;
        let history = Self { db };
        history
            .db
            .pragma_update(None, "max_page_count", (history.pages_of(bytes)?).max(64))?;
        // As long as nobody reads, the log is no longer than this.
        history
            .db
            .pragma_update(None, "journal_size_limit", 4_i64 << 20)?;
        Ok(history)
    }

    /// Opens one that is there, to ask it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let db = Connection::open_with_flags(path, flags)?;
            db.busy_timeout(PATIENCE)?;
            Ok::<_, rusqlite::Error>(Self { db })
        };
        open().with_context(|| format!("open the database {}", path.display()))
    }

    /// The generation of this node that was taken last.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn last(&self, node: &str) -> anyhow::Result<Option<u64>> {
        let query = "SELECT generation FROM taken WHERE node = ?1";
        let last: Option<i64> = self
            .db
            .query_row(query, [node], |row| row.get(0))
            .optional()
            .context("read the database of flows")?;
        Ok(last.and_then(|last| u64::try_from(last).ok()))
    }

    /// Adds a generation, whole or not at all.
    ///
    /// # Errors
    /// The database cannot be written: the disk may be full.
    pub fn keep(
        &mut self,
        node: &str,
        clock: &Clock,
        names: &Names,
        tallied: &Generation,
    ) -> anyhow::Result<()> {
        let done = self.keep_whole(node, clock, names, tallied);
        let done = match done {
            // It has grown to its bound: with room made, once more.
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DiskFull)
                    && self.disk_has_room() =>
            {
                self.make_room(self.most_pages().unwrap_or(0) / 2)
                    .and_then(|()| self.keep_whole(node, clock, names, tallied))
            }
            done => done,
        };
        done.context("write the database of flows")
    }

    /// Whether the file system has room: then it is the bound that is reached. Where
    /// others filled the disk, nothing is given up for them.
    fn disk_has_room(&self) -> bool {
        let path = Path::new(self.db.path().unwrap_or("/"));
        statvfs(path)
            .is_ok_and(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()) > ROOM)
    }

    fn keep_whole(
        &mut self,
        node: &str,
        clock: &Clock,
        names: &Names,
        tallied: &Generation,
    ) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        let mut owners = Owners::default();
        let now = clock.nanoseconds(clock.monotonic_ns);
        {
            let mut add = transaction.prepare_cached(ADD_FLOW)?;
            for (flow, tally) in &tallied.flows {
                let first = clock.nanoseconds(tally.first_ns);
                let last = clock.nanoseconds(tally.last_ns);
                add.execute(params![
                    last / HOUR_NS,
                    flow.peer,
                    flow.peer_port,
                    owners.number(&transaction, names, flow.owner)?,
                    flow.protocol,
                    flow.kind,
                    flow.inside,
                    flow.local,
                    flow.local_port,
                    whole(tally.sent_packets),
                    whole(tally.sent_bytes),
                    whole(tally.received_packets),
                    whole(tally.received_bytes),
                    first,
                    last,
                ])?;
            }
            for rest in &tallied.rests {
                let owner = owners.number(&transaction, names, rest.owner)?;
                add_rest(&transaction, now / HOUR_NS, owner, &rest.traffic)?;
            }
        }
        transaction.execute("DELETE FROM taken WHERE node <> ?1", [node])?;
        transaction.execute(
            "INSERT OR REPLACE INTO taken VALUES (?1, ?2)",
            params![node, whole(tallied.number)],
        )?;
        transaction.commit()
    }

    /// Forgets what is older than it may be, and makes room where little is left.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn bound(&mut self, kept: Kept) -> anyhow::Result<()> {
        let now = Clock::now().context("read the clock")?;
        let now = now.nanoseconds(now.monotonic_ns);
        let age = i64::try_from(kept.seconds).unwrap_or(i64::MAX);
        let oldest = now.saturating_sub(age.saturating_mul(SECOND_NS));
        self.forget(oldest)
            .and_then(|()| {
                let most = self.pages_of(kept.bytes)?;
                if self.used_pages()? > most / 10 * 9 {
                    self.make_room(most / 10 * 8)?;
                }
                // It gives back a page at each step.
                let mut vacuum = self.db.prepare("PRAGMA incremental_vacuum")?;
                let mut pages = vacuum.query([])?;
                while pages.next()?.is_some() {}
                Ok(())
            })
            .context("bound the database of flows")
    }

    fn forget(&mut self, before: i64) -> rusqlite::Result<()> {
        let hour = before / HOUR_NS;
        self.db
            .execute("DELETE FROM flows WHERE hour < ?1", [hour])?;
        self.db
            .execute("DELETE FROM rests WHERE hour < ?1", [hour])?;
        Ok(())
    }

    /// Adds up the oldest rows of whoever has most, until no more pages are used.
    fn make_room(&mut self, pages: i64) -> rusqlite::Result<()> {
        loop {
            let used = self.used_pages()?;
            let mut heap = Heap::of(&self.db)?;
            if used <= pages || heap.rows == 0 {
                return Ok(());
            }
            let excess = heap.rows.saturating_mul(used - pages) / used.max(1);
            let transaction = self.db.transaction()?;
            transaction.execute_batch(PICKED)?;
            {
                let mut pick = transaction.prepare("INSERT INTO picked VALUES (?1, ?2)")?;
                for (hour, owner) in heap.heaviest(excess + 1) {
                    pick.execute([hour, owner])?;
                }
            }
            transaction.execute(FOLD, [])?;
            transaction.execute(FORGET_PICKED, [])?;
            transaction.commit()?;
        }
    }

    /// Adds the rows that were asked for; the generation of `node` that was taken
    /// last when they were read.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn gather(
        &self,
        wanted: &Wanted,
        node: &str,
        gathered: &mut Gathered,
    ) -> anyhow::Result<Option<u64>> {
        // As it is at one moment: it is written meanwhile.
        let moment = self.db.unchecked_transaction();
        let moment = moment.context("read the database of flows")?;
        let all = Looking::for_all(wanted);
        self.walk(&all, &mut |row| match row {
            Row::Flow(owner, flow, tally, span) => gathered.add(wanted, owner, flow, tally, span),
            Row::Rest(owner, _, traffic) => gathered.add_rest(wanted, owner, traffic),
        })
        .context("read the database of flows")?;
        let last = self.last(node)?;
        drop(moment);
        Ok(last)
    }

    pub(super) fn owners(&self) -> rusqlite::Result<BTreeMap<i64, Owner>> {
        let mut owners = self.db.prepare("SELECT number, id, name FROM owners")?;
        let found = owners.query_map([], |row| {
            let name: String = row.get(2)?;
            let owner = Owner {
                id: row.get(1)?,
                name: (!name.is_empty()).then_some(name),
            };
            Ok((row.get(0)?, owner))
        })?;
        found.collect()
    }

    fn number(&self, pragma: &str) -> rusqlite::Result<i64> {
        self.db.pragma_query_value(None, pragma, |row| row.get(0))
    }

    fn pages_of(&self, bytes: u64) -> rusqlite::Result<i64> {
        let page = self.number("page_size")?.max(1);
        Ok(i64::try_from(bytes).unwrap_or(i64::MAX) / page)
    }

    fn most_pages(&self) -> rusqlite::Result<i64> {
        self.number("max_page_count")
    }

    fn used_pages(&self) -> rusqlite::Result<i64> {
        Ok(self.number("page_count")? - self.number("freelist_count")?)
    }
}

/// How many rows each owner has of each hour.
struct Heap {
    rows: i64,
    /// By owner: all of its rows, and hour by hour.
    owners: BTreeMap<i64, (i64, BTreeMap<i64, i64>)>,
}

impl Heap {
    fn of(db: &Connection) -> rusqlite::Result<Self> {
        let mut heap = Self {
            rows: 0,
            owners: BTreeMap::new(),
        };
        let query = "SELECT owner, hour, count(*) FROM flows GROUP BY owner, hour";
        let mut counts = db.prepare_cached(query)?;
        let mut counts = counts.query([])?;
        while let Some(row) = counts.next()? {
            let (owner, hour, count): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (all, hours) = heap.owners.entry(owner).or_default();
            *all += count;
            hours.insert(hour, count);
            heap.rows += count;
        }
        Ok(heap)
    }

    /// The oldest hours of whoever has most, which have so many rows together.
    fn heaviest(&mut self, rows: i64) -> Vec<(i64, i64)> {
        let mut picked = Vec::new();
        let mut found = 0;
        while found < rows
            && let Some((owner, (all, hours))) =
                self.owners.iter_mut().max_by_key(|(_, (all, _))| *all)
            && let Some((hour, count)) = hours.pop_first()
        {
            picked.push((hour, *owner));
            *all -= count;
            found += count;
        }
        picked
    }
}

/// Whether a database is no whole one any more.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}

/// Puts a database aside that is none, so that a new one begins.
///
/// # Errors
/// It cannot be renamed.
pub fn put_aside(path: &Path) -> anyhow::Result<()> {
    let beside = |ending: &str| PathBuf::from(format!("{}{ending}", path.display()));
    // Its log too, by which it may be mended. The database last: as long as it is
    // there, so is what makes it one.
    for ending in ["-shm", "-wal", ""] {
        let (from, to) = (beside(ending), beside(&format!(".broken{ending}")));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed.with_context(|| format!("put {} aside", from.display()))?,
        }
    }
    tracing::warn!(path = %path.display(), "the database of flows is broken and put aside; a new one begins");
    Ok(())
}

/// Whether that is why something failed.
pub fn failed_by_damage(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<rusqlite::Error>()
        .is_some_and(is_damage)
}

/// The numbers of owners in the database, as far as they were needed.
#[derive(Default)]
struct Owners(BTreeMap<u32, i64>);

impl Owners {
    fn number(
        &mut self,
        transaction: &Transaction<'_>,
        names: &Names,
        id: SliceId,
    ) -> rusqlite::Result<i64> {
        if let Some(number) = self.0.get(&id.0) {
            return Ok(*number);
        }
        // A slice that was destroyed meanwhile has the name that it had.
        let known = "SELECT name FROM owners WHERE id = ?1 ORDER BY name = '', number DESC";
        let name = match names.owner(id).name {
            Some(name) => name,
            None => transaction
                .query_row(known, [id.0], |row| row.get(0))
                .optional()?
                .unwrap_or_default(),
        };
        transaction.execute(
            "INSERT OR IGNORE INTO owners (id, name) VALUES (?1, ?2)",
            params![id.0, name],
        )?;
        let number = transaction.query_row(
            "SELECT number FROM owners WHERE id = ?1 AND name = ?2",
            params![id.0, name],
            |row| row.get(0),
        )?;
        self.0.insert(id.0, number);
        Ok(number)
    }
}

fn add_rest(
    transaction: &Transaction<'_>,
    hour: i64,
    owner: i64,
    traffic: &Traffic,
) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(ADD_REST)?;
    add.execute(params![
        hour,
        owner,
        whole(traffic.sent_packets),
        whole(traffic.sent_bytes),
        whole(traffic.received_packets),
        whole(traffic.received_bytes),
        whole(traffic.loopback_sent_packets),
        whole(traffic.loopback_sent_bytes),
        whole(traffic.loopback_received_packets),
        whole(traffic.loopback_received_bytes),
    ])?;
    Ok(())
}

pub(super) fn traffic_at(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Traffic> {
    Ok(Traffic {
        sent_packets: counted(row, at)?,
        sent_bytes: counted(row, at + 1)?,
        received_packets: counted(row, at + 2)?,
        received_bytes: counted(row, at + 3)?,
        loopback_sent_packets: counted(row, at + 4)?,
        loopback_sent_bytes: counted(row, at + 5)?,
        loopback_received_packets: counted(row, at + 6)?,
        loopback_received_bytes: counted(row, at + 7)?,
    })
}

/// SQLite's numbers have a sign; no counter here comes that far.
fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn counted(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0))
}

/// The first and the last address of a network, as rows have them.
pub(super) fn ends(network: Option<Prefix>) -> (Address, Address) {
    let Some(network) = network else {
        return ([0; 16], [0xff; 16]);
    };
    let (low, length) = match network.address() {
        std::net::IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 96 + u32::from(network.length())),
        std::net::IpAddr::V6(v6) => (v6, u32::from(network.length())),
    };
    let rest = u128::MAX.checked_shr(length).unwrap_or(0);
    (low.octets(), (low.to_bits() | rest).to_be_bytes())
}

#[cfg(test)]
mod tests;
