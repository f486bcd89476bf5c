//! Malformed policies, and word for word what the owner reads.
// long file: one case after another, each with its words.

use std::path::Path;

use policy::config::{Sources, parse};

use crate::node::read;

/// Reads the texts, which must be wrong in this way and no other.
#[track_caller]
fn refused(node: &str, slices: &[(&str, &str)], said: &str) {
    let errors = read(node, slices).expect_err("the policy is malformed");
    assert_eq!(format!("\n{errors}"), said);
}

#[test]
fn a_key_that_nobody_knows() {
    refused(
        "[node]\nmax_slice = 10\n",
        &[],
        r#"
error: unknown key `max_slice` in [node]
  --> node.toml:2:1
  |
2 | max_slice = 10
  | ^^^^^^^^^
  help: did you mean `max_slices`?
"#,
    );
}

#[test]
fn a_key_that_is_unlike_any() {
    refused(
        "[node]\ncolour = 1\n",
        &[],
        r#"
error: unknown key `colour` in [node]
  --> node.toml:2:1
  |
2 | colour = 1
  | ^^^^^^
  help: known here: `max_slices`, `uid_base`, `uids_per_slice`, `linger`, `events_per_second`, `reserved`, `addresses`, `give`
"#,
    );
}

#[test]
fn a_key_in_the_wrong_table() {
    refused(
        "",
        &[("a", "[cpu]\nprocesses = 7\n")],
        r#"
error: unknown key `processes` in [cpu]
  --> slices/a.toml:2:1
  |
2 | processes = 7
  | ^^^^^^^^^
  help: `processes` belongs at the top of the file, before the first [table]
"#,
    );
}

#[test]
fn a_key_in_the_wrong_file() {
    refused(
        "[ports]\ntcp = [80]\n",
        &[],
        r#"
error: unknown key `ports` at the top of the file
  --> node.toml:1:2
  |
1 | [ports]
  |  ^^^^^
  help: `ports` belongs in slices/NAME.toml
"#,
    );
}

#[test]
fn a_key_written_twice() {
    refused(
        "[node]\nlinger = \"60 s\"\nmax_slices = 4\nlinger = \"61 s\"\n",
        &[],
        r#"
error: `linger` is written twice
  --> node.toml:4:1
  |
4 | linger = "61 s"
  | ^^^^^^
  --> node.toml:2:1
  |
2 | linger = "60 s"
  | ^^^^^^ first here
  help: keep one of the two
"#,
    );
}

#[test]
fn a_value_of_the_wrong_type() {
    refused(
        "[node]\nmax_slices = \"ten\"\n",
        &[],
        r#"
error: `max_slices` takes a whole number from 1 to 16382, and this is text
  --> node.toml:2:14
  |
2 | max_slices = "ten"
  |              ^^^^^
  help: write for example `max_slices = 1024`
"#,
    );
}

#[test]
fn a_count_out_of_range() {
    refused(
        "[node]\nmax_slices = 16383\n",
        &[],
        r#"
error: `max_slices` is out of range
  --> node.toml:2:14
  |
2 | max_slices = 16383
  |              ^^^^^
  help: write a whole number from 1 to 16382
"#,
    );
}

#[test]
fn a_negative_count() {
    refused(
        "",
        &[("a", "processes = -1\n")],
        r#"
error: `processes` is out of range
  --> slices/a.toml:1:13
  |
1 | processes = -1
  |             ^^
  help: write a whole number from 1 to 4194304
"#,
    );
}

#[test]
fn a_size_without_unit() {
    refused(
        "",
        &[("a", "[memory]\ncap = \"512\"\n")],
        r#"
error: `cap`: "512" has no unit
  --> slices/a.toml:2:8
  |
2 | cap = "512"
  |        ^^^
  help: write for example "512 MiB"; units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB
"#,
    );
}

#[test]
fn a_bare_number_as_a_size() {
    refused(
        "",
        &[("a", "[memory]\ncap = 512\n")],
        r#"
error: `cap` takes a size from 1 MiB, and this is a whole number
  --> slices/a.toml:2:7
  |
2 | cap = 512
  |       ^^^
  help: write for example `cap = "512 MiB"`
"#,
    );
}

