//! Real servers and clients, unmodified, in slices: they serve without
//! privilege, get the errors they know, and are counted.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::beyond::Beyond;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Running, Site, until};
use crate::ssh::Ssh;
use crate::stage::{NODE, PEER};

pub const TESTS: &[Test] = &[
    test(
        "nginx_serves_two_ports_of_its_slice_over_both_families_and_reloads",
        nginx_serves_two_ports_of_its_slice_over_both_families_and_reloads,
    )
    .on_stage()
    .once(),
    test(
        "a_name_server_serves_udp_and_tcp_of_its_slice",
        a_name_server_serves_udp_and_tcp_of_its_slice,
    )
    .on_stage(),
    test(
        "bulk_streams_of_tcp_and_udp_pass_and_are_counted",
        bulk_streams_of_tcp_and_udp_pass_and_are_counted,
    )
    .within(90)
    .on_stage(),
    test(
        "clients_in_slices_fetch_from_other_machines_and_from_each_other",
        clients_in_slices_fetch_from_other_machines_and_from_each_other,
    )
    .on_stage(),
    test(
        "servers_of_two_contexts_have_the_same_ports_of_localhost",
        servers_of_two_contexts_have_the_same_ports_of_localhost,
    )
    .on_stage(),
];

/// Those that bring a node up themselves.
pub const APART: &[Test] = &[test(
    "ssh_to_the_node_goes_on_when_slices_come_up",
    ssh_to_the_node_goes_on_when_slices_come_up,
)
.once()
.within(90)];

/// Policy of the test that brings a node up itself.
const POLICY: &[(&str, &str)] = &[
    (
        "node.toml",
        "[node]\nmax_slices = 8\n[node.reserved]\ntcp = [22]\n",
    ),
    ("slices/alpha.toml", ""),
];

/// Waits until something listens on a TCP port of the node.
pub fn listens(node: &Node, port: u16) -> Result<()> {
    let port = format!(":{port} ");
    until(&format!("something listens on {port}"), || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(&port))
    })
}

/// nginx with two workers, started as any user would.
fn nginx<'n>(site: &Site<'n>, node: &Node, slice: &str, servers: &str) -> Result<Running> {
    let directory = node.dir().join(format!("nginx-{slice}"));
    fs::create_dir_all(directory.join("html"))?;
    fs::write(
        directory.join("html/index.html"),
        format!("{slice}'s page\n"),
    )?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path /tmp/{slice}.{kind};"))
        .join(" ");
    let text = format!(
        "pid /tmp/{slice}.pid; daemon off; worker_processes 2; error_log stderr;\nevents {{}}\n\
         http {{ access_log off; {temporary}\nserver {{ {servers} root {}/html; }} }}\n",
        directory.display()
    );
    let path = directory.join("nginx.conf");
    fs::write(&path, text)?;
    let path = path.to_str().context("a path in UTF-8")?;
    site.start(
        &format!("nginx-{slice}.log"),
        site.in_slice(slice, &["nginx", "-c", path]),
    )
}

fn nginx_serves_two_ports_of_its_slice_over_both_families_and_reloads(
    node: &mut Node,
) -> Result<()> {
    let site = Site::on_stage(node)?;
    let beyond = Beyond::of_stage(node);
    let servers = "listen 80; listen [::]:80; listen 8043 reuseport; listen [::]:8043 reuseport;";
    let mut alpha = nginx(&site, node, "alpha", servers)?;
    listens(node, 80)?;
    listens(node, 8043)?;
    let urls = [
        format!("http://{}/", NODE[0]),
        format!("http://[{}]/", NODE[1]),
        format!("http://{}:8043/", NODE[0]),
        format!("http://[{}]:8043/", NODE[1]),
    ];
    for url in &urls {
        ensure!(
            beyond.fetch(url)? == "alpha's page\n",
            "{url} is another page"
        );
    }
    // New workers take over the old ones' sockets.
    alpha.signal(rustix::process::Signal::HUP)?;
    for url in urls.iter().cycle().take(8) {
        ensure!(
            beyond.fetch(url)? == "alpha's page\n",
            "{url} is another page after the reload"
        );
    }
    for (servers, address) in [
        ("listen 80;", "0.0.0.0:80"),
        ("listen [::]:8043 reuseport;", "[::]:8043"),
    ] {
        let mut beta = nginx(&site, node, "beta", servers)?;
        until("beta's nginx gives up", || Ok(beta.ended()?.is_some()))?;
        let words = format!("bind() to {address} failed (98: Address already in use)");
        ensure!(beta.output().contains(&words), "it says {}", beta.output());
    }
    ensure!(
        alpha.ended()?.is_none(),
        "alpha's nginx ended: {}",
        alpha.output()
    );
    ensure!(
        site.counters()?.get("alpha", "external.sent.bytes")? > 0,
        "its bytes are not counted"
    );
    Ok(())
}

