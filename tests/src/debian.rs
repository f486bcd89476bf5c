//! A machine whose owner installs the package of this tree, and later builds of
//! it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::node::{Node, Output};
use crate::site::until;

/// The package of this tree.
pub const PACKAGE: &str = "/opt/slice/slice-node.deb";
/// The object inside its program.
const OBJECT: &str = "/opt/slice/slice-ebpf.o";
/// Its name.
pub const NAME: &str = "slice-node";
/// As in a siege, and the node keeps its ssh.
pub const POLICY: &[(&str, &str)] = &[
    (
        "node.toml",
        "[node]\nmax_slices = 16\n[node.reserved]\ntcp = [22]\n[[refuse]]\nto = [\"192.0.2.0/24\", \"2001:db8::/64\"]\nports = [7]\n",
    ),
    (
        "slices/alpha.toml",
        "ports.tcp = [80, 5201]\nports.udp = [53]\n",
    ),
    ("slices/beta.toml", "events_per_second = 100\n"),
];

/// A machine with the package, or on its way there; purged when this is
/// dropped.
pub struct Owner<'n> {
    node: &'n Node,
}

impl<'n> Owner<'n> {
    /// A machine without the package, and without the tests' own `slice`: what
    /// is called `slice` from here on is the package's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of(node: &'n Node) -> Result<Owner<'n>> {
        node.must("slice", &["down"])?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
        let ours = Some("none");
        mount(
            ours,
            "/usr/local/bin",
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )?;
        Ok(Owner { node })
    }

    /// The same, with the package installed and the policy written.
    ///
    /// # Errors
    /// dpkg fails.
    pub fn installed(node: &'n Node) -> Result<Owner<'n>> {
        let owner = Owner::of(node)?;
        owner.dpkg(&["--install", PACKAGE])?;
        owner.write_policy()?;
        Ok(owner)
    }

    /// Writes [`POLICY`] where the package looks for it.
    ///
    /// # Errors
    /// The package is not installed.
    pub fn write_policy(&self) -> Result<()> {
        for (name, text) in POLICY {
            fs::write(Path::new("/etc/slice").join(name), text)?;
        }
        Ok(())
    }

    /// Runs dpkg, which must succeed; all that it says.
    ///
    /// # Errors
    /// It fails.
    pub fn dpkg(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_dpkg(arguments)?;
        let said = output.stdout + &output.stderr;
        ensure!(
            output.status == 0,
            "dpkg {} ended with {}: {said}",
            arguments.join(" "),
            output.status
        );
        Ok(said)
    }

    /// Runs dpkg.
    ///
    /// # Errors
    /// It cannot be started; a status other than 0 is no error.
    pub fn try_dpkg(&self, arguments: &[&str]) -> Result<Output> {
        // The VM's root was made without what people read; owners' are not.
        let dpkg = [
            "DEBIAN_FRONTEND=noninteractive",
            "dpkg",
            "--path-include=/usr/share/*",
        ];
        self.node.run("env", &[&dpkg, arguments].concat())
    }

    /// What dpkg says of the package: its version and its state; nothing where
    /// it knows none.
    ///
    /// # Errors
    /// dpkg-query cannot be started.
    pub fn state(&self) -> Result<String> {
        let format = "--showformat=${Version} ${db:Status-Status}";
        let shown = self.node.run("dpkg-query", &["--show", format, NAME])?;
        Ok(shown.stdout)
    }

    /// Runs systemctl, which must succeed; what it says.
    ///
    /// # Errors
    /// It fails; the error has the units' status.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.node.run("systemctl", arguments)?;
        if output.status != 0 {
            let units = ["slice.service", "slice-daemon.service"];
            let status = self
                .node
                .run("systemctl", &[&["status"], &units[..]].concat())?;
            bail!(
                "systemctl {} ended with {}: {}{}",
                arguments.join(" "),
                output.status,
                output.stderr,
                status.stdout
            );
        }
        Ok(output.stdout.trim().to_owned())
    }

    /// A property of a unit.
    ///
    /// # Errors
    /// systemctl fails.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        self.systemctl(&["show", "--value", &format!("--property={name}"), unit])
    }

    /// Checks that a unit is in this state.
    ///
    /// # Errors
    /// It is not.
    pub fn is(&self, unit: &str, state: &str) -> Result<()> {
        let is = self.property(unit, "ActiveState")?;
        ensure!(is == state, "{unit} is {is}, not {state}");
        Ok(())
    }

    /// The daemon's process, once it answers.
    ///
    /// # Errors
    /// It does not; the error has the units' journal.
    pub fn daemon(&self) -> Result<String> {
        until("the daemon answers", || {
            Ok(self.node.run("slice", &["events"])?.status == 0)
        })
        .with_context(|| self.journal())?;
        self.property("slice-daemon.service", "MainPID")
    }

    /// What the units said.
    pub fn journal(&self) -> String {
        let words = [
            "--unit=slice",
            "--unit=slice-daemon",
            "--lines=30",
            "--output=cat",
        ];
        self.node
            .run("journalctl", &words)
            .map(|output| output.stdout)
            .unwrap_or_default()
    }
}

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        // A test that failed has said why.
        let _ = self.node.run("/usr/bin/slice", &["down"]);
        let _ = self.try_dpkg(&["--purge", "--force-all", NAME]);
    }
}

