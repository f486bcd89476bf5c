//! What a slice is told: the grants are applied here, and nowhere else.
//!
//! There is one gate: [`answer`] takes the rows and ports that the asker may
//! see, and everything that is told is made of these.

use std::fmt::Write;
use std::net::IpAddr;

use jiff::Timestamp;
use policy::verdict::Reason;
use serde::Serialize;

use super::history::Average;
use super::slicestat::{self, Machine};
use super::wire::{Ask, Content, Form, Refusal, Viewer};
use super::{history, openmetrics};
use crate::daemon::News;
use crate::report::event::{Cursor, Item};
use crate::report::status::{Row, Total};
use crate::report::{Link, LinksPast, Owner, Ports, Status, Used};

/// What a slice may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// Its own row and ports.
    Own,
    /// Those of all owners.
    All,
}

/// Where answers come from.
pub trait Source {
    /// What this asker may see; none if it is no slice of the node.
    ///
    /// # Errors
    /// The node cannot be read; likewise below.
    fn sight(&mut self, viewer: &Viewer) -> anyhow::Result<Option<Sight>>;
    /// The machine; what is told of all slices together is there.
    ///
    /// # Errors
    /// As above.
    fn attributes(&mut self) -> anyhow::Result<Attributes>;
    /// The rows of all owners.
    ///
    /// # Errors
    /// As above.
    fn all(&mut self) -> anyhow::Result<&Status>;
    /// The row of this slice.
    ///
    /// # Errors
    /// As above.
    fn own(&mut self, viewer: &Viewer) -> anyhow::Result<(Timestamp, Row)>;
    /// The ports of all owners.
    ///
    /// # Errors
    /// As above.
    fn ports(&mut self) -> anyhow::Result<&Ports>;
    /// What happened after a place, to all or to one slice alone.
    fn events(&self, of: Option<u32>, after: Option<Cursor>) -> News;
    /// The links, with the rows of all owners, and when they were read.
    ///
    /// # Errors
    /// As above.
    fn links(&mut self) -> anyhow::Result<&(Timestamp, Vec<Link>)>;
    /// What went out on links, of one owner alone or of all, in so many seconds, with so
    /// many rows of a link.
    ///
    /// # Errors
    /// As above.
    fn links_past(&mut self, of: Option<u32>, seconds: u32, most: u32)
    -> anyhow::Result<LinksPast>;
    /// What a slice used and carried on average, over 1, 5 and 15 minutes.
    fn averages(&self, id: u32, now: history::Counters) -> [Average; 3];
    /// The table of all slices, if it is no older than so many seconds.
    fn table(&self, max_age: u32) -> Option<&str>;
    /// Keeps the table of all slices.
    fn keep_table(&mut self, table: &str);
}

/// `/v1/node`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attributes {
    /// When it was read.
    pub time: Timestamp,
    /// Host name.
    pub name: String,
    /// Its kernel, as `uname -r` says it.
    pub kernel: String,
    /// What machine it is, as `uname -m` says it.
    pub architecture: String,
    /// Version of `slice` that put the policy in force.
    pub version: String,
    /// When the node came up.
    pub since: Timestamp,
    /// Processors.
    pub cores: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Its addresses that slices share, but those of loopbacks and of one link.
    pub addresses: Vec<IpAddr>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Slices there are and may be; for those who see all.
    pub slices: Option<Used>,
}

/// `/v1/slices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Slices<'a> {
    /// When the maps were read.
    time: Timestamp,
    /// As in `slice status -o json`.
    rows: &'a [Row],
    /// The sum of all rows; for those who see all.
    total: Option<&'a Total>,
}

/// `/v1/links`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Links {
    /// When they were read.
    time: Timestamp,
    /// As in `slice link -o json`.
    links: Vec<Link>,
}

/// `/v1/drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Drops {
    /// When the maps were read.
    time: Timestamp,
    /// The most frequent of each owner first; what never happened is absent.
    drops: Vec<Drop>,
}

/// Denied calls and dropped packets of one owner for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Drop {
    /// Whose.
    slice: Owner,
    /// Slug of the reason.
    reason: &'static str,
    /// The reason as a sentence.
    sentence: &'static str,
    /// How many.
    count: u64,
}

/// An answer: its form and its body.
pub type Told = (Content, Vec<u8>);

