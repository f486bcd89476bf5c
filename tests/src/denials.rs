//! Every reason of a denial, made to happen once: what is counted, that
//! nothing else of anybody is, and what `slice events` tells of it.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libc::{
    AF_INET, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, IPPROTO_IP, SOCK_DGRAM, SOCK_RAW,
    SOCK_STREAM,
};
use nix::errno::Errno::{
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, ECONNREFUSED, ENETUNREACH, ENOBUFS, EPERM,
    EPROTONOSUPPORT, ETIMEDOUT,
};
use policy::Reason;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::counters::Change;
use crate::node::Node;
use crate::puppet::{Control, Kind, Naming, Opening, Puppet};
use crate::runner::{Test, test};
use crate::stage::{
    FOREIGN, GAMMA, LOOPBACK, NODE, PEER, POLICY, REFUSED, Stage, Sysctl, at, refused,
};

mod trace; // slice trace

pub const TESTS: &[Test] = &[
    test(
        "every_reason_is_counted_once_and_for_its_slice_alone",
        counted,
    )
    .on_stage(),
    test("every_denial_is_an_event_with_its_fields", told).on_stage(),
    test(
        "a_flood_of_denials_is_counted_and_few_of_it_are_told",
        flood,
    )
    .on_stage(),
    test(
        "a_trace_tells_each_verdict_and_ends_with_its_reader_or_the_daemon",
        trace::traced,
    )
    .on_stage(),
];

/// The puppets that the cases play with.
struct Cast {
    alpha: Puppet,
    beta: Puppet,
    strict: Puppet,
    few: Puppet,
    small: Puppet,
    dialer: Puppet,
    slow: Puppet,
    outside: Puppet,
}

/// A denial about to happen.
struct Denied<'a> {
    /// Makes it happen. It holds the sockets that were made for it.
    act: Box<dyn FnMut() -> Result<()> + 'a>,
    /// Moment, protocol, family, near end and far end of its event.
    told: String,
}

/// A reason, the slice that it is counted for, and how to make it happen.
type Case = (
    Reason,
    &'static str,
    for<'a> fn(&'a Cast) -> Result<Denied<'a>>,
);

const CASES: &[Case] = &[
    (Reason::Family, "alpha", family),
    (Reason::Protocol, "alpha", protocol),
    (Reason::RawSocket, "alpha", raw_socket),
    (Reason::Netlink, "alpha", netlink),
    (Reason::SocketLimit, "small", socket_limit),
    (Reason::PortReserved, "beta", port_reserved),
    (Reason::PortNode, "beta", port_node),
    (Reason::PortClaimed, "beta", port_claimed),
    (Reason::PortPrivileged, "beta", port_privileged),
    (Reason::PortLoopback, "beta", port_loopback),
    (Reason::ClaimForbidden, "strict", claim_forbidden),
    (Reason::ClaimLimit, "few", claim_limit),
    (Reason::AddressForeign, "alpha", address_foreign),
    (Reason::SourceForeign, "alpha", source_foreign),
    (Reason::Destination, "alpha", destination),
    (Reason::Option, "alpha", option),
    (Reason::Header, "alpha", header),
    (Reason::ReceiveForeign, "alpha", receive_foreign),
    (Reason::PortForeign, "alpha", port_foreign),
    (Reason::ProcNet, "alpha", proc_net),
    (Reason::SocketDiagnostics, "alpha", socket_diagnostics),
    (Reason::AbstractForeign, "alpha", abstract_foreign),
    (Reason::LoopbackForeign, "alpha", loopback_foreign),
    (Reason::LoopbackLimit, "beta", loopback_limit),
    (Reason::ConnectionLimit, "dialer", connection_limit),
    (Reason::ConnectionRate, "slow", connection_rate),
];

/// Made to happen in `raw` and `audit`, by programs that a puppet is not.
const ELSEWHERE: [Reason; 5] = [
    Reason::Audit,
    Reason::IcmpType,
    Reason::EchoForeign,
    Reason::Frame,
    Reason::Device,
];

