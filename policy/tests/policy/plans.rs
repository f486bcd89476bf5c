//! What policies compile to, and what is written when one follows another.

use std::fmt::Write as _;

use policy::abi::{
    ADDRESSES_APART, LIVE, OWN_IPV4, REFUSES_DESTINATIONS, RESERVED_FOUND, RESERVED_NODE,
    RESERVED_RAW, RESERVED_SLICE, Reserved, TCP, UDP, port_index,
};
use policy::admission::{admit, rows};
use policy::compile::{Cgroup, Changes, Plan, Step, compile};
use policy::config::PortSet;
use policy::ids::SliceId;
use policy::ledger::Ledger;

use crate::node::{facts, fits, plan, read};

/// What `slice reload` does when the slices' files change so.
pub fn reload(node: &str, before: &[(&str, &str)], after: &[(&str, &str)]) -> Changes {
    let facts = facts();
    let mut ledger = Ledger::default();
    let mut plan = |slices| {
        let config = read(node, slices).unwrap();
        let names = config.slices.iter().map(|slice| &slice.name.value);
        ledger = ledger.assign(names, rows(&config), &std::collections::BTreeSet::new());
        compile(&admit(&config, &facts, &ledger).unwrap())
    };
    let before = plan(before);
    before.changes(&plan(after))
}

pub fn names(changes: &Changes) -> Vec<&'static str> {
    let name = |step: &Step| match step {
        Step::Slices(_) => "slices",
        Step::Reserved(_) => "reserved",
        Step::Addresses(_) => "addresses",
        Step::Refused(_) => "refused",
        Step::Links(_) => "links",
        Step::Knobs(_) => "knobs",
        Step::Exempt(_) => "exempt",
        Step::Settings(_) => "settings",
    };
    changes.steps.iter().map(name).collect()
}

fn value<'a>(plan: &'a Plan, slice: &str, file: &str) -> &'a str {
    let of = |cgroup: &Cgroup| match cgroup {
        Cgroup::Slice(name) => name.as_str() == slice,
        Cgroup::Slices => slice == "slices",
        Cgroup::Holder => slice == ".",
    };
    &plan
        .cgroups
        .iter()
        .find(|write| of(&write.cgroup) && write.file == file)
        .unwrap()
        .value
}

#[test]
fn nothing_changed_is_nothing_to_do() {
    let slices = [
        ("a", "[ports]\ntcp = [80]\n"),
        ("b", "[[refuse]]\nto = [\"10.0.0.0/8\"]\n"),
    ];
    let changes = reload("", &slices, &slices);
    assert!(changes.is_empty() && !changes.forget_checks, "{changes:?}");
}

#[test]
fn a_knob_of_one_slice_touches_its_row_and_no_other() {
    let other = ("b", "");
    let changes = reload(
        "",
        &[("a", ""), other],
        &[("a", "sockets = 9\n[ports]\nclaim = false\n"), other],
    );
    let [Step::Slices(rows)] = &changes.steps[..] else {
        panic!("{changes:?}")
    };
    let [(row, entry)] = &rows[..] else {
        panic!("{rows:?}")
    };
    assert_eq!((*row, entry.flags, entry.sockets_max), (2, LIVE, 9));
    assert!(!changes.forget_checks && changes.cgroups.is_empty() && changes.created.is_empty());
}

#[test]
fn a_slice_that_goes_is_dead_before_its_ports_are_anothers() {
    let changes = reload(
        "",
        &[("a", "[ports]\ntcp = [80]\n")],
        &[("b", "[ports]\ntcp = [80]\n")],
    );
    assert_eq!(names(&changes), ["slices", "reserved", "slices"]);
    let Step::Slices(dead) = &changes.steps[0] else {
        panic!()
    };
    assert_eq!((dead[0].0, dead[0].1.flags), (2, 0));
    let Step::Slices(born) = &changes.steps[2] else {
        panic!()
    };
    assert_eq!((born[0].0, born[0].1.flags & LIVE), (3, LIVE));
    let Step::Reserved(rows) = &changes.steps[1] else {
        panic!()
    };
    assert_eq!(
        rows,
        &[(
            80,
            Reserved {
                owner: SliceId(3),
                kind: RESERVED_SLICE,
                flags: 0
            }
        )]
    );
    assert_eq!(
        (changes.destroyed, changes.created),
        (vec![SliceId(2)], vec![SliceId(3)])
    );
    // Its cgroup is new, so every value is written.
    assert_eq!(
        changes
            .cgroups
            .iter()
            .filter(|write| matches!(write.cgroup, Cgroup::Slice(_)))
            .count(),
        5
    );
}

