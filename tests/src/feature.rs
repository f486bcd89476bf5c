//! What a kernel may lack: each feature with its probe, and the kernels that
//! must have it. A missing feature skips a test; in CI, a skip on a kernel
//! that must have the feature fails.

use std::fs;

/// Something that not every supported kernel has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// The bpf LSM is built in and active.
    BpfLsm,
    /// Links at tc's hooks (tcx), since 6.6.
    Tcx,
    /// Queueing disciplines in eBPF, since 6.16.
    QdiscBpf,
}

/// What is known of a feature.
struct Row {
    feature: Feature,
    probe: fn() -> bool,
    /// Labels of the kernels that must have it.
    kernels: &'static [&'static str],
}

const TABLE: &[Row] = &[
    Row {
        feature: Feature::BpfLsm,
        probe: || active_lsms().split(',').any(|name| name == "bpf"),
        kernels: &["6.1", "6.12", "newest"],
    },
    Row {
        feature: Feature::Tcx,
        probe: || kernel_has_type("tcx_entry"),
        kernels: &["6.12", "newest"],
    },
    Row {
        feature: Feature::QdiscBpf,
        probe: || kernel_has_type("bpf_sched_data"),
        kernels: &["newest"],
    },
];

impl Feature {
    /// Whether the running kernel has it.
    pub fn present(self) -> bool {
        self.row().is_some_and(|row| (row.probe)())
    }

    /// Whether the kernel of this label must have it.
    pub fn expected_on(self, kernel: &str) -> bool {
        self.row().is_some_and(|row| row.kernels.contains(&kernel))
    }

    fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.feature == self)
    }
}

fn active_lsms() -> String {
    let text = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    text.trim().to_owned()
}

/// Whether the kernel's own type information knows this name.
fn kernel_has_type(name: &str) -> bool {
    let types = fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let mut needle = vec![0];
    needle.extend_from_slice(name.as_bytes());
    needle.push(0);
    types
        .windows(needle.len())
        .any(|window| window == needle.as_slice())
}
