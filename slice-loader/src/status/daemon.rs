//! The daemon's side of the status hooks: it holds the listeners, starts the
//! process that parses, again if that ends, and answers its questions.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, setsockopt, socketpair,
    sockopt,
};
use nix::sys::time::TimeVal;
use rustix::fs::inotify;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex as Shared, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::answers;
use super::answers::Source;
use super::control;
use super::control::orders::{self, Desk, Wanted};
use super::front;
use super::history::{self, History};
use super::looking::{self, Asked};
use super::sockets::{Listener, Listeners};
use super::source::{self, Reading};
use super::wire::{self, Answer, Ask, Content, Notice, Question, Refusal};
use crate::context::shown;
use crate::daemon::Hub;
use crate::flows;
use crate::node::{self, Node};
use crate::report::Owner;
use crate::report::read::{self, LinkSample};
use crate::sys::readable::Readable;

/// Between two looks at the directories, if the kernel gives no notice.
const LOOK: Duration = Duration::from_secs(30);
/// Notices of one start come in bursts: so long after the first.
const SETTLE: Duration = Duration::from_millis(50);
/// A process that does not read for so long is replaced.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before a process that ended is replaced.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest time before that; who lived as long begins anew.
const LONG: Duration = Duration::from_secs(30);
/// What was read is let go of after so long without a question.
const IDLE: Duration = Duration::from_secs(2);

/// Serves the status hooks for as long as the daemon runs, which goes on where they
/// cannot be served.
pub async fn run(history: &Arc<Mutex<History>>, hub: &Hub) {
    front::open_many();
    tokio::select! {
        () = sample(history) => {}
        () = serve_slices(history, hub) => {}
    }
}

/// Keeps what slices carried, for averages.
async fn sample(history: &Mutex<History>) {
    let mut ticks = interval(history::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let read = spawn_blocking(|| {
            let node = Node::open()?;
            anyhow::Ok((read::sample(&node)?, LinkSample::take(&node).ok()))
        });
        match read.await {
            Ok(Ok((sample, links))) => source::lock(history).push(sample, links),
            // That the node is down ends the daemon; else it is tried again.
            Ok(Err(error)) => tracing::debug!("could not read what slices carry: {error:#}"),
            Err(panic) => tracing::warn!("could not read what slices carry: {panic}"),
        }
    }
}

/// Has a process that parses at all times.
async fn serve_slices(history: &Arc<Mutex<History>>, hub: &Hub) {
    let listeners = Arc::new(Mutex::new(Listeners::default()));
    let mut pause = PAUSE;
    loop {
        let start = Instant::now();
        let why = match with_process(&listeners, history, hub).await {
            Ok(()) => String::from("it ended"),
            Err(error) => format!("{error:#}"),
        };
        tracing::warn!("the process that answers slices is started anew: {why}");
        sleep(pause).await;
        // One that never gets far is no reason to fill the log.
        pause = if start.elapsed() > LONG {
            PAUSE
        } else {
            LONG.min(pause * 2)
        };
    }
}

/// The kernel's notices of slices that start and end.
fn watch() -> anyhow::Result<Readable> {
    use inotify::{CreateFlags, WatchFlags};
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .context("ask for notices of directories")?;
    let flags = WatchFlags::CREATE | WatchFlags::DELETE;
    inotify::add_watch(&watch, shown::DIRECTORY, flags)
        .with_context(|| format!("watch {}", shown::DIRECTORY))?;
    // The record is replaced where policy changes, and tells of the page.
    inotify::add_watch(&watch, node::DIRECTORY, WatchFlags::MOVED_TO)
        .with_context(|| format!("watch {}", node::DIRECTORY))?;
    Readable::new(watch).context("wait for notices of directories")
}