/// Answers a question of a slice.
///
/// # Errors
/// It is refused; or, within, the node cannot be read.
pub fn answer(
    source: &mut impl Source,
    viewer: &Viewer,
    ask: &Ask,
) -> anyhow::Result<Result<Told, Refusal>> {
    let Some(sight) = source.sight(viewer)? else {
        return Ok(Err(Refusal::Gone));
    };
    match ask {
        Ask::Node => Ok(Ok(json(&attributes(source, sight)?)?)),
        Ask::Ports => {
            let owner = (sight == Sight::Own).then_some(viewer.name.as_str());
            let ports = source.ports()?.clone().only(owner, None);
            Ok(Ok(json(&ports)?))
        }
        Ask::Links => {
            let (time, links) = links(source, viewer, sight)?;
            Ok(Ok(json(&Links { time, links })?))
        }
        Ask::LinksPast { seconds, most } => {
            let of = (sight == Sight::Own).then_some(viewer.id);
            Ok(Ok(json(&source.links_past(of, *seconds, *most)?)?))
        }
        Ask::Events { after } => {
            let of = (sight == Sight::Own).then_some(viewer.id);
            let news = source.events(of, *after);
            let content = Content::Events {
                next: news.next,
                more: news.more,
            };
            Ok(Ok((content, server_sent(&news.items)?)))
        }
        Ask::Slicestat(max_age) => {
            let text = slicestat(source, viewer, sight, *max_age)?;
            Ok(Ok((Content::Lines, text.into_bytes())))
        }
        Ask::Rows(form) => {
            let (node, links) = match form {
                Form::Metrics(_) => {
                    let (_, links) = links(source, viewer, sight)?;
                    (Some(attributes(source, sight)?), links)
                }
                _ => (None, Vec::new()),
            };
            if sight == Sight::All {
                let status = source.all()?;
                let total = Some(&status.total);
                return told(
                    form,
                    (node.as_ref(), &links),
                    (status.time, &status.rows, total),
                );
            }
            let (time, row) = source.own(viewer)?;
            told(form, (node.as_ref(), &links), (time, &[row], None))
        }
    }
}

/// The links, with the rows that may be seen.
fn links(
    source: &mut impl Source,
    viewer: &Viewer,
    sight: Sight,
) -> anyhow::Result<(Timestamp, Vec<Link>)> {
    let (time, links) = source.links()?;
    let is_seen = |id| sight == Sight::All || id == viewer.id;
    // Picked before it is copied: there may be thousands of others.
    let links = links.iter().map(|link| Link {
        name: link.name.clone(),
        rows: link
            .rows
            .iter()
            .filter(|row| is_seen(row.owner.id))
            .cloned()
            .collect(),
        ..*link
    });
    Ok((*time, links.collect()))
}

fn attributes(source: &mut impl Source, sight: Sight) -> anyhow::Result<Attributes> {
    let attributes = source.attributes()?;
    Ok(Attributes {
        slices: attributes.slices.filter(|_| sight == Sight::All),
        ..attributes
    })
}

/// Events as browsers read them. What was lost has no place to go on after.
fn server_sent(items: &[Item]) -> anyhow::Result<Vec<u8>> {
    let mut text = String::new();
    for item in items {
        let cursor = match item {
            Item::Event(event) => Some(event.cursor),
            Item::Happened(happening) => Some(happening.cursor),
            Item::Lost(_) => None,
        };
        if let Some(cursor) = cursor {
            writeln!(text, "id: {cursor}")?;
        }
        // JSON has no line ends of its own.
        writeln!(text, "data: {}\n", serde_json::to_string(item)?)?;
    }
    Ok(text.into_bytes())
}

/// The table: of all, one that was made before may do.
fn slicestat(
    source: &mut impl Source,
    viewer: &Viewer,
    sight: Sight,
    max_age: u32,
) -> anyhow::Result<String> {
    let all = sight == Sight::All;
    if all && let Some(table) = source.table(max_age) {
        return Ok(table.to_owned());
    }
    let node = source.attributes()?;
    let machine = Machine {
        cores: node.cores,
        memory_bytes: node.memory_bytes,
        address: node
            .addresses
            .first()
            .map_or_else(|| "0.0.0.0".to_owned(), ToString::to_string),
    };
    let rows = if all {
        source.all()?.rows.clone()
    } else {
        vec![source.own(viewer)?.1]
    };
    let table = slicestat::table(&machine, &rows, |row| {
        let counters = history::Counters {
            sent: row.external.sent.bytes,
            received: row.external.received.bytes,
            cpu_us: row.cpu.map_or(0, |cpu| cpu.used_us),
        };
        source.averages(row.id, counters)
    });
    if all {
        source.keep_table(&table);
    }
    Ok(table)
}

/// What is told of the rows that may be seen.
fn told(
    form: &Form,
    (node, links): (Option<&Attributes>, &[Link]),
    (time, rows, total): (Timestamp, &[Row], Option<&Total>),
) -> anyhow::Result<Result<Told, Refusal>> {
    let told = match form {
        Form::All => json(&Slices { time, rows, total })?,
        Form::One(name) => match rows.iter().find(|row| row.name == *name) {
            Some(row) => json(row)?,
            None => return Ok(Err(Refusal::NoSuchSlice)),
        },
        Form::Drops => json(&drops(time, rows))?,
        Form::Metrics(exposition) => {
            let text = openmetrics::render(*exposition, node, rows, links);
            (Content::Metrics(*exposition), text.into_bytes())
        }
    };
    Ok(Ok(told))
}

fn drops(time: Timestamp, rows: &[Row]) -> Drops {
    let of_row = |row: &Row| {
        let slice = Owner {
            id: row.id,
            name: Some(row.name.clone()),
        };
        let drop = move |(reason, count): (Reason, u64)| Drop {
            slice: slice.clone(),
            reason: reason.slug(),
            sentence: reason.sentence(),
            count,
        };
        row.denials.reasons().into_iter().map(drop)
    };
    Drops {
        time,
        drops: rows.iter().flat_map(of_row).collect(),
    }
}

fn json(document: &impl Serialize) -> anyhow::Result<Told> {
    Ok((Content::Json, serde_json::to_vec(document)?))
}

#[cfg(test)]
pub(crate) mod tests;
