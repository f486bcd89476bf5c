//! In which form a document is told, and whether who asks has it already.

use std::hash::{DefaultHasher, Hash, Hasher};

use hyper::header::{self, HeaderMap, HeaderValue};

/// Whether one of these types is accepted: what no header says is, and what cannot be
/// read says nothing.
#[must_use]
pub fn is_acceptable(headers: &HeaderMap, produced: &[&str]) -> bool {
    let ranges: Vec<(&str, bool)> = list(headers, &header::ACCEPT).map(range).collect();
    ranges.is_empty() || produced.iter().any(|kind| is_wanted(&ranges, kind))
}

/// Whether this type is named, and not to say that it is not wanted.
#[must_use]
pub fn is_named(headers: &HeaderMap, kind: &str) -> bool {
    let mut ranges = list(headers, &header::ACCEPT).map(range);
    ranges.any(|(range, wanted)| wanted && range.eq_ignore_ascii_case(kind))
}

/// The most exact of the ranges that a type is in says whether it is wanted.
fn is_wanted(ranges: &[(&str, bool)], kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or(kind).trim();
    let major = kind.split('/').next().unwrap_or(kind);
    let exactness = |range: &str| {
        if range.eq_ignore_ascii_case(kind) {
            return Some(2);
        }
        let of = range.strip_suffix("/*")?;
        match of {
            "*" => Some(0),
            of => of.eq_ignore_ascii_case(major).then_some(1),
        }
    };
    let known = ranges
        .iter()
        .filter_map(|(range, wanted)| Some((exactness(range)?, *wanted)));
    known.max().is_some_and(|(_, wanted)| wanted)
}

/// A media range, and whether it is wanted at all.
fn range(text: &str) -> (&str, bool) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| {
        let (name, weight) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| weight.trim())
    });
    let nothing = weight.is_some_and(|weight| weight.parse() == Ok(0.0));
    (range, !nothing)
}

/// The parts of a header that is a list.
fn list<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// What tells a body from every other of its document. Who makes two bodies that have
/// one (the hash is no secret) misleads itself: it is of what the asker itself is told.
#[must_use]
pub fn tag(body: &[u8]) -> HeaderValue {
    let half = |first: u8| {
        let mut hasher = DefaultHasher::new();
        (first, body).hash(&mut hasher);
        hasher.finish()
    };
    let text = format!("\"{:016x}{:016x}\"", half(0), half(1));
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether who asks has what has this tag.
#[must_use]
pub fn has(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let tag = tag.to_str().unwrap_or_default();
    list(headers, &header::IF_NONE_MATCH)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(accept: &str) -> HeaderMap {
        let value = HeaderValue::from_bytes(accept.as_bytes()).unwrap();
        HeaderMap::from_iter([(header::ACCEPT, value)])
    }

    #[test]
    fn a_form_is_accepted_by_the_most_exact_range() {
        const JSON: &[&str] = &["application/json"];
        assert!(is_acceptable(&HeaderMap::new(), JSON));
        for (accept, accepted) in [
            ("*/*", true),
            ("application/*", true),
            ("Application/JSON", true),
            ("application/json;charset=utf-8", true),
            ("text/html, application/json;q=0.1", true),
            ("text/html", false),
            ("text/*, image/*", false),
            ("application/json;q=0", false),
            ("*/*, application/json; q=0.000", false),
            ("application/json, */*;q=0", true),
            ("", true),
            ("\u{e9}", true),
            ("nonsense", false),
        ] {
            assert_eq!(
                is_acceptable(&accepting(accept), JSON),
                accepted,
                "{accept}"
            );
        }
        let metrics = [
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "text/plain",
        ];
        assert!(is_acceptable(&accepting("text/plain"), &metrics));
        assert!(!is_acceptable(&accepting("application/json"), &metrics));
    }

    #[test]
    fn who_has_a_body_says_so_by_its_tag_alone() {
        let (tag, other) = (tag(b"body"), tag(b"bodY"));
        assert_ne!(tag, other);
        let text = tag.to_str().unwrap().to_owned();
        let knows = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, value)]);
            has(&headers, &tag)
        };
        assert!(knows(&text) && knows(&format!("W/{text}")) && knows("*"));
        assert!(knows(&format!("\"x\", {text}")));
        assert!(!knows(other.to_str().unwrap()) && !knows("") && !knows("\"\""));
        assert!(!knows(text.trim_matches('"')));
        assert!(!has(&HeaderMap::new(), &tag));
    }
}
