//! The demonstration: shows what a slice node does, and fails where it does not
//! do it. What is announced is checked: a step whose output lacks what the prose
//! says ends the run.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::image::DISTRIBUTION;
use crate::sshd;
use crate::transcript::{DIRECTORY, Show, background, sh, until};

/// The policy that is shown, as the tree brings it into the VM.
const POLICY: &str = "/opt/slice/examples/demo";
/// Where `slice` looks for it.
const IN_FORCE: &str = "/etc/slice";
/// The other machine: a network namespace behind a cable.
const OUTSIDE: &[&str] = &[
    "ip netns add outside",
    "ip link add uplink type veth peer name eth0 netns outside",
    "ip addr add 192.0.2.1/24 dev uplink",
    "ip addr add 2001:db8::1/64 dev uplink nodad",
    "ip link set uplink up",
    "ip -n outside addr add 192.0.2.2/24 dev eth0",
    "ip -n outside addr add 2001:db8::2/64 dev eth0 nodad",
    "ip -n outside link set eth0 up",
];

/// What alpha serves.
const PAGE: &str = "<h1>Hello from alpha</h1>\n";

/// A program that sends one packet with somebody else's address in it, which a
/// stock kernel lets every user do, in two ways.
const FORGE: &str = r#"import socket, sys
way, source = sys.argv[1:]
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
if way == "freebind":
    s.setsockopt(socket.IPPROTO_IPV6, 78, 1)   # IPV6_FREEBIND
s.bind((source, 5353))
s.connect(("2001:db8::2", 53000))
s.send(b"forged")
"#;

/// The other machine writes down every UDP packet on the wire, also those that
/// its own kernel throws away (from ::1).
const LISTEN: &str = "ip netns exec outside tcpdump -lntq -i eth0 udp port 53000 2>/dev/null";

const HEARD: &str = "/run/demo/heard";

/// Tenants who log in, each with a key.
const GUESTS: [&str; 2] = ["gamma", "delta"];

/// How they log in; the key and the words of the remote command follow.
const SSH: &str = "ip netns exec outside ssh -F client.conf";

/// Their client's settings: it has seen the node's key before, so to say.
const CLIENT: &str = "\
BatchMode yes
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
";

/// Shows everything.
///
/// # Errors
/// Something did not come out as it was announced.
pub fn run() -> Result<ExitCode> {
    prepare()?;
    let mut show = Show::default();
    let _listener = background(LISTEN, HEARD)?;
    until("the other machine listens", || {
        sh("ip netns exec outside cat /proc/net/packet")
            .output
            .lines()
            .count()
            > 1
    })?;

    show.title("A stock kernel, before");
    let nobody = "setpriv --reuid=nobody --regid=nogroup --clear-groups";
    show.step(
        "Any user may send a packet with an address that the machine does not have,",
        &format!("{nobody} python3 /run/demo/forge.py freebind 2001:db8:bad::1"),
        0,
        &[],
    )?;
    show.step(
        "or with ::1, which is nobody's on the wire.",
        &format!("{nobody} python3 /run/demo/forge.py plain ::1"),
        0,
        &[],
    )?;
    until("the forged packets arrive", || heard().lines().count() == 2)?;
    show.step(
        "Another machine gets both.",
        "cat heard",
        0,
        &["2001:db8:bad::1.5353 >", "::1.5353 >"],
    )?;

    show.title("Slices");
    show.step(
        "Two tenants, one file each. Alpha owns TCP port 80:",
        "cat /etc/slice/slices/alpha.toml",
        0,
        &["tcp = [80]"],
    )?;
    show.step(
        "The policy is checked as a whole, then put in force.",
        "slice up",
        0,
        &[],
    )?;
    show.background(
        "The daemon only keeps the events: the rules hold without it.",
        "slice daemon",
    )?;
    until("the daemon answers", || sh("slice events").status == 0)?;

    show.title("Ports have owners");
    show.background(
        "Alpha serves its page on port 80: no root, no capability.",
        "slice run alpha -- python3 -m http.server 80 --directory /run/demo/alpha",
    )?;
    until("alpha's server listens", || {
        sh("ss -Hltn sport = 80").output.contains(":80")
    })?;
    show.step(
        "What runs in alpha is an ordinary user's.",
        "slice run alpha -- grep -E '^(Uid|CapEff|NoNewPrivs)' /proc/self/status",
        0,
        &["CapEff:\t0000000000000000", "NoNewPrivs:\t1"],
    )?;
    show.step(
        "Another machine fetches it.",
        "ip netns exec outside curl -s http://192.0.2.1/",
        0,
        &["Hello from alpha"],
    )?;
    show.step(
        "Beta wants port 80 too, with nginx. It gets the answer that nginx knows.",
        "slice run beta -- nginx -p /run/demo/beta -c nginx.conf",
        1,
        &["0.0.0.0:80", "98: Address already in use"],
    )?;
    show.step(
        "Nor does root outside any slice get it.",
        "python3 -m http.server 80 --bind 192.0.2.1 2>&1 | tail -1",
        0,
        &["Address already in use"],
    )?;

    show.title("Addresses have owners");
    show.step(
        "Beta tries what anybody could before: it is refused the option,",
        "slice run beta -- python3 /run/demo/forge.py freebind 2001:db8:bad::1 2>&1 | tail -1",
        0,
        &["Operation not permitted"],
    )?;
    show.step(
        "and where a packet goes without asking, the packet is dropped.",
        "slice run beta -- python3 /run/demo/forge.py plain ::1 2>&1 | tail -1",
        0,
        &["Operation not permitted"],
    )?;
    show.step(
        "The other machine has got nothing new.",
        "wc -l heard",
        0,
        &["2 heard"],
    )?;

    machines(&mut show)?;

    show.title("What the owner sees");
    show.step(
        "Nothing was denied silently.",
        "slice status",
        0,
        &["alpha", "beta", "gamma", "port_reserved"],
    )?;
    show.step(
        "Each reason is counted by itself.",
        "slice status beta",
        0,
        &["port_reserved", "option", "source_foreign"],
    )?;
    show.step(
        "Whose is which port:",
        "slice ports",
        0,
        &["alpha", "beta", "8000-8010", "node"],
    )?;
    show.step(
        "And what happened, as it happened:",
        "slice events",
        0,
        &["beta", "source_foreign", "2001:db8::2"],
    )?;

    show.title("Gone without a trace");
    show.step(
        "Taking the node down ends what ran in slices and removes everything.",
        "slice down",
        0,
        &[],
    )?;
    let left = leftovers();
    ensure!(left.is_empty(), "left behind: {left}");
    show.end();
    Ok(ExitCode::SUCCESS)
}

