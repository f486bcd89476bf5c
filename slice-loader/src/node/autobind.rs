//! Which ports the kernel must not pick itself: those that the policy keeps are
//! merged into what the machine had in `ip_local_reserved_ports`, and taken
//! out again by `down`.

use std::fs::{self, File};
use std::io::Read;

use anyhow::Context;
use policy::config::PortSet;

/// The sysctl: ports that neither bind to port 0 nor connect may choose.
pub const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The present value.
///
/// # Errors
/// It cannot be read.
pub fn read() -> anyhow::Result<PortSet> {
    let mut text = vec![0; LONGEST];
    let length = File::open(SYSCTL)
        .and_then(|mut file| file.read(&mut text))
        .with_context(|| format!("read {SYSCTL}"))?;
    text.truncate(length);
    parse(&String::from_utf8_lossy(&text))
}

/// Bytes of the longest value: every second port. The kernel answers one read
/// with as much as fits, and the next one with the end of the file, so that a
/// short buffer silently loses the rest.
const LONGEST: usize = 1 << 18;

/// Understands a value.
///
/// # Errors
/// It is no list of ports.
pub fn parse(text: &str) -> anyhow::Result<PortSet> {
    let text = text.trim();
    PortSet::parse_kernel(text).with_context(|| format!("understand {text:?} in {SYSCTL}"))
}

/// Sets the value; an empty set frees all ports.
///
/// # Errors
/// It cannot be written.
pub fn write(ports: &PortSet) -> anyhow::Result<()> {
    // The kernel takes no empty write; a newline is an empty list.
    fs::write(SYSCTL, format!("{ports}\n")).with_context(|| format!("write {ports} to {SYSCTL}"))
}

/// What to write on `down`, when the machine had `before`, we wrote `ours`,
/// and `now` is there. Where others changed it meanwhile, what they added
/// stays, and what they took out stays out.
#[must_use]
pub fn put_back(now: &PortSet, before: &PortSet, ours: &PortSet) -> PortSet {
    now.difference(&ours.difference(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_value_fits_one_read() {
        let every_second = (1..=65535)
            .step_by(2)
            .map(|port| port.to_string())
            .collect::<Vec<_>>()
            .join(",");
        assert!(parse(&every_second).unwrap().to_string().len() < LONGEST);
    }

    #[test]
    fn down_puts_back_what_the_machine_had_and_keeps_what_others_changed() {
        let back = |now: &str, before: &str, ours: &str| {
            put_back(
                &parse(now).unwrap(),
                &parse(before).unwrap(),
                &parse(ours).unwrap(),
            )
            .to_string()
        };
        assert_eq!(back("80,9005-9020", "", "80,9005-9020"), "");
        let (before, ours) = ("8080,9000-9010\n", "80,8080,9000-9020");
        assert_eq!(back("80,8080,9000-9020", before, ours), "8080,9000-9010");
        assert_eq!(
            back("80,443,8080,9000-9020", before, ours),
            "443,8080,9000-9010"
        );
        assert_eq!(back("80,9000-9020", before, ours), "9000-9010");
    }
}
