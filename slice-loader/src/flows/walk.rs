//! The one way through the database of flows: hours from the newest on, in each the
//! owners, of each what is beside its rows and then its rows. It can stop after so
//! many rows and go on there, so that an answer takes bounded work and memory.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use policy::SliceId;
use policy::abi::{Address, TalliedFlow, Tally, Traffic};
use rusqlite::params;
use serde::{Deserialize, Serialize};
use zerocopy::FromZeros;

use super::history::{History, counted, ends, traffic_at};
use crate::report::Owner;
use crate::report::flows::{HOUR_NS, Span, Wanted, nanoseconds};

/// What is looked for, and how far.
#[derive(Clone, Debug)]
pub struct Looking<'a> {
    /// Which rows are told.
    pub wanted: &'a Wanted,
    /// Whose rows are looked at: no other's are even read.
    pub whose: Whose,
    /// The place to go on after.
    pub after: Option<Position>,
    /// Most rows that are told.
    pub most: usize,
    /// Most that are looked at.
    pub work: usize,
}

/// Whose rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Everybody's.
    All,
    /// Those of one slice; not those of a former one of its name.
    One(SliceId),
}

/// A row that was found.
#[derive(Debug)]
pub enum Row<'a> {
    /// What an owner exchanged with a peer in an hour, and between which times.
    Flow(&'a Owner, &'a TalliedFlow, &'a Tally, Span),
    /// What it exchanged beside its rows, and the hour since 1970.
    Rest(&'a Owner, i64, &'a Traffic),
}

/// A place in the database, as far as who reads may know of it: it tells of rows that
/// were told or that the reader might have been told, and of nothing else. Written as
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    hour: i64,
    /// Which of the owners that are looked at.
    owner: u32,
    /// The last of its rows; none where what is beside them was told.
    row: Option<Key>,
}

/// A row among those of an owner in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    peer: Address,
    peer_port: u16,
    protocol: u8,
    kind: u8,
    inside: u16,
    local: Address,
    local_port: u16,
}

/// Why a text is no [`Position`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPosition;

/// The next hour in which anything is, from a place on.
const HOUR: &str = "SELECT max(hour) FROM (SELECT max(hour) AS hour FROM flows WHERE hour <= ?1
    UNION ALL SELECT max(hour) FROM rests WHERE hour <= ?1)";

/// The next owner that has anything in an hour.
const OWNER: &str = "SELECT min(owner) FROM (
    SELECT min(owner) AS owner FROM flows WHERE hour = ?1 AND owner >= ?2
    UNION ALL SELECT min(owner) FROM rests WHERE hour = ?1 AND owner >= ?2)";

const REST: &str = "SELECT sent_packets, sent_bytes, received_packets, received_bytes,
    inside_sent_packets, inside_sent_bytes, inside_received_packets, inside_received_bytes
    FROM rests WHERE hour = ?1 AND owner = ?2";

/// Those of an owner in an hour, after a row and up to a peer. One lower end, so that
/// it is the one that the index is entered by.
const FLOWS: &str = "SELECT * FROM flows WHERE hour = ?1 AND owner = ?2
    AND (peer, peer_port, protocol, kind, inside, local, local_port)
        > (?3, ?4, ?5, ?6, ?7, ?8, ?9)
    AND peer <= ?10
    ORDER BY peer, peer_port, protocol, kind, inside, local, local_port";

impl<'a> Looking<'a> {
    /// All of everybody's.
    #[must_use]
    pub const fn for_all(wanted: &'a Wanted) -> Self {
        Self {
            wanted,
            whose: Whose::All,
            after: None,
            most: usize::MAX,
            work: usize::MAX,
        }
    }
}

impl History {
    /// Tells the rows that are looked for; the place where it stopped, if it is not
    /// through.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn walk(
        &self,
        looking: &Looking<'_>,
        tell: &mut dyn FnMut(Row<'_>),
    ) -> rusqlite::Result<Option<Position>> {
        let owners: Vec<(i64, Owner)> = self
            .owners()?
            .into_iter()
            .filter(|(_, owner)| match looking.whose {
                Whose::All => looking.wanted.wants_owner(owner),
                Whose::One(id) => owner.id == id.0 && looking.wanted.wants_owner(owner),
            })
            .collect();
        let (low, high) = ends(looking.wanted.peer);
        let mut walk = Walk {
            history: self,
            looking,
            owners,
            low,
            high,
            told: 0,
            looked: 0,
            tell,
        };
        walk.hours()
    }
}

