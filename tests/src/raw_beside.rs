//! Raw sockets beside the other sockets of the node: what the kernel copies for them, and
//! ports that it gives them.

use anyhow::{Result, ensure};

use crate::node::Node;
use crate::raw::{OTHER, SLICE, WIRE, open, program, python};
use crate::runner::{Test, test};
use crate::site::until;
use crate::stage::Sysctl;

pub const TESTS: &[Test] = &[
    test(
        "no_slice_becomes_the_nodes_multicast_router",
        no_slice_becomes_the_router,
    )
    .on_stage(),
    test(
        "what_a_raw_socket_sends_to_a_group_reaches_nobody_in_the_node",
        groups_are_not_told,
    )
    .on_stage(),
    test(
        "a_port_that_a_raw_socket_sent_from_is_given_to_who_is_given_it",
        leases_give_way,
    )
    .on_stage(),
];

/// Tries to become the router, by both families, and each option besides.
const ROUTER: &str = r"
refused = []
for family, protocol, level in (2, 2, 0), (10, 58, 41):
    own = socket.socket(family, 3, protocol)
    for name in range(200, 213):
        try: own.setsockopt(level, name, struct.pack('i', 1))
        except OSError as error: refused.append(error.errno)
print(sorted(set(refused)), len(refused))
";

fn no_slice_becomes_the_router(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let before = site.counters()?;
    let told = python(&site, SLICE, &program(&[WIRE, ROUTER]))?;
    ensure!(told.trim() == "[1] 26", "{told}");
    let change = site.counters()?.since(&before);
    let denied = "denials.option";
    ensure!(change.by(SLICE, denied) == 26, "{change}");
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/all/mc_forwarding");
        let forwards = std::fs::read_to_string(&path)?;
        ensure!(forwards.trim() == "0", "{path} is {forwards}");
    }
    Ok(())
}

/// Who listens on all addresses prints what comes.
const HEAR: &str = r"
import select, socket, sys
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(('', int(sys.argv[1])))
print('ready', flush=True)
while sys.stdin not in select.select([own, sys.stdin], [], [])[0]:
    print(own.recv(100).decode(), flush=True)
";

/// Says what is not so to groups and to all, and something that is.
const FORGE: &str = r"
device = socket.if_nametoindex(sys.argv[1])
raw = socket.socket(2, 3, 255)
refused = []
for level, name in (1, socket.SO_BROADCAST), (0, socket.IP_MULTICAST_LOOP):
    try: raw.setsockopt(level, name, 1)
    except OSError as error: refused.append(error.errno)
where = struct.pack('4s4si', bytes(4), bytes(4), device)
raw.setsockopt(0, socket.IP_MULTICAST_IF, where)
join = socket.socket(2, 2)
join.setsockopt(0, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('239.1.2.3') + where[4:])
for source in '8.8.8.8', '198.51.100.2', '127.0.0.1':
    for to in '239.1.2.3', '224.0.0.1', '198.51.100.255', '255.255.255.255':
        for ttl in 0, 1:
            for port in 9200, 9201:
                packet = bytearray(ip4(source, to, 17, udp(53, port, b'forged')))
                packet[8], packet[10:12] = ttl, bytes(2)
                packet[10:12] = struct.pack('!H', checksum(bytes(packet[:20])))
                try: raw.sendto(bytes(packet), (to, 0))
                except OSError: pass
honest = socket.socket(2, 2)
honest.setsockopt(0, socket.IP_MULTICAST_IF, where)
honest.setsockopt(0, socket.IP_MULTICAST_TTL, 0)
for port in 9200, 9201:
    honest.sendto(b'honest', ('239.1.2.3', port))
print(refused)
";

/// The kernel copies for members of a group in the node before it asks anybody.
fn groups_are_not_told(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let hear = ["python3", "-c", HEAR];
    let slice = site.start(
        "slice",
        site.in_slice("alpha", &[&hear[..], &["9200"]].concat()),
    )?;
    let mut own = std::process::Command::new(hear[0]);
    own.args(&hear[1..]).arg("9201");
    let own = site.start("own", own)?;
    let both = [&slice, &own];
    until("both hear", || {
        Ok(both.iter().all(|who| who.output().contains("ready")))
    })?;
    let before = site.counters()?;
    let forge = program(&["import sys", WIRE, FORGE]);
    let told = site.must(&["exec", SLICE, "--", "python3", "-c", &forge, "wire0"])?;
    ensure!(told.trim() == "[1, 1]", "{told}");
    until("both have heard", || {
        Ok(both.iter().all(|who| who.output().contains("honest")))
    })?;
    for who in both {
        ensure!(
            who.output() == "ready\nhonest\n",
            "heard {:?}",
            who.output()
        );
    }
    // It has crossed no wire.
    let change = site.counters()?.since(&before);
    ensure!(
        change.by("alpha", "received.packets") == 0
            && change.by("alpha", "loopback.received.packets") == 1,
        "{change}"
    );
    for who in [slice, own] {
        who.finish()?;
    }
    Ok(())
}

/// Sends from each port of the range, and again later.
const LEASE: &str = r"
raw = socket.socket(2, 3, 255)
def send():
    sent = 0
    for port in range(50040, 50044):
        for protocol, body in (17, udp(port, 9, b'')), (6, tcp(port, 9)):
            try: sent += bool(raw.sendto(ip4('198.51.100.1', '198.51.100.2', protocol, body), ('198.51.100.2', 0)))
            except OSError: pass
    return sent
print(send(), flush=True)
sys.stdin.readline()
print(send(), flush=True)
";

/// Is given a port of each protocol, names one of another's, and holds what it has.
const GIVEN: &str = r"
import socket, sys
given, refused = [], []
for kind in 2, 1:
    for port in 0, 0, 0, 0:
        own = socket.socket(2, kind)
        own.bind(('198.51.100.1', port))
        given.append(own)
print(len({(own.type, own.getsockname()[1]) for own in given}), flush=True)
sys.stdin.read()
";

fn leases_give_way(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let before = site.counters()?;
    let lease = program(&["import sys", WIRE, LEASE]);
    let mut command = std::process::Command::new("slice");
    command.args(["exec", SLICE, "--", "python3", "-c", &lease]);
    let lease = site.start("lease", command)?;
    until("it has sent", || Ok(lease.output().contains('\n')))?;
    ensure!(lease.output() == "8\n", "{}", lease.output());
    let _few = Sysctl::set("net.ipv4.ip_local_port_range", "50040 50043")?;
    let mut command = std::process::Command::new("slice");
    command.args(["exec", OTHER, "--", "python3", "-c", GIVEN]);
    let given = site.start("given", command)?;
    until("it is given all", || Ok(given.output().contains('\n')))?;
    ensure!(given.output() == "8\n", "{}", given.output());
    // What is left of the lease is nothing: each port is the other's.
    lease.finish().and_then(|told| {
        ensure!(told == "8\n0\n", "it sent {told}");
        Ok(())
    })?;
    let change = site.counters()?.since(&before);
    let denied = "denials.port_foreign";
    let claimed = "denials.port_claimed";
    ensure!(
        change.by(SLICE, denied) + change.by(SLICE, claimed) == 8,
        "{change}"
    );
    given.finish()?;
    Ok(())
}
