//! The VM itself: what all other tests take for granted.

use std::fs;

use anyhow::{Result, ensure};

use crate::feature::Feature;
use crate::node::Node;
use crate::runner::{Test, test};

pub const TESTS: &[Test] = &[
    test(
        "the_kernel_is_the_one_that_was_asked_for",
        the_kernel_is_the_one_that_was_asked_for,
    ),
    test("systemd_is_process_1", systemd_is_process_1),
    test("the_bpf_lsm_is_active", the_bpf_lsm_is_active).needs(&[Feature::BpfLsm]),
    test(
        "the_slices_disk_bounds_projects",
        the_slices_disk_bounds_projects,
    ),
];

fn the_kernel_is_the_one_that_was_asked_for(_: &mut Node) -> Result<()> {
    let running = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let wanted = std::env::var("SLICE_VM_RELEASE")?;
    ensure!(
        running.trim() == wanted,
        "{} runs, {wanted} was to be booted",
        running.trim()
    );
    let label = std::env::var("SLICE_VM_KERNEL")?;
    ensure!(
        label == "newest" || running.starts_with(&format!("{label}.")),
        "{running} is not a kernel {label}"
    );
    Ok(())
}

fn systemd_is_process_1(node: &mut Node) -> Result<()> {
    let name = fs::read_to_string("/proc/1/comm")?;
    ensure!(name.trim() == "systemd", "process 1 is {}", name.trim());
    let failed = node.must("systemctl", &["--failed", "--no-legend", "--plain"])?;
    ensure!(failed.stdout.is_empty(), "failed units: {}", failed.stdout);
    Ok(())
}

fn the_bpf_lsm_is_active(_: &mut Node) -> Result<()> {
    let active = fs::read_to_string("/sys/kernel/security/lsm")?;
    ensure!(
        active.trim().split(',').any(|name| name == "bpf"),
        "active: {active}"
    );
    Ok(())
}

fn the_slices_disk_bounds_projects(node: &mut Node) -> Result<()> {
    let report = node.must("quotaon", &["-Ppv", "/var/lib/slice"]);
    // quotaon -p ends with 1 where quotas are on, as test(1) would not.
    let said = match report {
        Ok(output) => output.stdout,
        Err(error) => error.to_string(),
    };
    ensure!(
        said.contains("project quota on /var/lib/slice") && said.contains("is on"),
        "{said}"
    );
    let inside = fs::read_dir("/mnt/debian/proc")?.count();
    ensure!(inside == 0, "/mnt/debian/proc has {inside} entries");
    Ok(())
}
