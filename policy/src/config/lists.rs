//! Lists of ports, of prefixes, of words and of public keys.

use toml::Spanned;
use toml::de::DeValue;

use super::error::Complaint;
use super::keys::Key;
use super::name::SliceName;
use super::ports::{BadPorts, PortRange};
use super::prefix::{BadPrefix, Prefix};
use super::public_key::PublicKey;
use super::read::{NAME_HELP, Reader, distance};
use super::source::At;

impl Reader<'_> {
    /// The words that are known, in the order of the file.
    pub(super) fn words(
        &mut self,
        key: &'static Key,
        words: &'static [&'static str],
        later: &'static [(&'static str, &'static str)],
        list: &[Spanned<DeValue<'_>>],
    ) -> Vec<&'static str> {
        let mut known = Vec::new();
        for entry in list {
            let at = self.place(entry.span());
            let DeValue::String(text) = entry.get_ref() else {
                self.wrong_type(key, entry.get_ref(), at);
                continue;
            };
            if let Some(word) = words.iter().find(|word| **word == text.as_ref()) {
                known.push(*word);
                continue;
            }
            if let Some((word, needs)) = later.iter().find(|(word, _)| *word == text.as_ref()) {
                let message = format!(
                    "`{word}` in `{}` needs {needs}, which this build does not have",
                    key.name
                );
                let help = format!("write {}", key.takes.describe());
                self.complain(Complaint::at(at, message, help));
                continue;
            }
            // Two letters at most: a word that is refused on purpose must not be
            // answered with one that only looks like it.
            let near = words
                .iter()
                .filter_map(|word| Some((distance(text, word)?, word)))
                .filter(|(distance, _)| *distance <= 2)
                .min();
            let help = near.map_or_else(
                || format!("`{}` takes {}", key.name, key.takes.describe()),
                |(_, word)| format!("did you mean \"{word}\"?"),
            );
            let message = format!("`{}` cannot have \"{text}\"", key.name);
            self.complain(Complaint::at(at, message, help));
        }
        known
    }

    /// The public keys that are right, in the order of the file.
    pub(super) fn public_keys(
        &mut self,
        key: &'static Key,
        list: &[Spanned<DeValue<'_>>],
    ) -> Vec<PublicKey> {
        let mut keys = Vec::new();
        for entry in list {
            let at = self.place(entry.span());
            let DeValue::String(text) = entry.get_ref() else {
                self.wrong_type(key, entry.get_ref(), at);
                continue;
            };
            match PublicKey::parse(text) {
                Ok(key) => keys.push(key),
                Err(bad) => self.complain(Complaint::at(
                    at,
                    format!("the key in `{}` {bad}", key.name),
                    "copy the whole line of a file like ~/.ssh/id_ed25519.pub",
                )),
            }
        }
        keys
    }

    /// The names that are right, in the order of the file.
    pub(super) fn names(
        &mut self,
        key: &'static Key,
        list: &[Spanned<DeValue<'_>>],
    ) -> Vec<SliceName> {
        let mut names = Vec::new();
        for entry in list {
            let at = self.place(entry.span());
            let DeValue::String(text) = entry.get_ref() else {
                self.wrong_type(key, entry.get_ref(), at);
                continue;
            };
            match SliceName::new(text) {
                Ok(name) => names.push(name),
                Err(bad) => {
                    let message = format!("the name \"{text}\" {bad}");
                    self.complain(Complaint::at(at, message, NAME_HELP));
                }
            }
        }
        names
    }

    /// The ports and ranges that are right, sorted.
    pub(super) fn ports(
        &mut self,
        key: &'static Key,
        list: &[Spanned<DeValue<'_>>],
    ) -> Vec<At<PortRange>> {
        let mut ports: Vec<At<PortRange>> = Vec::new();
        for entry in list {
            let at = self.place(entry.span());
            let (shown, range) = match entry.get_ref() {
                DeValue::Integer(number) => {
                    let port = i128::from_str_radix(number.as_str(), number.radix()).ok();
                    let port = port
                        .and_then(|port| u16::try_from(port).ok())
                        .ok_or(BadPorts::Number);
                    (
                        number.to_string(),
                        port.and_then(|port| PortRange::new(port, port)),
                    )
                }
                DeValue::String(text) => (format!("\"{text}\""), PortRange::parse(text)),
                other => {
                    self.wrong_type(key, other, at);
                    continue;
                }
            };
            match range {
                Err(bad) => {
                    let help = match bad {
                        BadPorts::Form => {
                            String::from("write a port like 80 or a range like \"8000-8010\"")
                        }
                        BadPorts::Number => String::from("write a port from 1 to 65535"),
                        BadPorts::Order => String::from("write the lower port first"),
                    };
                    self.complain(Complaint::at(
                        at,
                        format!("{shown} in `{}` {bad}", key.name),
                        help,
                    ));
                }
                Ok(range) => ports.push(At::written(range, at)),
            }
        }
        ports.sort_by_key(|range| (range.value, range.at));
        self.twice(key, &ports);
        ports
    }

    /// Complains about each range that overlaps one before it.
    fn twice(&mut self, key: &'static Key, sorted: &[At<PortRange>]) {
        let mut widest: Option<At<PortRange>> = None;
        for range in sorted {
            if let Some(before) = widest
                && let Some(shared) = before.value.overlap(range.value)
            {
                // The later one in the file is the one too many.
                let (first, second) = if before.at <= range.at {
                    (before, *range)
                } else {
                    (*range, before)
                };
                if let Some(at) = second.at {
                    let message = format!("port {shared} is listed twice in `{}`", key.name);
                    let complaint = Complaint::at(at, message, "remove one of the two");
                    self.complain(complaint.with_other(first.at, "listed here"));
                }
            }
            if widest.is_none_or(|before| range.value.high() > before.value.high()) {
                widest = Some(*range);
            }
        }
    }

    /// The prefixes, if all are right.
    pub(super) fn prefixes(
        &mut self,
        key: &'static Key,
        list: &[Spanned<DeValue<'_>>],
    ) -> Option<Vec<At<Prefix>>> {
        let mut prefixes = Vec::new();
        let before = self.complaints.len();
        for entry in list {
            let at = self.place(entry.span());
            let DeValue::String(text) = entry.get_ref() else {
                self.wrong_type(key, entry.get_ref(), at);
                continue;
            };
            match Prefix::parse(text) {
                Ok(prefix) => prefixes.push(At::written(prefix, at)),
                Err(bad) => {
                    let help = match bad {
                        BadPrefix::Form => String::from(
                            "write for example \"192.0.2.1\", \"10.0.0.0/8\" or \"2001:db8::/32\"",
                        ),
                        BadPrefix::Length(longest) => format!("write a length from 0 to {longest}"),
                        BadPrefix::HostBits(network) => {
                            format!("write \"{network}\", or a longer length")
                        }
                        BadPrefix::Mapped(v4) => format!("write \"{v4}\""),
                    };
                    self.complain(Complaint::at(at, format!("\"{text}\" {bad}"), help));
                }
            }
        }
        (self.complaints.len() == before).then_some(prefixes)
    }
}
