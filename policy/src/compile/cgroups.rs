//! CPU, memory, processes and block I/O as attributes of cgroups.

use serde::Serialize;

use super::{io, weight};
use crate::admission::Admitted;
use crate::config::SliceName;

/// A cgroup that the policy has something to say about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Cgroup {
    /// The one that holds everything of ours. Where it is systemd's (a delegated unit) it is set by
    /// the unit's properties of the same meaning: `cpu.weight` CPUWeight, `memory.min` MemoryMin.
    Holder,
    /// `slices`, the parent of all slices.
    Slices,
    /// `slices/NAME`.
    Slice(SliceName),
}

/// One attribute of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CgroupWrite {
    /// Which cgroup.
    pub cgroup: Cgroup,
    /// The file.
    pub file: &'static str,
    /// What is written to it, without newline; the kernel reads it back the same.
    pub value: String,
}

impl CgroupWrite {
    /// Whether a new cgroup has this value, so that it need not be written to one.
    #[must_use]
    pub fn is_default(&self) -> bool {
        io::default(self.file, &self.value).is_some_and(|default| default == self.value)
    }

    /// The value that this attribute has where its file says `text`, in the form of `value`: of
    /// files with a line for each device, that of the device that is written to.
    #[must_use]
    pub fn value_in(&self, text: &str) -> String {
        io::value_in(self.file, &self.value, text).unwrap_or_else(|| text.trim_end().to_owned())
    }
}

/// Period of the CPU bandwidth controller in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// The attributes, the parent's before its children's.
pub(super) fn cgroups(admitted: &Admitted<'_>) -> Vec<CgroupWrite> {
    let (given, facts) = (admitted.given(), admitted.facts());
    let page = facts.page_size.max(1);
    // A floor is kept whole, a cap is not exceeded.
    let floor = |bytes: u64| bytes.div_ceil(page).saturating_mul(page).to_string();
    let cap = |bytes: u64| (bytes / page * page).to_string();
    let quota = |milli_cores: u64| {
        format!(
            "{} {CPU_PERIOD}",
            milli_cores.saturating_mul(CPU_PERIOD) / 1000
        )
    };
    let most = || String::from("max");

    let floors: Vec<(u64, u64)> = admitted
        .slices()
        .map(|(_, slice)| (slice.cpu.floor.0, slice.memory.floor.0))
        .collect();
    let cpu_floor: u64 = floors.iter().map(|(cpu, _)| cpu).sum();
    let memory_floor: u64 = floors
        .iter()
        .map(|(_, memory)| memory.div_ceil(page).saturating_mul(page))
        .sum();
    let shares: Vec<(u64, u32)> = admitted
        .slices()
        .map(|(_, slice)| (slice.cpu.floor.0, slice.cpu.share))
        .collect();
    let weights = weight::of_slices(&shares, given.cpu.0);

    let mut writes = vec![
        (
            Cgroup::Holder,
            "cpu.weight",
            weight::of_holder(cpu_floor, u64::from(facts.cpus) * 1000).to_string(),
        ),
        (Cgroup::Holder, "memory.min", memory_floor.to_string()),
        (Cgroup::Slices, "cpu.max", quota(given.cpu.0)),
        (Cgroup::Slices, "memory.min", memory_floor.to_string()),
        (Cgroup::Slices, "memory.max", cap(given.memory.0)),
        (Cgroup::Slices, "pids.max", given.processes.to_string()),
    ];
    for ((_, slice), weight) in admitted.slices().zip(weights) {
        let of = || Cgroup::Slice(slice.name.value.clone());
        writes.extend([
            (of(), "cpu.weight", weight.to_string()),
            (
                of(),
                "cpu.max",
                slice
                    .cpu
                    .cap
                    .map_or_else(|| format!("max {CPU_PERIOD}"), |cap| quota(cap.0)),
            ),
            (of(), "memory.min", floor(slice.memory.floor.0)),
            (
                of(),
                "memory.max",
                slice.memory.cap.map_or_else(most, |bytes| cap(bytes.0)),
            ),
            (of(), "pids.max", slice.processes.to_string()),
        ]);
        writes.extend(
            io::attributes(&slice.io, &facts.io)
                .into_iter()
                .map(|(file, value)| (of(), file, value)),
        );
    }
    writes
        .into_iter()
        .map(|(cgroup, file, value)| CgroupWrite {
            cgroup,
            file,
            value,
        })
        .collect()
}
