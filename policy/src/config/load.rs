//! From a directory to a [`Config`].

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::error::{Complaint, Errors};
use super::keys::{NODE_FILE, SLICE_FILE};
use super::source::{Source, Sources};
use super::{Config, build, read, trust};

/// Reads the policy directory: `node.toml`, and every `slices/NAME.toml`.
///
/// `known` answers whether the node's account database knows a name as user or group; a slice of
/// such a name is refused. `me` is the caller's user id: files of root and of `me` are trusted.
///
/// # Errors
/// Everything that is wrong in any file, and every file or directory from / on that others could
/// change.
pub fn load(directory: &Path, known: &dyn Fn(&str) -> bool, me: u32) -> Result<Config, Errors> {
    let mut complaints = Vec::new();
    let mut sources = Sources::default();
    trust::directory(directory, me, &mut complaints);
    let node = directory.join("node.toml");
    if let Some(text) = trust::file(&node, me, &mut complaints) {
        sources.add(node, text);
    }
    let slices = directory.join("slices");
    match fs::symlink_metadata(&slices) {
        // A node without slices yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => slice_files(&slices, me, &mut sources, &mut complaints),
    }
    match check(sources, known) {
        Ok(config) if complaints.is_empty() => Ok(config),
        Ok(config) => Err(Errors::new(config.sources, complaints)),
        Err(errors) => Err(errors.and(complaints)),
    }
}

fn slice_files(slices: &Path, me: u32, sources: &mut Sources, complaints: &mut Vec<Complaint>) {
    // The directories above were looked at already: only what is new here is worth a complaint.
    let mut here = Vec::new();
    trust::directory(slices, me, &mut here);
    here.retain(|complaint| !complaints.iter().any(|said| said.path == complaint.path));
    complaints.extend(here);
    let names = match trust::names(slices) {
        Ok(names) => names,
        Err(error) => return complaints.push(trust::unreadable(slices, "list", &error)),
    };
    for path in names {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // What editors leave behind.
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        if !name.ends_with(".toml") {
            let message = format!("{name} is not the policy of a slice");
            complaints.push(Complaint::of(
                &path,
                message,
                "name it NAME.toml, or move it out of `slices`",
            ));
        } else if let Some(text) = trust::file(&path, me, complaints) {
            sources.add(&path, text);
        }
    }
}

/// Reads texts already in memory: the file named `node.toml`, and every other one as
/// `NAME.toml` of a slice.
///
/// # Errors
/// Everything that is wrong in any of them.
pub fn parse(sources: Sources, known: &dyn Fn(&str) -> bool) -> Result<Config, Errors> {
    check(sources, known).map_err(|errors| {
        let node = errors.sources().iter().any(|(_, source)| is_node(source));
        let missing = Complaint::of("node.toml", "there is no node.toml", MISSING_HELP);
        errors.and(if node { Vec::new() } else { vec![missing] })
    })
}

/// How to mend a missing `node.toml`.
pub(super) const MISSING_HELP: &str = "create it; an empty node.toml takes every default";

fn is_node(source: &Source) -> bool {
    source
        .path
        .file_name()
        .is_some_and(|name| name == "node.toml")
}

/// Checks all texts. Without a `node.toml` the answer is an error, to which the caller adds why
/// there is none.
fn check(sources: Sources, known: &dyn Fn(&str) -> bool) -> Result<Config, Errors> {
    let mut complaints = Vec::new();
    let mut node = None;
    let mut slices = Vec::new();
    let mut names = BTreeSet::new();
    for (file, source) in sources.iter() {
        if is_node(source) {
            let other = (&SLICE_FILE, "slices/NAME.toml");
            let fields = read::read(file, &source.text, &NODE_FILE, other, &mut complaints);
            node = Some(build::node(&fields, &mut complaints));
            continue;
        }
        let other = (&NODE_FILE, "node.toml");
        let fields = read::read(file, &source.text, &SLICE_FILE, other, &mut complaints);
        let stem = source
            .path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        let name = build::slice_name(&stem, &fields, file, known, &mut complaints);
        if let Some(name) = name {
            if !names.insert(name.value.clone()) {
                let message = format!("the slice \"{}\" has two files", name.value);
                complaints.push(Complaint::maybe_at(name.at, message, "remove one of them"));
            }
            slices.push(build::slice(&fields, name, &mut complaints));
        }
    }
    match node {
        Some(node) if complaints.is_empty() => {
            slices.sort_by(|a, b| a.name.value.cmp(&b.name.value));
            Ok(Config {
                sources,
                node,
                slices,
            })
        }
        _ => Err(Errors::new(sources, complaints)),
    }
}
