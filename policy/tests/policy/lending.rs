//! Slices that slices make: what may be asked for, what is refused and by how much, and that nothing
//! of it takes anything of anybody else.

use std::collections::BTreeMap;

use policy::admission::Admitted;
use policy::compile::compile;
use policy::config::units::{BitsPerSecond, Bytes, MilliCores};
use policy::config::{Config, Objection, Raw, Slice, SliceName, Terms};
use policy::lending::{Joined, Lent, Room, join};

use crate::node::{facts, fits, read};

/// A controller that may lend a little of everything.
const CONTROLLER: &str = r#"
role = "management"
grants = ["control", "status"]
sockets = 500
processes = 300
[control]
slices = 3
prefix = "exp_"
images = ["debian", "small"]
tcp = ["20000-20009"]
udp = [20000]
cpu = 1
cpu_cap = 2
memory = "256 MiB"
memory_cap = "1 GiB"
disk = "4 GiB"
link = "10 Mbit/s"
link_cap = "40 Mbit/s"
link_packets = 5000
link_receive = "50 Mbit/s"
[ports]
tcp = [80]
claims = 10
[[refuse]]
to = ["192.0.2.0/24"]
[io]
weight = 500
write = "5 MB/s"
[context]
image = "tools"
capabilities = ["chown"]
stop_after = "3 s"
[link]
floor = "1 Mbit/s"
"#;

const NODE: &str = "[node]\nmax_slices = 10\n[links.eth0]\nrate = \"100 Mbit/s\"\n";

fn owners() -> Config {
    let other = "[ports]\ntcp = [443]\n[context]\nimage = \"debian\"\n";
    read(
        NODE,
        &[("ctl", CONTROLLER), ("exp_owned", ""), ("other", other)],
    )
    .unwrap()
}

fn name(name: &str) -> SliceName {
    SliceName::new(name).unwrap()
}

/// What asks for little.
fn little() -> Terms {
    Terms {
        cpu_cap: Some(100),
        memory_cap: Some(64 << 20),
        disk_cap: Some(1 << 30),
        link_cap: Some(1_000_000),
        link_packets: Some(1000),
        link_receive: Some(1_000_000),
        image: "small".into(),
        hostname: "host".into(),
        ..Terms::default()
    }
}

fn lent(called: &str, terms: Terms) -> Lent {
    Lent {
        name: name(called),
        controller: name("ctl"),
        terms,
    }
}

fn joined(lent: &[Lent]) -> Joined {
    join(&owners(), lent, &BTreeMap::new())
}

