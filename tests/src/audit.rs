//! The packets of all slices with their owners, for those who may see them.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use policy::Reason;
use rustix::process::Signal;
use safe_raw_sockets::pcapng::{Item, Packet, Reader, Way};

use crate::brokers::broker;
use crate::counters::Change;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Running, Site, until};
use crate::stage::{PEER, Stage};

pub const TESTS: &[Test] = &[
    test(
        "a_management_slice_sees_the_packets_of_all_slices_with_their_owners",
        a_management_slice_sees_the_packets_of_all_slices,
    )
    .within(120)
    .on_stage(),
    test(
        "the_packets_of_all_slices_are_for_those_who_have_the_grant",
        the_packets_of_all_slices_are_for_those_who_have_the_grant,
    )
    .within(60)
    .on_stage(),
    test(
        "who_reads_packets_too_slowly_loses_them_and_holds_nobody_up",
        who_reads_too_slowly_loses_packets,
    )
    .once()
    .within(120)
    .on_stage(),
    test(
        "the_nodes_owner_writes_the_packets_of_a_slice_to_a_file",
        the_nodes_owner_writes_packets_to_a_file,
    )
    .once()
    .within(60)
    .on_stage(),
    test(
        "a_sniffer_whose_reader_stands_still_hears_signals_and_no_file_is_emptied_in_vain",
        a_sniffer_whose_reader_stands_still_hears_signals,
    )
    .within(60)
    .on_stage()
    .once(),
    test(
        "a_stream_of_packets_ends_with_its_broker_and_nothing_is_copied_for_it",
        a_stream_ends_with_its_broker,
    )
    .within(60)
    .on_stage()
    .once(),
];

const AUDITOR: &str = "iota";
const SLICE: &str = "eta";
const OTHER: &str = "delta";
const READ: &str = include_str!("audit/read.py");

fn open(node: &Node) -> Result<Site<'_>> {
    let site = Site::on_stage(node)?;
    site.must(&["start", AUDITOR, SLICE, OTHER])?;
    Ok(site)
}

/// Starts to read in the management slice.
fn reader(site: &Site<'_>, words: &[&str]) -> Result<Running> {
    let mut command = Command::new("slice");
    command.args(["exec", AUDITOR, "--", "python3", "-c", READ]);
    command.args(words);
    let running = site.start("reader", command)?;
    until("the management slice reads", || {
        Ok(running.output().contains("reading"))
    })
    .with_context(|| running.output())?;
    Ok(running)
}

fn touch(site: &Site<'_>, name: &str) -> Result<()> {
    site.must(&["exec", AUDITOR, "--", "touch", name])?;
    Ok(())
}

/// What the management slice wrote to this file.
fn written(site: &Site<'_>, name: &str) -> Result<Vec<Item>> {
    let text = site.must(&["exec", AUDITOR, "--", "od", "-An", "-v", "-tx1", name])?;
    let octets: Vec<u8> = text
        .split_whitespace()
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect::<Result<_, _>>()?;
    items(&octets)
}

fn items(octets: &[u8]) -> Result<Vec<Item>> {
    let mut reader = Reader::new(octets);
    let mut items = Vec::new();
    while let Some(item) = reader.next_item()? {
        items.push(item);
    }
    Ok(items)
}

fn packets(items: &[Item]) -> impl Iterator<Item = &Packet> {
    items.iter().filter_map(|item| match item {
        Item::Packet(packet) => Some(packet),
        _ => None,
    })
}

/// The destination port of what leaves; 0 of what comes, 1 of other protocols.
fn port(packet: &Packet) -> u16 {
    let (header, protocol) = if packet.octets[0] >> 4 == 4 {
        (20, packet.octets[9])
    } else {
        (40, packet.octets[6])
    };
    match (protocol, packet.way) {
        (6 | 17, Way::In) => 0,
        (6 | 17, Way::Out) => {
            u16::from_be_bytes([packet.octets[header + 2], packet.octets[header + 3]])
        }
        _ => 1,
    }
}

/// Sends datagrams of 1,200 octets to a port of the other end of the wire, over
/// both families.
fn send(site: &Site<'_>, slice: &str, port: u16, count: usize) -> Result<()> {
    let text = format!(
        r"
import socket
for family, peer in ((2, '{}'), (10, '{}')):
    sock = socket.socket(family, 2)
    for number in range({count}):
        sock.sendto(b'x' * 1200, (peer, {port}))
",
        PEER[0], PEER[1]
    );
    site.must(&["exec", slice, "--", "python3", "-c", &text])?;
    Ok(())
}

