//! The VM's two lives of one small static binary: process 1 of the initramfs
//! (load the few modules, mount the disks, become systemd), and afterwards the
//! agent, a systemd service that runs the one command of this boot.

#[expect(dead_code, reason = "the reading half is xtask's")]
#[path = "../wire.rs"]
mod wire;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move, mount_remount};
use wire::Frame;

/// Where the root of the distribution is mounted before it becomes `/`.
const ROOT: &str = "/newroot";
/// Where this tree's binaries, examples and documents are inside the VM.
const TREE: &str = "/opt/slice";
/// Where slices' files and images are.
const SLICES: &str = "/var/lib/slice";
/// Where the root of the distribution is seen alone.
const DISTRIBUTION: &str = "/mnt/debian";

fn main() -> Result<()> {
    if rustix::process::getpid().is_init() {
        let Err(error) = init();
        // Nobody reads an exit status of process 1: the console must say it.
        eprintln!("slice-vm: {error:#}");
        rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?;
    }
    agent()
}

// ---- process 1 of the initramfs ----

fn init() -> Result<std::convert::Infallible> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        fs::create_dir_all(target)?;
        mount(kind, target, kind, MountFlags::empty(), None)
            .with_context(|| format!("mount {target}"))?;
    }
    load_modules()?;
    if fs::read_to_string("/proc/cmdline")?.contains("slice.probe") {
        // `cargo xtask` asks whether this accelerator boots a kernel at all.
        Frame::Exit(0).write(&mut open_port(Duration::from_secs(10))?)?;
        rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?;
    }
    fs::create_dir_all(ROOT)?;
    mount_when_there("/dev/vda", ROOT, MountFlags::NOATIME)?;
    let release = kernel_release();
    let modules = format!("{ROOT}/usr/lib/modules/{release}");
    fs::create_dir_all(&modules)?;
    mount_when_there("/dev/vdb", &modules, MountFlags::RDONLY)?;
    // The initramfs stays mounted below everything, so its files can be shown
    // where the tree belongs without a copy.
    let tree = format!("{ROOT}{TREE}");
    fs::create_dir_all(&tree)?;
    mount_bind("/payload", &tree).context("show the payload")?;
    for api in ["/dev", "/proc", "/sys"] {
        mount_move(api, format!("{ROOT}{api}")).with_context(|| format!("move {api}"))?;
    }
    rustix::process::chdir(ROOT)?;
    mount_move(".", "/").context("move the root")?;
    rustix::process::chroot(".").context("enter the root")?;
    rustix::process::chdir("/")?;
    Err(Command::new("/sbin/init").env_clear().exec()).context("start systemd")
}

fn load_modules() -> Result<()> {
    // xtask wrote the list in the order of dependence.
    for name in fs::read_to_string("/modules/order")?.lines() {
        let module = File::open(Path::new("/modules").join(name))?;
        match rustix::system::finit_module(&module, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => bail!("load module {name}: {error}"),
        }
    }
    Ok(())
}

fn mount_when_there(device: &str, target: &str, flags: MountFlags) -> Result<()> {
    // Disks are probed after their driver's module has been loaded.
    let until = Instant::now() + Duration::from_secs(20);
    while !Path::new(device).exists() {
        if Instant::now() > until {
            bail!("{device} did not appear");
        }
        thread::sleep(Duration::from_millis(2));
    }
    mount(device, target, "ext4", flags, None).with_context(|| format!("mount {device}"))
}

fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

// ---- the agent ----

fn agent() -> Result<()> {
    network();
    files()?;
    let words = read_words("command")?;
    let Some((program, arguments)) = words.split_first() else {
        bail!("{TREE}/job/command is empty");
    };
    let variables = read_words("environment")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(TREE)
        .envs(variables.iter().filter_map(|word| word.split_once('=')));
    let status = match open_port(Duration::from_secs(2)) {
        Ok(port) => report(command, port)?,
        // An interactive shell has the terminal and needs no report.
        Err(_) => status_code(command.status()?),
    };
    eprintln!("slice-vm: the command ended with status {status}");
    // The disk is thrown away: nothing is lost by not shutting down.
    rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?;
    Ok(())
}

