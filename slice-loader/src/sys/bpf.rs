//! bpf(2) where aya 0.14 has nothing: cgroup links that can be pinned and
//! updated, maps as bytes with batches, probes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libbpf_sys as libbpf;

/// libbpf 1.x returns a negative error number, or -1 with `errno`.
fn result(code: i32) -> io::Result<i32> {
    match code {
        0.. => Ok(code),
        -1 => Err(io::Error::last_os_error()),
        _ => Err(io::Error::from_raw_os_error(-code)),
    }
}

fn owned(code: i32) -> io::Result<OwnedFd> {
    let fd = result(code)?;
    // SAFETY: libbpf just returned this descriptor as a new one of ours;
    // nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// A descriptor for the object pinned at `path`.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: the string is NUL-terminated and outlives the call.
    owned(unsafe { libbpf::bpf_obj_get(path.as_ptr()) })
}

/// Pins an object at `path`, which must not exist yet.
pub fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the string is NUL-terminated and outlives the call; the
    // descriptor is borrowed for it.
    result(unsafe { libbpf::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) })?;
    Ok(())
}

/// Attaches a program to a cgroup or a network namespace by a link.
pub fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    // SAFETY: no options are passed; both descriptors are borrowed for the
    // call.
    owned(unsafe {
        libbpf::bpf_link_create(
            program.as_raw_fd(),
            target.as_raw_fd(),
            attach_type,
            std::ptr::null(),
        )
    })
}

/// Makes a link of an iterator's program: pinned, it is a file that runs the
/// program for each reader.
pub fn iterator_link_create(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: no options are passed; the descriptor is borrowed for the call;
    // iterators have no target, which is 0.
    owned(unsafe {
        libbpf::bpf_link_create(
            program.as_raw_fd(),
            0,
            libbpf::BPF_TRACE_ITER,
            std::ptr::null(),
        )
    })
}

/// Replaces the program of a link; packets are judged by the old one until
/// they are judged by the new one.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no options are passed; both descriptors are borrowed.
    result(unsafe {
        libbpf::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null())
    })?;
    Ok(())
}

/// The kernel's id of the program that a link runs now.
pub fn link_program_id(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = libbpf::bpf_link_info::default();
    let mut length = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: `info` is a plain structure of `length` bytes that the kernel
    // fills up to that length.
    result(unsafe {
        libbpf::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut length)
    })?;
    Ok(info.prog_id)
}

/// A descriptor of the program with this id.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes a number only.
    owned(unsafe { libbpf::bpf_prog_get_fd_by_id(id) })
}

/// A socket filter that puts `word` into the control block and jumps to the
/// program at 0 of `programs`. Where there is none, nothing passes.
pub fn filter_of(programs: &OwnedFd, word: u32) -> io::Result<OwnedFd> {
    const CONTEXT: u8 = 1;
    const KEPT: u8 = 6;
    /// `cb` of `struct __sk_buff` (linux/bpf.h).
    const CONTROL_BLOCK: i16 = 48;
    let map = programs.as_raw_fd();
    let program = [
        // The context survives the calls in register 6.
        instruction(
            libbpf::BPF_ALU64 | libbpf::BPF_MOV | libbpf::BPF_X,
            KEPT,
            CONTEXT,
            0,
            0,
        ),
        instruction(
            libbpf::BPF_ALU64 | libbpf::BPF_MOV | libbpf::BPF_K,
            2,
            0,
            0,
            word.cast_signed(),
        ),
        instruction(
            libbpf::BPF_STX | libbpf::BPF_MEM | libbpf::BPF_W,
            KEPT,
            2,
            CONTROL_BLOCK,
            0,
        ),
        instruction(
            libbpf::BPF_ALU64 | libbpf::BPF_MOV | libbpf::BPF_X,
            1,
            KEPT,
            0,
            0,
        ),
        // Of two words, the second is the upper half.
        instruction(
            libbpf::BPF_LD | libbpf::BPF_IMM | libbpf::BPF_DW,
            2,
            u8::try_from(libbpf::BPF_PSEUDO_MAP_FD).map_err(io::Error::other)?,
            0,
            map,
        ),
        instruction(0, 0, 0, 0, 0),
        instruction(
            libbpf::BPF_ALU64 | libbpf::BPF_MOV | libbpf::BPF_K,
            3,
            0,
            0,
            0,
        ),
        instruction(
            libbpf::BPF_JMP | libbpf::BPF_CALL,
            0,
            0,
            0,
            libbpf::BPF_FUNC_tail_call.cast_signed(),
        ),
        instruction(
            libbpf::BPF_ALU64 | libbpf::BPF_MOV | libbpf::BPF_K,
            0,
            0,
            0,
            0,
        ),
        instruction(libbpf::BPF_JMP | libbpf::BPF_EXIT, 0, 0, 0, 0),
    ];
    // SAFETY: the strings end in zeros, the instructions are as many as is
    // said; all live through the call, which copies them; no options are
    // passed.
    owned(unsafe {
        libbpf::bpf_prog_load(
            libbpf::BPF_PROG_TYPE_SOCKET_FILTER,
            c"slice_capture".as_ptr(),
            c"Dual MIT/GPL".as_ptr(),
            program.as_ptr(),
            libbpf::size_t::try_from(program.len()).map_err(io::Error::other)?,
            std::ptr::null_mut(),
        )
    })
}