fn admitted<T>(config: &Config, look: impl FnOnce(&Admitted<'_>) -> T) -> T {
    let facts = facts();
    look(&fits(config, &facts).unwrap())
}

/// Each thing that control must not confer: what is asked for beside [`little`], and why it is refused.
#[test]
fn a_controller_lends_what_it_has_and_nothing_else() {
    type Ask = fn(&mut Terms);
    let cases: [(&str, Ask, &str, &str); 27] = [
        (
            "exp_a",
            |t| t.tcp = vec![(20000, 20010)],
            "ports.tcp",
            "TCP port 20010 is not ctl's to lend, or lent already",
        ),
        (
            "exp_a",
            |t| t.tcp = vec![(80, 80)],
            "ports.tcp",
            "TCP port 80 is not ctl's to lend, or lent already",
        ),
        (
            "exp_a",
            |t| t.tcp = vec![(443, 443)],
            "ports.tcp",
            "TCP port 443 is not ctl's to lend, or lent already",
        ),
        (
            "exp_a",
            |t| t.udp = vec![(20001, 20001)],
            "ports.udp",
            "UDP port 20001 is not ctl's to lend, or lent already",
        ),
        (
            "exp_a",
            |t| t.tcp = vec![(0, 1)],
            "ports.tcp",
            "is out of range, or too many",
        ),
        (
            "exp_a",
            |t| t.tcp = vec![(20001, 20000)],
            "ports.tcp",
            "is out of range, or too many",
        ),
        (
            "exp_a",
            |t| t.tcp = vec![(20000, 20000); 65],
            "ports.tcp",
            "is out of range, or too many",
        ),
        (
            "exp_a",
            |t| (t.cpu_floor, t.cpu_cap) = (1500, Some(1500)),
            "cpu.floor",
            "1.5 cores of CPU time is 0.5 cores too much: [control] of ctl has 1 core, of which 1 core are left",
        ),
        (
            "exp_a",
            |t| t.cpu_cap = Some(2500),
            "cpu.cap",
            "2.5 cores of CPU time is 0.5 cores too much: [control] of ctl has 2 cores, of which 2 cores are left",
        ),
        (
            "exp_a",
            |t| t.cpu_cap = None,
            "cpu.cap",
            "must be there: the slices of ctl have 2 cores of CPU time together, of which 2 cores are left",
        ),
        (
            "exp_a",
            |t| (t.memory_floor, t.memory_cap) = (512 << 20, Some(512 << 20)),
            "memory.floor",
            "512 MiB of memory is 256 MiB too much: [control] of ctl has 256 MiB, of which 256 MiB are left",
        ),
        (
            "exp_a",
            |t| t.memory_cap = None,
            "memory.cap",
            "must be there: the slices of ctl have 1 GiB of memory together, of which 1 GiB are left",
        ),
        (
            "exp_a",
            |t| t.disk_cap = Some(5 << 30),
            "disk.cap",
            "5 GiB of the disk is 1 GiB too much: [control] of ctl has 4 GiB, of which 4 GiB are left",
        ),
        (
            "exp_a",
            |t| t.disk_cap = Some(u64::MAX),
            "disk.cap",
            "18446744073709551615 B of the disk is 18446744069414584319 B too much: [control] of ctl has 4 GiB, of which 4 GiB are left",
        ),
        (
            "exp_a",
            |t| (t.link_floor, t.link_cap) = (11_000_000, Some(11_000_000)),
            "link.floor",
            "11 Mbit/s of each link is 1 Mbit/s too much: [control] of ctl has 10 Mbit/s, of which 10 Mbit/s are left",
        ),
        (
            "exp_a",
            |t| t.link_packets = Some(5001),
            "link.packets",
            "5001 of packets in a second on each link is 1 too much: [control] of ctl has 5000, of which 5000 are left",
        ),
        (
            "exp_a",
            |t| t.link_packets = None,
            "link.packets",
            "must be there: the slices of ctl have 5000 of packets in a second on each link together, of which 5000 are left",
        ),
        (
            "exp_a",
            |t| t.link_packets = Some(0),
            "link.packets",
            "is out of range, or too many",
        ),
        (
            "exp_a",
            |t| t.link_receive = Some(60_000_000),
            "link.receive",
            "60 Mbit/s of what arrives by each link is 10 Mbit/s too much: [control] of ctl has 50 Mbit/s, of which 50 Mbit/s are left",
        ),
        (
            "exp_a",
            |t| t.link_receive = None,
            "link.receive",
            "must be there: the slices of ctl have 50 Mbit/s of what arrives by each link together, of which 50 Mbit/s are left",
        ),
        (
            "exp_a",
            |t| t.image = "tools".into(),
            "context.image",
            "ctl may not lend the image tools",
        ),
        (
            "exp_a",
            |t| t.image = "../../etc".into(),
            "context.image",
            "is out of range, or too many",
        ),
        (
            "exp_a",
            |t| t.raw = true,
            "raw",
            "ctl has no raw sockets itself",
        ),
        (
            "exp_a",
            |t| t.processes = Some(301),
            "processes",
            "1 more than ctl may have itself (300)",
        ),
        (
            "exp_a",
            |t| t.keys = vec!["command=\"sh\" ssh-ed25519 AAAA".into()],
            "login.keys",
            "is out of range, or too many",
        ),
        (
            "exp_",
            |_| {},
            "name",
            "the slices of ctl have names that begin with exp_",
        ),
        (
            "other",
            |_| {},
            "name",
            "the slices of ctl have names that begin with exp_",
        ),
    ];
    let owners = owners();
    let controller = owners.slice("ctl").unwrap();
    for (called, ask, field, message) in cases {
        let mut terms = little();
        ask(&mut terms);
        let mut room = Room::of(controller).unwrap();
        let wrong = room.take(&name(called), &terms).expect_err(message);
        let said = Objection::new(field, message);
        assert!(wrong.contains(&said), "{called}: {wrong:#?}");
        // All or nothing: the whole is still there.
        assert_eq!(room.left(), Room::of(controller).unwrap().left());
    }
    Room::of(controller)
        .unwrap()
        .take(&name("exp_a"), &little())
        .unwrap();
}

#[test]
fn what_several_slices_have_is_counted_together_and_a_port_once() {
    let owners = owners();
    let mut room = Room::of(owners.slice("ctl").unwrap()).unwrap();
    let first = Terms {
        tcp: vec![(20003, 20005)],
        memory_floor: 200 << 20,
        memory_cap: Some(200 << 20),
        ..little()
    };
    room.take(&name("exp_a"), &first).unwrap();
    let wrong = room.take(&name("exp_b"), &first).unwrap_err();
    assert_eq!(
        wrong,
        [
            Objection::new(
                "memory.floor",
                "200 MiB of memory is 144 MiB too much: [control] of ctl has 256 MiB, of which 56 MiB are left"
            ),
            Objection::new(
                "ports.tcp",
                "TCP port 20003-20005 is not ctl's to lend, or lent already"
            ),
        ]
    );
    room.take(&name("exp_b"), &little()).unwrap();
    room.take(&name("exp_c"), &little()).unwrap();
    let wrong = room.take(&name("exp_d"), &little()).unwrap_err();
    assert_eq!(
        wrong,
        [Objection::new(
            "",
            "one slice too many: [control] of ctl allows 3"
        )]
    );
}

#[test]
fn a_slice_that_was_made_has_what_its_controller_has_and_no_grant_of_it() {
    let Joined { config, left_out } = joined(&[lent(
        "exp_a",
        Terms {
            tcp: vec![(20000, 20001)],
            ..little()
        },
    )]);
    assert!(left_out.is_empty(), "{left_out:?}");
    let (by, made) = (config.slice("ctl").unwrap(), config.slice("exp_a").unwrap());
    let context = |slice: &Slice| slice.context.clone().unwrap();
    assert_eq!(made.controller, Some(name("ctl")));
    assert_eq!(
        (made.grants, made.control.clone()),
        (Default::default(), None)
    );
    assert_eq!(
        (made.sockets, made.ports.claims, made.processes),
        (500, 10, 300)
    );
    assert_eq!((&made.refuse, made.raw), (&by.refuse, Raw::None));
    assert_eq!(
        (made.cpu.share, made.io.weight, made.io.write),
        (1, None, by.io.write)
    );
    assert_eq!(made.address, Default::default());
    assert!(made.ports.raw.tcp.is_empty() && made.ports.raw.udp.is_empty());
    let (made, by) = (context(made), context(by));
    assert!(
        !made.nested && made.capabilities == by.capabilities && made.stop_after == by.stop_after
    );
}

#[test]
fn ports_that_are_not_lent_are_the_controllers_and_nobody_elses() {
    let ports = |config: &Config, slice: &str| {
        config
            .slice(slice)
            .unwrap()
            .ports
            .reserved
            .tcp_set()
            .to_string()
    };
    assert_eq!(ports(&joined(&[]).config, "ctl"), "80,20000-20009");
    let lent = [lent(
        "exp_a",
        Terms {
            tcp: vec![(20003, 20005)],
            ..little()
        },
    )];
    let with = joined(&lent).config;
    assert_eq!(ports(&with, "ctl"), "80,20000-20002,20006-20009");
    assert_eq!(ports(&with, "exp_a"), "20003-20005");
    // The owner does not give them twice, lent or not.
    let twice = read(NODE, &[("ctl", CONTROLLER), ("z", "ports.tcp = [20004]\n")]).unwrap();
    for lent in [&lent[..], &[]] {
        let joined = join(&twice, lent, &BTreeMap::new());
        assert!(fits(&joined.config, &facts()).is_err());
    }
}

/// What the node promises is the same before and after, so that lending never takes of others and is
/// never refused for the sake of what others were promised since.
#[test]
fn what_is_set_aside_is_promised_lent_or_not() {
    let all = Terms {
        cpu_floor: 1000,
        cpu_cap: Some(2000),
        memory_floor: 256 << 20,
        memory_cap: Some(1 << 30),
        disk_cap: Some(4 << 30),
        link_floor: 10_000_000,
        link_cap: Some(40_000_000),
        ..little()
    };
    let device = owners().node.links[0].name.value.clone();
    let sums = |config: &Config| {
        let sum = |of: &dyn Fn(&Slice) -> u64| config.slices.iter().map(of).sum::<u64>();
        [
            sum(&|slice| slice.promise().cpu().value),
            sum(&|slice| slice.promise().memory().value),
            sum(&|slice| slice.promise().disk().value),
            sum(&|slice| slice.promise().link(&device).value.0),
            sum(&|slice| slice.promise().slices().into()),
        ]
    };
    let (before, after) = (joined(&[]).config, joined(&[lent("exp_a", all)]).config);
    assert!(after.slice("exp_a").is_some());
    assert_eq!(sums(&before), sums(&after));
    assert_eq!(sums(&before), [1000, 256 << 20, 4 << 30, 11_000_000, 6]);
    admitted(&after, |admitted| drop(compile(admitted)));
    // And nobody else can be promised it.
    for (node, more, what) in [
        (NODE, "cpu.floor = 3.5\n", "CPU"),
        (NODE, "memory.floor = \"6400 MiB\"\n", "memory"),
        (NODE, "disk.cap = \"97 GiB\"\n", "disk"),
        (NODE, "link.floor = \"90 Mbit/s\"\n", "link eth0"),
        (
            "[node]\nmax_slices = 4\n[links.eth0]\nrate = \"1 Gbit/s\"\n",
            "",
            "max_slices",
        ),
    ] {
        let config = read(node, &[("ctl", CONTROLLER), ("z", more)]).unwrap();
        let error = fits(&config, &facts()).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn the_owner_comes_first_and_what_does_not_fit_any_more_is_left_out_the_latest_first() {
    let made = [
        lent("exp_owned", little()),
        lent(
            "exp_b",
            Terms {
                tcp: vec![(20000, 20000)],
                ..little()
            },
        ),
        lent(
            "exp_a",
            Terms {
                tcp: vec![(20000, 20000)],
                ..little()
            },
        ),
        Lent {
            controller: name("other"),
            ..lent("exp_c", little())
        },
        Lent {
            controller: name("gone"),
            ..lent("exp_d", little())
        },
    ];
    let Joined { config, left_out } = joined(&made);
    let left: Vec<_> = left_out
        .iter()
        .map(|out| {
            (
                out.name.as_str(),
                out.displaced,
                out.why[0].message.as_str(),
            )
        })
        .collect();
    assert_eq!(
        left,
        [
            (
                "exp_owned",
                true,
                "the node's owner has a slice of this name"
            ),
            (
                "exp_a",
                false,
                "TCP port 20000 is not ctl's to lend, or lent already"
            ),
            ("exp_c", false, "other does not control slices"),
            ("exp_d", false, "gone does not control slices"),
        ]
    );
    assert_eq!(config.slice("exp_owned").unwrap().controller, None);
    assert_eq!(config.slice("exp_b").unwrap().controller, Some(name("ctl")));
    let without = BTreeMap::from([(name("ctl"), String::from("because"))]);
    let none = join(&owners(), &made, &without);
    assert_eq!((none.left_out.len(), none.config.slices.len()), (5, 3));
}

#[test]
fn prefixes_of_two_controllers_do_not_begin_alike() {
    let second = CONTROLLER
        .replace("exp_", "exp_b")
        .replace("20000-20009", "21000")
        .replace("udp = [20000]", "")
        .replace("[80]", "[81]");
    let config = read(NODE, &[("ctl", CONTROLLER), ("two", &second)]).unwrap();
    let error = fits(&config, &facts()).unwrap_err().to_string();
    assert!(
        error.contains(
            "the names of slices that two makes (exp_b...) are such that ctl makes (exp_...)"
        ),
        "{error}"
    );
}

#[test]
fn terms_are_read_as_a_slices_file_is_and_all_that_is_wrong_is_told() {
    let text = "processes = 5\nports = { tcp = [20000, \"20002-20003\"], udp = [] }\ncpu = { floor = 0.5, cap = \"150 %\" }\nmemory = { cap = \"64 MiB\" }\nlink = { floor = \"1 Mbit/s\" }\ncontext = { image = \"small\", autostart = false }\n";
    let terms = Terms::read("exp_a", text).unwrap();
    assert_eq!(
        terms,
        Terms {
            processes: Some(5),
            tcp: vec![(20000, 20000), (20002, 20003)],
            cpu_floor: 500,
            cpu_cap: Some(1500),
            memory_cap: Some(64 << 20),
            link_floor: 1_000_000,
            image: "small".into(),
            hostname: "exp_a".into(),
            ..Terms::default()
        }
    );
    assert_eq!(terms.faults(), []);
    let wrong = Terms::read(
        "exp_a",
        "cpu = { floor = \"2 GiB\" }\nmemroy = 1\nlogin = { keys = [\"x\"] }\n",
    )
    .unwrap_err();
    assert_eq!(wrong.complaints().len(), 5, "{wrong}");
    for name in ["../a", "", "node", "A", "a-b"] {
        assert!(
            Terms::read(name, "context = { image = \"small\" }\n").is_err(),
            "{name}"
        );
    }
}

#[test]
fn quantities_in_answers_are_those_of_the_policy() {
    assert_eq!(BitsPerSecond(10_000_000).to_string(), "10 Mbit/s");
    assert_eq!(
        (MilliCores(500).to_string(), Bytes(1 << 30).to_string()),
        ("0.5 cores".into(), "1 GiB".into())
    );
}
