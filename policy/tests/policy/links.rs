//! Links: what is refused and in which words, what does not fit, what it compiles to, and what a
//! reload changes.

use std::collections::{BTreeMap, BTreeSet};

use policy::abi::{LinkEntry, LinkKnobs, POLICED};
use policy::admission::{admit, rows};
use policy::compile::{Changes, ExemptAt, KnobsAt, Link, Step, compile};
use policy::config::Prefix;
use policy::config::units::RATE;
use policy::decide::pace::{RATE_MAX, SHARE_MAX};
use policy::ids::SliceId;
use policy::ledger::Ledger;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::laws::borrowed;
use crate::node::{facts, fits, plan, read};
use crate::plans::{names, reload};

/// A node with one link.
const ONE: &str = "[links.eth0]\nrate = \"100 Mbit/s\"\n";

/// Reads the texts, or admits what they say; one of the two is wrong in this way and no other.
#[track_caller]
fn refused(node: &str, slices: &[(&str, &str)], said: &str) {
    let errors = match read(node, slices) {
        Err(errors) => errors,
        Ok(config) => fits(&config, &facts()).expect_err("the policy is wrong"),
    };
    assert_eq!(format!("\n{errors}"), said);
}

// What is refused.

#[test]
fn a_link_without_a_rate() {
    refused(
        "[links.eth0]\nnode_share = 3\n",
        &[],
        r#"
error: [links.eth0] has no `rate`
  --> node.toml:1:1
  |
1 | [links.eth0]
  | ^^^^^^^^^^^^
  help: add for example `rate = "100 Mbit/s"`
"#,
    );
}

#[test]
fn rates_out_of_range() {
    refused(
        "[links.eth0]\nrate = \"99 kbit/s\"\nnode_cap = \"9 kbit/s\"\n[links.eth1]\nrate = \"101 Gbit/s\"\n",
        &[("a", "[link]\nfloor = \"1 Tbit/s\"\nshare = 1001\n")],
        r#"
error: `rate` is out of range
  --> node.toml:2:8
  |
2 | rate = "99 kbit/s"
  |        ^^^^^^^^^^^
  help: write a rate from 100 kbit/s to 100 Gbit/s

error: `node_cap` is out of range
  --> node.toml:3:12
  |
3 | node_cap = "9 kbit/s"
  |            ^^^^^^^^^^
  help: write a rate from 10 kbit/s to 100 Gbit/s

error: `rate` is out of range
  --> node.toml:5:8
  |
5 | rate = "101 Gbit/s"
  |        ^^^^^^^^^^^^
  help: write a rate from 100 kbit/s to 100 Gbit/s

error: `floor` is out of range
  --> slices/a.toml:2:9
  |
2 | floor = "1 Tbit/s"
  |         ^^^^^^^^^^
  help: write a rate up to 100 Gbit/s

error: `share` is out of range
  --> slices/a.toml:3:9
  |
3 | share = 1001
  |         ^^^^
  help: write a whole number from 1 to 1000
"#,
    );
}

#[test]
fn names_that_no_device_has() {
    refused(
        "[links.lo]\nrate = \"1 Gbit/s\"\n[links.\"eth/0\"]\nrate = \"1 Gbit/s\"\n[links.a_very_long_name]\nrate = \"1 Gbit/s\"\n",
        &[],
        r#"
error: the name "lo" is the loopback device's, and traffic inside the node is not shaped
  --> node.toml:1:8
  |
1 | [links.lo]
  |        ^^
  help: write the name of an uplink device, as `ip link` shows it

error: the name "eth/0" has the character '/'
  --> node.toml:3:8
  |
3 | [links."eth/0"]
  |        ^^^^^^^
  help: write the name of an uplink device, as `ip link` shows it

error: the name "a_very_long_name" is longer than 15 bytes
  --> node.toml:5:8
  |
5 | [links.a_very_long_name]
  |        ^^^^^^^^^^^^^^^^
  help: write the name of an uplink device, as `ip link` shows it
"#,
    );
}

#[test]
fn a_name_with_a_dot_and_without_quotes() {
    refused(
        "[links.eth0.100]\nrate = \"1 Gbit/s\"\n[links.eth0]\nrate = \"1 Gbit/s\"\n",
        &[],
        r#"
error: unknown key `100` in [links.eth0]
  --> node.toml:1:13
  |
1 | [links.eth0.100]
  |             ^^^
  help: put the name of the device in quotes: `[links."eth0.100"]`
"#,
    );
}

