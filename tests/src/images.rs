//! Reference images: what comes into the store, what does not, and what goes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::image::{DISTRIBUTION, versions};
use crate::node::{Node, Output};
use crate::runner::{Test, test};
use crate::site::until;

pub const TESTS: &[Test] = &[
    test(
        "an_imported_directory_keeps_everything_but_devices_and_sockets",
        an_imported_directory_keeps_everything_but_devices_and_sockets,
    ),
    test(
        "an_archive_is_imported_however_it_is_packed",
        an_archive_is_imported_however_it_is_packed,
    )
    .per_root(),
    test(
        "a_reference_is_used_where_it_is",
        a_reference_is_used_where_it_is,
    )
    .once(),
    test(
        "what_must_not_be_an_image_is_refused_with_a_remedy",
        what_must_not_be_an_image_is_refused_with_a_remedy,
    )
    .once(),
    test(
        "versions_of_an_image_count_up_and_are_never_given_twice",
        versions_of_an_image_count_up_and_are_never_given_twice,
    )
    .once(),
    test(
        "a_version_that_a_slice_runs_in_is_not_removed",
        a_version_that_a_slice_runs_in_is_not_removed,
    )
    .once(),
    test(
        "an_import_that_is_killed_leaves_nothing_that_the_next_does_not_clear",
        an_import_that_is_killed_leaves_nothing_that_the_next_does_not_clear,
    )
    .once(),
    test(
        "an_archive_writes_nothing_outside_its_tree",
        an_archive_writes_nothing_outside_its_tree,
    )
    .once(),
    test(
        "a_tar_that_is_deceived_writes_nothing_outside_its_tree",
        a_tar_that_is_deceived_writes_nothing_outside_its_tree,
    )
    .once(),
    test(
        "nobody_on_the_node_reaches_into_an_image",
        nobody_on_the_node_reaches_into_an_image,
    )
    .once(),
    test(
        "removing_an_image_follows_neither_links_nor_mounts",
        removing_an_image_follows_neither_links_nor_mounts,
    )
    .once(),
];

/// A store with images of one test's name, which go with it.
struct Store<'n> {
    node: &'n Node,
    name: &'static str,
}

impl<'n> Store<'n> {
    fn new(node: &'n Node, name: &'static str) -> Store<'n> {
        Store { node, name }
    }

    fn import(&self, arguments: &[&str]) -> Result<Output> {
        let words = [&["image", "import", "-o", "json", self.name], arguments].concat();
        self.node.run("slice", &words)
    }

    /// Imports what must be imported; the tree and the answer.
    fn must_import(&self, arguments: &[&str]) -> Result<(PathBuf, Value)> {
        let output = self.import(arguments)?;
        ensure!(
            output.status == 0,
            "import {arguments:?} ended with {}: {}",
            output.status,
            output.stderr
        );
        let answer: Value = serde_json::from_str(&output.stdout)?;
        let tree = answer["tree"].as_str().context("no tree")?;
        Ok((tree.into(), answer))
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        let versions = versions(self.node, self.name)?;
        Ok(versions
            .iter()
            .filter_map(|v| v["version"].as_u64())
            .collect())
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        let _ = self
            .node
            .run("slice", &["image", "remove", "--all", self.name]);
    }
}