fn denied<'a>(told: &str, act: impl FnMut() -> Result<()> + 'a) -> Result<Denied<'a>> {
    Ok(Denied {
        act: Box::new(act),
        told: told.to_owned(),
    })
}

fn family(cast: &Cast) -> Result<Denied<'_>> {
    denied("create 0 vsock - -", || {
        refused(
            cast.alpha.raw_socket(AF_VSOCK, SOCK_STREAM, 0),
            EAFNOSUPPORT,
        )
    })
}

fn protocol(cast: &Cast) -> Result<Denied<'_>> {
    denied("create udplite inet - -", || {
        refused(
            cast.alpha.raw_socket(AF_INET, SOCK_DGRAM, 136),
            EPROTONOSUPPORT,
        )
    })
}

fn raw_socket(cast: &Cast) -> Result<Denied<'_>> {
    denied("create 0 packet - -", || {
        refused(cast.alpha.raw_socket(AF_PACKET, SOCK_RAW, 0), EPERM)
    })
}

fn netlink(cast: &Cast) -> Result<Denied<'_>> {
    denied("create 12 netlink - -", || {
        refused(
            cast.alpha.raw_socket(AF_NETLINK, SOCK_RAW, 12),
            EPROTONOSUPPORT,
        )
    })
}

fn socket_limit(cast: &Cast) -> Result<Denied<'_>> {
    let held: Vec<_> = (0..4).map(|_| cast.small.socket(Kind::Tcp4)).collect();
    ensure!(held.iter().all(Result::is_ok), "four sockets are allowed");
    denied("create udp inet6 - -", move || {
        let _held = &held;
        refused(
            cast.small.raw_socket(libc::AF_INET6, SOCK_DGRAM, 17),
            ENOBUFS,
        )
    })
}

fn port_reserved(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.beta.socket(Kind::Tcp4)?;
    denied("bind tcp inet 0.0.0.0:80 -", move || {
        refused(socket.bind(Kind::Tcp4.any(80)), EADDRINUSE)
    })
}

fn port_node(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.beta.socket(Kind::Udp6)?;
    denied("bind udp inet6 [2001:db8:5::1]:2222 -", move || {
        refused(socket.bind(at(NODE[1], 2222)), EACCES)
    })
}

fn port_claimed(cast: &Cast) -> Result<Denied<'_>> {
    let held = cast.alpha.server(Kind::TcpDual, 9080)?;
    let socket = cast.beta.socket(Kind::Tcp4)?;
    denied("bind tcp inet 198.51.100.1:9080 -", move || {
        let _held = &held;
        refused(socket.bind(at(NODE[0], 9080)), EADDRINUSE)
    })
}

fn port_privileged(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.beta.socket(Kind::UdpDual)?;
    denied("bind udp inet6 *:999 -", move || {
        refused(socket.bind(Kind::UdpDual.any(999)), EACCES)
    })
}

fn port_loopback(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.beta.socket(Kind::Tcp4)?;
    denied("bind tcp inet 0.0.0.0:61000 -", move || {
        refused(socket.bind(Kind::Tcp4.any(61000)), EADDRINUSE)
    })
}

fn claim_forbidden(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.strict.socket(Kind::Udp4)?;
    denied("bind udp inet 0.0.0.0:9081 -", move || {
        refused(socket.bind(Kind::Udp4.any(9081)), EACCES)
    })
}

fn claim_limit(cast: &Cast) -> Result<Denied<'_>> {
    let held = [
        cast.few.server(Kind::Tcp4, 9082)?,
        cast.few.server(Kind::Udp6, 9083)?,
    ];
    let socket = cast.few.socket(Kind::Tcp4)?;
    denied("bind tcp inet 0.0.0.0:9084 -", move || {
        let _held = &held;
        refused(socket.bind(Kind::Tcp4.any(9084)), EADDRINUSE)
    })
}

fn address_foreign(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.alpha.socket(Kind::Udp6)?;
    denied("bind udp inet6 [2001:db8:bad::66]:8080 -", move || {
        refused(socket.bind(at(FOREIGN[1], 8080)), EADDRNOTAVAIL)
    })
}

