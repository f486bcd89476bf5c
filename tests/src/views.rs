//! The views that stand in for files of /proc/net: each reader's own sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use libc::{IPPROTO_TCP, SOCK_STREAM, TCP_DEFER_ACCEPT};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::names::{bound, hidden};
use crate::node::Node;
use crate::puppet::{Kind, Opening, Puppet};
use crate::runner::{Test, test};
use crate::site::until;
use crate::stage::{GAMMA, NODE, POLICY, Stage, at};

pub const TESTS: &[Test] = &[
    test(
        "a_view_shows_a_slice_its_own_sockets_and_the_node_all",
        views,
    )
    .on_stage(),
    test(
        "a_view_shows_connections_without_a_socket_to_the_owner_of_the_port",
        remains,
    )
    .on_stage(),
    test("a_view_can_only_be_read", only_read).on_stage(),
    test(
        "programs_that_show_the_network_show_a_slice_its_own",
        programs,
    )
    .on_stage(),
];

/// The directory of the views, mounted where a slice can read it.
struct Mounted(&'static str);

impl Mounted {
    fn new() -> Result<Mounted> {
        let place = "/run/slice-stage/views";
        fs::create_dir_all(place)?;
        let flags = MsFlags::MS_BIND;
        mount(
            Some("/sys/fs/bpf/slice/views"),
            place,
            None::<&str>,
            flags,
            None::<&str>,
        )
        .context("mount the views")?;
        Ok(Mounted(place))
    }

    fn view(&self, file: &str) -> String {
        format!("{}/view_{file}", self.0)
    }

    /// The lines of a view as a puppet reads it, without the first.
    fn lines(&self, puppet: &Puppet, file: &str) -> Result<Vec<Line>> {
        let text = puppet.read(&self.view(file), Opening::Plain)?;
        parse(&text)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// What matters of a line of /proc/net/tcp, udp and so on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Line {
    local: String,
    peer: String,
    state: String,
    user: String,
    inode: String,
}

impl Line {
    fn port(&self) -> u16 {
        let port = self.local.rsplit(':').next().unwrap_or("");
        u16::from_str_radix(port, 16).unwrap_or(0)
    }
}

fn parse(text: &str) -> Result<Vec<Line>> {
    let lines = text.lines().skip(1).map(|line| -> Result<Line> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, local, peer, state, _, _, _, user, _, inode, ..] = words[..] else {
            bail!("a line of a view is {line:?}");
        };
        Ok(Line {
            local: local.into(),
            peer: peer.into(),
            state: state.into(),
            user: user.into(),
            inode: inode.into(),
        })
    });
    lines.collect()
}

const FILES: [(&str, Kind); 4] = [
    ("tcp", Kind::Tcp4),
    ("tcp6", Kind::Tcp6),
    ("udp", Kind::Udp4),
    ("udp6", Kind::Udp6),
];

/// Of sockets: connections of a test before may be in TIME_WAIT still.
fn ports(lines: &[Line]) -> BTreeSet<u16> {
    let sockets = lines.iter().filter(|line| line.state != "06");
    sockets.map(Line::port).collect()
}