/// A small root with one of everything.
const MAKE: &str = r##"
import os, socket, stat, sys
os.chdir(sys.argv[1])
os.umask(0)
os.makedirs("bin")
os.makedirs("var/empty", mode=0o1777)
os.chmod("var/empty", 0o1777)
open("bin/sh", "w").write("#!/bin/true\n" * 100)
os.chown("bin/sh", 12, 34)
os.chmod("bin/sh", 0o6755)
os.utime("bin/sh", ns=(1_000_000_000_000_000_001, 1_000_000_000_000_000_007))
os.link("bin/sh", "bin/bash")
os.symlink("/etc/alternatives/vi", "bin/vi")
os.symlink("../../..", "up")
open("bin/ping", "w").write("x")
os.chmod("bin/ping", 0o755)
os.setxattr("bin/ping", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
os.setxattr("bin/ping", "user.note", b"kept")
# user::rwx user:7:r-- group::r-x mask::r-x other::r-x
os.setxattr("bin/ping", "system.posix_acl_access", bytes.fromhex(
    "02000000" "01000700ffffffff" "0200040007000000" "04000500ffffffff" "10000500ffffffff" "20000500ffffffff"))
os.setxattr("bin/ping", "trusted.overlay.redirect", b"/etc")
with open("sparse", "wb") as f: f.truncate(1 << 30)
os.mkfifo("fifo")
os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.mknod("disk", stat.S_IFBLK | 0o666, os.makedev(254, 0))
socket.socket(socket.AF_UNIX).bind("socket")
open("n\udcffame", "w").write("not UTF-8")
"##;

fn make_root(node: &Node, name: &str) -> Result<PathBuf> {
    // Not in /run, which has neither room nor all attributes.
    let root = Path::new("/var/tmp").join(format!("slice-{name}"));
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    node.must("python3", &["-c", MAKE, text(&root)?])?;
    Ok(root)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// Everything that must have come along, a line a file.
const ACCOUNT: &str = r##"
import os, sys
os.chdir(sys.argv[1])
inodes = set()
for path, directories, files in sorted(os.walk(".")):
    for name in sorted([""] + files + [d for d in directories if os.path.islink(os.path.join(path, d))]):
        file = os.path.join(path, name)
        at = os.lstat(file)
        what = [os.fsencode(file), oct(at.st_mode), at.st_uid, at.st_gid]
        if name:
            what += [at.st_size, at.st_mtime_ns, at.st_nlink, at.st_blocks]
        if os.path.islink(file): what.append(os.readlink(file))
        for attribute in sorted(os.listxattr(file, follow_symlinks=False)):
            what += [attribute, os.getxattr(file, attribute, follow_symlinks=False)]
        print(*what)
"##;

fn account(node: &Node, tree: &Path) -> Result<String> {
    Ok(node.must("python3", &["-c", ACCOUNT, text(tree)?])?.stdout)
}

fn an_imported_directory_keeps_everything_but_devices_and_sockets(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "whole");
    let root = make_root(node, "whole")?;
    let (tree, answer) = store.must_import(&[text(&root)?])?;
    // What an image must not have goes from the source, too; then both are equal.
    for name in ["null", "disk", "socket"] {
        ensure!(!tree.join(name).exists(), "{name} is in the image");
        fs::remove_file(root.join(name))?;
    }
    let forget = "import os, sys; os.removexattr(sys.argv[1], 'trusted.overlay.redirect')";
    node.must("python3", &["-c", forget, text(&root.join("bin/ping"))?])?;
    let (before, after) = (account(node, &root)?, account(node, &tree)?);
    ensure!(before == after, "{before}\nbecame\n{after}");
    ensure!(
        after.contains("bin/sh' 0o106755 12 34 1200 1000000000000000007 2"),
        "{after}"
    );
    ensure!(
        ["user.note", "security.capability", "posix_acl_access"]
            .iter()
            .all(|attribute| after.contains(attribute)),
        "{after}"
    );
    ensure!(answer["inodes"] == 11, "{answer}");
    Ok(())
}

fn an_archive_is_imported_however_it_is_packed(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "packed");
    let root = make_root(node, "packed")?;
    let mut accounts = Vec::new();
    for (option, end) in [("-v", "tar"), ("-z", "gz"), ("-J", "xz"), ("--zstd", "zst")] {
        let archive = node.dir().join(format!("root.{end}"));
        let archive = text(&archive)?;
        let mut pack = vec![
            "-c",
            option,
            "--acls",
            "--sparse",
            "--xattrs",
            "--numeric-owner",
        ];
        pack.extend(["--xattrs-include=*", "-f", archive, "-C", text(&root)?, "."]);
        node.must("tar", &pack)?;
        let (tree, _) = store.must_import(&[archive])?;
        ensure!(!tree.join("null").exists(), "a device of {archive}");
        accounts.push(account(node, &tree)?);
    }
    ensure!(
        accounts.iter().all(|account| account == &accounts[0]),
        "{accounts:#?}"
    );
    ensure!(accounts[0].contains("user.note"), "{}", accounts[0]);
    ensure!(!accounts[0].contains("trusted"), "{}", accounts[0]);
    // A packer that is not installed is named.
    let zstd = fs::canonicalize("/usr/bin/zstd")?;
    fs::rename(&zstd, "/usr/bin/zstd.away")?;
    let output = store.import(&[text(&node.dir().join("root.zst"))?]);
    fs::rename("/usr/bin/zstd.away", &zstd)?;
    refused(&output?, 5, "apt install zstd")
}

