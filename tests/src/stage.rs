//! The stage that most tests play on: a node that is up with a few slices of
//! different policies, and a world outside behind a wire.
//!
//! Bringing it up takes longer than a test, so tests that say `.on_stage()`
//! share it: the first sets it, the runner strikes it after the last and after
//! each failure. Tests therefore use ports of their own and look at how much a
//! counter moved.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use policy::Reason;

use crate::counters::{Change, Counters};
use crate::image;
use crate::node::Node;
use crate::puppet::{Called, Puppet};

/// Where the policy of the stage is.
pub const POLICY: &str = "/run/slice-stage/policy";
/// Exists while the stage is set.
const SET: &str = "/run/slice-stage/set";
/// The network namespace of the world outside.
pub const OUTSIDE: &str = "outside";

/// The node's addresses on the wire.
pub const NODE: [IpAddr; 2] = [v4(1), v6(0x1)];
/// The outside world's addresses on the wire.
pub const PEER: [IpAddr; 2] = [v4(2), v6(0x2)];
/// Addresses of the outside world that a test may take from it.
pub const FLEETING: [IpAddr; 2] = [v4(3), v6(0x3)];
/// Addresses outside that the node's owner refuses to all slices.
pub const REFUSED: [IpAddr; 2] = [v4(129), v6(0x129)];
/// Addresses among those that are excepted.
pub const EXCEPTED: [IpAddr; 2] = [v4(130), v6(0x130)];
/// The addresses of slice `gamma`, and of nobody else.
pub const GAMMA: [IpAddr; 2] = [v4(10), v6(0x10)];
/// The own IPv4 address of slice `gamma4`, which shares the IPv6 addresses.
pub const GAMMA4: IpAddr = v4(14);
/// The own IPv6 address of slice `gamma6`, which shares the IPv4 addresses.
pub const GAMMA6: IpAddr = v6(0x16);
/// Addresses that are nobody's here.
pub const FOREIGN: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0x66)),
];
/// The loopback addresses.
pub const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// How long a port lingers on the stage, in milliseconds.
pub const LINGER_MS: u64 = 3000;

const fn v4(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, host))
}

const fn v6(host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, host))
}

/// A port at an address.
pub const fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

const FILES: &[(&str, &str)] = &[
    (
        "node.toml",
        r#"
        [node]
        max_slices = 32
        linger = "3 s"
        [node.reserved]
        tcp = [2222]
        udp = [2222]
        [node.addresses]
        exclude = ["198.51.100.8/29", "2001:db8:5::10/124"]
        [[refuse]]
        to = ["198.51.100.128/25", "2001:db8:5::100/120"]
        except = ["198.51.100.130", "2001:db8:5::130"]
        [[refuse]]
        to = ["0.0.0.0/0", "::/0"]
        protocol = "tcp"
        ports = [25]
        "#,
    ),
    (
        "slices/alpha.toml",
        r#"
        ports.tcp = [80, "8000-8099", 40000]
        ports.udp = [53, "8000-8099", 40000]
        "#,
    ),
    (
        "slices/beta.toml",
        r#"
        [[refuse]]
        to = ["0.0.0.0/0", "::/0"]
        protocol = "udp"
        ports = ["7770-7779"]
        "#,
    ),
    (
        "slices/gamma.toml",
        r#"
        address.ipv4 = "198.51.100.10"
        address.ipv6 = "2001:db8:5::10"
        "#,
    ),
    ("slices/gamma4.toml", "address.ipv4 = \"198.51.100.14\"\n"),
    ("slices/gamma6.toml", "address.ipv6 = \"2001:db8:5::16\"\n"),
    (
        "slices/strict.toml",
        r#"
        ports.tcp = [8100]
        ports.udp = [8100]
        ports.claim = false
        "#,
    ),
    ("slices/few.toml", "ports.claims = 2\n"),
    ("slices/small.toml", "sockets = 4\n"),
    ("slices/dialer.toml", "connections = 3\n"),
    (
        "slices/patient.toml",
        "[io]\nread = \"1 MiB/s\"\nwrite = \"1 MiB/s\"\n",
    ),
    ("slices/slow.toml", "connections_per_second = 20\n"),
    (
        "slices/tight.toml",
        "processes = 12\nmemory.cap = \"48 MiB\"\ncpu.cap = 0.5\n",
    ),
    ("slices/loud.toml", "events_per_second = 5\n"),
    (
        "slices/delta.toml",
        "[context]\nimage = \"debian\"\nautostart = false\nstop_after = \"2 s\"\n",
    ),
    (
        "slices/epsilon.toml",
        "disk.cap = \"24 MiB\"\ndisk.inodes = 600\n[context]\nimage = \"debian\"\nautostart = false\nstop_after = \"0 s\"\n",
    ),
    (
        "slices/eta.toml",
        "raw = \"safe\"\nports.tcp = [8200]\nports.udp = [8200]\nports.raw_tcp = [8201]\nports.raw_udp = [8201]\n[context]\nimage = \"debian\"\nautostart = false\nstop_after = \"0 s\"\n",
    ),
    (
        "slices/theta.toml",
        "raw = \"safe\"\nports.tcp = [8300]\nports.udp = [8300]\n[context]\nimage = \"debian\"\nautostart = false\nstop_after = \"0 s\"\nnested = true\n",
    ),
    (
        "slices/iota.toml",
        "role = \"management\"\ngrants = [\"audit\"]\n[context]\nimage = \"debian\"\nautostart = false\nstop_after = \"0 s\"\n",
    ),
    (
        "slices/zeta.toml",
        "[context]\nimage = \"debian\"\nautostart = false\nnested = true\n",
    ),
];