#[test]
fn a_link_too_many() {
    let node: String = (0..9)
        .map(|n| format!("[links.eth{n}]\nrate = \"1 Gbit/s\"\n"))
        .collect();
    refused(
        &node,
        &[],
        r#"
error: eth8 is one link too many: a node has at most 8
   --> node.toml:17:1
   |
17 | [links.eth8]
   | ^^^^^^^^^^^^
  help: remove it: what is no uplink needs no table
"#,
    );
}

#[test]
fn tables_that_are_named_otherwise() {
    refused(
        "[[link]]\ndevice = \"eth0\"\n",
        &[(
            "a",
            "[links]\nfloor = \"1 Mbit/s\"\n[link.eth0]\nfloor = \"1 Mbit/s\"\n",
        )],
        r#"
error: unknown key `link` at the top of the file
  --> node.toml:1:3
  |
1 | [[link]]
  |   ^^^^
  help: did you mean `links`?

error: unknown key `floor` in [links]
  --> slices/a.toml:2:1
  |
2 | floor = "1 Mbit/s"
  | ^^^^^
  help: write the header `[link]`, or `[links.NAME]` for one

error: unknown key `eth0` in [link]
  --> slices/a.toml:3:7
  |
3 | [link.eth0]
  |       ^^^^
  help: write the header `[links.eth0]`
"#,
    );
}

#[test]
fn keys_of_a_link_that_are_none() {
    refused(
        "[links]\nrate = \"1 Gbit/s\"\n[links.eth0]\nrate = 100\nnode_flor = \"1 Mbit/s\"\n",
        &[("a", "[links.eth0]\nrate = \"1 Mbit/s\"\n")],
        r#"
error: unknown key `rate` in [links]
  --> node.toml:2:1
  |
2 | rate = "1 Gbit/s"
  | ^^^^
  help: write the header `[links.NAME]` and the keys below it

error: `rate` takes a rate from 100 kbit/s to 100 Gbit/s, and this is a whole number
  --> node.toml:4:8
  |
4 | rate = 100
  |        ^^^
  help: write for example `rate = "100 Mbit/s"`

error: unknown key `node_flor` in [links.eth0]
  --> node.toml:5:1
  |
5 | node_flor = "1 Mbit/s"
  | ^^^^^^^^^
  help: did you mean `node_floor`?

error: unknown key `rate` in [links.eth0]
  --> slices/a.toml:2:1
  |
2 | rate = "1 Mbit/s"
  | ^^^^
  help: `rate` belongs in [links.NAME] of node.toml
"#,
    );
}

#[test]
fn caps_below_their_floors() {
    refused(
        "[links.eth0]\nrate = \"1 Gbit/s\"\nnode_floor = \"2 Mbit/s\"\nnode_cap = \"1 Mbit/s\"\n",
        &[(
            "a",
            "[link]\nfloor = \"16 Mbit/s\"\ncap = \"8 Mbit/s\"\n[links.\"eth0.1\"]\nfloor = \"4 Mbit/s\"\ncap = \"1 Mbit/s\"\n",
        )],
        r#"
error: the cap of the node on eth0 (1 Mbit/s) is below its floor (2 Mbit/s)
  --> node.toml:4:12
  |
4 | node_cap = "1 Mbit/s"
  |            ^^^^^^^^^^
  --> node.toml:3:14
  |
3 | node_floor = "2 Mbit/s"
  |              ^^^^^^^^^^ the floor
  help: raise the cap, or lower the floor

error: the cap of [link] (8 Mbit/s) is below its floor (16 Mbit/s)
  --> slices/a.toml:3:7
  |
3 | cap = "8 Mbit/s"
  |       ^^^^^^^^^^
  --> slices/a.toml:2:9
  |
2 | floor = "16 Mbit/s"
  |         ^^^^^^^^^^^ the floor
  help: raise the cap, or lower the floor

error: the cap of [links."eth0.1"] (1 Mbit/s) is below its floor (4 Mbit/s)
  --> slices/a.toml:6:7
  |
6 | cap = "1 Mbit/s"
  |       ^^^^^^^^^^
  --> slices/a.toml:5:9
  |
5 | floor = "4 Mbit/s"
  |         ^^^^^^^^^^ the floor
  help: raise the cap, or lower the floor
"#,
    );
}