#[test]
fn a_unit_of_the_wrong_case() {
    refused(
        "",
        &[("a", "[memory]\n\tcap = \"512 Mib\"\n")],
        r#"
error: `cap`: `Mib` is not a unit of a size
  --> slices/a.toml:2:13
  |
2 | 	cap = "512 Mib"
  | 	           ^^^
  help: did you mean `MiB`? Units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB
"#,
    );
}

#[test]
fn a_unit_of_another_kind() {
    refused(
        "[node.give]\ncpu = \"2 GiB\"\n",
        &[],
        r#"
error: `cpu`: `GiB` is the unit of a size, not of a number of cores
  --> node.toml:2:10
  |
2 | cpu = "2 GiB"
  |          ^^^
  help: write for example "1.5"; units are cores, core, %
"#,
    );
}

#[test]
fn a_time_out_of_range() {
    refused(
        "[node]\nlinger = \"2 h\"\n",
        &[],
        r#"
error: `linger` is out of range
  --> node.toml:2:10
  |
2 | linger = "2 h"
  |          ^^^^^
  help: write a time from 0 ns to 1 h
"#,
    );
}

#[test]
fn cores_out_of_range() {
    refused(
        "",
        &[("a", "[cpu]\ncap = 0.001\n")],
        r#"
error: `cap` is out of range
  --> slices/a.toml:2:7
  |
2 | cap = 0.001
  |       ^^^^^
  help: write CPU time from 0.01 cores to 8192 cores
"#,
    );
}

#[test]
fn port_zero_a_backward_range_and_no_port_at_all() {
    refused(
        "[node.reserved]\ntcp = [0, \"30-20\", \"http\", 65536]\n",
        &[],
        r#"
error: 0 in `tcp` is out of range: ports are 1 to 65535
  --> node.toml:2:8
  |
2 | tcp = [0, "30-20", "http", 65536]
  |        ^
  help: write a port from 1 to 65535

error: "30-20" in `tcp` begins above its end
  --> node.toml:2:11
  |
2 | tcp = [0, "30-20", "http", 65536]
  |           ^^^^^^^
  help: write the lower port first

error: "http" in `tcp` is neither a port nor a range of ports
  --> node.toml:2:20
  |
2 | tcp = [0, "30-20", "http", 65536]
  |                    ^^^^^^
  help: write a port like 80 or a range like "8000-8010"

error: 65536 in `tcp` is out of range: ports are 1 to 65535
  --> node.toml:2:28
  |
2 | tcp = [0, "30-20", "http", 65536]
  |                            ^^^^^
  help: write a port from 1 to 65535
"#,
    );
}

#[test]
fn a_port_listed_twice() {
    refused(
        "[node.reserved]\ntcp = [22, \"20-25\"]\n",
        &[],
        r#"
error: port 22 is listed twice in `tcp`
  --> node.toml:2:12
  |
2 | tcp = [22, "20-25"]
  |            ^^^^^^^
  --> node.toml:2:8
  |
2 | tcp = [22, "20-25"]
  |        ^^ listed here
  help: remove one of the two
"#,
    );
}

#[test]
fn each_port_within_a_range_of_the_same_list() {
    let errors = read("[node.reserved]\nudp = [110, \"100-200\", 150]\n", &[]).unwrap_err();
    let places: Vec<_> = errors
        .reports()
        .iter()
        .map(|report| (report.column, report.message.clone()))
        .collect();
    let twice = |port: u16| format!("port {port} is listed twice in `udp`");
    // Whichever comes later in the file is one too many.
    assert_eq!(places, [(Some(13), twice(110)), (Some(24), twice(150))]);
}

#[test]
fn a_prefix_with_host_bits() {
    refused(
        "[[refuse]]\nto = [\"10.1.0.0/8\"]\n",
        &[],
        r#"
error: "10.1.0.0/8" has bits beyond /8
  --> node.toml:2:7
  |
2 | to = ["10.1.0.0/8"]
  |       ^^^^^^^^^^^^
  help: write "10.0.0.0/8", or a longer length
"#,
    );
}

#[test]
fn a_prefix_too_long() {
    refused(
        "[[refuse]]\nto = [\"10.0.0.0/33\"]\n",
        &[],
        r#"
error: "10.0.0.0/33" is longer than /32
  --> node.toml:2:7
  |
2 | to = ["10.0.0.0/33"]
  |       ^^^^^^^^^^^^^
  help: write a length from 0 to 32
"#,
    );
}

