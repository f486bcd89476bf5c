//! What a slice may have on the disk: bytes and inodes, by every way of
//! writing, on ext4 and on xfs; and what becomes of its files.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::node::{Node, Output};
use crate::runner::{Test, test};
use crate::site::Site;

pub const TESTS: &[Test] = &[
    test(
        "a_slice_writes_as_much_as_its_cap_by_whatever_call",
        a_slice_writes_as_much_as_its_cap_by_whatever_call,
    ),
    test(
        "a_slice_has_as_many_files_as_its_policy_says",
        a_slice_has_as_many_files_as_its_policy_says,
    ),
    test(
        "xfs_keeps_the_bounds_of_slices_too",
        xfs_keeps_the_bounds_of_slices_too,
    )
    .once(),
    test(
        "files_leave_a_slices_account_neither_by_rename_nor_by_link",
        files_leave_a_slices_account_neither_by_rename_nor_by_link,
    ),
    test(
        "a_reload_changes_what_a_slice_may_have_on_the_disk",
        a_reload_changes_what_a_slice_may_have_on_the_disk,
    )
    .once(),
    test(
        "a_disk_that_cannot_bound_slices_is_refused_with_a_remedy_that_works",
        a_disk_that_cannot_bound_slices_is_refused_with_a_remedy_that_works,
    )
    .once(),
    test(
        "a_layer_is_its_slices_alone_and_nobody_on_the_node_reaches_into_it",
        a_layer_is_its_slices_alone_and_nobody_on_the_node_reaches_into_it,
    ),
    test(
        "a_removed_layer_is_gone_whatever_was_in_it_and_nothing_else_is",
        a_removed_layer_is_gone_whatever_was_in_it_and_nothing_else_is,
    )
    .once()
    .within(120),
];

/// Where slices' files are.
const STORE: &str = "/var/lib/slice";
const MIB: u64 = 1 << 20;

/// Two slices with little room.
const POLICY: &[(&str, &str)] = &[
    ("node.toml", "[node]\nmax_slices = 8\n"),
    (
        "slices/alpha.toml",
        "[disk]\ncap = \"20 MiB\"\ninodes = 200\n",
    ),
    ("slices/beta.toml", "[disk]\ncap = \"16 MiB\"\n"),
];

/// A slice of the node with a layer, which goes with this.
struct Slice<'n> {
    site: &'n Site<'n>,
    node: &'n Node,
    name: &'static str,
    uid: u32,
}

