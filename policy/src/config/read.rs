//! One file's text, checked against its [`TableDef`]: every error in it, and the values that are
//! right.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::device::DeviceName;
use super::error::Complaint;
use super::fields::{Fields, Value};
use super::keys::{DEVICE, Key, TableDef, Takes, quoted};
use super::name::SliceName;
use super::source::{At, Place};
use super::units::{
    BitsPerSecond, Bytes, CPU, Kind, MilliCores, MilliPercent, Nanoseconds, PART, RATE, SIZE,
    THROUGHPUT, TIME,
};
use super::{MemoryGive, syntax};
use crate::decide::loopback::row_of;

/// Reads one file.
pub(super) struct Reader<'a> {
    file: usize,
    text: &'a str,
    root: &'static TableDef,
    /// The other kind of file, for keys that are written in the wrong one.
    elsewhere: (&'static TableDef, &'static str),
    pub(super) complaints: Vec<Complaint>,
}

/// Checks a file; complains about everything that is wrong.
pub(super) fn read(
    file: usize,
    text: &str,
    root: &'static TableDef,
    elsewhere: (&'static TableDef, &'static str),
    complaints: &mut Vec<Complaint>,
) -> Fields {
    let (document, broken) = DeTable::parse_recoverable(text);
    let syntax = syntax::Syntax::new(file, text, document.get_ref(), &broken);
    let mut reader = Reader {
        file,
        text,
        root,
        elsewhere,
        complaints: Vec::new(),
    };
    let fields = reader.table(root, None, document.get_ref(), Place::top(file));
    // What the parser guessed where it could not read would be blamed on the owner.
    let meant = reader
        .complaints
        .into_iter()
        .filter(|complaint| !syntax.clouds(complaint.at));
    complaints.extend(meant);
    complaints.extend(syntax.complaints);
    fields
}

