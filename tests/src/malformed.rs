//! Malformed policies: the owner is told what, where and what to do, word for
//! word, and nothing changes.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use crate::inventory::Inventory;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Site, until};

pub const TESTS: &[Test] = &[test(
    "ten_malformed_policies_give_ten_clear_errors_and_change_nothing",
    ten_malformed_policies_give_ten_clear_errors_and_change_nothing,
)
.once()
.within(90)];

const POLICY: &[(&str, &str)] = &[
    ("node.toml", "[node]\nmax_slices = 6\n"),
    ("slices/alpha.toml", "ports.tcp = [80]\n"),
    ("slices/beta.toml", "ports.tcp = [\"8000-8010\"]\n"),
];

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
