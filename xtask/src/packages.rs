//! The distribution's packages: what is missing, and getting it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::step;

/// What tells that a need is met without asking the package database, so that
/// a tool that came another way counts.
pub enum Sign {
    /// A command found in PATH or the system's directories.
    Command(&'static str),
    /// A file.
    File(&'static str),
    /// Only the package itself.
    Installed,
}

/// A package and how to see that it is not needed.
pub struct Need {
    /// Name in the archive.
    pub package: String,
    /// What to look for.
    pub sign: Sign,
}

/// A need, shortly.
pub fn need(package: impl Into<String>, sign: Sign) -> Need {
    Need {
        package: package.into(),
        sign,
    }
}

/// To build the loader and the VM's static programs.
pub fn for_host_build() -> Vec<Need> {
    vec![
        need("gcc", Sign::Command("cc")),
        need("libc6-dev", Sign::File("/usr/include/stdio.h")),
        need("make", Sign::Command("make")),
        need("pkg-config", Sign::Command("pkg-config")),
        need("libelf-dev", Sign::Installed),
        need("zlib1g-dev", Sign::Installed),
        need("libzstd-dev", Sign::Installed),
    ]
}

/// For the host's tests: the browser that looks at the status page.
pub fn for_host_tests() -> Vec<Need> {
    vec![need("chromium", Sign::Command("chromium"))]
}

/// To make roots and kernels and to run them.
pub fn for_vm() -> Vec<Need> {
    let mut needs = vec![
        need("qemu-system-x86", Sign::Command("qemu-system-x86_64")),
        need("mmdebstrap", Sign::Command("mmdebstrap")),
        need("e2fsprogs", Sign::Command("mke2fs")),
        need("kmod", Sign::Command("depmod")),
        need("xz-utils", Sign::Command("xz")),
        need("tar", Sign::Command("tar")),
        need("util-linux", Sign::Command("setpriv")),
        need("debian-archive-keyring", Sign::Installed),
    ];
    if !is_root() {
        // File owners in the roots, without being root.
        needs.push(need("uidmap", Sign::Command("newuidmap")));
    }
    needs
}

/// Something only the reader can do; `main` ends with its own exit code.
#[derive(Debug)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Installs those of `needs` that are missing.
///
/// # Errors
/// [`Missing`] with the line to type where neither root nor sudo without a
/// question is to be had; otherwise what apt says.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|need| !met(need))
        .map(|need| need.package.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let Some(root) = root_command() else {
        return Err(Missing(format!(
            "packages are missing and this user may not install any; type:\n    \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {list}"
        ))
        .into());
    };
    let apt = |arguments: &[&str]| {
        let mut words = root.clone();
        words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"].map(str::to_owned));
        // Another apt may be at work on a machine that has just started.
        words.extend(["-o", "DPkg::Lock::Timeout=300"].map(str::to_owned));
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        let mut command = Command::new(words.first().map_or("env", String::as_str));
        command.args(words.get(1..).unwrap_or_default());
        command
    };
    step::run("apt-get update", "apt-update", &mut apt(&["update"]))?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    step::run(
        &format!("install {list}"),
        "apt-install",
        &mut apt(&arguments),
    )
    .with_context(|| format!("the distribution's packages could not be installed; wanted: {list}"))
}

fn met(need: &Need) -> bool {
    match need.sign {
        Sign::Command(name) => find_command(name).is_some(),
        Sign::File(path) => Path::new(path).exists(),
        Sign::Installed => installed(&need.package),
    }
}

fn installed(package: &str) -> bool {
    // An unknown package makes dpkg-query fail; a removed one is not "installed".
    step::output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}\n", package]))
        .is_ok_and(|status| status.lines().any(|line| line == "installed"))
}

/// Finds a command in PATH or in the system's directories, which a user's
/// PATH may lack.
pub fn find_command(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// A command by [`find_command`], or by its bare name so that starting it
/// gives the error.
pub fn command(name: &str) -> Command {
    Command::new(find_command(name).unwrap_or_else(|| name.into()))
}

/// Whether this process is the machine's root.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|self_| {
        use std::os::unix::fs::MetadataExt;
        self_.uid() == 0
    })
}

/// The words before a command that must run as root; `None` where sudo would
/// ask.
fn root_command() -> Option<Vec<String>> {
    if is_root() {
        return Some(Vec::new());
    }
    let sudo = Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    sudo.is_ok_and(|status| status.success())
        .then(|| vec!["sudo".to_owned(), "-n".to_owned()])
}
