//! What is wrong with a policy, said so that it can be mended: place, line, caret, remedy.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::source::{Place, Sources};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Where; `None` if it is about a file or directory that could not be read.
    pub at: Option<Place>,
    /// The file or directory, when there is no place in a text.
    pub path: Option<PathBuf>,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do.
    pub help: String,
    /// The other party of a collision, with a word on it.
    pub other: Option<(Place, String)>,
}

/// Everything that is wrong with a policy, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Errors {
    sources: Sources,
    complaints: Vec<Complaint>,
}

/// One error in the form `-o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file or directory.
    pub file: PathBuf,
    /// Line from 1; absent if the error is about the file as a whole.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// The cited line.
    pub text: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
    /// `file:line` of the other party, where two collide.
    pub other: Option<String>,
}

impl Complaint {
    /// Something wrong at a place.
    #[must_use]
    pub fn at(place: Place, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            at: Some(place),
            path: None,
            message: message.into(),
            help: help.into(),
            other: None,
        }
    }

    /// Something wrong at a place, or with the policy as a whole where the value is a default.
    #[must_use]
    pub fn maybe_at(
        place: Option<Place>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            at: place,
            path: None,
            message: message.into(),
            help: help.into(),
            other: None,
        }
    }

    /// Something wrong with a file or directory as a whole.
    #[must_use]
    pub fn of(
        path: impl Into<PathBuf>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            at: None,
            path: Some(path.into()),
            message: message.into(),
            help: help.into(),
            other: None,
        }
    }

    /// Names the other party.
    #[must_use]
    pub fn with_other(mut self, place: Option<Place>, word: impl Into<String>) -> Self {
        self.other = place.map(|place| (place, word.into()));
        self
    }
}

impl Errors {
    /// Errors about these sources; sorted by file and place.
    #[must_use]
    pub fn new(sources: Sources, mut complaints: Vec<Complaint>) -> Self {
        complaints.sort_by_key(|complaint| complaint.at);
        Self {
            sources,
            complaints,
        }
    }

    /// These errors, and others about files that could not be read.
    pub(super) fn and(self, others: Vec<Complaint>) -> Self {
        let complaints = others.into_iter().chain(self.complaints).collect();
        Self::new(self.sources, complaints)
    }

    /// The errors.
    #[must_use]
    pub fn complaints(&self) -> &[Complaint] {
        &self.complaints
    }

    /// The texts the errors cite.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The errors as plain values, for `-o json`.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        self.complaints
            .iter()
            .map(|complaint| self.report(complaint))
            .collect()
    }

    fn report(&self, complaint: &Complaint) -> Report {
        let cited = complaint.at.and_then(|place| self.sources.cite(place));
        let path = cited
            .as_ref()
            .map(|cited| cited.path)
            .or(complaint.path.as_deref());
        Report {
            file: path.unwrap_or(Path::new("")).to_path_buf(),
            line: cited.as_ref().map(|cited| cited.line),
            column: cited.as_ref().map(|cited| cited.column),
            text: cited.as_ref().map(|cited| cited.text.to_owned()),
            message: complaint.message.clone(),
            help: complaint.help.clone(),
            other: complaint
                .other
                .as_ref()
                .map(|(place, _)| self.sources.short(*place)),
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, complaint) in self.complaints.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "error: {}", printable(&complaint.message))?;
            match complaint.at {
                Some(place) => self.excerpt(f, place, "")?,
                None => {
                    if let Some(path) = &complaint.path {
                        writeln!(f, "  --> {}", printable(&path.display().to_string()))?;
                    }
                }
            }
            if let Some((place, word)) = &complaint.other {
                self.excerpt(f, *place, word)?;
            }
            writeln!(f, "  help: {}", printable(&complaint.help))?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl Errors {
    /// Place, line and caret.
    fn excerpt(&self, f: &mut fmt::Formatter<'_>, place: Place, word: &str) -> fmt::Result {
        let Some(cited) = self.sources.cite(place) else {
            return Ok(());
        };
        let number = cited.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(
            f,
            "{gutter} --> {}:{}:{}",
            printable(&cited.path.display().to_string()),
            cited.line,
            cited.column
        )?;
        writeln!(f, "{gutter} |")?;
        writeln!(
            f,
            "{}",
            format!("{number} | {}", printable(cited.text)).trim_end()
        )?;
        // Tabs stay tabs under the line, so that the caret stands where the reader sees the text.
        let indent: String = cited
            .text
            .chars()
            .take(cited.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let line = format!("{gutter} | {indent}{} {word}", "^".repeat(cited.width));
        writeln!(f, "{}", line.trim_end())
    }
}

/// The text without control characters: neither a policy file nor its name may drive the reader's
/// terminal.
fn printable(text: &str) -> String {
    // What turns the direction of writing hides text from the reader as well.
    let hides = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let bad = |c: char| (c.is_control() && c != '\t') || hides(c);
    text.chars()
        .map(|c| if bad(c) { '\u{fffd}' } else { c })
        .collect()
}
