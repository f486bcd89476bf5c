//! Every example is read, admitted and compiled, and what it compiles to is kept in `golden/`:
//! after a meant change, `UPDATE_GOLDEN=1 cargo test -p policy` writes it anew.

use std::fs;
use std::path::{Path, PathBuf};

use crate::node::{facts, fits};
use policy::compile::compile;
use policy::config::{Config, Sources, parse};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// An example as it is in the tree. (`load` would look at the checkout's permissions too.)
pub fn example(name: &str) -> Config {
    let mut sources = Sources::default();
    let root = here().join("examples").join(name);
    let mut paths = vec![root.join("node.toml")];
    let slices = fs::read_dir(root.join("slices")).unwrap();
    paths.extend(slices.map(|entry| entry.unwrap().path()));
    paths[1..].sort();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        sources.add(path.strip_prefix(here()).unwrap(), text);
    }
    parse(sources, &|_| false).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn golden(name: &str) {
    let config = example(name);
    let facts = facts();
    let plan = compile(&fits(&config, &facts).unwrap_or_else(|errors| panic!("{errors}")));
    let file = here()
        .join("tests/policy/golden")
        .join(format!("{name}.plan"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, plan.to_string()).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap();
    for (line, (is, shall)) in plan.to_string().lines().zip(kept.lines()).enumerate() {
        assert_eq!(is, shall, "{}:{}", file.display(), line + 1);
    }
    assert_eq!(plan.to_string().lines().count(), kept.lines().count());
}

#[test]
fn the_demo_compiles_to_what_it_did() {
    golden("demo");
}

#[test]
fn the_campus_compiles_to_what_it_did() {
    golden("campus");
}

#[test]
fn the_storage_compiles_to_what_it_did() {
    golden("storage");
}

#[test]
fn the_testbed_compiles_to_what_it_did() {
    golden("testbed");
}

#[test]
fn the_uplinks_compile_to_what_they_did() {
    golden("uplinks");
}

#[test]
fn there_is_no_example_without_a_test() {
    let mut names: Vec<String> = fs::read_dir(here().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["campus", "demo", "storage", "testbed", "uplinks"]);
}
