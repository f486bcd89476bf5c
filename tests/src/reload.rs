//! A change of policy is applied as a whole or not at all.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::inventory::Inventory;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Site, until};

pub const TESTS: &[Test] = &[
    test(
        "a_reload_applies_what_changed_and_nothing_else",
        a_reload_applies_what_changed_and_nothing_else,
    ),
    test(
        "a_reload_that_fails_half_way_leaves_the_former_policy_in_force",
        a_reload_that_fails_half_way_leaves_the_former_policy_in_force,
    ),
    test(
        "a_removed_slice_ends_and_its_ports_are_free",
        a_removed_slice_ends_and_its_ports_are_free,
    ),
    test(
        "a_slice_that_comes_again_is_another",
        a_slice_that_comes_again_is_another,
    ),
    test(
        "what_cannot_change_while_the_node_is_up_is_refused",
        what_cannot_change_while_the_node_is_up_is_refused,
    ),
    test(
        "ten_malformed_policies_give_ten_clear_errors_and_change_nothing",
        ten_malformed_policies_give_ten_clear_errors_and_change_nothing,
    )
    .within(90),
    test(
        "as_many_refused_prefixes_as_fit_and_not_one_more",
        as_many_refused_prefixes_as_fit_and_not_one_more,
    )
    .within(90)
    .long(),
];

const POLICY: &[(&str, &str)] = &[
    ("node.toml", "[node]\nmax_slices = 6\n"),
    ("slices/alpha.toml", "ports.tcp = [80]\n"),
    ("slices/beta.toml", "ports.tcp = [\"8000-8010\"]\n"),
];

/// Tries to bind a TCP port in a slice: the error, or nothing.
fn bind(site: &Site<'_>, slice: &str, port: u16) -> Result<String> {
    let program = format!("import socket; s = socket.socket(); s.bind(('', {port}))");
    let output = site.run_in(slice, &["python3", "-c", &program])?;
    Ok(output.stderr.lines().last().unwrap_or_default().to_owned())
}

const IN_USE: &str = "OSError: [Errno 98] Address already in use";
const DENIED: &str = "PermissionError: [Errno 13] Permission denied";

fn a_reload_applies_what_changed_and_nothing_else(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let server = site.start(
        "server",
        site.in_slice("alpha", &["python3", "-m", "http.server", "80"]),
    )?;
    until("alpha serves", || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":80 "))
    })?;
    ensure!(bind(&site, "beta", 80)? == IN_USE, "beta got port 80");
    ensure!(bind(&site, "beta", 443)? == DENIED, "beta got port 443");
    let before = site.counters()?;

    site.write("slices/beta.toml", "ports.tcp = [443]\nprocesses = 77\n")?;
    site.write("slices/gamma.toml", "ports.tcp = [8005]\n")?;
    let did = site.json(&["reload"])?;
    ensure!(
        did["added"] == json!(["gamma"]) && did["removed"] == json!([]),
        "it says {did}"
    );
    ensure!(did["changed"] == json!(["beta"]), "it says {did}");
    for (slice, port, error) in [
        ("beta", 443, ""),
        ("beta", 8005, IN_USE),
        ("gamma", 8005, ""),
        ("beta", 8001, ""),
        ("alpha", 443, IN_USE),
    ] {
        let got = bind(&site, slice, port)?;
        ensure!(
            got == error,
            "{slice} and port {port}: {got:?}, not {error:?}"
        );
    }
    let pids = fs::read_to_string("/sys/fs/cgroup/slice-node.service/slices/beta/pids.max")?;
    ensure!(pids.trim() == "77", "beta may have {pids} processes");
    node.must("curl", &["-sS", "--max-time", "20", "http://10.0.2.15/"])?;
    let moved = site.counters()?.since(&before);
    ensure!(
        moved.back().is_empty(),
        "counters went back: {:?}",
        moved.back()
    );

    let did = site.must(&["reload"])?;
    ensure!(did.trim() == "nothing changed", "the same again: {did}");
    server.kill()
}

