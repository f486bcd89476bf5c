//! The distribution's archive, as this machine already reaches it: its own
//! sources with the suite changed, or the mirror that was named.

use std::process::Command;

use anyhow::{Result, bail};

use crate::step;

/// Where a suite's packages are found.
pub struct Archive {
    main: String,
    security: Option<String>,
}

impl Archive {
    /// Asks apt which Debian mirrors this machine uses; `mirror` overrides.
    ///
    /// # Errors
    /// No Debian mirror is configured and none was named.
    pub fn of_this_machine(mirror: Option<&str>) -> Result<Archive> {
        if let Some(mirror) = mirror {
            return Ok(Archive {
                main: mirror.to_owned(),
                security: None,
            });
        }
        let format = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
        let targets = step::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            format,
            "Created-By: Packages",
        ]))?;
        match Archive::from_targets(&targets) {
            Some(archive) => Ok(archive),
            None => bail!(
                "apt's sources on this machine name no Debian mirror whose list has been \
                 fetched: run `apt-get update`, or name one with --mirror URL"
            ),
        }
    }

    fn from_targets(targets: &str) -> Option<Archive> {
        let uri = |label: &str| {
            targets.lines().find_map(|line| {
                let mut fields = line.split('|');
                let (origin, its_label) = (fields.next()?, fields.next()?);
                (origin == "Debian" && its_label == label)
                    .then(|| fields.next().map(str::to_owned))
                    .flatten()
            })
        };
        Some(Archive {
            main: uri("Debian")?,
            security: uri("Debian-Security"),
        })
    }

    /// One-line sources for `suite`, its security updates where the machine
    /// takes them, and its backports if wanted.
    pub fn sources(&self, suite: &str, backports: bool) -> Vec<String> {
        let mut lines = vec![format!("deb {} {suite} main", self.main)];
        if let Some(security) = &self.security {
            lines.push(format!("deb {security} {suite}-security main"));
        }
        if backports {
            lines.push(format!("deb {} {suite}-backports main", self.main));
        }
        lines
    }
}

/// Options that make mmdebstrap's apt reach the mirrors the way this
/// machine's apt does: proxies, certificates, tolerance of old snapshots.
pub fn apt_options() -> Result<Vec<String>> {
    const TAKEN: &[&str] = &[
        "Acquire::http",
        "Acquire::https",
        "Acquire::Check-",
        "Acquire::Retries",
    ];
    let dump = step::output(Command::new("apt-config").arg("dump"))?;
    Ok(dump
        .lines()
        .filter(|line| TAKEN.iter().any(|prefix| line.starts_with(prefix)))
        .filter(|line| !line.ends_with(" \"\";"))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn the_machines_mirrors_serve_another_suite() {
        let targets = "Other||http://other.example/x/\n\
                       Debian|Debian-Security|http://a.example/sec/\n\
                       Debian|Debian|http://a.example/debian/\n";
        let archive = Archive::from_targets(targets).unwrap();
        assert_eq!(
            archive.sources("trixie", true),
            [
                "deb http://a.example/debian/ trixie main",
                "deb http://a.example/sec/ trixie-security main",
                "deb http://a.example/debian/ trixie-backports main",
            ]
        );
    }

    #[test]
    fn a_machine_without_a_debian_mirror_is_no_guess() {
        assert!(Archive::from_targets("Ubuntu|Ubuntu|http://u.example/\n").is_none());
    }
}
