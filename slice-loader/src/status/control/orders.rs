//! The daemon's side: what may be asked for is decided in [`crate::node::control`]; here is how it is
//! answered, and that it is done beside all other answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use hyper::StatusCode;
use policy::config::{SliceName, Terms};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::{Order, documents, process};
use crate::cli::exit::Failure;
use crate::daemon::Hub;
use crate::node::control::{self, Controller, Done, Listed, Refused, Shown, When};
use crate::node::control_log::Act;
use crate::node::{Node, NotUp};
use crate::report::Owner;
use crate::report::happening::What;
use crate::status::answers::{self, Told};
use crate::status::problem::Document;
use crate::status::wire::{Answer, Content, Refusal, Viewer};

/// Slices that may have something done at once: more would only wait for the lock.
pub const AT_ONCE: usize = 4;

/// Who does it: see the functions of the same names in [`control`].
pub trait Steps: Send + Sync {
    /// Whether this slice may have anything done.
    ///
    /// # Errors
    /// It may not; likewise below.
    fn granted(&self, who: &Controller) -> anyhow::Result<()>;
    /// Its slices, and what it has left.
    ///
    /// # Errors
    /// As above.
    fn list(&self, who: &Controller) -> anyhow::Result<Listed>;
    /// One of them.
    ///
    /// # Errors
    /// As above.
    fn show(&self, who: &Controller, name: &str) -> anyhow::Result<Shown>;
    /// Makes or changes one.
    ///
    /// # Errors
    /// As above.
    fn put(
        &self,
        who: &Controller,
        name: &SliceName,
        terms: Terms,
        when: When,
    ) -> anyhow::Result<Done>;
    /// Takes one off the node.
    ///
    /// # Errors
    /// As above.
    fn destroy(&self, who: &Controller, name: &SliceName, when: When) -> anyhow::Result<Done>;
    /// Starts or stops one.
    ///
    /// # Errors
    /// As above.
    fn act(&self, who: &Controller, name: &SliceName, act: Act) -> anyhow::Result<Done>;
}

/// The node's own. What changes something needs a process with one thread.
#[derive(Debug)]
pub struct OfNode;

impl Steps for OfNode {
    fn granted(&self, who: &Controller) -> anyhow::Result<()> {
        control::granted(Node::open()?.record(), who)
    }

    fn list(&self, who: &Controller) -> anyhow::Result<Listed> {
        control::list(who)
    }

    fn show(&self, who: &Controller, name: &str) -> anyhow::Result<Shown> {
        control::show(who, name)
    }

    fn put(
        &self,
        who: &Controller,
        name: &SliceName,
        terms: Terms,
        when: When,
    ) -> anyhow::Result<Done> {
        control::put(who, name, terms, when)
    }

    fn destroy(&self, who: &Controller, name: &SliceName, when: When) -> anyhow::Result<Done> {
        control::destroy(who, name, when)
    }

    fn act(&self, who: &Controller, name: &SliceName, act: Act) -> anyhow::Result<Done> {
        control::act(who, name, act)
    }
}

/// What was done, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Status of the answer.
    pub status: u16,
    /// Generation of the slice.
    pub generation: Option<u64>,
    /// The document.
    pub body: String,
    /// What is told to those who follow events: the slice's id and name.
    pub happened: Option<(u32, String, What)>,
}

/// Where orders go.
#[derive(Clone)]
pub struct Desk {
    steps: Arc<dyn Steps>,
    /// Whether changes are made by processes of their own.
    apart: bool,
    hub: Hub,
}

/// An order that waits.
#[derive(Debug)]
pub struct Wanted {
    /// The question's number.
    pub number: u64,
    /// Who asks.
    pub viewer: Viewer,
    /// For what.
    pub order: Order,
    /// The terms of the slice.
    pub body: Vec<u8>,
}

impl Desk {
    /// Of the node; what is done is told here.
    #[must_use]
    pub fn of_node(hub: Hub) -> Self {
        Self {
            steps: Arc::new(OfNode),
            apart: true,
            hub,
        }
    }

    /// Of whoever does it, here.
    #[must_use]
    pub fn new(steps: Arc<dyn Steps>, hub: Hub) -> Self {
        Self {
            steps,
            apart: false,
            hub,
        }
    }

    /// Takes orders until there are no more, several at once, one of each slice; each is answered when
    /// it is done, whatever else is asked or not.
    ///
    /// # Errors
    /// The answer cannot be written. What was begun is brought to its end.
    pub async fn run(
        &self,
        mut wanted: mpsc::Receiver<Wanted>,
        to: &Mutex<impl AsyncWrite + Unpin>,
    ) -> anyhow::Result<()> {
        let mut doing = JoinSet::<(u32, u64, Told)>::new();
        // The ids of those for whom something is being done.
        let mut busy = BTreeSet::new();
        loop {
            let next = tokio::select! {
                Some(ended) = doing.join_next() => {
                    let (id, number, (content, told)) = ended?;
                    busy.remove(&id);
                    let result = Ok(content);
                    answers::write(to, &Answer { number, result }, &told).await?;
                    continue;
                }
                next = wanted.recv() => next,
            };
            let Some(Wanted {
                number,
                viewer,
                order,
                body,
            }) = next
            else {
                return Ok(());
            };
            if busy.len() >= AT_ONCE || !busy.insert(viewer.id) {
                let result = Err(Refusal::Doing);
                answers::write(to, &Answer { number, result }, &[]).await?;
                continue;
            }
            let desk = self.clone();
            doing.spawn_blocking(move || (viewer.id, number, desk.answer(&viewer, &order, &body)));
        }
    }