/// Checks that a command failed like this and said so.
#[track_caller]
fn refused(output: &Output, status: i32, words: &str) -> Result<()> {
    let line = std::panic::Location::caller().line();
    ensure!(
        output.status == status && output.stderr.contains(words),
        "line {line}: ended with {}, not {status}: {}",
        output.status,
        output.stderr
    );
    Ok(())
}

fn a_reference_is_used_where_it_is(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "referred");
    let (tree, answer) = store.must_import(&["--reference", DISTRIBUTION])?;
    ensure!(tree == Path::new(DISTRIBUTION), "{answer}");
    ensure!(answer["reference"] == true, "{answer}");
    let of_version = "/var/lib/slice/images/referred/1";
    let names: Vec<_> = fs::read_dir(of_version)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    ensure!(names == ["image.json"], "{names:?}");
    node.must("slice", &["image", "remove", "referred", "1"])?;
    ensure!(tree.join("bin/sh").exists(), "the directory itself is gone");
    Ok(())
}

fn what_must_not_be_an_image_is_refused_with_a_remedy(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "bad");
    refused(
        &store.import(&["--reference", "/"])?,
        2,
        "keys and passwords",
    )?;
    refused(
        &store.import(&["--reference", "/etc/passwd"])?,
        2,
        "directory",
    )?;
    refused(&store.import(&["/nowhere"])?, 1, "find /nowhere")?;
    refused(
        &store.import(&["/etc/passwd"])?,
        1,
        "tar could not unpack it",
    )?;
    refused(&store.import(&["/var/lib/slice"])?, 1, "lie within it")?;
    refused(
        &store.import(&["/var/lib/slice/images"])?,
        1,
        "lie within it",
    )?;
    let empty = node.dir().join("empty");
    fs::create_dir(&empty)?;
    refused(&store.import(&[text(&empty)?])?, 1, "nothing in it")?;
    for name in ["Bad", "a/b", "..", "", "a-b"] {
        let import = ["image", "import", name, DISTRIBUTION, "--reference"];
        refused(&node.run("slice", &import)?, 2, "name")?;
    }
    for words in [
        &["remove", "bad", "1"][..],
        &["remove", "--all", "bad"],
        &["list", "bad"],
    ] {
        let words = [&["image"], words].concat();
        refused(&node.run("slice", &words)?, 2, "there is none")?;
    }
    refused(
        &node.run("slice", &["image", "remove", "bad"])?,
        2,
        "VERSION",
    )?;
    ensure!(store.numbers()?.is_empty(), "something was imported");
    // Nobody but root has images.
    let other = ["--reuid=1234", "--clear-groups", "slice", "image", "list"];
    refused(&node.run("setpriv", &other)?, 6, "root")
}