#[test]
fn a_port_becomes_raw_and_an_ordinary_one_again_without_being_anothers_in_between() {
    let slice = |key: &str| {
        format!("raw = \"safe\"\n[ports]\n{key} = [7000]\n[context]\nimage = \"debian\"\n")
    };
    let (raw, ordinary) = (slice("raw_tcp"), slice("tcp"));
    for (before, after, flags) in [(&ordinary, &raw, RESERVED_RAW), (&raw, &ordinary, 0)] {
        let changes = reload("", &[("a", before)], &[("a", after)]);
        let [Step::Reserved(rows)] = &changes.steps[..] else {
            panic!("{changes:?}")
        };
        let kept = Reserved {
            owner: SliceId(2),
            kind: RESERVED_SLICE,
            flags,
        };
        assert_eq!(rows, &[(7000, kept)]);
        // The kernel picks it for nobody, before and after.
        assert_eq!(changes.reserved_ports, None);
    }
}

#[test]
fn a_port_that_is_freed_becomes_nobodys() {
    let changes = reload("", &[("a", "[ports]\nudp = [53]\n")], &[("a", "")]);
    let [Step::Reserved(rows)] = &changes.steps[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(
        rows,
        &[(
            port_index(UDP, 53).unwrap(),
            Reserved {
                owner: SliceId::NODE,
                kind: 0,
                flags: 0
            }
        )]
    );
    assert_eq!(
        changes.reserved_ports.unwrap().to_string(),
        "8080,9148,61000-65499"
    );
}

#[test]
fn what_sockets_remember_is_void_when_addresses_or_destinations_change() {
    let node = "[node.addresses]\nexclude = [\"203.0.113.53\"]\n";
    let own = ("a", "[address]\nipv4 = \"203.0.113.53\"\n");
    let changes = reload(node, &[("a", "")], &[own]);
    assert_eq!(names(&changes), ["addresses", "slices", "settings"]);
    assert!(changes.forget_checks);
    let Some(Step::Settings(settings)) = changes.steps.last() else {
        panic!()
    };
    assert_eq!(settings.flags, ADDRESSES_APART);

    let changes = reload(
        "",
        &[("a", "")],
        &[("a", "[[refuse]]\nto = [\"10.0.0.0/8\"]\n")],
    );
    assert_eq!(names(&changes), ["refused", "settings"]);
    assert!(changes.forget_checks);

    // An address of the node that is shared no more is nobody's own either.
    let before = plan("", &[]);
    let changes = before.changes(&plan("[node.addresses]\nexclude = [\"10.0.0.0/8\"]\n", &[]));
    assert_eq!(names(&changes), ["addresses", "settings"]);
    assert!(changes.forget_checks);

    // Settings come even where they are the same, for the loader to raise the generation.
    let one = ("a", "[[refuse]]\nto = [\"10.0.0.0/8\"]\n");
    let two = ("a", "[[refuse]]\nto = [\"10.0.0.0/9\"]\n");
    assert_eq!(names(&reload("", &[one], &[two])), ["refused", "settings"]);
}

#[test]
fn policy_goes_over_what_was_found() {
    let config = read(
        "[node.reserved]\ntcp = [22]\n",
        &[("a", "[ports]\ntcp = [80]\n")],
    )
    .unwrap();
    let mut facts = facts();
    facts.found_tcp = PortSet::parse_kernel("22,80,631").unwrap();
    facts.found_udp = PortSet::parse_kernel("53").unwrap();
    let plan = compile(&fits(&config, &facts).unwrap());
    let kind = |protocol, port| plan.reserved[&port_index(protocol, port).unwrap()].kind;
    assert_eq!(kind(TCP, 22), RESERVED_NODE);
    assert_eq!(kind(TCP, 80), RESERVED_SLICE);
    assert_eq!(kind(TCP, 631), RESERVED_FOUND);
    assert_eq!(kind(UDP, 53), RESERVED_FOUND);
    assert_eq!(plan.reserved.len(), 4);
    // What was found keeps slices off, but is not kept from the kernel's choice.
    assert!(!plan.reserved_ports.contains(631));
}

#[test]
fn an_address_is_shared_own_or_unknown() {
    let node = "[node.addresses]\nexclude = [\"10.0.0.0/8\", \"203.0.113.53\"]\n";
    let plan = plan(node, &[("a", "[address]\nipv4 = \"203.0.113.53\"\n")]);
    let text = plan.to_string();
    let addresses: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("ADDRESSES"))
        .collect();
    assert_eq!(
        addresses,
        [
            "ADDRESSES 203.0.113.1 owner=0 kind=1",
            "ADDRESSES 203.0.113.53 owner=2 kind=2",
            "ADDRESSES 2001:db8::1 owner=0 kind=1",
        ]
    );
    let entry = plan.slices[&2];
    assert_eq!(
        (entry.flags & OWN_IPV4, entry.own_ipv4),
        (OWN_IPV4, [203, 0, 113, 53])
    );
}