fn source_foreign(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.alpha.raw_socket(AF_INET, SOCK_DGRAM, 1)?;
    socket.bind(at(GAMMA[0], 0))?;
    let request = vec![8, 0, 0, 0, 0, 0, 0, 1];
    denied("egress icmp inet 198.51.100.10 198.51.100.2", move || {
        refused(
            socket.send_with(request.clone(), Some(at(PEER[0], 0)), Vec::new()),
            EPERM,
        )
    })
}

fn destination(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.alpha.socket(Kind::Tcp6)?;
    denied("connect tcp inet6 - [2001:db8:5::129]:9085", move || {
        refused(socket.connect(at(REFUSED[1], 9085)), EACCES)
    })
}

fn loopback_foreign(cast: &Cast) -> Result<Denied<'_>> {
    let there = at("127.200.0.1".parse()?, 9086);
    let socket = cast.alpha.socket(Kind::Tcp4)?;
    denied("connect tcp inet - 127.200.0.1:9086", move || {
        refused(socket.connect(there), ECONNREFUSED)
    })
}

fn loopback_limit(cast: &Cast) -> Result<Denied<'_>> {
    let held: Vec<_> = (9600..9664)
        .map(|port| cast.beta.server_at(Kind::Udp4, at(LOOPBACK[0], port)))
        .collect();
    ensure!(held.iter().all(Result::is_ok), "64 ports are allowed");
    let socket = cast.beta.socket(Kind::Udp4)?;
    denied("bind udp inet 127.0.0.1:9664 -", move || {
        let _held = &held;
        refused(socket.bind(at(LOOPBACK[0], 9664)), EADDRINUSE)
    })
}

fn connection_limit(cast: &Cast) -> Result<Denied<'_>> {
    let listener = cast.outside.server(Kind::Tcp4, 9093)?;
    let held: Vec<_> = (0..3)
        .map(|_| cast.dialer.connected(at(PEER[0], 9093)))
        .collect();
    ensure!(held.iter().all(Result::is_ok), "three are allowed");
    let socket = cast.dialer.socket(Kind::Tcp4)?;
    denied("connect tcp inet - 198.51.100.2:9093", move || {
        let _held = (&held, &listener);
        refused(socket.connect(at(PEER[0], 9093)), EADDRNOTAVAIL)
    })
}

fn connection_rate(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.slow.socket(Kind::Tcp4)?;
    let group = at("224.0.0.1".parse()?, 9094);
    denied("connect tcp inet - 224.0.0.1:9094", move || {
        // TCP reaches no group, so nothing is sent.
        for _ in 0..200 {
            let called = socket.connect(group);
            if called
                .as_ref()
                .is_err_and(|refused| refused.errno != ENETUNREACH)
            {
                return refused(called, EADDRNOTAVAIL);
            }
        }
        anyhow::bail!("the rate has no end")
    })
}

fn option(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.alpha.socket(Kind::Udp4)?;
    denied("option 0 inet - -", move || {
        refused(socket.set(IPPROTO_IP, 15, 1), EPERM)
    })
}

fn header(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.alpha.socket(Kind::Udp4)?;
    let record_route = vec![7, 7, 4, 0, 0, 0, 0, 0];
    denied("egress 0 0 - -", move || {
        // IP_RETOPTS
        let option = Control {
            level: IPPROTO_IP,
            name: 7,
            value: record_route.clone(),
        };
        refused(
            socket.send_with(vec![1], Some(at(PEER[0], 9086)), vec![option]),
            EPERM,
        )
    })
}

fn receive_foreign(cast: &Cast) -> Result<Denied<'_>> {
    let ear = cast.alpha.server(Kind::UdpDual, 8087)?;
    let mouth = cast.outside.server_at(Kind::Udp6, at(PEER[1], 9087))?;
    denied(
        "ingress udp inet6 [2001:db8:5::10]:8087 [2001:db8:5::2]:9087",
        move || {
            mouth.send_to(1, at(GAMMA[1], 8087))?;
            refused(ear.receive_within(100), ETIMEDOUT)
        },
    )
}

