//! Logging in to slices by the distribution's sshd, with the distribution's
//! client.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::image;
use crate::node::{Node, Output};
use crate::runner::{Test, test};
use crate::site::{Running, SLICES, Site, until};
use crate::sshd;
use crate::terminal::on_terminal;

pub const TESTS: &[Test] = &[
    test(
        "a_login_runs_in_its_slice_and_ends_as_anywhere",
        a_login_runs_in_its_slice_and_ends_as_anywhere,
    )
    .per_root()
    .within(120),
    test(
        "who_has_no_key_of_a_slice_does_not_get_in",
        who_has_no_key_of_a_slice_does_not_get_in,
    )
    .per_root()
    .within(120),
    test(
        "files_are_copied_into_a_slice_and_out_of_it",
        files_are_copied_into_a_slice_and_out_of_it,
    )
    .per_root()
    .within(120),
    test(
        "what_a_login_forwards_is_its_slices",
        what_a_login_forwards_is_its_slices,
    )
    .within(120),
    test(
        "what_a_login_carries_is_counted_for_its_slice",
        what_a_login_carries_is_counted_for_its_slice,
    )
    .within(120),
    test(
        "nobody_logs_in_where_sessions_would_stay_on_the_node",
        nobody_logs_in_where_sessions_would_stay_on_the_node,
    )
    .once()
    .within(120),
];

/// Where the node's sshd listens.
const HERE: &str = "127.0.0.1";

/// A node set up for logins, with two slices and a key for each.
struct Logins<'n> {
    node: &'n Node,
    site: Site<'n>,
    _server: Running,
}

impl<'n> Logins<'n> {
    fn open(node: &'n Node) -> Result<Logins<'n>> {
        sshd::prepare()?;
        let key = |name: &str| sshd::key(&node.dir().join(name));
        let (alpha, beta, root, authority) =
            (key("alpha")?, key("beta")?, key("root")?, key("ca")?);
        key("host")?;
        key("guest")?;
        let login = |keys: &str, more: &str| {
            format!(
                "{more}[context]\nimage = \"debian\"\nstop_after = \"1 s\"\n[login]\nkeys = [\"{keys}\"]\nauthorities = [\"{authority}\"]\n"
            )
        };
        let alpha = login(&alpha, "ports.tcp = [8080]\n");
        let files = [
            ("node.toml", "[node]\nmax_slices = 6\nlinger = \"1 s\"\n"),
            ("slices/alpha.toml", &alpha),
            ("slices/beta.toml", &login(&beta, "ports.tcp = [8888]\n")),
        ];
        image::debian(node)?;
        let site = Site::up(node, &files)?;
        fs::write(node.dir().join("root.pub"), format!("{root}\n"))?;
        let server = site.start("sshd.log", server(node)?)?;
        until("sshd listens", || {
            Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":22 "))
        })?;
        Ok(Logins {
            node,
            site,
            _server: server,
        })
    }

    /// The words of a client that logs in with one of the keys.
    fn words(&self, program: &str, key: &str) -> Result<Vec<String>> {
        let mut words = vec![program.to_owned()];
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "IdentitiesOnly=yes",
        ] {
            words.extend(["-o".to_owned(), option.to_owned()]);
        }
        let key = self.node.dir().join(key);
        words.extend(["-i".to_owned(), key.to_str().context("UTF-8")?.to_owned()]);
        Ok(words)
    }

    /// Logs in with a key and runs a line, or more words of the client's.
    fn ssh(&self, key: &str, user: &str, rest: &[&str]) -> Result<Output> {
        let mut words = self.words("ssh", key)?;
        words.push(format!("{user}@{HERE}"));
        words.extend(rest.iter().map(|word| (*word).to_owned()));
        let (program, arguments) = words.split_first().context("no words")?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.node.run(program, &arguments)
    }

    /// The same, started; it ends when it is dropped.
    fn start(&self, name: &str, key: &str, user: &str, options: &[&str]) -> Result<Running> {
        let words = self.words("ssh", key)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(options);
        command.arg(format!("{user}@{HERE}"));
        self.site.start(name, command)
    }
}

