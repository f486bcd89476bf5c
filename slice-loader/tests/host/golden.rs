use anstream::StripStream;
use policy::SliceId;
use policy::abi::{
    self, CLAIM, Claim, Denials, LIVE, Moment, OWN_IPV4, RESERVED_FOUND, RESERVED_NODE,
    RESERVED_SLICE, Reserved, SliceEntry, SliceState, Traffic,
};
use policy::verdict::Reason;
use slice_loader::cli::{events, ports, quantity, status};
use slice_loader::context::running::Life;
use slice_loader::report::event::{Cursor, Item};
use slice_loader::report::ports::Protocol;
use slice_loader::report::rates::{Order, Rates};
use slice_loader::report::status::{Cpu, Daemon, Io, Node, Reading, Transfer};
use slice_loader::report::{Clock, Event, Names, Ports, Status, Used};
use zerocopy::FromZeros;

const ALPHA: SliceId = SliceId(2);
const BETA: SliceId = SliceId(1 << 14 | 3);

/// 2026-01-02 03:04:05 UTC, 1000 s after boot.
const CLOCK: Clock = Clock {
    monotonic_ns: 1_000_000_000_000,
    realtime_ns: 1_767_323_045_000_000_000,
};

fn text(write: impl FnOnce(&mut StripStream<Vec<u8>>) -> std::io::Result<()>) -> String {
    let mut out = StripStream::new(Vec::new());
    write(&mut out).unwrap();
    String::from_utf8(out.into_inner()).unwrap()
}

/// Times are shown in the zone of the machine.
fn local(seconds_ago: u64) -> String {
    quantity::time(CLOCK.at(CLOCK.monotonic_ns - seconds_ago * 1_000_000_000))
}

fn reading(id: SliceId, name: &str) -> Reading {
    Reading {
        id,
        name: name.to_owned(),
        entry: SliceEntry {
            id,
            flags: LIVE | CLAIM,
            ..SliceEntry::new_zeroed()
        },
        state: SliceState::new_zeroed(),
        now_ns: CLOCK.monotonic_ns,
        controller: None,
        traffic: Traffic::new_zeroed(),
        denials: Denials::new_zeroed(),
        context: None,
        processes: None,
        memory: None,
        cpu: None,
        disk: None,
        inodes: None,
        swap: None,
        io: None,
    }
}

fn status_report(daemon: Option<Daemon>) -> Status {
    let mut alpha = reading(ALPHA, "alpha");
    alpha.entry.sockets_max = 1000;
    alpha.context = Some(Life::Running);
    alpha.entry.claims_max = 64;
    alpha.entry.flags |= OWN_IPV4;
    alpha.entry.own_ipv4 = [192, 0, 2, 7];
    alpha.state.sockets_opened = 12_345;
    alpha.state.sockets_open = 950;
    alpha.entry.connections_max = 100;
    alpha.entry.connections_per_second = 50;
    alpha.state.connections = 12;
    alpha.state.connections_started = 1_000_000;
    // A fiftieth of a second each.
    alpha.state.connections_paid_ns = CLOCK.monotonic_ns + 40_000_000 - 5;
    alpha.state.claims = 3;
    alpha.state.flows = 2;
    alpha.state.events_suppressed = 9;
    alpha.traffic = Traffic {
        sent_packets: 10,
        sent_bytes: 1536,
        received_packets: 20,
        received_bytes: 3 << 20,
        loopback_sent_packets: 1,
        loopback_sent_bytes: 60,
        loopback_received_packets: 2,
        loopback_received_bytes: 120,
    };
    alpha.denials.counts[Reason::PortReserved as usize] = 5;
    alpha.denials.counts[Reason::SourceForeign as usize] = 17;
    alpha.processes = Some(Used {
        usage: 4,
        limit: Some(512),
    });
    alpha.memory = Some(Used {
        usage: 5 << 20,
        limit: None,
    });
    alpha.cpu = Some(Cpu {
        used_us: 1_500_000,
        cap_millicores: Some(500),
    });
    alpha.disk = Some(Used {
        usage: 3 << 29,
        limit: Some(2 << 30),
    });
    alpha.inodes = Some(Used {
        usage: 4,
        limit: Some(131_072),
    });
    alpha.io = Some(Io {
        read: Transfer {
            bytes: 3 << 20,
            operations: 24,
            bytes_per_second_limit: Some(1 << 20),
            operations_per_second_limit: Some(500),
        },
        write: Transfer {
            bytes: 8192,
            operations: 2,
            ..Transfer::default()
        },
    });
    let mut beta = reading(BETA, "beta");
    // The row is another generation's: this slice is denied everything.
    beta.entry.id = SliceId(3);
    let mut node = reading(SliceId::NODE, "");
    node.state.sockets_open = 7;
    node.entry.sockets_max = u32::MAX;
    let mut unattributed = reading(SliceId::UNATTRIBUTED, "");
    unattributed.entry = SliceEntry::new_zeroed();
    unattributed.traffic.sent_bytes = 40;
    unattributed.traffic.sent_packets = 1;
    let about = Node {
        name: "n1".into(),
        kernel: "6.12.9".into(),
        version: "0.1.0".into(),
        abi_version: 1,
        policy: "/etc/slice".into(),
        since: CLOCK.at(0),
        slices: Used {
            usage: 2,
            limit: Some(1024),
        },
        daemon,
    };
    Status::new(CLOCK.time(), about, vec![unattributed, beta, alpha, node])
}

