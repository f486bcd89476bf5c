//! The command line as scripts use it: exit codes, JSON, and the manual.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::Site;
use crate::terminal::on_terminal;

pub const TESTS: &[Test] = &[
    test(
        "doctor_finds_everything_on_a_supported_kernel",
        doctor_finds_everything_on_a_supported_kernel,
    ),
    test(
        "doctor_and_up_name_what_is_missing",
        doctor_and_up_name_what_is_missing,
    ),
    test(
        "check_needs_neither_root_nor_a_node",
        check_needs_neither_root_nor_a_node,
    )
    .once(),
    test(
        "every_way_to_end_has_its_exit_code",
        every_way_to_end_has_its_exit_code,
    )
    .once(),
    test(
        "every_answer_is_json_where_json_was_asked_for",
        every_answer_is_json_where_json_was_asked_for,
    )
    .once(),
    test(
        "top_shows_what_slices_use_now_and_leaves_the_terminal_as_it_was",
        top,
    )
    .once()
    .on_stage(),
    test(
        "there_are_completions_and_man_pages",
        there_are_completions_and_man_pages,
    )
    .once(),
];

const POLICY: &[(&str, &str)] = &[
    ("node.toml", "[node]\nmax_slices = 4\n"),
    ("slices/alpha.toml", "ports.tcp = [80]\n"),
    ("slices/beta.toml", ""),
];

fn doctor_finds_everything_on_a_supported_kernel(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let said = site.must(&["doctor"])?;
    ensure!(
        said.contains("everything that `slice up` needs is there"),
        "it says {said}"
    );
    let lines = site.json(&["doctor"])?;
    let lines = lines.as_array().context("doctor lists nothing")?;
    ensure!(lines.len() > 8, "it looks at {} things only", lines.len());
    for line in lines {
        ensure!(line["state"] == "present", "missing: {line}");
    }
    Ok(())
}

fn doctor_and_up_name_what_is_missing(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let policy = site.policy().to_str().context("a path in UTF-8")?;
    // Cgroups as a container sees them.
    let unshared = |argument: &str| {
        node.run(
            "unshare",
            &["--cgroup", "slice", "--policy", policy, argument],
        )
    };
    let doctor = unshared("doctor")?;
    ensure!(
        doctor.status == 5,
        "doctor ended with {}: {}",
        doctor.status,
        doctor.stdout
    );
    ensure!(
        doctor
            .stdout
            .contains("MISSING  the initial cgroup namespace"),
        "it says {}",
        doctor.stdout
    );
    let up = unshared("up")?;
    ensure!(up.status == 5, "up ended with {}: {}", up.status, up.stderr);
    for words in ["the initial cgroup namespace", "help:", "slice doctor"] {
        ensure!(
            up.stderr.contains(words),
            "up does not say {words:?}: {}",
            up.stderr
        );
    }
    ensure!(site.slice(&["status"])?.status == 4, "the node came up");
    Ok(())
}

/// Runs `slice` as a user without rights.
fn as_nobody(node: &Node, arguments: &[&str]) -> Result<crate::node::Output> {
    let user = [
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        "slice",
    ];
    node.run("setpriv", &[&user[..], arguments].concat())
}

fn check_needs_neither_root_nor_a_node(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let policy = site.policy().to_str().context("a path in UTF-8")?;
    for up in [false, true] {
        if up {
            site.must(&["up"])?;
        }
        let check = as_nobody(node, &["check", "--policy", policy])?;
        ensure!(
            check.status == 0,
            "check ended with {}: {}",
            check.status,
            check.stderr
        );
        for words in ["alpha", "beta", "80"] {
            ensure!(
                check.stdout.contains(words),
                "it does not say {words}: {}",
                check.stdout
            );
        }
    }
    Ok(())
}

