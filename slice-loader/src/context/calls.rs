//! System calls that no program of a slice makes: those that use up what the
//! kernel keeps for all without a bound that could be a slice's, that have the
//! kernel run programs of the node for a slice, or that read the node's log.
//!
//! A seccomp filter, since the kernel has no other place to refuse them: there
//! is no LSM hook where asynchronous I/O is set up, and keys are made in the
//! name of each of a slice's 65,536 users, each with a quota of its own. The
//! filter is for whole calls by their number, so nothing that another thread
//! writes meanwhile matters; io_uring, which no filter sees, has none of them.

use libc::sock_filter;

use crate::sys::seccomp::{
    ALLOW, ARCHITECTURE, COMPAT, NATIVE, NUMBER, X32, at_least, equal, load, refuse,
};

/// One system call, by its number in each of the two ways to call a kernel for
/// x86-64.
struct Refused {
    number: u32,
    /// For programs of 32 bits: any program may call this way.
    number_32: u32,
    /// What the caller sees; programs know it of kernels that are built or set
    /// up without the call.
    errno: libc::c_int,
}

const REFUSED: [Refused; 6] = [
    // The kernel's log, which tells of everybody; whether ordinary users may
    // read it is a setting of the node (`kernel.dmesg_restrict`).
    Refused {
        number: 103, // syslog
        number_32: 103,
        errno: libc::EPERM,
    },
    // Asynchronous I/O: `fs.aio-max-nr` is one number for the node.
    Refused {
        number: 206, // io_setup
        number_32: 245,
        errno: libc::ENOSYS,
    },
    // Keys: none of their memory is charged to a cgroup, and asking for one
    // that is missing runs /sbin/request-key as the node's root.
    Refused {
        number: 248, // add_key
        number_32: 286,
        errno: libc::ENOSYS,
    },
    Refused {
        number: 249, // request_key
        number_32: 287,
        errno: libc::ENOSYS,
    },
    Refused {
        number: 250, // keyctl
        number_32: 288,
        errno: libc::ENOSYS,
    },
    // Counters of the processor: buffers are locked memory of each of a
    // slice's users, and charged to no cgroup.
    Refused {
        number: 298, // perf_event_open
        number_32: 336,
        errno: libc::EACCES,
    },
];

/// The filter: a list per architecture; what comes any other way is refused.
#[must_use]
pub fn filter() -> Vec<sock_filter> {
    let list = |numbers: fn(&Refused) -> u32| {
        REFUSED.iter().flat_map(move |call| {
            // One not equal jumps over the refusal.
            [equal(numbers(call), 0, 1), refuse(call.errno)]
        })
    };
    let mut native = vec![load(NUMBER), at_least(X32, 0, 1), refuse(libc::ENOSYS)];
    native.extend(list(|call| call.number));
    native.push(ALLOW);
    let mut compat = vec![load(NUMBER)];
    compat.extend(list(|call| call.number_32));
    compat.push(ALLOW);
    // Far less than 256 instructions; a longer table would not pass the test.
    let over = u8::try_from(native.len()).unwrap_or(u8::MAX);
    let mut program = vec![load(ARCHITECTURE), equal(NATIVE, 0, over)];
    program.extend(native);
    program.extend([equal(COMPAT, 1, 0), refuse(libc::ENOSYS)]);
    program.extend(compat);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp;

    /// What the filter answers.
    fn run(architecture: u32, number: u32) -> u32 {
        seccomp::answer(&filter(), |word| match word {
            NUMBER => number,
            ARCHITECTURE => architecture,
            other => panic!("loads {other}"),
        })
    }

    fn errno(errno: libc::c_int) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
    }

    #[test]
    fn what_the_filter_refuses_is_refused_in_both_ways_to_call_and_nothing_else_is() {
        for (architecture, calls) in [
            (NATIVE, [206, 248, 249, 250, 298, 103]),
            (COMPAT, [245, 286, 287, 288, 336, 103]),
        ] {
            for number in 0..1000 {
                let expected = match calls.iter().position(|call| *call == number) {
                    None => libc::SECCOMP_RET_ALLOW,
                    Some(4) => errno(libc::EACCES),
                    Some(5) => errno(libc::EPERM),
                    Some(_) => errno(libc::ENOSYS),
                };
                assert_eq!(run(architecture, number), expected, "call {number}");
            }
        }
    }

    #[test]
    fn numbers_of_another_way_to_call_are_no_way_round() {
        for number in [0, 206, 512, 543] {
            assert_eq!(run(NATIVE, X32 | number), errno(libc::ENOSYS));
            assert_eq!(run(0xc000_00b7, number), errno(libc::ENOSYS));
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_calls() {
        let numbers = [
            libc::SYS_syslog,
            libc::SYS_io_setup,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_keyctl,
            libc::SYS_perf_event_open,
        ];
        assert_eq!(numbers, REFUSED.map(|call| i64::from(call.number)));
    }
}
