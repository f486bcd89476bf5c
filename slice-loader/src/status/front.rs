//! The process that takes connections of slices and parses what they write. It
//! has no right and no file; it was handed two sockets, and gets listeners by
//! one of them and answers by the other. When the daemon ends, it ends.

use std::collections::HashMap;
use std::io;
use std::io::IoSliceMut;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::body::Bytes;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::confine;
use super::http::{self, Client};
use super::problem::Problem;
use super::quota::{self, Bucket};
use super::room::Room;
use super::wire::{self, Answer, Ask, Content, Notice, Question, Viewer};
use crate::sys::process;
use crate::sys::readable::Readable;

/// Questions that wait to be written.
const QUEUE: usize = 256;

/// After a connection that could not be taken.
const AGAIN: Duration = Duration::from_secs(1);

type Reply = Result<(Content, Bytes), Problem>;

/// Runs until the daemon ends.
///
/// # Errors
/// It was not started by the daemon, or cannot give up what it has.
pub fn run() -> anyhow::Result<()> {
    let notices = rustix::stdio::stdin().try_clone_to_owned()?;
    let stream = StdStream::from(rustix::stdio::stdout().try_clone_to_owned()?);
    stream.set_nonblocking(true)?;
    open_many();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?;
    confine::give_up()?;
    runtime.block_on(serve(notices, stream))
}

/// As many descriptors as this process may have: each slice needs a few.
pub fn open_many() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // With fewer, the last slices are not served.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

pub(super) async fn serve(notices: OwnedFd, stream: StdStream) -> anyhow::Result<()> {
    let (read, write) = UnixStream::from_std(stream)?.into_split();
    let (asker, questions) = Asker::new();
    let mut listeners = Listening {
        asker: asker.clone(),
        more: Arc::new(Semaphore::new(quota::MORE)),
        by_key: HashMap::new(),
    };
    tokio::select! {
        ended = listeners.follow(notices) => ended.context("hear of listeners"),
        ended = write_questions(questions, write) => ended.context("ask the daemon"),
        ended = asker.read_answers(read) => ended.context("hear from the daemon"),
    }
}

/// Asks the daemon.
#[derive(Clone, Debug)]
pub struct Asker {
    waiting: Arc<Mutex<Waiting>>,
    room: Room,
    streams: Arc<Semaphore>,
    to_daemon: mpsc::Sender<(Question, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    replies: HashMap<u64, Place>,
}

/// Where an answer is waited for, and the room that its slice has for it.
#[derive(Debug)]
struct Place {
    reply: oneshot::Sender<Reply>,
    room: Room,
}

impl Asker {
    pub(super) fn new() -> (Self, mpsc::Receiver<(Question, Vec<u8>)>) {
        let (to_daemon, questions) = mpsc::channel(QUEUE);
        let asker = Self {
            waiting: Arc::default(),
            room: Room::of_all(),
            streams: Arc::new(Semaphore::new(quota::STREAMS.1)),
            to_daemon,
        };
        (asker, questions)
    }

    /// The daemon's answer, in the room of the slice; none where it gives none.
    pub async fn ask(&self, viewer: Viewer, ask: Ask, room: Room) -> Option<Reply> {
        self.ask_with(viewer, ask, Vec::new(), room).await
    }

    /// The same to a question with a body.
    pub async fn ask_with(
        &self,
        viewer: Viewer,
        ask: Ask,
        body: Vec<u8>,
        room: Room,
    ) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        let number = self.with(|waiting| {
            waiting.last += 1;
            waiting.replies.insert(waiting.last, Place { reply, room });
            waiting.last
        });
        // Also when whoever waits is dropped.
        let _forget = Forget {
            asker: self,
            number,
        };
        let question = Question {
            number,
            viewer,
            ask,
        };
        self.to_daemon.send((question, body)).await.ok()?;
        answer.await.ok()
    }

    /// A place among the streams of all.
    pub fn stream(&self) -> Option<OwnedSemaphorePermit> {
        self.streams.clone().try_acquire_owned().ok()
    }

    pub(super) async fn read_answers(&self, mut from: OwnedReadHalf) -> anyhow::Result<()> {
        while let Some((answer, length)) = wire::head::<Answer>(&mut from, wire::BODY).await? {
            let place = self.with(|waiting| waiting.replies.remove(&answer.number));
            let Some(Place { reply, room }) = place else {
                // Nobody waits any more.
                wire::skip(&mut from, length).await?;
                continue;
            };
            let result = match (answer.result, self.room.find(&room, length)) {
                (Err(refusal), _) => {
                    wire::skip(&mut from, length).await?;
                    Err(refusal.into())
                }
                (Ok(content), Some(found)) => {
                    let body = wire::body(&mut from, length).await?;
                    Ok((content, found.hold(body)))
                }
                // Others that wait for an answer do not wait for who reads slowly.
                (Ok(_), None) => {
                    wire::skip(&mut from, length).await?;
                    Err(Problem::NoRoom)
                }
            };
            let _ = reply.send(result);
        }
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Waiting) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Forgets a question when it is over.
struct Forget<'a> {
    asker: &'a Asker,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.asker
            .with(|waiting| waiting.replies.remove(&self.number));
    }
}