/// sshd with the distribution's own settings, and root's key.
fn server(node: &Node) -> Result<Command> {
    let path = |name: &str| -> Result<String> {
        let path = node.dir().join(name);
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    };
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-D", "-e", "-h", &path("host")?]);
    // Newer ones lock out who was refused too often: here that is everybody.
    let penalties = "PerSourcePenalties=no";
    if node
        .run(
            "/usr/sbin/sshd",
            &["-t", "-h", &path("host")?, "-o", penalties],
        )?
        .status
        == 0
    {
        command.args(["-o", penalties]);
    }
    for option in [
        format!("AuthorizedKeysFile={}", path("root.pub")?),
        "StrictModes=no".to_owned(),
        "PidFile=none".to_owned(),
        "PermitRootLogin=yes".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    Ok(command)
}

fn a_login_runs_in_its_slice_and_ends_as_anywhere(node: &mut Node) -> Result<()> {
    let node = &*node;
    let logins = Logins::open(node)?;
    // A slice that has made all cgroups that it may does not keep logins out.
    let divide = "n=0; while mkdir /sys/fs/cgroup/own$n; do n=$((n+1)); done 2>/dev/null; echo $n";
    let made = node.must("slice", &["exec", "alpha", "--", "sh", "-c", divide])?;
    ensure!(made.stdout == "61\n", "it made {} cgroups", made.stdout);
    for (line, status, out) in [
        (
            "id -u; hostname; echo $HOME $USER",
            0,
            "0\nalpha\n/root root\n",
        ),
        ("exit 42", 42, ""),
        ("tty; cat /proc/self/cgroup", 0, "not a tty\n0::/\n"),
        ("echo $LC_TIME $TERM", 0, "\n"),
    ] {
        let output = logins.ssh("alpha", "alpha", &[line])?;
        ensure!(
            output.status == status && (out.is_empty() || output.stdout == out || out == "\n"),
            "{line:?} ended with {}: {:?} {}",
            output.status,
            output.stdout,
            output.stderr
        );
    }
    // ssh says 255 - or 128 + N, as the shell does - for a signal.
    let killed = logins.ssh("alpha", "alpha", &["kill -TERM $$"])?;
    ensure!(killed.status == 128 + 15, "killed: {}", killed.status);
    // Streams stay apart.
    let apart = logins.ssh("alpha", "alpha", &["echo out; echo err >&2"])?;
    ensure!(
        apart.stdout == "out\n" && apart.stderr == "err\n",
        "{:?} {:?}",
        apart.stdout,
        apart.stderr
    );
    // On a terminal: the slice's, with the client's size and environment.
    let mut words = vec!["env".to_owned(), "TERM=vt100".to_owned()];
    words.extend(logins.words("ssh", "beta")?);
    words.push(format!("beta@{HERE}"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let typed = "stty size; tty; echo $TERM; echo $0; sleep 30 & jobs; exit 7\n";
    let shell = on_terminal(node, &words, "# ", typed)?;
    ensure!(
        shell.status == 7,
        "the shell ended with {}: {}",
        shell.status,
        shell.stdout
    );
    for word in ["33 99", "/dev/pts/", "vt100", "-bash", "Running"] {
        ensure!(
            shell.stdout.contains(word),
            "no {word:?} in {}",
            shell.stdout
        );
    }
    // A stopped slice says so; a started one is there again.
    logins.site.must(&["stop", "alpha"])?;
    let stopped = logins.ssh("alpha", "alpha", &["true"])?;
    ensure!(stopped.status != 0, "a login to a stopped slice");
    logins.site.must(&["start", "alpha"])?;
    ensure!(
        logins.ssh("alpha", "alpha", &["true"])?.status == 0,
        "after the start"
    );
    // Root of the node logs in to the node.
    let root = logins.ssh("root", "root", &["hostname; cat /proc/self/cgroup"])?;
    ensure!(
        root.stdout.starts_with("node\n") && !root.stdout.contains("slice-node"),
        "root: {} {}",
        root.stdout,
        root.stderr
    );
    Ok(())
}

fn who_has_no_key_of_a_slice_does_not_get_in(node: &mut Node) -> Result<()> {
    let logins = Logins::open(node)?;
    for (key, user) in [
        ("alpha", "beta"),
        ("beta", "alpha"),
        ("root", "alpha"),
        ("alpha", "root"),
        ("guest", "alpha"),
    ] {
        let output = logins.ssh(key, user, &["true"])?;
        ensure!(
            output.status == 255 && output.stderr.contains("Permission denied"),
            "{key}'s key as {user}: {} {}",
            output.status,
            output.stderr
        );
    }
    // A certificate of the authority, for the slice it names and no other.
    let path = |name: &str| node_path(&logins, name);
    logins.node.must(
        "ssh-keygen",
        &[
            "-q",
            "-s",
            &path("ca")?,
            "-I",
            "guest",
            "-n",
            "alpha",
            &path("guest.pub")?,
        ],
    )?;
    let output = logins.ssh("guest", "alpha", &["hostname"])?;
    ensure!(
        output.stdout == "alpha\n",
        "by certificate: {}",
        output.stderr
    );
    let output = logins.ssh("guest", "beta", &["hostname"])?;
    ensure!(output.status == 255, "alpha's certificate in beta");
    // A key taken out of the policy is out at once.
    let policy = fs::read_to_string(logins.site.policy().join("slices/beta.toml"))?;
    let without = policy
        .lines()
        .filter(|line| !line.starts_with("keys"))
        .collect::<Vec<_>>()
        .join("\n");
    logins.site.write("slices/beta.toml", &without)?;
    logins.site.must(&["reload"])?;
    ensure!(
        logins.ssh("beta", "beta", &["true"])?.status == 255,
        "beta's old key"
    );
    // With the slice goes the account.
    logins.site.remove("slices/beta.toml")?;
    logins.site.must(&["reload"])?;
    ensure!(
        logins.node.run("getent", &["passwd", "beta"])?.status == 2,
        "beta's account is there"
    );
    logins.site.must(&["down"])?;
    ensure!(
        fs::read_dir("/run/userdb")?.count() == 0 && !fs::exists("/run/slice/logins")?,
        "accounts are left"
    );
    Ok(())
}

fn node_path(logins: &Logins<'_>, name: &str) -> Result<String> {
    let path = logins.node.dir().join(name);
    Ok(path.to_str().context("a path in UTF-8")?.to_owned())
}

fn files_are_copied_into_a_slice_and_out_of_it(node: &mut Node) -> Result<()> {
    let logins = Logins::open(node)?;
    let bytes: Vec<u8> = (0..300_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1])
        .collect();
    fs::write(logins.node.dir().join("sent"), &bytes)?;
    let sent = node_path(&logins, "sent")?;
    let copy = |program: &[&str], from: &str, to: &str| -> Result<()> {
        let mut words = logins.words(program[0], "alpha")?;
        words.extend(program[1..].iter().map(|word| (*word).to_owned()));
        words.extend([from.to_owned(), to.to_owned()]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        logins.node.must(words[0], &words[1..])?;
        Ok(())
    };
    for (number, program) in [&["scp", "-q"][..], &["scp", "-q", "-O"]]
        .iter()
        .enumerate()
    {
        let there = format!("alpha@{HERE}:/root/file{number}");
        let back = node_path(&logins, &format!("back{number}"))?;
        copy(program, &sent, &there)?;
        copy(program, &there, &back)?;
        ensure!(fs::read(&back)? == bytes, "{program:?} changed it");
        ensure!(
            !fs::exists(format!("/root/file{number}"))?,
            "{program:?} wrote on the node"
        );
    }
    let ssh = logins.words("ssh", "alpha")?.join(" ");
    let there = format!("alpha@{HERE}:/root/dir/");
    logins
        .node
        .must("rsync", &["-a", "-e", &ssh, &sent, &there])?;
    let batch = node_path(&logins, "batch")?;
    fs::write(&batch, "cd /root/dir\nls -l\nget sent got\n")?;
    let mut words = logins.words("sftp", "alpha")?;
    words.extend(["-b".to_owned(), batch, format!("alpha@{HERE}")]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    logins.node.must(words[0], &words[1..])?;
    ensure!(
        fs::read(logins.node.dir().join("got"))? == bytes,
        "sftp changed it"
    );
    let listed = logins
        .site
        .must(&["exec", "alpha", "--", "ls", "/root/dir"])?;
    ensure!(listed.trim() == "sent", "in the slice: {listed}");
    Ok(())
}

fn what_a_login_forwards_is_its_slices(node: &mut Node) -> Result<()> {
    let logins = Logins::open(node)?;
    // A port of its own, served by the client's side.
    let mut forward = logins.start(
        "forward.log",
        "alpha",
        "alpha",
        &["-N", "-R", "0.0.0.0:8080:127.0.0.1:22"],
    )?;
    until("the forwarded port is alpha's", || {
        ensure!(forward.ended()?.is_none(), "it ended: {}", forward.output());
        let ports = logins.site.must(&["ports", "--slice", "alpha"])?;
        Ok(ports
            .lines()
            .any(|line| line.contains("8080") && line.contains(" 1 ")))
    })?;
    // sshd's processes for it are in the slice.
    let procs = fs::read_to_string(format!("{SLICES}/alpha/login/cgroup.procs"))?;
    ensure!(
        procs.lines().count() >= 2,
        "in the login's cgroup: {procs:?}"
    );
    for pid in procs.lines() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
        ensure!(name.starts_with("sshd"), "{pid} is {name}");
    }
    // One of another slice, and the node's.
    for port in ["8888", "22"] {
        let rule = format!("0.0.0.0:{port}:127.0.0.1:22");
        let refused = logins.ssh(
            "alpha",
            "alpha",
            &["-o", "ExitOnForwardFailure=yes", "-R", &rule, "true"],
        )?;
        ensure!(
            refused.status == 255 && refused.stderr.contains("remote port forwarding failed"),
            "port {port}: {} {}",
            refused.status,
            refused.stderr
        );
    }
    // What sshd would do with the node's files is off.
    let socket = logins.ssh(
        "alpha",
        "alpha",
        &[
            "-o",
            "ExitOnForwardFailure=yes",
            "-R",
            "/tmp/socket:127.0.0.1:22",
            "true",
        ],
    )?;
    ensure!(
        socket.status != 0 && !fs::exists("/tmp/socket")?,
        "a socket in the node's files: {}",
        socket.stderr
    );
    // The end of the slice is the end of its logins.
    logins.site.must(&["stop", "alpha"])?;
    until("the forward ends", || Ok(forward.ended()?.is_some()))?;
    Ok(())
}

fn what_a_login_carries_is_counted_for_its_slice(node: &mut Node) -> Result<()> {
    const BYTES: i64 = 400_000;
    let logins = Logins::open(node)?;
    let before = logins.site.counters()?;
    let line = format!("head -c {BYTES} /dev/zero");
    let output = logins.ssh("alpha", "alpha", &[&line])?;
    ensure!(
        output.status == 0 && output.stdout.len() == usize::try_from(BYTES)?,
        "{} {}",
        output.status,
        output.stderr
    );
    // The socket was the node's when it was opened and is when it is closed.
    until("the sockets are counted as before", || {
        let change = logins.site.counters()?.since(&before);
        Ok(change.by("alpha", "sockets") == 0 && change.by("node", "sockets") == 0)
    })?;
    let change = logins.site.counters()?.since(&before);
    // The client runs on the node; what it sends is keys and acknowledgements.
    let (sent, others) = (
        change.by("alpha", "loopback.sent.bytes"),
        change.by("node", "loopback.sent.bytes"),
    );
    ensure!(sent >= BYTES && others < BYTES / 4, "{change}");
    // PAM's messages to the audit system of the kernel are none of a slice's.
    let denials = change.denials().without("denials.netlink");
    ensure!(denials.is_empty(), "{change}");
    // A copy through the same connection, inwards.
    let before = logins.site.counters()?;
    let file = node.dir().join("file");
    fs::write(&file, vec![7; usize::try_from(BYTES)?])?;
    let mut words = logins.words("scp", "alpha")?;
    words.push(file.to_str().context("UTF-8")?.to_owned());
    words.push(format!("alpha@{HERE}:copy"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    node.must(words[0], &words[1..])?;
    let change = logins.site.counters()?.since(&before);
    ensure!(
        change.by("alpha", "loopback.received.bytes") >= BYTES,
        "{change}"
    );
    Ok(())
}

fn nobody_logs_in_where_sessions_would_stay_on_the_node(node: &mut Node) -> Result<()> {
    sshd::prepare()?;
    image::debian(node)?;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBzqWUlYvfNjmQfQBJz3yBqc0dXZNoTZZHd2CTr1VN0L";
    let policy = format!("[context]\nimage = \"debian\"\n[login]\nkeys = [\"{key}\"]\n");
    let site = Site::new(node, &[("node.toml", ""), ("slices/alpha.toml", &policy)])?;
    let pam = fs::read_to_string("/etc/pam.d/common-session")?;
    let without: String = pam
        .lines()
        .map(|line| {
            if line.contains("login-open") {
                format!("# {line}\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    fs::write("/etc/pam.d/common-session", without)?;
    let refused = site.slice(&["up"]);
    fs::write("/etc/pam.d/common-session", pam)?;
    let refused = refused?;
    ensure!(
        refused.status == 5 && refused.stderr.contains("pam-auth-update"),
        "without PAM: {} {}",
        refused.status,
        refused.stderr
    );
    fs::remove_file(sshd::SETTINGS_PATH)?;
    let refused = site.slice(&["up"]);
    sshd::settings()?;
    let refused = refused?;
    ensure!(
        refused.status == 5 && refused.stderr.contains("sshd"),
        "without sshd's settings: {} {}",
        refused.status,
        refused.stderr
    );
    ensure!(
        node.run("getent", &["passwd", "alpha"])?.status == 2,
        "an account is there"
    );
    site.must(&["up"])?;
    node.must("getent", &["passwd", "alpha"])?;
    Ok(())
}
