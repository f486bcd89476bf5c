//! Block I/O as attributes of cgroups.
//!
//! `io.max` has a line for each device that a cgroup is bounded on, and none for
//! the others; the two files of weights have a line `default`, and perhaps more.

use crate::admission::{Divider, Io as Fact};
use crate::config::Io;

const MAX: &str = "io.max";
/// What `io.max` means of a device that it does not name.
const UNBOUNDED: &str = "rbps=max wbps=max riops=max wiops=max";
/// The kernel's own, of both dividers.
const WEIGHT: u32 = 100;

impl Divider {
    /// The file of a cgroup that takes its weight.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::Cost => "io.weight",
            Self::Bfq => "io.bfq.weight",
        }
    }

    /// A weight of 1 to 10,000 as it counts them.
    const fn weight(self, weight: u32) -> u32 {
        match self {
            Self::Cost => weight,
            // bfq counts to 1000. As systemd does it: the default stays the default.
            Self::Bfq if weight > WEIGHT => {
                WEIGHT + (weight - WEIGHT) * (1000 - WEIGHT) / (10_000 - WEIGHT)
            }
            Self::Bfq => weight,
        }
    }
}

/// The attributes of a slice, as far as the node has them: that there is no bound is to be
/// written, too.
pub(super) fn attributes(io: &Io, fact: &Fact) -> Vec<(&'static str, String)> {
    let most =
        |most: Option<u64>| most.map_or_else(|| String::from("max"), |most| most.to_string());
    let mut attributes = Vec::new();
    for divider in fact.weights.iter().flatten() {
        let weight = divider.weight(io.weight.map_or(WEIGHT, |weight| weight.value));
        attributes.push((divider.file(), format!("default {weight}")));
    }
    if let Ok(device) = &fact.device {
        let [read, write] = [io.read, io.write].map(|cap| most(cap.map(|cap| cap.value.0)));
        let [reads, writes] = [io.read_operations, io.write_operations]
            .map(|cap| most(cap.map(|cap| u64::from(cap.value))));
        attributes.push((
            MAX,
            format!("{device} rbps={read} wbps={write} riops={reads} wiops={writes}"),
        ));
    }
    attributes
}

/// What a new cgroup has in place of `value`.
pub(super) fn default(file: &str, value: &str) -> Option<String> {
    value_in(file, value, "")
}

/// What a file says of the device, or as the default, that `value` is about; `None` for files of
/// one value.
pub(super) fn value_in(file: &str, value: &str, text: &str) -> Option<String> {
    let (about, _) = value.split_once(' ')?;
    let otherwise = match file {
        MAX => UNBOUNDED.to_owned(),
        "io.weight" | "io.bfq.weight" => WEIGHT.to_string(),
        _ => return None,
    };
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(about));
    Some(line.map_or_else(
        || format!("{about} {otherwise}"),
        |line| line.trim_end().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Unbounded;
    use crate::config::At;
    use crate::config::units::Bytes;

    fn fact(device: &str) -> Fact {
        Fact {
            device: Ok(device.to_owned()),
            weights: Ok(vec![Divider::Cost, Divider::Bfq]),
        }
    }

    #[test]
    fn bounds_and_weights_are_written_as_the_kernel_reads_them_back() {
        let io = Io {
            weight: Some(At::default(10_000)),
            write: Some(At::default(Bytes(1 << 20))),
            read_operations: Some(At::default(50)),
            ..Io::default()
        };
        let expected = [
            ("io.weight", "default 10000"),
            ("io.bfq.weight", "default 1000"),
            ("io.max", "254:16 rbps=max wbps=1048576 riops=50 wiops=max"),
        ];
        let expected = expected.map(|(file, value)| (file, value.to_owned()));
        assert_eq!(attributes(&io, &fact("254:16")), expected);
    }

    #[test]
    fn what_a_slice_does_not_say_is_what_a_new_cgroup_has() {
        for (file, value) in attributes(&Io::default(), &fact("8:0")) {
            assert_eq!(default(file, &value), Some(value.clone()), "{file}");
        }
        assert_eq!(default("cpu.max", "max 100000"), None);
        assert_eq!(default("memory.max", "max"), None);
    }

    #[test]
    fn a_node_without_the_controller_has_nothing_to_write() {
        let none = || Unbounded {
            why: String::new(),
            remedy: String::new(),
        };
        let fact = Fact {
            device: Err(none()),
            weights: Err(none()),
        };
        assert_eq!(attributes(&Io::default(), &fact), []);
    }

    #[test]
    fn of_a_file_with_many_devices_the_one_that_is_meant_is_read() {
        let text = "8:0 rbps=1 wbps=2 riops=max wiops=max\n254:1 rbps=5 wbps=6 riops=7 wiops=8\n";
        let value = |about: &str| value_in(MAX, &format!("{about} x"), text);
        assert_eq!(
            value("254:1"),
            Some(String::from("254:1 rbps=5 wbps=6 riops=7 wiops=8"))
        );
        assert_eq!(value("254:16"), Some(format!("254:16 {UNBOUNDED}")));
        let weights = "default 300\n8:0 50\n";
        assert_eq!(
            value_in("io.weight", "default 100", weights),
            Some(String::from("default 300"))
        );
        assert_eq!(value_in("cpu.max", "max 100000", "5 100000"), None);
    }
}