fn every_way_to_end_has_its_exit_code(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let expect = |code: i32, arguments: &[&str]| -> Result<()> {
        let output = site.slice(arguments)?;
        let said = if output.stderr.is_empty() {
            output.stdout
        } else {
            output.stderr
        };
        ensure!(
            output.status == code,
            "{arguments:?} ended with {}, not {code}: {said}",
            output.status
        );
        // What went wrong, and what to do about it.
        ensure!(
            code == 0 || code == 2 || said.contains("help:"),
            "{arguments:?} says {said}"
        );
        Ok(())
    };
    for command in ["status", "ports", "reload"] {
        expect(4, &[command])?;
    }
    expect(125, &["run", "alpha", "--", "true"])?;
    expect(7, &["events"])?;
    expect(2, &["no-such-command"])?;
    expect(2, &["status", "--no-such-option"])?;
    expect(0, &["up"])?;
    expect(2, &["status", "no_such_slice"])?;
    expect(2, &["ports", "--slice", "no_such_slice"])?;
    expect(125, &["run", "no_such_slice", "--", "true"])?;
    expect(7, &["events"])?;
    site.write("slices/beta.toml", "wrong = 1\n")?;
    for command in ["check", "reload", "up"] {
        expect(3, &[command])?;
    }
    site.write("slices/beta.toml", "")?;
    for arguments in [&["up"][..], &["down"], &["reload"], &["status"], &["ports"]] {
        let policy = site.policy().to_str().context("a path in UTF-8")?;
        let output = as_nobody(node, &[&["--policy", policy], arguments].concat())?;
        ensure!(
            output.status == 6,
            "{arguments:?} as nobody ended with {}: {}",
            output.status,
            output.stderr
        );
        ensure!(output.stderr.contains("root"), "it says {}", output.stderr);
    }
    // A reader that goes away is no error.
    let pipe = node.run("bash", &["-c", "set -o pipefail; slice status | true"])?;
    ensure!(
        pipe.status == 0,
        "a closed pipe gives {}: {}",
        pipe.status,
        pipe.stderr
    );
    ensure!(pipe.stderr.is_empty(), "it says {}", pipe.stderr);
    Ok(())
}

fn every_answer_is_json_where_json_was_asked_for(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    ensure!(
        site.json(&["check"])?["admission"].is_object(),
        "check says something else"
    );
    ensure!(
        site.json(&["up"])?["did"] == "started",
        "up says something else"
    );
    let _daemon = site.daemon()?;
    let denied = site.run_in("beta", &["python3", "-m", "http.server", "80"])?;
    ensure!(denied.status == 1, "{}", denied.stderr);
    site.json(&["doctor"])?;
    site.json(&["reload"])?;
    let status = site.json(&["status"])?;
    for key in ["time", "node", "rows", "total"] {
        ensure!(!status[key].is_null(), "status has no {key}");
    }
    let ports = site.json(&["ports"])?["ports"].take();
    let port = ports
        .as_array()
        .into_iter()
        .flatten()
        .find(|port| port["low"] == 80);
    let port = port.context("port 80 is not listed")?;
    ensure!(
        port["owner"]["name"] == "alpha" && port["kind"] == "reserved" && port["protocol"] == "tcp",
        "it is {port}"
    );
    let mut seen = Vec::new();
    crate::site::until("the event comes", || {
        let lines = site.must(&["events", "-o", "json"])?;
        seen = lines
            .lines()
            .map(serde_json::from_str::<Value>)
            .collect::<Result<_, _>>()?;
        Ok(!seen.is_empty())
    })?;
    let event = &seen[0]["event"];
    for (key, value) in [
        ("reason", "port_reserved"),
        ("moment", "bind"),
        ("protocol", "tcp"),
        ("command", "python3"),
    ] {
        ensure!(event[key] == value, "{key} of {event} is not {value}");
    }
    ensure!(
        event["slice"]["name"] == "beta" && event["local"]["port"] == 80,
        "the event is {event}"
    );
    // Errors too, on the standard error.
    // `slice run` ends with 125 whatever failed, as env(1) does.
    for (arguments, name, status) in [
        (&["status", "nobody"][..], "usage", 2),
        (&["run", "nobody", "--", "true"], "usage", 125),
    ] {
        let output = site.slice(&[&["-o", "json"], arguments].concat())?;
        let error: Value =
            serde_json::from_str(&output.stderr).with_context(|| output.stderr.clone())?;
        ensure!(
            error["error"]["name"] == name && error["error"]["code"] == 2,
            "it says {error}"
        );
        ensure!(
            output.status == status,
            "{arguments:?} ended with {}",
            output.status
        );
    }
    site.write("slices/beta.toml", "wrong = 1\n")?;
    let output = site.slice(&["reload", "-o", "json"])?;
    let error: Value =
        serde_json::from_str(&output.stderr).with_context(|| output.stderr.clone())?;
    let place = &error["error"]["policy"][0];
    ensure!(
        place["line"] == 1 && place["column"] == 1 && place["text"] == "wrong = 1",
        "it says {error}"
    );
    ensure!(
        site.json(&["down"])?["was_up"] == true,
        "down says something else"
    );
    Ok(())
}

