//! The distribution's sshd with what the package adds to it, so that people log
//! in to slices.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// sshd's settings and PAM's, as the package installs them.
const SETTINGS: &str = include_str!("../../packaging/ssh/slice.conf");
const PAM: &str = include_str!("../../packaging/pam/slice");

/// Where sshd finds its settings.
pub const SETTINGS_PATH: &str = "/etc/ssh/sshd_config.d/slice.conf";
const PAM_PATH: &str = "/usr/share/pam-configs/slice";

/// Group, sshd's settings and PAM's, as the package's scripts make them.
///
/// # Errors
/// The distribution's tools fail.
pub fn prepare() -> Result<()> {
    let group = Command::new("getent").args(["group", "slices"]).output()?;
    if !group.status.success() {
        must("groupadd", &["--system", "slices"])?;
    }
    fs::create_dir_all("/run/sshd")?;
    settings()?;
    if !Path::new(PAM_PATH).exists() {
        // The VM has the program elsewhere than the package.
        fs::write(
            PAM_PATH,
            PAM.replace("/usr/bin/slice", "/usr/local/bin/slice"),
        )?;
        must("pam-auth-update", &["--package", "--enable", "slice"])?;
    }
    Ok(())
}

/// sshd's settings alone.
///
/// # Errors
/// The file cannot be written.
pub fn settings() -> Result<()> {
    fs::write(SETTINGS_PATH, SETTINGS).with_context(|| format!("write {SETTINGS_PATH}"))
}

/// Makes a key without a password; its public half.
///
/// # Errors
/// ssh-keygen fails.
pub fn key(path: &Path) -> Result<String> {
    let name = path.to_str().context("a path in UTF-8")?;
    must("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", name])?;
    let public = fs::read_to_string(format!("{name}.pub"))?;
    Ok(public.trim().to_owned())
}

fn must(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {} ended with {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
