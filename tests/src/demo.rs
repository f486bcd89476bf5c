//! The demonstration: prints a transcript of what a slice node does, and fails
//! where it does not do it.
//!
//! Each step is a line of prose, the command as one would type it, and what it
//! wrote. What is announced is checked: a step whose output lacks what the
//! prose says ends the run.

use std::fs;
use std::io::{Write, stdout};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The policy that is shown, as the tree brings it into the VM.
const POLICY: &str = "/opt/slice/examples/demo";
/// Where `slice` looks for it.
const IN_FORCE: &str = "/etc/slice";
/// How long a server may take until it answers; emulated machines are slow.
const READY: Duration = Duration::from_secs(30);

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

/// Shows everything.
///
/// # Errors
/// Something did not come out as it was announced.
pub fn run() -> Result<ExitCode> {
    let mut show = Show::default();
    prepare()?;
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

    show.title("What the owner sees");
    show.step(
        "Nothing was denied silently.",
        "slice status",
        0,
        &["alpha", "beta", "port_reserved"],
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
    let seconds = show.start.elapsed().as_secs();
    println!(
        "\nVerdict: {} of {} steps came out as announced, in {seconds} s.",
        show.steps, show.steps
    );
    Ok(ExitCode::SUCCESS)
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
    ] {
        let path = format!("/run/demo/{file}");
        fs::write(&path, text).with_context(|| format!("write {path}"))?;
    }
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

/// The run so far.
struct Show {
    start: Instant,
    steps: u32,
    background: Vec<Background>,
}

impl Default for Show {
    fn default() -> Show {
        Show {
            start: Instant::now(),
            steps: 0,
            background: Vec::new(),
        }
    }
}

impl Show {
    fn title(&self, text: &str) {
        println!("\n{text}\n{}", "-".repeat(text.len()));
    }

    /// Tells, runs and prints; the command must end with this status and write
    /// all of these.
    fn step(&mut self, prose: &str, command: &str, status: i32, says: &[&str]) -> Result<()> {
        self.tell(prose, command)?;
        let done = sh(command);
        for line in done.output.lines() {
            println!("    {line}");
        }
        stdout().flush()?;
        ensure!(
            done.status == status,
            "`{command}` ended with {}, not {status}",
            done.status
        );
        for said in says {
            ensure!(
                done.output.contains(said),
                "`{command}` does not say {said:?}"
            );
        }
        Ok(())
    }

    /// Tells, and starts something that goes on.
    fn background(&mut self, prose: &str, command: &str) -> Result<()> {
        self.tell(prose, &format!("{command} &"))?;
        self.background
            .push(background(command, "/run/demo/alpha.log")?);
        Ok(())
    }

    fn tell(&mut self, prose: &str, command: &str) -> Result<()> {
        self.steps += 1;
        println!("\n{prose}\n  $ {command}");
        stdout().flush()?;
        Ok(())
    }
}

struct Done {
    status: i32,
    /// Both streams, as a terminal shows them.
    output: String,
}

/// Runs a shell's command line in the demonstration's directory.
fn sh(line: &str) -> Done {
    let output = Command::new("sh")
        .args(["-c", &format!("{{ {line}\n}} 2>&1")])
        .current_dir("/run/demo")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => Done {
            status: output.status.code().unwrap_or(-1),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
        },
        Err(error) => Done {
            status: -1,
            output: format!("start sh: {error}"),
        },
    }
}

/// A program that runs until this is dropped.
struct Background(std::process::Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn background(line: &str, log: &str) -> Result<Background> {
    let log = fs::File::create(log).with_context(|| format!("create {log}"))?;
    let child = Command::new("sh")
        .args(["-c", line])
        .current_dir("/run/demo")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {line}"))?;
    Ok(Background(child))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds() {
        ensure!(
            start.elapsed() < READY,
            "waited {} s in vain: {what}",
            READY.as_secs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
