//! Everything of the machine that a slice node may touch, listed line by line,
//! so that two lists tell what was left behind or taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

use crate::node::Node;
use crate::site::{setting, until};

/// One list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Lists the machine.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn take(node: &Node) -> Result<Inventory> {
        let mut lines = BTreeSet::new();
        tree("/sys/fs/cgroup", true, &mut lines)?;
        tree("/sys/fs/bpf", false, &mut lines)?;
        tree("/run", false, &mut lines)?;
        tree("/var/lib", false, &mut lines)?;
        tree("/etc", false, &mut lines)?;
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            lines.insert(format!(
                "mount {}",
                line.split(' ').nth(4).unwrap_or_default()
            ));
        }
        processes(&mut lines)?;
        // What systemd keeps of units, loaded or failed.
        let units = [
            "list-units",
            "--all",
            "--plain",
            "--no-legend",
            "--type=service,scope,slice",
        ];
        for line in node.must("systemctl", &units)?.stdout.lines() {
            lines.insert(format!(
                "unit {}",
                line.split_whitespace().next().unwrap_or_default()
            ));
        }
        bpf_objects(&mut lines)?;
        sysctls(Path::new("/proc/sys/net"), &mut lines)?;
        for command in [
            &["ip", "-o", "link"][..],
            &["ip", "-o", "addr"],
            &["ip", "rule"],
            &["ip", "route", "show", "table", "local"],
            &["ip", "-6", "route", "show", "table", "local"],
            &["tc", "qdisc"],
        ] {
            for line in node.must(command[0], &command[1..])?.stdout.lines() {
                let line = line.split(" valid_lft").next().unwrap_or(line);
                // An address is tentative for the first second after boot.
                let line = line.replace(" tentative", "");
                lines.insert(format!("{} {line}", command.join(" ")));
            }
        }
        for line in node.must("getent", &["passwd"])?.stdout.lines() {
            lines.insert(format!("account {line}"));
        }
        Ok(Inventory(lines))
    }

    /// Waits until the machine is as it was: the kernel frees programs and
    /// cgroups a moment after the last user.
    ///
    /// # Errors
    /// It does not become so: what is new and what is missing.
    pub fn again(&self, node: &Node) -> Result<()> {
        let mut last = Vec::new();
        let waited = until("the machine is as before", || {
            last = Inventory::take(node)?.differences(self);
            Ok(last.is_empty())
        });
        if waited.is_err() {
            bail!("not as before: {}", last.join("; "));
        }
        Ok(())
    }

    fn differences(&self, before: &Inventory) -> Vec<String> {
        let new = self
            .0
            .difference(&before.0)
            .map(|line| format!("new: {line}"));
        let gone = before
            .0
            .difference(&self.0)
            .map(|line| format!("gone: {line}"));
        new.chain(gone).collect()
    }
}

/// What `slice` is documented to keep beyond `down`: ids, which are never
/// reused.
const KEPT: &str = "/var/lib/slice";
/// What tests and the logs of the system write meanwhile.
const PASSED_OVER: &[&str] = &[
    "/run/slice-tests",
    "/run/log",
    "/run/systemd",
    "/run/udev",
    "/run/demo",
];

/// All files and directories below, or directories alone.
fn tree(path: &str, directories_only: bool, lines: &mut BTreeSet<String>) -> Result<()> {
    if path.starts_with(KEPT) || PASSED_OVER.iter().any(|passed| path.starts_with(passed)) {
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("read {path}"))? {
        let entry = entry?;
        // Gone since it was listed: then it is not there.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let path = entry.path();
        let path = path.to_string_lossy();
        if path != KEPT && (kind.is_dir() || !directories_only) {
            lines.insert(path.clone().into_owned());
        }
        if kind.is_dir() && !path.starts_with("/run/user") {
            tree(&path, directories_only, lines)?;
        }
    }
    Ok(())
}

/// Programs that run, but the kernel's threads and the tests themselves.
fn processes(lines: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(words) = fs::read(path.join("cmdline")) else {
            continue;
        };
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let named = path.file_name().is_some_and(|name| {
            name.to_string_lossy()
                .starts_with(|c: char| c.is_ascii_digit())
        });
        // Programs of systemd's come and go with its timers.
        if named
            && !words.is_empty()
            && !words.contains("slice-tests")
            && !words.contains("systemd")
        {
            lines.insert(format!("process {}", words.trim()));
        }
    }
    Ok(())
}

/// Programs, maps, and links by their programs. Asked of the kernel and not of
/// bpftool, which takes a second to say it.
fn bpf_objects(lines: &mut BTreeSet<String>) -> Result<()> {
    // Of systemd's own programs units come and go, and aya has a map by which it
    // asks what the kernel can; ours have our names.
    let mut add = |kind: &str, name: &str| {
        if !name.starts_with("sd_") && !name.starts_with("aya_") {
            lines.insert(format!("bpf {kind} {name}"));
        }
    };
    let mut programs = BTreeMap::new();
    for program in loaded_programs() {
        if let Some(program) = still_there(program)? {
            let name = program.name_as_str().unwrap_or_default().to_owned();
            add("prog", &name);
            programs.insert(program.id(), name);
        }
    }
    for map in loaded_maps() {
        if let Some(map) = still_there(map)? {
            add("map", map.name_as_str().unwrap_or_default());
        }
    }
    for link in loaded_links() {
        if let Some(link) = still_there(link)? {
            let name = programs.get(&link.program_id());
            add("link", name.map_or("of no program", String::as_str));
        }
    }
    Ok(())
}

/// What is gone since it was listed is not there.
fn still_there<T, E: Into<anyhow::Error>>(asked: Result<T, E>) -> Result<Option<T>> {
    let error = match asked {
        Ok(there) => return Ok(Some(there)),
        Err(error) => error.into(),
    };
    let gone = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::NotFound);
    if gone { Ok(None) } else { Err(error) }
}

/// Every network setting that can be read and stands still.
fn sysctls(path: &Path, lines: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sysctls(&entry.path(), lines)?;
        } else if entry.metadata()?.permissions().readonly() {
            // Not a setting but a count, of connections for one.
        } else if let Ok(text) = setting(&entry.path().to_string_lossy()) {
            lines.insert(format!("{} = {}", entry.path().display(), text.trim()));
        }
    }
    Ok(())
}
