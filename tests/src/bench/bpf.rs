//! The calls of the kernel that a bench needs and no crate has: programs of a
//! few instructions, arrays of programs to jump to, links that go when they are
//! closed, test runs, the cookie of the network namespace.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use libbpf_sys as libbpf;
use zerocopy::{Immutable, IntoBytes};

/// One instruction of a program, encoded.
pub type Instruction = [u8; 8];

/// A test run: nanoseconds of one round, all rounds' mean, and the verdict of
/// the last.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// As the kernel rounds it, to one nanosecond.
    pub ns: f64,
    /// What the program returned.
    pub verdict: u32,
}

fn result(code: i32) -> io::Result<i32> {
    // libbpf 1 returns the negative errno.
    if code < 0 {
        Err(io::Error::from_raw_os_error(-code))
    } else {
        Ok(code)
    }
}

fn owned(code: i32) -> io::Result<OwnedFd> {
    let fd = result(code)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a program is loaded as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `cgroup_skb`, for `BPF_CGROUP_INET_INGRESS` or `BPF_CGROUP_INET_EGRESS`.
    Cgroup(u32),
    /// On the way out of a device.
    Device,
    /// A socket's filter.
    Filter,
}

/// Loads a program.
pub fn load(kind: Kind, instructions: &[Instruction]) -> Result<OwnedFd> {
    let (program, attach_type) = match kind {
        Kind::Cgroup(attach_type) => (libbpf::BPF_PROG_TYPE_CGROUP_SKB, attach_type),
        Kind::Device => (libbpf::BPF_PROG_TYPE_SCHED_CLS, 0),
        Kind::Filter => (libbpf::BPF_PROG_TYPE_SOCKET_FILTER, 0),
    };
    let mut options = libbpf::bpf_prog_load_opts {
        sz: size_of::<libbpf::bpf_prog_load_opts>() as libbpf::size_t,
        expected_attach_type: attach_type,
        ..libbpf::bpf_prog_load_opts::default()
    };
    // SAFETY: the strings end in NUL, the instructions are as many as said and
    // laid out as `struct bpf_insn`, the options say their own size.
    let fd = unsafe {
        libbpf::bpf_prog_load(
            program,
            c"bench".as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr().cast(),
            instructions.len() as libbpf::size_t,
            &raw mut options,
        )
    };
    owned(fd).context("load a program of the bench")
}

/// An array of these programs, to jump to by their place in it.
pub fn jump_table(programs: &[BorrowedFd<'_>]) -> Result<OwnedFd> {
    let rows = u32::try_from(programs.len())?;
    // SAFETY: the name ends in NUL; there are no options.
    let table = owned(unsafe {
        libbpf::bpf_map_create(
            libbpf::BPF_MAP_TYPE_PROG_ARRAY,
            c"bench".as_ptr(),
            4,
            4,
            rows,
            std::ptr::null(),
        )
    })
    .context("make an array of programs")?;
    for (row, program) in (0u32..).zip(programs) {
        let fd = program.as_raw_fd();
        set_one(table.as_raw_fd(), row.as_bytes(), fd.as_bytes())
            .context("put a program into an array of programs")?;
    }
    Ok(table)
}

fn set_one(map: i32, key: &[u8], value: &[u8]) -> io::Result<()> {
    // SAFETY: the callers made sure that the map's keys and values are as long
    // as these.
    result(unsafe {
        libbpf::bpf_map_update_elem(map, key.as_ptr().cast(), value.as_ptr().cast(), 0)
    })?;
    Ok(())
}

/// Sets entries of a map whose values are not per CPU.
pub fn set<K, V>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    let mut info = libbpf::bpf_map_info::default();
    let mut length = u32::try_from(size_of_val(&info))?;
    // SAFETY: `info` has `length` bytes for the kernel to fill.
    result(unsafe {
        libbpf::bpf_map_get_info_by_fd(map.as_raw_fd(), &raw mut info, &raw mut length)
    })
    .context("ask about a map")?;
    ensure!(
        info.key_size as usize == size_of::<K>() && info.value_size as usize == size_of::<V>(),
        "a map has keys and values of {} and {} bytes, not {} and {}",
        info.key_size,
        info.value_size,
        size_of::<K>(),
        size_of::<V>()
    );
    for (key, value) in entries {
        set_one(map.as_raw_fd(), key.as_bytes(), value.as_bytes()).context("set a map's entry")?;
    }
    Ok(())
}

/// A packet of a test run.
#[derive(Clone, Debug)]
pub struct Packet {
    /// From its Ethernet header on.
    frame: Vec<u8>,
    /// The beginning of its `struct __sk_buff`.
    context: Vec<u8>,
}

/// Offsets in `struct __sk_buff`: the device, the control block, what follows.
const SKB_DEVICE: usize = 40;
const SKB_CONTROL: usize = 48;
const SKB_HASH: usize = 68;

impl Packet {
    /// A packet that stays inside the node.
    pub fn new(frame: Vec<u8>) -> Packet {
        let context = Vec::new();
        Packet { frame, context }
    }

    /// The same on a device, with the first word of the control block.
    pub fn on(frame: Vec<u8>, device: u32, control: u32) -> Packet {
        let mut context = vec![0; SKB_HASH];
        context[SKB_DEVICE..SKB_DEVICE + 4].copy_from_slice(&device.to_ne_bytes());
        context[SKB_CONTROL..SKB_CONTROL + 4].copy_from_slice(&control.to_ne_bytes());
        Packet { frame, context }
    }
}

/// Runs a program `repeat` times on a packet. All rounds see the same socket,
/// which the kernel makes for the run, in the cgroup of this process.
pub fn test_run(program: BorrowedFd<'_>, packet: &Packet, repeat: u32) -> Result<Run> {
    let Packet { frame, context } = packet;
    let mut options = libbpf::bpf_test_run_opts {
        sz: size_of::<libbpf::bpf_test_run_opts>() as libbpf::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: u32::try_from(frame.len())?,
        ctx_in: if context.is_empty() {
            std::ptr::null()
        } else {
            context.as_ptr().cast()
        },
        ctx_size_in: u32::try_from(context.len())?,
        repeat: i32::try_from(repeat)?,
        ..libbpf::bpf_test_run_opts::default()
    };
    // SAFETY: the options say their own size and those of the frame and of its
    // context, which outlive the call; nothing is to be written.
    result(unsafe { libbpf::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) })
        .context("test-run a program")?;
    Ok(Run {
        ns: f64::from(options.duration),
        verdict: options.retval,
    })
}

/// Attaches a program to a cgroup for as long as the link lives.
pub fn attach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> Result<OwnedFd> {
    // SAFETY: there are no options; both descriptors are borrowed for the call.
    let link = unsafe {
        libbpf::bpf_link_create(
            program.as_raw_fd(),
            cgroup.as_raw_fd(),
            attach_type,
            std::ptr::null(),
        )
    };
    owned(link).context("attach a program to a cgroup")
}

/// `SO_NETNS_COOKIE` of this process's network namespace.
pub fn netns_cookie() -> Result<u64> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie))?;
    // SAFETY: the kernel writes at most `length` bytes, which `cookie` has.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    ensure!(
        code == 0,
        "ask for SO_NETNS_COOKIE: {}",
        io::Error::last_os_error()
    );
    Ok(cookie)
}