fn there_are_completions_and_man_pages(node: &mut Node) -> Result<()> {
    let commands = [
        "check", "doctor", "up", "reload", "down", "status", "ports", "events", "run", "daemon",
    ];
    for shell in ["bash", "zsh", "fish"] {
        let script = node.must("slice", &["completions", shell])?.stdout;
        for command in commands {
            ensure!(
                script.contains(command),
                "completions of {shell} lack {command}"
            );
        }
    }
    let script = node.dir().join("completions");
    fs::write(
        &script,
        node.must("slice", &["completions", "bash"])?.stdout,
    )?;
    node.must("bash", &["-n", script.to_str().context("a path in UTF-8")?])?;
    let pages = node.dir().join("man");
    node.must(
        "slice",
        &["man", pages.to_str().context("a path in UTF-8")?],
    )?;
    for page in std::iter::once("slice.1".to_owned())
        .chain(commands.map(|command| format!("slice-{command}.1")))
    {
        let text = fs::read_to_string(pages.join(&page)).with_context(|| format!("read {page}"))?;
        ensure!(
            text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"),
            "{page} is no man page"
        );
    }
    let hidden = fs::exists(pages.join("slice-hold.1"))?;
    ensure!(!hidden, "the hidden command has a page");
    Ok(())
}

fn top(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    // One that computes is first, and uses most of a processor.
    let busy = site.start(
        "busy",
        site.in_slice("alpha", &["sh", "-c", "while :; do :; done"]),
    )?;
    let rates = site.json(&["top", "--interval", "1", "-n", "1"])?;
    let first = &rates["rows"][0];
    ensure!(
        first["name"] == "alpha" && first["cpu_millicores"].as_u64() > Some(100),
        "first is {first}"
    );
    // A live view: drawn on the second page, ordered by a key, ended by another.
    let words = ["slice", "top", "--interval", "1"];
    let seen = on_terminal(node, &words, "LOOPBACK/S", "nq")?;
    let (entered, left) = ("\x1b[?1049h", "\x1b[?1049l");
    ensure!(
        seen.status == 0 && seen.stdout.starts_with(entered) && seen.stdout.contains("alpha"),
        "it ended with {}: {:?}",
        seen.status,
        seen.stdout
    );
    ensure!(seen.stdout.trim_end().ends_with(left), "{:?}", seen.stdout);
    let modes = ["sh", "-c", "slice top -n 1 --interval 1 >/dev/tty; stty -a"];
    let seen = on_terminal(node, &modes, "DENIED", "q")?;
    ensure!(
        seen.stdout.contains("isig icanon"),
        "the terminal is left {:?}",
        seen.stdout
    );
    busy.kill()
}
