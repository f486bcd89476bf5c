//! What programs in slices find at localhost, and how they see it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno::{ECONNREFUSED, ETIMEDOUT};
use policy::Reason;

use crate::counters::Change;
use crate::loopback::{OWNERS, owner, passes, serves, ways};
use crate::node::Node;
use crate::puppet::{Kind, Puppet};
use crate::runner::{Test, test};
use crate::site::{Running, Site, until};
use crate::stage::{Stage, Sysctl, at, mapped, refused};

pub const TESTS: &[Test] = &[
    test(
        "two_slices_and_the_node_each_have_localhost_to_themselves",
        to_themselves,
    )
    .on_stage(),
    test("programs_see_the_loopback_as_they_named_it", names).on_stage(),
    test(
        "datagrams_on_the_loopback_come_and_go_by_the_addresses_that_programs_know",
        datagrams,
    )
    .on_stage(),
    test(
        "a_destination_of_no_address_is_the_slices_own_loopback",
        wildcard_destination,
    )
    .on_stage(),
    test(
        "a_dual_stack_socket_reaches_both_loopbacks_of_its_slice",
        dual_stack,
    )
    .on_stage(),
    test("a_socket_on_the_loopback_connects_to_itself", to_itself).on_stage(),
    test("localhost_answers_to_ping_in_a_slice", ping).on_stage(),
    test(
        "nginx_and_python_serve_the_same_localhost_port_in_two_slices_and_on_the_node",
        real_servers,
    )
    .within(120)
    .on_stage(),
];

