//! A page of a list: as many rows as were asked for, and as fit.

use std::borrow::Borrow;
use std::marker::PhantomData;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::answers::Sight;
use super::parameters;
use super::wire::{Part, Place};

/// How long the rows of a page may be together.
#[must_use]
pub const fn octets(sight: Sight) -> usize {
    match sight {
        // There is room for small answers whatever others do not read.
        Sight::Own => 56 << 10,
        Sight::All => 4 << 20,
    }
}

/// Most rows; the question may come from a process that was taken over.
#[must_use]
pub fn most(part: &Part) -> usize {
    usize::from(part.most.clamp(1, parameters::MOST))
}

/// Rows of a page as they are told: how long each is decides where the page ends, so it is
/// written before the page is, and never again.
#[derive(Debug)]
pub struct Written<T> {
    rows: Vec<Box<RawValue>>,
    of: PhantomData<T>,
}

impl<T> Default for Written<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            of: PhantomData,
        }
    }
}

impl<T> Written<T> {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds one.
    pub fn push(&mut self, row: RowText<T>) {
        self.rows.push(row.text);
    }
}

impl<T> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.rows.serialize(serializer)
    }
}

/// What they are is described as if they were not written yet.
#[cfg(test)]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Written<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        Vec::<T>::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Vec::<T>::json_schema(generator)
    }
}

/// One of them.
#[derive(Debug)]
pub struct RowText<T> {
    text: Box<RawValue>,
    of: PhantomData<T>,
}

impl<T: Serialize> RowText<T> {
    /// Writes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(row: &T) -> anyhow::Result<Self> {
        Ok(Self {
            text: to_raw_value(row)?,
            of: PhantomData,
        })
    }

    /// How long it is on a page, with the comma.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.text.get().len() + 1
    }
}

/// The rows of a page, and where the next one begins. A row that alone is longer than
/// a page is one.
///
/// # Errors
/// A row cannot be written.
pub fn cut<T: Serialize>(
    rows: impl IntoIterator<Item = (Place, impl Borrow<T>)>,
    most: usize,
    octets: usize,
) -> anyhow::Result<(Written<T>, Option<Place>)> {
    let mut page = Written::default();
    let (mut last, mut length) = (None, 0);
    for (place, row) in rows {
        // One more is no page's.
        if page.rows.len() >= most {
            return Ok((page, last));
        }
        let row = RowText::write(row.borrow())?;
        length += row.octets();
        if length > octets && !page.is_empty() {
            return Ok((page, last));
        }
        page.push(row);
        last = Some(place);
    }
    Ok((page, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> impl Iterator<Item = (Place, u32)> {
        (0..10).map(|number| (Place::new("x", number, 0), 1_000_000 + number))
    }

    #[test]
    fn a_page_ends_where_enough_was_told_and_never_before_its_first_row() {
        let cut = |most, octets| {
            let (page, next) = cut::<u32>(places(), most, octets).unwrap();
            (page.rows.len(), next.map(|place| place.numbers[0]))
        };
        assert_eq!(cut(100, 1000), (10, None));
        assert_eq!(cut(10, 1000), (10, None));
        assert_eq!(cut(3, 1000), (3, Some(2)));
        assert_eq!(cut(100, 40), (5, Some(4)));
        assert_eq!(cut(100, 1), (1, Some(0)));
    }
}