// What does not fit the node.

#[test]
fn a_cap_on_one_link_below_the_floor_on_all() {
    refused(
        ONE,
        &[(
            "a",
            "[link]\nfloor = \"2 Mbit/s\"\n[links.eth0]\ncap = \"1 Mbit/s\"\n",
        )],
        r#"
error: the cap of slice a on eth0 (1 Mbit/s) is below its floor (2 Mbit/s)
  --> slices/a.toml:4:7
  |
4 | cap = "1 Mbit/s"
  |       ^^^^^^^^^^
  --> slices/a.toml:2:9
  |
2 | floor = "2 Mbit/s"
  |         ^^^^^^^^^^ the floor
  help: raise the cap, or lower the floor
"#,
    );
    // The other key of that link mends it.
    let both =
        "[link]\nfloor = \"2 Mbit/s\"\n[links.eth0]\nfloor = \"0 bit/s\"\ncap = \"1 Mbit/s\"\n";
    assert!(fits(&read(ONE, &[("a", both)]).unwrap(), &facts()).is_ok());
}

#[test]
fn a_link_that_the_node_does_not_have() {
    refused(
        "[links.eth1]\nrate = \"1 Gbit/s\"\n[links.eth0]\nrate = \"1 Gbit/s\"\n",
        &[("a", "[links.eth2]\nshare = 3\n")],
        r#"
error: slice a names the link eth2, which the node does not have
  --> slices/a.toml:1:1
  |
1 | [links.eth2]
  | ^^^^^^^^^^^^
  help: the node's links are eth0, eth1; add `eth2` to node.toml, or remove the table
"#,
    );
}

#[test]
fn a_period_of_no_quota() {
    refused(
        ONE,
        &[
            ("a", "[link]\nquota_period = \"7 days\"\n"),
            ("b", "[links.eth0]\nquota_period = \"7 days\"\n"),
            // That of all links lasts as long on this one.
            (
                "c",
                "[link]\nquota = \"1 GB\"\n[links.eth0]\nquota_period = \"7 days\"\n",
            ),
        ],
        r#"
error: `quota_period` without `quota`: there is nothing to last so long
  --> slices/a.toml:2:16
  |
2 | quota_period = "7 days"
  |                ^^^^^^^^
  help: add for example `quota = "100 GB"`, or remove `quota_period`

error: `quota_period` without `quota`: there is nothing to last so long
  --> slices/b.toml:2:16
  |
2 | quota_period = "7 days"
  |                ^^^^^^^^
  help: add for example `quota = "100 GB"`, or remove `quota_period`
"#,
    );
}

#[test]
fn a_part_of_no_link() {
    refused(
        "",
        &[
            ("a", "[link]\nshare = 3\n"),
            ("b", "[links.eth0]\nshare = 3\n[links.eth1]\n"),
        ],
        r#"
error: slice a has [link], and the node has no link
  --> slices/a.toml:1:1
  |
1 | [link]
  | ^^^^^^
  help: add for example `[links.eth0]` and `rate = "100 Mbit/s"` to node.toml, or remove [link]

error: slice b has [links], and the node has no link
  --> slices/b.toml:1:1
  |
1 | [links.eth0]
  | ^^^^^^^^^^^^
  help: add for example `[links.eth0]` and `rate = "100 Mbit/s"` to node.toml, or remove [links]
"#,
    );
}