/// The node's end of the wire. Own IPv6 addresses are deprecated, so that the
/// kernel picks none of them as the source for others. Neighbours are fixed, so that no
/// packet but the tests' own is on it.
const HERE: &str = "\
link add wire0 address 02:00:00:00:00:01 type veth peer name wire0 address 02:00:00:00:00:02 netns outside
addr add 198.51.100.1/24 dev wire0
addr add 198.51.100.10/24 dev wire0
addr add 198.51.100.14/24 dev wire0
addr add 2001:db8:5::1/64 dev wire0 nodad
addr add 2001:db8:5::10/64 dev wire0 nodad preferred_lft 0
addr add 2001:db8:5::16/64 dev wire0 nodad preferred_lft 0
link set wire0 addrgenmode none
link set wire0 up
neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev wire0
neigh add 198.51.100.3 lladdr 02:00:00:00:00:02 dev wire0
neigh add 198.51.100.129 lladdr 02:00:00:00:00:02 dev wire0
neigh add 198.51.100.130 lladdr 02:00:00:00:00:02 dev wire0
neigh add 2001:db8:5::2 lladdr 02:00:00:00:00:02 dev wire0
neigh add 2001:db8:5::3 lladdr 02:00:00:00:00:02 dev wire0
neigh add 2001:db8:5::129 lladdr 02:00:00:00:00:02 dev wire0
neigh add 2001:db8:5::130 lladdr 02:00:00:00:00:02 dev wire0
";

const THERE: &str = "\
link set lo up
addr add 198.51.100.2/24 dev wire0
addr add 198.51.100.3/24 dev wire0
addr add 198.51.100.129/24 dev wire0
addr add 198.51.100.130/24 dev wire0
addr add 2001:db8:5::2/64 dev wire0 nodad
addr add 2001:db8:5::3/64 dev wire0 nodad
addr add 2001:db8:5::129/64 dev wire0 nodad
addr add 2001:db8:5::130/64 dev wire0 nodad
link set wire0 addrgenmode none
link set wire0 up
neigh add 198.51.100.1 lladdr 02:00:00:00:00:01 dev wire0
neigh add 198.51.100.10 lladdr 02:00:00:00:00:01 dev wire0
neigh add 198.51.100.14 lladdr 02:00:00:00:00:01 dev wire0
neigh add 2001:db8:5::1 lladdr 02:00:00:00:00:01 dev wire0
neigh add 2001:db8:5::10 lladdr 02:00:00:00:00:01 dev wire0
neigh add 2001:db8:5::16 lladdr 02:00:00:00:00:01 dev wire0
";

/// The node with its slices, and the world outside.
pub struct Stage<'n> {
    node: &'n Node,
}

impl<'n> Stage<'n> {
    /// The stage; sets it where the test before has not left it.
    ///
    /// # Errors
    /// The node does not come up.
    pub fn open(node: &'n Node) -> Result<Stage<'n>> {
        if !Path::new(SET).exists() {
            strike();
            set(node).context("set the stage")?;
        }
        Ok(Stage { node })
    }

    /// A puppet in a slice.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn slice(&self, name: &str) -> Result<Puppet> {
        self.slice_with(name, None)
    }

