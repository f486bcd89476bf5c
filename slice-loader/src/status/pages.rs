//! A page of a list: as many rows as were asked for, and as fit.

use serde::Serialize;

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

/// The rows of a page, and where the next one begins. A row that alone is longer than
/// a page is one.
///
/// # Errors
/// A row cannot be written.
pub fn cut<T: Serialize>(
    rows: impl IntoIterator<Item = (Place, T)>,
    most: usize,
    octets: usize,
) -> anyhow::Result<(Vec<T>, Option<Place>)> {
    let mut page = Vec::new();
    let (mut last, mut length) = (None, 0);
    for (place, row) in rows {
        length += serde_json::to_vec(&row)?.len() + 1;
        if page.len() >= most || (length > octets && !page.is_empty()) {
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
            let (page, next) = cut(places(), most, octets).unwrap();
            (page.len(), next.map(|place| place.numbers[0]))
        };
        assert_eq!(cut(100, 1000), (10, None));
        assert_eq!(cut(10, 1000), (10, None));
        assert_eq!(cut(3, 1000), (3, Some(2)));
        assert_eq!(cut(100, 40), (5, Some(4)));
        assert_eq!(cut(100, 1), (1, Some(0)));
    }
}
