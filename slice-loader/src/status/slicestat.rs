//! `/slicestat`: the table that PlanetLab's monitors read, a line of 15 fields for
//! each slice.

use std::fmt::Write;

use super::history::Average;
use crate::report::status::{Row, RowKind};

/// The machine, as far as the table tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub cores: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The address of slices that have none of their own.
    pub address: String,
}

/// The lines of these rows; only slices have any.
#[must_use]
pub fn table(machine: &Machine, rows: &[Row], averages: impl Fn(&Row) -> [Average; 3]) -> String {
    let mut text = String::with_capacity(rows.len() * 96);
    for row in rows.iter().filter(|row| row.kind == RowKind::Slice) {
        line(machine, row, averages(row), &mut text);
    }
    text
}

fn line(machine: &Machine, row: &Row, averages: [Average; 3], text: &mut String) {
    let memory = row.memory.map_or(0, |used| used.usage);
    let swap = row.swap.unwrap_or(0);
    let address = row.addresses.first().unwrap_or(&machine.address);
    let last = averages[0].millicores;
    let _ = write!(text, "{},{}", row.name, row.id);
    let _ = write!(text, ",{}", percent(last, machine.cores * 1000));
    let _ = write!(text, ",{}", percent(memory, machine.memory_bytes));
    for bytes in [memory, memory.saturating_add(swap)] {
        let _ = write!(text, ",{}", bytes.div_ceil(1024));
    }
    let _ = write!(text, ",{}", row.processes.map_or(0, |used| used.usage));
    for bits in [averages.map(|of| of.sent), averages.map(|of| of.received)].concat() {
        let _ = write!(text, ",{}", bits.div_ceil(1000));
    }
    let _ = writeln!(text, ",{address},{}", last.div_ceil(1000));
}

/// With one decimal, like `top`'s.
fn percent(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Used;
    use crate::status::answers::tests::reading;

    #[test]
    fn a_slice_has_a_line_of_fifteen_fields_and_nobody_else_has_one() {
        let machine = Machine {
            cores: 2,
            memory_bytes: 1 << 30,
            address: "192.0.2.1".into(),
        };
        let mut rows = [(0, ""), (2, "alpha"), (3, "beta"), (1, "")]
            .map(|(id, name)| Row::from(reading(id, name)));
        rows[1].memory = Some(Used {
            usage: 100 << 20,
            limit: None,
        });
        rows[1].swap = Some(1024);
        rows[1].processes = Some(Used {
            usage: 3,
            limit: None,
        });
        rows[2].addresses = vec!["192.0.2.7".into()];
        let averages = |row: &Row| {
            [1, 2, 3].map(|times| match row.id {
                2 => Average {
                    sent: 1000 * times,
                    received: 999_001 * times,
                    millicores: 250,
                },
                _ => Average::default(),
            })
        };
        let text = table(&machine, &rows, averages);
        assert_eq!(
            text,
            "alpha,2,12.5,9.7,102400,102401,3,1,2,3,1000,1999,2998,192.0.2.1,1\n\
             beta,3,0.0,0.0,4,4,0,0,0,0,0,0,0,192.0.2.7,0\n"
        );
        for line in text.lines() {
            assert_eq!(line.split(',').count(), 15, "{line}");
        }
    }
}