    /// A puppet in a slice that inherits a socket.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn slice_with(&self, name: &str, inherited: Option<OwnedFd>) -> Result<Puppet> {
        let mut command = Command::new("slice");
        command
            .args(["run", name, "--"])
            .arg(std::env::current_exe()?)
            .arg("puppet");
        Puppet::start(name, command, inherited)
    }

    /// A puppet of the node, outside of any slice, root.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn node(&self) -> Result<Puppet> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("puppet");
        Puppet::start("node", command, None)
    }

    /// A puppet at the other end of the wire.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn outside(&self) -> Result<Puppet> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", OUTSIDE])
            .arg(std::env::current_exe()?)
            .arg("puppet");
        Puppet::start(OUTSIDE, command, None)
    }

    /// Does something while one more rule refuses a port to a slice.
    ///
    /// # Errors
    /// Those of `act`, and of `slice reload`.
    pub fn with_rule(
        &self,
        slice: &str,
        protocol: &str,
        port: u16,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let rule = |before: &str| {
            format!(
                "{before}\n[[refuse]]\nto = [\"0.0.0.0/0\", \"::/0\"]\nprotocol = \"{protocol}\"\nports = [{port}]\n"
            )
        };
        self.with_policy(slice, rule, act)
    }

    /// Does something while the policy of a slice is another.
    ///
    /// # Errors
    /// Those of `act`, and of `slice reload`.
    pub fn with_policy(
        &self,
        slice: &str,
        other: impl FnOnce(&str) -> String,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let path = Path::new(POLICY).join(format!("slices/{slice}.toml"));
        let before = fs::read_to_string(&path)?;
        let reload = || self.node.must("slice", &["reload", "--policy", POLICY]);
        fs::write(&path, other(&before))?;
        reload()?;
        let result = act();
        fs::write(&path, before)?;
        reload()?;
        result
    }

    /// The node under the stage.
    pub const fn machine(&self) -> &'n Node {
        self.node
    }

    /// Every counter of every owner.
    ///
    /// # Errors
    /// `slice status` fails.
    pub fn counters(&self) -> Result<Counters> {
        Counters::parse(&self.node.must("slice", &["status", "-o", "json"])?.stdout)
    }

    /// Does something, and tells how the counters moved by it.
    ///
    /// # Errors
    /// Those of `act`.
    pub fn change_by(&self, act: impl FnOnce() -> Result<()>) -> Result<Change> {
        let before = self.counters()?;
        act()?;
        Ok(self.counters()?.since(&before))
    }

    /// Does something, and checks that exactly these denials were counted, and
    /// no other of any owner.
    ///
    /// # Errors
    /// Those of `act`; other denials were counted.
    #[track_caller]
    pub fn counts(
        &self,
        expected: &[(&str, Reason, i64)],
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let place = std::panic::Location::caller();
        let change = self.change_by(act)?.denials();
        let expected = Change::of_denials(expected);
        ensure!(
            change == expected,
            "line {}: {change} was counted, not {expected}",
            place.line()
        );
        Ok(())
    }
}

/// An IPv4 address as IPv6 sockets name it.
pub fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 => v6,
    }
}

/// Checks that a call was refused with this error number.
///
/// # Errors
/// It was not.
#[track_caller]
pub fn refused<T>(called: Called<T>, errno: Errno) -> Result<()> {
    let line = std::panic::Location::caller().line();
    match called {
        Ok(_) => anyhow::bail!("line {line}: a call succeeded that {errno:?} was expected of"),
        Err(refused) => {
            ensure!(
                refused.errno == errno,
                "line {line}: {refused}, not {errno:?}"
            );
            Ok(())
        }
    }
}

/// A sysctl of the node with another value; put back when this is dropped.
pub struct Sysctl {
    path: String,
    before: String,
}

impl Sysctl {
    /// Sets it.
    ///
    /// # Errors
    /// There is none of that name, or it does not take the value.
    pub fn set(name: &str, value: &str) -> Result<Sysctl> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let before = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        fs::write(&path, value).with_context(|| format!("write {value:?} to {path}"))?;
        Ok(Sysctl { path, before })
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, self.before.trim());
    }
}

fn set(node: &Node) -> Result<()> {
    fs::create_dir_all(Path::new(POLICY).join("slices"))?;
    for (name, text) in FILES {
        fs::write(Path::new(POLICY).join(name), text)?;
    }
    node.must("ip", &["netns", "add", OUTSIDE])?;
    let batch = node.dir().join("ip");
    let batch = batch.to_str().context("a path in UTF-8")?;
    fs::write(batch, HERE)?;
    node.must("ip", &["-batch", batch])?;
    fs::write(batch, THERE)?;
    node.must("ip", &["-n", OUTSIDE, "-batch", batch])?;
    // It says of each datagram that nobody hears it, however many come.
    let limits = ["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"];
    let words = [&["netns", "exec", OUTSIDE, "sysctl", "-q"], &limits[..]].concat();
    node.must("ip", &words)?;
    image::debian(node)?;
    node.must("slice", &["up", "--policy", POLICY])?;
    fs::write(SET, "")?;
    Ok(())
}

/// Takes the stage down, as far as it is there.
pub fn strike() {
    if !Path::new("/run/slice-stage").exists() {
        return;
    }
    // What its slices wrote is not for the slices of later tests.
    for words in [
        "slice destroy --all --yes",
        "slice down",
        "ip netns del outside",
    ] {
        let mut words = words.split(' ');
        if let Some(program) = words.next() {
            let _ = Command::new(program).args(words).output();
        }
    }
    let _ = fs::remove_dir_all("/run/slice-stage");
}