#[test]
fn status_is_a_table_of_node_slices_and_unattributed() {
    let status = status_report(Some(Daemon { pid: 77 }));
    let head = format!(
        "n1: kernel 6.12.9, 2/1024 slices, up since {}, daemon running (process 77)\n\n",
        local(1000)
    );
    let table = "\
SLICE         STATE     SOCKETS  CLAIMS  PROCESSES    MEMORY               DISK      SENT  RECEIVED  LOOPBACK  DENIED  MOST DENIED
node          live            7       0                                               0 B       0 B       0 B       0
alpha         running  950/1000    3/64      4/512  5.00 MiB  1.50 GiB/2.00 GiB  1.50 KiB  3.00 MiB      60 B      22  source_foreign
beta          denied          0       0                                               0 B       0 B       0 B       0
unattributed  live            0       0                                              40 B       0 B       0 B       0
total                       957       3                                          1.53 KiB  3.00 MiB      60 B      22
";
    assert_eq!(
        text(|out| status::write_all(out, &status, None, false)),
        head.clone() + table
    );
    let reasons = "
SLICE  DENIED  REASON          MEANING
alpha      17  source_foreign  The packet's source address is not one that the slice may use.
alpha       5  port_reserved   The port is reserved for another slice.
";
    assert_eq!(
        text(|out| status::write_all(out, &status, None, true)),
        head + table + reasons
    );
}

#[test]
fn a_narrow_terminal_keeps_names_and_denials() {
    let status = status_report(None);
    let all = text(|out| status::write_all(out, &status, Some(45), false));
    let lines: Vec<&str> = all.lines().collect();
    assert!(
        lines[0].ends_with("daemon not running (the rules hold without it)"),
        "{}",
        lines[0]
    );
    assert_eq!(lines[2], "SLICE             SENT  RECEIVED  DENIED");
    assert_eq!(lines[4], "alpha         1.50 KiB  3.00 MiB      22");
}

#[test]
fn one_slice_is_told_at_length() {
    let status = status_report(None).only("alpha").unwrap();
    let expected = "\
alpha  id 2, running
  addresses    192.0.2.7
  sockets      950 of 1000 open, 12.3k opened so far
  connections  12 of 100 open, 2 of 50 in a second, 1.00M started so far
  claims       3 of 64
  flows        2
  processes    4 of 512
  memory       5.00 MiB
  cpu          1.50 s, at most 0.500 cores
  disk         1.50 GiB of 2.00 GiB
  inodes       4 of 131k
  read         3.00 MiB in 24 operations, at most 1.00 MiB and 500 operations a second
  written      8.00 KiB in 2 operations
  sent         1.50 KiB in 10 packets
  received     3.00 MiB in 20 packets
  sent         60 B in 1 packets (lo)
  received     120 B in 2 packets (lo)
  denied       22
               17 source_foreign: The packet's source address is not one that the slice may use.
                5 port_reserved: The port is reserved for another slice.
  events       9 events not sent: too many in a second
";
    assert_eq!(
        text(|out| status::write_row(out, &status.rows[0])),
        expected
    );
    assert!(status_report(None).only("gamma").is_none());
}