/// Asks a name server for a name's address and prints the answer's bytes.
const QUERY: &str = r#"
import socket, sys
kind, server = sys.argv[1:]
question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05alpha\x04test\x00\x00\x01\x00\x01"
family = socket.AF_INET6 if ":" in server else socket.AF_INET
if kind == "udp":
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(20)
    s.connect((server, 8053)); s.send(question); answer = s.recv(512)
else:
    s = socket.create_connection((server, 8053), 20)
    s.send(len(question).to_bytes(2, "big") + question); answer = s.recv(514)[2:]
assert answer[:2] == b"\x12\x34", answer
print(socket.inet_ntoa(answer[-4:]))
"#;

fn a_name_server_serves_udp_and_tcp_of_its_slice(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let beyond = Beyond::of_stage(node);
    let arguments = [
        "dnsmasq",
        "--port=8053",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--pid-file",
        "--user=",
        "--group=",
        "--conf-file=/dev/null",
        "--address=/alpha.test/192.0.2.77",
        "--log-facility=-",
    ];
    let server = site.start("dnsmasq.log", site.in_slice("alpha", &arguments))?;
    listens(node, 8053).with_context(|| server.output())?;
    for address in NODE {
        for kind in ["udp", "tcp"] {
            let answer = beyond
                .must(&["python3", "-c", QUERY, kind, &address.to_string()])?
                .stdout;
            ensure!(
                answer.trim() == "192.0.2.77",
                "{kind} at {address} says {answer}"
            );
        }
    }
    // The node's own resolver, and another slice's, get the port neither way.
    let rival = [
        "dnsmasq",
        "-d",
        "--port=8053",
        "--conf-file=/dev/null",
        "--user=",
        "--group=",
    ];
    for (who, output) in [
        ("beta", site.run_in("beta", &rival)?),
        ("the node", node.run(rival[0], &rival[1..])?),
    ] {
        ensure!(output.status != 0, "{who}'s name server came up");
        ensure!(
            output.stderr.contains("Address already in use"),
            "{who}'s says {}",
            output.stderr
        );
    }
    let udp = site.json(&["ports", "--slice", "alpha", "--protocol", "udp"])?["ports"].take();
    let held = udp
        .as_array()
        .into_iter()
        .flatten()
        .find(|port| port["low"] == 8053);
    ensure!(
        held.is_some_and(|port| port["sockets"].as_u64() > Some(0)),
        "alpha's ports are {udp}"
    );
    Ok(())
}

fn bulk_streams_of_tcp_and_udp_pass_and_are_counted(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let beyond = Beyond::of_stage(node);
    let _server = site.start(
        "iperf3.log",
        site.in_slice("alpha", &["iperf3", "-s", "-p", "8052"]),
    )?;
    listens(node, 8052)?;
    for (address, options, way) in [
        (NODE[0], &[][..], "received"),
        (NODE[1], &["-R"], "sent"),
        (NODE[0], &["-u", "-b", "10M"], "received"),
        (NODE[1], &["-u", "-b", "10M", "-R"], "sent"),
    ] {
        let before = site.counters()?;
        let address = address.to_string();
        let client = ["iperf3", "-p", "8052", "-c", &address, "-J", "-n", "4M"];
        let client = [&client, options].concat();
        let output = beyond.must(&client)?;
        let report: Value = serde_json::from_str(&output.stdout)?;
        let sum = |name: &str| {
            let of = |name: &str| report["end"][name]["bytes"].as_f64();
            of(name)
                .or_else(|| of("sum"))
                .context("iperf3 tells no bytes")
        };
        // The server may end before it has read what has come.
        let bytes = sum("sum_received")?;
        let sent = sum("sum_sent")?.max(bytes);
        let change = site.counters()?.since(&before);
        let counted = change.by("alpha", &format!("external.{way}.bytes"));
        // Headers come on top, of segments of at most 1448 bytes.
        let (low, high) = (bytes, sent * 1.1 + 100_000.0);
        ensure!(
            (low..high).contains(&(counted as f64)),
            "{options:?}: {bytes} bytes were sent, {counted} counted"
        );
        ensure!(
            change.denials().is_empty(),
            "{options:?}: {}",
            change.denials()
        );
    }
    Ok(())
}