/// A later build of the package: a higher version, and other programs, which
/// do the same. `edit` may change more of the unpacked package.
///
/// # Errors
/// Those of `edit`; dpkg-deb fails.
pub fn later(node: &Node, name: &str, edit: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let directory = node.dir().join(name);
    let root = directory.to_str().context("a path in UTF-8")?;
    node.must("dpkg-deb", &["--raw-extract", PACKAGE, root])?;
    let control = directory.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let version = text
        .lines()
        .find(|line| line.starts_with("Version: "))
        .context("the package has no version")?;
    fs::write(&control, text.replace(version, &format!("{version}+later")))?;
    let program = directory.join("usr/bin/slice");
    let mut bytes = fs::read(&program)?;
    other_object(&mut bytes)?;
    fs::write(&program, bytes)?;
    let sum = node
        .must("md5sum", &[&format!("{root}/usr/bin/slice")])?
        .stdout;
    let sum = sum.split(' ').next().context("md5sum says nothing")?;
    let sums = directory.join("DEBIAN/md5sums");
    let text = fs::read_to_string(&sums)?;
    let lines = text.lines().map(|line| {
        if line.ends_with("  usr/bin/slice") {
            format!("{sum}  usr/bin/slice\n")
        } else {
            format!("{line}\n")
        }
    });
    fs::write(&sums, lines.collect::<String>())?;
    edit(&directory)?;
    let package = node.dir().join(format!("{name}.deb"));
    let to = package.to_str().context("a path in UTF-8")?;
    node.must(
        "dpkg-deb",
        &["--build", "--root-owner-group", "-Zgzip", "-z1", root, to],
    )?;
    fs::remove_dir_all(&directory)?;
    Ok(package)
}

/// Changes the eBPF object inside the program as another path of its sources
/// would: by the names of files in its debugging information. Its programs are
/// others to `slice up`, loaded and verified anew, and do what they did.
fn other_object(program: &mut [u8]) -> Result<()> {
    const SOURCES: &[u8] = b"slice-ebpf/src/";
    let object = fs::read(OBJECT)?;
    let start = program
        .windows(object.len())
        .position(|window| window == object)
        .context("the program has another object inside")?;
    let inside = &mut program[start..start + object.len()];
    let places: Vec<usize> = inside
        .windows(SOURCES.len())
        .enumerate()
        .filter_map(|(at, window)| (window == SOURCES).then_some(at))
        .collect();
    ensure!(!places.is_empty(), "the object names no source");
    for at in places {
        inside[at..at + SOURCES.len()].copy_from_slice(b"later-ebpf/src/");
    }
    Ok(())
}
