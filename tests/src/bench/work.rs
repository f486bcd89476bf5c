//! Work that calls the kernel much, in a slice and outside, on the same file
//! system. The worker takes its own time, so that entering is not in it.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::Measure;
use super::context::LIVED_IN;
use super::sample::{Goal, Sample, measure};
use crate::node::Node;

/// Interleaved repeats.
const REPEATS: usize = 5;

/// Where the worker works: in the slice on its layer, outside below.
const OUTSIDE: &str = "/var/lib/slice/bench-work";

/// Does one kind of work in the current directory and prints milliseconds.
const WORKER: &str = r##"
import os, sqlite3, subprocess, sys, time
def compile():
    with open("w.c", "w") as f:
        f.write("".join("#include <%s.h>\n" % h for h in
            ("stdio", "stdlib", "string", "unistd", "fcntl", "signal", "time", "sys/stat", "sys/socket")))
        f.write("int main(void) { return puts(\"x\") < 0; }\n")
    for _ in range(10):
        subprocess.run(["tcc", "-c", "-o", "w.o", "w.c"], check=True)
def tar():
    subprocess.run("tar -C /usr/share/perl5 -cf w.tar . && mkdir w && tar -C w -xf w.tar && rm -r w w.tar",
        shell=True, check=True)
def sqlite():
    db = sqlite3.connect("w.db")
    db.execute("create table t (a, b)")
    db.commit()
    for i in range(100):
        db.execute("insert into t values (?, ?)", (i, "x" * 100))
        db.commit()
    db.close()
    os.remove("w.db")
work = {"compile": compile, "tar": tar, "sqlite": sqlite}[sys.argv[1]]
start = time.monotonic_ns()
work()
print((time.monotonic_ns() - start) / 1e6)
"##;

const KINDS: [(&str, &str); 3] = [
    ("compile", "compile a C file 10 times (tcc)"),
    ("tar", "tar a tree, untar and remove it"),
    ("sqlite", "100 transactions of SQLite"),
];

/// Measures each kind inside and outside by turns.
///
/// # Errors
/// The worker fails.
pub fn measures(bench: &str, node: &Node) -> Result<Vec<Measure>> {
    fs::create_dir_all(OUTSIDE)?;
    let mut lines = Vec::new();
    for (kind, what) in KINDS {
        let [mut inside, mut outside] = [(); 2].map(|()| Sample::default());
        for repeat in 0..=REPEATS {
            let place = ["cd /root && exec python3 -c \"$0\" \"$1\"", WORKER, kind];
            let ours = node.run(
                "slice",
                &[&["exec", LIVED_IN, "--", "sh", "-c"], &place[..]].concat(),
            )?;
            let place = [
                &*format!("cd {OUTSIDE} && exec python3 -c \"$0\" \"$1\""),
                WORKER,
                kind,
            ];
            let theirs = node.run("sh", &[&["-c"], &place[..]].concat())?;
            for (output, sample) in [(ours, &mut inside), (theirs, &mut outside)] {
                ensure!(output.status == 0, "{kind}: {}", output.stderr);
                let number: f64 = output.stdout.trim().parse().context("read the time")?;
                // The first time fills the caches.
                if repeat > 0 {
                    sample.add(1000.0 / number);
                }
            }
        }
        lines.push(measure(
            bench,
            what.to_owned(),
            "1/s",
            &inside,
            Some(("outside", &outside)),
            Goal::RatioAtLeast(0.95),
        ));
    }
    fs::remove_dir_all(OUTSIDE)?;
    Ok(lines)
}
