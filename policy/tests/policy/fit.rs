//! Policies that are well-formed and do not fit the node.
// long file: one case after another, each with its words.

use crate::node::{facts, fits, read};
use policy::admission::{TakenUids, admit};
use policy::compile::refused::MAX_REFUSED;
use policy::config::units::Bytes;
use policy::ledger::Ledger;

#[track_caller]
fn does_not_fit(node: &str, slices: &[(&str, &str)], said: &str) {
    let config = read(node, slices).unwrap();
    let errors = fits(&config, &facts()).expect_err("the policy does not fit");
    assert_eq!(format!("\n{errors}"), said);
}

#[test]
fn cpu_floors_beyond_what_the_node_gives() {
    does_not_fit(
        "[node.give]\ncpu = 3\n",
        &[
            ("a", "[cpu]\nfloor = 2\n"),
            ("b", "[cpu]\nfloor = 1.5\n"),
            ("c", ""),
        ],
        r#"
error: the CPU floors do not fit: 2 slices together need 3.5 cores, the node gives 3 cores, 0.5 cores too much
  --> slices/a.toml:2:9
  |
2 | floor = 2
  |         ^
  --> node.toml:2:7
  |
2 | cpu = 3
  |       ^ given here
  help: lower floors by 0.5 cores in all, or raise `cpu` in [node.give]
"#,
    );
}

#[test]
fn memory_floors_beyond_the_default_part_of_the_node() {
    does_not_fit(
        "",
        &[("a", "[memory]\nfloor = \"7 GiB\"\n")],
        r#"
error: the memory floors do not fit: one slice needs 7 GiB, the node gives 6553.5 MiB, 614.5 MiB too much
  --> slices/a.toml:2:9
  |
2 | floor = "7 GiB"
  |         ^^^^^^^
  help: lower floors by 614.5 MiB in all, or raise `memory` in [node.give]
"#,
    );
}

#[test]
fn giving_more_than_the_node_has() {
    does_not_fit(
        "[node.give]\ncpu = 6\nmemory = \"9 GiB\"\nprocesses = 40000\n",
        &[],
        r#"
error: [node.give] gives 2 cores more CPU than the node has (4 cores)
  --> node.toml:2:7
  |
2 | cpu = 6
  |       ^
  help: give at most 4 cores

error: [node.give] gives 1 GiB more memory than the node has (8 GiB)
  --> node.toml:3:10
  |
3 | memory = "9 GiB"
  |          ^^^^^^^
  help: give at most 8 GiB

error: [node.give] gives 7232 more processes than the node has (32768)
  --> node.toml:4:13
  |
4 | processes = 40000
  |             ^^^^^
  help: give at most 32768
"#,
    );
}

#[test]
fn a_port_reserved_for_two_slices() {
    does_not_fit(
        "",
        &[
            ("a", "[ports]\ntcp = [80, 443]\n"),
            ("b", "[ports]\ntcp = [\"400-500\"]\nudp = [80]\n"),
        ],
        r#"
error: TCP port 443 is reserved for slice a and for slice b
  --> slices/b.toml:2:8
  |
2 | tcp = ["400-500"]
  |        ^^^^^^^^^
  --> slices/a.toml:2:12
  |
2 | tcp = [80, 443]
  |            ^^^ for slice a
  help: a port has one owner: remove it from one of the two
"#,
    );
}

#[test]
fn a_port_that_two_slices_have_whatever_they_speak_on_it() {
    does_not_fit(
        "",
        &[
            ("a", "[ports]\nudp = [7000]\n"),
            (
                "b",
                "raw = \"safe\"\n[ports]\nraw_udp = [7000]\n[context]\nimage = \"debian\"\n",
            ),
        ],
        r#"
error: UDP port 7000 is reserved for slice a and for slice b
  --> slices/b.toml:3:12
  |
3 | raw_udp = [7000]
  |            ^^^^
  --> slices/a.toml:2:8
  |
2 | udp = [7000]
  |        ^^^^ for slice a
  help: a port has one owner: remove it from one of the two
"#,
    );
}