fn to_themselves(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let owners = OWNERS
        .map(|name| owner(&stage, name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let third = stage.slice("strict")?;
    // Where nobody of its own listens, the node's is what it would find.
    stage.counts(&[("strict", Reason::LoopbackForeign, 6)], || {
        // Below 1024 too: it is nobody else's.
        for port in [9700, 443] {
            for (kind, address) in ways(true) {
                let servers = owners
                    .iter()
                    .map(|owner| serves(owner, kind, at(address, port)))
                    .collect::<Result<Vec<_>>>()?;
                for (number, (owner, server)) in owners.iter().zip(&servers).enumerate() {
                    let client = owner.socket(kind)?;
                    client.connect(at(address, port))?;
                    let accepted = server.accept()?;
                    passes(&client, &accepted, 10 + number)?;
                    passes(&accepted, &client, 20 + number)?;
                }
                // Who has none there is refused, at once.
                let start = Instant::now();
                refused(third.socket(kind)?.connect(at(address, port)), ECONNREFUSED)?;
                ensure!(start.elapsed() < Duration::from_secs(1), "it took long");
            }
        }
        Ok(())
    })
}

fn names(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    for (kind, address) in ways(true) {
        let here = at(address, 9701);
        let server = serves(&alpha, kind, here)?;
        ensure!(server.name()? == here, "bound to {}", server.name()?);
        for bound in [None, Some(at(address, 0)), Some(at(address, 9702))] {
            let client = alpha.socket(kind)?;
            if let Some(bound) = bound {
                client.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
                client.bind(bound)?;
                let name = client.name()?;
                ensure!(name.ip() == address && name.port() != 0, "bound to {name}");
                ensure!(bound.port() == 0 || name == bound, "bound to {name}");
            }
            client.connect(here)?;
            let accepted = server.accept()?;
            let name = client.name()?;
            ensure!(name.ip() == address, "the client is {name}");
            ensure!(client.peer()? == here, "connected to {}", client.peer()?);
            ensure!(accepted.name()? == here, "accepted at {}", accepted.name()?);
            ensure!(accepted.peer()? == name, "from {}", accepted.peer()?);
            // Closed first here, so that no TIME_WAIT holds the listener's port.
            client.close();
        }
    }
    // Other addresses of the loopback are told as they were named as well.
    for text in ["127.0.0.9", "127.0.1.1"] {
        let here = at(text.parse()?, 9703);
        let server = serves(&alpha, Kind::Tcp4, here)?;
        let client = alpha.connected(here)?;
        let accepted = server.accept()?;
        ensure!(client.peer()? == here, "connected to {}", client.peer()?);
        ensure!(accepted.name()? == here, "accepted at {}", accepted.name()?);
    }
    Ok(())
}

fn datagrams(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let owners = [stage.slice("alpha")?, stage.slice("beta")?];
    for (kind, address) in ways(false) {
        let here = at(address, 9704);
        let servers = [
            serves(&owners[0], kind, here)?,
            serves(&owners[1], kind, here)?,
        ];
        for (owner, server) in owners.iter().zip(&servers) {
            // Bound to nothing, to a picked port, to a named one, and to all
            // addresses.
            for bound in [
                None,
                Some(at(address, 0)),
                Some(at(address, 9705)),
                Some(kind.any(9706)),
            ] {
                for connected in [false, true] {
                    let client = owner.socket(kind)?;
                    if let Some(bound) = bound {
                        client.bind(bound)?;
                    }
                    if connected {
                        client.connect(here)?;
                        ensure!(client.peer()? == here, "the peer is {}", client.peer()?);
                        let name = client.name()?;
                        ensure!(name.ip() == address, "connected from {name}");
                        client.send(7)?;
                    } else {
                        client.send_to(7, here)?;
                    }
                    let (bytes, from) = server.receive()?;
                    let from = from.context("a datagram from nobody")?;
                    ensure!(bytes == 7 && from.ip() == address, "{bytes} from {from}");
                    ensure!(from.port() == client.port()?, "from {from}");
                    server.send_to(9, from)?;
                    let (bytes, from) = client.receive()?;
                    ensure!(
                        bytes == 9 && from == Some(here),
                        "{bytes} came back from {from:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

fn wildcard_destination(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, root) = (stage.slice("alpha")?, stage.node()?);
    for ((tcp, here), (udp, _)) in ways(true).into_iter().zip(ways(false)) {
        let any = match here {
            IpAddr::V6(Ipv6Addr::LOCALHOST) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::V6(_) => mapped(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        // The node's is there too, and gets nothing.
        let theirs = serves(&root, udp, at(here, 9707))?;
        let _theirs = serves(&root, tcp, at(here, 9707))?;
        refused(alpha.socket(tcp)?.connect(at(any, 9707)), ECONNREFUSED)?;
        let server = serves(&alpha, tcp, at(here, 9707))?;
        let client = alpha.socket(tcp)?;
        client.connect(at(any, 9707))?;
        ensure!(
            server.accept()?.name()? == at(here, 9707),
            "another address"
        );
        let server = serves(&alpha, udp, at(here, 9707))?;
        for connected in [false, true] {
            let client = alpha.socket(udp)?;
            if connected {
                client.connect(at(any, 9707))?;
                client.send(3)?;
            } else {
                client.send_to(3, at(any, 9707))?;
            }
            server.receive()?;
        }
        refused(theirs.receive_within(50), ETIMEDOUT)?;
    }
    Ok(())
}

fn dual_stack(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let server = alpha.server(Kind::TcpDual, 8020)?;
    for (kind, address) in ways(true) {
        let client = alpha.socket(kind)?;
        client.connect(at(address, 8020))?;
        let accepted = server.accept()?;
        // IPv4 is shown in mapped form on such a socket.
        let name = accepted.name()?.ip();
        ensure!(name == mapped(address), "accepted at {name}");
        passes(&client, &accepted, 5)?;
        refused(beta.socket(kind)?.connect(at(address, 8020)), ECONNREFUSED)?;
    }
    let server = alpha.server(Kind::UdpDual, 8020)?;
    for (kind, address) in ways(false) {
        let client = alpha.socket(kind)?;
        client.send_to(5, at(address, 8020))?;
        let from = server.receive()?.1.context("from nobody")?;
        ensure!(from.ip() == mapped(address), "from {from}");
        server.send_to(6, from)?;
        ensure!(client.receive()?.0 == 6, "no answer");
    }
    Ok(())
}

fn to_itself(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let alpha = stage.slice("alpha")?;
    // The kernel says of such a connection that it came in: it is no new socket.
    let change = stage.change_by(|| connect_to_itself(&alpha))?;
    let sockets = change.by("alpha", "sockets");
    ensure!(sockets == 0, "{sockets} sockets are left");
    Ok(())
}

fn connect_to_itself(alpha: &Puppet) -> Result<()> {
    for (kind, address) in ways(true) {
        let here = at(address, 9719);
        let socket = alpha.socket(kind)?;
        socket.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        socket.bind(here)?;
        socket.connect(here)?;
        passes(&socket, &socket, 12)?;
        ensure!(
            socket.name()? == here && socket.peer()? == here,
            "{} to {}",
            socket.name()?,
            socket.peer()?
        );
    }
    Ok(())
}

fn ping(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let _range = Sysctl::set("net.ipv4.ping_group_range", "0 2147483647")?;
    for address in ["127.0.0.1", "::1"] {
        let output = site.run_in("alpha", &["ping", "-c", "1", "-W", "5", address])?;
        ensure!(
            output.status == 0 && output.stdout.contains(&format!("from {address}")),
            "ping {address}: {}{}",
            output.stdout,
            output.stderr
        );
    }
    Ok(())
}

/// A server of one page, and what it is called in messages.
fn serve<'n>(site: &Site<'n>, node: &Node, who: &str, program: &str, port: u16) -> Result<Running> {
    let directory = node.dir().join(format!("{program}-{who}"));
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("index.html"), format!("{who}'s page\n"))?;
    let path = directory.to_str().context("a path in UTF-8")?;
    let port_text = port.to_string();
    let configuration;
    let command: Vec<&str> = if program == "nginx" {
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path /tmp/{who}.{kind};"))
            .join(" ");
        let text = format!(
            "pid /tmp/{who}.lo.pid; daemon off; worker_processes 1; error_log stderr;\nevents {{}}\n\
             http {{ access_log off; {temporary}\nserver {{ listen 127.0.0.1:{port}; listen [::1]:{port}; \
             root {path}; add_header X-Peer $remote_addr; }}\n\
             server {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://localhost:{port}; }} }} }}\n",
            port + 1
        );
        configuration = directory.join("nginx.conf");
        fs::write(&configuration, text)?;
        let configuration = configuration.to_str().context("a path in UTF-8")?;
        vec!["nginx", "-c", configuration]
    } else {
        vec![
            "python3",
            "-m",
            "http.server",
            &port_text,
            "--bind",
            "127.0.0.1",
            "--directory",
            path,
        ]
    };
    let run = match who {
        "node" => {
            let mut run = std::process::Command::new(command[0]);
            run.args(&command[1..]);
            run
        }
        slice => site.in_slice(slice, &command),
    };
    site.start(&format!("{program}-{who}.log"), run)
}

fn fetch(site: &Site<'_>, node: &Node, who: &str, arguments: &[&str]) -> Result<String> {
    let curl = [&["curl", "-sS", "--max-time", "20"], arguments].concat();
    let output = match who {
        "node" => node.run(curl[0], &curl[1..])?,
        slice => site.run_in(slice, &curl)?,
    };
    Ok(output.stdout + &output.stderr)
}

fn real_servers(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let before = site.counters()?;
    for program in ["nginx", "python3"] {
        let port = if program == "nginx" { 9740 } else { 9742 };
        let mut servers = Vec::new();
        for who in OWNERS {
            servers.push(serve(&site, node, who, program, port)?);
        }
        let url = format!("http://localhost:{port}/");
        for (who, server) in OWNERS.into_iter().zip(&servers) {
            let page = format!("{who}'s page\n");
            until(
                "it serves",
                || Ok(fetch(&site, node, who, &[&url])? == page),
            )
            .with_context(|| format!("{program} of {who}: {}", server.output()))?;
        }
        // Who asked before its server was up has been refused another's.
        let served = site.counters()?;
        for who in OWNERS {
            let page = format!("{who}'s page\n");
            if program == "nginx" {
                for (address, seen) in [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")] {
                    let url = format!("http://{address}:{port}/");
                    let answer = fetch(&site, node, who, &["-i", &url])?;
                    let peer = format!("X-Peer: {seen}\r\n");
                    ensure!(
                        answer.contains(&peer) && answer.ends_with(&page),
                        "{who} at {url}: {answer}"
                    );
                }
                let url = format!("http://localhost:{}/", port + 1);
                let answer = fetch(&site, node, who, &[&url])?;
                ensure!(answer == page, "{who} by proxy: {answer}");
            }
        }
        let answer = fetch(&site, node, "alpha", &[&url])?;
        ensure!(answer == "alpha's page\n", "alpha: {answer}");
        let change = site.counters()?.since(&served).denials();
        ensure!(change == Change::of_denials(&[]), "{change} was counted");
        // Who has none there is refused.
        let answer = fetch(&site, node, "strict", &[&url])?;
        let refused = ["Failed to connect", "Couldn't connect"];
        ensure!(
            refused.iter().any(|words| answer.contains(words)),
            "a third slice: {answer}"
        );
    }
    let change = site.counters()?.since(&before);
    ensure!(
        change.by("alpha", "loopback.sent.bytes") > 0
            && change.by("alpha", "external.sent.bytes") == 0,
        "{change}"
    );
    Ok(())
}