#[test]
fn floors_beyond_the_rate_of_a_link() {
    let floor = |rate: &str| format!("[link]\nfloor = \"{rate}\"\n");
    refused(
        "[links.eth0]\nrate = \"100 Mbit/s\"\nnode_floor = \"10 Mbit/s\"\n[links.eth1]\nrate = \"1 Gbit/s\"\n",
        &[
            ("a", &floor("50 Mbit/s")),
            ("b", &floor("40.5 Mbit/s")),
            ("c", ""),
        ],
        r#"
error: the floors on link eth0 do not fit: the node and 2 slices need 100500 kbit/s, its rate is 100 Mbit/s, 500 kbit/s too much
  --> slices/a.toml:2:9
  |
2 | floor = "50 Mbit/s"
  |         ^^^^^^^^^^^
  --> node.toml:2:8
  |
2 | rate = "100 Mbit/s"
  |        ^^^^^^^^^^^^ its rate
  help: lower floors on eth0 by 500 kbit/s in all, or raise its `rate`
"#,
    );
    refused(
        "[links.eth0]\nrate = \"1 Mbit/s\"\nnode_floor = \"2 Mbit/s\"\n",
        &[],
        r#"
error: the floors on link eth0 do not fit: the node needs 2 Mbit/s, its rate is 1 Mbit/s, 1 Mbit/s too much
  --> node.toml:3:14
  |
3 | node_floor = "2 Mbit/s"
  |              ^^^^^^^^^^
  --> node.toml:2:8
  |
2 | rate = "1 Mbit/s"
  |        ^^^^^^^^^^ its rate
  help: lower floors on eth0 by 1 Mbit/s in all, or raise its `rate`
"#,
    );
    // Equal is not beyond.
    assert!(
        fits(
            &read(ONE, &[("a", &floor("100 Mbit/s"))]).unwrap(),
            &facts()
        )
        .is_ok()
    );
}

// What it compiles to.

fn knobs(id: SliceId, floor: u64, share: u32, cap: u64) -> LinkKnobs {
    LinkKnobs {
        floor,
        cap,
        share,
        id,
        quota: 0,
        period_ns: 0,
        packets: 0,
        receive: 0,
    }
}

#[test]
fn who_says_nothing_has_the_defaults_on_every_link() {
    let plan = plan(
        "[links.eth1]\nrate = \"8 Mbit/s\"\n[links.eth0]\nrate = \"100 kbit/s\"\n",
        &[("a", "")],
    );
    let link = |name: &str, rate| Link {
        name: name.to_owned(),
        rate,
        exempt: false,
    };
    assert_eq!(plan.links, [link("eth0", 12_500), link("eth1", 1_000_000)]);
    let at = |link, row| KnobsAt {
        link,
        exempt: false,
        row,
    };
    let (node, slice) = (SliceId::NODE, SliceId(2));
    let expected = BTreeMap::from([
        (at(0, 0), knobs(node, 0, 5, RATE_MAX)),
        (at(0, 2), knobs(slice, 0, 1, RATE_MAX)),
        (at(1, 0), knobs(node, 0, 5, RATE_MAX)),
        (at(1, 2), knobs(slice, 0, 1, RATE_MAX)),
    ]);
    assert_eq!(plan.knobs, expected);
    assert_eq!(at(1, 2).index(34), 2 * 34 + 2);
}

#[test]
fn what_is_said_of_one_link_goes_key_by_key_over_what_is_said_of_all() {
    let plan = plan(
        "[links.eth0]\nrate = \"1 Gbit/s\"\nnode_floor = \"8 Mbit/s\"\nnode_share = 7\nnode_cap = \"80 Mbit/s\"\n[links.eth1]\nrate = \"1 Gbit/s\"\n",
        &[(
            "a",
            "[link]\nfloor = \"16 Mbit/s\"\nshare = 4\ncap = \"32 Mbit/s\"\n[links.eth1]\nfloor = \"0 bit/s\"\ncap = \"100 kB/s\"\n",
        )],
    );
    let of = |link, row| {
        plan.knobs[&KnobsAt {
            link,
            exempt: false,
            row,
        }]
    };
    assert_eq!(of(0, 0), knobs(SliceId::NODE, 1_000_000, 7, 10_000_000));
    assert_eq!(of(0, 2), knobs(SliceId(2), 2_000_000, 4, 4_000_000));
    assert_eq!(of(1, 2), knobs(SliceId(2), 0, 4, 100_000));
}

#[test]
fn rates_are_rounded_down_to_whole_bytes_and_no_cap_to_none() {
    let plan = plan(
        "[links.eth0]\nrate = \"100007 bit/s\"\n",
        &[("a", "[link]\nfloor = \"15 bit/s\"\ncap = \"10 kbit/s\"\n")],
    );
    assert_eq!(plan.links[0].rate, 12_500);
    let at = KnobsAt {
        link: 0,
        exempt: false,
        row: 2,
    };
    assert_eq!(plan.knobs[&at], knobs(SliceId(2), 1, 1, 1_250));
}

