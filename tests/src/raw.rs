//! Raw and packet sockets: unmodified programs measure, and neither spoof nor
//! eavesdrop.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use policy::Reason;
use serde_json::Value;

use crate::counters::Change;
use crate::inventory::Inventory;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Running, Site, until};
use crate::stage::{OUTSIDE, PEER};

pub const TESTS: &[Test] = &[
    test(
        "ping_traceroute_and_mtr_measure_unmodified",
        ping_traceroute_and_mtr_measure_unmodified,
    )
    .within(120)
    .on_stage(),
    test(
        "raw_sockets_are_for_those_with_the_right_in_a_slice_that_has_them",
        raw_sockets_are_for_those_with_the_right,
    )
    .on_stage(),
    test("no_forgery_leaves_the_node", no_forgery_leaves_the_node)
        .within(120)
        .on_stage(),
    test(
        "tcpdump_shows_a_slice_its_own_packets_and_no_others",
        tcpdump_shows_a_slice_its_own_packets,
    )
    .within(120)
    .on_stage(),
    test(
        "an_identifier_of_icmp_is_one_slices_towards_one_peer",
        an_identifier_is_one_slices_towards_one_peer,
    )
    .on_stage(),
    test(
        "a_raw_socket_sees_no_answers_to_others",
        a_raw_socket_sees_no_answers_to_others,
    )
    .on_stage(),
    test(
        "packet_sockets_have_the_options_that_captures_need_and_bounded_rings",
        packet_sockets_have_the_options_that_captures_need,
    )
    .on_stage(),
    test(
        "packet_sockets_are_bounded_in_number_and_come_back_when_closed",
        packet_sockets_are_bounded_in_number,
    )
    .on_stage(),
    test(
        "a_raw_port_is_claimed_with_the_errors_that_programs_expect",
        a_raw_port_is_claimed_with_the_errors_that_programs_expect,
    )
    .on_stage(),
    test(
        "a_program_speaks_tcp_itself_and_the_kernel_keeps_quiet",
        a_program_speaks_tcp_itself_and_the_kernel_keeps_quiet,
    )
    .on_stage(),
    test(
        "a_port_of_a_slice_shows_it_nothing_of_the_nodes_other_addresses",
        a_port_shows_nothing_of_other_addresses,
    )
    .on_stage(),
    test(
        "the_queue_of_errors_tells_a_raw_socket_nothing",
        the_queue_of_errors_tells_a_raw_socket_nothing,
    )
    .on_stage(),
    test(
        "devices_are_as_they_were_when_no_slice_has_packet_sockets",
        devices_are_as_they_were,
    ),
    test(
        "raw_sockets_that_policy_takes_away_send_and_see_nothing_more",
        raw_sockets_that_policy_takes_away,
    )
    .on_stage(),
    test(
        "a_device_that_has_just_come_is_closed_to_packet_sockets",
        a_device_that_has_just_come_is_closed,
    )
    .on_stage(),
];

/// Has raw sockets, a context and ports.
pub const SLICE: &str = "eta";
/// The same, and may make namespaces.
pub const OTHER: &str = "theta";
/// Has a context and no raw sockets.
const WITHOUT: &str = "delta";

/// Packets by hand.
pub const WIRE: &str = include_str!("raw/wire.py");
/// An echo by hand.
pub const ECHO: &str = include_str!("raw/echo.py");
const FORGE: &str = include_str!("raw/forge.py");
const PORT: &str = include_str!("raw/port.py");
const LISTEN: &str = include_str!("raw/listen.py");

/// The stage, with the slices running that have raw sockets.
///
/// # Errors
/// They cannot be started.
pub fn open(node: &Node) -> Result<Site<'_>> {
    let site = Site::on_stage(node)?;
    site.must(&["start", SLICE, OTHER])?;
    Ok(site)
}

/// A program of several parts.
pub fn program(parts: &[&str]) -> String {
    parts.join("\n")
}

/// Runs a program of Python in a slice; what it printed.
///
/// # Errors
/// It fails.
pub fn python(site: &Site<'_>, slice: &str, text: &str) -> Result<String> {
    site.must(&["exec", slice, "--", "python3", "-c", text])
}