/// One process's life.
async fn with_process(
    listeners: &Arc<Mutex<Listeners>>,
    history: &Arc<Mutex<History>>,
    hub: &Hub,
) -> anyhow::Result<()> {
    shown::make_top()?;
    let watch = watch()?;
    let Process {
        mut child,
        notices,
        stream,
    } = Process::start()?;
    let reading = Reading::new(history.clone(), hub.clone());
    let notices = Arc::new(notices);
    let ended = async {
        let (read, write) = stream.into_split();
        // Those that an earlier process had: this one was told of none.
        let come = lock(listeners).all();
        tell(&notices, come, Vec::new()).await?;
        tokio::select! {
            ended = follow(listeners, &notices, &watch, hub) => ended.context("follow the slices"),
            ended = serve(read, write, reading, (flows::database(), Desk::of_node(hub.clone()))) => ended.context("answer"),
        }
    }
    .await;
    // It may be alive, and not reading.
    let _ = child.kill();
    let _ = spawn_blocking(move || child.wait()).await;
    ended
}

/// A process that parses.
struct Process {
    child: Child,
    notices: OwnedFd,
    stream: UnixStream,
}

impl Process {
    fn start() -> anyhow::Result<Self> {
        let pair = |kind| {
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)
                .context("make a pair of sockets")
        };
        let (notices, its_notices) = pair(SockType::SeqPacket)?;
        let (stream, its_stream) = pair(SockType::Stream)?;
        let patience = TimeVal::new(i64::try_from(PATIENCE.as_secs())?, 0);
        setsockopt(&notices, sockopt::SendTimeout, &patience).context("bound a wait")?;
        let stream = StdStream::from(stream);
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let child = Command::new("/proc/self/exe")
            .arg0("slice")
            .arg("status-front")
            .env_clear()
            .current_dir("/")
            .stdin(its_notices)
            .stdout(its_stream)
            .spawn()
            .context("start the process that answers slices")?;
        Ok(Self {
            child,
            notices,
            stream,
        })
    }
}

/// Tells the process of slices that start and end.
async fn follow(
    listeners: &Arc<Mutex<Listeners>>,
    notices: &Arc<OwnedFd>,
    watch: &Readable,
    hub: &Hub,
) -> anyhow::Result<()> {
    loop {
        let there = listeners.clone();
        let change = spawn_blocking(move || lock(&there).follow()).await?;
        match change {
            Ok(change) => {
                for (viewer, what) in change.happened() {
                    let owner = Owner {
                        id: viewer.id,
                        name: Some(viewer.name.clone()),
                    };
                    hub.tell(owner, what);
                }
                let gone = change.gone.iter().map(|(key, _)| *key).collect();
                tell(notices, change.come, gone).await?;
            }
            // That the node is down ends the daemon; else it is tried again.
            Err(error) => tracing::debug!("could not follow the slices: {error:#}"),
        }
        if let Ok(waited) = timeout(LOOK, watch.wait()).await {
            waited?;
            sleep(SETTLE).await;
        }
        // What they say is seen in the directories.
        let mut buffer = [0; 4096];
        while rustix::io::read(watch, &mut buffer[..]).is_ok_and(|length| length > 0) {}
    }
}

async fn tell(notices: &Arc<OwnedFd>, come: Vec<Listener>, gone: Vec<u64>) -> anyhow::Result<()> {
    let notices = notices.clone();
    spawn_blocking(move || {
        for key in gone {
            send(&notices, &Notice::Forget { key }, None)?;
        }
        for listener in come {
            let Listener {
                key,
                viewer,
                socket,
                ..
            } = listener;
            send(
                &notices,
                &Notice::Listen { key, viewer },
                Some(socket.as_fd()),
            )?;
        }
        Ok(())
    })
    .await?
}

