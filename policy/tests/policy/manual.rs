//! docs/policy.md: its tables are printed from the code (`UPDATE_GOLDEN=1` prints them anew), its
//! examples are admitted, and the errors it shows are those that come.

use std::fs;
use std::path::{Path, PathBuf};

use crate::node::{facts, fits};
use policy::config::{Sources, parse, reference};

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md")
}

fn manual() -> String {
    fs::read_to_string(path()).unwrap()
}

/// The fenced blocks of a language.
fn blocks<'a>(manual: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let starts = manual.match_indices(&fence).map(|(at, _)| at + fence.len());
    starts
        .map(|start| &manual[start..start + manual[start..].find("```").unwrap()])
        .collect()
}

#[test]
fn every_key_is_in_the_manual_with_its_range_and_default() {
    let mut manual = manual();
    for (name, table) in reference() {
        let start = format!("<!-- keys: {name} -->\n");
        let from = manual
            .find(&start)
            .unwrap_or_else(|| panic!("no block {name}"))
            + start.len();
        let to = from + manual[from..].find("<!-- end -->").unwrap();
        let table = format!("\n{}\n\n", table.trim_end());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            manual.replace_range(from..to, &table);
        } else {
            assert_eq!(
                &manual[from..to],
                table,
                "run UPDATE_GOLDEN=1 cargo test -p policy"
            );
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path(), manual).unwrap();
    }
}

#[test]
fn the_manuals_examples_fit_together() {
    let manual = manual();
    let blocks = blocks(&manual, "toml");
    assert_eq!(blocks.len() % 2, 0);
    for pair in blocks.chunks(2) {
        let mut sources = Sources::default();
        for block in pair {
            let (name, text) = block.split_once('\n').unwrap();
            sources.add(name.trim_start_matches("# "), text);
        }
        let config = parse(sources, &|_| false).unwrap_or_else(|errors| panic!("{errors}"));
        fits(&config, &facts()).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn the_errors_it_shows_are_those_that_come() {
    let shown = |node: &str| {
        let mut sources = Sources::default();
        sources.add("/etc/slice/node.toml", node);
        sources.add("/etc/slice/slices/alpha.toml", "[ports]\ntcp = [80]\n");
        sources.add("/etc/slice/slices/beta.toml", "[ports]\ntcp = [80]\n");
        match parse(sources, &|_| false) {
            Err(errors) => errors.to_string(),
            Ok(config) => fits(&config, &facts()).unwrap_err().to_string(),
        }
    };
    let manual = manual();
    let said = format!("{}\n{}", shown("[node]\nmax_slice = 10\n"), shown(""));
    assert!(blocks(&manual, "text").contains(&said.as_str()), "{said}");
}
