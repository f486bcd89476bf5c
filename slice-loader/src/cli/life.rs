//! `slice start`, `stop`, `restart`, `freeze`, `thaw`, `destroy`: for each slice
//! named, some at a time.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use super::exit::{self, Exit, Failure};
use super::screen::Screen;
use super::{DestroyArgs, LifeArgs};
use crate::node::Node;
use crate::node::contexts::{self, State, States};

/// So many slices are worked on with the node's state read once and the lock
/// held, which others wait for; of those that are stopped each takes a
/// descriptor.
const AT_A_TIME: usize = 32;

/// What is to become of a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    Start,
    Stop,
    Restart,
    Freeze,
    Thaw,
    Destroy,
}

impl Life {
    fn of(self, names: &[String]) -> anyhow::Result<States> {
        match self {
            Self::Start => contexts::start(names),
            Self::Stop => contexts::stop(names),
            Self::Restart => contexts::restart(names),
            Self::Freeze => contexts::freeze(names, true),
            Self::Thaw => contexts::freeze(names, false),
            Self::Destroy => contexts::destroy(names),
        }
    }
}

#[derive(Serialize)]
struct Did<'a> {
    slice: &'a str,
    did: State,
}

/// Removes slices' files, if that is meant.
pub(super) fn destroy(args: &DestroyArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    if args.yes {
        return run(Life::Destroy, &args.which, screen);
    }
    let which = if args.which.all {
        "every slice".to_owned()
    } else {
        args.which.slices.join(", ")
    };
    let message = format!("destroy {which}: all that is on disk would be lost");
    Err(Failure::new(Exit::Usage, message)
        .remedy("say --yes if that is meant")
        .into())
}

/// Does it for each slice; one that fails does not keep the others. Ends with
/// the exit code of the first failure.
pub(super) fn run(life: Life, args: &LifeArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let node = Node::open()?;
    let names: Vec<String> = if args.all {
        node.record().contexts.keys().cloned().collect()
    } else {
        args.slices.clone()
    };
    let mut worst = Exit::Ok;
    for names in names.chunks(AT_A_TIME) {
        for (name, state) in names.iter().zip(life.of(names)?) {
            match state {
                Ok(did) if screen.json() => screen.print_json(&Did { slice: name, did })?,
                Ok(did) if !screen.quiet() => {
                    let word = match did {
                        State::Started => "started",
                        State::Stopped => "stopped",
                        State::Frozen => "frozen",
                        State::Thawed => "goes on",
                        State::Destroyed => "destroyed",
                        State::Already => "nothing to do",
                    };
                    writeln!(screen.out(), "{name}: {word}")?;
                }
                Ok(_) => {}
                Err(error) => {
                    let exit = exit::report(&error, screen);
                    if worst == Exit::Ok {
                        worst = exit;
                    }
                }
            }
        }
    }
    Ok(worst.into())
}