fn clients_in_slices_fetch_from_other_machines_and_from_each_other(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let beyond = Beyond::of_stage(node);
    let page = node.dir().join("there");
    fs::create_dir_all(&page)?;
    fs::write(page.join("index.html"), "a page of another machine")?;
    let page = page.to_str().context("a path in UTF-8")?;
    let _there = site.start(
        "there.log",
        beyond.command(&[
            "python3",
            "-m",
            "http.server",
            "80",
            "--bind",
            "::",
            "-d",
            page,
        ]),
    )?;
    until("the other machine serves", || {
        Ok(beyond.run(&["ss", "-Hltn"])?.stdout.contains(":80 "))
    })?;
    let _alpha = nginx(&site, node, "alpha", "listen 80; listen [::]:80;")?;
    listens(node, 80)?;
    let before = site.counters()?;
    for slice in ["alpha", "beta"] {
        for (host, expected) in [
            (PEER[0].to_string(), "a page of another machine"),
            (format!("[{}]", PEER[1]), "a page of another machine"),
            (NODE[0].to_string(), "alpha's page\n"),
            (format!("[{}]", NODE[1]), "alpha's page\n"),
        ] {
            let fetched = site.run_in(
                slice,
                &[
                    "curl",
                    "-sS",
                    "--max-time",
                    "20",
                    &format!("http://{host}/"),
                ],
            )?;
            ensure!(
                fetched.stdout == expected,
                "{slice} fetched {:?} from {host}: {}",
                fetched.stdout,
                fetched.stderr
            );
        }
    }
    let change = site.counters()?.since(&before);
    ensure!(change.denials().is_empty(), "denied: {}", change.denials());
    for slice in ["alpha", "beta"] {
        for name in [
            "external.sent.packets",
            "external.received.packets",
            "loopback.sent.packets",
        ] {
            ensure!(change.by(slice, name) > 0, "{name} of {slice} did not move");
        }
    }
    Ok(())
}

/// Servers as their packages set them up, and one in Python, on localhost
/// alone; `$1` is what the pages say. nginx passes on what Python serves.
const LOCAL_SERVERS: &str = r#"
mkdir -p /srv/www && echo "page of $1" > /srv/www/index.html
cat > /etc/nginx/nginx.conf <<END
worker_processes 1; error_log /run/nginx.err; pid /run/nginx.pid; events {}
http { access_log off; server { listen 127.0.0.1:8080; listen [::1]:8080;
location / { proxy_pass http://localhost:8090; } } }
END
mkdir -p /var/lib/nginx
setsid python3 -m http.server 8090 --bind 127.0.0.1 -d /srv/www > /run/python.log 2>&1 &
nginx
"#;

fn servers_of_two_contexts_have_the_same_ports_of_localhost(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let slices = ["delta", "epsilon"];
    site.must(&["start", slices[0], slices[1]])?;
    for slice in slices {
        site.must(&["exec", slice, "--", "sh", "-c", LOCAL_SERVERS, "sh", slice])?;
    }
    let fetch = |slice: &str, url: &str| {
        site.slice(&["exec", slice, "--", "curl", "-sS", "--max-time", "20", url])
    };
    for slice in slices {
        until("its servers serve", || {
            Ok(fetch(slice, "http://127.0.0.1:8090/")?.status == 0)
        })?;
        for url in [
            "http://localhost:8090/",
            "http://localhost:8080/",
            "http://127.0.0.1:8080/",
            "http://[::1]:8080/",
        ] {
            let fetched = fetch(slice, url)?;
            ensure!(
                fetched.stdout == format!("page of {slice}\n"),
                "{slice} fetched {:?} from {url}: {}",
                fetched.stdout,
                fetched.stderr
            );
        }
    }
    // The node has nothing there, nor has a slice without servers.
    for output in [
        node.run("curl", &["-sS", "http://127.0.0.1:8080/"])?,
        site.run_in("alpha", &["curl", "-sS", "http://127.0.0.1:8080/"])?,
    ] {
        // Its status where nobody listens.
        ensure!(output.status == 7, "fetched {}", output.stdout);
    }
    for slice in slices {
        site.must(&["destroy", "--yes", slice])?;
    }
    Ok(())
}

fn ssh_to_the_node_goes_on_when_slices_come_up(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    let site = Site::new(node, POLICY)?;
    let ssh = Ssh::new(node)?;
    let words = ssh.login("cat; echo the end")?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let before = site.start("sshd.log", ssh.server()?)?;
    listens(node, 22)?;
    // A session that is older than the slices.
    let session = site.start("session.log", beyond.command(&words))?;
    until("the session is there", || {
        Ok(node
            .must("ss", &["-Htn", "state", "established", "sport", "=", ":22"])?
            .stdout
            .contains(":22"))
    })?;
    site.must(&["up"])?;
    let output = session.finish().with_context(|| before.output())?;
    ensure!(output.contains("the end"), "the session says {output}");
    let again = ssh.login("slice status")?;
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    ensure!(
        beyond.must(&again)?.stdout.contains("alpha"),
        "a new session says something else"
    );
    // The server is restarted, as by an update.
    drop(before);
    let after = site.start("sshd2.log", ssh.server()?)?;
    listens(node, 22).with_context(|| after.output())?;
    ensure!(
        beyond
            .must(&again)
            .with_context(|| after.output())?
            .stdout
            .contains("alpha"),
        "it says something else"
    );
    let denied = site.run_in("alpha", &["python3", "-m", "http.server", "22"])?;
    ensure!(
        denied.stderr.contains("Permission denied"),
        "port 22 in a slice: {}",
        denied.stderr
    );
    Ok(())
}