pub(super) async fn write_questions(
    mut questions: mpsc::Receiver<(Question, Vec<u8>)>,
    mut to: OwnedWriteHalf,
) -> anyhow::Result<()> {
    while let Some((question, body)) = questions.recv().await {
        wire::write(&mut to, &question, &body).await?;
    }
    Ok(())
}

/// The listeners there are, each with a task.
struct Listening {
    asker: Asker,
    /// Places for connections beyond the first of each slice.
    more: Arc<Semaphore>,
    by_key: HashMap<u64, AbortHandle>,
}

impl Listening {
    async fn follow(&mut self, notices: OwnedFd) -> anyhow::Result<()> {
        let notices = Readable::new(notices)?;
        loop {
            while let Some((notice, socket)) = next(notices.as_fd())? {
                match (notice, socket) {
                    (Some(Notice::Listen { key, viewer }), Some(socket)) => {
                        let places = Places::new(self.more.clone());
                        let asker = self.asker.clone();
                        let tcp = StdTcpListener::from(socket);
                        tcp.set_nonblocking(true)?;
                        let task = if tcp.local_addr().is_ok() {
                            let listener = TcpListener::from_std(tcp)?;
                            tokio::spawn(listen(listener, viewer, places, asker))
                        } else {
                            let listener = StdListener::from(OwnedFd::from(tcp));
                            let listener = UnixListener::from_std(listener)?;
                            tokio::spawn(listen(listener, viewer, places, asker))
                        };
                        self.by_key.insert(key, task.abort_handle());
                    }
                    (Some(Notice::Forget { key }), _) => {
                        if let Some(task) = self.by_key.remove(&key) {
                            task.abort();
                        }
                    }
                    (Some(Notice::Listen { .. }), None) => {}
                    // The daemon has ended.
                    (None, _) => return Ok(()),
                }
            }
            notices.wait().await?;
        }
    }
}

/// The next notice, if it is there, with what came along; a notice of nothing
/// is the end.
fn next(from: impl AsFd) -> anyhow::Result<Option<(Option<Notice>, Option<OwnedFd>)>> {
    let mut bytes = [0; wire::NOTICE];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<()>(
        from.as_fd().as_raw_fd(),
        &mut parts,
        Some(&mut space),
        flags,
    ) {
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        message => message?,
    };
    let mut socket = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(rights) = control {
            socket = rights.into_iter().map(process::owned).next();
        }
    }
    let length = message.bytes;
    if length == 0 {
        return Ok(Some((None, socket)));
    }
    Ok(Some((
        Some(serde_json::from_slice(&bytes[..length])?),
        socket,
    )))
}

/// Places for connections of one slice: one is its own, the others are taken of
/// those of all slices.
struct Places {
    first: Arc<Semaphore>,
    of_one: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
}

impl Places {
    fn new(of_all: Arc<Semaphore>) -> Self {
        Self {
            first: Arc::new(Semaphore::new(1)),
            of_one: Arc::new(Semaphore::new(quota::CONNECTIONS - 1)),
            of_all,
        }
    }

    /// A place, until this is dropped.
    fn take(&self) -> Option<[Option<OwnedSemaphorePermit>; 2]> {
        let take = |of: &Arc<Semaphore>| of.clone().try_acquire_owned().ok();
        if let Some(first) = take(&self.first) {
            return Some([Some(first), None]);
        }
        Some([Some(take(&self.of_one)?), Some(take(&self.of_all)?)])
    }
}

/// What connections come by: the socket of a slice, or the node's localhost.
trait Accept: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(UnixListener::accept(self).await?.0)
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(TcpListener::accept(self).await?.0)
    }
}

/// Takes the connections of one slice, at a pace.
async fn listen(listener: impl Accept, viewer: Viewer, places: Places, asker: Asker) {
    let client = Arc::new(Client::new(viewer));
    let mut pace = Bucket::new(quota::ACCEPTED);
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        while let Err(wait) = pace.take(Instant::now()) {
            sleep(wait).await;
        }
        let Ok(stream) = listener.accept().await else {
            sleep(AGAIN).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        match places.take() {
            Some(place) => {
                let (client, asker) = (client.clone(), asker.clone());
                connections.spawn(async move {
                    http::serve(stream, client, asker).await;
                    drop(place);
                });
            }
            None => {
                connections.spawn(http::turn_away(stream));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_a_connection_of_its_own_whatever_others_have() {
        let more = Arc::new(Semaphore::new(10));
        let taken = |places: &Places| std::iter::from_fn(|| places.take()).collect::<Vec<_>>();
        let slices = [(); 3].map(|()| Places::new(more.clone()));
        let held = [&slices[0], &slices[1], &slices[2]].map(taken);
        let counts: Vec<_> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [quota::CONNECTIONS, 4, 1]);
        drop(held);
        assert_eq!(taken(&slices[2]).len(), quota::CONNECTIONS);
    }
}
