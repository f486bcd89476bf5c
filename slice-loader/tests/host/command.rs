use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn slice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slice"))
        .args(arguments)
        .env_remove("SLICE_POLICY")
        .env_remove("CLICOLOR_FORCE")
        .output()
        .unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory of a test's own, removed first.
fn directory(test: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_was_meant() {
    let output = slice(&["stauts"]);
    assert_eq!(code(&output), Some(2));
    assert!(words(&output.stderr).contains("status"), "{output:?}");
    assert_eq!(code(&slice(&["ports", "--protocol", "sctp"])), Some(2));
    assert_eq!(code(&slice(&["events", "--reason", "none_such"])), Some(2));
    assert_eq!(code(&slice(&["status", "-q", "-v"])), Some(2));
}

#[test]
fn help_has_every_exit_code() {
    let help = words(&slice(&["--help"]).stdout);
    for exit in slice_loader::cli::exit::Exit::ALL {
        assert!(
            help.contains(exit.meaning()),
            "{exit:?} is missing in {help}"
        );
    }
}

#[test]
fn the_manual_documents_every_command_flag_and_exit_code() {
    let manual = include_str!("../../../docs/cli.md");
    for exit in slice_loader::cli::exit::Exit::ALL {
        let row = format!(
            "| {} | `{}` | {} |",
            *exit as u8,
            exit.slug(),
            exit.meaning()
        );
        assert!(manual.contains(&row), "docs/cli.md lacks the row {row}");
    }
    let command = slice_loader::cli::command();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        documented(manual, "", sub);
    }
    for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
        assert!(
            manual.contains(&format!("`--{flag}")),
            "docs/cli.md lacks --{flag}"
        );
    }
}

/// A section for a command, and in the manual every flag of it; the same for
/// the commands below it.
fn documented(manual: &str, above: &str, command: &clap::Command) {
    let name = format!("{above}{}", command.get_name());
    assert!(
        manual.contains(&format!("### `slice {name}")),
        "docs/cli.md lacks a section for {name}"
    );
    for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
        assert!(
            manual.contains(&format!("`--{flag}")),
            "docs/cli.md lacks --{flag} of {name}"
        );
    }
    for below in command.get_subcommands() {
        documented(manual, &format!("{name} "), below);
    }
}

#[test]
fn the_definitions_are_consistent() {
    slice_loader::cli::command().debug_assert();
}

#[test]
fn a_page_is_written_for_every_command() {
    let directory = directory("man");
    let output = slice(&["man", directory.to_str().unwrap()]);
    assert_eq!(code(&output), Some(0), "{output:?}");
    for page in [
        "slice.1",
        "slice-check.1",
        "slice-status.1",
        "slice-events.1",
        "slice-daemon.1",
    ] {
        assert!(directory.join(page).is_file(), "no {page}");
    }
    assert!(!directory.join("slice-hold.1").exists());
}

#[test]
fn completions_know_the_reasons_and_survive_a_reader_that_leaves() {
    for shell in ["bash", "zsh", "fish"] {
        let output = slice(&["completions", shell]);
        assert_eq!(code(&output), Some(0));
        assert!(words(&output.stdout).contains("port_reserved"), "{shell}");
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_slice"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (code(&output), words(&output.stderr).as_str()),
        (Some(0), "")
    );
}

/// The policy is read from a directory of the test's owner, as `check` wants it.
fn policy(test: &str, slice: &str) -> PathBuf {
    let directory = directory(test);
    fs::create_dir(directory.join("slices")).unwrap();
    fs::write(directory.join("node.toml"), "[node]\nmax_slices = 16\n").unwrap();
    fs::write(directory.join("slices/web.toml"), slice).unwrap();
    directory
}

#[test]
fn check_tells_what_a_policy_would_give() {
    let directory = policy("check_good", "[ports]\ntcp = [80, \"8000-8010\"]\n");
    let output = slice(&["check", "--policy", directory.to_str().unwrap()]);
    assert_eq!(code(&output), Some(0), "{output:?}");
    let text = words(&output.stdout);
    assert!(text.starts_with("ok: the policy in "), "{text}");
    assert!(text.contains("tcp 80,8000-8010"), "{text}");
    assert!(!text.contains('\x1b'), "colour in a pipe: {text}");
    let output = slice(&[
        "check",
        "-o",
        "json",
        "--policy",
        directory.to_str().unwrap(),
    ]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["admission"]["slices"][0]["name"], "web");
    assert_eq!(
        json["admission"]["slices"][0]["ports"]["tcp"],
        "80,8000-8010"
    );
}

#[test]
fn check_tells_every_error_with_its_place_and_ends_with_3() {
    let directory = policy("check_bad", "bogus = 1\n[ports]\ntcp = [70000]\n");
    let output = slice(&["check", "--policy", directory.to_str().unwrap()]);
    assert_eq!(code(&output), Some(3), "{output:?}");
    let text = words(&output.stderr);
    assert!(text.contains("slices/web.toml:1:1"), "{text}");
    assert!(text.contains("slices/web.toml:3:"), "{text}");
    assert!(text.contains("2 errors in the policy"), "{text}");
    let output = slice(&[
        "check",
        "-o",
        "json",
        "--policy",
        directory.to_str().unwrap(),
    ]);
    assert_eq!(code(&output), Some(3));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["errors"].as_array().unwrap().len(), 2);
    assert_eq!(json["errors"][0]["line"], 1);
}

#[test]
fn without_a_daemon_events_says_so_and_ends_with_7() {
    if std::path::Path::new(slice_loader::daemon::SOCKET).exists() {
        // Somebody's node runs on this machine: its daemon answers.
        return;
    }
    let output = slice(&["events"]);
    assert_eq!(code(&output), Some(7), "{output:?}");
    assert!(
        words(&output.stderr).contains("help: start it: slice daemon"),
        "{output:?}"
    );
    let output = slice(&["events", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(json["error"]["name"], "no_daemon");
    assert_eq!(json["error"]["code"], 7);
}