#[test]
fn a_quota_lasts_thirty_days_unless_it_is_said() {
    let plan = plan(
        "[links.eth0]\nrate = \"1 Gbit/s\"\n[links.eth1]\nrate = \"1 Gbit/s\"\n",
        &[
            ("a", "[link]\nquota = \"100 GB\"\n"),
            (
                "b",
                "[link]\nquota = \"100 GB\"\n[links.eth1]\nquota = \"1 MB\"\nquota_period = \"1 min\"\n",
            ),
        ],
    );
    let of = |link, row| {
        let knobs = plan.knobs[&KnobsAt {
            link,
            exempt: false,
            row,
        }];
        (knobs.quota, knobs.period_ns)
    };
    let (minute, month) = (60_000_000_000, 30 * 86_400_000_000_000);
    assert_eq!(of(0, 0), (0, 0));
    assert_eq!(of(0, 2), (100_000_000_000, month));
    assert_eq!(of(1, 2), (100_000_000_000, month));
    assert_eq!(of(0, 3), (100_000_000_000, month));
    assert_eq!(of(1, 3), (1_000_000, minute));
}

#[test]
fn packets_are_bounded_where_it_is_said() {
    let plan = plan(
        &format!("{ONE}{EXEMPT}[links.eth1]\nrate = \"8 Mbit/s\"\n"),
        &[
            ("a", "[link]\npackets = 5000\n[links.eth1]\npackets = 100\n"),
            ("b", ""),
        ],
    );
    let of = |link, exempt, row| plan.knobs[&KnobsAt { link, exempt, row }].packets;
    assert_eq!((of(0, false, 2), of(1, false, 2)), (5000, 100));
    assert_eq!(
        (of(0, true, 2), of(0, false, 0), of(0, false, 3)),
        (0, 0, 0)
    );
    refused(
        ONE,
        &[("a", "[link]\npackets = 99\n")],
        r#"
error: `packets` is out of range
  --> slices/a.toml:2:11
  |
2 | packets = 99
  |           ^^
  help: write a whole number from 100 to 100000000
"#,
    );
}

#[test]
fn what_arrives_is_bounded_where_it_is_said_and_promises_nothing() {
    let plan = plan(
        &format!("{ONE}{EXEMPT}[links.eth1]\nrate = \"8 Mbit/s\"\n"),
        &[
            (
                "a",
                "[link]\nreceive = \"900 Mbit/s\"\n[links.eth1]\nreceive = \"1 Mbit/s\"\n",
            ),
            ("b", "[links.eth1]\nreceive = \"2 Mbit/s\"\n"),
            ("c", ""),
        ],
    );
    let of = |link, exempt, row| plan.knobs[&KnobsAt { link, exempt, row }].receive;
    // More than the rate of the link is no error: that is of what is sent.
    assert_eq!((of(0, false, 2), of(1, false, 2)), (112_500_000, 125_000));
    assert_eq!((of(0, false, 3), of(1, false, 3)), (0, 250_000));
    assert_eq!(
        (of(0, true, 2), of(0, false, 0), of(0, false, 4)),
        (0, 0, 0)
    );
    let policed = |row| plan.slices[&row].flags & POLICED != 0;
    assert_eq!([0, 2, 3, 4].map(policed), [false, true, true, false]);
    refused(
        ONE,
        &[("a", "[link]\nreceive = \"64 kbit/s\"\n")],
        r#"
error: `receive` is out of range
  --> slices/a.toml:2:11
  |
2 | receive = "64 kbit/s"
  |           ^^^^^^^^^^^
  help: write a rate from 500 kbit/s to 100 Gbit/s
"#,
    );
}

const EXEMPT: &str = "exempt = [\"198.51.100.0/24\", \"2001:db8:5::/48\"]\n";

