//! Filters on the way out of a device, for kernels whose devices have no links
//! to programs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_sys as libbpf;

/// By which the filter is found again: those of others have others.
const HANDLE: u32 = 0x534c;

/// Where among the filters of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Before all others.
    First,
    /// After those that drop.
    Last,
}

impl Turn {
    fn priority(self) -> u32 {
        match self {
            Turn::First => 1,
            Turn::Last => 0xc000,
        }
    }
}

fn result(code: i32) -> io::Result<()> {
    match code {
        0.. => Ok(()),
        _ => Err(io::Error::from_raw_os_error(-code)),
    }
}

fn hook(device: u32, attach_point: u32) -> io::Result<libbpf::bpf_tc_hook> {
    Ok(libbpf::bpf_tc_hook {
        sz: libbpf::size_t::try_from(size_of::<libbpf::bpf_tc_hook>()).map_err(io::Error::other)?,
        ifindex: i32::try_from(device).map_err(io::Error::other)?,
        attach_point,
        ..Default::default()
    })
}

fn options(turn: Turn) -> io::Result<libbpf::bpf_tc_opts> {
    Ok(libbpf::bpf_tc_opts {
        sz: libbpf::size_t::try_from(size_of::<libbpf::bpf_tc_opts>()).map_err(io::Error::other)?,
        handle: HANDLE,
        priority: turn.priority(),
        ..Default::default()
    })
}

/// Puts the program on the device's way out, in place of the one that this put
/// there before. Whether the device had no place for such filters (clsact) and
/// has one now.
pub fn attach(program: BorrowedFd<'_>, device: u32, turn: Turn) -> io::Result<bool> {
    let mut hook = hook(device, libbpf::BPF_TC_EGRESS)?;
    // SAFETY: the structure is whole and lives through the call.
    let made = match result(unsafe { libbpf::bpf_tc_hook_create(&raw mut hook) }) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => false,
        Err(error) => return Err(error),
    };
    let mut options = options(turn)?;
    options.prog_fd = program.as_raw_fd();
    options.flags = libbpf::BPF_TC_F_REPLACE;
    // SAFETY: both structures are whole and live through the call.
    result(unsafe { libbpf::bpf_tc_attach(&raw const hook, &raw mut options) })?;
    Ok(made)
}

/// The number of the program that this put on the device's way out, if it is there.
pub fn attached(device: u32, turn: Turn) -> io::Result<Option<u32>> {
    let hook = hook(device, libbpf::BPF_TC_EGRESS)?;
    let mut options = options(turn)?;
    // SAFETY: both structures are whole and live through the call.
    match result(unsafe { libbpf::bpf_tc_query(&raw const hook, &raw mut options) }) {
        Ok(()) => Ok(Some(options.prog_id)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes it off again; with `place` the device's place for filters too, and
/// what others have put there since. That it is not there is fine.
pub fn detach(device: u32, place: bool, turn: Turn) -> io::Result<()> {
    let points = if place {
        libbpf::BPF_TC_EGRESS | libbpf::BPF_TC_INGRESS
    } else {
        libbpf::BPF_TC_EGRESS
    };
    let mut hook = hook(device, points)?;
    let options = options(turn)?;
    // SAFETY: both structures are whole and live through the calls.
    let code = unsafe {
        if place {
            libbpf::bpf_tc_hook_destroy(&raw mut hook)
        } else {
            libbpf::bpf_tc_detach(&raw const hook, &raw const options)
        }
    };
    match result(code) {
        Err(error)
            if !matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}
