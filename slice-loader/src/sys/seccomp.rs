//! Filters of system calls, and the few instructions that they are made of.

use std::io;

use libc::sock_filter;

/// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_I386`.
pub const NATIVE: u32 = 0xc000_003e;
/// The same for programs of 32 bits.
pub const COMPAT: u32 = 0x4000_0003;
/// Numbers from here on are those of the x32 way, which has others.
pub const X32: u32 = 0x4000_0000;

/// Where `struct seccomp_data` has the number of the call.
pub const NUMBER: u32 = 0;
/// And the architecture.
pub const ARCHITECTURE: u32 = 4;
/// And the lower half of the second argument.
pub const SECOND_ARGUMENT: u32 = 24;

/// Instructions of classic BPF, by the numbers of `linux/bpf_common.h`.
const LOAD_WORD: u16 = 0x20;
/// Jump if equal.
const JUMP_EQUAL: u16 = 0x15;
/// Jump if not less.
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// The call is made.
pub const ALLOW: sock_filter = instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Takes up a word of `struct seccomp_data`.
#[must_use]
pub const fn load(offset: u32) -> sock_filter {
    instruction(LOAD_WORD, 0, 0, offset)
}

/// Jumps over so many instructions if the word is this, or is not.
#[must_use]
pub const fn equal(value: u32, then: u8, otherwise: u8) -> sock_filter {
    instruction(JUMP_EQUAL, then, otherwise, value)
}

/// Likewise, if the word is not less than this.
#[must_use]
pub const fn at_least(value: u32, then: u8, otherwise: u8) -> sock_filter {
    instruction(JUMP_AT_LEAST, then, otherwise, value)
}

/// The call is not made, and fails.
#[must_use]
pub const fn refuse(errno: libc::c_int) -> sock_filter {
    instruction(
        RETURN,
        0,
        0,
        libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(),
    )
}

/// What a filter answers to a call whose words `word` tells by their places, as the
/// kernel runs it.
#[cfg(test)]
pub fn answer(program: &[sock_filter], word: impl Fn(u32) -> u32) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let instruction = program[at];
        at += 1;
        let taken = match instruction.code {
            LOAD_WORD => {
                accumulator = word(instruction.k);
                continue;
            }
            JUMP_EQUAL => accumulator == instruction.k,
            JUMP_AT_LEAST => accumulator >= instruction.k,
            RETURN => return instruction.k,
            other => panic!("no instruction: {other:#x}"),
        };
        let (then, otherwise) = (instruction.jt, instruction.jf);
        at += usize::from(if taken { then } else { otherwise });
    }
}

/// From now on this process, and all that it starts, makes system calls only as
/// the filter lets it.
///
/// # Errors
/// The kernel has no such filters, finds a mistake in this one, or this process
/// could give programs with more rights than its own fewer than they expect: it
/// has neither CAP_SYS_ADMIN in its user namespace nor `no_new_privs`.
pub fn confine(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to as many instructions as it says, which live
    // through the call; the kernel copies and checks them, and writes nothing.
    let code = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
