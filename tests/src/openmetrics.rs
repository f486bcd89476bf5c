//! A strict reader of OpenMetrics 1.0 text: what Prometheus and its linter would
//! complain of is an error.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

/// The samples of a text, by name and labels as written.
pub type Samples = BTreeMap<String, f64>;

/// A family's metadata.
struct Family<'t> {
    name: &'t str,
    kind: &'t str,
    helped: bool,
}

/// Reads a text.
///
/// # Errors
/// It breaks a rule; the line is named.
pub fn read(text: &str) -> Result<Samples> {
    let body = text
        .strip_suffix("# EOF\n")
        .context("no # EOF at the end")?;
    let (mut samples, mut names) = (Samples::new(), BTreeSet::new());
    let mut family: Option<Family<'_>> = None;
    for line in body.lines() {
        match line.strip_prefix("# ") {
            Some(words) => meta(words, &mut family, &mut names),
            None => sample(line, family.as_ref(), &mut samples),
        }
        .with_context(|| format!("line `{line}`"))?;
    }
    Ok(samples)
}

fn meta<'t>(
    words: &'t str,
    family: &mut Option<Family<'t>>,
    names: &mut BTreeSet<&'t str>,
) -> Result<()> {
    let mut words = words.splitn(3, ' ');
    let (what, name) = (words.next(), words.next().context("no name")?);
    let rest = words.next().context("nothing told")?;
    match (what, family) {
        (Some("TYPE"), family) => {
            ensure!(is_name(name), "a bad name");
            ensure!(names.insert(name), "its samples are not together");
            ensure!(["counter", "gauge", "info"].contains(&rest), "type {rest}");
            let clash = name.ends_with("_total") || name.ends_with("_info");
            ensure!(!clash, "a name with a suffix of samples");
            *family = Some(Family {
                name,
                kind: rest,
                helped: false,
            });
        }
        (Some("UNIT"), Some(family)) if family.name == name => {
            ensure!(
                name.ends_with(&format!("_{rest}")),
                "the name lacks its unit"
            );
            let base = ["seconds", "bytes", "cores", "ratio"];
            ensure!(base.contains(&rest), "{rest} is no base unit");
        }
        (Some("HELP"), Some(family)) if family.name == name => {
            ensure!(rest.ends_with('.'), "help is no sentence");
            family.helped = true;
        }
        _ => bail!("metadata out of place"),
    }
    Ok(())
}

fn sample(line: &str, family: Option<&Family<'_>>, samples: &mut Samples) -> Result<()> {
    let family = family.context("a sample without a family")?;
    ensure!(family.helped, "no help");
    let suffix = match family.kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    };
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').context("open labels")?),
        None => (series, ""),
    };
    ensure!(
        name == format!("{}{suffix}", family.name),
        "another family's"
    );
    let mut seen = BTreeSet::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").context("a label without value")?;
        ensure!(is_name(label) && seen.insert(label), "label {label}");
        rest = past_value(after)?;
    }
    let number: f64 = value.parse()?;
    ensure!(number.is_finite() && number >= 0.0, "value {number}");
    ensure!(
        family.kind != "info" || number == 1.0,
        "an info that is not 1"
    );
    let before = samples.insert(series.to_owned(), number);
    ensure!(before.is_none(), "twice");
    Ok(())
}

/// What comes after a label's value and its comma.
fn past_value(text: &str) -> Result<&str> {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match (escaped, letter) {
            (true, '\\' | '"' | 'n') => escaped = false,
            (true, _) => bail!("a bad escape"),
            (false, '\\') => escaped = true,
            (false, '"') => {
                let after = &text[at + 1..];
                ensure!(after != ",", "a comma and no label");
                return match after.strip_prefix(',') {
                    None if !after.is_empty() => bail!("no comma"),
                    rest => Ok(rest.unwrap_or_default()),
                };
            }
            _ => {}
        }
    }
    bail!("an open value")
}

fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte == b'_' || byte.is_ascii_lowercase();
    text.bytes().next().is_some_and(letter)
        && text
            .bytes()
            .all(|byte| letter(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::read;

    const GOLDEN: &str = include_str!("../../slice-loader/tests/host/golden/metrics.txt");

    #[test]
    fn the_golden_text_keeps_to_the_standard() {
        let samples = read(GOLDEN).unwrap();
        assert_eq!(
            samples["slice_cpu_usage_seconds_total{slice=\"alpha\"}"],
            1.500_001
        );
        assert!(samples.len() > 50);
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let head = "# TYPE a_bytes counter\n# UNIT a_bytes bytes\n# HELP a_bytes Help.\n";
        assert!(read(&format!("{head}a_bytes_total{{b=\"c\"}} 1\n# EOF\n")).is_ok());
        for bad in [
            "a_bytes_total 1\n",
            "a_bytes 1\n# EOF\n",
            "a_bytes_total 1\na_bytes_total 2\n# EOF\n",
            "a_bytes_total{b=\"c} 1\n# EOF\n",
            "a_bytes_total{b=\"c\",} 1\n# EOF\n",
            "a_bytes_total{b=\"c\",b=\"d\"} 1\n# EOF\n",
            "a_bytes_total{b=\"\\x\"} 1\n# EOF\n",
            "a_bytes_total -1\n# EOF\n",
            "a_bytes_total NaN\n# EOF\n",
            "# TYPE a_bytes counter\n# EOF\n",
            "# TYPE b_total counter\n# EOF\n",
            "# TYPE b gauge\n# UNIT b bytes\n# EOF\n",
            "# TYPE b gauge\nb 1\n# EOF\n",
        ] {
            assert!(read(&format!("{head}{bad}")).is_err(), "{bad}");
        }
    }
}