fn a_reload_that_fails_half_way_leaves_the_former_policy_in_force(node: &mut Node) -> Result<()> {
    const LIMIT: &str = "/sys/fs/cgroup/slice-node.service/slices/cgroup.max.descendants";
    let site = Site::up(node, POLICY)?;
    let before = site.standing()?;
    // The kernel makes the cgroups of one new slice, and no others.
    let slices = 2 * 4;
    fs::write(LIMIT, (slices + 5).to_string())?;
    site.write("slices/alpha.toml", "ports.tcp = [81]\nprocesses = 33\n")?;
    for name in ["gamma", "delta"] {
        site.write(&format!("slices/{name}.toml"), "")?;
    }
    site.write("slices/epsilon.toml", "ports.tcp = [50123]\n")?;
    let output = site.slice(&["reload"])?;
    ensure!(
        output.status == 1,
        "it ended with {}: {}",
        output.status,
        output.stderr
    );
    for words in ["the former policy is in force", "make cgroup"] {
        ensure!(
            output.stderr.contains(words),
            "it does not say {words:?}: {}",
            output.stderr
        );
    }
    ensure!(
        site.standing()? == before,
        "{before} became {}",
        site.standing()?
    );
    for name in ["gamma", "delta", "epsilon"] {
        let cgroup = format!("/sys/fs/cgroup/slice-node.service/slices/{name}");
        ensure!(!fs::exists(&cgroup)?, "{cgroup} is there");
        ensure!(site.run_in(name, &["true"])?.status == 2, "{name} runs");
    }
    ensure!(
        bind(&site, "alpha", 80)?.is_empty(),
        "alpha has lost port 80"
    );
    ensure!(bind(&site, "alpha", 81)? == DENIED, "alpha has port 81");
    // Once the obstacle is gone it goes through.
    fs::write(LIMIT, "max")?;
    site.must(&["reload"])?;
    ensure!(bind(&site, "alpha", 81)?.is_empty(), "alpha has no port 81");
    ensure!(
        site.run_in("epsilon", &["true"])?.status == 0,
        "epsilon does not run"
    );
    Ok(())
}

fn a_removed_slice_ends_and_its_ports_are_free(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let mut server = site.start(
        "server",
        site.in_slice("beta", &["python3", "-m", "http.server", "8000"]),
    )?;
    until("beta serves", || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":8000 "))
    })?;
    ensure!(
        bind(&site, "alpha", 8000)? == IN_USE,
        "alpha got beta's port"
    );
    let mut kept = site.start("kept", site.in_slice("alpha", &["sleep", "1000"]))?;
    site.remove("slices/beta.toml")?;
    ensure!(
        site.must(&["reload"])?.contains("removed: beta"),
        "it says something else"
    );
    until("beta's server ends", || Ok(server.ended()?.is_some()))?;
    ensure!(
        bind(&site, "alpha", 8000)?.is_empty(),
        "the port is not free"
    );
    ensure!(kept.ended()?.is_none(), "alpha's process ended");
    ensure!(
        !fs::exists("/sys/fs/cgroup/slice-node.service/slices/beta")?,
        "beta's cgroup is there"
    );
    let status = site.slice(&["status", "beta"])?;
    ensure!(
        status.status == 2,
        "status of beta ended with {}",
        status.status
    );
    Ok(())
}

fn a_slice_that_comes_again_is_another(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    ensure!(bind(&site, "beta", 80)? == IN_USE, "beta got port 80");
    let id = |site: &Site<'_>| -> Result<u64> {
        Ok(site.json(&["status", "beta"])?["rows"][0]["id"]
            .as_u64()
            .unwrap_or_default())
    };
    let first = id(&site)?;
    site.remove("slices/beta.toml")?;
    site.must(&["reload"])?;
    site.write("slices/beta.toml", "")?;
    site.must(&["reload"])?;
    let second = id(&site)?;
    ensure!(first != second, "both have the id {first}");
    ensure!(
        site.counters()?.get("beta", "denials.port_reserved")? == 0,
        "it has the counters of its forerunner"
    );
    site.must(&["down"])?;
    site.must(&["up"])?;
    ensure!(
        site.run_in("beta", &["true"])?.status == 0,
        "beta does not run"
    );
    Ok(())
}

fn what_cannot_change_while_the_node_is_up_is_refused(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let before = site.standing()?;
    for (text, words) in [
        (
            "[node]\nmax_slices = 7\n",
            "change max_slices in node.toml: it cannot change while the node is up",
        ),
        (
            "[node]\nmax_slices = 6\nuid_base = 1900000000\n",
            "change uid_base or uids_per_slice in node.toml",
        ),
    ] {
        site.write("node.toml", text)?;
        let output = site.slice(&["reload"])?;
        ensure!(
            output.status == 3,
            "it ended with {}: {}",
            output.status,
            output.stderr
        );
        ensure!(output.stderr.contains(words), "it says {}", output.stderr);
        ensure!(
            output.stderr.contains("slice down, slice up"),
            "it does not say what to do: {}",
            output.stderr
        );
        ensure!(site.standing()? == before, "something changed");
    }
    Ok(())
}