#[test]
fn an_exception_from_nothing() {
    refused(
        "[[refuse]]\nto = [\"10.0.0.0/8\"]\nexcept = [\"11.0.0.0/8\"]\n",
        &[],
        r#"
error: the exception 11.0.0.0/8 lies in none of `to`
  --> node.toml:3:11
  |
3 | except = ["11.0.0.0/8"]
  |           ^^^^^^^^^^^^
  --> node.toml:2:7
  |
2 | to = ["10.0.0.0/8"]
  |       ^^^^^^^^^^^^ refused here
  help: remove it: what is not refused needs no exception
"#,
    );
}

#[test]
fn a_refusal_of_nothing() {
    refused(
        "[[refuse]]\nports = [25]\n",
        &[],
        r#"
error: [[refuse]] has no `to`
  --> node.toml:1:1
  |
1 | [[refuse]]
  | ^^^^^^^^^^
  help: add for example `to = ["10.0.0.0/8"]`
"#,
    );
}

#[test]
fn a_refusal_that_is_no_list() {
    refused(
        "[refuse]\nto = [\"10.0.0.0/8\"]\n",
        &[],
        r#"
error: `refuse` takes tables [[refuse]], and this is a table
  --> node.toml:1:1
  |
1 | [refuse]
  | ^^^^^^^^
  help: write `[[refuse]]`, with two brackets, before each of them
"#,
    );
}

#[test]
fn a_protocol_misspelt() {
    refused(
        "[[refuse]]\nto = [\"10.0.0.0/8\"]\nprotocol = \"tpc\"\n",
        &[],
        r#"
error: `protocol` cannot be "tpc"
  --> node.toml:3:12
  |
3 | protocol = "tpc"
  |            ^^^^^
  help: did you mean "tcp"?
"#,
    );
}

#[test]
fn an_own_address_of_the_other_family() {
    refused(
        "",
        &[("a", "[address]\nipv6 = \"192.0.2.1\"\n")],
        r#"
error: "192.0.2.1" is not an IPv6 address
  --> slices/a.toml:2:8
  |
2 | ipv6 = "192.0.2.1"
  |        ^^^^^^^^^^^
  help: write for example `ipv6 = "2001:db8::9"`
"#,
    );
}

#[test]
fn an_own_address_that_is_everybodys() {
    refused(
        "",
        &[("a", "[address]\nipv4 = \"127.0.0.1\"\nipv6 = \"ff02::1\"\n")],
        r#"
error: 127.0.0.1 is a loopback address
  --> slices/a.toml:2:8
  |
2 | ipv4 = "127.0.0.1"
  |        ^^^^^^^^^^^
  help: write a unicast address of the node that only this slice is to use

error: ff02::1 is a multicast address
  --> slices/a.toml:3:8
  |
3 | ipv6 = "ff02::1"
  |        ^^^^^^^^^
  help: write a unicast address of the node that only this slice is to use
"#,
    );
}

#[test]
fn an_own_address_that_is_some_slices_loopback() {
    refused(
        "",
        &[("a", "[address]\nipv6 = \"fd53:6c00::2:1\"\n")],
        r#"
error: fd53:6c00::2:1 is an address of the private loopbacks of slices
  --> slices/a.toml:2:8
  |
2 | ipv6 = "fd53:6c00::2:1"
  |        ^^^^^^^^^^^^^^^^
  help: write a unicast address of the node that only this slice is to use
"#,
    );
}

#[test]
fn a_cap_below_its_floor() {
    refused(
        "",
        &[("a", "[cpu]\nfloor = 2\ncap = \"50 %\"\n")],
        r#"
error: the cap of [cpu] (0.5 cores) is below its floor (2 cores)
  --> slices/a.toml:3:7
  |
3 | cap = "50 %"
  |       ^^^^^^
  --> slices/a.toml:2:9
  |
2 | floor = 2
  |         ^ the floor
  help: raise the cap, or lower the floor
"#,
    );
}

#[test]
fn a_cap_equal_to_its_floor_is_well_formed() {
    assert!(read("", &[("a", "[cpu]\nfloor = 2\ncap = \"200 %\"\n")]).is_ok());
}