fn views(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let mounted = Mounted::new()?;
    let (alpha, beta, root) = (stage.slice("alpha")?, stage.slice("beta")?, stage.node()?);
    let unix_name = |owner: &str| hidden(&format!("sight/view/{owner}"));
    let mut held = Vec::new();
    for (puppet, owner, port) in [
        (&alpha, "alpha", 8060),
        (&beta, "beta", 8160),
        (&root, "node", 8260),
    ] {
        for (file, kind) in FILES {
            held.push(
                puppet
                    .server(kind, port)
                    .with_context(|| format!("{owner} {file}"))?,
            );
        }
        held.push(bound(puppet, SOCK_STREAM, &unix_name(owner))?);
    }
    for (file, _) in FILES {
        ensure!(
            ports(&mounted.lines(&alpha, file)?) == [8060].into(),
            "alpha's {file}"
        );
        ensure!(
            ports(&mounted.lines(&beta, file)?) == [8160].into(),
            "beta's {file}"
        );
        // The node's is the kernel's own, column by column.
        let (mut ours, mut theirs) = (
            mounted.lines(&root, file)?,
            parse(&fs::read_to_string(format!("/proc/net/{file}"))?)?,
        );
        ours.sort();
        theirs.sort();
        ensure!(ours == theirs, "{file}: {ours:?}, not {theirs:?}");
        ensure!(ports(&ours).is_superset(&[8060, 8160, 8260].into()));
        // The first line is the kernel's too, but for spaces at its end, also
        // where nothing follows.
        let first = |text: String| text.lines().next().unwrap_or("").trim_end().to_owned();
        let title = first(fs::read_to_string(format!("/proc/net/{file}"))?);
        for puppet in [&alpha, &stage.slice("gamma")?] {
            let text = puppet.read(&mounted.view(file), Opening::Plain)?;
            ensure!(first(text) == title, "{file} has another first line");
        }
    }
    let names = |puppet: &Puppet| -> Result<BTreeSet<String>> {
        let text = puppet.read(&mounted.view("unix"), Opening::Plain)?;
        let names = text
            .lines()
            .filter_map(|line| line.split("@sight/view/").nth(1));
        Ok(names.map(str::to_owned).collect())
    };
    ensure!(
        names(&alpha)? == ["alpha".to_owned()].into(),
        "alpha's unix"
    );
    ensure!(names(&beta)? == ["beta".to_owned()].into(), "beta's unix");
    ensure!(names(&root)?.len() == 3, "the node's unix");
    // The same as the kernel's, but for its pointers and counts of references.
    let rows = |text: String| {
        let mut rows: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().skip(2).collect();
            *rows.entry(words.join(" ")).or_default() += 1;
        }
        rows
    };
    let ours = rows(root.read(&mounted.view("unix"), Opening::Plain)?);
    let theirs = rows(fs::read_to_string("/proc/net/unix")?);
    let only = |one: &BTreeMap<String, usize>, other: &BTreeMap<String, usize>| {
        let mut one = one.clone();
        one.retain(|row, count| other.get(row) != Some(count));
        one
    };
    ensure!(
        ours == theirs,
        "unix: {:?}, not {:?}",
        only(&ours, &theirs),
        only(&theirs, &ours)
    );
    Ok(())
}

fn remains(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let mounted = Mounted::new()?;
    let (alpha, beta, root) = (stage.slice("alpha")?, stage.slice("beta")?, stage.node()?);
    let (gamma, outside) = (stage.slice("gamma")?, stage.outside()?);
    for ((at_node, own), (file, kind)) in NODE
        .into_iter()
        .zip(GAMMA)
        .zip([("tcp", Kind::Tcp4), ("tcp6", Kind::Tcp6)])
    {
        let (port, slow) = if file == "tcp" {
            (8061, 8062)
        } else {
            (8063, 8064)
        };
        // Who closes first has the connection in TIME_WAIT.
        let server = alpha.server(kind, port)?;
        let client = outside.connected(at(at_node, port))?;
        server.accept()?.close();
        client.close();
        // Not accepted before it has sent something.
        let waits = alpha.server(kind, slow)?;
        waits.set(IPPROTO_TCP, TCP_DEFER_ACCEPT, 30)?;
        let silent = outside.connected(at(at_node, slow))?;
        let states = |puppet: &Puppet| -> Result<BTreeSet<(u16, String)>> {
            let lines = mounted.lines(puppet, file)?.into_iter();
            let ours = lines.filter(|line| [port, slow].contains(&line.port()));
            Ok(ours.map(|line| (line.port(), line.state)).collect())
        };
        let expected: BTreeSet<_> = [(port, "0A"), (port, "06"), (slow, "0A"), (slow, "03")]
            .map(|(port, state)| (port, state.to_owned()))
            .into();
        until("the connection waits", || Ok(states(&root)? == expected))?;
        ensure!(
            states(&alpha)? == expected,
            "alpha sees {:?}",
            states(&alpha)?
        );
        ensure!(states(&beta)?.is_empty(), "beta sees {:?}", states(&beta)?);
        drop(silent);
        // At an address of a slice's own they are its own, whoever has the port elsewhere.
        let port = port + 1000;
        let _claims = beta.server_at(kind, at(at_node, port))?;
        let server = gamma.server_at(kind, at(own, port))?;
        let client = outside.connected(at(own, port))?;
        server.accept()?.close();
        client.close();
        for (slice, seen) in [(&gamma, 2), (&beta, 1)] {
            let mut lines = Vec::new();
            until("the connection waits", || {
                let all = mounted.lines(&root, file)?;
                lines = mounted.lines(slice, file)?;
                lines.retain(|line| line.port() == port);
                Ok(all.iter().any(|l| l.port() == port && l.state == "06"))
            })?;
            ensure!(
                lines.len() == seen,
                "{} of {seen} lines are seen",
                lines.len()
            );
        }
    }
    Ok(())
}