#[test]
fn exempt_networks_give_slices_a_second_class_on_their_link() {
    let plan = plan(
        &format!("{ONE}{EXEMPT}[links.eth1]\nrate = \"8 Mbit/s\"\n"),
        &[
            (
                "a",
                "[link]\nfloor = \"8 Mbit/s\"\nshare = 3\ncap = \"16 Mbit/s\"\nquota = \"1 GB\"\nexempt_cap = \"80 Mbit/s\"\n",
            ),
            (
                "b",
                "[link]\nexempt_cap = \"80 Mbit/s\"\n[links.eth0]\nexempt_cap = \"40 Mbit/s\"\n",
            ),
            ("c", ""),
        ],
    );
    let of = |link, exempt, row| plan.knobs.get(&KnobsAt { link, exempt, row }).copied();
    // No floor, no quota, and the share is the same again.
    assert_eq!(of(0, true, 2), Some(knobs(SliceId(2), 0, 3, 10_000_000)));
    assert_eq!(of(0, true, 3), Some(knobs(SliceId(3), 0, 1, 5_000_000)));
    assert_eq!(of(0, true, 4), Some(knobs(SliceId(4), 0, 1, RATE_MAX)));
    // Not the node, and not where nothing is exempt.
    assert_eq!((of(0, true, 0), of(1, true, 2)), (None, None));
    assert!(of(0, false, 0).is_some() && of(0, false, 2).unwrap().quota == 1_000_000_000);
    assert_eq!(
        plan.links
            .iter()
            .map(|link| link.exempt)
            .collect::<Vec<_>>(),
        [true, false]
    );
    // Behind all rows of the link come those of the second class.
    let at = KnobsAt {
        link: 1,
        exempt: true,
        row: 2,
    };
    assert_eq!(at.index(34), 2 * 34 + 34 + 2);
    assert_eq!(KnobsAt::at(at.index(34), 34), at);
}

#[test]
fn exempt_networks_are_entries_by_link_and_family() {
    let networks = "exempt = [\"198.51.100.7\", \"198.51.100.0/24\", \"198.51.100.0/24\", \"::/0\", \"2001:db8::/32\"]\n";
    let plan = plan(
        &format!("{ONE}[links.eth1]\nrate = \"8 Mbit/s\"\n{networks}"),
        &[],
    );
    // What lies in another is said by that; all of IPv6 says nothing of IPv4.
    let said: Vec<String> = plan
        .to_string()
        .lines()
        .filter(|line| line.starts_with("EXEMPT"))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        said,
        ["EXEMPT link=1 198.51.100.0/24", "EXEMPT link=1 ::/0"]
    );
    let key = plan.exempt.first().unwrap().key();
    assert_eq!((key.prefix_length, key.link, key.version), (56, 1, 4));
    assert_eq!(key.address[..5], [198, 51, 100, 0, 0]);
    assert!(
        plan.exempt
            .iter()
            .all(|at| ExemptAt::from(&at.key()) == *at)
    );
}

#[test]
fn more_exempt_networks_than_fit() {
    let many: Vec<String> = (0..65_537u32)
        .map(|n| format!("\"10.{}.{}.{}\"", n >> 15, n >> 7 & 255, (n & 127) * 2))
        .collect();
    let config = read(&format!("{ONE}exempt = [{}]\n", many.join(",")), &[]).unwrap();
    let errors = fits(&config, &facts())
        .expect_err("one too many")
        .to_string();
    assert!(
        errors.starts_with(
            "error: the exempt networks make 65537 entries, 1 more than the node holds"
        ),
        "{}",
        &errors[..200]
    );
}

#[test]
fn a_cap_for_exempt_networks_where_there_are_none() {
    refused(
        &format!("{ONE}[links.eth1]\nrate = \"8 Mbit/s\"\n{EXEMPT}"),
        &[(
            "a",
            "[links.eth0]\nexempt_cap = \"8 Mbit/s\"\n[links.eth1]\nexempt_cap = \"8 Mbit/s\"\n",
        )],
        r#"
error: slice a has `exempt_cap`, and the link eth0 has no `exempt` networks
  --> slices/a.toml:2:14
  |
2 | exempt_cap = "8 Mbit/s"
  |              ^^^^^^^^^^
  help: add for example `exempt = ["198.51.100.0/24"]` to the link in node.toml, or remove `exempt_cap`
"#,
    );
    refused(
        ONE,
        &[("a", "[link]\nexempt_cap = \"8 Mbit/s\"\n")],
        r#"
error: slice a has `exempt_cap`, and no link has `exempt` networks
  --> slices/a.toml:2:14
  |
2 | exempt_cap = "8 Mbit/s"
  |              ^^^^^^^^^^
  help: add for example `exempt = ["198.51.100.0/24"]` to the link in node.toml, or remove `exempt_cap`
"#,
    );
}