#[test]
fn two_files_of_one_slice() {
    let mut sources = Sources::default();
    for path in ["node.toml", "old/a.toml", "new/a.toml"] {
        sources.add(path, "");
    }
    let errors = parse(sources, &|_| false).unwrap_err();
    assert_eq!(errors.reports()[0].message, "the slice \"a\" has two files");
    assert_eq!(errors.reports()[0].file, Path::new("new/a.toml"));
}

#[test]
fn no_node_file() {
    let errors = parse(Sources::default(), &|_| false).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "error: there is no node.toml\n  --> node.toml\n  help: create it; an empty node.toml takes every default\n"
    );
}

#[test]
fn a_page_on_a_port_that_needs_privilege() {
    refused(
        "[status]\npage = 80\n",
        &[],
        r#"
error: `page` is out of range
  --> node.toml:2:8
  |
2 | page = 80
  |        ^^
  help: write a whole number from 1024 to 65535
"#,
    );
}

#[test]
fn raw_sockets_without_a_context() {
    refused(
        "",
        &[("a", "raw = \"safe\"\n")],
        r#"
error: `raw = "safe"` without [context]: nobody makes the sockets
  --> slices/a.toml:1:7
  |
1 | raw = "safe"
  |       ^^^^^^
  help: add [context] with an `image`, or remove `raw`
"#,
    );
}

#[test]
fn raw_ports_without_raw_sockets() {
    refused(
        "",
        &[(
            "a",
            "[ports]\nraw_udp = [7000]\n[context]\nimage = \"debian\"\n",
        )],
        r#"
error: `raw_udp` without `raw = "safe"`: nobody speaks on the port
  --> slices/a.toml:2:12
  |
2 | raw_udp = [7000]
  |            ^^^^
  help: add `raw = "safe"` at the top of the file, or reserve the port with `tcp` or `udp`
"#,
    );
}

#[test]
fn control_without_a_context_without_a_table_and_of_a_slice_with_bounds_of_its_own() {
    refused(
        "",
        &[
            ("a", "role = \"management\"\ngrants = [\"control\"]\n"),
            (
                "b",
                "address.ipv4 = \"203.0.113.53\"\nmemory.cap = \"1 GiB\"\nlink.quota = \"1 GB\"\nlink.exempt_cap = \"1 Mbit/s\"\nlink.packets = 500\nlink.receive = \"1 Mbit/s\"\n[control]\nslices = 2\n",
            ),
        ],
        r#"
error: the grant `control` without [context]: there is no /run/slice/status.sock
  --> slices/a.toml:2:10
  |
2 | grants = ["control"]
  |          ^^^^^^^^^^^
  help: add [context] with an `image`, or remove the grant

error: the grant `control` without [control]: there is nothing to lend
  --> slices/a.toml:2:10
  |
2 | grants = ["control"]
  |          ^^^^^^^^^^^
  help: add [control] with a `prefix`, or remove the grant

error: [control] without the grant `control`: nothing would be lent
  --> slices/b.toml:7:1
  |
7 | [control]
  | ^^^^^^^^^
  help: add `role = "management"` and `grants = ["control"]`, or remove [control]

error: [control] in a slice with an address of its own: its slices would use the shared ones, which it does not
  --> slices/b.toml:7:1
  |
7 | [control]
  | ^^^^^^^^^
  help: remove [address], or [control]

error: [control] in a slice with a quota on a link: what its slices send would not count
  --> slices/b.toml:7:1
  |
7 | [control]
  | ^^^^^^^^^
  help: remove the quota, or [control]

error: [control] in a slice with an `exempt_cap`: what its slices send to exempt networks would have no bound
  --> slices/b.toml:7:1
  |
7 | [control]
  | ^^^^^^^^^
  help: remove `exempt_cap`, or [control]

error: [control] without `memory_cap` in a slice whose [memory] has `cap`: its slices would have no bound
  --> slices/b.toml:7:1
  |
7 | [control]
  | ^^^^^^^^^
  help: add `memory_cap`: what all its slices may have together

error: [control] without `link_packets` in a slice whose [link] has `packets`: its slices would have no bound
  --> slices/b.toml:7:1
  |
7 | [control]
  | ^^^^^^^^^
  help: add `link_packets`: what all its slices may have together

error: [control] without `link_receive` in a slice whose [link] has `receive`: its slices would have no bound
  --> slices/b.toml:7:1
  |
7 | [control]
  | ^^^^^^^^^
  help: add `link_receive`: what all its slices may have together

error: [control] has no `prefix`
  --> slices/b.toml:7:1
  |
7 | [control]
  | ^^^^^^^^^
  help: add for example `prefix = "exp_"`: how the names of its slices begin
"#,
    );
}

