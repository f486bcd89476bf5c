//! The text as Prometheus reads it; that it keeps to the standard is tried by the
//! strict reader of the VM tests, which reads the same golden file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jiff::Timestamp;

use super::*;
use crate::report::links::{Exempt, Quota, Receive};
use crate::report::status::{Cpu, Io, Reading};
use crate::report::{LinkRow, Owner};
use crate::status::answers::tests::reading;

fn rows() -> Vec<Row> {
    let full = Reading {
        cpu: Some(Cpu {
            used_us: 1_500_001,
            cap_millicores: Some(2_050),
        }),
        memory: Some(Used {
            usage: 4096,
            limit: Some(1 << 20),
        }),
        processes: Some(Used {
            usage: 3,
            limit: Some(12),
        }),
        disk: Some(Used {
            usage: 8192,
            limit: Some(1 << 24),
        }),
        inodes: Some(Used {
            usage: 5,
            limit: None,
        }),
        io: Some(Io {
            read: Transfer {
                bytes: 11,
                operations: 12,
                ..Transfer::default()
            },
            write: Transfer {
                bytes: 13,
                operations: 14,
                ..Transfer::default()
            },
        }),
        ..reading(2, "alpha")
    };
    [reading(0, ""), full, reading(1, "")]
        .map(Row::from)
        .to_vec()
}

fn links() -> Vec<Link> {
    let row = |id: u32, name: &str, quota: Option<Quota>| LinkRow {
        owner: Owner {
            id,
            name: Some(name.to_owned()),
        },
        floor: 8_000,
        share: 5,
        cap: quota.is_some().then_some(80_004),
        packets_cap: None,
        sends: 1,
        drops: 2,
        may_send: quota.is_some().then_some(16_000),
        waits_us: 1_500_001,
        sent_bytes: 101,
        sent_packets: 102,
        dropped_bytes: 103,
        dropped_packets: 104,
        marks: 113,
        exempt: quota.is_some().then_some(Exempt {
            cap: None,
            sends: 0,
            may_send: None,
            waits_us: 0,
            sent_bytes: 105,
            sent_packets: 106,
            dropped_bytes: 107,
            dropped_packets: 108,
            marks: 114,
        }),
        receive: quota.is_some().then_some(Receive {
            cap: 24_000,
            receives: 0,
            drops: 0,
            received_bytes: 109,
            received_packets: 110,
            policed_bytes: 111,
            policed_packets: 112,
        }),
        quota,
    };
    let quota = Quota {
        limit: 1 << 30,
        used: 1 << 20,
        left: (1 << 30) - (1 << 20),
        ends: Timestamp::from_second(1_700_086_400).unwrap(),
        cap: Some(800),
    };
    vec![Link {
        name: "eth0".into(),
        rate: 1_000_000,
        there: true,
        rows: vec![row(0, "node", None), row(2, "alpha", Some(quota))],
    }]
}

fn node() -> Attributes {
    Attributes {
        time: Timestamp::UNIX_EPOCH,
        name: "here\"s \\ name".into(),
        kernel: "6.12.0".into(),
        architecture: "x86_64".into(),
        version: "0.1.0".into(),
        since: Timestamp::from_second(1_700_000_000).unwrap(),
        cores: 2,
        memory_bytes: 1 << 30,
        addresses: Vec::new(),
        load: [0.5; 3],
        slices: Some(Used {
            usage: 1,
            limit: Some(32),
        }),
    }
}

#[test]
fn the_text_is_the_one_that_was_looked_at() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/golden/metrics.txt");
    let text = render(Exposition::OpenMetrics, Some(&node()), &rows(), &links());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap());
}

#[test]
fn who_may_not_know_of_the_node_is_told_of_the_rows_alone() {
    let text = render(Exposition::OpenMetrics, None, &rows()[1..2], &[]);
    assert!(!text.contains("slice_node"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

/// Names of samples that there are, with and without a sample at the moment.
fn names(text: &str) -> BTreeSet<&str> {
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    families.filter_map(|line| line.split(' ').next()).collect()
}

#[test]
fn the_older_text_has_the_same_samples_under_heads_of_their_full_names() {
    let samples = |text: &str| {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(str::to_owned).collect::<Vec<_>>()
    };
    let [new, old] = [Exposition::OpenMetrics, Exposition::Text]
        .map(|exposition| render(exposition, Some(&node()), &rows(), &links()));
    assert_eq!(samples(&new), samples(&old));
    let names = names(&old);
    for sample in samples(&old) {
        let name = sample.split(['{', ' ']).next().unwrap();
        assert!(names.contains(name), "{name} has no head");
    }
    assert!(!old.contains("# EOF") && !old.contains("# UNIT") && !old.contains(" info\n"));
}

#[test]
fn the_dashboard_asks_only_for_what_there_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/grafana/slice.json");
    let text = fs::read_to_string(path).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let metrics = render(Exposition::Text, Some(&node()), &rows(), &links());
    let names = names(&metrics);
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array();
        targets.into_iter().flatten()
    });
    let mut queries: Vec<String> = targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(queries.len() > 20, "{queries:?}");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        queries.extend(variable["definition"].as_str().map(str::to_owned));
    }
    for query in queries {
        let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let asked: Vec<_> = words.filter(|word| word.starts_with("slice_")).collect();
        assert!(!asked.is_empty(), "{query}");
        for name in asked {
            assert!(names.contains(name), "there is no {name}: {query}");
        }
    }
}