fn a_management_slice_sees_the_packets_of_all_slices(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let stage = Stage::open(node)?;
    let reading = reader(&site, &["/root/all"])?;
    send(&site, SLICE, 7711, 3)?;
    send(&site, OTHER, 7712, 2)?;
    // A raw socket's, and answers.
    let peer = PEER[0].to_string();
    let ping = ["ping", "-n", "-c", "1", "-W", "5", &peer];
    site.must(&[&["exec", SLICE, "--"], &ping[..]].concat())?;
    let connect = format!(
        r"
import socket
try:
    socket.create_connection(('{peer}', 7713))
except ConnectionRefusedError:
    pass
"
    );
    site.must(&["exec", OTHER, "--", "python3", "-c", &connect])?;
    // The node's own.
    for peer in PEER {
        let any = if peer.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        UdpSocket::bind(any)?.send_to(b"of the node", (peer, 7714))?;
    }
    // Its own: it may send on what it reads.
    send(&site, AUDITOR, 7717, 2)?;
    // Without the grant it sees nothing more, though the stream is open.
    let none = |text: &str| text.replace("grants = [\"audit\"]", "");
    stage.with_policy(AUDITOR, none, || send(&site, SLICE, 7715, 2))?;
    send(&site, SLICE, 7716, 1)?;
    touch(&site, "/root/done")?;
    reading.finish()?;

    let items = written(&site, "/root/all")?;
    let mut seen: BTreeMap<(&str, bool, u16), usize> = BTreeMap::new();
    for packet in packets(&items) {
        let whole = packet.octets.len() == usize::try_from(packet.length)?;
        ensure!(whole, "cut: {packet:?}");
        let place = (&*packet.name, packet.way == Way::Out, port(packet));
        *seen.entry(place).or_default() += 1;
    }
    let wanted = BTreeMap::from([
        ((SLICE, true, 7711), 6),
        ((OTHER, true, 7712), 4),
        ((SLICE, true, 1), 1),
        ((SLICE, false, 1), 1),
        ((OTHER, true, 7713), 1),
        ((OTHER, false, 0), 1),
        ((SLICE, true, 7716), 2),
    ]);
    ensure!(seen == wanted, "seen: {seen:?}, not {wanted:?}");
    // The id is the one that the node knows the slice by.
    let status = site.json(&["status"])?;
    let rows = status["rows"].as_array().context("no rows")?;
    for packet in packets(&items) {
        let row = rows.iter().find(|row| row["name"] == packet.name.as_str());
        let id = row.map(|row| &row["id"]);
        ensure!(id == Some(&packet.id.into()), "{packet:?} is of {id:?}");
    }
    // Others read the file too.
    let shown = site.must(&["exec", AUDITOR, "--", "tcpdump", "-n", "-r", "/root/all"])?;
    let lines = shown.lines().filter(|line| line.contains(".7711: "));
    ensure!(lines.count() == 6, "tcpdump shows: {shown}");
    Ok(())
}

/// Opens the stream, and again while it is open; what came of it.
fn try_twice(site: &Site<'_>, of: &[&str]) -> Result<String> {
    const TRY: &str = r"
import socket
kept = []
for number in range(2):
    try:
        kept.append(socket.socket(17, 1, 0x534c))
        print('made', end=' ')
    except OSError as error:
        print(error.errno, end=' ')
";
    let words = [&["exec"], of, &["--", "python3", "-c", TRY]].concat();
    Ok(site.must(&words)?.trim().to_owned())
}

fn the_packets_of_all_slices_are_for_those_who_have_the_grant(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let try_in = |words: &[&str]| try_twice(&site, words);
    let before = site.counters()?;
    // With a broker and without.
    for slice in [SLICE, OTHER] {
        let said = try_in(&[slice])?;
        ensure!(said == "1 1", "{slice}: {said}");
    }
    let change = site.counters()?.since(&before);
    let expected = Change::of_denials(&[(SLICE, Reason::Audit, 2), (OTHER, Reason::Audit, 2)]);
    ensure!(change.denials() == expected, "{change}, not {expected}");
    let said = try_in(&["--user", "nobody", AUDITOR])?;
    ensure!(said == "1 1", "an ordinary user: {said}");
    // One at a time; the next when the first is closed.
    for _ in 0..2 {
        until(
            "the stream is free",
            || Ok(try_in(&[AUDITOR])? == "made 16"),
        )?;
    }
    // It has no raw sockets for it.
    const RAW: &str = r"
import socket
try:
    socket.socket(2, 3, 1)
except PermissionError:
    print('refused')
";
    let said = site.must(&["exec", AUDITOR, "--", "python3", "-c", RAW])?;
    ensure!(said.trim() == "refused", "a raw socket: {said}");
    Ok(())
}

fn who_reads_too_slowly_loses_packets(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let reading = reader(&site, &["/root/slow", "waits"])?;
    send(&site, SLICE, 7721, 1000)?;
    touch(&site, "/root/go")?;
    touch(&site, "/root/done")?;
    reading.finish()?;
    let items = written(&site, "/root/slow")?;
    let seen = packets(&items).filter(|packet| port(packet) == 7721);
    let seen = u64::try_from(seen.count())?;
    let lost = items.iter().rev().find_map(|item| match item {
        Item::Lost(lost) => Some(*lost),
        _ => None,
    });
    let lost = lost.with_context(|| format!("{seen} seen, and none lost"))?;
    ensure!(seen + lost == 2000, "{seen} seen, {lost} lost");
    ensure!(seen > 100 && lost > 100, "{seen} seen, {lost} lost");
    Ok(())
}