fn ping_traceroute_and_mtr_measure_unmodified(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let peers = PEER.map(|peer| peer.to_string());
    for peer in &peers {
        for command in [
            vec!["ping", "-n", "-c", "2", "-i", "0.2", "-W", "5"],
            vec!["traceroute", "-n", "-q", "1", "-w", "3", "-m", "2"],
            vec!["traceroute", "-n", "-q", "1", "-w", "3", "-m", "2", "-I"],
            vec![
                "traceroute",
                "-n",
                "-q",
                "1",
                "-w",
                "3",
                "-m",
                "2",
                "-T",
                "-p",
                "9",
            ],
            vec!["mtr", "-n", "-r", "-c", "1", "-m", "2"],
            // Without -L it sends from the port of its process id, which is one
            // below 1024 in a slice.
            vec!["mtr", "-n", "-r", "-c", "1", "-m", "2", "-u", "-L", "33999"],
        ] {
            let words = [&["exec", SLICE, "--"], &command[..], &[peer]].concat();
            let said = site.must(&words).with_context(|| command.join(" "))?;
            let told = said.lines().skip(1).any(|line| line.contains(peer));
            ensure!(told, "{command:?} {peer} said: {said}");
        }
        let text = program(&[
            WIRE,
            ECHO,
            &format!(
                "print(ask(socket.AF_INET{}, '{peer}', 77))",
                if peer.contains(':') { "6" } else { "" }
            ),
        ]);
        let said = python(&site, SLICE, &text)?;
        ensure!(said.trim() == "(True, [])", "an echo by hand: {said}");
    }
    Ok(())
}

fn raw_sockets_are_for_those_with_the_right(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    site.must(&["start", WITHOUT])?;
    const TRY: &str = r"
import socket
for family, kind, protocol in ((2, 3, 1), (10, 3, 58), (2, 3, 255), (17, 3, 0x300), (17, 2, 0), (2, 10, 1), (17, 10, 0)):
    try:
        socket.socket(family, kind, protocol)
        print('made', end=' ')
    except OSError as error:
        print(error.errno, end=' ')
";
    let mine = python(&site, SLICE, TRY)?;
    ensure!(
        mine.trim() == "made made made made made 1 94",
        "root got: {mine}"
    );
    let none = python(&site, WITHOUT, TRY)?;
    ensure!(none.trim() == "1 1 1 1 1 1 1", "without: {none}");
    let user = [
        "exec", "--user", "nobody", SLICE, "--", "python3", "-c", TRY,
    ];
    let user = site.must(&user)?;
    ensure!(
        user.starts_with("1 1 1 1 1 "),
        "an ordinary user got: {user}"
    );
    // In a user namespace of its own everybody has every right: there.
    let nested = [
        "exec", OTHER, "--", "unshare", "-U", "-r", "python3", "-c", TRY,
    ];
    let nested = site.must(&nested)?;
    ensure!(
        nested.starts_with("1 1 1 1 1 "),
        "in a namespace of its own: {nested}"
    );
    let elsewhere = [
        "exec", OTHER, "--", "unshare", "-U", "-r", "-n", "python3", "-c", TRY,
    ];
    let elsewhere = site.must(&elsewhere)?;
    ensure!(
        elsewhere.starts_with("made made made made made "),
        "in a network of its own: {elsewhere}"
    );
    Ok(())
}

/// Listens at the other end of the wire until `done` is there.
fn listener(site: &Site<'_>, node: &Node) -> Result<(Running, std::path::PathBuf)> {
    let done = node.dir().join("done");
    let mut listen = Command::new("ip");
    listen.args(["netns", "exec", OUTSIDE, "python3", "-c"]);
    listen.arg(program(&[WIRE, LISTEN])).arg(&done);
    let listening = site.start("listener", listen)?;
    until("the other end listens", || {
        Ok(listening.output().contains("listening"))
    })?;
    Ok((listening, done))
}