fn instruction(code: u32, to: u8, from: u8, off: i16, imm: i32) -> libbpf::bpf_insn {
    let mut instruction = libbpf::bpf_insn {
        // All codes are below 256.
        code: u8::try_from(code).unwrap_or(0),
        off,
        imm,
        ..Default::default()
    };
    instruction.set_dst_reg(to);
    instruction.set_src_reg(from);
    instruction
}

/// Attaches a program to the way out of a device by a link, before all others or
/// after them.
pub fn device_link_create(
    program: BorrowedFd<'_>,
    device: u32,
    first: bool,
) -> io::Result<OwnedFd> {
    let device = i32::try_from(device).map_err(io::Error::other)?;
    let options = libbpf::bpf_link_create_opts {
        sz: libbpf::size_t::try_from(size_of::<libbpf::bpf_link_create_opts>())
            .map_err(io::Error::other)?,
        flags: if first { libbpf::BPF_F_BEFORE } else { 0 },
        ..Default::default()
    };
    // SAFETY: the options are a whole structure that lives through the call; the
    // descriptor is borrowed for it; the target of this type is the number of a
    // device.
    owned(unsafe {
        libbpf::bpf_link_create(
            program.as_raw_fd(),
            device,
            libbpf::BPF_TCX_EGRESS,
            &raw const options,
        )
    })
}

/// The number of the device that such a link is attached to; 0 where the device
/// is gone. An error where it is no such link: the kernel tells of a program by
/// the same call, in another structure.
pub fn link_device(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = libbpf::bpf_link_info::default();
    let mut length = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: as in `link_program_id`; of the union the member is read that
    // links of this type have.
    unsafe {
        result(libbpf::bpf_link_get_info_by_fd(
            link.as_raw_fd(),
            &raw mut info,
            &raw mut length,
        ))?;
        if info.type_ != libbpf::BPF_LINK_TYPE_TCX {
            return Err(io::Error::other("this is no link to a device"));
        }
        Ok(info.__bindgen_anon_1.tcx.ifindex)
    }
}

/// What the kernel says of a program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramInfo {
    /// By which the kernel knows it.
    pub number: u32,
    /// Instructions the verifier looked at.
    pub verified_instructions: u32,
}

/// What the kernel says of the program behind a descriptor.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut info = libbpf::bpf_prog_info::default();
    let mut length = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: as in `link_program_id`; all pointers and counts in `info` are
    // zero, so the kernel writes nowhere else.
    result(unsafe {
        libbpf::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut length)
    })?;
    Ok(ProgramInfo {
        number: info.id,
        verified_instructions: info.verified_insns,
    })
}

/// Whether the kernel loads programs of this type. `false` also without the
/// privilege to ask.
pub fn probe_program_type(program_type: u32) -> bool {
    // SAFETY: the options pointer must be null, and is.
    unsafe { libbpf::libbpf_probe_bpf_prog_type(program_type, std::ptr::null()) == 1 }
}

/// Whether the kernel makes maps of this type.
pub fn probe_map_type(map_type: u32) -> bool {
    // SAFETY: the options pointer must be null, and is.
    unsafe { libbpf::libbpf_probe_bpf_map_type(map_type, std::ptr::null()) == 1 }
}

/// Whether programs of this type may call this helper.
pub fn probe_helper(program_type: u32, helper: u32) -> bool {
    // SAFETY: the options pointer must be null, and is.
    unsafe { libbpf::libbpf_probe_bpf_helper(program_type, helper, std::ptr::null()) == 1 }
}

