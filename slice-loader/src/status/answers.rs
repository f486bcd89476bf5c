//! What a slice is told: the grants are applied here, and nowhere else.
//!
//! There is one gate: [`answer`] takes the rows and ports that the asker may
//! see, and everything that is told is made of these.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use policy::abi::Denials;
use policy::verdict::Reason;
use serde::Serialize;
use tokio::io::AsyncWrite;
use tokio::sync::Mutex;
use tokio::time::{Duration, timeout};

use super::history::Average;
use super::slicestat::{self, Machine};
use super::wire::{self, Answer, Ask, Content, Form, Refusal, Viewer};
use super::{history, openmetrics, parameters};
use crate::daemon::News;
use crate::flows::Whose;
use crate::report::event::{Cursor, Item};
use crate::report::policies::Policies;
use crate::report::status::{Row, Total};
use crate::report::{Link, LinksPast, Port, Ports, Status, Used};

pub mod lists; // page by page

/// A process that does not read for so long is replaced.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// Names and ids of all owners: the node, the slices by name, the unattributed.
    ///
    /// # Errors
    /// As above.
    fn owners(&mut self) -> anyhow::Result<Vec<(String, u32)>>;
    /// The row of this owner alone.
    ///
    /// # Errors
    /// As above.
    fn row(&mut self, name: &str, id: u32) -> anyhow::Result<(Timestamp, Arc<Row>)> {
        let mut rows = self.rows(&[(name, id)])?;
        rows.pop().context("its row was read")
    }
    /// The rows of these owners, in this order, and when each was read.
    ///
    /// # Errors
    /// As above.
    fn rows(&mut self, owners: &[(&str, u32)]) -> anyhow::Result<Vec<(Timestamp, Arc<Row>)>>;
    /// The sum of all rows.
    ///
    /// # Errors
    /// As above.
    fn total(&mut self) -> anyhow::Result<Total>;
    /// What owners were denied: of all, or of one alone.
    ///
    /// # Errors
    /// As above.
    fn denials(&mut self, of: Option<(&str, u32)>) -> anyhow::Result<lists::OfOwners<Denials>>;
    /// What policy is in force; none where that is not known.
    ///
    /// # Errors
    /// As above.
    fn policies(&mut self) -> anyhow::Result<Option<&Policies>>;
    /// Whose flows this asker may see; none if it is no slice of the node.
    ///
    /// # Errors
    /// As above.
    fn whose(&mut self, viewer: &Viewer) -> anyhow::Result<Option<Whose>>;
    /// Lets go of all that is stale.
    fn forget(&mut self) {}
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
#[cfg_attr(test, derive(serde::Deserialize, schemars::JsonSchema))]
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
    let seen = lists::Seen { viewer, sight };
    match ask {
        Ask::Node => Ok(Ok(json(&attributes(source, sight)?)?)),
        Ask::Slices { kind, part } => Ok(Ok(lists::slices(source, seen, *kind, part)?)),
        Ask::Ports {
            slice,
            protocol,
            kind,
            port,
            part,
        } => {
            let wanted = |row: &Port| {
                protocol.is_none_or(|protocol| row.protocol == protocol)
                    && kind.is_none_or(|kind| row.kind == kind)
                    && port.is_none_or(|port| (row.low..=row.high).contains(&port))
            };
            let slice = slice.as_deref();
            Ok(Ok(lists::ports(source, seen, slice, wanted, part)?))
        }
        Ask::Links { link, slice, part } => {
            let wanted = (link.as_deref(), slice.as_deref());
            Ok(Ok(lists::links(source, seen, wanted, part)?))
        }
        Ask::LinksPast { seconds, most } => {
            let of = (sight == Sight::Own).then_some(viewer.id);
            // The question may come from a process that was taken over.
            let most = (*most).min(parameters::MOST.into());
            Ok(Ok(json(&source.links_past(of, *seconds, most)?)?))
        }
        Ask::Drops {
            slice,
            reason,
            part,
        } => {
            let reason = reason.and_then(Reason::from_number);
            let wanted = (slice.as_deref(), reason);
            Ok(Ok(lists::drops(source, seen, wanted, part)?))
        }
        Ask::Policy { slice, part } => lists::policy(source, seen, slice.as_deref(), part),
        Ask::Flows(_) | Ask::Control(_) => anyhow::bail!("it is answered beside this"),
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
        Ask::Rows(Form::One(name)) => {
            let id = match sight {
                Sight::Own => (*name == viewer.name).then_some(viewer.id),
                Sight::All => {
                    let owners = source.owners()?;
                    let owner = owners.iter().find(|(known, _)| known == name);
                    owner.map(|(_, id)| *id)
                }
            };
            match id {
                Some(id) => Ok(Ok(json(&*source.row(name, id)?.1)?)),
                None => Ok(Err(Refusal::NoSuchSlice)),
            }
        }
        Ask::Rows(Form::Metrics(exposition)) => {
            let (_, links) = links(source, viewer, sight)?;
            let node = Some(attributes(source, sight)?);
            let text = match sight {
                Sight::All => {
                    let rows = &source.all()?.rows;
                    openmetrics::render(*exposition, node.as_ref(), rows, &links)
                }
                Sight::Own => {
                    let (_, row) = source.row(&viewer.name, viewer.id)?;
                    openmetrics::render(
                        *exposition,
                        node.as_ref(),
                        std::slice::from_ref(&*row),
                        &links,
                    )
                }
            };
            Ok(Ok((Content::Metrics(*exposition), text.into_bytes())))
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

/// Hands an answer to the process that asked.
///
/// # Errors
/// It does not read.
pub async fn write(
    to: &Mutex<impl AsyncWrite + Unpin>,
    answer: &Answer,
    body: &[u8],
) -> anyhow::Result<()> {
    let mut to = to.lock().await;
    timeout(PATIENCE, wire::write(&mut *to, answer, body))
        .await
        .context("it does not read")??;
    Ok(())
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
            Item::LeftOut(_) | Item::Lost(_) => None,
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
        vec![Row::clone(&*source.row(&viewer.name, viewer.id)?.1)]
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

/// A document, and its next page if there is one.
fn paged(document: &impl Serialize, next: Option<&String>) -> anyhow::Result<Told> {
    let content = Content::Json {
        next: next.cloned(),
    };
    Ok((content, serde_json::to_vec(document)?))
}

fn json(document: &impl Serialize) -> anyhow::Result<Told> {
    paged(document, None)
}

#[cfg(test)]
pub(crate) mod tests;