#[test]
fn status_as_json_has_raw_numbers_limits_and_every_reason() {
    let value = serde_json::to_value(status_report(Some(Daemon { pid: 77 }))).unwrap();
    assert_eq!(value["time"], "2026-01-02T03:04:05Z");
    assert_eq!(value["node"]["since"], "2026-01-02T02:47:25Z");
    assert_eq!(value["node"]["daemon"]["pid"], 77);
    assert_eq!(value["total"]["external"]["sent"]["bytes"], 1576);
    let alpha = &value["rows"][1];
    assert_eq!(
        (&alpha["name"], &alpha["kind"], &alpha["state"]),
        (&"alpha".into(), &"slice".into(), &"live".into())
    );
    assert_eq!(
        alpha["sockets"],
        serde_json::json!({"usage": 950, "limit": 1000})
    );
    assert_eq!(
        (&alpha["connections"], &alpha["connections_per_second"]),
        (
            &serde_json::json!({"usage": 12, "limit": 100}),
            &serde_json::json!({"usage": 2, "limit": 50})
        )
    );
    assert_eq!(
        alpha["memory"],
        serde_json::json!({"usage": 5 << 20, "limit": null})
    );
    assert_eq!(
        (&alpha["disk"], &value["rows"][2]["disk"]),
        (
            &serde_json::json!({"usage": 3u64 << 29, "limit": 2u64 << 30}),
            &serde_json::Value::Null
        )
    );
    assert_eq!(
        alpha["loopback"]["received"],
        serde_json::json!({"packets": 2, "bytes": 120})
    );
    assert_eq!(
        alpha["denials"]["by_reason"].as_object().unwrap().len(),
        Reason::ALL.len()
    );
    assert_eq!(alpha["denials"]["by_reason"]["source_foreign"], 17);
    // The node's own row has no limits, whatever the map says.
    assert_eq!(
        value["rows"][0]["sockets"],
        serde_json::json!({"usage": 7, "limit": null})
    );
    let back: Status = serde_json::from_value(value).unwrap();
    assert_eq!(back, status_report(Some(Daemon { pid: 77 })));
}

fn ports_report() -> Ports {
    let tcp = |port| (Protocol::Tcp, port);
    let row = |owner, kind| Reserved {
        owner,
        kind,
        flags: 0,
    };
    let reserved = [
        (tcp(22), row(SliceId::NODE, RESERVED_NODE)),
        (tcp(80), row(ALPHA, RESERVED_SLICE)),
        (tcp(8000), row(ALPHA, RESERVED_SLICE)),
        (tcp(8001), row(ALPHA, RESERVED_SLICE)),
        ((Protocol::Udp, 68), row(SliceId::NODE, RESERVED_FOUND)),
    ];
    let claim = |owner, sockets, ago: u64, linger| Claim {
        holder: Claim::holder(owner, sockets),
        since_ns: CLOCK.monotonic_ns - ago * 1_000_000_000,
        linger_until_ns: CLOCK.monotonic_ns + linger,
    };
    let claims = [
        (tcp(80), claim(ALPHA, 2, 60, 0)),
        (tcp(9000), claim(BETA, 0, 300, 30_000_000_000)),
    ];
    Ports::new(
        CLOCK,
        &Names::new([(ALPHA, "alpha"), (BETA, "beta")]),
        reserved,
        claims,
    )
}

#[test]
fn ports_are_told_with_owner_kind_and_time() {
    let until = quantity::time(CLOCK.at(CLOCK.monotonic_ns + 30_000_000_000));
    let expected = format!(
        "\
PROTOCOL  PORT       OWNER  KIND      SOCKETS  SINCE
tcp       22         node   reserved        0
tcp       80         alpha  reserved        2  {}
tcp       8000-8001  alpha  reserved        0
tcp       9000       beta   claimed         0  {} (closed, kept until {until})
udp       68         node   found           0
",
        local(60),
        local(300),
    );
    assert_eq!(
        text(|out| ports::write_all(out, &ports_report(), None)),
        expected
    );
}