#[test]
fn a_port_in_two_lists_of_one_slice() {
    does_not_fit(
        "",
        &[(
            "a",
            "raw = \"safe\"\n[ports]\ntcp = [\"7000-7010\"]\nraw_tcp = [7004]\n[context]\nimage = \"debian\"\n",
        )],
        r#"
error: TCP port 7004 of slice a is in two lists
  --> slices/a.toml:4:12
  |
4 | raw_tcp = [7004]
  |            ^^^^
  --> slices/a.toml:3:8
  |
3 | tcp = ["7000-7010"]
  |        ^^^^^^^^^^^ the other
  help: leave it in one: in `raw_tcp` or `raw_udp` where a program speaks the protocol itself
"#,
    );
}

#[test]
fn a_port_reserved_for_the_node_and_a_slice() {
    does_not_fit(
        "[node.reserved]\nudp = [\"100-200\"]\n",
        &[("a", "[ports]\nudp = [123]\n")],
        r#"
error: UDP port 123 is reserved for the node and for slice a
  --> slices/a.toml:2:8
  |
2 | udp = [123]
  |        ^^^
  --> node.toml:2:8
  |
2 | udp = ["100-200"]
  |        ^^^^^^^^^ for the node
  help: a port has one owner: remove it from one of the two
"#,
    );
}

#[test]
fn the_port_of_the_page_is_the_nodes_and_may_be_said_twice() {
    does_not_fit(
        "[status]\npage = 8090\n[node.reserved]\ntcp = [\"8090-8095\"]\n",
        &[("a", "[ports]\ntcp = [8095]\n")],
        r#"
error: TCP port 8095 is reserved for the node and for slice a
  --> slices/a.toml:2:8
  |
2 | tcp = [8095]
  |        ^^^^
  --> node.toml:4:8
  |
4 | tcp = ["8090-8095"]
  |        ^^^^^^^^^^^ for the node
  help: a port has one owner: remove it from one of the two
"#,
    );
    does_not_fit(
        "[status]\npage = 8090\n",
        &[("a", "[ports]\ntcp = [\"8000-8099\"]\n")],
        r#"
error: TCP port 8090 is reserved for the node and for slice a
  --> slices/a.toml:2:8
  |
2 | tcp = ["8000-8099"]
  |        ^^^^^^^^^^^
  --> node.toml:2:8
  |
2 | page = 8090
  |        ^^^^ for the node
  help: a port has one owner: remove it from one of the two
"#,
    );
}

#[test]
fn a_wide_range_collides_with_each_port_in_it() {
    does_not_fit(
        "",
        &[
            ("a", "[ports]\ntcp = [\"100-200\"]\n"),
            ("b", "[ports]\ntcp = [110]\n"),
            ("c", "[ports]\ntcp = [150]\n"),
        ],
        r#"
error: TCP port 110 is reserved for slice a and for slice b
  --> slices/b.toml:2:8
  |
2 | tcp = [110]
  |        ^^^
  --> slices/a.toml:2:8
  |
2 | tcp = ["100-200"]
  |        ^^^^^^^^^ for slice a
  help: a port has one owner: remove it from one of the two

error: TCP port 150 is reserved for slice a and for slice c
  --> slices/c.toml:2:8
  |
2 | tcp = [150]
  |        ^^^
  --> slices/a.toml:2:8
  |
2 | tcp = ["100-200"]
  |        ^^^^^^^^^ for slice a
  help: a port has one owner: remove it from one of the two
"#,
    );
}

#[test]
fn a_port_kept_for_loopback_translation() {
    does_not_fit(
        "[node.reserved]\ntcp = [65499]\n",
        &[("a", "[ports]\nudp = [\"60990-61000\"]\n")],
        r#"
error: TCP port 65499 cannot be reserved: 61000-65499 are kept for loopback translation
  --> node.toml:2:8
  |
2 | tcp = [65499]
  |        ^^^^^
  help: choose another port

error: UDP port 61000 cannot be reserved: 61000-65499 are kept for loopback translation
  --> slices/a.toml:2:8
  |
2 | udp = ["60990-61000"]
  |        ^^^^^^^^^^^^^
  help: choose another port
"#,
    );
}