/// Two tenants more, who log in.
fn machines(show: &mut Show) -> Result<()> {
    show.title("A machine of its own");
    show.step(
        "Slices may have files of their own, over an image that they share:",
        &format!("slice image import debian --reference {DISTRIBUTION}"),
        0,
        &[],
    )?;
    for name in GUESTS {
        let key = sshd::key(&Path::new(DIRECTORY).join(name))?;
        let key = key.rsplit_once(' ').map_or(&*key, |(key, _)| key);
        let policy = format!(
            "name = \"{name}\"\n\n[context]\nimage = \"debian\"\n\n[login]\nkeys = [\"{key} {name}@outside\"]\n"
        );
        fs::write(format!("{IN_FORCE}/slices/{name}.toml"), policy)?;
    }
    show.step(
        "Two tenants more; the owner lets in who has their keys.",
        "cat /etc/slice/slices/gamma.toml",
        0,
        &["[context]", "keys = [\"ssh-ed25519 "],
    )?;
    show.step(
        "New policy is put in force as a whole; who has files starts.",
        "slice reload",
        0,
        &["gamma", "delta"],
    )?;
    show.background(
        "The distribution's own sshd serves them.",
        "/usr/sbin/sshd -D -h /run/demo/host",
    )?;
    until("sshd listens", || {
        sh("ss -Hltn sport = 22").output.contains(":22")
    })?;
    let inside = show.step(
        "Gamma's user logs in from the other machine, and is root - of gamma.",
        &format!("{SSH} -i gamma gamma@192.0.2.1 'id; hostname; ps -eo user,pid,args'"),
        0,
        &["uid=0(root)", "\ngamma\n", "slice init"],
    )?;
    ensure!(
        !inside.contains("sshd") && !inside.contains("systemd"),
        "gamma sees the node's processes"
    );
    show.step(
        "Delta's key does not open gamma,",
        &format!("{SSH} -i delta gamma@192.0.2.1 hostname"),
        255,
        &["Permission denied (publickey)"],
    )?;
    show.step(
        "but delta.",
        &format!("{SSH} -i delta delta@192.0.2.1 hostname"),
        0,
        &["delta"],
    )?;
    Ok(())
}

/// What the steps stand on: the other machine, the programs, the pages.
fn prepare() -> Result<()> {
    for directory in ["/run/demo/alpha", "/run/demo/beta", IN_FORCE] {
        fs::create_dir_all(directory).with_context(|| format!("make {directory}"))?;
    }
    for command in OUTSIDE {
        let done = sh(command);
        ensure!(done.status == 0, "{command}: {}", done.output);
    }
    for (file, text) in [
        ("forge.py", FORGE),
        ("alpha/index.html", PAGE),
        ("beta/nginx.conf", NGINX),
        ("client.conf", CLIENT),
    ] {
        let path = format!("/run/demo/{file}");
        fs::write(&path, text).with_context(|| format!("write {path}"))?;
    }
    sshd::prepare()?;
    sshd::key(&Path::new(DIRECTORY).join("host"))?;
    let copied = sh(&format!("cp -r {POLICY}/. {IN_FORCE}"));
    ensure!(copied.status == 0, "{}", copied.output);
    Ok(())
}

/// nginx as beta would run it: all it writes goes where it may.
const NGINX: &str = "\
pid /tmp/beta.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path /tmp/beta.1;
    proxy_temp_path /tmp/beta.2;
    fastcgi_temp_path /tmp/beta.3;
    uwsgi_temp_path /tmp/beta.4;
    scgi_temp_path /tmp/beta.5;
    server { listen 80; }
}
";

fn heard() -> String {
    fs::read_to_string(HEARD).unwrap_or_default()
}

/// What is still there of the node, for people.
fn leftovers() -> String {
    let paths = [
        "/run/slice",
        "/sys/fs/bpf/slice",
        "/sys/fs/cgroup/slice-node.service",
    ];
    let there = paths.into_iter().filter(|path| fs::metadata(path).is_ok());
    there.collect::<Vec<_>>().join(" ")
}
