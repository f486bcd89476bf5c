//! What the node is like: everything admission asks for.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use nix::unistd::{SysconfVar, sysconf};
use policy::admission::TakenUids;
use policy::config::PortRange;
use policy::config::units::Bytes;
use procfs::Current;

use crate::context::account;
use crate::sys::socket;

/// CPUs that are online.
///
/// # Errors
/// The system does not tell.
pub fn cpus() -> anyhow::Result<u32> {
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN).context("count the CPUs")?;
    u32::try_from(count.unwrap_or(1)).context("count the CPUs")
}

/// Memory of the node.
///
/// # Errors
/// /proc is not mounted.
pub fn memory() -> anyhow::Result<Bytes> {
    Ok(Bytes(
        procfs::Meminfo::current()
            .context("read /proc/meminfo")?
            .mem_total,
    ))
}

/// Size of a page.
#[must_use]
pub fn page_size() -> u64 {
    procfs::page_size()
}

/// How many process ids there are.
///
/// # Errors
/// /proc is not mounted.
pub fn pid_max() -> anyhow::Result<u32> {
    const PATH: &str = "/proc/sys/kernel/pid_max";
    let text = fs::read_to_string(PATH).with_context(|| format!("read {PATH}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("understand {PATH}"))
}

/// The ports the kernel picks from.
///
/// # Errors
/// /proc is not mounted.
pub fn ephemeral() -> anyhow::Result<PortRange> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(PATH).with_context(|| format!("read {PATH}"))?;
    let range = text.split_whitespace().collect::<Vec<_>>().join("-");
    PortRange::parse(&range).with_context(|| format!("understand {text:?} in {PATH}"))
}

/// The addresses of all devices.
///
/// # Errors
/// The kernel does not list them.
pub fn addresses() -> anyhow::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for device in nix::ifaddrs::getifaddrs().context("list the addresses of devices")? {
        let Some(address) = device.address else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            addresses.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push(IpAddr::V6(v6.ip()));
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Cookie of the network namespace we are in.
///
/// # Errors
/// The kernel has none.
pub fn netns() -> anyhow::Result<u64> {
    std::net::UdpSocket::bind("127.0.0.1:0")
        .and_then(socket::netns_cookie)
        .context("ask which network namespace this is")
}

/// User ids that somebody has: the accounts and the subordinate ids.
///
/// # Errors
/// getent cannot be run.
pub fn taken_uids() -> anyhow::Result<Vec<TakenUids>> {
    let mut taken = users(&getent("passwd", &[])?);
    for file in ["/etc/subuid", "/etc/subgid"] {
        taken.extend(subordinate(
            file,
            &fs::read_to_string(file).unwrap_or_default(),
        ));
    }
    Ok(taken)
}

/// Lines of passwd(5).
fn users(passwd: &str) -> Vec<TakenUids> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        Some(TakenUids {
            first: uid,
            last: uid,
            by: format!("user {name}"),
        })
    };
    passwd
        .lines()
        .filter(|line| !account::is_ours(line))
        .filter_map(user)
        .collect()
}

/// Lines of subuid(5): user:first:count.
fn subordinate(file: &str, text: &str) -> Vec<TakenUids> {
    let range = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let first: u32 = fields.next()?.trim().parse().ok()?;
        let count: u32 = fields.next()?.trim().parse().ok()?;
        let last = first.checked_add(count.checked_sub(1)?)?;
        Some(TakenUids {
            first,
            last,
            by: format!("{file}: {name}"),
        })
    };
    text.lines().filter_map(range).collect()
}

/// Most names asked for with one getent.
const NAMES_PER_QUESTION: usize = 1000;

/// Name services that list all they know: asking them by name, which may take
/// milliseconds a name, gives nothing more.
const LISTING: [&str; 4] = ["files", "systemd", "compat", "altfiles"];

/// Which of these names the account database knows, as users or groups.
///
/// # Errors
/// getent cannot be run.
pub fn known_of(names: &[String]) -> anyhow::Result<HashSet<String>> {
    let mut known = HashSet::new();
    for database in ["passwd", "group"] {
        for names in names.chunks(NAMES_PER_QUESTION) {
            let text = getent(database, names)?;
            let others = text.lines().filter(|line| !account::is_ours(line));
            known.extend(others.filter_map(|line| line.split(':').next().map(str::to_owned)));
        }
    }
    Ok(known)
}