fn no_forgery_leaves_the_node(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let (listening, done) = listener(&site, node)?;
    let before = site.counters()?;
    let said = python(&site, SLICE, &program(&[WIRE, FORGE]))?;
    let change = site.counters()?.since(&before);
    std::fs::write(&done, "")?;
    let heard = listening.finish()?;
    let heard: Value = serde_json::from_str(heard.lines().last().unwrap_or_default())?;
    let said: Value = serde_json::from_str(&said)?;
    ensure!(
        said["wrong"] == serde_json::json!([]),
        "went wrong: {}",
        said["wrong"]
    );
    ensure!(heard["forged"] == 0, "forgeries left: {heard}");
    ensure!(heard["honest"] == said["honest"], "{heard} of {said}");
    ensure!(said["forged"].as_i64() >= Some(200), "only so many: {said}");
    let expected = said["expected"].as_object().context("no counts")?;
    let expected = expected.iter().map(|(slug, count)| {
        let reason = Reason::ALL.iter().find(|reason| reason.slug() == slug);
        let reason = reason.with_context(|| format!("no reason {slug}"))?;
        Ok((SLICE, *reason, count.as_i64().context("no number")?))
    });
    let expected: Vec<_> = expected.collect::<Result<_>>()?;
    let expected = Change::of_denials(&expected);
    ensure!(change.denials() == expected, "{change}, not {expected}");
    Ok(())
}

/// Of tcpdump: each packet when it comes.
const SHOW: &[&str] = &["-l", "--immediate-mode"];

/// Starts tcpdump in the slice; it runs when this returns.
///
/// # Errors
/// It does not listen.
pub fn tcpdump(site: &Site<'_>, words: &[&str]) -> Result<Running> {
    let mut command = Command::new("slice");
    command.args(["exec", SLICE, "--", "tcpdump", "-n"]);
    command.args(words);
    let running = site.start("tcpdump", command)?;
    until("tcpdump listens", || {
        Ok(running.output().contains("listening on"))
    })?;
    Ok(running)
}

fn tcpdump_shows_a_slice_its_own_packets(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let peers = PEER.map(|peer| peer.to_string());
    let traffic = |slice: &str, port: u16| -> Result<()> {
        // One handshake that is refused, one datagram, one echo, each way.
        let text = format!(
            r"
import socket, subprocess
for family, peer in ((2, '{}'), (10, '{}')):
    for kind in (1, 2):
        sock = socket.socket(family, kind)
        if kind == 1:
            try:
                sock.connect((peer, {port}))
            except ConnectionRefusedError:
                pass
        else:
            sock.sendto(b'x' * 37, (peer, {port}))
    subprocess.run(['ping', '-n', '-c', '1', '-W', '5', peer], stdout=subprocess.DEVNULL, check=True)
",
            peers[0], peers[1]
        );
        python(&site, slice, &text)?;
        Ok(())
    };
    for words in [
        &["-i", "any"][..],
        &["-i", "wire0"],
        &["-i", "wire0", "-p", "ip or ip6"],
        &["-i", "wire0", "-B", "1024"],
    ] {
        let capture = tcpdump(&site, &[SHOW, words].concat())?;
        traffic(OTHER, 9601)?;
        node.must("ping", &["-n", "-c", "1", "-W", "5", &peers[0]])?;
        traffic(SLICE, 9602)?;
        // An echo and its answer, of both families, come last.
        until("tcpdump shows all", || {
            Ok(capture.output().matches("echo reply").count() >= 2)
        })?;
        capture.signal(rustix::process::Signal::INT)?;
        let shown = capture.output();
        for wanted in [
            "Flags [S]",
            "Flags [R.]",
            "UDP, length 37",
            "unreachable",
            "echo request",
            "echo reply",
        ] {
            for family in [" IP ", " IP6 "] {
                let seen = shown
                    .lines()
                    .any(|line| line.contains(wanted) && line.contains(family));
                ensure!(seen, "{words:?}: no {wanted}{family}in: {shown}");
            }
        }
        ensure!(
            // The kernel may pick 39601 for somebody.
            ![".9601:", ".9601 >", "port 9601"]
                .iter()
                .any(|others| shown.contains(others)),
            "{words:?} shows another's: {shown}"
        );
        let echoes = shown.matches("echo re").count();
        ensure!(echoes == 4, "{words:?} shows {echoes} echoes: {shown}");
    }
    // A filter of the program's own works on what is left.
    let capture = tcpdump(&site, &[SHOW, &["-i", "any", "udp"][..]].concat())?;
    traffic(SLICE, 9602)?;
    until("tcpdump shows a datagram", || {
        Ok(capture.output().matches("UDP").count() >= 2)
    })?;
    let shown = capture.output();
    ensure!(!shown.contains("Flags"), "shows TCP: {shown}");
    Ok(())
}