fn port_foreign(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.alpha.socket(Kind::Udp4)?;
    // The kernel picks a port, which no hook sees, and before the first packet
    // another slice claims it in the other family.
    socket.connect(at(PEER[0], 9088))?;
    let port = socket.port()?;
    let held = cast.beta.server(Kind::Udp6, port)?;
    let told = format!("egress udp inet 198.51.100.1:{port} 198.51.100.2:9088");
    denied(&told, move || {
        let _held = &held;
        refused(socket.send(1), EPERM)
    })
}

fn proc_net(cast: &Cast) -> Result<Denied<'_>> {
    denied("open 0 0 - -", || {
        refused(cast.alpha.read("/proc/net/tcp", Opening::Plain), EACCES)
    })
}

fn socket_diagnostics(cast: &Cast) -> Result<Denied<'_>> {
    let socket = cast.alpha.raw_socket(AF_NETLINK, SOCK_RAW, 4)?;
    denied("option 4 netlink - -", move || {
        // NETLINK_ADD_MEMBERSHIP
        refused(socket.set(270, 1, 1), EPERM)
    })
}

fn abstract_foreign(cast: &Cast) -> Result<Denied<'_>> {
    let address = b"\x01\0\0denials";
    let server = cast.beta.raw_socket(AF_UNIX, SOCK_STREAM, 0)?;
    server.named(Naming::Bind, address)?;
    server.listen()?;
    let socket = cast.alpha.raw_socket(AF_UNIX, SOCK_STREAM, 0)?;
    denied("connect 0 unix - -", move || {
        let _server = &server;
        refused(socket.named(Naming::Connect, address), ECONNREFUSED)
    })
}

impl Cast {
    fn enter(stage: &Stage<'_>) -> Result<Cast> {
        let cast = Cast {
            alpha: stage.slice("alpha")?,
            beta: stage.slice("beta")?,
            strict: stage.slice("strict")?,
            few: stage.slice("few")?,
            small: stage.slice("small")?,
            dialer: stage.slice("dialer")?,
            slow: stage.slice("slow")?,
            outside: stage.outside()?,
        };
        for puppet in [
            &cast.alpha,
            &cast.beta,
            &cast.strict,
            &cast.few,
            &cast.small,
            &cast.dialer,
            &cast.slow,
        ] {
            puppet.pid()?;
        }
        Ok(cast)
    }
}

