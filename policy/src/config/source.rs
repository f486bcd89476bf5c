//! Where a value was written: files, and places in them.

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// One policy file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The path as the caller named it; errors cite it.
    pub path: PathBuf,
    /// The whole text.
    pub text: String,
}

/// All files of one policy, in the order they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    files: Vec<Source>,
}

/// A range of bytes in one of the [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index of the file in its [`Sources`].
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// One past the last byte; equal to `start` for a point.
    pub end: usize,
}

/// A value and where it was written; `at` is `None` for a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where the owner wrote it.
    pub at: Option<Place>,
}

/// A place as people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cited<'a> {
    /// The file.
    pub path: &'a Path,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The text of that line without its line end.
    pub text: &'a str,
    /// How many characters of the line are meant; at least 1.
    pub width: usize,
}

impl<T> At<T> {
    /// A value that nobody wrote.
    #[must_use]
    pub const fn default(value: T) -> Self {
        Self { value, at: None }
    }

    /// A value written at `at`.
    #[must_use]
    pub const fn written(value: T, at: Place) -> Self {
        Self {
            value,
            at: Some(at),
        }
    }

    /// Another value that stands at the same place.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At {
            value: f(self.value),
            at: self.at,
        }
    }
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl Place {
    /// The place of `span` in the file number `file`.
    #[must_use]
    pub const fn new(file: usize, span: Range<usize>) -> Self {
        Self {
            file,
            start: span.start,
            end: span.end,
        }
    }

    /// The very beginning of a file, for what concerns the file as a whole.
    #[must_use]
    pub const fn top(file: usize) -> Self {
        Self {
            file,
            start: 0,
            end: 0,
        }
    }
}

impl Sources {
    /// Adds a file and returns its index.
    pub fn add(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> usize {
        self.files.push(Source {
            path: path.into(),
            text: text.into(),
        });
        self.files.len() - 1
    }

    /// The file number `file`, if there is one.
    #[must_use]
    pub fn get(&self, file: usize) -> Option<&Source> {
        self.files.get(file)
    }

    /// All files in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Source)> {
        self.files.iter().enumerate()
    }

    /// How people read `place`; `None` if it is in no file of these.
    ///
    /// A place that reaches over several lines is cut at the end of its first one.
    #[must_use]
    pub fn cite(&self, place: Place) -> Option<Cited<'_>> {
        let Source { path, text } = self.files.get(place.file)?;
        let start = floor_boundary(text, place.start);
        let end = floor_boundary(text, place.end).max(start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..]
            .find('\n')
            .map_or(text.len(), |newline| start + newline);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let meant = &text[start..end.min(line_end)];
        Some(Cited {
            path,
            line: before.matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            text: line,
            width: meant.trim_end_matches('\r').chars().count().max(1),
        })
    }

    /// `file:line`, for a sentence that mentions another place.
    #[must_use]
    pub fn short(&self, place: Place) -> String {
        match self.cite(place) {
            Some(cited) => format!("{}:{}", cited.path.display(), cited.line),
            None => String::from("(unknown place)"),
        }
    }
}

/// The nearest character boundary at or before `index`, within the text.
pub(super) fn floor_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}
