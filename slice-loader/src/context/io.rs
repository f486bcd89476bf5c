//! The block device that slices' files lie on: whether the kernel bounds what
//! each slice reads and writes there, and what each has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sys::stat::{major, minor};
use policy::admission::{Divider, Io as Fact, Unbounded};

use super::disk::SLICES;
use super::holder::{CGROUPFS, Holder};
use crate::report::status::{Io, Transfer};
use crate::sys::short_file;

/// What admission asks for.
#[must_use]
pub fn fact() -> Fact {
    match controller() {
        Ok(()) => Fact {
            device: device(),
            weights: dividers(),
        },
        Err(none) => Fact {
            device: Err(none.clone()),
            weights: Err(none),
        },
    }
}

/// Whether slices' cgroups have the controller; before they are made, whether
/// they will, as far as can be seen.
pub(super) fn controller() -> Result<(), Unbounded> {
    const ROOT: &str = "/sys/fs/cgroup/cgroup.controllers";
    if !lists_io(Path::new(ROOT)) {
        return Err(Unbounded {
            why: String::from("the kernel has no controller `io` in cgroup v2"),
            remedy: String::from(
                "boot a kernel with CONFIG_BLK_CGROUP and CONFIG_BLK_DEV_THROTTLING, without cgroup_disable=io, and with no blkio controller of cgroup v1 mounted",
            ),
        });
    }
    let slices = Holder::expected().slices();
    if slices.is_dir() && !lists_io(&slices.join("cgroup.subtree_control")) {
        return Err(not_given());
    }
    Ok(())
}

fn lists_io(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|list| list.split_whitespace().any(|word| word == "io"))
}

fn not_given() -> Unbounded {
    Unbounded {
        why: String::from("slices' cgroups are not given the controller `io`"),
        remedy: String::from(
            "take `io` out of DisableControllers= of -.slice (systemctl show -p DisableControllers -- -.slice), then: slice down, slice up",
        ),
    }
}

/// The whole device that slices' files lie on.
fn device() -> Result<String, Unbounded> {
    let path = Path::new(SLICES)
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    device_of(path).map_err(|error| Unbounded {
        why: format!(
            "{} is on no block device that can be bounded ({error:#})",
            path.display()
        ),
        remedy: String::from(
            "mount an ext4 or xfs of its own, on a disk, partition or logical volume, at /var/lib/slice: see docs/limits.md",
        ),
    })
}

/// The whole device that holds a file: the kernel bounds no partitions.
fn device_of(path: &Path) -> anyhow::Result<String> {
    let looked = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let (major, minor) = (major(looked.dev()), minor(looked.dev()));
    anyhow::ensure!(major != 0, "its file system is on none, or on several");
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let mut known = fs::canonicalize(&link).with_context(|| format!("find {}", link.display()))?;
    if known.join("partition").exists() {
        known.pop();
    }
    let number = known.join("dev");
    let text = fs::read_to_string(&number).with_context(|| format!("read {}", number.display()))?;
    Ok(text.trim().to_owned())
}

/// Who obeys weights. A divider that is there may not be in use for the device:
/// that is the owner's choice, and can change at any time.
fn dividers() -> Result<Vec<Divider>, Unbounded> {
    let all = [
        (Divider::Cost, Path::new(CGROUPFS).join("io.cost.qos")),
        (Divider::Bfq, PathBuf::from("/sys/module/bfq")),
    ];
    let there: Vec<Divider> = all
        .into_iter()
        .filter_map(|(divider, sign)| sign.exists().then_some(divider))
        .collect();
    if there.is_empty() {
        return Err(Unbounded {
            why: String::from("nothing in the kernel divides block devices by weight"),
            remedy: String::from(
                "load the scheduler bfq (modprobe bfq) and give it to the disk, or boot a kernel with CONFIG_BLK_CGROUP_IOCOST: see docs/limits.md",
            ),
        });
    }
    Ok(there)
}

/// The device whose use [`used`] tells; none where slices' files lie on none.
#[must_use]
pub fn shown() -> Option<String> {
    device().ok()
}

/// What a slice has read and written of the device, and may; none where its
/// cgroup is not counted.
#[must_use]
pub fn used(cgroup: &Path, device: &str) -> Option<Io> {
    let line = |file: &str| -> Option<String> {
        let text = short_file::read(&cgroup.join(file)).ok()?;
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(device));
        Some(line.unwrap_or_default().to_owned())
    };
    Some(transfers(&line("io.stat")?, &line("io.max")?))
}

/// From the device's lines in `io.stat` and `io.max`, empty where it has none.
fn transfers(stat: &str, max: &str) -> Io {
    let number = |line: &str, key: &str| -> Option<u64> {
        line.split(' ')
            .filter_map(|word| word.split_once('='))
            .find_map(|(name, value)| (name == key).then(|| value.parse().ok()))
            .flatten()
    };
    let transfer = |way: &str| Transfer {
        bytes: number(stat, &format!("{way}bytes")).unwrap_or(0),
        operations: number(stat, &format!("{way}ios")).unwrap_or(0),
        bytes_per_second_limit: number(max, &format!("{way}bps")),
        operations_per_second_limit: number(max, &format!("{way}iops")),
    };
    Io {
        read: transfer("r"),
        write: transfer("w"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_a_device_is_told() {
        for path in ["/proc/self", "/sys", "/no/such/file"] {
            assert!(device_of(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn the_lines_of_a_device_are_understood() {
        let io = transfers(
            "254:16 rbytes=4096 wbytes=1048576 rios=1 wios=16 dbytes=0 dios=0",
            "254:16 rbps=max wbps=1048576 riops=20 wiops=max",
        );
        assert_eq!((io.read.bytes, io.read.operations), (4096, 1));
        assert_eq!((io.write.bytes, io.write.operations), (1 << 20, 16));
        assert_eq!(io.read.bytes_per_second_limit, None);
        assert_eq!(io.read.operations_per_second_limit, Some(20));
        assert_eq!(io.write.bytes_per_second_limit, Some(1 << 20));
        // It has neither used it nor is it bounded.
        assert_eq!(transfers("", "").write, Transfer::default());
    }

    #[test]
    fn what_is_missing_is_told_with_a_remedy() {
        let fact = fact();
        let (device, weights) = (fact.device.err(), fact.weights.err());
        for unbounded in device.into_iter().chain(weights) {
            assert!(!unbounded.why.is_empty() && !unbounded.remedy.is_empty());
        }
    }
}