/// Which names of the slices in this policy directory the account database
/// knows, as users or groups.
///
/// # Errors
/// getent cannot be run. A directory that cannot be read has no names: reading
/// the policy says why.
pub fn known_names(policy: &Path) -> anyhow::Result<HashSet<String>> {
    let mut known = HashSet::new();
    let switch = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    for database in ["passwd", "group"] {
        let mut ask = |names: &[String]| -> anyhow::Result<()> {
            let text = getent(database, names)?;
            let first = |line: &str| line.split(':').next().map(str::to_owned);
            known.extend(
                text.lines()
                    .filter(|line| !account::is_ours(line))
                    .filter_map(first),
            );
            Ok(())
        };
        ask(&[])?;
        if !lists_all(&switch, database) {
            for names in slice_names(policy).chunks(NAMES_PER_QUESTION) {
                ask(names)?;
            }
        }
    }
    Ok(known)
}

/// Whether all services of a database in nsswitch.conf(5) list what they know;
/// a directory service often does not.
fn lists_all(switch: &str, database: &str) -> bool {
    let services = switch.lines().find_map(|line| {
        line.trim()
            .strip_prefix(database)?
            .trim_start()
            .strip_prefix(':')
    });
    // Without a line the C library asks files.
    let services = services.unwrap_or("files").split('#').next().unwrap_or("");
    // What stands in brackets is an action, as [NOTFOUND=return].
    services
        .split_whitespace()
        .filter(|word| !word.starts_with('['))
        .all(|service| LISTING.contains(&service))
}

/// The names of the slices' files. Only what may be a name: nothing that getent
/// takes for an option.
fn slice_names(policy: &Path) -> Vec<String> {
    let files = fs::read_dir(policy.join("slices"))
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned()))
        .filter(|name| policy::config::SliceName::new(name).is_ok())
        .collect()
}

/// getent(1) rather than the C library: a statically linked one cannot load
/// the name services that the node is configured for.
fn getent(database: &str, names: &[String]) -> anyhow::Result<String> {
    let output = Command::new("getent")
        .arg(database)
        .args(names)
        .output()
        .context("run getent")?;
    // 2: a name was not found; 3: the database cannot be listed.
    anyhow::ensure!(
        matches!(output.status.code(), Some(0 | 2 | 3)),
        "ask the account database: getent {database} failed ({})",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_and_subordinate_ids_are_taken() {
        let taken =
            users("root:x:0:0:root:/root:/bin/bash\nbroken\npostgres:x:113:120::/:/bin/sh\n");
        assert_eq!(taken.len(), 2);
        assert_eq!(
            (taken[1].first, taken[1].by.as_str()),
            (113, "user postgres")
        );
        let taken = subordinate("/etc/subuid", "alice:100000:65536\nbob:5:0\n");
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].first, taken[0].last), (100_000, 165_535));
    }

    #[test]
    fn only_services_that_list_all_need_not_be_asked_by_name() {
        let switch =
            "passwd:   files systemd\ngroup: files [SUCCESS=merge] sss # more\nshadow: files\n";
        assert!(lists_all(switch, "passwd"));
        assert!(!lists_all(switch, "group"));
        assert!(lists_all(switch, "hosts"));
        assert!(!lists_all("passwd: ldap", "passwd"));
    }

    #[test]
    fn the_account_database_knows_root() {
        assert!(
            getent("passwd", &["root".into(), "no_such_slice".into()])
                .unwrap()
                .starts_with("root:")
        );
        assert!(
            users(&getent("passwd", &[]).unwrap())
                .iter()
                .any(|user| user.first == 0)
        );
    }

    #[test]
    fn the_node_has_cpus_memory_addresses_and_a_namespace() {
        assert!(cpus().unwrap() > 0);
        assert!(memory().unwrap().0 > 1 << 20);
        assert!(pid_max().unwrap() > 1000);
        assert!(
            addresses()
                .unwrap()
                .iter()
                .any(|address| address.is_loopback())
        );
        assert_ne!(netns().unwrap(), 0);
        assert!(ephemeral().unwrap().high() > 1024);
    }
}