#[test]
fn ports_are_chosen_by_owner_and_protocol() {
    let count = |owner, protocol| ports_report().only(owner, protocol).ports.len();
    assert_eq!(count(None, None), 5);
    assert_eq!(count(Some("alpha"), None), 2);
    assert_eq!(count(Some("node"), Some(Protocol::Udp)), 1);
    assert_eq!(count(Some("beta"), Some(Protocol::Udp)), 0);
    assert_eq!(
        text(|out| ports::write_all(
            out,
            &ports_report().only(Some("beta"), Some(Protocol::Udp)),
            None
        )),
        ""
    );
}

#[test]
fn an_event_is_one_line_and_its_command_cannot_drive_the_terminal() {
    let mut record = abi::Event::new_zeroed();
    record.time_ns = CLOCK.monotonic_ns - 1_500_000_000;
    record.id = ALPHA;
    record.reason = Reason::Destination as u8;
    record.moment = Moment::Connect as u8;
    record.protocol = abi::TCP;
    record.local = abi::mapped([192, 0, 2, 1]);
    record.local_port = 40_000;
    record.peer = abi::mapped([198, 51, 100, 2]);
    record.peer_port = 25;
    record.pid = 4321;
    record.command[..6].copy_from_slice(b"c\x1b[2Jl");
    let names = Names::new([(ALPHA, "alpha")]);
    let event = Event::new(&record, Cursor { run: 1, number: 2 }, &CLOCK, &names);
    let time = quantity::time_exact(CLOCK.at(record.time_ns));
    let line = format!(
        "{time}  alpha         connect  destination       tcp  192.0.2.1:40000 -> 198.51.100.2:25  c\u{fffd}[2Jl[4321]\n"
    );
    let item = Item::Event(Box::new(event));
    assert_eq!(text(|out| events::write_item(out, &item, false)), line);
    let sentence = "    The node's owner refuses this destination.\n";
    assert_eq!(
        text(|out| events::write_item(out, &item, true)),
        line + sentence
    );
}

#[test]
fn a_reader_is_told_what_it_lost() {
    let line = "12 events passed unseen: they came faster than they were read\n";
    assert_eq!(
        text(|out| events::write_item(out, &Item::Lost(12), false)),
        line
    );
}

#[test]
fn top_tells_what_happened_between_two_readings() {
    let before = status_report(None);
    let mut after = before.clone();
    after.time += std::time::Duration::from_secs(2);
    let alpha = after
        .rows
        .iter_mut()
        .find(|row| row.name == "alpha")
        .unwrap();
    alpha.external.sent.bytes += 3000;
    alpha.denials.total += 5;
    alpha.cpu.as_mut().unwrap().used_us += 500_000;
    // A slice that came in between: its counters began at zero.
    let mut fresh = alpha.clone();
    fresh.id = 99;
    fresh.name = "fresh".into();
    fresh.external.received.bytes = 80;
    after.rows.push(fresh);
    let mut rates = Rates::between(&before, &after);
    assert_eq!(rates.over_ms, 2000);
    let row = |rates: &Rates, name: &str| {
        rates
            .rows
            .iter()
            .find(|row| row.name == name)
            .cloned()
            .unwrap()
    };
    let alpha = row(&rates, "alpha");
    assert_eq!((alpha.sent, alpha.received, alpha.denials), (1500, 0, 2));
    assert_eq!(alpha.cpu_millicores, Some(250));
    assert_eq!(row(&rates, "fresh").received, 40);
    assert_eq!(row(&rates, "node").cpu_millicores, None);
    rates.order(Order::Traffic);
    assert_eq!(rates.rows[0].name, "fresh");
    rates.order(Order::Name);
    assert_eq!(rates.rows[0].name, "alpha");
    // The clock may not have moved, or the other way.
    assert_eq!(Rates::between(&after, &before).over_ms, 1);
}
