//! Which calls go to the broker: a seccomp filter in classic BPF.
//!
//! It looks at the architecture, the call's number, the family and the type:
//! all scalars, which no other thread can change meanwhile. Programs of 32 bits
//! that call `socketcall()` keep their arguments in memory; they are not looked
//! at and the kernel refuses them. Calls by other ways (x32) are the business
//! of the filters that were there before.

use libc::sock_filter;

/// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_I386`.
const NATIVE: u32 = 0xc000_003e;
const COMPAT: u32 = 0x4000_0003;
/// socket(2), in each of the two.
const SOCKET: u32 = 41;
const SOCKET_32: u32 = 359;

/// `SOCK_TYPE_MASK` of linux/net.h; the bits above are flags.
pub const TYPE_MASK: u32 = 0xf;

/// Where `struct seccomp_data` has the number, the architecture, and the lower
/// halves of the first two arguments: socket(2) takes no more of them.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FAMILY: u32 = 16;
const TYPE: u32 = 24;

/// Instructions of classic BPF, by the numbers of linux/bpf_common.h.
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The filter.
#[must_use]
pub fn program() -> Vec<sock_filter> {
    let [inet, inet6, packet] =
        [libc::AF_INET, libc::AF_INET6, libc::AF_PACKET].map(i32::cast_unsigned);
    vec![
        instruction(LOAD_WORD, 0, 0, ARCHITECTURE),
        instruction(JUMP_EQUAL, 0, 2, NATIVE),
        instruction(LOAD_WORD, 0, 0, NUMBER),
        instruction(JUMP_EQUAL, 3, 10, SOCKET),
        instruction(JUMP_EQUAL, 0, 9, COMPAT),
        instruction(LOAD_WORD, 0, 0, NUMBER),
        instruction(JUMP_EQUAL, 0, 7, SOCKET_32),
        instruction(LOAD_WORD, 0, 0, FAMILY),
        instruction(JUMP_EQUAL, 6, 0, packet),
        instruction(JUMP_EQUAL, 1, 0, inet),
        instruction(JUMP_EQUAL, 0, 3, inet6),
        instruction(LOAD_WORD, 0, 0, TYPE),
        instruction(AND, 0, 0, TYPE_MASK),
        instruction(JUMP_EQUAL, 1, 0, libc::SOCK_RAW.cast_unsigned()),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the filter hands the call over, as the kernel runs it.
    fn hands_over(architecture: u32, number: u32, family: u32, kind: u32) -> bool {
        let program = program();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let instruction = program[at];
            at += 1;
            let taken = match instruction.code {
                LOAD_WORD => {
                    accumulator = match instruction.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        FAMILY => family,
                        TYPE => kind,
                        other => panic!("loads {other}"),
                    };
                    continue;
                }
                AND => {
                    accumulator &= instruction.k;
                    continue;
                }
                JUMP_EQUAL => accumulator == instruction.k,
                _ => return instruction.k == libc::SECCOMP_RET_USER_NOTIF,
            };
            let (then, otherwise) = (usize::from(instruction.jt), usize::from(instruction.jf));
            at += if taken { then } else { otherwise };
        }
    }

    #[test]
    fn raw_and_packet_sockets_go_to_the_broker_and_nothing_else_does() {
        let flags = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).cast_unsigned();
        for (architecture, socket) in [(NATIVE, SOCKET), (COMPAT, SOCKET_32)] {
            for number in 0..500 {
                for family in 0..46 {
                    for kind in 0..12 {
                        let wanted = number == socket
                            && (family == 17 || (family == 2 || family == 10) && kind == 3);
                        for kind in [kind, kind | flags] {
                            assert_eq!(
                                hands_over(architecture, number, family, kind),
                                wanted,
                                "call {number}, family {family}, type {kind}"
                            );
                        }
                    }
                }
            }
        }
        assert!(!hands_over(0xc000_00b7, SOCKET, 17, 3));
        assert!(!hands_over(NATIVE, 0x4000_0000 | SOCKET, 17, 3));
    }
}