/// A ring buffer of this many octets.
pub fn ring_create(octets: u32) -> io::Result<OwnedFd> {
    // SAFETY: the string ends in a zero; no options are passed; rings have neither
    // keys nor values.
    owned(unsafe {
        libbpf::bpf_map_create(
            libbpf::BPF_MAP_TYPE_RINGBUF,
            c"slice_audit".as_ptr(),
            0,
            0,
            octets,
            std::ptr::null(),
        )
    })
}

/// Waits until every program that runs now has ended.
///
/// The kernel does so whenever a map in a map is replaced, so that who replaced it
/// may use the former one as its own (`maybe_wait_bpf_programs`): two maps that
/// nobody else knows serve for that.
pub fn wait_for_programs() -> io::Result<()> {
    const ROW: u32 = 4;
    // SAFETY: the string ends in a zero; no options are passed.
    let inner = owned(unsafe {
        libbpf::bpf_map_create(
            libbpf::BPF_MAP_TYPE_ARRAY,
            c"slice_wait".as_ptr(),
            ROW,
            ROW,
            1,
            std::ptr::null(),
        )
    })?;
    let options = libbpf::bpf_map_create_opts {
        sz: libbpf::size_t::try_from(size_of::<libbpf::bpf_map_create_opts>())
            .map_err(io::Error::other)?,
        inner_map_fd: u32::try_from(inner.as_raw_fd()).map_err(io::Error::other)?,
        ..Default::default()
    };
    // SAFETY: as above; the options are a whole structure that lives through the
    // call.
    let outer = owned(unsafe {
        libbpf::bpf_map_create(
            libbpf::BPF_MAP_TYPE_ARRAY_OF_MAPS,
            c"slice_wait".as_ptr(),
            ROW,
            ROW,
            1,
            &raw const options,
        )
    })?;
    Map::from_fd(outer)?.update(&0_u32.to_ne_bytes(), &inner.as_raw_fd().to_ne_bytes())
}

/// CPUs the kernel may ever use: per-CPU values come as that many.
pub fn possible_cpus() -> io::Result<usize> {
    // SAFETY: takes nothing, reads a file of sysfs.
    let count = result(unsafe { libbpf::libbpf_num_possible_cpus() })?;
    usize::try_from(count).map_err(io::Error::other)
}

/// A map of the kernel as bytes. The sizes are the kernel's own, asked when it
/// was opened, so that no call writes past a buffer.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
}

