//! Events as a browser reads them (server-sent events): the process that parses
//! asks the daemon for what is new, again and again, for as long as it is read.
//!
//! Who does not read is not asked for, and held up by nobody: its connection ends
//! after its time, and when it comes again it is told how much it missed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{Stream, stream};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::front::Asker;
use super::problem::Problem;
use super::room::Room;
use super::wire::{Ask, Content, Viewer};
use crate::report::event::Cursor;

/// Between two questions.
const POLL: Duration = Duration::from_secs(1);
/// The same while there is more than one answer holds.
const MORE: Duration = Duration::from_millis(100);
/// A stream that nobody reads any more is noticed by writing to it.
const BEAT: Duration = Duration::from_secs(5);
const NOTHING: &[u8] = b":\n\n";
/// What a browser is told first: come again after a second.
const FIRST: &[u8] = b"retry: 1000\n\n";

/// A body that comes piece by piece.
pub type Pieces = StreamBody<Pin<Box<dyn Stream<Item = Piece> + Send>>>;
type Piece = Result<Frame<Bytes>, Infallible>;

/// A stream of events, from the asker's view.
#[derive(Debug)]
pub struct Events {
    /// By whom the daemon is asked.
    pub asker: Asker,
    /// In whose name.
    pub viewer: Viewer,
    /// What its answers may take.
    pub room: Room,
    /// What the reader has seen.
    pub after: Option<Cursor>,
    /// Its places among the streams.
    pub places: [OwnedSemaphorePermit; 2],
}

/// One that runs.
struct Running {
    events: Events,
    pause: Duration,
    written: Instant,
}

impl Events {
    /// Asks once, and has the rest asked for when that was read.
    ///
    /// # Errors
    /// The first answer is none.
    pub async fn start(mut self) -> Result<Pieces, Problem> {
        let (body, pause) = self.ask().await?;
        let running = Running {
            events: self,
            pause,
            written: Instant::now(),
        };
        // Each with the room that it takes: none is copied.
        let first = VecDeque::from([Bytes::from_static(FIRST), body]);
        let state = (first, running);
        let pieces = stream::unfold(state, |(mut first, mut running)| async move {
            let piece = match first.pop_front() {
                Some(first) => first,
                None => running.next().await?,
            };
            Some((Ok(Frame::data(piece)), (first, running)))
        });
        Ok(StreamBody::new(Box::pin(pieces)))
    }

    /// What is new, and after which time to ask again.
    async fn ask(&mut self) -> Result<(Bytes, Duration), Problem> {
        let ask = Ask::Events { after: self.after };
        let answer = self.asker.ask(self.viewer.clone(), ask, self.room.clone());
        match answer.await {
            Some(Ok((Content::Events { next, more }, body))) => {
                self.after = next.or(self.after);
                Ok((body, if more { MORE } else { POLL }))
            }
            Some(Err(problem)) => Err(problem),
            _ => Err(Problem::Unavailable),
        }
    }
}

impl Running {
    /// The next piece; none where the daemon gives none.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            sleep(self.pause).await;
            let (body, pause) = self.events.ask().await.ok()?;
            self.pause = pause;
            let piece = if !body.is_empty() {
                body
            } else if self.written.elapsed() > BEAT {
                Bytes::from_static(NOTHING)
            } else {
                continue;
            };
            self.written = Instant::now();
            return Some(piece);
        }
    }
}