fn an_identifier_is_one_slices_towards_one_peer(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    for (family, peer, other) in [
        ("AF_INET", PEER[0], crate::stage::FLEETING[0]),
        ("AF_INET6", PEER[1], crate::stage::FLEETING[1]),
    ] {
        // The first one asks again and again: its identifier does not age.
        let again = format!(
            "while True:\n    print(ask(socket.{family}, '{peer}', 4711), flush=True)\n    time.sleep(0.3)"
        );
        let mut command = Command::new("slice");
        command.args(["exec", SLICE, "--", "python3", "-c"]);
        command.arg(program(&[WIRE, ECHO, &again]));
        let first = site.start("first", command)?;
        until("the first is answered", || {
            Ok(first.output().contains("(True, [])"))
        })?;
        let ask = |peer: std::net::IpAddr| {
            let ask = format!(
                "try:\n    print(ask(socket.{family}, '{peer}', 4711))\nexcept OSError as error:\n    print(error.errno)"
            );
            python(&site, OTHER, &program(&[WIRE, ECHO, &ask]))
        };
        let before = site.counters()?;
        // Another peer, the same identifier: kept apart.
        let theirs = ask(other)?;
        ensure!(theirs.trim() == "(True, [])", "towards another: {theirs}");
        // The same peer: the first one's.
        let refused = ask(peer)?;
        ensure!(refused.trim() == "1", "the second got {refused}");
        let change = site.counters()?.since(&before);
        let expected = Change::of_denials(&[(OTHER, Reason::EchoForeign, 1)]);
        ensure!(change.denials() == expected, "{change}, not {expected}");
        let heard = first.output();
        ensure!(
            heard.lines().all(|line| line == "(True, [])"),
            "the first heard: {heard}"
        );
        first.kill()?;
    }
    Ok(())
}