#[test]
fn a_reservation_beside_own_addresses_of_both_families() {
    does_not_fit(
        "[node.addresses]\nexclude = [\"203.0.113.53\", \"2001:db8::/64\"]\n",
        &[(
            "a",
            "[ports]\nudp = [53]\n[address]\nipv4 = \"203.0.113.53\"\nipv6 = \"2001:db8::53\"\n",
        )],
        r#"
error: slice a reserves ports of the shared addresses and uses none of these
  --> slices/a.toml:2:8
  |
2 | udp = [53]
  |        ^^
  --> slices/a.toml:4:8
  |
4 | ipv4 = "203.0.113.53"
  |        ^^^^^^^^^^^^^^ its own address
  help: remove the reservation: every port of its own addresses is the slice's already
"#,
    );
}

#[test]
fn an_own_address_of_two_slices() {
    does_not_fit(
        "[node.addresses]\nexclude = [\"203.0.113.53\"]\n",
        &[
            ("a", "[address]\nipv4 = \"203.0.113.53\"\n"),
            ("b", "[address]\nipv4 = \"203.0.113.53\"\n"),
        ],
        r#"
error: 203.0.113.53 belongs to slice a and to slice b
  --> slices/b.toml:2:8
  |
2 | ipv4 = "203.0.113.53"
  |        ^^^^^^^^^^^^^^
  --> slices/a.toml:2:8
  |
2 | ipv4 = "203.0.113.53"
  |        ^^^^^^^^^^^^^^ slice a
  help: an own address has one owner: remove it from one of the two
"#,
    );
}

#[test]
fn an_own_address_that_is_shared() {
    does_not_fit(
        "",
        &[("a", "[address]\nipv6 = \"2001:db8::1\"\n")],
        r#"
error: 2001:db8::1 is shared by the node and all slices
  --> slices/a.toml:2:8
  |
2 | ipv6 = "2001:db8::1"
  |        ^^^^^^^^^^^^^
  help: add "2001:db8::1" to `exclude` in [node.addresses]: the node itself then cannot use it
"#,
    );
}

#[test]
fn more_slices_than_rows() {
    does_not_fit(
        "[node]\nmax_slices = 1\n",
        &[("a", ""), ("b", ""), ("c", "")],
        r#"
error: there are 3 slices, 2 more than `max_slices` (1)
  --> node.toml:2:14
  |
2 | max_slices = 1
  |              ^
  help: raise `max_slices` in [node]; that needs `slice down` and `slice up`
"#,
    );
}

#[test]
fn user_ids_beyond_the_last() {
    does_not_fit(
        "[node]\nmax_slices = 4097\n",
        &[],
        r#"
error: the user ids of 4097 slices do not fit: 1879048192 and the 268500992 ids from there end 65536 above 2147483647
  --> node.toml:2:14
  |
2 | max_slices = 4097
  |              ^^^^
  help: lower `uid_base`, `uids_per_slice` or `max_slices` in [node]
"#,
    );
}

#[test]
fn more_ranges_of_refused_ports_than_fit() {
    does_not_fit(
        "",
        &[(
            "a",
            "[[refuse]]\nto = [\"10.0.0.0/8\"]\nports = [1, 3, 5, 7, 9, 11, 13, 15, 17]\n[[refuse]]\nto = [\"10.1.0.0/16\"]\nports = [101, 103, 105, 107, 109, 111, 113, 115, 117]\n",
        )],
        r#"
error: 18 ranges of refused ports meet at 10.1.0.0/16, 2 more than fit
  --> slices/a.toml:1:1
  |
1 | [[refuse]]
  | ^^^^^^^^^^
  help: refuse wider ranges of ports, or all ports
"#,
    );
}

#[test]
fn everything_that_does_not_fit_at_once() {
    does_not_fit(
        "[node.give]\ncpu = 5\n",
        &[("a", "[ports]\ntcp = [61000]\n[cpu]\nfloor = 6\n")],
        r#"
error: [node.give] gives 1 core more CPU than the node has (4 cores)
  --> node.toml:2:7
  |
2 | cpu = 5
  |       ^
  help: give at most 4 cores

error: TCP port 61000 cannot be reserved: 61000-65499 are kept for loopback translation
  --> slices/a.toml:2:8
  |
2 | tcp = [61000]
  |        ^^^^^
  help: choose another port

error: the CPU floors do not fit: one slice needs 6 cores, the node gives 5 cores, 1 core too much
  --> slices/a.toml:4:9
  |
4 | floor = 6
  |         ^
  --> node.toml:2:7
  |
2 | cpu = 5
  |       ^ given here
  help: lower floors by 1 core in all, or raise `cpu` in [node.give]
"#,
    );
}

