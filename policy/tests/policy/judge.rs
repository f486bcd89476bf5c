//! The function that the fuzz target and the test `robust` share.

use policy::compile::{Plan, compile};
use policy::config::{Sources, parse};

use crate::node::{facts, fits};

/// Several files in one input: the text up to the first such line is node.toml, what follows each
/// is the file it names.
const FILE: &str = "--- ";

/// Puts a policy through everything, and panics if it is treated wrongly: an error without a place
/// in the text, without words or without a remedy.
pub fn judge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut sources = Sources::default();
    let mut files = vec![("node.toml", String::new())];
    for line in text.split_inclusive('\n') {
        match (line.strip_prefix(FILE), files.last_mut()) {
            (Some(name), _) => files.push((name.trim_end(), String::new())),
            (None, Some((_, text))) => text.push_str(line),
            (None, None) => {}
        }
    }
    for (name, text) in files {
        sources.add(name, text);
    }
    let errors = match parse(sources, &|name| name == "daemon") {
        Err(errors) => errors,
        Ok(config) => {
            let facts = facts();
            match fits(&config, &facts) {
                Err(errors) => errors,
                Ok(admitted) => {
                    let plan = compile(&admitted);
                    assert!(!plan.to_string().is_empty());
                    assert!(plan.changes(&plan).is_empty());
                    assert!(!Plan::empty().changes(&plan).is_empty());
                    return;
                }
            }
        }
    };
    assert!(!errors.complaints().is_empty(), "refused without a word");
    for complaint in errors.complaints() {
        assert!(
            !complaint.message.is_empty() && !complaint.help.is_empty(),
            "{complaint:?}"
        );
        let places = [
            complaint.at,
            complaint.other.as_ref().map(|(place, _)| *place),
        ];
        for place in places.into_iter().flatten() {
            let text = &errors
                .sources()
                .get(place.file)
                .expect("a file of these")
                .text;
            assert!(
                text.get(place.start..place.end).is_some(),
                "{complaint:?} is outside of the text"
            );
            assert!(errors.sources().cite(place).is_some());
        }
    }
    // Only what no line says has no place: a default that does not fit.
    let said = errors.to_string();
    assert!(
        !said
            .chars()
            .any(|c| c.is_control() && c != '\n' && c != '\t'),
        "{said:?}"
    );
}