/// Runs the command and sends what it writes as it writes it.
fn report(mut command: Command, mut port: File) -> Result<u8> {
    Frame::Hello(kernel_release()).write(&mut port)?;
    let port = Arc::new(Mutex::new(port));
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let status = match spawned {
        Err(error) => {
            let text = format!("{}: {error}\n", command.get_program().to_string_lossy());
            send(&port, &Frame::Err(text.into_bytes()))?;
            127
        }
        Ok(mut child) => {
            let out = child.stdout.take().context("no stdout")?;
            let err = child.stderr.take().context("no stderr")?;
            let (port_out, port_err) = (Arc::clone(&port), Arc::clone(&port));
            let out = thread::spawn(move || forward(out, &port_out, Frame::Out));
            let err = thread::spawn(move || forward(err, &port_err, Frame::Err));
            let status = status_code(child.wait()?);
            // A daemon that the command left behind may hold the pipes open:
            // what is in them now is sent, its later words are nobody's.
            let until = Instant::now() + Duration::from_secs(1);
            while !(out.is_finished() && err.is_finished()) && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
            status
        }
    };
    send(&port, &Frame::Exit(status))?;
    // xtask ends the VM on seeing the status; this only covers its absence.
    thread::sleep(Duration::from_secs(10));
    Ok(status)
}

fn forward(mut from: impl Read, port: &Mutex<File>, frame: fn(Vec<u8>) -> Frame) -> Result<()> {
    let mut buffer = vec![0u8; wire::FRAME_MAX];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let bytes = buffer.get(..count).unwrap_or_default().to_vec();
        send(port, &frame(bytes))?;
    }
}

fn send(port: &Mutex<File>, frame: &Frame) -> Result<()> {
    let mut port = port
        .lock()
        .map_err(|_| io::Error::other("a sender panicked"))?;
    Ok(frame.write(&mut *port)?)
}

fn status_code(status: std::process::ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    u8::try_from(code.unwrap_or(255)).unwrap_or(255)
}

fn read_words(name: &str) -> Result<Vec<String>> {
    let path = format!("{TREE}/job/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// Opens the virtio serial port by its name; without udev there is no symlink.
fn open_port(patience: Duration) -> Result<File> {
    let until = Instant::now() + patience;
    loop {
        if let Some(node) = find_port() {
            return OpenOptions::new()
                .write(true)
                .open(&node)
                .with_context(|| format!("open {}", node.display()));
        }
        if Instant::now() > until {
            bail!("no virtio serial port named {}", wire::PORT);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn find_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.filter_map(Result::ok).find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim() == wire::PORT).then(|| Path::new("/dev").join(port.file_name()))
    })
}

/// Mounts what a node keeps its slices' files on, with project quotas, and
/// shows the distribution without what is mounted into it, for tests that use
/// it as a reference image.
fn files() -> Result<()> {
    fs::create_dir_all(SLICES)?;
    // Here and not in the initramfs: the kernel asks modprobe for the module
    // of the quota format.
    mount(
        "/dev/vdc",
        SLICES,
        "ext4",
        MountFlags::NOATIME,
        Some(c"prjquota"),
    )
    .with_context(|| format!("mount {SLICES}"))?;
    fs::create_dir_all(DISTRIBUTION)?;
    mount_bind("/", DISTRIBUTION).with_context(|| format!("mount {DISTRIBUTION}"))?;
    mount_remount(DISTRIBUTION, MountFlags::BIND | MountFlags::RDONLY, "")
        .with_context(|| format!("protect {DISTRIBUTION}"))
}

/// Gives eth0 the addresses of QEMU's user network (restricted: no way out).
fn network() {
    // QEMU's router advertises an address when it likes, in the middle of a
    // test that compares the node before and after.
    if let Err(error) = fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "0") {
        eprintln!("slice-vm: refuse router advertisements: {error}");
    }
    for words in [
        "link set lo up",
        "link set eth0 up",
        "addr add 10.0.2.15/24 dev eth0",
        "addr add fec0::15/64 dev eth0 nodad",
        "route add default via 10.0.2.2",
        "route add default via fec0::2 dev eth0",
    ] {
        match Command::new("ip").args(words.split(' ')).status() {
            Ok(status) if status.success() => {}
            outcome => eprintln!("slice-vm: ip {words}: {outcome:?}"),
        }
    }
}