    /// Has done what is asked; the answer's form and body.
    #[must_use]
    pub fn answer(&self, viewer: &Viewer, order: &Order, body: &[u8]) -> Told {
        let outcome = if self.apart && order.changes() {
            process::have_done(viewer, order, body)
                .unwrap_or_else(|error| refused(&error, viewer, order))
        } else {
            answer(&*self.steps, viewer, order, body)
        };
        if let Some((id, name, what)) = outcome.happened {
            let name = Some(name);
            self.hub.tell(Owner { id, name }, what);
        }
        let content = Content::Control {
            status: outcome.status,
            generation: outcome.generation,
        };
        (content, outcome.body.into_bytes())
    }
}

/// Does what is asked.
#[must_use]
pub fn answer(steps: &dyn Steps, viewer: &Viewer, order: &Order, body: &[u8]) -> Outcome {
    done(steps, viewer, order, body).unwrap_or_else(|error| refused(&error, viewer, order))
}

fn done(steps: &dyn Steps, viewer: &Viewer, order: &Order, body: &[u8]) -> anyhow::Result<Outcome> {
    let who = Controller {
        name: viewer.name.clone(),
        id: viewer.id,
    };
    // Checked here again: who parses may have been taken over.
    let name = |text: &str| SliceName::new(text).map_err(|_| Refused::NoSuchSlice);
    let (name, done, what) = match order {
        Order::May => {
            steps.granted(&who)?;
            return told(StatusCode::OK, None, &());
        }
        Order::List => {
            let listed = documents::Control::from(steps.list(&who)?);
            return told(StatusCode::OK, None, &listed);
        }
        Order::Show(text) => {
            let slice = documents::Slice::from(steps.show(&who, text)?);
            return told(StatusCode::OK, Some(slice.generation), &slice);
        }
        Order::Put { name: text, when } => {
            let terms: Terms = serde_json::from_slice(body)?;
            let done = steps.put(&who, &name(text)?, terms, *when)?;
            let what = if done.created {
                What::Created
            } else {
                What::Changed
            };
            (text, done, Some(what))
        }
        Order::Destroy { name: text, when } => {
            let done = steps.destroy(&who, &name(text)?, *when)?;
            (text, done, Some(What::Destroyed))
        }
        // That its context starts and ends is told by those who see it.
        Order::Live { name: text, act } => (text, steps.act(&who, &name(text)?, *act)?, None),
    };
    let what = what.filter(|_| done.changed);
    let happened = what.and_then(|what| Some((done.id?, name.clone(), what)));
    let status = if done.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let generation = done.slice.as_ref().map(|slice| slice.generation);
    Ok(Outcome {
        happened,
        ..told(status, generation, &documents::Done::from(done))?
    })
}

fn told(
    status: StatusCode,
    generation: Option<u64>,
    document: &impl Serialize,
) -> anyhow::Result<Outcome> {
    Ok(Outcome {
        status: status.as_u16(),
        generation,
        body: serde_json::to_string(document)?,
        happened: None,
    })
}

fn refused(error: &anyhow::Error, viewer: &Viewer, order: &Order) -> Outcome {
    let problem = problem(error, viewer, order);
    Outcome {
        status: problem.status,
        generation: None,
        body: serde_json::to_string(&problem).unwrap_or_default(),
        happened: None,
    }
}

fn problem(error: &anyhow::Error, viewer: &Viewer, order: &Order) -> Document {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        let status = match refused {
            Refused::NotGranted => StatusCode::FORBIDDEN,
            Refused::NoSuchSlice => StatusCode::NOT_FOUND,
            Refused::Taken(_) => StatusCode::CONFLICT,
            Refused::Changed(_) => StatusCode::PRECONDITION_FAILED,
            Refused::Objections(all) => return Document::of(all.clone()),
        };
        return Document::new(status, refused.to_string());
    }
    tracing::warn!(slice = viewer.name, "could not do {order:?}: {error:#}");
    if error.is::<NotUp>() {
        return Document::new(StatusCode::SERVICE_UNAVAILABLE, "The node is not up.");
    }
    // What the node's owner is told names files and others' slices.
    let what = match error.downcast_ref::<Failure>() {
        Some(_) => "The node could not do it; its owner is told why.",
        None => "The node could not do it.",
    };
    Document::new(StatusCode::INTERNAL_SERVER_ERROR, what)
}
