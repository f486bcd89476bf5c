//! The rows as OpenMetrics 1.0 text, and as the text format before it: one table
//! says which families there are.
//!
//! Labels take only names of slices, links, reasons and directions: as many series as
//! there are rows, times a constant, and rows on links, likewise. A limit is absent where nothing bounds it.

use std::fmt::Write;

use super::answers::Attributes;
use super::wire::Exposition;
use crate::report::status::{Row, Transfer, Volume};
use crate::report::{Link, Used};
use Kind::{Counter, Gauge, Info};
use families::{FAMILIES, Family, Kind, OF_LINKS};

mod families;

/// The type of a body in this form.
#[must_use]
pub const fn content_type(exposition: Exposition) -> &'static str {
    match exposition {
        Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Exposition::Text => "text/plain; version=0.0.4; charset=utf-8",
    }
}

/// A text that grows.
struct Text {
    exposition: Exposition,
    text: String,
}

/// Where the samples of one family go.
struct Samples<'a> {
    text: &'a mut String,
    family: &'a str,
    suffix: &'static str,
    slice: &'a str,
    link: Option<&'a str>,
}

/// The text about these rows and those on links, and about the node where the reader
/// may know.
#[must_use]
pub fn render(
    exposition: Exposition,
    node: Option<&Attributes>,
    rows: &[Row],
    links: &[Link],
) -> String {
    let mut text = Text {
        exposition,
        text: String::with_capacity(256 + rows.len() * 2048),
    };
    if let Some(node) = node {
        text.about(node);
    }
    for family in FAMILIES {
        text.family(family, || rows.iter().map(|row| (&*row.name, None, row)));
    }
    text.rates(links);
    let named = |link: &Link| {
        let rows = link.rows.iter();
        rows.map(|row| row.owner.label()).collect::<Vec<_>>()
    };
    let names: Vec<_> = links.iter().map(named).collect();
    for family in OF_LINKS {
        text.family(family, || {
            links.iter().zip(&names).flat_map(|(link, names)| {
                let rows = link.rows.iter().zip(names);
                rows.map(|(row, owner)| (&**owner, Some(&*link.name), row))
            })
        });
    }
    if exposition == Exposition::OpenMetrics {
        text.text.push_str("# EOF\n");
    }
    text.text
}

impl Text {
    /// A family with the samples of all rows: whose, on which link, what.
    fn family<'a, T: 'a, R: Iterator<Item = (&'a str, Option<&'a str>, &'a T)>>(
        &mut self,
        family: &Family<T>,
        rows: impl Fn() -> R,
    ) {
        self.head(family.name, family.kind, family.unit, family.help);
        for (slice, link, row) in rows() {
            let mut samples = Samples {
                text: &mut self.text,
                family: family.name,
                suffix: suffix(family.kind),
                slice,
                link,
            };
            (family.samples)(row, &mut samples);
        }
    }

    /// What the owner gave each link.
    fn rates(&mut self, links: &[Link]) {
        let name = "slice_link_rate_bytes_per_second";
        self.head(name, Gauge, "", "The rate that the link is given.");
        for link in links {
            let label = escaped(&link.name);
            let _ = writeln!(self.text, "{name}{{link=\"{label}\"}} {}", bytes(link.rate));
        }
    }

    /// The node's own families.
    fn about(&mut self, node: &Attributes) {
        self.head("slice_node", Info, "", "The node.");
        let [name, kernel, version] =
            [&node.name, &node.kernel, &node.version].map(|of| escaped(of));
        let _ = writeln!(
            self.text,
            "slice_node_info{{name=\"{name}\",kernel=\"{kernel}\",version=\"{version}\"}} 1"
        );
        let mut gauge = |name: &str, unit: &str, help: &str, value: Option<u64>| {
            if let Some(value) = value {
                self.head(name, Gauge, unit, help);
                let _ = writeln!(self.text, "{name} {value}");
            }
        };
        let since = u64::try_from(node.since.as_second()).ok();
        gauge(
            "slice_node_start_time_seconds",
            "seconds",
            "When the node came up.",
            since,
        );
        gauge(
            "slice_node_cores",
            "cores",
            "Processors of the machine.",
            Some(node.cores),
        );
        gauge(
            "slice_node_memory_bytes",
            "bytes",
            "Memory of the machine.",
            Some(node.memory_bytes),
        );
        let slices = node.slices.as_ref();
        gauge(
            "slice_node_slices",
            "",
            "Slices in force.",
            slices.map(|used| used.usage),
        );
        let most = slices.and_then(|used| used.limit);
        gauge("slice_node_slices_limit", "", "Most slices.", most);
    }

    /// What a family is: OpenMetrics names it without its samples' suffix; the text
    /// before knows neither suffixes, units nor this kind of info.
    fn head(&mut self, name: &str, kind: Kind, unit: &str, help: &str) {
        let openmetrics = self.exposition == Exposition::OpenMetrics;
        let suffix = if openmetrics { "" } else { suffix(kind) };
        let kind = match kind {
            Counter => "counter",
            Info if openmetrics => "info",
            Gauge | Info => "gauge",
        };
        let text = &mut self.text;
        let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        if openmetrics && !unit.is_empty() {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(text, "# HELP {name}{suffix} {help}");
    }
}

const fn suffix(kind: Kind) -> &'static str {
    match kind {
        Counter => "_total",
        Gauge => "",
        Info => "_info",
    }
}

impl Samples<'_> {
    fn put(&mut self, labels: &[(&str, &str)], value: &str) {
        let (family, suffix, slice) = (self.family, self.suffix, escaped(self.slice));
        let _ = write!(self.text, "{family}{suffix}{{slice=\"{slice}\"");
        if let Some(link) = self.link {
            let _ = write!(self.text, ",link=\"{}\"", escaped(link));
        }
        for (label, of) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escaped(of));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn number(&mut self, labels: &[(&str, &str)], value: u64) {
        self.put(labels, &value.to_string());
    }

    /// Of bit/s.
    fn rate(&mut self, rate: Option<u64>) {
        if let Some(rate) = rate {
            self.put(&[], &bytes(rate));
        }
    }

    fn usage(&mut self, used: Option<Used>) {
        if let Some(used) = used {
            self.number(&[], used.usage);
        }
    }

    fn limit(&mut self, used: Option<Used>) {
        if let Some(limit) = used.and_then(|used| used.limit) {
            self.number(&[], limit);
        }
    }

    fn io(&mut self, row: &Row, number: fn(&Transfer) -> u64) {
        if let Some(io) = &row.io {
            self.number(&[("direction", "read")], number(&io.read));
            self.number(&[("direction", "write")], number(&io.write));
        }
    }

    fn network(&mut self, row: &Row, number: fn(&Volume) -> u64) {
        for (scope, way) in [("external", &row.external), ("loopback", &row.loopback)] {
            for (direction, volume) in [("sent", &way.sent), ("received", &way.received)] {
                let labels = [("scope", scope), ("direction", direction)];
                self.number(&labels, number(volume));
            }
        }
    }
}

/// Bit/s as bytes a second, exactly.
fn bytes(rate: u64) -> String {
    match rate % 8 {
        0 => (rate / 8).to_string(),
        bits => format!("{}.{:03}", rate / 8, bits * 125),
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
