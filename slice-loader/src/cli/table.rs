//! Text tables in the manner of ps(1): a head, aligned columns, no lines.
//!
//! Where the terminal is too narrow, whole columns go, the least important
//! first; a cell is never broken over lines, since half a number misleads.

use std::io::{self, Write};

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

/// A column's head, and how it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The head.
    pub head: &'static str,
    /// Numbers stand to the right.
    pub right: bool,
    /// Columns of the highest rank go first when there is no room; rank 0 stays.
    pub rank: u8,
}

/// A text and how it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The text, free of control characters.
    pub text: String,
    /// Its look.
    pub style: Style,
}

/// A table being made.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// Between two columns.
const GAP: usize = 2;

impl Column {
    /// A column of words.
    #[must_use]
    pub const fn left(head: &'static str, rank: u8) -> Self {
        Self {
            head,
            right: false,
            rank,
        }
    }

    /// A column of numbers.
    #[must_use]
    pub const fn right(head: &'static str, rank: u8) -> Self {
        Self {
            head,
            right: true,
            rank,
        }
    }
}

impl Cell {
    /// A text in a style.
    #[must_use]
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::new())
    }
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self {
            columns: columns.into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: a cell per column.
    pub fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        let cells = cells.into();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the table, at most `width` columns wide if it can be.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, out: &mut impl Write, width: Option<usize>) -> io::Result<()> {
        let widths = self.widths();
        let shown = self.fitting(&widths, width);
        let heads = self
            .columns
            .iter()
            .map(|column| Cell::new(column.head, Style::new().bold()));
        let heads: Vec<Cell> = heads.collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            self.write_row(out, row, &shown, &widths)?;
        }
        Ok(())
    }

    fn write_row(
        &self,
        out: &mut impl Write,
        row: &[Cell],
        shown: &[usize],
        widths: &[usize],
    ) -> io::Result<()> {
        // Blanks are written when a text follows, never at the end of a line.
        let mut blanks = 0;
        for &index in shown {
            let Cell { text, style } = &row[index];
            let pad = widths[index] - text.width();
            let (before, after) = if self.columns[index].right {
                (pad, 0)
            } else {
                (0, pad)
            };
            blanks += before;
            if !text.is_empty() {
                write!(out, "{:blanks$}{style}{text}{style:#}", "")?;
                blanks = 0;
            }
            blanks += after + GAP;
        }
        writeln!(out)
    }

    fn widths(&self) -> Vec<usize> {
        (0..self.columns.len())
            .map(|index| {
                let cells = self.rows.iter().map(|row| row[index].text.width());
                cells
                    .chain([self.columns[index].head.width()])
                    .max()
                    .unwrap_or(0)
            })
            .collect()
    }

    /// The columns that have room.
    fn fitting(&self, widths: &[usize], width: Option<usize>) -> Vec<usize> {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let total = |shown: &[usize]| {
            shown
                .iter()
                .map(|&index| widths[index] + GAP)
                .sum::<usize>()
                .saturating_sub(GAP)
        };
        while width.is_some_and(|width| total(&shown) > width) {
            let least = shown
                .iter()
                .copied()
                .max_by_key(|&index| self.columns[index].rank);
            match least {
                Some(index) if self.columns[index].rank > 0 => shown.retain(|&kept| kept != index),
                _ => break,
            }
        }
        shown
    }
}

/// A text without control characters, so that what a tenant chose cannot
/// drive the reader's terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            Column::left("NAME", 0),
            Column::right("COUNT", 2),
            Column::right("BYTES", 1),
            Column::left("NOTE", 3),
        ]);
        table.row(["alpha".into(), "1".into(), "12".into(), "a".into()]);
        table.row(["bé".into(), "1000000".into(), "3".into(), Cell::from("")]);
        table
    }

    fn text(width: Option<usize>) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        table().write(&mut out, width).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let wide = "NAME     COUNT  BYTES  NOTE\nalpha        1     12  a\nbé     1000000      3\n";
        assert_eq!(text(None), wide);
        assert_eq!(text(Some(27)), wide);
    }

    #[test]
    fn the_least_important_columns_go_first_and_the_name_stays() {
        assert_eq!(
            text(Some(26)),
            "NAME     COUNT  BYTES\nalpha        1     12\nbé     1000000      3\n"
        );
        assert_eq!(text(Some(20)), "NAME   BYTES\nalpha     12\nbé         3\n");
        assert_eq!(text(Some(3)), "NAME\nalpha\nbé\n");
    }

    #[test]
    fn a_tenants_text_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }
}