fn only_read(node: &mut Node) -> Result<()> {
    Stage::open(node)?;
    let mounted = Mounted::new()?;
    let try_all = "cd $0; for f in view_*; do \
        cat $f >/dev/null || exit 1; \
        (: >>$f) 2>/dev/null && exit 2; \
        rm -f $f 2>/dev/null && exit 3; \
        chmod 666 $f 2>/dev/null && exit 4; \
        mv $f x 2>/dev/null && exit 5; done; \
        mkdir y 2>/dev/null && exit 6; ls /sys/fs/bpf/slice 2>/dev/null && exit 7; exit 0";
    let said = node.run(
        "slice",
        &[
            "--policy", POLICY, "run", "alpha", "--", "sh", "-c", try_all, mounted.0,
        ],
    )?;
    ensure!(
        said.status == 0,
        "it ended with {}: {}",
        said.status,
        said.stderr
    );
    Ok(())
}

fn programs(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let mounted = Mounted::new()?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    let _own = [
        alpha.server(Kind::Tcp4, 8065)?,
        alpha.server(Kind::Udp6, 8065)?,
    ];
    let _nodes = [
        root.server(Kind::Tcp4, 8265)?,
        root.server(Kind::Udp6, 8265)?,
    ];
    let in_alpha = |words: &[&str]| -> Result<String> {
        let run = ["run", "alpha", "--"];
        let said = node.must("slice", &[&run[..], words].concat())?;
        Ok(said.stdout)
    };
    for arguments in ["-Htan", "-Htln", "-Huan", "-Hxl"] {
        let said = in_alpha(&["ss", arguments])?;
        ensure!(said.trim().is_empty(), "ss {arguments} says {said}");
    }
    // What it has on its loopback it sees as it named it, in ways of the kernel's
    // that say something else.
    let (web, dns) = ("127.0.0.1:8066", "[::1]:8067");
    let _local = [
        alpha.server_at(Kind::Tcp4, web.parse()?)?,
        alpha.server_at(Kind::Udp6, dns.parse()?)?,
        alpha.connected(web.parse()?)?,
    ];
    // As a context will mount them.
    let names = ["tcp", "tcp6", "udp", "udp6", "unix"];
    let variables = names.map(|f| format!("PROC_NET_{}={}", f.to_uppercase(), mounted.view(f)));
    for (arguments, lines, local) in [
        // The two ends of the connection are two sockets.
        ("-Htan", 4, format!(" {web} ")),
        ("-Htn", 2, format!(" {web}")),
        ("-Huan", 2, format!(" {dns} ")),
    ] {
        let mut words = vec!["env"];
        words.extend(variables.iter().map(String::as_str));
        words.extend(["ss", arguments]);
        let said = in_alpha(&words)?;
        // A connection of the test before may be in TIME_WAIT still.
        let now = said.lines().filter(|line| !line.starts_with("TIME-WAIT"));
        ensure!(
            !said.contains(":8265 ") && said.contains(&local) && now.count() == lines,
            "ss {arguments} says {said}"
        );
        if arguments == "-Htn" {
            continue;
        }
        ensure!(said.contains(":8065 "), "ss {arguments} says {said}");
        let said = node.must("ss", &[arguments])?.stdout;
        ensure!(
            said.contains(":8065 ") && said.contains(":8265 ") && !said.contains(&local),
            "the node's ss {arguments} says {said}"
        );
    }
    for (words, holds) in [
        (&["ip", "addr"][..], "198.51.100.1/24"),
        (&["ip", "route"], "198.51.100.0/24 dev wire0"),
        (&["ip", "-6", "route"], "2001:db8:5::/64 dev wire0"),
        (&["ip", "neigh"], "198.51.100.2 dev wire0"),
        (&["ip", "-s", "link"], "wire0"),
        (&["cat", "/proc/net/dev"], "wire0"),
        (
            &[
                "python3",
                "-c",
                "import socket; print(socket.if_nameindex())",
            ],
            "wire0",
        ),
    ] {
        let said = in_alpha(words)?;
        ensure!(said.contains(holds), "{words:?} says {said}");
    }
    Ok(())
}