#[test]
fn user_ids_that_somebody_has() {
    let config = read("", &[]).unwrap();
    let mut facts = facts();
    let taken = |first, last, by: &str| TakenUids {
        first,
        last,
        by: by.to_owned(),
    };
    facts.taken_uids = vec![
        taken(0, 1_879_048_191, "all below"),
        taken(1_900_000_000, 1_900_065_535, "/etc/subuid: alice"),
        // Just before the first of 1024 slices, and just behind the last.
        taken(1_879_048_192 + 1024 * 65_536, u32::MAX, "all above"),
    ];
    let errors = fits(&config, &facts).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "error: the user ids 1879048192-1946157055 for slices overlap 1900000000-1900065535 of /etc/subuid: alice\n  help: choose another `uid_base` in [node]\n"
    );

    let last = 1_879_048_192 + 1024 * 65_536 - 1;
    for (first, last) in [(0, 1_879_048_192), (last, u32::MAX), (0, u32::MAX)] {
        facts.taken_uids = vec![taken(first, last, "somebody")];
        assert!(fits(&config, &facts).is_err(), "{first}-{last}");
    }
}

#[test]
fn a_slice_without_an_id() {
    let config = read("", &[("a", "")]).unwrap();
    let errors = admit(&config, &facts(), &Ledger::default()).unwrap_err();
    assert_eq!(
        errors.complaints()[0].message,
        "there is no id left for slice a"
    );
}

#[test]
fn more_refused_destinations_than_the_table_holds() {
    let rule = |count: usize| {
        let to: Vec<String> = (0..count)
            .map(|n| {
                format!(
                    "\"10.{}.{}.{}/31\"",
                    n >> 15,
                    (n >> 7) & 255,
                    (n << 1) & 255
                )
            })
            .collect();
        format!("[[refuse]]\nto = [{}]\n", to.join(","))
    };
    let most = read(&rule(MAX_REFUSED), &[]).unwrap();
    assert!(fits(&most, &facts()).is_ok());
    let more = read(&rule(MAX_REFUSED), &[("a", &rule(2))]).unwrap();
    let errors = fits(&more, &facts()).unwrap_err();
    assert_eq!(
        errors.complaints()[0].message,
        "the refused destinations make 65538 entries, 2 more than the node holds"
    );
}

#[test]
fn a_reservation_beside_an_own_address_of_one_family_is_of_use() {
    let node = "[node.addresses]\nexclude = [\"203.0.113.53\"]\n";
    let slice = "[ports]\nudp = [53]\n[address]\nipv4 = \"203.0.113.53\"\n";
    let config = read(node, &[("a", slice)]).unwrap();
    assert!(fits(&config, &facts()).is_ok());
}

#[test]
fn one_too_many_does_not_fit() {
    let said = |node: &str, slices: &[(&str, &str)]| {
        let config = read(node, slices).unwrap();
        let errors = fits(&config, &facts()).err()?;
        Some(errors.complaints()[0].message.clone())
    };
    let two = [("a", ""), ("b", "")];
    assert_eq!(
        said("[node]\nmax_slices = 1\n", &two).unwrap(),
        "there are 2 slices, 1 more than `max_slices` (1)"
    );
    assert_eq!(said("[node]\nmax_slices = 2\n", &two), None);
    let last = "[node]\nmax_slices = 2\nuids_per_slice = 10\nuid_base = 2147483628\n";
    assert_eq!(said(last, &[]), None);
    let beyond = said(&last.replace("628", "629"), &[]).unwrap();
    assert!(beyond.ends_with("end 1 above 2147483647"), "{beyond}");
}