impl Reader<'_> {
    pub(super) fn complain(&mut self, complaint: Complaint) {
        self.complaints.push(complaint);
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.file, span)
    }

    fn table(
        &mut self,
        def: &'static TableDef,
        device: Option<&str>,
        table: &DeTable<'_>,
        at: Place,
    ) -> Fields {
        let mut values = BTreeMap::new();
        for (name, value) in table {
            let key_at = self.place(name.span());
            match def.key(name.get_ref()) {
                None => {
                    let table = value.get_ref().is_table();
                    let complaint = self.unknown((def, device), name.get_ref(), table, key_at);
                    self.complain(complaint);
                }
                Some(key) => {
                    let place = self.place(value.span());
                    // Explicit tables have the span of their header, implicit ones none.
                    let place = if place.end > place.start {
                        place
                    } else {
                        key_at
                    };
                    if let Some(read) = self.value(key, value, place) {
                        values.insert(key.name, At::written(read, place));
                    }
                }
            }
        }
        for key in def.keys {
            if key.takes.required() && !table.contains_key(key.name) {
                self.complain(Complaint::at(
                    at,
                    format!("{} has no `{}`", def.title_of(device), key.name),
                    format!("add for example `{} = {}`", key.name, key.example),
                ));
            }
        }
        Fields::new(at, values)
    }

    /// A key nobody declared: what may have been meant.
    fn unknown(
        &self,
        (def, device): (&'static TableDef, Option<&str>),
        name: &str,
        is_table: bool,
        at: Place,
    ) -> Complaint {
        let preposition = if def.path.is_empty() { "at" } else { "in" };
        let message = format!(
            "unknown key `{name}` {preposition} {}",
            def.title_of(device)
        );
        let near = def
            .keys
            .iter()
            .filter_map(|key| Some((distance(name, key.name)?, key.name)))
            .min();
        // A table belongs where a table of that name is, not where a value is called so.
        let fits = |table: &&'static TableDef| {
            table
                .key(name)
                .is_some_and(|key| is_table == key.takes.table().is_some())
        };
        let home = self
            .root
            .tables()
            .into_iter()
            .filter(|table| table.path != def.path)
            .find(fits);
        let other_file = self.elsewhere.0.tables().into_iter().find(fits);
        let help = if let Some((_, near)) = near {
            format!("did you mean `{near}`?")
        } else if let (true, Some(device)) = (is_table, device) {
            // A dot in the name of a device (VLANs have one) is TOML's own.
            let dotted = quoted(&format!("{device}.{name}"));
            format!(
                "put the name of the device in quotes: `{}`",
                def.title().replace(DEVICE, &dotted)
            )
        } else if let (true, Some(one)) = (is_table, self.one_of(def)) {
            format!(
                "write the header `{}`",
                one.title().replace(DEVICE, &quoted(name))
            )
        } else if let Some(table) = home {
            match table.path {
                "" => format!("`{name}` belongs at the top of the file, before the first [table]"),
                _ => format!("`{name}` belongs in {}", table.title()),
            }
        } else if let Some(table) = other_file {
            match table.path {
                "" => format!("`{name}` belongs in {}", self.elsewhere.1),
                _ => format!(
                    "`{name}` belongs in {} of {}",
                    table.title(),
                    self.elsewhere.1
                ),
            }
        } else {
            let known: Vec<String> = def
                .keys
                .iter()
                .map(|key| format!("`{}`", key.name))
                .collect();
            format!("known here: {}", known.join(", "))
        };
        Complaint::at(at, message, help)
    }

    /// Where this table is about all devices, that about one.
    fn one_of(&self, def: &'static TableDef) -> Option<&'static TableDef> {
        self.root.keys.iter().find_map(|key| match key.takes {
            Takes::Devices {
                one,
                every: Some(every),
            } if every.path == def.path => Some(one),
            _ => None,
        })
    }

    fn value(
        &mut self,
        key: &'static Key,
        value: &Spanned<DeValue<'_>>,
        at: Place,
    ) -> Option<Value> {
        let written = value.get_ref();
        match (&key.takes, written) {
            (Takes::Count { low, high, .. }, DeValue::Integer(number)) => {
                let number =
                    i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX);
                match u32::try_from(number) {
                    Ok(count) if (*low..=*high).contains(&count) => Some(Value::Count(count)),
                    _ => self.refuse(
                        at,
                        format!("`{}` is out of range", key.name),
                        format!("write {}", key.takes.describe()),
                    ),
                }
            }
            (Takes::Size { low, .. }, DeValue::String(text)) => {
                let bytes = self.quantity(key, &SIZE, text, at, *low, u64::MAX)?;
                Some(Value::Size(Bytes(bytes)))
            }
            (Takes::Throughput { low }, DeValue::String(text)) => {
                let bytes = self.quantity(key, &THROUGHPUT, text, at, *low, u64::MAX)?;
                Some(Value::Size(Bytes(bytes)))
            }
            (Takes::Rate { low, high, .. }, DeValue::String(text)) => {
                let bits = self.quantity(key, &RATE, text, at, *low, *high)?;
                Some(Value::Rate(BitsPerSecond(bits)))
            }
            (Takes::SizeOrPart { .. }, DeValue::String(text)) if text.trim_end().ends_with('%') => {
                let part = self.quantity(key, &PART, text, at, 1, 100_000)?;
                let part = MilliPercent(u32::try_from(part).ok()?);
                Some(Value::SizeOrPart(MemoryGive::OfNode(part)))
            }
            (Takes::SizeOrPart { low }, DeValue::String(text)) => {
                let bytes = self.quantity(key, &SIZE, text, at, *low, u64::MAX)?;
                Some(Value::SizeOrPart(MemoryGive::Bytes(Bytes(bytes))))
            }
            (Takes::Time { low, high, .. }, DeValue::String(text)) => {
                let time = self.quantity(key, &TIME, text, at, *low, *high)?;
                Some(Value::Time(Nanoseconds(time)))
            }
            (Takes::Cpu { low, high, .. }, DeValue::String(text)) => {
                let cores = self.quantity(key, &CPU, text, at, *low, *high)?;
                Some(Value::Cpu(MilliCores(cores)))
            }
            (Takes::Cpu { low, high, .. }, DeValue::Integer(number)) if number.radix() == 10 => {
                let cores = self.quantity(key, &CPU, number.as_str(), at, *low, *high)?;
                Some(Value::Cpu(MilliCores(cores)))
            }
            (Takes::Cpu { low, high, .. }, DeValue::Float(number)) => {
                let cores = self.quantity(key, &CPU, number.as_str(), at, *low, *high)?;
                Some(Value::Cpu(MilliCores(cores)))
            }
            (Takes::Flag { .. }, DeValue::Boolean(flag)) => Some(Value::Flag(*flag)),
            (Takes::Text { longest }, DeValue::String(text)) => {
                if text.chars().any(char::is_control) || text.chars().count() > *longest {
                    let what = key.takes.describe();
                    return self.refuse(
                        at,
                        format!("`{}` is not {what}", key.name),
                        "shorten it to one line",
                    );
                }
                Some(Value::Text(text.clone().into_owned()))
            }
            (Takes::Word { words, later }, DeValue::String(text)) => {
                if let Some(word) = words.iter().find(|word| **word == text.as_ref()) {
                    return Some(Value::Word(word));
                }
                if let Some((word, needs)) = later.iter().find(|(word, _)| *word == text.as_ref()) {
                    let message = format!(
                        "`{} = \"{word}\"` needs {needs}, which this build does not have",
                        key.name
                    );
                    return self.refuse(at, message, format!("write {}", key.takes.describe()));
                }
                let near = words.iter().find(|word| distance(text, word).is_some());
                let help = near.map_or_else(
                    || format!("write one of {}", key.takes.describe()),
                    |word| format!("did you mean \"{word}\"?"),
                );
                self.refuse(at, format!("`{}` cannot be \"{text}\"", key.name), help)
            }
            (Takes::Words { words, later }, DeValue::Array(list)) => {
                Some(Value::Words(self.words(key, words, later, list)))
            }
            (Takes::PublicKeys, DeValue::Array(list)) => {
                Some(Value::PublicKeys(self.public_keys(key, list)))
            }
            (Takes::Name, DeValue::String(text)) => match SliceName::new(text) {
                Ok(name) => Some(Value::Name(name)),
                Err(bad) => self.refuse(at, format!("the name \"{text}\" {bad}"), NAME_HELP),
            },
            (Takes::Names, DeValue::Array(list)) => Some(Value::Names(self.names(key, list))),
            (Takes::Ports, DeValue::Array(list)) => Some(Value::Ports(self.ports(key, list))),
            (Takes::Prefixes { required }, DeValue::Array(list)) => {
                if *required && list.is_empty() {
                    return self.refuse(
                        at,
                        format!("`{}` is empty", key.name),
                        format!(
                            "add for example `{} = {}`, or remove the rule",
                            key.name, key.example
                        ),
                    );
                }
                // With a part of the list unread, what depends on it would be blamed wrongly.
                self.prefixes(key, list).map(Value::Prefixes)
            }
            (Takes::Ipv4, DeValue::String(text)) => match text.parse::<Ipv4Addr>() {
                Ok(address) => self
                    .unicast(IpAddr::V4(address), at)
                    .then_some(Value::Ipv4(address)),
                Err(_) => self.no_address(key, text, at),
            },
            (Takes::Ipv6, DeValue::String(text)) => match text.parse::<Ipv6Addr>() {
                Ok(address) => self
                    .unicast(IpAddr::V6(address), at)
                    .then_some(Value::Ipv6(address)),
                Err(_) => self.no_address(key, text, at),
            },
            (Takes::Table(def), DeValue::Table(table)) => {
                Some(Value::Table(self.table(def, None, table, at)))
            }
            (Takes::Devices { one, every }, DeValue::Table(table)) => {
                Some(Value::Devices(self.devices(key, (one, *every), table)))
            }
            (Takes::Tables(def), DeValue::Array(list)) => {
                let mut tables = Vec::new();
                for entry in list {
                    let entry_at = self.place(entry.span());
                    match entry.get_ref() {
                        DeValue::Table(table) => {
                            tables.push(self.table(def, None, table, entry_at));
                        }
                        other => self.wrong_type(key, other, entry_at),
                    }
                }
                Some(Value::Tables(tables))
            }
            (_, other) => {
                self.wrong_type(key, other, at);
                None
            }
        }
    }

    /// Tables by the names of devices.
    fn devices(
        &mut self,
        key: &'static Key,
        (one, every): (&'static TableDef, Option<&'static TableDef>),
        table: &DeTable<'_>,
    ) -> Vec<(DeviceName, Fields)> {
        let mut tables = Vec::new();
        for (name, value) in table {
            let name_at = self.place(name.span());
            let DeValue::Table(table) = value.get_ref() else {
                let message = format!("unknown key `{}` in [{}]", name.get_ref(), key.name);
                let one = one.title();
                let help = match every.filter(|every| every.key(name.get_ref()).is_some()) {
                    Some(every) => {
                        format!("write the header `{}`, or `{one}` for one", every.title())
                    }
                    None => format!("write the header `{one}` and the keys below it"),
                };
                self.complain(Complaint::at(name_at, message, help));
                continue;
            };
            let at = self.place(value.span());
            // As with every table.
            let at = if at.end > at.start { at } else { name_at };
            match DeviceName::new(name.get_ref()) {
                Ok(device) => {
                    let fields = self.table(one, Some(device.as_str()), table, at);
                    tables.push((device, fields));
                }
                Err(bad) => {
                    let message = format!("the name \"{}\" {bad}", name.get_ref());
                    let help = "write the name of an uplink device, as `ip link` shows it";
                    self.complain(Complaint::at(name_at, message, help));
                }
            }
        }
        tables.sort_by_key(|(_, fields)| fields.at);
        tables
    }

    fn refuse(
        &mut self,
        at: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Option<Value> {
        self.complain(Complaint::at(at, message, help));
        None
    }

    pub(super) fn wrong_type(&mut self, key: &'static Key, value: &DeValue<'_>, at: Place) {
        let message = format!(
            "`{}` takes {}, and this is {}",
            key.name,
            key.takes.describe(),
            kind_of(value)
        );
        let help = match key.takes {
            Takes::Table(table) | Takes::Devices { one: table, .. } => {
                format!("write the header `[{}]` and the keys below it", table.path)
            }
            Takes::Tables(table) => format!(
                "write `[[{}]]`, with two brackets, before each of them",
                table.path
            ),
            _ => format!("write for example `{} = {}`", key.name, key.example),
        };
        self.complain(Complaint::at(at, message, help));
    }

    /// A quantity within a range, in the steps of its kind.
    fn quantity(
        &mut self,
        key: &'static Key,
        kind: &'static Kind,
        text: &str,
        at: Place,
        low: u64,
        high: u64,
    ) -> Option<u64> {
        match kind.parse(text) {
            Ok(steps) if (low..=high).contains(&steps) => Some(steps),
            Ok(_) => {
                let message = format!("`{}` is out of range", key.name);
                self.complain(Complaint::at(
                    at,
                    message,
                    format!("write {}", key.takes.describe()),
                ));
                None
            }
            Err(bad) => {
                let part = self.inside(at, text, bad.span.clone());
                let message = format!("`{}`: {}", key.name, bad.says(text, kind));
                self.complain(Complaint::at(part, message, kind.help(&bad)));
                None
            }
        }
    }

    /// The place of a part of a string, where the string stands in the file as it is.
    fn inside(&self, at: Place, text: &str, part: Range<usize>) -> Place {
        let written = self.text.get(at.start..at.end).unwrap_or("");
        let quote = usize::from(written.starts_with(['"', '\'']));
        if written.get(quote..quote + text.len()) == Some(text) && !part.is_empty() {
            Place::new(
                at.file,
                at.start + quote + part.start..at.start + quote + part.end,
            )
        } else {
            at
        }
    }

    fn no_address(&mut self, key: &'static Key, text: &str, at: Place) -> Option<Value> {
        let message = format!("\"{text}\" is not {}", key.takes.describe());
        self.refuse(
            at,
            message,
            format!("write for example `{} = {}`", key.name, key.example),
        )
    }

    /// Whether the address can be one slice's own.
    fn unicast(&mut self, address: IpAddr, at: Place) -> bool {
        let what = match address {
            a if a.is_loopback() => "a loopback address",
            IpAddr::V6(v6) if row_of(&v6.octets()).is_some() => {
                "an address of the private loopbacks of slices"
            }
            a if a.is_unspecified() => "the wildcard address",
            a if a.is_multicast() => "a multicast address",
            IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address written as IPv6",
            // Without the interface a link-local address does not say which one it is.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
            _ => return true,
        };
        let help = "write a unicast address of the node that only this slice is to use";
        self.complain(Complaint::at(at, format!("{address} is {what}"), help));
        false
    }
}

/// How to mend a bad name.
pub(super) const NAME_HELP: &str = "a name is a lower-case letter and up to 30 more of a-z, 0-9 and _; `node`, `all` and `unattributed` are taken";

/// How far two words are apart, if one may be meant by the other.
pub(super) fn distance(written: &str, known: &str) -> Option<usize> {
    let distance = strsim::damerau_levenshtein(written, known);
    let short = written.chars().count().min(known.len());
    (distance <= (short / 3).max(1) && distance < short).then_some(distance)
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "`true` or `false`",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
