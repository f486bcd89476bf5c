//! A slice's file as JSON: written anew in the policy language, read by its reader, and what is wrong
//! told by the path of the key.

use std::fmt::Write;
use std::ops::Range;

use policy::config::{LENDABLE, Objection, Terms};
use serde_json::Value;

/// Most errors that are told of one body: each is looked for among all keys.
const MOST: usize = 64;

/// What this document asks for.
///
/// # Errors
/// Everything that is wrong in it, by path.
pub fn read(name: &str, document: &Value) -> Result<Terms, Vec<Objection>> {
    let Value::Object(_) = document else {
        return Err(vec![Objection::new("", "The body is no JSON object.")]);
    };
    let mut written = Written::default();
    written.top(document);
    let mut wrong = written.refused.clone();
    match Terms::read(name, &written.text) {
        Ok(terms) if wrong.is_empty() => return Ok(terms),
        Ok(_) => {}
        Err(errors) => wrong.extend(errors.complaints().iter().take(MOST).map(|complaint| {
            let field = complaint.at.map_or("", |place| written.field(place.start));
            let message = format!("{}; {}", complaint.message, complaint.help);
            Objection::new(field, message)
        })),
    }
    wrong.truncate(MOST);
    Err(wrong)
}

/// The text, and where in it each key stands.
#[derive(Default)]
struct Written {
    text: String,
    places: Vec<(Range<usize>, String)>,
    refused: Vec<Objection>,
}

impl Written {
    /// A line for each key of the top.
    fn top(&mut self, document: &Value) {
        self.keys("", document, "\n", " = ");
    }

    fn keys(&mut self, path: &str, table: &Value, after: &str, between: &str) {
        for (key, value) in table.as_object().into_iter().flatten() {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            // As if it were not there.
            if value.is_null() {
                continue;
            }
            if !lendable(&path) && path != "name" {
                let message = "is not a controlling slice's to give";
                self.refused.push(Objection::new(&path, message));
                continue;
            }
            let start = self.text.len();
            self.string(key);
            self.text.push_str(between);
            self.value(&path, value);
            self.places.push((start..self.text.len(), path));
            self.text.push_str(after);
        }
    }

    fn value(&mut self, path: &str, value: &Value) {
        match value {
            Value::Null => self.text.push_str("\"\""),
            Value::Bool(flag) => self.text.push_str(if *flag { "true" } else { "false" }),
            Value::Number(number) => {
                // Writing to a String does not fail.
                let _ = write!(self.text, "{number}");
            }
            Value::String(text) => self.string(text),
            Value::Array(list) => {
                self.text.push('[');
                for (index, entry) in list.iter().enumerate() {
                    let start = self.text.len();
                    let path = format!("{path}[{index}]");
                    self.value(&path, entry);
                    self.places.push((start..self.text.len(), path));
                    self.text.push_str(", ");
                }
                self.text.push(']');
            }
            Value::Object(_) => {
                self.text.push('{');
                self.keys(path, value, ", ", " = ");
                if self.text.ends_with(", ") {
                    self.text.truncate(self.text.len() - 2);
                }
                self.text.push('}');
            }
        }
    }