#[test]
fn more_addresses_than_the_table_holds() {
    let config = read(
        "[node.addresses]\nexclude = [\"192.0.2.0/24\"]\n",
        &[("a", "[address]\nipv4 = \"192.0.2.1\"\n")],
    )
    .unwrap();
    let mut facts = facts();
    let some = |count: u32| {
        (0..count)
            .map(|n| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into())
            .collect()
    };
    facts.addresses = some(32_767);
    assert!(fits(&config, &facts).is_ok());
    facts.addresses = some(32_768);
    let errors = fits(&config, &facts).unwrap_err();
    assert_eq!(
        errors.complaints()[0].message,
        "the node has 32769 addresses, 1 more than its table holds"
    );
}

#[test]
fn the_least_too_much_does_not_fit() {
    let over = |text: &str| {
        let config = read("[node.give]\ncpu = 2\nmemory = \"1 GiB\"\n", &[("a", text)]).unwrap();
        fits(&config, &facts()).unwrap_err().complaints()[0]
            .message
            .clone()
    };
    assert!(over("[cpu]\nfloor = 2.001\n").ends_with("0.001 cores too much"));
    assert!(over("[memory]\nfloor = \"1073741825 B\"\n").ends_with("1 B too much"));
}

#[test]
fn what_fits_exactly_fits() {
    let node =
        "[node]\nmax_slices = 2\n[node.give]\ncpu = 4\nmemory = \"8 GiB\"\nprocesses = 32768\n";
    let slice = "[cpu]\nfloor = 2\n[memory]\nfloor = \"4 GiB\"\n[ports]\ntcp = [60999]\n";
    let other = slice.replace("60999", "65500");
    let config = read(node, &[("a", slice), ("b", &other)]).unwrap();
    let facts = facts();
    let admitted = fits(&config, &facts).unwrap();
    assert_eq!(admitted.given().memory, Bytes(8 << 30));
    let ids: Vec<u32> = admitted.slices().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [2, 3]);
    let (second, _) = admitted.slices().nth(1).unwrap();
    assert_eq!(admitted.uids(second), (1_879_048_192 + 65_536, 65_536));
}

#[test]
fn disk_caps_beyond_what_there_is() {
    does_not_fit(
        "[node.give]\ndisk = \"90 %\"\n",
        &[
            ("a", "[disk]\ncap = \"50 GiB\"\n"),
            ("b", "[disk]\ncap = \"91 GiB\"\ninodes = 6000000\n"),
            ("c", "[disk]\ninodes = 700000\n"),
        ],
        r#"
error: the disk cap of slice b (91 GiB) is more than the node gives all slices (90 GiB)
  --> slices/b.toml:2:7
  |
2 | cap = "91 GiB"
  |       ^^^^^^^^
  --> node.toml:2:8
  |
2 | disk = "90 %"
  |        ^^^^^^ given here
  help: write at most 90 GiB

error: the caps on the disk do not fit: together they are 141 GiB, there is room for 90 GiB, 51 GiB too much
  --> slices/b.toml:2:7
  |
2 | cap = "91 GiB"
  |       ^^^^^^^^
  --> node.toml:2:8
  |
2 | disk = "90 %"
  |        ^^^^^^ given here
  help: lower caps by 51 GiB in all, or write `disk_overcommit = true` in [node.give]

error: the bounds of inodes do not fit: together they are 9976800, there is room for 6553600, 3423200 too much
  --> slices/b.toml:3:10
  |
3 | inodes = 6000000
  |          ^^^^^^^
  help: lower `inodes` in [disk] by 3423200 in all, or write `disk_overcommit = true` in [node.give]

error: slice c has no disk cap, and the node gives all slices 90 GiB together
  --> slices/c.toml:1:1
  |
1 | [disk]
  | ^
  --> node.toml:2:8
  |
2 | disk = "90 %"
  |        ^^^^^^ given here
  help: write `cap` in [disk] of the slice, or `disk_overcommit = true` in [node.give]
"#,
    );
}

