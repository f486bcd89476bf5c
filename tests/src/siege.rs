//! A siege: a node under load, of which nothing may give way while something
//! happens to it. Slice alpha serves a page and takes a stream of bytes, slice
//! beta hammers at everything that it is forbidden, and the other machine
//! counts what gets through.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::beyond::{Beyond, NODE, PEER};
use crate::counters::Counters;
use crate::hammer::Tally;
use crate::node::Node;
use crate::site::{Running, Site, until};

/// The policy under siege.
pub const POLICY: &[(&str, &str)] = &[
    (
        "node.toml",
        "[node]\nmax_slices = 16\n[[refuse]]\nto = [\"192.0.2.0/24\", \"2001:db8::/64\"]\nports = [7]\n",
    ),
    (
        "slices/alpha.toml",
        "ports.tcp = [80, 5201]\nports.udp = [53]\n",
    ),
    ("slices/beta.toml", "events_per_second = 100\n"),
];

/// The other machine: before the node, so that it knows the addresses.
pub struct Ground<'n> {
    node: &'n Node,
    beyond: Beyond<'n>,
}

/// The node and all that goes on.
pub struct Siege<'g> {
    pub site: Site<'g>,
    pub beyond: &'g Beyond<'g>,
    hammers: Vec<Running>,
    workers: Vec<(&'static str, Running)>,
    before: Counters,
}

impl<'n> Ground<'n> {
    /// Prepares the other machine.
    ///
    /// # Errors
    /// The kernel lacks something.
    pub fn new(node: &'n Node) -> Result<Ground<'n>> {
        Ok(Ground {
            node,
            beyond: Beyond::open(node)?,
        })
    }

    /// The other machine.
    pub fn beyond(&self) -> &Beyond<'n> {
        &self.beyond
    }

    /// Brings the node up and begins.
    ///
    /// # Errors
    /// A program does not start.
    pub fn siege(&'n self) -> Result<Siege<'n>> {
        self.siege_of(Site::up(self.node, POLICY)?)
    }

    /// Begins at a node that is up, with a policy as [`POLICY`].
    ///
    /// # Errors
    /// A program does not start.
    pub fn siege_of(&'n self, site: Site<'n>) -> Result<Siege<'n>> {
        let page = self.node.dir().join("page");
        std::fs::create_dir_all(&page)?;
        std::fs::write(page.join("index.html"), "alpha's page")?;
        let page = page.to_str().context("a path in UTF-8")?;
        let web = site.in_slice("alpha", &["python3", "-m", "http.server", "80", "-d", page]);
        let sink = site.in_slice("alpha", &["iperf3", "-s"]);
        let mut workers = vec![
            ("web", site.start("web.log", web)?),
            ("sink", site.start("sink.log", sink)?),
        ];
        until("alpha's servers listen", || {
            let listening = self.node.must("ss", &["-Hltn"])?.stdout;
            Ok([":80 ", ":5201 "]
                .iter()
                .all(|port| listening.contains(port)))
        })?;
        // A long stream at a modest rate: its end would be noticed.
        let stream = ["iperf3", "-c", NODE[0], "-t", "3600", "-b", "5M", "-i", "0"];
        workers.push((
            "stream",
            site.start("stream.log", self.beyond.command(&stream))?,
        ));
        let program = std::env::current_exe()?;
        let program = program.to_str().context("a path in UTF-8")?;
        let hammers = vec![site.start("hammer.log", site.in_slice("beta", &[program, "hammer"]))?];
        until("the hammers work", || {
            Ok(hammers.iter().all(|h| h.output().contains("hammering")))
        })?;
        let before = site.counters()?;
        Ok(Siege {
            site,
            beyond: &self.beyond,
            hammers,
            workers,
            before,
        })
    }
}

impl Siege<'_> {
    /// Lets it go on for so long, fetching pages meanwhile; no counter may go
    /// back.
    ///
    /// # Errors
    /// A page does not come, or a counter went back.
    pub fn endure(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            self.look()?;
            let page = self.beyond.fetch(&format!("http://{}/", NODE[0]))?;
            ensure!(page == "alpha's page", "the page was {page:?}");
            if Instant::now() > until {
                return Ok(());
            }
        }
    }

    /// Compares all counters with those of the last look.
    ///
    /// # Errors
    /// One went back.
    pub fn look(&mut self) -> Result<()> {
        let now = self.site.counters()?;
        let back = now.since(&self.before).back();
        ensure!(back.is_empty(), "counters went back: {back:?}");
        self.before = now;
        Ok(())
    }

    /// What the last look saw.
    pub fn counters(&self) -> &Counters {
        &self.before
    }

    /// Whether everything runs that was started.
    ///
    /// # Errors
    /// Something has ended.
    pub fn all_alive(&mut self) -> Result<()> {
        let hammers = self.hammers.iter_mut().map(|hammer| ("hammer", hammer));
        for (name, worker) in self
            .workers
            .iter_mut()
            .map(|(name, w)| (*name, w))
            .chain(hammers)
        {
            if let Some(status) = worker.ended()? {
                bail!("{name} ended with {status}: {}", worker.output());
            }
        }
        Ok(())
    }

    /// Ends it: how often the hammers tried.
    ///
    /// # Errors
    /// Something got through, or ended early, or the hammers did nothing.
    pub fn lift(mut self) -> Result<u64> {
        self.look()?;
        self.all_alive()?;
        let mut tries = 0;
        for hammer in self.hammers.drain(..) {
            let output = hammer.finish()?;
            let line = output.lines().last().unwrap_or_default();
            let tally: Tally =
                serde_json::from_str(line).with_context(|| format!("read {output}"))?;
            ensure!(
                tally.broken == 0,
                "{} of {} attempts went wrong, first: {}",
                tally.broken,
                tally.tries,
                tally.first.unwrap_or_default()
            );
            ensure!(
                tally.tries > 100,
                "a hammer tried only {} times",
                tally.tries
            );
            tries += tally.tries;
        }
        let forbidden = self.beyond.forbidden()?;
        ensure!(
            forbidden == 0,
            "{forbidden} forbidden packets reached the other machine"
        );
        // The watch would have seen them: it sees what is allowed.
        ensure!(
            self.beyond.arrived()? > 100,
            "the other machine saw nothing at all"
        );
        // And it knows a forbidden packet: the node itself may send one.
        let socket = std::net::UdpSocket::bind("[::1]:0")?;
        socket.connect((PEER[1], 9))?;
        socket.send(b"x")?;
        until("the watch counts", || Ok(self.beyond.forbidden()? == 1))?;
        Ok(tries)
    }
}