fn the_nodes_owner_writes_packets_to_a_file(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let path = node.dir().join("sniffed");
    let mut command = Command::new("slice");
    command.args(["sniff", "--slice", SLICE, "-w"]).arg(&path);
    let sniffing = site.start("sniff", command)?;
    until("it writes", || {
        Ok(fs::metadata(&path).is_ok_and(|file| file.len() > 0))
    })
    .with_context(|| sniffing.output())?;
    ensure!(is_read(node)?, "the programs do not know");
    send(&site, OTHER, 7731, 1)?;
    send(&site, SLICE, 7732, 2)?;
    until("the packets are written", || {
        let items = items(&fs::read(&path)?)?;
        let others = packets(&items).filter(|packet| packet.name != SLICE);
        let others = others.count();
        ensure!(others == 0, "{others} packets of others");
        Ok(packets(&items).count() == 4)
    })?;
    sniffing.signal(Signal::INT)?;
    sniffing.finish()?;
    ensure!(!is_read(node)?, "the programs copy for nobody");

    // One that ends without a word; of a management slice it shows the packets too.
    let mut command = Command::new("slice");
    command.args(["sniff", "--slice", AUDITOR, "-w"]).arg(&path);
    let sniffing = site.start("sniff", command)?;
    until("it reads", || is_read(node))?;
    send(&site, AUDITOR, 7733, 1)?;
    until("the packets are written", || {
        Ok(packets(&items(&fs::read(&path)?)?).count() == 2)
    })?;
    drop(sniffing);
    until("the programs know that it ended", || {
        send(&site, SLICE, 7734, 1)?;
        Ok(!is_read(node)?)
    })
}

fn a_sniffer_whose_reader_stands_still_hears_signals(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let path = node.dir().join("stalled");
    node.must("mkfifo", &[&path.to_string_lossy()])?;
    // Held open, and never read.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let mut command = Command::new("slice");
    command.args(["sniff", "--slice", SLICE, "-w"]).arg(&path);
    let mut sniffing = site.start("sniff", command)?;
    until("it reads", || is_read(node))?;
    // More than a pipe holds, and at once, so that it has a large piece to write.
    sniffing.signal(Signal::STOP)?;
    send(&site, SLICE, 7741, 1000)?;
    sniffing.signal(Signal::CONT)?;
    until("it writes as much as goes", || {
        Ok(rustix::io::ioctl_fionread(&reader)? > 32 << 10)
    })?;
    sniffing.signal(Signal::INT)?;
    until("it ends", || Ok(sniffing.ended()?.is_some()))?;
    drop(reader);

    // A file is emptied only for what can be read.
    let kept = node.dir().join("kept");
    fs::write(&kept, "kept")?;
    let file = kept.to_string_lossy();
    for name in ["node", "nobody"] {
        let refused = site.slice(&["sniff", "--slice", name, "-w", &file])?;
        ensure!(refused.status == 2, "{name}: {}", refused.status);
    }
    ensure!(fs::read(&kept)? == b"kept", "the file is empty");
    Ok(())
}

fn a_stream_ends_with_its_broker(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let mut reading = reader(&site, &["/root/ends"])?;
    ensure!(is_read(node)?, "the programs do not know");
    node.must("kill", &["-9", &broker(AUDITOR)?])?;
    until("the stream ends", || Ok(reading.ended()?.is_some()))?;
    let said = reading.output();
    ensure!(said == "reading\nend\n", "the reader said: {said}");
    // ENOSYS: nobody answers calls for raw sockets any more.
    let said = try_twice(&site, &[AUDITOR])?;
    ensure!(said == "38 38", "without its broker: {said}");
    until("the programs know that it ended", || {
        send(&site, SLICE, 7741, 1)?;
        Ok(!is_read(node)?)
    })?;
    site.must(&["restart", AUDITOR])?;
    let said = try_twice(&site, &[AUDITOR])?;
    ensure!(said == "made 16", "with its next broker: {said}");
    Ok(())
}

/// Whether the programs copy packets.
fn is_read(node: &Node) -> Result<bool> {
    let map = "/sys/fs/bpf/slice/maps/AUDITORS";
    let words = [
        "-j", "map", "lookup", "pinned", map, "key", "0", "0", "0", "0",
    ];
    let row = node.must("bpftool", &words)?.stdout;
    let row: serde_json::Value = serde_json::from_str(&row)?;
    let octets = row["value"].as_array().context("no value")?;
    // The first eight say until when.
    Ok(octets[..8].iter().any(|octet| octet != "0x00"))
}