#[test]
fn limits_are_whole_pages_floors_up_and_caps_down() {
    let plan = plan(
        "[node.give]\nmemory = \"50 %\"\ncpu = \"1.5\"\nprocesses = 100\n",
        &[
            (
                "a",
                "processes = 9\n[cpu]\ncap = \"25 %\"\n[memory]\nfloor = \"1 MB\"\ncap = \"3 MB\"\n",
            ),
            ("b", ""),
        ],
    );
    assert_eq!(value(&plan, "a", "memory.min"), (245 * 4096).to_string());
    assert_eq!(value(&plan, "a", "memory.max"), (732 * 4096).to_string());
    assert_eq!(value(&plan, "a", "cpu.max"), "25000 100000");
    assert_eq!(value(&plan, "a", "pids.max"), "9");
    assert_eq!(value(&plan, "b", "memory.min"), "0");
    assert_eq!(value(&plan, "b", "memory.max"), "max");
    assert_eq!(value(&plan, "b", "cpu.max"), "max 100000");
    assert_eq!(
        value(&plan, "slices", "memory.max"),
        (4u64 << 30).to_string()
    );
    assert_eq!(
        value(&plan, "slices", "memory.min"),
        (245 * 4096).to_string()
    );
    assert_eq!(value(&plan, "slices", "cpu.max"), "150000 100000");
    assert_eq!(value(&plan, "slices", "pids.max"), "100");
    assert_eq!(value(&plan, ".", "memory.min"), (245 * 4096).to_string());
}

#[test]
fn a_rule_for_all_of_ipv6_leaves_ipv4_alone() {
    let plan = plan(
        "[[refuse]]\nto = [\"::/0\"]\n[[refuse]]\nto = [\"192.0.2.0/24\"]\nports = [25]\n",
        &[],
    );
    let text = plan.to_string();
    let refused: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("REFUSED"))
        .collect();
    assert_eq!(
        refused,
        [
            "REFUSED row=0 ::/0 [0:0-65535]",
            "REFUSED row=0 ::ffff:0.0.0.0/96 []",
            "REFUSED row=0 ::ffff:192.0.2.0/120 [0:25-25]",
        ]
    );
    assert_eq!(plan.settings.flags, REFUSES_DESTINATIONS);
}

#[test]
fn ten_thousand_slices_are_compiled_and_compared() {
    let texts: Vec<(String, String)> = (0..10_000)
        .map(|n| {
            let mut text = format!("[cpu]\nshare = {}\n", n % 9 + 1);
            write!(
                text,
                "[ports]\ntcp = [{}]\n[[refuse]]\nto = [\"10.{}.{}.0/24\"]\n",
                n + 1024,
                n >> 8,
                n & 255
            )
            .unwrap();
            (format!("s{n}"), text)
        })
        .collect();
    let slices: Vec<(&str, &str)> = texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let plan = plan(
        "[node]\nmax_slices = 10000\nuids_per_slice = 1024\n",
        &slices,
    );
    assert_eq!(
        (plan.slices.len(), plan.reserved.len(), plan.refused.len()),
        (10_002, 10_000, 10_000)
    );
    let changes = Plan::empty().changes(&plan);
    assert_eq!(
        (changes.created.len(), changes.cgroups.len()),
        (10_000, 50_006)
    );
    assert!(plan.changes(&plan).is_empty());
}

#[test]
fn a_changed_bound_on_the_disk_is_all_that_is_written() {
    let (small, large) = ("[disk]\ncap = \"1 GiB\"\n", "[disk]\ncap = \"2 GiB\"\n");
    let changes = reload(
        "",
        &[("a", small), ("b", small)],
        &[("a", small), ("b", large)],
    );
    assert!(changes.steps.is_empty() && changes.cgroups.is_empty() && !changes.is_empty());
    let [(id, limits)] = changes.disk[..] else {
        panic!("{:?}", changes.disk)
    };
    assert_eq!((id.0, limits.bytes, limits.inodes), (3, 2 << 30, 131_072));
    // Without the table the bound is taken away, not left.
    let changes = reload("", &[("a", small)], &[("a", "")]);
    assert!(changes.disk[..] == [(SliceId(2), policy::compile::DiskLimits::default())]);
    assert!(reload("", &[("a", "")], &[("a", "")]).is_empty());
}