/// One that is under way.
struct Walk<'a> {
    history: &'a History,
    looking: &'a Looking<'a>,
    /// Those that are looked at, by their numbers in the database.
    owners: Vec<(i64, Owner)>,
    low: Address,
    high: Address,
    told: usize,
    looked: usize,
    tell: &'a mut dyn FnMut(Row<'_>),
}

impl Walk<'_> {
    fn hours(&mut self) -> rusqlite::Result<Option<Position>> {
        let wanted = self.looking.wanted;
        let hour_of = |time: Timestamp| nanoseconds(time).div_euclid(HOUR_NS);
        let first = wanted.since.map_or(i64::MIN, hour_of);
        let mut next = self.history.db.prepare_cached(HOUR)?;
        let mut after = self.looking.after;
        let mut from = after.map_or(i64::MAX, |place| place.hour);
        while let Some(hour) = next.query_row([from], |row| row.get::<_, Option<i64>>(0))? {
            if hour < first || self.owners.is_empty() {
                break;
            }
            if self.is_full() {
                // As after the last row of the last owner of the hour before this one.
                let owner = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
                return Ok(hour.checked_add(1).map(|hour| Position {
                    hour,
                    owner,
                    row: None,
                }));
            }
            // The hour may be gone in which one was.
            let within = after.take().filter(|place| place.hour == hour);
            let over = within.is_some_and(|place| place.owner as usize >= self.owners.len());
            if !over {
                self.looked += 1;
                if let Some(place) = self.hour(hour, within)? {
                    return Ok(Some(place));
                }
            }
            let Some(before) = hour.checked_sub(1) else {
                break;
            };
            from = before;
        }
        Ok(None)
    }

    fn hour(&mut self, hour: i64, after: Option<Position>) -> rusqlite::Result<Option<Position>> {
        let mut next = self.history.db.prepare_cached(OWNER)?;
        let mut place = after;
        let mut index = after.map_or(0, |place| place.owner as usize);
        while let Some((number, _)) = self.owners.get(index) {
            let found = next.query_row([hour, *number], |row| row.get::<_, Option<i64>>(0))?;
            self.looked += 1;
            let Some(found) = found else {
                break;
            };
            if found != *number {
                // Another's, who is looked at or not.
                index = self.owners.partition_point(|(number, _)| *number < found);
                place = None;
                if self.owners.get(index).is_none_or(|(at, _)| *at != found) {
                    continue;
                }
            }
            if let Some(place) = self.owner(hour, index, place.take())? {
                return Ok(Some(place));
            }
            index += 1;
        }
        Ok(None)
    }

    fn owner(
        &mut self,
        hour: i64,
        index: usize,
        after: Option<Position>,
    ) -> rusqlite::Result<Option<Position>> {
        let (number, owner) = self.owners[index].clone();
        let mut place = Position {
            hour,
            owner: u32::try_from(index).unwrap_or(u32::MAX),
            row: None,
        };
        if after.is_none() {
            self.rest(hour, number, &owner)?;
            if self.is_full() {
                return Ok(Some(place));
            }
        }
        let row = after.and_then(|place| place.row);
        let row = row.filter(|row| row.peer >= self.low);
        let peer_port = row.map_or(-1, |row| i32::from(row.peer_port));
        let row = row.unwrap_or(Key::first(self.low));
        let mut rows = self.history.db.prepare_cached(FLOWS)?;
        let mut found = rows.query(params![
            hour,
            number,
            row.peer,
            peer_port,
            row.protocol,
            row.kind,
            row.inside,
            row.local,
            row.local_port,
            self.high,
        ])?;
        while let Some(row) = found.next()? {
            let flow = TalliedFlow {
                owner: SliceId(owner.id),
                protocol: row.get(4)?,
                kind: row.get(5)?,
                local_port: row.get(8)?,
                peer_port: row.get(2)?,
                inside: row.get(6)?,
                reserved: 0,
                local: row.get(7)?,
                peer: row.get(1)?,
            };
            let tally = Tally {
                sent_packets: counted(row, 9)?,
                sent_bytes: counted(row, 10)?,
                received_packets: counted(row, 11)?,
                received_bytes: counted(row, 12)?,
                ..Tally::new_zeroed()
            };
            let span = (row.get(13)?, row.get(14)?);
            self.looked += 1;
            if self.looking.wanted.wants(&owner, &flow, span) {
                self.told += 1;
                (self.tell)(Row::Flow(&owner, &flow, &tally, span));
            }
            if self.is_full() {
                place.row = Some(Key::of(&flow));
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// What is beside the rows: the times choose by whole hours.
    fn rest(&mut self, hour: i64, number: i64, owner: &Owner) -> rusqlite::Result<()> {
        let until = self.looking.wanted.until.map_or(i64::MAX, nanoseconds);
        if hour > until.div_euclid(HOUR_NS) {
            return Ok(());
        }
        let mut rests = self.history.db.prepare_cached(REST)?;
        let mut found = rests.query([hour, number])?;
        if let Some(row) = found.next()? {
            self.told += 1;
            (self.tell)(Row::Rest(owner, hour, &traffic_at(row, 0)?));
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.told >= self.looking.most || self.looked >= self.looking.work
    }
}

impl Key {
    /// Before any row of this peer, but for its port.
    const fn first(peer: Address) -> Self {
        Self {
            peer,
            peer_port: 0,
            protocol: 0,
            kind: 0,
            inside: 0,
            local: [0; 16],
            local_port: 0,
        }
    }

    const fn of(flow: &TalliedFlow) -> Self {
        Self {
            peer: flow.peer,
            peer_port: flow.peer_port,
            protocol: flow.protocol,
            kind: flow.kind,
            inside: flow.inside,
            local: flow.local,
            local_port: flow.local_port,
        }
    }
}

/// Octets of a place, without and with a row.
const SHORT: usize = 12;
const LONG: usize = SHORT + 40;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = Vec::with_capacity(LONG);
        octets.extend(self.hour.to_be_bytes());
        octets.extend(self.owner.to_be_bytes());
        if let Some(row) = self.row {
            octets.extend(row.peer);
            octets.extend(row.peer_port.to_be_bytes());
            octets.extend([row.protocol, row.kind]);
            octets.extend(row.inside.to_be_bytes());
            octets.extend(row.local);
            octets.extend(row.local_port.to_be_bytes());
        }
        octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl FromStr for Position {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        // Capitals would be a second way to write one.
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if ![2 * SHORT, 2 * LONG].contains(&text.len()) || !text.bytes().all(digit) {
            return Err(BadPosition);
        }
        let octets: Vec<u8> = (0..text.len() / 2)
            .filter_map(|place| u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok())
            .collect();
        let mut rest = &octets[..];
        let place = Self {
            hour: i64::from_be_bytes(taken(&mut rest)?),
            owner: u32::from_be_bytes(taken(&mut rest)?),
            row: None,
        };
        if rest.is_empty() {
            return Ok(place);
        }
        let peer = taken(&mut rest)?;
        let peer_port = u16::from_be_bytes(taken(&mut rest)?);
        let [protocol, kind] = taken(&mut rest)?;
        let inside = u16::from_be_bytes(taken(&mut rest)?);
        Ok(Self {
            row: Some(Key {
                peer,
                peer_port,
                protocol,
                kind,
                inside,
                local: taken(&mut rest)?,
                local_port: u16::from_be_bytes(taken(&mut rest)?),
            }),
            ..place
        })
    }
}

fn taken<const N: usize>(octets: &mut &[u8]) -> Result<[u8; N], BadPosition> {
    let (first, rest) = octets.split_first_chunk().ok_or(BadPosition)?;
    *octets = rest;
    Ok(*first)
}

impl fmt::Display for BadPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a place among flows is the field `next` of an answer")
    }
}

impl std::error::Error for BadPosition {}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
