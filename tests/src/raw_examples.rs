//! The examples of the library for slices do in a slice what they say.

use std::fs::{self, File};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::beyond::Beyond;
use crate::node::Node;
use crate::raw::{SLICE, open};
use crate::runner::{Test, test};
use crate::site::{Site, until};
use crate::stage::{NODE, OUTSIDE, PEER};

pub const TESTS: &[Test] = &[
    test(
        "the_example_of_a_traceroute_finds_the_way_over_both_families",
        the_example_of_a_traceroute_finds_the_way,
    )
    .per_root()
    .within(60)
    .on_stage(),
    test(
        "the_example_of_a_tcp_fetches_a_page_from_nginx",
        the_example_of_a_tcp_fetches_a_page,
    )
    .per_root()
    .within(60)
    .on_stage(),
    test(
        "the_example_in_c_answers_datagrams_on_a_port_that_it_claimed",
        the_example_in_c_answers_datagrams,
    )
    .per_root()
    .within(60)
    .on_stage(),
];

/// Where they are on the node.
const EXAMPLES: &str = "/opt/slice/bin";

/// Copies an example into the slice; where it is there.
fn install(name: &str) -> Result<String> {
    let path = format!("/root/{name}");
    let mut command = Command::new("slice");
    let copy = format!("cat > {path} && chmod 755 {path}");
    command.args(["exec", SLICE, "--", "sh", "-c", &copy]);
    let from = File::open(format!("{EXAMPLES}/{name}")).context(name.to_owned())?;
    let copied = command.stdin(from).status()?;
    ensure!(copied.success(), "copy {name} into {SLICE}: {copied}");
    Ok(path)
}

/// A machine beyond the one at the other end of the wire; gone when this is
/// dropped.
struct Further<'n> {
    node: &'n Node,
}

/// Its name and addresses.
const FURTHER: &str = "further";
const FAR: [&str; 2] = ["203.0.113.9", "2001:db8:7::9"];
/// What the addresses of the one between begin with.
const BETWEEN: [&str; 2] = ["198.51.100.", "2001:db8:5::"];

/// The one between forwards.
const WAY: &[&str] = &[
    "netns add further",
    "-n outside link add wire9 type veth peer name wire9 netns further",
    "-n outside addr add 203.0.113.1/24 dev wire9",
    "-n outside addr add 2001:db8:7::1/64 dev wire9 nodad",
    "-n outside link set wire9 up",
    "-n further addr add 203.0.113.9/24 dev wire9",
    "-n further addr add 2001:db8:7::9/64 dev wire9 nodad",
    "-n further link set wire9 up",
    "-n further route add default via 203.0.113.1",
    "-n further -6 route add default via 2001:db8:7::1",
    "netns exec outside sysctl -q net.ipv4.ip_forward=1",
    "netns exec outside sysctl -q net.ipv6.conf.all.forwarding=1",
    "route add 203.0.113.9 via 198.51.100.2",
    "-6 route add 2001:db8:7::9 via 2001:db8:5::2",
];
const WAY_BACK: &[&str] = &[
    "route del 203.0.113.9",
    "-6 route del 2001:db8:7::9",
    "netns exec outside sysctl -q net.ipv4.ip_forward=0",
    "netns exec outside sysctl -q net.ipv6.conf.all.forwarding=0",
    "-n outside link del wire9",
    "netns del further",
];

impl<'n> Further<'n> {
    fn open(node: &'n Node) -> Result<Further<'n>> {
        let further = Further { node };
        for line in WAY {
            node.must("ip", &line.split(' ').collect::<Vec<_>>())?;
        }
        Ok(further)
    }
}

impl Drop for Further<'_> {
    fn drop(&mut self) {
        for line in WAY_BACK {
            let _ = self.node.run("ip", &line.split(' ').collect::<Vec<_>>());
        }
    }
}

fn the_example_of_a_traceroute_finds_the_way(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let _further = Further::open(node)?;
    let traceroute = install("traceroute")?;
    for far in FAR {
        for how in [&[][..], &["-I"]] {
            let words = [&["exec", SLICE, "--", &traceroute], how, &[far]].concat();
            let said = site.must(&words)?;
            let hops: Vec<&str> = said.lines().collect();
            let told = |hop: usize, is: &dyn Fn(&str) -> bool| {
                hops.get(hop).is_some_and(|line| line.split(' ').any(is))
            };
            // The one between answers with any of its addresses.
            let between = |word: &str| BETWEEN.iter().any(|prefix| word.starts_with(prefix));
            ensure!(
                hops.len() == 2 && told(0, &between) && told(1, &|word| word == far),
                "the way to {FURTHER}, {far} {how:?}: {said}"
            );
        }
    }
    Ok(())
}

fn the_example_of_a_tcp_fetches_a_page(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let handshake = install("handshake")?;
    // More than one segment.
    let page: String = (0..4000).map(|line| format!("line {line}\n")).collect();
    let directory = node.dir().join("outside");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("page"), &page)?;
    let text = format!(
        "user root; pid /tmp/outside.pid; daemon off; worker_processes 1; error_log stderr;\n\
         events {{}}\nhttp {{ access_log off; server {{ listen 9805; listen [::]:9805; root {}; }} }}\n",
        directory.display()
    );
    let path = directory.join("nginx.conf");
    fs::write(&path, text)?;
    let path = path.to_str().context("a path in UTF-8")?;
    let nginx = Beyond::of_stage(node).command(&["nginx", "-c", path]);
    let nginx = site.start("nginx-outside.log", nginx)?;
    until("nginx serves", || {
        let words = ["netns", "exec", OUTSIDE, "ss", "-Hltn"];
        Ok(node.must("ip", &words)?.stdout.contains(":9805 "))
    })
    .with_context(|| nginx.output())?;
    for peer in PEER {
        let server = std::net::SocketAddr::new(peer, 9805).to_string();
        let words = ["exec", SLICE, "--", &handshake, &server, "8200", "/page"];
        let said = site.must(&words)?;
        let (head, body) = said.split_once("\r\n\r\n").context("no end of the head")?;
        ensure!(head.starts_with("HTTP/1.1 200 OK"), "{server}: {head}");
        ensure!(head.contains("Server: nginx"), "{server}: {head}");
        ensure!(body == page, "{server}: {} octets", body.len());
    }
    Ok(())
}

fn the_example_in_c_answers_datagrams(node: &mut Node) -> Result<()> {
    let site: Site<'_> = open(node)?;
    let echo = install("echo")?;
    let mut command = Command::new("slice");
    command.args(["exec", SLICE, "--", &echo, "8200", "2"]);
    let answers = site.start("echo", command)?;
    until("the port is claimed", || {
        Ok(answers.output().contains("claimed 8200"))
    })
    .with_context(|| answers.output())?;
    let text = format!(
        r"
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(20)
sock.connect(('{}', 8200))
for words in (b'one', b'another'):
    sock.send(words)
    print(sock.recv(100).decode())
",
        NODE[0]
    );
    let said = Beyond::of_stage(node).must(&["python3", "-c", &text])?;
    ensure!(said.stdout == "one\nanother\n", "heard: {}", said.stdout);
    answers.finish()?;
    Ok(())
}
