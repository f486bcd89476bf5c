//! The keys as the tables of `docs/policy.md`.

use std::fmt::Write as _;

use super::{Key, NODE_FILE, SLICE_FILE, TableDef};

/// The whole language as markdown, by the heading it stands under in `docs/policy.md`.
#[must_use]
pub fn reference() -> [(&'static str, String); 2] {
    [
        ("node", NODE_FILE.markdown()),
        ("slice", SLICE_FILE.markdown()),
    ]
}

impl TableDef {
    /// The tables of the file as markdown, for `docs/policy.md`.
    #[must_use]
    pub fn markdown(&'static self) -> String {
        let mut text = String::new();
        for table in self.tables() {
            let rows: Vec<&Key> = table
                .keys
                .iter()
                .filter(|key| key.takes.is_value())
                .collect();
            if rows.is_empty() {
                continue;
            }
            // Writing to a String does not fail.
            let _ = writeln!(text, "#### {}\n", capital(&table.title()));
            let _ = writeln!(
                text,
                "| key | takes | default | example | meaning |\n|---|---|---|---|---|"
            );
            for key in rows {
                let _ = writeln!(
                    text,
                    "| `{}` | {} | {} | `{}` | {} |",
                    key.name,
                    key.takes.describe(),
                    key.default(),
                    key.example,
                    key.says,
                );
            }
            text.push('\n');
        }
        text
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}
