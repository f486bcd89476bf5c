//! The process that parses what slices write gives up all that it could do
//! with more than the descriptors it has: its user, its rights, new files,
//! sockets, processes and programs.

use anyhow::Context;
use libc::{c_long, sock_filter};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::sys::seccomp::{
    self, ALLOW, ARCHITECTURE, NATIVE, NUMBER, SECOND_ARGUMENT, X32, at_least, equal, load, refuse,
};

/// Its user and group. systemd's list of ids leaves these unused, since some
/// programs take ids for signed numbers; this process makes no file, and no
/// other has it: not even its signals reach anybody.
const USER: u32 = 0xfff0_51ce;

/// Memory that it may have for its data: 80 MiB are room for answers, and at most
/// 12 KiB each connection takes, of which 5,000 slices have 7,000. One that needs
/// more ends, and the daemon starts another.
const DATA: u64 = 256 << 20;

/// The system calls that are left: reading, writing and waiting on what is
/// open, taking connections, memory, time, and the end. None of them hands a
/// descriptor on: who took the process over could give slices no listener of others.
const LEFT: [c_long; 41] = [
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_listen,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Gives up everything. What is open stays open.
///
/// # Errors
/// Something cannot be given up: then nothing must be parsed.
pub fn give_up() -> anyhow::Result<()> {
    let own = |what: &'static str| format!("give up {what}");
    setrlimit(Resource::RLIMIT_DATA, DATA, DATA).with_context(|| own("memory"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).with_context(|| own("core dumps"))?;
    setgroups(&[]).with_context(|| own("groups"))?;
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    setresgid(group, group, group).with_context(|| own("the group"))?;
    // With the user go all capabilities.
    setresuid(user, user, user).with_context(|| own("the user"))?;
    prctl::set_no_new_privs().with_context(|| own("new rights"))?;
    prctl::set_dumpable(false).with_context(|| own("being looked into"))?;
    seccomp::confine(&filter()).with_context(|| own("system calls"))
}

/// The filter: what is not left fails with EPERM.
fn filter() -> Vec<sock_filter> {
    let mut program = vec![
        load(ARCHITECTURE),
        equal(NATIVE, 1, 0),
        refuse(libc::EPERM),
        load(NUMBER),
        at_least(X32, 0, 1),
        refuse(libc::EPERM),
    ];
    let number = |call: c_long| u32::try_from(call).unwrap_or(u32::MAX);
    for call in LEFT {
        // One not equal jumps over the permission.
        program.extend([equal(number(call), 0, 1), ALLOW]);
    }
    // That a socket shall not block is said by this call, and nothing else.
    program.extend([
        equal(number(libc::SYS_ioctl), 0, 3),
        load(SECOND_ARGUMENT),
        equal(u32::try_from(libc::FIONBIO).unwrap_or(u32::MAX), 0, 1),
        ALLOW,
        refuse(libc::EPERM),
    ]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the filter lets the call be made.
    fn run(architecture: u32, number: c_long, second: u32) -> bool {
        let answer = seccomp::answer(&filter(), |word| match word {
            NUMBER => u32::try_from(number).unwrap(),
            ARCHITECTURE => architecture,
            SECOND_ARGUMENT => second,
            other => panic!("loads {other}"),
        });
        answer == libc::SECCOMP_RET_ALLOW
    }

    #[test]
    fn nothing_but_what_is_left_can_be_called() {
        for number in 0..1000 {
            assert_eq!(run(NATIVE, number, 0), LEFT.contains(&number), "{number}");
            assert!(!run(0x4000_0003, number, 0), "{number} by 32 bits");
            assert!(
                !run(NATIVE, number | c_long::from(X32), 0),
                "{number} by x32"
            );
        }
        for call in [
            // What is open is not handed on.
            libc::SYS_sendmsg,
            libc::SYS_sendmmsg,
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_clone,
            libc::SYS_execve,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
        ] {
            assert!(!run(NATIVE, call, 0), "{call}");
        }
    }

    #[test]
    fn of_ioctl_only_one_request_is_left() {
        let request = u32::try_from(libc::FIONBIO).unwrap();
        assert!(run(NATIVE, libc::SYS_ioctl, request));
        assert!(!run(NATIVE, libc::SYS_ioctl, request - 1));
    }
}