#[test]
fn grants_of_a_tenant_and_without_a_context() {
    refused(
        "",
        &[("a", "grants = [\"audit\", \"status\"]\n")],
        r#"
error: `grants` in a slice that is no management slice
  --> slices/a.toml:1:10
  |
1 | grants = ["audit", "status"]
  |          ^^^^^^^^^^^^^^^^^^^
  help: add `role = "management"`, or remove `grants`

error: the grant `audit` without [context]: nobody makes the stream of packets
  --> slices/a.toml:1:10
  |
1 | grants = ["audit", "status"]
  |          ^^^^^^^^^^^^^^^^^^^
  help: add [context] with an `image`, or remove the grant

error: the grant `status` without [context]: there is no /run/slice/status.sock
  --> slices/a.toml:1:10
  |
1 | grants = ["audit", "status"]
  |          ^^^^^^^^^^^^^^^^^^^
  help: add [context] with an `image`, or remove the grant
"#,
    );
}

#[test]
fn a_name_that_is_not_the_files() {
    refused(
        "",
        &[("alpha", "name = \"beta\"\n")],
        r#"
error: the slice is named "beta" in a file named "alpha.toml"
  --> slices/alpha.toml:1:8
  |
1 | name = "beta"
  |        ^^^^^^
  help: rename the file to beta.toml, or write `name = "alpha"`
"#,
    );
}

#[test]
fn a_file_name_that_is_no_name() {
    refused(
        "",
        &[("Alpha", "")],
        r#"
error: the file's name "Alpha" has the character 'A'
  --> slices/Alpha.toml:1:1
  |
1 |
  | ^
  help: rename the file: a name is a lower-case letter and up to 30 more of a-z, 0-9 and _; `node`, `all` and `unattributed` are taken
"#,
    );
}

#[test]
fn a_name_that_an_account_has() {
    refused(
        "",
        &[("daemon", "name = \"daemon\"\n")],
        r#"
error: the node already has an account or group named "daemon"
  --> slices/daemon.toml:1:8
  |
1 | name = "daemon"
  |        ^^^^^^^^
  help: choose another name: a slice must not be mistaken for an account of the node
"#,
    );
}

#[test]
fn a_missing_quote() {
    refused(
        "[node]\nlinger = \"60 s\nmax_slices = 4\n",
        &[],
        r#"
error: the text has no closing quote, or a character that must be escaped
  --> node.toml:2:15
  |
2 | linger = "60 s
  |               ^
  help: close it with a double quote on the same line
"#,
    );
}

#[test]
fn a_missing_value() {
    refused(
        "[node]\nlinger =\nmax_slices = 4\n",
        &[],
        r#"
error: a value is missing
  --> node.toml:2:9
  |
2 | linger =
  |         ^
  help: write `KEY = VALUE`, or remove the key
"#,
    );
}