fn versions_of_an_image_count_up_and_are_never_given_twice(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "counted");
    let root = make_root(node, "counted")?;
    for _ in 0..3 {
        store.must_import(&[text(&root)?])?;
    }
    node.must("slice", &["image", "remove", "counted", "3"])?;
    node.must("slice", &["image", "remove", "counted", "1"])?;
    store.must_import(&["--reference", DISTRIBUTION])?;
    ensure!(store.numbers()? == [2, 4], "{:?}", store.numbers()?);
    node.must("slice", &["image", "remove", "counted", "--all"])?;
    ensure!(store.numbers()?.is_empty(), "{:?}", store.numbers()?);
    store.must_import(&[text(&root)?])?;
    ensure!(store.numbers()? == [5], "{:?}", store.numbers()?);
    let listed = node.must("slice", &["image", "list"])?.stdout;
    ensure!(
        listed
            .lines()
            .any(|line| line.starts_with("counted") && line.contains("/var/tmp")),
        "{listed}"
    );
    Ok(())
}

fn a_version_that_a_slice_runs_in_is_not_removed(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "used");
    let root = make_root(node, "used")?;
    store.must_import(&[text(&root)?])?;
    store.must_import(&[text(&root)?])?;
    let context = Path::new("/run/slice/contexts/alpha");
    fs::create_dir_all(context)?;
    let state = context.join("context.json");
    let remove = |version: &str| node.run("slice", &["image", "remove", "used", version]);
    let judge = || -> Result<()> {
        fs::write(&state, r#"{"image":"used","version":1,"since":7}"#)?;
        refused(&remove("1")?, 1, "slice alpha runs in it")?;
        ensure!(
            versions(node, "used")?[0]["used_by"][0] == "alpha",
            "not listed"
        );
        let all = node.run("slice", &["image", "remove", "used", "--all"])?;
        refused(&all, 1, "slice stop alpha")?;
        ensure!(remove("2")?.status == 0, "the other version is not used");
        // What cannot be understood may be in use.
        fs::write(&state, "{")?;
        refused(&remove("1")?, 1, "understand")?;
        fs::write(&state, "{}")?;
        ensure!(remove("1")?.status == 0, "nobody uses it any more");
        Ok(())
    };
    let result = judge();
    fs::remove_dir_all("/run/slice/contexts")?;
    let _ = fs::remove_dir("/run/slice");
    result
}

fn an_import_that_is_killed_leaves_nothing_that_the_next_does_not_clear(
    node: &mut Node,
) -> Result<()> {
    let store = Store::new(node, "killed");
    let root = make_root(node, "killed")?;
    // An archive that never ends: its reader is killed half-way.
    let (archive, fifo) = (node.dir().join("root.tar"), node.dir().join("endless"));
    let pack = ["-c", "-S", "-f", text(&archive)?, "-C", text(&root)?, "."];
    node.must("tar", &pack)?;
    node.must("mkfifo", &[text(&fifo)?])?;
    let mut import = Command::new("slice")
        .args(["image", "import", "killed"])
        .arg(&fifo)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut writer = fs::File::options().write(true).open(&fifo)?;
    let whole = fs::read(&archive)?;
    std::io::Write::write_all(&mut writer, &whole[..whole.len() / 2])?;
    let half = Path::new("/var/lib/slice/images/.new/tree/bin/sh");
    until("half of the archive is unpacked", || Ok(half.exists()))?;
    // Meanwhile nobody else may import, and nothing of it is seen.
    refused(&store.import(&[text(&root)?])?, 8, "another command")?;
    ensure!(store.numbers()?.is_empty(), "half an image is listed");
    import.kill()?;
    import.wait()?;
    drop(writer);
    ensure!(half.exists(), "the test kills too late");
    store.must_import(&[text(&root)?])?;
    ensure!(store.numbers()? == [1], "{:?}", store.numbers()?);
    let left: Vec<_> = fs::read_dir("/var/lib/slice/images")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with('.') && name != ".lock" && name != ".trash")
        .collect();
    ensure!(left.is_empty(), "left: {left:?}");
    let trash = fs::read_dir("/var/lib/slice/images/.trash")?.count();
    ensure!(trash == 0, "{trash} left in the trash");
    Ok(())
}

