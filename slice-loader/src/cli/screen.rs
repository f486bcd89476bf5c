//! Where a command writes: text for people or JSON for programs, colour only
//! where somebody sees it.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use serde::Serialize;

/// What a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// One JSON document; for streams one per line.
    Json,
}

/// When text is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The standard output and error of a command.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Text or JSON.
    pub format: Format,
    /// When to colour.
    pub color: Color,
    /// How much more than usual to say; -1 is `-q`.
    pub verbosity: i8,
}

impl Screen {
    /// Whether the output is for programs.
    #[must_use]
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether to say more than usual.
    #[must_use]
    pub const fn verbose(&self) -> bool {
        self.verbosity > 0
    }

    /// Whether to say only what was asked for and what went wrong.
    #[must_use]
    pub const fn quiet(&self) -> bool {
        self.verbosity < 0
    }

    /// The standard output; styles are taken out where nobody sees them.
    #[must_use]
    pub fn out(&self) -> AutoStream<io::StdoutLock<'static>> {
        AutoStream::new(io::stdout().lock(), self.choice())
    }

    /// The standard error, for what is not the answer.
    #[must_use]
    pub fn err(&self) -> AutoStream<io::StderrLock<'static>> {
        AutoStream::new(io::stderr().lock(), self.choice())
    }

    /// Columns of the terminal; `None` where the output is none.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        if !io::stdout().is_terminal() {
            return None;
        }
        terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
    }

    /// Prints one JSON document, spread over lines for a terminal.
    ///
    /// # Errors
    /// Those of the standard output.
    pub fn print_json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let text = if out.is_terminal() {
            serde_json::to_string_pretty(value)?
        } else {
            serde_json::to_string(value)?
        };
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }

    /// Whether styles are seen.
    #[must_use]
    pub fn styled(&self) -> bool {
        !matches!(self.out().current_choice(), ColorChoice::Never)
    }

    /// The text, without its styles where nobody sees them.
    #[must_use]
    pub fn as_styled(&self, text: String) -> String {
        if self.styled() {
            text
        } else {
            anstream::adapter::strip_str(&text).to_string()
        }
    }

    const fn choice(&self) -> ColorChoice {
        match self.color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        }
    }
}
