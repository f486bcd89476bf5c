//! What the TOML parser could not read, and which of the later errors only follow from it.

use std::ops::Range;

use toml::de::{DeTable, DeValue, Error};

use super::error::Complaint;
use super::source::{Place, floor_boundary};

/// The syntax errors of one file.
pub(super) struct Syntax {
    /// The errors, at most one per line.
    pub complaints: Vec<Complaint>,
    /// Stretches of the text in which the parser guessed.
    clouded: Vec<Range<usize>>,
}

/// Remedies by the parser's words; the first that is part of its message holds.
const REMEDIES: [(&str, &str, &str); 9] = [
    ("duplicate key", "", "keep one of the two"),
    (
        "unclosed table",
        "the table header has no closing bracket",
        "write `[NAME]`, or `[[NAME]]` for a list of tables",
    ),
    (
        "unclosed array table",
        "the header of a list of tables has no closing brackets",
        "write `[[NAME]]`",
    ),
    (
        "array",
        "a list is not closed, or a comma is missing in it",
        "write `[A, B]`",
    ),
    (
        "string values must be quoted",
        "this value is not quoted",
        "write text, quantities and addresses in double quotes",
    ),
    (
        "invalid multi-line",
        "the text has no closing quotes",
        "close it with three quotes, or write it on one line",
    ),
    (
        "invalid basic string",
        "the text has no closing quote, or a character that must be escaped",
        "close it with a double quote on the same line",
    ),
    (
        "key with no value",
        "a key has no value",
        "write `KEY = VALUE`, or put # before a comment",
    ),
    (
        "invalid boolean",
        "this is neither `true` nor `false`, nor quoted",
        "write `true` or `false`, or put text in double quotes",
    ),
];

impl Syntax {
    pub(super) fn new(file: usize, text: &str, document: &DeTable<'_>, broken: &[Error]) -> Self {
        let mut errors: Vec<(Range<usize>, &str)> = broken
            .iter()
            .map(|error| (error.span().unwrap_or(0..0), error.message()))
            .collect();
        errors.sort_by_key(|(span, _)| (span.start, span.end));
        let mut syntax = Self {
            complaints: Vec::new(),
            clouded: Vec::new(),
        };
        let runs_on = errors.iter().any(|(_, message)| runs_on(message));
        for (span, message) in errors {
            let span = visible(text, span);
            if syntax
                .clouded
                .iter()
                .any(|cloud| cloud.contains(&span.start))
            {
                continue;
            }
            let (says, help) = REMEDIES
                .iter()
                .find(|(words, ..)| message.contains(words))
                .map_or_else(
                    || {
                        (
                            format!("this is not TOML: {message}"),
                            "compare it with the examples in docs/policy.md",
                        )
                    },
                    |(_, says, help)| ((*says).to_owned(), *help),
                );
            let place = Place::new(file, span.clone());
            if message.contains("duplicate key") {
                let name = text.get(span.clone()).unwrap_or_default();
                let header = header_before(text, name, span.start);
                let help = if header.is_some() {
                    "put the keys of both below one header"
                } else {
                    help
                };
                let first = header.or_else(|| first_before(document, name, span.start));
                let complaint = Complaint::at(place, format!("`{name}` is written twice"), help);
                let first = first.map(|first| Place::new(file, first));
                syntax
                    .complaints
                    .push(complaint.with_other(first, "first here"));
            } else {
                let missing = says.contains("not quoted") && span.is_empty();
                let (says, help) = if missing {
                    (
                        "a value is missing",
                        "write `KEY = VALUE`, or remove the key",
                    )
                } else {
                    (says.as_str(), help)
                };
                syntax.complaints.push(Complaint::at(place, says, help));
            }
            let swallows = runs_on && message.contains("array") || message.contains("multi-line");
            syntax.clouded.push(cloud(text, &span, swallows));
        }
        syntax
    }

    /// Whether an error at this place may only follow from a syntax error.
    pub(super) fn clouds(&self, at: Option<Place>) -> bool {
        at.is_some_and(|at| {
            self.clouded
                .iter()
                .any(|cloud| at.start < cloud.end && cloud.start <= at.end)
        })
    }
}

/// Whether the message tells that a list took in what follows it.
fn runs_on(message: &str) -> bool {
    message.contains("unclosed array,") || message.contains("`=` in array")
}

/// An empty span at the beginning of a line says that something is missing at the end of an
/// earlier one: the reader should look there.
fn visible(text: &str, span: Range<usize>) -> Range<usize> {
    let (start, end) = (
        floor_boundary(text, span.start),
        floor_boundary(text, span.end),
    );
    if start < end {
        return start..end;
    }
    let before = &text[..start];
    let line = before.rfind('\n').map_or(0, |newline| newline + 1);
    if before[line..].trim().is_empty() {
        let end = before.trim_end().len();
        return end..end;
    }
    start..start
}

/// The stretch that an error makes unsure: its line; after a broken header all to the next header;
/// after what runs on, all.
fn cloud(text: &str, span: &Range<usize>, swallows: bool) -> Range<usize> {
    let line_start = text[..span.start]
        .rfind('\n')
        .map_or(0, |newline| newline + 1);
    if swallows {
        return line_start..text.len() + 1;
    }
    let rest = &text[line_start..];
    let header = rest.trim_start().starts_with('[');
    let end = if header {
        rest.find("\n[")
    } else {
        text[span.end..]
            .find('\n')
            .map(|end| end + span.end - line_start)
    };
    line_start..end.map_or(text.len() + 1, |end| line_start + end + 1)
}

/// The last header `[name]` before the one at `start`: the document keeps one of equal tables.
fn header_before(text: &str, name: &str, start: usize) -> Option<Range<usize>> {
    let before = text[..start].strip_suffix('[')?;
    let indent_only = |at: &usize| {
        let indented = before[..*at].trim_end_matches([' ', '\t']);
        indented.is_empty() || indented.ends_with('\n')
    };
    let header = format!("[{name}]");
    let mut headers = before.rmatch_indices(header.as_str()).map(|(at, _)| at);
    let last = headers.find(indent_only)?;
    Some(last + 1..last + 1 + name.len())
}

/// The last key of that name that begins before `start`, in any table.
fn first_before(table: &DeTable<'_>, name: &str, start: usize) -> Option<Range<usize>> {
    let mut found: Option<Range<usize>> = None;
    let mut keep = |span: Range<usize>| {
        if span.start < start && found.as_ref().is_none_or(|best| best.start < span.start) {
            found = Some(span);
        }
    };
    for (key, value) in table {
        if key.get_ref() == name {
            keep(key.span());
        }
        match value.get_ref() {
            DeValue::Table(inner) => first_before(inner, name, start)
                .into_iter()
                .for_each(&mut keep),
            DeValue::Array(list) => {
                let tables = list.iter().filter_map(|entry| entry.get_ref().as_table());
                tables
                    .filter_map(|inner| first_before(inner, name, start))
                    .for_each(&mut keep);
            }
            _ => {}
        }
    }
    found
}