fn a_raw_socket_sees_no_answers_to_others(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    const SEE: &str = r"
import select, socket, sys, time
socks = [socket.socket(family, 3, protocol) for family, protocol in
         ((2, 1), (2, 6), (2, 17), (10, 58), (10, 6), (10, 17))]
socks.append(socket.socket(17, 3, 0x300))
print('open', flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    ready = select.select(socks, [], [], 0.2)[0]
    for sock in ready:
        print('saw', sock.family, sock.proto, sock.recv(2048).hex(), flush=True)
    if sys.stdin in select.select([sys.stdin], [], [], 0)[0]:
        break
print('end', flush=True)
";
    let mut command = Command::new("slice");
    command.args(["exec", OTHER, "--", "python3", "-c", SEE]);
    let watcher = site.start("watcher", command)?;
    until("the watcher has sockets", || {
        Ok(watcher.output().contains("open"))
    })?;
    let peers = PEER.map(|peer| peer.to_string());
    for peer in &peers {
        // Of another slice, and of the node: echo, errors, resets, datagrams.
        let tools: [&[&str]; 3] = [
            &["ping", "-n", "-c", "1", "-W", "5"],
            &["traceroute", "-n", "-q", "1", "-w", "3", "-m", "1"],
            &[
                "traceroute",
                "-n",
                "-q",
                "1",
                "-w",
                "3",
                "-m",
                "1",
                "-T",
                "-p",
                "9",
            ],
        ];
        for tool in tools {
            let words = [tool, &[peer.as_str()]].concat();
            site.must(&[&["exec", SLICE, "--"], &words[..]].concat())?;
            node.must(words[0], &words[1..])?;
        }
    }
    let seen = watcher.finish()?;
    ensure!(
        seen.contains("end") && !seen.contains("saw"),
        "it saw: {seen}"
    );
    Ok(())
}

fn packet_sockets_have_the_options_that_captures_need(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    const OPTIONS: &str = r"
import ctypes, socket, struct
sock = socket.socket(17, 3, 0x300)
def tried(level, name, value):
    try:
        sock.setsockopt(level, name, value)
        return 0
    except OSError as error:
        return error.errno
number = socket.if_nametoindex('wire0')
filter = (ctypes.c_uint64 * 1)(0x0006 | 0xffffffff << 32)
program = struct.pack('HxxxxxxP', 1, ctypes.addressof(filter))
word = struct.pack('i', 1)
print(
    tried(1, 26, program), tried(1, 27, word), tried(1, 44, struct.pack('i', 0)),
    tried(263, 1, struct.pack('iHH8s', number, 1, 0, b'')), tried(263, 2, struct.pack('iHH8s', number, 1, 0, b'')),
    tried(263, 8, word), tried(263, 20, word), tried(263, 18, struct.pack('i', 1)), tried(263, 15, word),
    tried(263, 13, struct.pack('IIII', 65536, 4, 2048, 128)),
    tried(263, 5, struct.pack('IIII', 1 << 20, 5, 2048, 2560)),
    tried(263, 5, struct.pack('IIII', 1 << 31, 2, 2048, 1 << 21)),
    tried(263, 5, struct.pack('IIII', 1 << 20, 2, 2048, 1024) + bytes(8192)),
    tried(263, 5, struct.pack('IIII', 1 << 20, 2, 2048, 1024)),
    len(sock.getsockopt(263, 6, 8)),
)
print(open('/sys/class/net/wire0/flags').read().strip())
";
    let flags = std::fs::read_to_string("/sys/class/net/wire0/flags")?;
    let said = python(&site, SLICE, OPTIONS)?;
    let mut lines = said.lines();
    let tried = lines.next().unwrap_or_default();
    ensure!(
        tried == "92 2 1 0 0 0 1 1 1 1 1 1 1 0 8",
        "answered: {tried}"
    );
    ensure!(
        lines.next() == Some(flags.trim()),
        "the device was changed: {said}"
    );
    // Asking people for their address is not a slice's: the frame does not leave.
    let arping = r"
import socket
sock = socket.socket(17, 3, 0)
sock.bind(('wire0', 0x0806))
try:
    sock.send(b'\xff' * 6 + bytes.fromhex('020000000001') + b'\x08\x06' + b'\0' * 28)
except OSError as error:
    print(error.errno)
";
    let said = python(&site, SLICE, arping)?;
    ensure!(said.trim() == "105", "ARP: {said}");
    Ok(())
}

fn packet_sockets_are_bounded_in_number(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    const MANY: &str = r"
import socket
for again in range(2):
    socks, errno = [], 0
    try:
        while len(socks) < 100:
            socks.append(socket.socket(17, 3, 0))
    except OSError as error:
        errno = error.errno
    print(len(socks), errno)
    for sock in socks:
        sock.close()
";
    let said = python(&site, SLICE, MANY)?;
    ensure!(said.trim() == "8 105\n8 105", "made: {said}");
    Ok(())
}

fn a_device_that_has_just_come_is_closed(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    // No daemon runs on the stage, so nobody looks after it.
    node.must("ip", &["link", "add", "fresh0", "type", "dummy"])?;
    // Else the kernel sends something itself.
    node.must("ip", &["link", "set", "fresh0", "addrgenmode", "none"])?;
    node.must("ip", &["link", "set", "fresh0", "up"])?;
    const TRY: &str = r"
import socket
sock = socket.socket(17, 3, 0)
frame = b'\2' * 12 + b'\x08\0' + b'\0' * 50
for act in (lambda: sock.bind(('fresh0', 0x300)), lambda: sock.sendto(frame, ('fresh0', 0x800)),
            lambda: sock.bind(('wire0', 0x300)), lambda: sock.sendto(frame, ('fresh0', 0x800))):
    try:
        act()
        print(0, end=' ')
    except OSError as error:
        print(error.errno, end=' ')
";
    let counters = site.counters()?;
    let tried = python(&site, SLICE, TRY);
    let change = site.counters()?.since(&counters);
    let before = sent(node)?;
    // The daemon does: soon it is open.
    let daemon = site.daemon()?;
    let opened = until("the device is looked at", || {
        Ok(python(&site, SLICE, TRY)?.starts_with('0'))
    });
    daemon.kill()?;
    node.must("ip", &["link", "delete", "fresh0"])?;
    opened?;
    let tried = tried?;
    ensure!(tried.trim() == "100 100 0 100", "at first: {tried}");
    let expected = Change::of_denials(&[(SLICE, Reason::Device, 3)]);
    ensure!(change.denials() == expected, "{change}, not {expected}");
    ensure!(before == 0, "{before} frames left");
    Ok(())
}

/// Frames that the fresh device has sent.
fn sent(node: &Node) -> Result<u64> {
    let text = node
        .must("cat", &["/sys/class/net/fresh0/statistics/tx_packets"])?
        .stdout;
    Ok(text.trim().parse()?)
}

fn a_raw_port_is_claimed_with_the_errors_that_programs_expect(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    const CLAIMS: &str = r"
def address(family, host, port):
    if family == socket.AF_INET:
        return struct.pack('=H', 2) + struct.pack('!H', port) + socket.inet_aton(host) + bytes(8)
    return struct.pack('=H', 10) + struct.pack('!HI', port, 0) + socket.inet_pton(10, host) + bytes(4)
for family, here, alien in ((2, HERE4, ALIEN4), (10, HERE6, ALIEN6)):
    for protocol in (6, 17):
        sock = socket.socket(family, 3, protocol)
        other = socket.socket(family, 3, protocol)
        print(
            claim(sock, address(family, here, 8200)[:10]),   # short
            claim(sock, address(12 - family, {2: HERE6, 10: HERE4}[family], 8200)),  # another family
            claim(sock, address(family, alien, 8200)),       # not the node's
            claim(sock, address(family, here, 0)),           # no port
            claim(sock, address(family, here, 999)),         # below 1024, nobody's
            claim(sock, address(family, here, 8300)),        # another's
            claim(sock, address(family, here, 2222)),        # the node's
            claim(sock, address(family, here, 8200)),        # its own
            claim(sock, address(family, here, 9777)),        # a second one
            claim(other, address(family, here, 8200)),       # what another socket has
        )
        sock.close()
        print(claim(other, address(family, here, 8200)), claim(socket.socket(family, 3, 1), address(family, here, 8200)),
              claim(socket.socket(family, 1), address(family, here, 8200)))
        other.close()
";
    let said = python(&site, SLICE, &program(&[WIRE, PORT, CLAIMS]))?;
    for lines in said.lines().collect::<Vec<_>>().chunks(2) {
        ensure!(
            lines == ["22 22 22 22 13 98 13 0 22 98", "0 92 92"],
            "answered: {said}"
        );
    }
    Ok(())
}

fn a_program_speaks_tcp_itself_and_the_kernel_keeps_quiet(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    // A server outside, of an ordinary kernel.
    let mut serve = Command::new("ip");
    serve.args([
        "netns",
        "exec",
        OUTSIDE,
        "python3",
        "-c",
        r"
import socket
server = socket.create_server(('', 9800), family=socket.AF_INET6, dualstack_ipv6=True)
print('serving', flush=True)
for number in range(2):
    accepted, peer = server.accept()
    accepted.settimeout(20)
    print('heard', accepted.recv(100).decode(), peer[0], peer[1], flush=True)
",
    ]);
    let server = site.start("server", serve)?;
    until("the other end serves", || {
        Ok(server.output().contains("serving"))
    })?;
    const SPEAK: &str = r"
for family, here, there in ((2, HERE4, THERE4), (10, HERE6, THERE6)):
    print(speak(family, here, 8200, there, 9800, b'hello'))
";
    let said = python(&site, SLICE, &program(&[WIRE, PORT, SPEAK]))?;
    ensure!(said.lines().all(|line| line == "True"), "spoke: {said}");
    until("the server hears", || {
        Ok(server.output().matches("heard hello").count() == 2)
    })
    .with_context(|| format!("the server said: {}", server.output()))?;
    // A SYN from outside to a raw port gets no reset, to a closed port it does; a
    // datagram no error.
    const HOLD: &str = r"
import sys
socks = [socket.socket(family, 3, protocol) for family in (2, 10) for protocol in (6, 17)]
for sock in socks:
    host = HERE4 if sock.family == 2 else HERE6
    print(claim(sock, named(sock.family, host, 8200)), flush=True)
sys.stdin.read()
";
    let mut command = Command::new("slice");
    command.args([
        "exec",
        SLICE,
        "--",
        "python3",
        "-c",
        &program(&[WIRE, PORT, HOLD]),
    ]);
    let holder = site.start("holder", command)?;
    until("the ports are claimed", || {
        Ok(holder.output().lines().count() == 4)
    })?;
    const KNOCK: &str = r"
for family, there in ((2, HERE4), (10, HERE6)):
    for port in (8200, 9801):
        for kind in (1, 2):
            sock = socket.socket(family, kind)
            sock.settimeout(0.7)
            try:
                sock.connect((there, port))
                if kind == 2:
                    sock.send(b'x')
                    sock.recv(1)
                print('open', end=' ')
            except ConnectionRefusedError:
                print('refused', end=' ')
            except TimeoutError:
                print('silence', end=' ')
";
    let knock = |text: &str| -> Result<String> {
        let words = ["netns", "exec", OUTSIDE, "python3", "-c", text];
        Ok(node.must("ip", &words)?.stdout.trim().to_owned())
    };
    let heard = knock(&program(&[WIRE, KNOCK]))?;
    ensure!(
        heard == "silence silence refused refused silence silence refused refused",
        "while the ports are claimed: {heard}"
    );
    holder.finish()?;
    let heard = knock(&program(&[WIRE, KNOCK]))?;
    ensure!(
        heard.split(' ').all(|word| word == "refused"),
        "afterwards: {heard}"
    );
    server.finish()?;
    Ok(())
}

fn a_port_shows_nothing_of_other_addresses(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    // Connections of the node's to itself, from ports that the kernel picked.
    const USE: &str = r"
import socket, sys
pairs = []
for kind in (1, 2):
    for host in ('127.0.0.1', '198.51.100.1'):
        server, client = socket.socket(2, kind), socket.socket(2, kind)
        server.bind((host, 0))
        if kind == 1:
            server.listen()
        client.connect(server.getsockname())
        pairs.append((server.accept()[0] if kind == 1 else server, client))
print(*(client.getsockname()[1] for server, client in pairs), flush=True)
sys.stdin.readline()
for server, client in pairs:
    client.send(b'SECRET')
    assert server.recvfrom(10)[0] == b'SECRET'
    if server.type == 1:
        server.send(b'SECRET')
        assert client.recv(10) == b'SECRET'
print('said', flush=True)
sys.stdin.read()
";
    let mut user = Command::new("python3");
    user.args(["-c", USE]);
    let (read, mut write) = std::io::pipe()?;
    user.stdin(read);
    let user = site.start_with_input("user", user)?;
    until("the node has connections", || {
        Ok(user.output().contains('\n'))
    })?;
    let ports = user.output();
    // The slice takes the same numbers at another address of the node, where the
    // kernel lets it.
    const WATCH: &str = r"
import select, socket, sys
held = []
for number, port in enumerate(sys.argv[1:]):
    for host in ('198.51.100.1', '0.0.0.0'):
        try:
            sock = socket.socket(2, 1 + number // 2)
            sock.bind((host, int(port)))
            held.append(sock)
        except OSError:
            pass
socks = [socket.socket(17, 3, 0x300), socket.socket(2, 3, 6), socket.socket(2, 3, 17)]
print('open', len(held), flush=True)
while sys.stdin not in select.select([sys.stdin], [], [], 0)[0]:
    for sock in select.select(socks, [], [], 0.2)[0]:
        octets = sock.recv(4096)
        if b'SECRET' in octets:
            print('saw', sock.family, octets.hex(), flush=True)
print('end', flush=True)
";
    let mut command = Command::new("slice");
    command.args(["exec", SLICE, "--", "python3", "-c", WATCH]);
    command.args(ports.split_whitespace());
    let watcher = site.start("watcher", command)?;
    until("the watcher has sockets", || {
        Ok(watcher.output().contains("open"))
    })?;
    ensure!(
        !watcher.output().contains("open 0"),
        "it took none of {ports}"
    );
    std::io::Write::write_all(&mut write, b"go\n")?;
    until("the node has spoken", || Ok(user.output().contains("said")))?;
    let seen = watcher.finish()?;
    ensure!(
        seen.contains("end") && !seen.contains("saw"),
        "of {ports} it saw: {seen}"
    );
    user.kill()?;
    Ok(())
}

fn the_queue_of_errors_tells_a_raw_socket_nothing(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    const LISTEN: &str = r"
import select, socket, sys
socks = []
for family, level, name, protocol in ((2, 0, 11, 17), (2, 0, 11, 1), (10, 41, 25, 17), (10, 41, 25, 58)):
    sock = socket.socket(family, 3, protocol)
    sock.setsockopt(level, name, 1)
    sock.setblocking(False)
    socks.append(sock)
print('open', flush=True)
sys.stdin.read()
for sock in socks:
    try:
        print('saw', sock.recvmsg(2048, 2048, 0x2000), flush=True)
    except BlockingIOError:
        pass
print('end', flush=True)
";
    let mut command = Command::new("slice");
    command.args(["exec", SLICE, "--", "python3", "-c", LISTEN]);
    let listener = site.start("listener", command)?;
    until("the sockets are open", || {
        Ok(listener.output().contains("open"))
    })?;
    // The node is told that nobody is there.
    for peer in PEER.map(|peer| peer.to_string()) {
        node.must(
            "traceroute",
            &["-n", "-q", "1", "-w", "3", "-m", "1", &peer],
        )?;
    }
    let heard = listener.finish()?;
    ensure!(
        heard.contains("end") && !heard.contains("saw"),
        "it heard: {heard}"
    );
    Ok(())
}

fn raw_sockets_that_policy_takes_away(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let stage = crate::stage::Stage::open(node)?;
    const KEEP: &str = r"
import sys
raw = socket.socket(2, 3, 255)
packets = socket.socket(17, 3, 0)
packets.bind(('wire0', 0x800))
octets = ip4(HERE4, THERE4, 17, udp(8300, 7, b'x' * 20))
def tried(act):
    try:
        act()
        return 0
    except OSError as error:
        return error.errno
for line in sys.stdin:
    print(tried(lambda: raw.sendto(octets, (THERE4, 0))), tried(lambda: packets.send(frame(THERE, HERE, 0x800, octets))),
          tried(lambda: packets.send(frame(THERE, ALIEN, 0x806, b'arp' * 20))), tried(lambda: socket.socket(2, 3, 1)), flush=True)
";
    let mut command = Command::new("slice");
    command.args([
        "exec",
        OTHER,
        "--",
        "python3",
        "-c",
        &program(&[WIRE, KEEP]),
    ]);
    let (read, write) = std::io::pipe()?;
    command.stdin(read);
    let keeper = site.start_with_input("keeper", command)?;
    let mut write = write;
    let mut ask = |lines: usize| -> Result<String> {
        use std::io::Write;
        writeln!(write)?;
        until("it has tried", || {
            Ok(keeper.output().lines().count() == lines)
        })?;
        Ok(keeper
            .output()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned())
    };
    let before = ask(1)?;
    ensure!(before == "0 0 105 0", "at first: {before}");
    // Ports on which nobody could speak any more go with them.
    let none = |text: &str| {
        let kept = text.lines().filter(|line| !line.starts_with("ports.raw_"));
        let text: String = kept.flat_map(|line| [line, "\n"]).collect();
        text.replace("raw = \"safe\"", "raw = \"none\"")
    };
    let mut without = String::new();
    // Of both, so that no device is looked at any more.
    stage.with_policy(SLICE, none, || {
        stage.with_policy(OTHER, none, || {
            without = ask(2)?;
            Ok(())
        })
    })?;
    ensure!(without == "1 1 1 1", "without: {without}");
    let again = ask(3)?;
    ensure!(again == "0 0 105 0", "given back: {again}");
    keeper.kill()?;
    Ok(())
}

fn devices_are_as_they_were(node: &mut Node) -> Result<()> {
    const RAW: &str = "raw = \"safe\"\n[context]\nimage = \"debian\"\nautostart = false\n";
    let site = Site::new(node, &[("node.toml", ""), ("slices/rho.toml", RAW)])?;
    let before = Inventory::take(node)?;
    site.must(&["up"])?;
    let programs = || -> Result<usize> {
        // By links, and by filters below clsact.
        let shown = node.must("bpftool", &["net"])?.stdout;
        Ok(shown.lines().filter(|line| line.contains("frame")).count())
    };
    let armed = programs()?;
    ensure!(armed >= 2, "only {armed} devices have the program");
    // Again and again, as the daemon does: nothing is put there twice.
    site.must(&["reload"])?;
    ensure!(
        programs()? == armed,
        "another number of devices after a reload"
    );
    site.write("slices/rho.toml", "")?;
    site.must(&["reload"])?;
    ensure!(programs()? == 0, "devices still have the program");
    site.write("slices/rho.toml", RAW)?;
    site.must(&["reload"])?;
    site.must(&["down"])?;
    before.again(node)
}
