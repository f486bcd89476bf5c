//! Who sent what to whom, for slices: looked up beside the other answers, one question
//! after the other, so that nobody waits for a disk, and for half of the time at most.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use policy::config::Prefix;
use tokio::io::AsyncWrite;
use tokio::sync::{Mutex, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::answers::{self, Told};
use super::documents;
use super::parameters::MOST;
use super::quota;
use super::wire::{Answer, Content, FlowsAsk, Refusal};
use crate::flows::{self, Looking, Row, Whose};
use crate::report::flows::{Flow, HOUR_NS, Other, Wanted, time};

/// Questions that wait.
pub const QUEUE: usize = 64;

/// Rows that are looked at for a page: what is told is found by an index, or is thrown
/// away by a filter.
const WORK: usize = 50_000;
/// Rows of a page for who sees its own alone: an answer is small then.
const OF_ONE: u16 = 100;

/// After a question, the pause is as long as the answer took, up to this.
const PAUSE: Duration = Duration::from_secs(2);

/// A question that waits.
#[derive(Debug)]
pub struct Asked {
    /// The question's number.
    pub number: u64,
    /// When it was asked.
    pub at: Instant,
    /// Whose flows are looked at.
    pub whose: Whose,
    /// Which.
    pub flows: Box<FlowsAsk>,
}

/// Answers questions until there are no more.
///
/// # Errors
/// The answer cannot be written.
pub async fn run(
    mut asked: mpsc::Receiver<Asked>,
    to: &Mutex<impl AsyncWrite + Unpin>,
    database: PathBuf,
) -> anyhow::Result<()> {
    while let Some(question) = asked.recv().await {
        let number = question.number;
        // Nobody waits for it any more, and who asked may ask again.
        if question.at.elapsed() >= quota::ANSWER {
            let result = Err(Refusal::Busy);
            answers::write(to, &Answer { number, result }, &[]).await?;
            continue;
        }
        let path = database.clone();
        let start = Instant::now();
        let page = spawn_blocking(move || page(&path, question.whose, &question.flows)).await?;
        let (result, body) = match page {
            Ok((content, body)) => (Ok(content), body),
            Err(error) => {
                tracing::debug!("could not look at flows: {error:#}");
                (Err(Refusal::Unreadable), Vec::new())
            }
        };
        let taken = start.elapsed();
        answers::write(to, &Answer { number, result }, &body).await?;
        sleep(taken.min(PAUSE)).await;
    }
    Ok(())
}

/// A page of the flows.
fn page(database: &std::path::Path, whose: Whose, asked: &FlowsAsk) -> anyhow::Result<Told> {
    let wanted = wanted(asked)?;
    let most = match whose {
        Whose::All => MOST,
        Whose::One(_) => OF_ONE,
    };
    let looking = Looking {
        wanted: &wanted,
        whose,
        after: asked.after,
        most: asked.most.clamp(1, most).into(),
        work: WORK,
    };
    let mut document = documents::Flows {
        flows: Vec::new(),
        others: Vec::new(),
        next: None,
    };
    if let Some(history) = flows::kept_at(database)? {
        let next = history.walk(&looking, &mut |row| match row {
            Row::Flow(owner, flow, tally, span) => {
                let row = Flow::new(owner.name.clone(), flow, tally, span);
                document.flows.push(row);
            }
            Row::Rest(owner, hour, traffic) => {
                let hour = time(hour.saturating_mul(HOUR_NS));
                document
                    .others
                    .push(Other::new(owner.clone(), Some(hour), traffic));
            }
        });
        let next = next.context("read the database of flows")?;
        document.next = next.map(|place| place.to_string());
    }
    let next = document.next.clone();
    Ok((Content::Json { next }, serde_json::to_vec(&document)?))
}

fn wanted(asked: &FlowsAsk) -> anyhow::Result<Wanted> {
    let network = |(address, length): (IpAddr, u8)| {
        let network = Prefix::around(address, length);
        network.map_err(|why| anyhow::anyhow!("understand a network: {why}"))
    };
    Ok(Wanted {
        peer: asked.peer.map(network).transpose()?,
        port: asked.port,
        local_port: asked.local_port,
        protocol: asked.protocol,
        slice: asked.slice.clone(),
        since: asked.since,
        until: asked.until,
    })
}