#[test]
fn exempt_networks_change_without_other_links() {
    let with = format!("{ONE}{EXEMPT}");
    let come = reload_node(ONE, &with);
    assert_eq!(names(&come), ["knobs", "exempt", "links"]);
    let go = reload_node(&with, ONE);
    assert_eq!(names(&go), ["knobs", "exempt", "links"]);
    let other = reload_node(&with, &with.replace("198.51.100.0/24", "198.51.100.0/23"));
    assert_eq!(names(&other), ["exempt"]);
    assert!(!come.other_links && !go.other_links && !other.other_links);
}

#[test]
fn a_node_without_links_has_no_knobs() {
    let plan = plan("", &[("a", "")]);
    assert!(plan.links.is_empty() && plan.knobs.is_empty());
}

// What a reload changes.

fn reload_node(before: &str, after: &str) -> Changes {
    let slices = [("a", "")];
    plan(before, &slices).changes(&plan(after, &slices))
}

fn entry(rate: u64) -> LinkEntry {
    LinkEntry { rate, exempt: 0 }
}

#[test]
fn a_changed_knob_touches_its_row_on_each_link_and_no_other() {
    let node = "[links.eth0]\nrate = \"1 Gbit/s\"\n[links.eth1]\nrate = \"1 Gbit/s\"\n";
    let other = ("b", "[link]\nshare = 9\n");
    let changes = reload(
        node,
        &[("a", ""), other],
        &[("a", "[link]\nshare = 3\n"), other],
    );
    let [Step::Knobs(rows)] = &changes.steps[..] else {
        panic!("{changes:?}")
    };
    let new = knobs(SliceId(2), 0, 3, RATE_MAX);
    let at = |link| KnobsAt {
        link,
        exempt: false,
        row: 2,
    };
    assert_eq!(rows, &[(at(0), new), (at(1), new)]);
    assert!(!changes.other_links && !changes.forget_checks && !changes.is_empty());
}

#[test]
fn knobs_are_there_before_the_slice_lives_and_go_after_it_is_dead() {
    let changes = reload(ONE, &[("a", "")], &[("b", "")]);
    assert_eq!(names(&changes), ["slices", "knobs", "slices"]);
    let Step::Knobs(rows) = &changes.steps[1] else {
        panic!()
    };
    let at = |row| KnobsAt {
        link: 0,
        exempt: false,
        row,
    };
    assert_eq!(
        rows,
        &[
            (at(2), knobs(SliceId::NODE, 0, 0, 0)),
            (at(3), knobs(SliceId(3), 0, 1, RATE_MAX)),
        ]
    );
}

#[test]
fn a_changed_rate_is_another_rate_of_the_same_link() {
    let changes = reload_node(ONE, "[links.eth0]\nrate = \"8 Mbit/s\"\n");
    assert_eq!(changes.steps, [Step::Links(vec![(0, entry(1_000_000))])]);
    assert!(!changes.other_links);
}

#[test]
fn links_that_come_go_or_are_renamed_are_other_links() {
    let two = format!("{ONE}[links.eth1]\nrate = \"8 Mbit/s\"\n");
    let come = reload_node(ONE, &two);
    assert_eq!(names(&come), ["knobs", "links"]);
    let go = reload_node(&two, ONE);
    assert_eq!(names(&go), ["links", "knobs"]);
    assert_eq!(go.steps[0], Step::Links(vec![(1, entry(0))]));
    // Of a name the maps know nothing.
    let renamed = reload_node(ONE, &ONE.replace("eth0", "eth1"));
    assert_eq!(names(&renamed), [""; 0]);
    assert!(come.other_links && go.other_links && renamed.other_links && !renamed.is_empty());
}

// Laws.

fn rate(bits: u64) -> String {
    RATE.print(bits)
}

/// Links of a node as text: few names, so that they stay, come and go.
pub fn node_links() -> impl Strategy<Value = String> {
    let network = (0..3u8, 22..=32u8).prop_map(|(part, length)| {
        let address = std::net::Ipv4Addr::new(198, 51, part, 130);
        format!("\"{}\"", Prefix::around(address.into(), length).unwrap())
    });
    let link = (
        100_000..10_000_000u64,
        1..4u32,
        0..50_000u64,
        vec(network, 0..4),
    );
    vec(option::of(link), 4).prop_map(|links| {
        links
            .iter()
            .enumerate()
            .filter_map(|(n, link)| {
                let (bits, share, floor, exempt) = link.as_ref()?;
                Some(format!(
                    "[links.eth{n}]\nrate = \"{}\"\nnode_share = {share}\nnode_floor = \"{}\"\nexempt = [{}]\n",
                    rate(*bits),
                    rate(*floor),
                    exempt.join(", "),
                ))
            })
            .collect()
    })
}