/// Archives that a hostile builder of images might make: each with a name and
/// the members that try to get out.
const HOSTILE: &str = r#"
import io, sys, tarfile
outside, directory = sys.argv[1], sys.argv[2]

def file(tar, name, text=b"escaped\n", **kind):
    info = tarfile.TarInfo(name)
    for key, value in kind.items(): setattr(info, key, value)
    if "type" not in kind: info.size = len(text)
    info.mode = kind.get("mode", 0o644)
    tar.addfile(info, io.BytesIO(text) if "type" not in kind else None)

def archive(name, *members):
    with tarfile.open(f"{directory}/{name}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        file(tar, "bin/sh")
        for name, kind in members: file(tar, name, **kind)

link = lambda to: dict(type=tarfile.SYMTYPE, linkname=to)
hard = lambda to: dict(type=tarfile.LNKTYPE, linkname=to)
up = "../" * 12
archive("dots", (up + outside.lstrip("/") + "/dots", {}))
archive("absolute", (outside + "/absolute", {}))
archive("inner", ("bin/" + up + outside.lstrip("/") + "/inner", {}))
archive("through", ("out", link(outside)), ("out/through", {}))
archive("climb", ("out", link(up + outside.lstrip("/"))), ("out/climb", {}))
archive("two", ("a", link(up)), ("b", link("a" + outside)), ("b/two", {}))
archive("swap", ("d/x", {}), ("d", link(outside)), ("d/swap", {}))
archive("hard", ("passwd", hard(outside + "/secret")), ("passwd", {}))
archive("hardup", ("passwd", hard(up + outside.lstrip("/") + "/secret")), ("passwd", {}))
archive("hardlink", ("l", link(outside + "/secret")), ("h", hard("l")), ("h", {}))
"#;

fn an_archive_writes_nothing_outside_its_tree(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "hostile");
    let outside = Path::new("/var/tmp/slice-outside");
    let _ = fs::remove_dir_all(outside);
    fs::create_dir_all(outside)?;
    let secret = outside.join("secret");
    fs::write(&secret, "secret\n")?;
    node.must(
        "python3",
        &["-c", HOSTILE, text(outside)?, text(node.dir())?],
    )?;
    let mut archives = 0;
    for entry in fs::read_dir(node.dir())? {
        let archive = entry?.path();
        archives += 1;
        // Refused, or kept inside: both are right.
        let output = store.import(&[text(&archive)?])?;
        ensure!(
            output.status <= 1,
            "{}: {}",
            archive.display(),
            output.stderr
        );
        let names: Vec<_> = fs::read_dir(outside)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<_>>()?;
        ensure!(names == ["secret"], "{}: {names:?}", archive.display());
        ensure!(
            fs::read_to_string(&secret)? == "secret\n" && fs::metadata(&secret)?.nlink() == 1,
            "{} reached a file outside",
            archive.display()
        );
    }
    ensure!(archives == 10, "{archives} archives");
    Ok(())
}