/// A file of the policy, what is wrong in it, and what the owner reads.
const MALFORMED: &[(&str, &str, &str)] = &[
    (
        "node.toml",
        "[node]\nmax_slices = 6\nlingr = \"60 s\"\n",
        "\
error: unknown key `lingr` in [node]
  --> POLICY/node.toml:3:1
  |
3 | lingr = \"60 s\"
  | ^^^^^
  help: did you mean `linger`?
",
    ),
    (
        "slices/alpha.toml",
        "[memory]\ncap = \"512\"\n",
        "\
error: `cap`: \"512\" has no unit
  --> POLICY/slices/alpha.toml:2:8
  |
2 | cap = \"512\"
  |        ^^^
  help: write for example \"512 MiB\"; units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB
",
    ),
    (
        "slices/alpha.toml",
        "processes = \"many\"\n",
        "\
error: `processes` takes a whole number from 1 to 4194304, and this is text
  --> POLICY/slices/alpha.toml:1:13
  |
1 | processes = \"many\"
  |             ^^^^^^
  help: write for example `processes = 512`
",
    ),
    (
        "slices/alpha.toml",
        "ports.tcp = [80, 70000]\n",
        "\
error: 70000 in `tcp` is out of range: ports are 1 to 65535
  --> POLICY/slices/alpha.toml:1:18
  |
1 | ports.tcp = [80, 70000]
  |                  ^^^^^
  help: write a port from 1 to 65535
",
    ),
    (
        "node.toml",
        "[node]\nmax_slices = 6\n[[refuse]]\nto = [\"10.1.0.0/8\"]\n",
        "\
error: \"10.1.0.0/8\" has bits beyond /8
  --> POLICY/node.toml:4:7
  |
4 | to = [\"10.1.0.0/8\"]
  |       ^^^^^^^^^^^^
  help: write \"10.0.0.0/8\", or a longer length
",
    ),
    (
        "slices/alpha.toml",
        "[cpu]\nfloor = 1\ncap = \"50 %\"\n",
        "\
error: the cap of [cpu] (0.5 cores) is below its floor (1 core)
  --> POLICY/slices/alpha.toml:3:7
  |
3 | cap = \"50 %\"
  |       ^^^^^^
  --> POLICY/slices/alpha.toml:2:9
  |
2 | floor = 1
  |         ^ the floor
  help: raise the cap, or lower the floor
",
    ),
    (
        "slices/alpha.toml",
        "name = \"gamma\"\n",
        "\
error: the slice is named \"gamma\" in a file named \"alpha.toml\"
  --> POLICY/slices/alpha.toml:1:8
  |
1 | name = \"gamma\"
  |        ^^^^^^^
  help: rename the file to gamma.toml, or write `name = \"alpha\"`
",
    ),
    (
        "slices/alpha.toml",
        "[ports\ntcp = [80]\n",
        "\
error: the table header has no closing bracket
  --> POLICY/slices/alpha.toml:1:7
  |
1 | [ports
  |       ^
  help: write `[NAME]`, or `[[NAME]]` for a list of tables
",
    ),
    (
        "slices/alpha.toml",
        "ports.tcp = [\"7990-8000\"]\n",
        "\
error: TCP port 8000 is reserved for slice alpha and for slice beta
  --> POLICY/slices/beta.toml:1:14
  |
1 | ports.tcp = [\"8000-8010\"]
  |              ^^^^^^^^^^^
  --> POLICY/slices/alpha.toml:1:14
  |
1 | ports.tcp = [\"7990-8000\"]
  |              ^^^^^^^^^^^ for slice alpha
  help: a port has one owner: remove it from one of the two
",
    ),
    (
        "slices/alpha.toml",
        "[cpu]\nfloor = 100\n",
        "\
error: the CPU floors do not fit: one slice needs 100 cores, the node gives 2 cores, 98 cores too much
  --> POLICY/slices/alpha.toml:2:9
  |
2 | floor = 100
  |         ^^^
  help: lower floors by 98 cores in all, or raise `cpu` in [node.give]
",
    ),
    (
        "slices/root.toml",
        "",
        "\
error: the node already has an account or group named \"root\"
  --> POLICY/slices/root.toml:1:1
  |
1 |
  | ^
  help: choose another name: a slice must not be mistaken for an account of the node
",
    ),
];

fn ten_malformed_policies_give_ten_clear_errors_and_change_nothing(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let server = site.start(
        "server",
        site.in_slice("alpha", &["python3", "-m", "http.server", "80"]),
    )?;
    until("alpha serves", || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":80 "))
    })?;
    let before = site.standing()?;
    let mut wrong = with_each_malformed(&site, &["check", "reload"], || {
        ensure!(site.standing()? == before, "the running node changed");
        Ok(())
    })?;
    // Files that somebody else could have written.
    let alpha = site.policy().join("slices/alpha.toml");
    let alpha = alpha.to_str().unwrap_or_default();
    for (set, back, words) in [
        (
            &["chmod", "666", alpha][..],
            &["chmod", "644", alpha][..],
            "may be written by others (mode 0666)",
        ),
        (
            &["chown", "nobody", alpha],
            &["chown", "root", alpha],
            "belongs to",
        ),
    ] {
        node.must(set[0], &set[1..])?;
        let output = site.slice(&["reload"])?;
        node.must(back[0], &back[1..])?;
        if output.status != 3 || !output.stderr.contains(words) || !output.stderr.contains(alpha) {
            write!(wrong, "\n{set:?}: {}: {}", output.status, output.stderr)?;
        }
    }
    ensure!(site.standing()? == before, "something changed");
    let said = site.must(&["reload"])?;
    ensure!(said.trim() == "nothing changed", "something had: {said}");
    node.must("curl", &["-sS", "--max-time", "20", "http://10.0.2.15/"])?;
    server.kill()?;

    // A node that is down stays as it is, too.
    site.must(&["down"])?;
    let before = Inventory::take(node)?;
    wrong += &with_each_malformed(&site, &["up"], || Ok(()))?;
    ensure!(wrong.is_empty(), "{wrong}");
    before.again(node)
}

/// Runs commands with each of the malformed policies, and looks after each;
/// those that were not refused in the right words.
fn with_each_malformed(
    site: &Site<'_>,
    commands: &[&str],
    look: impl Fn() -> Result<()>,
) -> Result<String> {
    let policy = site.policy().display().to_string();
    let mut wrong = String::new();
    for (name, text, said) in MALFORMED {
        site.write(name, text)?;
        let expected = said.replace("POLICY", &policy);
        let expected = format!("{expected}\n1 error in the policy; nothing was changed\n");
        for command in commands {
            let output = site.slice(&[command])?;
            if output.status != 3 || output.stderr != expected || !output.stdout.is_empty() {
                write!(
                    wrong,
                    "\n{command} with {name} {text:?} ended with {}: {}{}",
                    output.status, output.stderr, output.stdout
                )?;
            }
        }
        match POLICY.iter().find(|(original, _)| original == name) {
            Some((_, text)) => site.write(name, text)?,
            None => site.remove(name)?,
        }
        look().with_context(|| format!("{name} {text:?}"))?;
    }
    Ok(wrong)
}

/// Half the entries of the kernel's table of refused prefixes.
const HALF: u32 = 32_768;

fn as_many_refused_prefixes_as_fit_and_not_one_more(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    // Two files: one has at most a MiB. Of each two addresses one, so that
    // none lies in another.
    let refuse = |network: u32, count: u32| {
        let mut text = "[[refuse]]\nto = [".to_owned();
        for number in 0..count {
            let _ = writeln!(
                text,
                "\"{}\",",
                Ipv4Addr::from((network << 24) + 2 * number)
            );
        }
        text + "]\n"
    };
    let before = site.standing()?;
    site.write(
        "node.toml",
        &("[node]\nmax_slices = 6\n".to_owned() + &refuse(100, HALF)),
    )?;
    site.write("slices/alpha.toml", &refuse(101, HALF + 1))?;
    let output = site.slice(&["reload"])?;
    ensure!(
        output.status == 3,
        "one too many ended with {}: {}",
        output.status,
        output.stderr
    );
    let words = "make 65537 entries, 1 more than the node holds";
    ensure!(output.stderr.contains(words), "it says {}", output.stderr);
    ensure!(site.standing()? == before, "something changed");
    site.write("slices/alpha.toml", &refuse(101, HALF))?;
    site.must(&["reload"])?;
    let connect = |address: &str| -> Result<String> {
        let program = format!(
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('{address}', 9))"
        );
        let output = site.run_in("alpha", &["python3", "-c", &program])?;
        Ok(output.stderr.lines().last().unwrap_or_default().to_owned())
    };
    for (address, error) in [
        ("100.0.0.0", DENIED),
        ("100.0.255.254", DENIED),
        ("101.0.255.254", DENIED),
        ("100.0.0.1", ""),
        ("101.1.0.0", ""),
    ] {
        let got = connect(address)?;
        ensure!(got == error, "{address}: {got:?}, not {error:?}");
    }
    site.write("node.toml", "[node]\nmax_slices = 6\n")?;
    site.must(&["reload"])?;
    ensure!(
        connect("100.0.0.0")?.is_empty(),
        "it is still refused by the node"
    );
    ensure!(
        connect("101.0.0.0")? == DENIED,
        "it is no longer refused by the slice"
    );
    Ok(())
}