    /// A string that is the same in TOML, whatever is in it.
    fn string(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                c if c.is_control() => {
                    let _ = write!(self.text, "\\u{:04x}", u32::from(c));
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }

    /// The innermost key whose text holds this place.
    fn field(&self, at: usize) -> &str {
        let around = self.places.iter().filter(|(range, _)| range.contains(&at));
        let innermost = around.min_by_key(|(range, _)| range.len());
        innermost.map_or("", |(_, path)| path)
    }
}

/// Whether the key, or one within it, may be asked for.
fn lendable(path: &str) -> bool {
    LENDABLE.iter().any(|key| {
        key.strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Terms, Vec<Objection>> {
        read("exp_a", &serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_slices_file_as_json_means_what_it_means_as_toml() {
        let json = r#"{"name": "exp_a", "description": "a \"line\" \u007f?", "processes": 5, "raw": null,
            "ports": {"tcp": [20000, "20002-20003"], "udp": []}, "cpu": {"floor": 0.5, "cap": "150 %"},
            "memory": {"cap": "64 MiB"}, "context": {"image": "small", "autostart": false}}"#;
        let toml = "description = \"a \\\"line\\\" ?\"\nprocesses = 5\n[ports]\ntcp = [20000, \"20002-20003\"]\nudp = []\n[cpu]\nfloor = 0.5\ncap = \"150 %\"\n[memory]\ncap = \"64 MiB\"\n[context]\nimage = \"small\"\nautostart = false\n";
        let json = json.replace("\\u007f", "");
        assert_eq!(
            read_text(&json).unwrap(),
            Terms::read("exp_a", toml).unwrap()
        );
    }

    /// Each thing that no body may ask for: it is refused by name, whatever else is right.
    #[test]
    fn what_no_controller_may_give_is_refused_by_its_path() {
        let cases = [
            (r#""role": "management""#, "role"),
            (r#""grants": ["control"]"#, "grants"),
            (r#""control": {"prefix": "x"}"#, "control"),
            (r#""sockets": 100000"#, "sockets"),
            (r#""connections": 1"#, "connections"),
            (r#""events_per_second": 100000"#, "events_per_second"),
            (r#""address": {"ipv4": "203.0.113.53"}"#, "address"),
            (r#""refuse": []"#, "refuse"),
            (r#""links": {"eth0": {"floor": "1 Mbit/s"}}"#, "links"),
            (r#""io": {"weight": 10000}"#, "io"),
            (r#""ports": {"raw_tcp": [20000]}"#, "ports.raw_tcp"),
            (r#""ports": {"claim": true}"#, "ports.claim"),
            (r#""cpu": {"share": 1000}"#, "cpu.share"),
            (r#""link": {"share": 1000}"#, "link.share"),
            (r#""link": {"quota": "1 TB"}"#, "link.quota"),
            (r#""link": {"quota_period": "1 day"}"#, "link.quota_period"),
            (r#""link": {"exempt_cap": "1 Gbit/s"}"#, "link.exempt_cap"),
            (r#""link": {"exempt": ["0.0.0.0/0"]}"#, "link.exempt"),
            (r#""disk": {"inodes": 4000000000}"#, "disk.inodes"),
            (
                r#""context": {"image": "small", "nested": true}"#,
                "context.nested",
            ),
            (
                r#""context": {"image": "small", "capabilities": ["sys_admin"]}"#,
                "context.capabilities",
            ),
            (
                r#""context": {"image": "small", "stop_after": "600 s"}"#,
                "context.stop_after",
            ),
            (r#""login": {"authorities": []}"#, "login.authorities"),
            (r#""node": {"max_slices": 9}"#, "node"),
            (r#""exempt": ["0.0.0.0/0"]"#, "exempt"),
            (r#""id": 7"#, "id"),
            (r#""uid": 0"#, "uid"),
            (r#""controller": "other""#, "controller"),
            (r#""ports.tcp": [80]"#, "ports.tcp"),
            (r#""": 1"#, ""),
            ("\"a\\nrole\": 1", "a\nrole"),
        ];
        for (more, path) in cases {
            let context = r#""context": {"image": "small"}"#;
            let text = if more.contains("\"context\"") {
                format!("{{{more}}}")
            } else {
                format!("{{{context}, {more}}}")
            };
            let wrong = read_text(&text).expect_err(more);
            assert!(
                wrong.iter().any(|one| one.field == path),
                "{more}: {wrong:?}"
            );
        }
        assert!(read_text(r#"{"context": {"image": "small"}}"#).is_ok());
    }

    #[test]
    fn what_was_told_of_a_slice_can_be_asked_for_again() {
        let full = Terms {
            description: Some("a \"line\"".into()),
            processes: Some(7),
            tcp: vec![(20000, 20000), (20002, 20005)],
            udp: vec![(1, 65535)],
            cpu_floor: 1,
            cpu_cap: Some(1000),
            memory_floor: (64 << 20) + 1,
            memory_cap: Some(1 << 30),
            disk_cap: Some(u64::MAX),
            link_floor: 12_345,
            link_cap: Some(100_000_000),
            link_packets: Some(5000),
            link_receive: Some(600_000),
            image: "small".into(),
            hostname: "host".into(),
            autostart: false,
            raw: true,
            ..Terms::default()
        };
        let bare = Terms {
            image: "small".into(),
            hostname: "exp_a".into(),
            autostart: true,
            ..Terms::default()
        };
        for terms in [full, bare] {
            let told = super::super::documents::Terms::from(&terms);
            let document = serde_json::to_value(&told).unwrap();
            assert_eq!(read("exp_a", &document).unwrap(), terms, "{document}");
            assert_eq!(
                serde_json::from_value::<super::super::documents::Terms>(document).unwrap(),
                told
            );
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_by_path() {
        let text = r#"{"name": "exp_b", "processes": 0, "memory": {"cap": "64 MB!"}, "ports": {"tcp": [1, "x"]},
            "context": {"image": "../x"}, "cpu": 5, "login": {"keys": ["no key"]}, "grants": []}"#;
        let wrong = read_text(text).unwrap_err();
        let fields: Vec<_> = wrong.iter().map(|one| one.field.as_str()).collect();
        for field in [
            "name",
            "processes",
            "memory.cap",
            "ports.tcp[1]",
            "context.image",
            "cpu",
            "login.keys[0]",
            "grants",
        ] {
            assert!(fields.contains(&field), "{field}: {wrong:#?}");
        }
        for text in ["[]", "7", "\"x\"", "null"] {
            assert!(read_text(text).is_err(), "{text}");
        }
    }
}
