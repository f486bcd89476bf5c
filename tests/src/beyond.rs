//! Another machine: a network namespace at the other end of a wire, which
//! counts what must never arrive before its own kernel looks at it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::node::{Node, Output};
use crate::stage::OUTSIDE;

/// The namespace.
const NAME: &str = "beyond";

/// The node's addresses on the wire.
pub const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// The other machine's addresses.
pub const PEER: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// A port at the other machine that tests refuse to their slices.
pub const REFUSED_PORT: u16 = 7;

/// Neighbours are fixed: a policy that drops packets must not be mistaken for
/// an address that nobody resolves.
const WIRES: &[&str] = &[
    "netns add beyond",
    "link add wire1 numtxqueues QUEUES numrxqueues QUEUES address 02:00:00:00:01:01 type veth peer name wire1 address 02:00:00:00:01:02 netns beyond",
    "link set wire1 addrgenmode none",
    "addr add 192.0.2.1/24 dev wire1",
    "addr add 2001:db8::1/64 dev wire1 nodad",
    "link set wire1 up",
    "neigh add 192.0.2.2 lladdr 02:00:00:00:01:02 dev wire1",
    "neigh add 2001:db8::2 lladdr 02:00:00:00:01:02 dev wire1",
    "-n beyond link set lo up",
    "-n beyond link set wire1 addrgenmode none",
    "-n beyond addr add 192.0.2.2/24 dev wire1",
    "-n beyond addr add 2001:db8::2/64 dev wire1 nodad",
    "-n beyond link set wire1 up",
    "-n beyond neigh add 192.0.2.1 lladdr 02:00:00:00:01:01 dev wire1",
    "-n beyond neigh add 2001:db8::1 lladdr 02:00:00:00:01:01 dev wire1",
];

/// What no slice may send: with an address that is not the node's, or to the
/// refused port.
const WATCH: &str = "\
table netdev watch {
    counter forbidden { }
    counter arrived { }
    chain arrives {
        type filter hook ingress device wire1 priority 0; policy accept;
        counter name arrived
        ip saddr != { 192.0.2.1, 0.0.0.0 } counter name forbidden
        ip6 saddr != { 2001:db8::1, :: } counter name forbidden
        udp dport 7 counter name forbidden
        tcp dport 7 counter name forbidden
    }
}
";

/// The other machine; gone when this is dropped.
pub struct Beyond<'n> {
    node: &'n Node,
    namespace: &'static str,
}

impl<'n> Beyond<'n> {
    /// Makes it.
    ///
    /// # Errors
    /// The kernel lacks something.
    pub fn open(node: &'n Node) -> Result<Beyond<'n>> {
        Self::with_queues(node, 1)
    }

    /// Makes it, with a device on the node's side of so many queues.
    ///
    /// # Errors
    /// The kernel lacks something.
    pub fn with_queues(node: &'n Node, queues: u32) -> Result<Beyond<'n>> {
        let _ = node.run("ip", &["netns", "del", NAME]);
        let beyond = Beyond {
            node,
            namespace: NAME,
        };
        for line in WIRES {
            let line = line.replace("QUEUES", &queues.to_string());
            node.must("ip", &line.split(' ').collect::<Vec<_>>())?;
        }
        let watch = node.dir().join("watch.nft");
        std::fs::write(&watch, WATCH)?;
        beyond.must(&["nft", "-f", watch.to_str().context("a path in UTF-8")?])?;
        Ok(beyond)
    }

    /// The world outside of the stage, which has no watch.
    pub fn of_stage(node: &'n Node) -> Beyond<'n> {
        Beyond {
            node,
            namespace: OUTSIDE,
        }
    }

    /// Runs a command there.
    ///
    /// # Errors
    /// It cannot be started; a status other than 0 is no error.
    pub fn run(&self, command: &[&str]) -> Result<Output> {
        self.node.run(
            "ip",
            &[&["netns", "exec", self.namespace], command].concat(),
        )
    }

    /// Runs a command there that must succeed.
    ///
    /// # Errors
    /// It fails; the error has its words.
    pub fn must(&self, command: &[&str]) -> Result<Output> {
        self.node.must(
            "ip",
            &[&["netns", "exec", self.namespace], command].concat(),
        )
    }

    /// A command that runs there.
    pub fn command(&self, command: &[&str]) -> std::process::Command {
        let mut ip = std::process::Command::new("ip");
        ip.args(["netns", "exec", self.namespace]).args(command);
        ip
    }

    /// How many packets arrived that no slice may send.
    ///
    /// # Errors
    /// nft does not tell.
    pub fn forbidden(&self) -> Result<u64> {
        self.counted("forbidden")
    }

    /// How many packets arrived.
    ///
    /// # Errors
    /// nft does not tell.
    pub fn arrived(&self) -> Result<u64> {
        self.counted("arrived")
    }

    fn counted(&self, name: &str) -> Result<u64> {
        let listed = self
            .must(&["nft", "-j", "list", "counter", "netdev", "watch", name])?
            .stdout;
        let listed: Value = serde_json::from_str(&listed)?;
        let objects = listed["nftables"]
            .as_array()
            .context("nft lists no objects")?;
        let packets = objects
            .iter()
            .find_map(|object| object["counter"]["packets"].as_u64());
        packets.with_context(|| format!("nft knows no counter {name}"))
    }

    /// Fetches a page from the node.
    ///
    /// # Errors
    /// It does not come.
    pub fn fetch(&self, url: &str) -> Result<String> {
        let output = self.run(&["curl", "-sS", "--max-time", "20", url])?;
        ensure!(output.status == 0, "fetch {url}: {}", output.stderr.trim());
        Ok(output.stdout)
    }
}

impl Drop for Beyond<'_> {
    fn drop(&mut self) {
        if self.namespace == OUTSIDE {
            return;
        }
        let _ = self.node.run("ip", &["link", "del", "wire1"]);
        let _ = self.node.run("ip", &["netns", "del", NAME]);
    }
}
