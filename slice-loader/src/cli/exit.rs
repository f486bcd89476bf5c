//! How a command ends: one table of exit codes, and the error that carries
//! one together with what to do.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::AnsiColor;
use policy::config::Errors;
use serde::{Deserialize, Serialize};

use super::screen::Screen;
use crate::node::NotUp;

/// One row per exit code: number, name, name for machines, meaning.
macro_rules! exits {
    ($($number:literal $name:ident $slug:literal $meaning:literal;)*) => {
        /// How a command ended.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Exit {
            $(#[doc = $meaning] $name = $number,)*
        }

        impl Exit {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Exit] = &[$(Exit::$name,)*];

            /// A stable lower-case name, for `-o json`.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Exit::$name => $slug,)* }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Exit::$name => $meaning,)* }
            }
        }
    };
}

exits! {
    0 Ok           "ok"            "Done, or nothing to do.";
    1 Failed       "failed"        "The operation failed; the message says at what.";
    2 Usage        "usage"         "The command line is wrong, or names a slice that does not exist.";
    3 Policy       "policy"        "The policy has errors or does not fit the node; nothing was changed.";
    4 NotUp        "not_up"        "The node is not up.";
    5 Kernel       "kernel"        "The kernel or the system lacks something that the policy needs.";
    6 NotPermitted "not_permitted" "Not permitted: the command needs root.";
    7 NoDaemon     "no_daemon"     "The daemon does not run.";
    8 Busy         "busy"          "Another command changes the node at this moment.";
}

/// An error that knows its exit code and what to do about it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    remedy: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// What was tried on which object, and why it did not work.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            remedy: None,
            source: None,
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The error behind it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What to say where a slice is named that does not exist.
#[must_use]
pub fn unknown_slice(name: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("find the slice {name}: the node has none of that name"),
    )
    .remedy(
        "`slice status` lists those there are; `slice reload` applies what is new in the policy",
    )
}

/// An error as the caller gets it told, by the command line and by the API.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The exit code.
    pub code: u8,
    /// Its name.
    pub name: String,
    /// What was tried on which object.
    pub message: String,
    /// The errors behind it, outermost first.
    pub causes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
    /// What is wrong with the policy, where that is it: `file`, `line`,
    /// `column`, `text`, `message`, `help`, `other`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<serde_json::Value>,
}

impl Told {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::ALL
            .iter()
            .copied()
            .find(|exit| *exit as u8 == self.code)
            .unwrap_or(Exit::Failed)
    }
}

impl From<Told> for Failure {
    /// An error that was told by the daemon.
    fn from(told: Told) -> Self {
        let exit = told.exit();
        let mut message = told.message;
        for cause in told.causes {
            message.push_str(": ");
            message.push_str(&cause);
        }
        Self {
            exit,
            message,
            remedy: told.help,
            source: None,
        }
    }
}

/// What to tell about an error.
#[must_use]
pub fn told(error: &anyhow::Error, is_root: bool) -> Told {
    let errors = error.downcast_ref::<Errors>();
    let (exit, help) = judge(error, errors, is_root);
    let (message, causes) = match errors {
        Some(errors) => (summary(errors), Vec::new()),
        None => (
            error.to_string(),
            error.chain().skip(1).map(ToString::to_string).collect(),
        ),
    };
    let reports = errors.map(Errors::reports).unwrap_or_default();
    let policy = reports
        .into_iter()
        .filter_map(|report| serde_json::to_value(report).ok())
        .collect();
    Told {
        code: exit as u8,
        name: exit.slug().to_owned(),
        message,
        causes,
        help,
        policy,
    }
}

/// The exit code and the remedy.
fn judge(error: &anyhow::Error, errors: Option<&Errors>, is_root: bool) -> (Exit, Option<String>) {
    if errors.is_some() {
        return (
            Exit::Policy,
            Some("mend the places named; nothing was changed".to_owned()),
        );
    }
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return (failure.exit, failure.remedy.clone());
    }
    if !is_root && error.chain().any(is_refused) {
        return (
            Exit::NotPermitted,
            Some("run the command as root".to_owned()),
        );
    }
    if error.is::<NotUp>() {
        return (Exit::NotUp, Some("start it: slice up".to_owned()));
    }
    (Exit::Failed, None)
}

/// `3 errors in the policy`.
#[must_use]
pub fn summary(errors: &Errors) -> String {
    match errors.complaints().len() {
        1 => String::from("1 error in the policy"),
        count => format!("{count} errors in the policy"),
    }
}

fn is_closed_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn is_refused(cause: &(dyn std::error::Error + 'static)) -> bool {
    let number = cause
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::raw_os_error)
        .or_else(|| {
            cause
                .downcast_ref::<nix::errno::Errno>()
                .map(|errno| *errno as i32)
        });
    matches!(number, Some(libc::EPERM | libc::EACCES))
}

/// Prints an error to the standard error and gives its exit code.
pub(super) fn report(error: &anyhow::Error, screen: &Screen) -> Exit {
    // The reader of our output left. A closed pipe further down the chain is
    // some other connection's.
    if error.chain().next().is_some_and(is_closed_pipe) {
        return Exit::Ok;
    }
    let told = told(error, nix::unistd::geteuid().is_root());
    // There is nowhere left to tell that telling failed.
    let _ = if screen.json() {
        writeln!(screen.err(), "{}", serde_json::json!({ "error": told }))
    } else {
        write_text(&mut screen.err(), error, &told)
    };
    told.exit()
}

fn write_text(out: &mut impl Write, error: &anyhow::Error, told: &Told) -> io::Result<()> {
    let (bad, hint) = (
        AnsiColor::Red.on_default().bold(),
        AnsiColor::Cyan.on_default(),
    );
    if let Some(errors) = error.downcast_ref::<Errors>() {
        // Each error has its own help.
        write!(out, "{errors}")?;
        return writeln!(out, "\n{bad}{}{bad:#}; nothing was changed", told.message);
    }
    writeln!(out, "{bad}error:{bad:#} {}", told.message)?;
    for cause in &told.causes {
        writeln!(out, "  cause: {cause}")?;
    }
    match &told.help {
        Some(help) => writeln!(out, "  {hint}help:{hint:#} {help}"),
        None => Ok(()),
    }
}