/// Waits where there is no room, but not for ever.
fn send(notices: &OwnedFd, notice: &Notice, socket: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(notice)?;
    let descriptors = socket.map(|socket| [socket.as_raw_fd()]);
    let rights = descriptors
        .as_ref()
        .map(|descriptors| [ControlMessage::ScmRights(descriptors)]);
    sendmsg::<()>(
        notices.as_raw_fd(),
        &[IoSlice::new(&bytes)],
        rights.as_ref().map_or(&[], |rights| &rights[..]),
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .context("hand over a listener")?;
    Ok(())
}

/// Answers one question after the other until the process ends; those about flows, and what slices
/// want done, beside the others.
pub(super) async fn serve(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    source: impl Source + Send + 'static,
    (database, desk): (PathBuf, Desk),
) -> anyhow::Result<()> {
    let to = Shared::new(to);
    let (looks, to_look) = mpsc::channel(looking::QUEUE);
    let (orders, to_do) = mpsc::channel(orders::AT_ONCE);
    let beside = Beside {
        looks,
        orders,
        desk: desk.clone(),
    };
    tokio::select! {
        ended = answer_all(from, &to, source, beside) => ended,
        ended = looking::run(to_look, &to, database) => ended,
        ended = desk.run(to_do, &to) => ended,
    }
}

/// Who answers beside.
struct Beside {
    looks: mpsc::Sender<Asked>,
    orders: mpsc::Sender<Wanted>,
    desk: Desk,
}

async fn answer_all(
    mut from: OwnedReadHalf,
    to: &Shared<OwnedWriteHalf>,
    mut source: impl Source + Send + 'static,
    beside: Beside,
) -> anyhow::Result<()> {
    loop {
        // Not while a question is half read: only before its first octet.
        if timeout(IDLE, from.readable()).await.is_err() {
            source.forget();
            from.readable().await?;
        }
        let Some((question, body)) = wire::read::<Question>(&mut from, control::BODY).await? else {
            return Ok(());
        };
        let number = question.number;
        let desk = beside.desk.clone();
        let (back, reply) = spawn_blocking(move || {
            let reply = reply(&mut source, &desk, question, body);
            (source, reply)
        })
        .await?;
        source = back;
        let (result, body) = match reply {
            Reply::Now(Ok((content, body))) => (Ok(content), body),
            Reply::Now(Err(refusal)) => (Err(refusal), Vec::new()),
            Reply::Look(asked) => match beside.looks.try_send(asked) {
                Ok(()) => continue,
                Err(_) => (Err(Refusal::Busy), Vec::new()),
            },
            Reply::Do(wanted) => match beside.orders.try_send(wanted) {
                Ok(()) => continue,
                Err(_) => (Err(Refusal::Doing), Vec::new()),
            },
        };
        answers::write(to, &Answer { number, result }, &body).await?;
    }
}

/// What is made of a question.
enum Reply {
    Now(Result<(Content, Vec<u8>), Refusal>),
    Look(Asked),
    Do(Wanted),
}

fn reply(source: &mut impl Source, desk: &Desk, question: Question, body: Vec<u8>) -> Reply {
    let Question {
        number,
        viewer,
        ask,
    } = question;
    let unreadable = |what: &dyn std::fmt::Debug, error: &anyhow::Error| {
        tracing::debug!(slice = viewer.name, "could not answer {what:?}: {error:#}");
        Reply::Now(Err(Refusal::Unreadable))
    };
    match ask {
        Ask::Flows(flows) => match source.whose(&viewer) {
            Ok(Some(whose)) => Reply::Look(Asked {
                number,
                at: Instant::now(),
                whose,
                flows,
            }),
            Ok(None) => Reply::Now(Err(Refusal::Gone)),
            Err(error) => unreadable(&flows, &error),
        },
        Ask::Control(order) if order.changes() => Reply::Do(Wanted {
            number,
            viewer,
            order,
            body,
        }),
        Ask::Control(order) => Reply::Now(Ok(desk.answer(&viewer, &order, &[]))),
        ask => match answers::answer(source, &viewer, &ask) {
            Ok(told) => Reply::Now(told),
            Err(error) => unreadable(&ask, &error),
        },
    }
}

fn lock(listeners: &Mutex<Listeners>) -> std::sync::MutexGuard<'_, Listeners> {
    // A panic within leaves at worst a listener too few, which is made anew.
    listeners.lock().unwrap_or_else(PoisonError::into_inner)
}