#[test]
fn a_missing_bracket_of_a_header() {
    refused(
        "[node\nmax_slices = 4\n[node.give]\ncpu = true\n",
        &[],
        r#"
error: the table header has no closing bracket
  --> node.toml:1:6
  |
1 | [node
  |      ^
  help: write `[NAME]`, or `[[NAME]]` for a list of tables

error: `cpu` takes CPU time from 0.01 cores to 8192 cores, and this is `true` or `false`
  --> node.toml:4:7
  |
4 | cpu = true
  |       ^^^^
  help: write for example `cpu = "3.5"`
"#,
    );
}

#[test]
fn a_header_that_cannot_be_read_and_no_blame_for_what_is_below_it() {
    refused(
        "[]\nmax_slices = 4\n[node.give]\ncpu = true\n",
        &[],
        r#"
error: this is not TOML: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`
  --> node.toml:1:2
  |
1 | []
  |  ^
  help: compare it with the examples in docs/policy.md

error: `cpu` takes CPU time from 0.01 cores to 8192 cores, and this is `true` or `false`
  --> node.toml:4:7
  |
4 | cpu = true
  |       ^^^^
  help: write for example `cpu = "3.5"`
"#,
    );
}

#[test]
fn a_missing_bracket_of_the_last_header() {
    let said = |node: &str| -> Vec<String> {
        let errors = read(node, &[]).unwrap_err();
        errors
            .complaints()
            .iter()
            .map(|complaint| complaint.message.clone())
            .collect()
    };
    // What the parser makes of the line below is not the owner's doing.
    assert_eq!(
        said("[node\nmax_slices = 4\n"),
        ["the table header has no closing bracket"]
    );
    assert_eq!(
        said("[[refuse]\nto = [\"10.0.0.0/8\"]\n[node]\nmax_slices = 4\nlinger =\n"),
        [
            "the header of a list of tables has no closing brackets",
            "a value is missing"
        ]
    );
}

#[test]
fn a_missing_bracket_of_a_list() {
    refused(
        "",
        &[("a", "[ports]\ntcp = [80, 443\nudp = [53]\nclaim = maybe\n")],
        r#"
error: a list is not closed, or a comma is missing in it
  --> slices/a.toml:2:15
  |
2 | tcp = [80, 443
  |               ^
  help: write `[A, B]`
"#,
    );
}

#[test]
fn a_quantity_without_quotes() {
    refused(
        "[node]\nlinger = 60 s\n",
        &[],
        r#"
error: this value is not quoted
  --> node.toml:2:10
  |
2 | linger = 60 s
  |          ^^^^
  help: write text, quantities and addresses in double quotes
"#,
    );
}

#[test]
fn something_that_is_no_toml() {
    refused(
        "this is not TOML\n",
        &[],
        r#"
error: a key has no value
  --> node.toml:1:6
  |
1 | this is not TOML
  |      ^
  help: write `KEY = VALUE`, or put # before a comment
"#,
    );
}

#[test]
fn a_table_written_twice() {
    refused(
        "[node]\nmax_slices = 4\n[node]\nlinger = \"1 s\"\n",
        &[],
        r#"
error: `node` is written twice
  --> node.toml:3:2
  |
3 | [node]
  |  ^^^^
  --> node.toml:1:2
  |
1 | [node]
  |  ^^^^ first here
  help: put the keys of both below one header
"#,
    );
}

#[test]
fn everything_in_all_files_at_once() {
    refused(
        "[node]\nmax_slices = 0\n[nod.reserved]\n",
        &[
            ("a", "sockets = 0\n[ports]\nclaims = 0\n"),
            ("b", "socket = 1\nprocesses = 1.5\n"),
        ],
        r#"
error: `max_slices` is out of range
  --> node.toml:2:14
  |
2 | max_slices = 0
  |              ^
  help: write a whole number from 1 to 16382

error: unknown key `nod` at the top of the file
  --> node.toml:3:2
  |
3 | [nod.reserved]
  |  ^^^
  help: did you mean `node`?

error: `sockets` is out of range
  --> slices/a.toml:1:11
  |
1 | sockets = 0
  |           ^
  help: write a whole number from 1 to 16777216

error: `claims` is out of range
  --> slices/a.toml:3:10
  |
3 | claims = 0
  |          ^
  help: write a whole number from 1 to 131070

error: unknown key `socket` at the top of the file
  --> slices/b.toml:1:1
  |
1 | socket = 1
  | ^^^^^^
  help: did you mean `sockets`?

error: `processes` takes a whole number from 1 to 4194304, and this is a decimal number
  --> slices/b.toml:2:13
  |
2 | processes = 1.5
  |             ^^^
  help: write for example `processes = 512`
"#,
    );
}

#[test]
fn bounds_on_the_disk() {
    refused(
        "[node.give]\ndisk = 100\ndisk_overcommit = \"yes\"\n",
        &[
            ("a", "[disk]\ncap = \"1 kB\"\ninodes = 15\nsize = 1\n"),
            ("b", "disk = \"1 GiB\"\n"),
        ],
        r#"
error: `disk` takes a size from 1 MiB, or a percentage up to 100 %, and this is a whole number
  --> node.toml:2:8
  |
2 | disk = 100
  |        ^^^
  help: write for example `disk = "500 GiB"`

error: `disk_overcommit` takes `true` or `false`, and this is text
  --> node.toml:3:19
  |
3 | disk_overcommit = "yes"
  |                   ^^^^^
  help: write for example `disk_overcommit = true`

error: `cap` is out of range
  --> slices/a.toml:2:7
  |
2 | cap = "1 kB"
  |       ^^^^^^
  help: write a size from 1 MiB

error: `inodes` is out of range
  --> slices/a.toml:3:10
  |
3 | inodes = 15
  |          ^^
  help: write a whole number from 16 to 4294967295

error: unknown key `size` in [disk]
  --> slices/a.toml:4:1
  |
4 | size = 1
  | ^^^^
  help: known here: `cap`, `inodes`

error: `disk` takes the table [disk], and this is text
  --> slices/b.toml:1:8
  |
1 | disk = "1 GiB"
  |        ^^^^^^^
  help: write the header `[disk]` and the keys below it
"#,
    );
}

#[test]
fn a_context_without_image_and_a_login_without_context() {
    refused(
        "",
        &[
            ("a", "[context]\nhostname = \"a\"\n"),
            ("b", "[login]\nkeys = []\n"),
        ],
        r#"
error: [context] has no `image`
  --> slices/a.toml:1:1
  |
1 | [context]
  | ^^^^^^^^^
  help: add for example `image = "debian"`; `slice image list` tells which there are

error: [login] without [context]: there is nothing to log in to
  --> slices/b.toml:1:1
  |
1 | [login]
  | ^^^^^^^
  help: add [context] with an `image`, or remove [login]
"#,
    );
}

#[test]
fn a_capability_that_no_slice_gets_and_one_misspelt() {
    refused(
        "",
        &[(
            "a",
            "[context]\nimage = \"debian\"\ncapabilities = [\"net_admin\", \"setuit\", 3]\n",
        )],
        r#"
error: `capabilities` cannot have "net_admin"
  --> slices/a.toml:3:17
  |
3 | capabilities = ["net_admin", "setuit", 3]
  |                 ^^^^^^^^^^^
  help: `capabilities` takes a list of `chown`, `dac_override`, `dac_read_search`, `fowner`, `fsetid`, `kill`, `setgid`, `setuid`, `setpcap`, `net_bind_service`, `ipc_lock`, `ipc_owner`, `sys_chroot`, `sys_ptrace`, `sys_nice`, `lease`, `setfcap`, `audit_write`, `linux_immutable`, `sys_admin`, `net_broadcast`

error: `capabilities` cannot have "setuit"
  --> slices/a.toml:3:30
  |
3 | capabilities = ["net_admin", "setuit", 3]
  |                              ^^^^^^^^
  help: did you mean "setuid"?

error: `capabilities` takes a list of `chown`, `dac_override`, `dac_read_search`, `fowner`, `fsetid`, `kill`, `setgid`, `setuid`, `setpcap`, `net_bind_service`, `ipc_lock`, `ipc_owner`, `sys_chroot`, `sys_ptrace`, `sys_nice`, `lease`, `setfcap`, `audit_write`, `linux_immutable`, `sys_admin`, `net_broadcast`, and this is a whole number
  --> slices/a.toml:3:40
  |
3 | capabilities = ["net_admin", "setuit", 3]
  |                                        ^
  help: write for example `capabilities = ["chown", "setuid", "setgid"]`
"#,
    );
}

#[test]
fn keys_that_are_none() {
    refused(
        "",
        &[(
            "a",
            "context.image = \"debian\"\n[login]\nkeys = [\"command=\\\"id\\\" ssh-rsa AAAA\", \"ssh-ed25519 AAAA\"]\n",
        )],
        r#"
error: the key in `keys` does not begin with a type of key (`ssh-ed25519`, `ssh-rsa` ...)
  --> slices/a.toml:3:9
  |
3 | keys = ["command=\"id\" ssh-rsa AAAA", "ssh-ed25519 AAAA"]
  |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  help: copy the whole line of a file like ~/.ssh/id_ed25519.pub

error: the key in `keys` is cut, or no key in base64
  --> slices/a.toml:3:40
  |
3 | keys = ["command=\"id\" ssh-rsa AAAA", "ssh-ed25519 AAAA"]
  |                                        ^^^^^^^^^^^^^^^^^^
  help: copy the whole line of a file like ~/.ssh/id_ed25519.pub
"#,
    );
}