fn a_tar_that_is_deceived_writes_nothing_outside_its_tree(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "deceived");
    // What an archive may make a tar with a fault do.
    let deceived = node.dir().join("tar");
    fs::write(
        &deceived,
        "#!/bin/sh\nfor last; do :; done\ncat >/dev/null\ncd \"$last\" || exit 9\n\
         echo inside >inside || exit 9\n\
         for place in / /etc /run /dev/shm /var/lib/slice /var/tmp ../..; do\n\
           echo escaped >$place/escaped && exit 0\n\
           rm -f /etc/hostname && exit 0\n\
           umount /etc && exit 0\n\
         done\nexit 0\n",
    )?;
    node.must("chmod", &["755", text(&deceived)?])?;
    let archive = node.dir().join("root.tar");
    node.must(
        "tar",
        &["-c", "-f", text(&archive)?, "-C", "/etc", "hostname"],
    )?;
    let tar = fs::canonicalize("/usr/bin/tar")?;
    let tar = text(&tar)?;
    node.must("mount", &["--bind", text(&deceived)?, tar])?;
    let output = store.import(&[text(&archive)?]);
    node.must("umount", &[tar])?;
    let output = output?;
    ensure!(output.status == 0, "{}", output.stderr);
    for place in [
        "/",
        "/etc",
        "/run",
        "/dev/shm",
        "/var/lib/slice",
        "/var/tmp",
        "/var/lib/slice/images",
    ] {
        let escaped = Path::new(place).join("escaped");
        if escaped.exists() {
            fs::remove_file(&escaped)?;
            bail!("{} was written", escaped.display());
        }
    }
    ensure!(
        Path::new("/etc/hostname").exists(),
        "/etc/hostname was removed"
    );
    let tree = Path::new("/var/lib/slice/images/deceived/1/tree/inside");
    ensure!(tree.exists(), "tar could not write inside either");
    Ok(())
}

fn nobody_on_the_node_reaches_into_an_image(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "closed");
    let root = make_root(node, "closed")?;
    let (tree, _) = store.must_import(&[text(&root)?])?;
    let shell = tree.join("bin/sh");
    let run = [
        "--reuid=1234",
        "--regid=1234",
        "--clear-groups",
        "sh",
        "-c",
        // Not setpriv itself: it keeps root's capabilities until it is gone.
        "exec \"$0\"",
        text(&shell)?,
    ];
    let output = node.run("setpriv", &run)?;
    ensure!(
        output.status != 0 && output.stderr.contains("Permission denied"),
        "{} {}",
        output.status,
        output.stderr
    );
    for path in ["/var/lib/slice/images", "/var/lib/slice/images/closed"] {
        let looked = fs::metadata(path)?;
        ensure!(
            (looked.mode() & 0o7777, looked.uid()) == (0o700, 0),
            "{path} is {:o}",
            looked.mode()
        );
    }
    // Who opened it, finds it closed again.
    node.must("chmod", &["755", "/var/lib/slice/images"])?;
    node.must("slice", &["image", "list"])?;
    ensure!(
        fs::metadata("/var/lib/slice/images")?.mode() & 0o777 == 0o700,
        "left open"
    );
    Ok(())
}

fn removing_an_image_follows_neither_links_nor_mounts(node: &mut Node) -> Result<()> {
    let store = Store::new(node, "mounted");
    let root = make_root(node, "mounted")?;
    let (tree, _) = store.must_import(&[text(&root)?])?;
    let kept = Path::new("/var/tmp/slice-kept");
    fs::create_dir_all(kept.join("deep"))?;
    fs::write(kept.join("deep/file"), "kept")?;
    std::os::unix::fs::symlink(kept, tree.join("bin/kept"))?;
    let point = tree.join("var/empty");
    node.must("mount", &["--bind", text(kept)?, text(&point)?])?;
    let output = node.run("slice", &["image", "remove", "mounted", "1"])?;
    let still = kept.join("deep/file").exists();
    // It was moved before the mount was met.
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for line in mounts.lines().filter(|line| line.contains("/images/")) {
        node.must("umount", &[line.split(' ').nth(4).unwrap_or_default()])?;
    }
    refused(&output, 1, "something is mounted there")?;
    ensure!(still, "what is mounted in an image was removed");
    // The next change of the store clears the rest.
    store.must_import(&[text(&root)?])?;
    ensure!(
        fs::read_dir("/var/lib/slice/images/.trash")?.count() == 0,
        "left in the trash"
    );
    ensure!(
        kept.join("deep/file").exists(),
        "what a link points to was removed"
    );
    Ok(())
}
