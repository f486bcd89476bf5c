//! How programs come to raw sockets: threads, signals, flags, the entries of
//! other architectures, seccomp filters of their own, ordinary users.

use anyhow::{Result, ensure};

use crate::node::Node;
use crate::raw::{ECHO, SLICE, WIRE, open, program, python};
use crate::runner::{Test, test};
use crate::stage::{PEER, Sysctl};

pub const TESTS: &[Test] = &[
    test(
        "raw_sockets_have_the_flags_that_were_asked_for",
        raw_sockets_have_the_flags,
    )
    .on_stage(),
    test(
        "threads_and_signals_get_each_raw_socket_once",
        threads_and_signals_get_each_socket_once,
    )
    .on_stage(),
    test(
        "programs_of_32_bits_get_raw_sockets_and_no_other_way_in",
        programs_of_32_bits,
    )
    .on_stage(),
    test(
        "a_seccomp_filter_of_a_slice_changes_nothing_and_a_listener_is_busy",
        filters_of_a_slice,
    )
    .on_stage(),
    test(
        "ordinary_users_of_a_slice_measure_where_the_distribution_lets_them",
        ordinary_users,
    )
    .on_stage(),
];

fn raw_sockets_have_the_flags(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    const FLAGS: &str = r"
import ctypes, fcntl, os, socket
libc = ctypes.CDLL(None, use_errno=True)
for family, protocol in ((2, 1), (10, 58), (17, 0)):
    for flags in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK):
        fd = libc.socket(family, 3 | flags, protocol)
        print(fcntl.fcntl(fd, fcntl.F_GETFD) * 2 + bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK), end=' ')
        os.close(fd)
    libc.socket(family, 3 | 1 << 20, protocol)
    print(ctypes.get_errno())
";
    let said = python(&site, SLICE, FLAGS)?;
    let expected = "0 2 1 3 22\n".repeat(3);
    ensure!(said == expected, "the flags are: {said}");
    Ok(())
}

fn threads_and_signals_get_each_socket_once(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    // A handler in C interrupts whichever thread it is sent to.
    const MANY: &str = r"
import os, signal, socket, threading, time
signal.signal(signal.SIGUSR1, lambda *_: None)
for restart in (True, False):
    signal.siginterrupt(signal.SIGUSR1, not restart)
    before = set(os.listdir('/proc/self/fd'))
    got, errors, done = [], [], threading.Event()
    def take():
        for _ in range(60):
            try:
                got.append(socket.socket(2, 3, 1))
            except OSError as error:
                errors.append(error.errno)
    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    pokes = 0
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            try:
                signal.pthread_kill(thread.ident, signal.SIGUSR1)
                pokes += 1
            except ProcessLookupError:
                pass
        time.sleep(0.0005)
    fds = {str(sock.fileno()) for sock in got}
    # The directory itself was one while it was read.
    more = len(set(os.listdir('/proc/self/fd')) - before)
    right = len(fds) == len(got) and more - len(fds) in (0, 1) and len(got) + len(errors) == 240
    print(restart, right and pokes > 20, sorted(set(errors)), len(errors))
    for sock in got:
        sock.close()
";
    let said = python(&site, SLICE, MANY)?;
    let mut lines = said.lines();
    let (first, second) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    ensure!(first == "True True [] 0", "with SA_RESTART: {said}");
    // EINTR, where the program asked for it; then there is no socket.
    ensure!(
        second.starts_with("False True [] ") || second.starts_with("False True [4] "),
        "without: {said}"
    );
    Ok(())
}

fn programs_of_32_bits(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    const ENTRY: &str = r"
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
# long call(number, a, b, c): int 0x80 with them in eax, ebx, ecx, edx.
code.write(bytes.fromhex('5389f889f34989c889d14489c2cd805b4898c3'))
entry = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 4)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
low = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)
arguments = ctypes.addressof(ctypes.c_char.from_buffer(low))
def socketcall(*words):
    low.seek(0)
    low.write(struct.pack('3I', *words))
    return entry(102, 1, arguments, 0)
def word(answer):
    return 'made' if answer >= 0 else answer