fn counted(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let _range = Sysctl::set("net.ipv4.ping_group_range", "0 2147483647")?;
    let cast = Cast::enter(&stage)?;
    for reason in Reason::ALL {
        // Of a slice that is gone nothing is shown: see
        // a_socket_of_a_destroyed_slice_can_do_nothing.
        let there = CASES.iter().any(|case| case.0 == *reason)
            || ELSEWHERE.contains(reason)
            || *reason == Reason::NoPolicy;
        ensure!(there, "no case makes {} happen", reason.slug());
    }
    let mut wrong = Vec::new();
    for (reason, owner, prepare) in CASES {
        let mut denied = prepare(&cast).with_context(|| format!("prepare {}", reason.slug()))?;
        let change = stage
            .change_by(|| (denied.act)())
            .with_context(|| format!("make {} happen", reason.slug()))?;
        // To be too fast is to have started some.
        let change = match reason {
            Reason::ConnectionRate => change.without("connections_started"),
            _ => change,
        };
        let expected = Change::of_denials(&[(owner, *reason, 1)]);
        if change != expected {
            wrong.push(format!("{}: {change}, not {expected}", reason.slug()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The daemon, for as long as this lives.
struct Daemon(Child);

impl Daemon {
    fn start(stage: &Stage<'_>) -> Result<Daemon> {
        let child = Command::new("slice")
            .args(["daemon", "--policy", POLICY])
            .stdin(Stdio::null())
            .spawn()
            .context("start the daemon")?;
        let daemon = Daemon(child);
        let until = Instant::now() + Duration::from_secs(20);
        while stage
            .machine()
            .run("slice", &["events", "-o", "json"])?
            .status
            != 0
        {
            ensure!(Instant::now() < until, "the daemon does not answer");
            sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// The events that the daemon keeps, oldest first.
fn events(stage: &Stage<'_>) -> Result<Vec<Value>> {
    let shown = stage.machine().must("slice", &["events", "-o", "json"])?;
    let lines = shown.stdout.lines().map(|line| -> Result<Value> {
        let item: Value = serde_json::from_str(line)?;
        item.get("event")
            .cloned()
            .with_context(|| format!("no event: {line}"))
    });
    lines.collect()
}

/// The fields of an event as a case writes them.
fn fields(event: &Value) -> String {
    let end = |name: &str| {
        let end = &event[name];
        let address: Option<IpAddr> = end["address"].as_str().and_then(|text| text.parse().ok());
        match (address, end["port"].as_u64()) {
            (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
            (Some(address), Some(port)) => format!("{address}:{port}"),
            (Some(address), None) => address.to_string(),
            (None, Some(port)) => format!("*:{port}"),
            (None, None) => "-".into(),
        }
    };
    let word = |name: &str| event[name].as_str().unwrap_or("?").to_owned();
    format!(
        "{} {} {} {} {}",
        word("moment"),
        word("protocol"),
        word("family"),
        end("local"),
        end("peer")
    )
}

fn told(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let _range = Sysctl::set("net.ipv4.ping_group_range", "0 2147483647")?;
    let _daemon = Daemon::start(&stage)?;
    let cast = Cast::enter(&stage)?;
    let mut expected = Vec::new();
    for (reason, owner, prepare) in CASES {
        let mut denied = prepare(&cast)?;
        (denied.act)().with_context(|| format!("make {} happen", reason.slug()))?;
        expected.push((*reason, *owner, denied.told));
    }
    // The daemon keeps the newest; what earlier tests left may still come in
    // before these.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let events = events(&stage)?;
        let last = &events[events.len().saturating_sub(expected.len())..];
        let mut wrong = Vec::new();
        for (at, (reason, owner, told)) in expected.iter().enumerate() {
            let event = last.get(at).unwrap_or(&Value::Null);
            let right = event["reason"] == reason.slug()
                && event["sentence"] == reason.sentence()
                && event["slice"]["name"] == *owner
                && fields(event) == *told
                && event["pid"].is_u64() != told.contains("gress")
                && (event["command"] == "slice-tests") != told.contains("gress");
            if !right {
                wrong.push(format!("{owner} {} {told}: {event}", reason.slug()));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{}", wrong.join("\n"));
        sleep(Duration::from_millis(100));
    }
}

fn flood(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let _daemon = Daemon::start(&stage)?;
    let loud = stage.slice("loud")?;
    let socket = loud.socket(Kind::Tcp4)?;
    let before = events(&stage)?.len();
    let start = Instant::now();
    let change = stage.change_by(|| {
        for _ in 0..200 {
            refused(socket.bind(Kind::Tcp4.any(80)), EADDRINUSE)?;
        }
        Ok(())
    })?;
    // Five each second of the clock, of which two may be begun.
    let most = 5 * (i64::try_from(start.elapsed().as_secs())? + 2);
    let suppressed = change.by("loud", "events_suppressed");
    let told = 200 - suppressed;
    ensure!(
        change.by("loud", "denials.port_reserved") == 200,
        "{change}"
    );
    ensure!(
        (5..=most).contains(&told),
        "{told} events were told, at most {most} may be"
    );
    ensure!(
        change
            .without("denials.")
            .without("events_suppressed")
            .is_empty(),
        "more is counted"
    );
    // What the daemon hears is what was not suppressed, and the next one says
    // how many were.
    let until = Instant::now() + Duration::from_secs(10);
    while i64::try_from(events(&stage)?.len() - before)? < told {
        ensure!(Instant::now() < until, "not all events came");
        sleep(Duration::from_millis(20));
    }
    sleep(Duration::from_millis(1100));
    refused(socket.bind(Kind::Tcp4.any(80)), EADDRINUSE)?;
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let events = events(&stage)?;
        let last = events.last().context("no event")?;
        if last["suppressed"]
            .as_i64()
            .is_some_and(|counted| counted >= suppressed)
        {
            break;
        }
        ensure!(Instant::now() < until, "the last event says {last}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