impl Map {
    /// Takes a descriptor of a map; an error where it is something else.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Map> {
        let mut info = libbpf::bpf_map_info::default();
        let mut length = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
        // SAFETY: `info` is a plain structure of `length` bytes that the
        // kernel fills up to that length.
        result(unsafe {
            libbpf::bpf_map_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut length)
        })?;
        let size = |bytes: u32| usize::try_from(bytes).map_err(io::Error::other);
        let mut value_size = size(info.value_size)?;
        if matches!(
            info.type_,
            libbpf::BPF_MAP_TYPE_PERCPU_ARRAY | libbpf::BPF_MAP_TYPE_PERCPU_HASH
        ) {
            // Each CPU's value is padded to 8 bytes.
            value_size = value_size.next_multiple_of(8) * possible_cpus()?;
        }
        Ok(Map {
            fd,
            key_size: size(info.key_size)?,
            value_size,
            max_entries: info.max_entries,
        })
    }

    /// Bytes of a key.
    pub fn key_size(&self) -> usize {
        self.key_size
    }

    /// Bytes of a value; of all CPUs' values where there is one per CPU.
    pub fn value_size(&self) -> usize {
        self.value_size
    }

    /// Rows, or most entries.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    fn check(&self, keys: usize, values: usize, count: usize) -> io::Result<()> {
        if keys != self.key_size * count || values != self.value_size * count {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the map's keys or values have another size",
            ));
        }
        Ok(())
    }

    /// Reads the value of `key` into `value`; `false` where there is none.
    pub fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check(key.len(), value.len(), 1)?;
        // SAFETY: both buffers have the sizes of this map, as just checked.
        let code = unsafe {
            libbpf::bpf_map_lookup_elem(
                self.fd.as_raw_fd(),
                key.as_ptr().cast(),
                value.as_mut_ptr().cast(),
            )
        };
        present(code)
    }

    /// Sets the value of `key`.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key.len(), value.len(), 1)?;
        // SAFETY: both buffers have the sizes of this map, as just checked.
        result(unsafe {
            libbpf::bpf_map_update_elem(
                self.fd.as_raw_fd(),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                libbpf::BPF_ANY.into(),
            )
        })?;
        Ok(())
    }

    /// Sets the value of `key` where there is none; `false` where there is.
    pub fn insert(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        self.check(key.len(), value.len(), 1)?;
        // SAFETY: as in `update`.
        let code = unsafe {
            libbpf::bpf_map_update_elem(
                self.fd.as_raw_fd(),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                libbpf::BPF_NOEXIST.into(),
            )
        };
        match result(code) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            done => done.map(|_| true),
        }
    }

    /// Removes `key`; `false` where it was not there.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.check(key.len(), self.value_size, 1)?;
        // SAFETY: the key has this map's size, as just checked.
        let code = unsafe { libbpf::bpf_map_delete_elem(self.fd.as_raw_fd(), key.as_ptr().cast()) };
        present(code)
    }

    /// Sets many entries with one call: `keys` and `values` hold `count` of
    /// each, one after the other.
    pub fn update_batch(&self, keys: &[u8], values: &[u8], count: usize) -> io::Result<()> {
        self.check(keys.len(), values.len(), count)?;
        if count == 0 {
            return Ok(());
        }
        let mut done = u32::try_from(count).map_err(io::Error::other)?;
        // SAFETY: both buffers hold `count` keys and values of this map's
        // sizes, as just checked; no options are passed.
        result(unsafe {
            libbpf::bpf_map_update_batch(
                self.fd.as_raw_fd(),
                keys.as_ptr().cast(),
                values.as_ptr().cast(),
                &raw mut done,
                std::ptr::null(),
            )
        })?;
        Ok(())
    }

    /// Removes many entries of a hash with one call: `keys` holds `count` of them.
    pub fn delete_batch(&self, keys: &[u8], count: usize) -> io::Result<()> {
        self.check(keys.len(), self.value_size * count, count)?;
        if count == 0 {
            return Ok(());
        }
        let mut done = u32::try_from(count).map_err(io::Error::other)?;
        // SAFETY: the buffer holds `count` keys of this map's size, as just
        // checked; no options are passed.
        result(unsafe {
            libbpf::bpf_map_delete_batch(
                self.fd.as_raw_fd(),
                keys.as_ptr().cast(),
                &raw mut done,
                std::ptr::null(),
            )
        })?;
        Ok(())
    }

    /// Reads all entries in batches: `visit` gets keys and values, each one
    /// after the other. Entries that come or go meanwhile may be missing.
    pub fn visit(&self, mut visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        // Large enough that a bucket of a hash does not overflow it in
        // practice; the kernel says ENOSPC where it does, and then it grows.
        let rows = usize::try_from(self.max_entries).map_err(io::Error::other)?;
        let mut chunk = rows.clamp(1, (BATCH_BYTES / self.value_size.max(1)).max(64));
        // The cursor of a hash is a u32, of the others a key.
        let mut cursor = vec![0_u8; self.key_size.max(8)];
        let mut started = false;
        loop {
            let mut keys = vec![0_u8; self.key_size * chunk];
            let mut values = vec![0_u8; self.value_size * chunk];
            let mut count = u32::try_from(chunk).map_err(io::Error::other)?;
            let mut next = cursor.clone();
            let from = if started {
                cursor.as_mut_ptr()
            } else {
                std::ptr::null_mut()
            };
            // SAFETY: the buffers have room for `count` keys and values of
            // this map's sizes; the cursors have room for a key and for a u32,
            // the two forms the kernel uses; no options are passed.
            let code = unsafe {
                libbpf::bpf_map_lookup_batch(
                    self.fd.as_raw_fd(),
                    from.cast(),
                    next.as_mut_ptr().cast(),
                    keys.as_mut_ptr().cast(),
                    values.as_mut_ptr().cast(),
                    &raw mut count,
                    std::ptr::null(),
                )
            };
            let ended = match result(code) {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    chunk *= 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = usize::try_from(count).map_err(io::Error::other)?.min(chunk);
            visit(
                &keys[..count * self.key_size],
                &values[..count * self.value_size],
            );
            if ended {
                return Ok(());
            }
            cursor = next;
            started = true;
        }
    }
}

/// About how many bytes of values one batch reads.
const BATCH_BYTES: usize = 1 << 20;

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `ENOENT` is an answer, not an error.
fn present(code: i32) -> io::Result<bool> {
    match result(code) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Keeps libbpf from printing to standard error: what it says is in the error
/// we return.
pub fn silence_libbpf() {
    // SAFETY: a null function is documented to switch printing off.
    unsafe {
        libbpf::libbpf_set_print(None);
    }
}
