//! The manual's tables of promises and attacks name tests: each must exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::MODULES;

/// The root of the tree.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the tree")
        .into()
}

/// Names of functions that stand behind `#[test]` or in `proptest!` below `dir`.
fn host_tests(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a directory of the tree") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            host_tests(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                is_test |= line == "#[test]" || line == "#[tokio::test]";
                let function = line.trim_start_matches("async ").strip_prefix("fn ");
                if let (true, Some(rest)) = (is_test, function) {
                    names.extend(rest.split('(').next().map(str::to_owned));
                    is_test = false;
                }
            }
        }
    }
}

/// Every test there is, in the VM and on the host.
fn all_tests() -> BTreeSet<String> {
    let mut names: BTreeSet<String> = MODULES
        .iter()
        .flat_map(|module| module.iter())
        .map(|test| test.name().to_owned())
        .collect();
    for member in [
        "policy",
        "slice-loader",
        "safe-raw-sockets",
        "xtask",
        "tests",
    ] {
        host_tests(&root().join(member), &mut names);
    }
    names
}

/// The rows of the tables in a page of the manual: the last cell's words in
/// backquotes, with the row's line.
fn named_in(page: &str) -> Vec<(usize, Vec<String>)> {
    let path = root().join("docs").join(page);
    let text = std::fs::read_to_string(&path).expect("a page of the manual");
    let rows = text.lines().enumerate().filter(|(_, line)| {
        line.starts_with('|') && !line.starts_with("|---") && !line.ends_with("| test |")
    });
    rows.map(|(at, line)| {
        let cell = line.trim_end_matches('|').rsplit('|').next().unwrap_or("");
        let names = cell.split('`').skip(1).step_by(2).map(str::to_owned);
        (at + 1, names.collect())
    })
    .collect()
}

fn every_row_names_tests_that_exist(page: &str) {
    let tests = all_tests();
    let rows = named_in(page);
    assert!(!rows.is_empty(), "{page} has no table");
    let mut wrong = Vec::new();
    for (line, names) in rows {
        if names.is_empty() {
            wrong.push(format!("docs/{page}:{line}: no test"));
        }
        for name in names.iter().filter(|name| !tests.contains(*name)) {
            wrong.push(format!("docs/{page}:{line}: no test `{name}`"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_promise_has_a_test() {
    every_row_names_tests_that_exist("promises.md");
}

#[test]
fn promises_are_numbered_one_after_the_other() {
    let text = std::fs::read_to_string(root().join("docs/promises.md")).expect("the page");
    let cells = text.lines().filter_map(|line| line.strip_prefix("| "));
    let numbers: Vec<usize> = cells
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect();
    let rising: Vec<usize> = (1..=numbers.len()).collect();
    assert_eq!(numbers, rising);
}

#[test]
fn every_bound_has_a_test() {
    every_row_names_tests_that_exist("bounds.md");
}

/// A page that names a file of the tree names one that exists.
#[test]
fn every_link_between_pages_leads_somewhere() {
    let docs = root().join("docs");
    let pages = std::fs::read_dir(&docs)
        .expect("the manual")
        .map(|page| page.expect("a page").path())
        .filter(|page| page.extension().is_some_and(|kind| kind == "md"));
    let mut wrong = Vec::new();
    for page in pages.chain([root().join("README.md"), root().join("CONTRIBUTING.md")]) {
        let text = std::fs::read_to_string(&page).expect("a page");
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
        {
            let outside = link.is_empty() || link.contains("://");
            if !outside && !page.parent().expect("a directory").join(link).exists() {
                wrong.push(format!("{}: no {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_attack_has_a_test() {
    every_row_names_tests_that_exist("attacks.md");
}