#[test]
fn a_disk_that_cannot_be_bounded() {
    let disk = policy::admission::Disk {
        unbounded: Some(policy::admission::Unbounded {
            why: "it is a tmpfs".into(),
            remedy: "use another".into(),
        }),
        ..facts().disk
    };
    let facts = policy::admission::Facts { disk, ..facts() };
    let none = read("", &[("a", "")]).unwrap();
    assert!(fits(&none, &facts).is_ok());
    let config = read(
        "[node.give]\ndisk = \"1 GiB\"\ndisk_overcommit = true\n",
        &[
            ("a", "[disk]\ncap = \"1 MiB\"\n"),
            ("b", ""),
            ("c", "[disk]\ninodes = 16\n"),
        ],
    )
    .unwrap();
    let said = fits(&config, &facts).unwrap_err().to_string();
    assert_eq!(
        format!("\n{said}"),
        r#"
error: [node.give] bounds the disk, which this node cannot keep: it is a tmpfs
  --> node.toml:2:8
  |
2 | disk = "1 GiB"
  |        ^^^^^^^
  help: use another

error: slice a has a bound on the disk, which this node cannot keep: it is a tmpfs
  --> slices/a.toml:2:7
  |
2 | cap = "1 MiB"
  |       ^^^^^^^
  help: use another

error: slice c has a bound on the disk, which this node cannot keep: it is a tmpfs
  --> slices/c.toml:2:10
  |
2 | inodes = 16
  |          ^^
  help: use another
"#
    );
}

#[test]
fn block_io_that_cannot_be_bounded_or_divided() {
    let cannot = |why: &str| policy::admission::Unbounded {
        why: why.into(),
        remedy: "use another".into(),
    };
    let io = policy::admission::Io {
        device: Err(cannot("it is a tmpfs")),
        weights: Err(cannot("nobody divides it")),
    };
    let facts = policy::admission::Facts { io, ..facts() };
    let none = read("", &[("a", "[io]\n")]).unwrap();
    assert!(fits(&none, &facts).is_ok());
    let config = read(
        "",
        &[
            ("a", "[io]\nwrite = \"1 MB/s\"\nweight = 300\n"),
            ("b", "io.read_operations = 10\n"),
        ],
    )
    .unwrap();
    let said = fits(&config, &facts).unwrap_err().to_string();
    assert_eq!(
        format!("\n{said}"),
        r#"
error: slice a has a bound on block I/O, which this node cannot keep: it is a tmpfs
  --> slices/a.toml:2:9
  |
2 | write = "1 MB/s"
  |         ^^^^^^^^
  help: use another

error: slice a has a weight of block I/O, which this node cannot keep: nobody divides it
  --> slices/a.toml:3:10
  |
3 | weight = 300
  |          ^^^
  help: use another

error: slice b has a bound on block I/O, which this node cannot keep: it is a tmpfs
  --> slices/b.toml:1:22
  |
1 | io.read_operations = 10
  |                      ^^
  help: use another
"#
    );
}

#[test]
fn caps_that_fit_the_disk_exactly_fit_and_one_byte_more_does_not() {
    let of = |node: &str, caps: [u64; 2]| {
        let slices = caps.map(|cap| format!("[disk]\ncap = \"{cap} B\"\n"));
        let config = read(node, &[("a", &slices[0]), ("b", &slices[1])]).unwrap();
        fits(&config, &facts()).map(drop)
    };
    let half = 50 << 30;
    assert!(of("", [half, half]).is_ok());
    assert!(of("", [half, half + 1]).is_err());
    // Whoever says so may promise more than there is, but not to one slice.
    let overcommit = "[node.give]\ndisk_overcommit = true\n";
    assert!(of(overcommit, [2 * half, 2 * half]).is_ok());
    assert!(of(overcommit, [half, 2 * half + 1]).is_err());
}

#[test]
fn a_slice_has_an_inode_for_each_16_kib_of_its_cap_unless_it_says_how_many() {
    let plan = crate::node::plan(
        "",
        &[
            ("a", "[disk]\ncap = \"1 GiB\"\n"),
            ("b", "[disk]\ncap = \"1 MiB\"\n"),
            ("c", "[disk]\ncap = \"1 GiB\"\ninodes = 16\n"),
            ("d", "[disk]\ninodes = 16\n"),
            ("e", ""),
        ],
    );
    let limits: Vec<(u64, u64)> = plan.disk.values().map(|l| (l.bytes, l.inodes)).collect();
    let gib = 1 << 30;
    assert_eq!(
        limits,
        [(gib, 65_536), (1 << 20, 64), (gib, 16), (0, 16), (0, 0)]
    );
}