raw = entry(359, 2, 3 | socket.SOCK_CLOEXEC, 1)
print(word(raw), word(entry(359, 17, 3, 0)), word(entry(359, 2, 1, 0)), socketcall(2, 3, 1), socketcall(17, 3, 0), word(socketcall(2, 1, 0)))
# What came that way is looked at as any other.
sock = socket.socket(fileno=raw)
sock.sendto(icmp(8, 0, struct.pack('!HH', 99, 1), b'echo'), (THERE4, 0))
sock.settimeout(5)
print(sock.recv(2048)[20], end=' ')
try:
    sock.sendto(icmp(5, 0, struct.pack('!HH', 99, 1), b'echo'), (THERE4, 0))
except OSError as error:
    print(error.errno)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(ctypes.c_long(0x40000000 + 41), 2, 3, 1)
print(ctypes.get_errno())
";
    let said = python(&site, SLICE, &program(&[WIRE, ENTRY]))?;
    ensure!(
        said == "made made made -1 -1 made\n0 1\n38\n",
        "by other entries: {said}"
    );
    Ok(())
}

fn filters_of_a_slice(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    const FILTER: &str = r"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def install(flags, action):
    libc.prctl(38, 1, 0, 0, 0)
    filter = (ctypes.c_uint64 * 1)(0x0006 | action << 32)
    program = struct.pack('HxxxxxxP', 1, ctypes.addressof(filter))
    answer = libc.syscall(317, 1, flags, program)
    return 0 if answer >= 0 else ctypes.get_errno()
# A listener of its own; one that allows everything.
print(install(8, 0x7fc00000), install(0, 0x7fff0000), install(1, 0x7fff0000))
print(ask(socket.AF_INET, THERE4, 4242))
sock = socket.socket(2, 3, 1)
try:
    sock.sendto(icmp(5, 0, struct.pack('!HH', 99, 1), b'echo'), (THERE4, 0))
except OSError as error:
    print(error.errno)
";
    let said = python(&site, SLICE, &program(&[WIRE, ECHO, FILTER]))?;
    ensure!(said == "16 0 0\n(True, [])\n1\n", "with filters: {said}");
    Ok(())
}

fn ordinary_users(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let peer = PEER[0].to_string();
    const PING: &[&str] = &["ping", "-n", "-c", "1", "-W", "5"];
    const TRACE: &[&str] = &["traceroute", "-n", "-q", "1", "-w", "3", "-m", "1"];
    const MTR: &[&str] = &["mtr", "-n", "-r", "-c", "1", "-m", "1"];
    const CAPTURE: &[&str] = &["tcpdump", "-n", "-c", "1", "-i", "any", "host"];
    let trace_icmp = [TRACE, &["-I"]].concat();
    let trace_tcp = [TRACE, &["-T", "-p", "9"]].concat();
    let run = |words: &[&str], expected: bool| -> Result<()> {
        let user = ["exec", "--user", "nobody", SLICE, "--"];
        let said = site.slice(&[&user[..], words, &[&peer]].concat())?;
        let went = said.status == 0;
        ensure!(
            went == expected && (!went || said.stdout.contains(&peer)),
            "{words:?} ended with {}: {}{}",
            said.status,
            said.stdout,
            said.stderr
        );
        Ok(())
    };
    // Sockets that ping without a right are the node owner's to give.
    for (range, pings) in [("1 0", false), ("0 2147483647", true)] {
        let _range = Sysctl::set("net.ipv4.ping_group_range", range)?;
        run(PING, pings)?;
        run(&trace_icmp, pings)?;
        run(MTR, pings)?;
        run(TRACE, true)?;
        run(&trace_tcp, false)?;
        run(CAPTURE, false)?;
    }
    // The slice's root gives the right to a file, as distributions do.
    let _range = Sysctl::set("net.ipv4.ping_group_range", "1 0")?;
    const OWN: &str = "/usr/local/bin/own-ping";
    let line = format!("cp /usr/bin/ping {OWN} && setcap cap_net_raw+ep {OWN}");
    site.must(&["exec", SLICE, "--", "sh", "-c", &line])?;
    run(&[&[OWN], &PING[1..]].concat(), true)?;
    site.must(&["exec", SLICE, "--", "rm", OWN])?;
    Ok(())
}