impl<'n> Slice<'n> {
    fn new(site: &'n Site, node: &'n Node, name: &'static str) -> Result<Slice<'n>> {
        site.must(&["layer", name])?;
        let slice = Slice {
            site,
            node,
            name,
            uid: fs::metadata(upper(name))?.uid(),
        };
        ensure!(slice.uid > 65_536, "upper belongs to {}", slice.uid);
        Ok(slice)
    }

    fn upper(&self) -> PathBuf {
        upper(self.name)
    }

    /// Runs a command with the slice's user in its layer.
    fn run(&self, words: &[&str]) -> Result<Output> {
        let ids = [
            format!("--reuid={}", self.uid),
            format!("--regid={}", self.uid),
        ];
        let output = Command::new("setpriv")
            .args(ids)
            .args(["--clear-groups", "--bounding-set=-all", "--no-new-privs"])
            .args(words)
            .current_dir(self.upper())
            .stdin(Stdio::null())
            .output()?;
        Ok(Output {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a Python program there; the JSON it prints.
    fn python(&self, program: &str) -> Result<Value> {
        let output = self.run(&["python3", "-c", program])?;
        ensure!(
            output.status == 0,
            "ended with {}: {}",
            output.status,
            output.stderr
        );
        serde_json::from_str(&output.stdout).with_context(|| output.stdout.clone())
    }

    /// Usage and limit of bytes, and of inodes.
    fn account(&self) -> Result<[(u64, Option<u64>); 2]> {
        let row = self.site.json(&["status", self.name])?["rows"][0].take();
        let pair = |what: &str| -> Result<(u64, Option<u64>)> {
            let used = &row[what];
            let usage = used["usage"].as_u64();
            Ok((
                usage.with_context(|| format!("no {what} in {row}"))?,
                used["limit"].as_u64(),
            ))
        };
        Ok([pair("disk")?, pair("inodes")?])
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        let _ = self.site.slice(&["layer", "--remove", self.name]);
        let _ = self.node;
    }
}

fn upper(name: &str) -> PathBuf {
    Path::new(STORE).join("slices").join(name).join("upper")
}

/// Another file system where slices' files are; unmounted when dropped.
struct Mounted<'n> {
    node: &'n Node,
}

impl<'n> Mounted<'n> {
    fn new(node: &'n Node, arguments: &[&str]) -> Result<Mounted<'n>> {
        node.must("slice", &["down"])?;
        node.must("mount", &[arguments, &[STORE]].concat())?;
        Ok(Mounted { node })
    }

    /// A file that holds a new file system, mounted with these options.
    fn made(node: &'n Node, mkfs: &[&str], options: &str) -> Result<Mounted<'n>> {
        let file = "/var/tmp/slice-disk";
        let _ = fs::remove_file(file);
        fs::File::create(file)?.set_len(512 * MIB)?;
        // mount cannot load it by itself in every root.
        node.must("modprobe", &["loop"])?;
        node.must(mkfs[0], &[&mkfs[1..], &[file]].concat())?;
        let options = format!("loop{options}");
        Mounted::new(node, &["-o", &options, file])
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = self.node.run("slice", &["down"]);
        let _ = self.node.run("umount", &[STORE]);
    }
}

/// Every way of taking up bytes, each until it is refused: the error's name,
/// and how many bytes the account had then.
const FILL: &str = r#"
import errno, json, os

def ended(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return None

def clear():
    for name in os.listdir("."): os.unlink(name)

def account():
    about = os.statvfs(".")
    return (about.f_blocks - about.f_bfree) * about.f_frsize

def write():
    with open("write", "wb", buffering=0) as file:
        for _ in range(40):
            block = memoryview(bytes(1 << 20))
            while block: block = block[file.write(block):]
        os.fsync(file)

def allocate():
    with open("allocate", "wb") as file: os.posix_fallocate(file.fileno(), 0, 30 << 20)

def sparse():
    with open("sparse", "wb", buffering=0) as file:
        file.truncate(1 << 30)
        for at in range(0, 1 << 30, 16 << 20):
            for part in range(2):
                if os.pwrite(file.fileno(), bytes(1 << 20), at + (part << 20)) < 1 << 20:
                    os.pwrite(file.fileno(), bytes(1 << 20), at + (part << 20))
        os.fsync(file)

def many():
    for number in range(150):
        with open(f"many{number}", "wb", buffering=0) as file:
            if file.write(bytes(200 << 10)) < 200 << 10: file.write(bytes(200 << 10))
            os.fsync(file)

def unnamed():
    file = os.open(".", os.O_TMPFILE | os.O_RDWR)
    for at in range(40):
        if os.write(file, bytes(1 << 20)) < 1 << 20: os.write(file, bytes(1 << 20))
    os.fsync(file)

def mapped():
    import mmap
    with open("mapped", "w+b") as file:
        file.truncate(40 << 20)
        os.posix_fallocate(file.fileno(), 0, 40 << 20)

said = {}
for act in [write, allocate, sparse, many, unnamed, mapped]:
    said[act.__name__] = [ended(act), account()]
    clear()
print(json.dumps(said))
"#;

/// Checks that each way of writing was refused with this error, at 20 MiB and
/// not far below.
fn fill(slice: &Slice, errno: &str) -> Result<()> {
    let said = slice.python(FILL)?;
    let said = said.as_object().context("no object")?;
    ensure!(said.len() == 6, "{said:?}");
    for (how, outcome) in said {
        ensure!(outcome[0] == errno, "{how}: {outcome}, not {errno}");
        let had = outcome[1].as_u64().unwrap_or(0);
        ensure!(had <= 20 * MIB, "{how} had {had} bytes");
        // What is asked for at once is refused at once.
        let at_once = ["allocate", "mapped"].contains(&how.as_str());
        ensure!(at_once || had > 18 * MIB, "{how} had only {had} bytes");
    }
    Ok(())
}

fn a_slice_writes_as_much_as_its_cap_by_whatever_call(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let none = site.json(&["status", "alpha"])?;
    ensure!(none["rows"][0]["disk"].is_null(), "{none}");
    let alpha = Slice::new(&site, node, "alpha")?;
    fill(&alpha, "EDQUOT")?;
    // The whole cap is kept for others meanwhile.
    let beta = Slice::new(&site, node, "beta")?;
    let write = "with open('file', 'wb') as f: f.write(bytes(15 << 20))\nprint(1)";
    beta.python(write)?;
    // Both pairs are told, in both forms; three directories were there before.
    let [bytes, inodes] = beta.account()?;
    ensure!(
        bytes.0 >= 15 * MIB && bytes.0 < 16 * MIB && bytes.1 == Some(16 * MIB),
        "{bytes:?}"
    );
    ensure!(inodes == (4, Some(1024)), "{inodes:?}");
    let shown = site.must(&["status", "beta"])?;
    ensure!(
        shown.contains("of 16.0 MiB") && shown.contains("4 of 1024"),
        "{shown}"
    );
    let table = site.must(&["status"])?;
    ensure!(table.contains("/16.0 MiB"), "{table}");
    // df shows the cap as the file system's size.
    let size = beta.run(&["df", "--output=size", "-B1", "."])?.stdout;
    ensure!(size.contains(&(16 * MIB).to_string()), "{size}");
    Ok(())
}

/// Makes names of every kind until none is left; how many there were, and
/// whether the same can be done again after they are gone.
const NAMES: &str = r#"
import errno, json, os, socket
kinds = [
    lambda name: os.close(os.open(name, os.O_CREAT | os.O_EXCL)),
    os.mkdir,
    lambda name: os.symlink("x" * 100, name),
    os.mkfifo,
    lambda name: socket.socket(socket.AF_UNIX).bind(name),
]
def make():
    for number in range(1000):
        try:
            kinds[number % len(kinds)](f"{number}")
        except OSError as error:
            return [number, errno.errorcode[error.errno]]
first = make()
# A second name for a file is no second file.
os.link("0", "again")
for name in os.listdir("."):
    os.rmdir(name) if os.path.isdir(name) else os.unlink(name)
print(json.dumps([first, make()]))
"#;

fn names(slice: &Slice, errno: &str) -> Result<()> {
    // 200, with the layer's own three directories.
    let said = slice.python(NAMES)?;
    let expected = serde_json::json!([[197, errno], [197, errno]]);
    ensure!(said == expected, "{said}");
    let [_, inodes] = slice.account()?;
    ensure!(inodes == (200, Some(200)), "{inodes:?}");
    Ok(())
}

fn a_slice_has_as_many_files_as_its_policy_says(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let alpha = Slice::new(&site, node, "alpha")?;
    names(&alpha, "EDQUOT")
}

fn xfs_keeps_the_bounds_of_slices_too(node: &mut Node) -> Result<()> {
    let mounted = Mounted::made(node, &["mkfs.xfs", "-q", "-f"], ",prjquota")?;
    let site = Site::up(mounted.node, POLICY)?;
    let alpha = Slice::new(&site, node, "alpha")?;
    // xfs says of projects what it says of a full disk.
    fill(&alpha, "ENOSPC")?;
    names(&alpha, "ENOSPC")?;
    // The bound is the policy's: it stays without files.
    site.must(&["layer", "--remove", "alpha"])?;
    let gone = !alpha.upper().exists();
    ensure!(gone, "the layer is still there");
    site.must(&["layer", "alpha"])?;
    ensure!(
        alpha.account()?.map(|pair| pair.1) == [Some(20 * MIB), Some(200)],
        "unbounded"
    );
    drop(alpha);
    drop(site);
    Ok(())
}

fn files_leave_a_slices_account_neither_by_rename_nor_by_link(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let alpha = Slice::new(&site, node, "alpha")?;
    let beta = Slice::new(&site, node, "beta")?;
    alpha
        .python("import os\nos.makedirs('a/b/c')\nopen('a/b/c/file', 'w').write('x')\nprint(1)")?;
    let file = alpha.upper().join("a/b/c/file");
    let there = beta.upper().join("file");
    // Not even root's hands, by mistake.
    for result in [fs::rename(&file, &there), fs::hard_link(&file, &there)] {
        let errno = result.err().and_then(|error| error.raw_os_error());
        ensure!(errno == Some(18), "{errno:?}, not EXDEV");
    }
    // From a user namespace, as contexts are, nobody changes whose a file is.
    let inside = [
        "unshare",
        "--user",
        "--map-root-user",
        "chattr",
        "-p",
        "0",
        "a/b/c/file",
    ];
    let output = alpha.run(&inside)?;
    ensure!(
        output.status != 0 && output.stderr.contains("Invalid argument"),
        "{} {}",
        output.status,
        output.stderr
    );
    // What was made deep down is counted like what was made at the top.
    let [_, inodes] = alpha.account()?;
    ensure!(inodes.0 == 7, "{inodes:?}");
    Ok(())
}

fn a_reload_changes_what_a_slice_may_have_on_the_disk(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let alpha = Slice::new(&site, node, "alpha")?;
    let write = |mib: u64| {
        alpha.python(&format!(
            "import errno\ntry:\n  with open('file', 'wb', buffering=0) as f:\n    \
             for _ in range({mib}):\n      if f.write(bytes(1 << 20)) < 1 << 20: f.write(b'x')\n  \
             print('null')\nexcept OSError as e: print('\"' + errno.errorcode[e.errno] + '\"')"
        ))
    };
    ensure!(write(25)? == "EDQUOT", "20 MiB hold 25");
    site.write("slices/alpha.toml", "[disk]\ncap = \"30 MiB\"\n")?;
    let said = site.must(&["reload"])?;
    ensure!(said == "changed: alpha\n", "{said}");
    ensure!(
        site.must(&["reload"])? == "nothing changed\n",
        "twice is not once"
    );
    ensure!(write(25)?.is_null(), "30 MiB do not hold 25");
    // Below what is there: nothing is lost, and nothing more is written.
    site.write("slices/alpha.toml", "[disk]\ncap = \"10 MiB\"\n")?;
    site.must(&["reload"])?;
    let [bytes, inodes] = alpha.account()?;
    ensure!(
        bytes.0 >= 25 * MIB && bytes.1 == Some(10 * MIB) && inodes.1 == Some(640),
        "{bytes:?} {inodes:?}"
    );
    let more = "import os\ntry: os.write(os.open('more', os.O_CREAT | os.O_WRONLY), b'x' * 5000)\n\
        except OSError as e: print(e.errno)\nelse: print(0)";
    ensure!(alpha.python(more)? == 122, "written beyond the cap");
    ensure!(
        fs::metadata(alpha.upper().join("file"))?.len() == 25 * MIB,
        "lost"
    );
    fs::remove_file(alpha.upper().join("file"))?;
    ensure!(alpha.python(more)? == 0, "refused below the cap");
    // A cap that does not fit is refused, and the former one stays.
    site.write("slices/beta.toml", "[disk]\ncap = \"1 TiB\"\n")?;
    let output = site.slice(&["reload"])?;
    ensure!(
        output.status == 3 && output.stderr.contains("disk cap of slice beta"),
        "{}",
        output.stderr
    );
    // The bounds are the file system's: they outlive the node, and change with
    // the policy that the next one comes up with.
    site.write("slices/beta.toml", "")?;
    site.write("slices/alpha.toml", "")?;
    site.must(&["down"])?;
    site.must(&["up"])?;
    ensure!(
        alpha.account()?.map(|pair| pair.1) == [None, None],
        "a bound was left"
    );
    ensure!(write(25)?.is_null(), "nothing bounds alpha any more");
    Ok(())
}

fn a_disk_that_cannot_bound_slices_is_refused_with_a_remedy_that_works(
    node: &mut Node,
) -> Result<()> {
    let refused = |site: &Site, words: &[&str]| -> Result<()> {
        for command in ["up", "check"] {
            let output = site.slice(&[command])?;
            let all = words.iter().all(|words| output.stderr.contains(words));
            ensure!(
                output.status == 3 && all && output.stderr.contains("slices/alpha.toml:2:7"),
                "{command} ended with {}: {}",
                output.status,
                output.stderr
            );
        }
        let doctor = site.slice(&["doctor"])?;
        ensure!(
            doctor.status == 0 && doctor.stdout.contains("absent   project quotas"),
            "{} {}",
            doctor.status,
            doctor.stdout
        );
        Ok(())
    };
    let mounted = Mounted::new(node, &["-t", "tmpfs", "none"])?;
    let site = Site::new(mounted.node, POLICY)?;
    refused(&site, &["neither on ext4 nor on xfs", "see docs/disk.md"])?;
    // Policies without bounds are none of this.
    for slice in ["alpha", "beta"] {
        site.write(&format!("slices/{slice}.toml"), "")?;
    }
    site.must(&["up"])?;
    site.must(&["layer", "alpha"])?;
    ensure!(
        site.json(&["status", "alpha"])?["rows"][0]["disk"].is_null(),
        "nobody counts there"
    );
    site.must(&["layer", "--remove", "alpha"])?;
    drop((site, mounted));

    let ext4 = ["mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard"];
    let mounted = Mounted::made(node, &ext4, "")?;
    let site = Site::new(mounted.node, POLICY)?;
    let remedy = "tune2fs -O project,quota -Q prjquota";
    refused(&site, &["ext4 has no project quotas on", remedy])?;
    // What it says, does.
    node.must("umount", &[STORE])?;
    let file = "/var/tmp/slice-disk";
    let tune = ["-O", "project,quota", "-Q", "prjquota", file];
    node.must("tune2fs", &tune)?;
    node.must("mount", &["-o", "loop", file, STORE])?;
    refused(&site, &["does not bound them", "quotaon -P /var/lib/slice"])?;
    node.must("quotaon", &["-P", STORE])?;
    site.must(&["up"])?;
    let alpha = Slice::new(&site, node, "alpha")?;
    names(&alpha, "EDQUOT")?;
    drop(alpha);
    drop((site, mounted));

    let mounted = Mounted::made(node, &["mkfs.xfs", "-q", "-f"], "")?;
    let site = Site::new(mounted.node, POLICY)?;
    refused(
        &site,
        &["xfs was not mounted with project quotas", "-o prjquota"],
    )
}

fn a_layer_is_its_slices_alone_and_nobody_on_the_node_reaches_into_it(
    node: &mut Node,
) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let alpha = Slice::new(&site, node, "alpha")?;
    let shell = alpha.upper().join("shell");
    fs::copy("/bin/sh", &shell)?;
    node.must("chmod", &["4755", shell.to_str().context("UTF-8")?])?;
    let other = [
        "--reuid=1234",
        "--clear-groups",
        "sh",
        "-c",
        "exec \"$0\" -c id",
    ];
    let mut words: Vec<&str> = other.to_vec();
    words.push(shell.to_str().context("UTF-8")?);
    let output = node.run("setpriv", &words)?;
    ensure!(
        output.stderr.contains("ermission denied"),
        "{}",
        output.stderr
    );
    for (path, mode, uid) in [
        ("slices", 0o700, 0),
        ("slices/alpha", 0o700, 0),
        ("slices/alpha/upper", 0o755, alpha.uid),
        ("slices/alpha/work", 0o755, alpha.uid),
    ] {
        let about = fs::metadata(Path::new(STORE).join(path))?;
        ensure!(
            (about.mode() & 0o7777, about.uid()) == (mode, uid),
            "{path}: {:o} {}",
            about.mode(),
            about.uid()
        );
    }
    // Twice is once, and nothing of what was written is lost.
    site.must(&["layer", "alpha"])?;
    ensure!(shell.exists(), "a layer was made anew");
    // What a command that was killed left is no layer.
    let half = Path::new(STORE).join("slices/.new-beta");
    fs::DirBuilder::new().mode(0o700).create(&half)?;
    fs::create_dir(half.join("upper"))?;
    let beta = Slice::new(&site, node, "beta")?;
    ensure!(!half.exists(), "half a layer was left");
    drop(beta);
    // A slice that comes again is another: it gets nobody's files.
    site.remove("slices/alpha.toml")?;
    site.must(&["reload"])?;
    site.write("slices/alpha.toml", "[disk]\ncap = \"20 MiB\"\n")?;
    site.must(&["reload"])?;
    let output = site.slice(&["layer", "alpha"])?;
    ensure!(
        output.status == 1 && output.stderr.contains("an earlier slice alpha"),
        "{} {}",
        output.status,
        output.stderr
    );
    site.must(&["layer", "--remove", "alpha"])?;
    // Nor is a project taken that others use already.
    let id = site.json(&["status", "alpha"])?["rows"][0]["id"].to_string();
    let taken = Path::new(STORE).join("taken");
    fs::create_dir(&taken)?;
    let taken = taken.to_str().context("UTF-8")?;
    node.must("chattr", &["-p", &id, taken])?;
    let output = site.slice(&["layer", "alpha"])?;
    fs::remove_dir(taken)?;
    ensure!(
        output.status == 1 && output.stderr.contains("in use by others"),
        "{} {}",
        output.status,
        output.stderr
    );
    site.must(&["layer", "alpha"])?;
    Ok(())
}

/// A tree as a hostile slice leaves it: deep, wide, with links to everywhere.
const LITTER: &str = r#"
import os
os.symlink("/var/tmp/slice-kept", "kept")
os.symlink("../../../../..", "up")
for number in range(4000):
    os.makedirs(f"wide/{number % 20}", exist_ok=True)
    os.close(os.open(f"wide/{number % 20}/{number}", os.O_CREAT))
os.mkdir("closed"); open("closed/file", "w"); os.chmod("closed", 0)
for level in range(1500):
    os.mkdir("deep" * 50)
    os.chdir("deep" * 50)
print(1)
"#;

fn a_removed_layer_is_gone_whatever_was_in_it_and_nothing_else_is(node: &mut Node) -> Result<()> {
    let site = Site::up(
        node,
        &[
            ("node.toml", "[node]\nmax_slices = 8\n"),
            ("slices/alpha.toml", "[disk]\ncap = \"100 MiB\"\n"),
        ],
    )?;
    let alpha = Slice::new(&site, node, "alpha")?;
    let kept = Path::new("/var/tmp/slice-kept");
    fs::create_dir_all(kept.join("deep"))?;
    fs::write(kept.join("deep/file"), "kept")?;
    alpha.python(LITTER)?;
    let [_, inodes] = alpha.account()?;
    ensure!(inodes.0 > 5500, "{inodes:?}");
    // Something of the node's is mounted in it: nothing there is removed.
    let point = alpha.upper().join("wide/point");
    fs::create_dir(&point)?;
    symlink(kept, alpha.upper().join("wide/0/link"))?;
    let point = point.to_str().context("UTF-8")?;
    node.must("mount", &["--bind", "/var/tmp/slice-kept", point])?;
    let output = site.slice(&["layer", "--remove", "alpha"])?;
    let still = kept.join("deep/file").exists();
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        if line.contains("/slices/.trash/") {
            node.must("umount", &[line.split(' ').nth(4).unwrap_or_default()])?;
        }
    }
    ensure!(
        output.status == 1 && output.stderr.contains("something is mounted there") && still,
        "{} {still} {}",
        output.status,
        output.stderr
    );
    ensure!(!alpha.upper().exists(), "the layer is not out of the way");
    site.must(&["layer", "alpha"])?;
    let [_, inodes] = alpha.account()?;
    ensure!(inodes.0 == 3, "{inodes:?} after the layer was made anew");
    site.must(&["layer", "--remove", "alpha"])?;
    site.must(&["layer", "--remove", "alpha"])?;
    ensure!(
        kept.join("deep/file").exists(),
        "what a link points to was removed"
    );
    let left = fs::read_dir(Path::new(STORE).join("slices"))?.count();
    ensure!(left == 1, "{left} names are left");
    Ok(())
}