/// Floor and cap of a table, and a share.
type Keys = (Option<u64>, Option<u64>, Option<u32>);

fn keys() -> impl Strategy<Value = Keys> {
    let keys = (
        option::of(0..400_000u64),
        option::of(10_000..3_000_000u64),
        option::of(1..=SHARE_MAX),
    );
    keys.prop_filter("malformed", |(floor, cap, _)| {
        floor.is_none_or(|floor| cap.is_none_or(|cap| floor <= cap))
    })
}

fn table(header: &str, (floor, cap, share): &Keys) -> String {
    let key = |name, value: Option<String>| {
        value.map_or_else(String::new, |value| format!("{name} = {value}\n"))
    };
    let quoted = |bits: &u64| format!("\"{}\"", rate(*bits));
    format!(
        "[{header}]\n{}{}{}",
        key("floor", floor.as_ref().map(quoted)),
        key("cap", cap.as_ref().map(quoted)),
        key("share", share.map(|share| share.to_string())),
    )
}

proptest! {
    // A failure is kept as a named test, not as a seed.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn floors_are_admitted_exactly_where_each_link_can_keep_them(
        rates in vec((100_000..2_000_000u64, 0..500_000u64), 1..4),
        slices in vec((keys(), option::of(keys())), 0..6),
    ) {
        let node: String = rates
            .iter()
            .enumerate()
            .map(|(n, (bits, floor))| {
                format!("[links.eth{n}]\nrate = \"{}\"\nnode_floor = \"{}\"\n", rate(*bits), rate(*floor))
            })
            .collect();
        let texts: Vec<(String, String)> = slices
            .iter()
            .enumerate()
            .map(|(n, (every, one))| {
                let one = one.map_or_else(String::new, |one| table("links.eth0", &one));
                (format!("s{n}"), format!("{}{one}", table("link", every)))
            })
            .collect();
        // What each slice has, said a second time and more simply.
        let on = |link: usize, (every, one): &(Keys, Option<Keys>)| {
            let one = one.filter(|_| link == 0).unwrap_or_default();
            (one.0.or(every.0).unwrap_or(0), one.1.or(every.1), one.2.or(every.2).unwrap_or(1))
        };
        let good = rates.iter().enumerate().all(|(link, (bits, floor))| {
            let terms = slices.iter().map(|slice| on(link, slice));
            let sum: u64 = terms.clone().map(|(floor, ..)| floor).sum();
            sum + floor <= *bits && terms.clone().all(|(floor, cap, _)| cap.is_none_or(|cap| floor <= cap))
        });
        let config = read(&node, &borrowed(&texts)).unwrap();
        let facts = facts();
        let names = config.slices.iter().map(|slice| &slice.name.value);
        let ledger = Ledger::default().assign(names, rows(&config), &BTreeSet::new());
        let admitted = admit(&config, &facts, &ledger);
        prop_assert_eq!(admitted.is_ok(), good);
        let Ok(admitted) = admitted else { return Ok(()) };
        let plan = compile(&admitted);
        prop_assert_eq!(plan.knobs.len(), rates.len() * (slices.len() + 1));
        for (number, link) in plan.links.iter().enumerate() {
            prop_assert_eq!(link.rate, rates[number].0 / 8);
            let on_it = || plan.knobs.iter().filter(|(at, _)| at.link as usize == number);
            // Rounding breaks no promise either.
            prop_assert!(on_it().map(|(_, knobs)| knobs.floor).sum::<u64>() <= link.rate);
            for (at, knobs) in on_it() {
                prop_assert_eq!(knobs.id.index(), at.row);
                prop_assert!((1..=SHARE_MAX).contains(&knobs.share));
                prop_assert!(knobs.cap > 0 && knobs.cap <= RATE_MAX && knobs.floor <= knobs.cap);
                if let Some(slice) = at.row.checked_sub(2) {
                    let (floor, cap, share) = on(number, &slices[slice as usize]);
                    let cap = cap.map_or(RATE_MAX, |cap| cap / 8);
                    prop_assert_eq!((knobs.floor, knobs.cap, knobs.share), (floor / 8, cap, share));
                }
            }
        }
    }
}
