# Reaches for processes, namespaces and descriptors of others.

import fcntl

# Listed by a descriptor of its own, the fourth.
expect("it has the descriptors", sorted(os.listdir("/proc/self/fd")) == ["0", "1", "2", "3"], os.listdir("/proc/self/fd"))
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
mine = {int(name) for name in os.listdir("/proc") if name.isdigit()}
word = ctypes.create_string_buffer(16)
piece = (ctypes.c_ulong * 2)(ctypes.addressof(word), 8)

for pid in range(1, 1500):
    if pid in mine or os.path.exists(f"/proc/{pid}"):
        continue
    attempt(f"signal process {pid}", lambda: os.kill(pid, 0), "ESRCH")
    attempt(f"pidfd_open {pid}", lambda: call(434, pid, 0), "ESRCH")
    attempt(f"attach to {pid}", lambda: call(101, PTRACE_ATTACH, pid, 0, 0), "ESRCH")
    attempt(f"seize {pid}", lambda: call(101, PTRACE_SEIZE, pid, 0, 0), "ESRCH")
    attempt(
        f"read memory of {pid}",
        lambda: call(310, pid, piece, 1, piece, 1, 0),
        "ESRCH",
    )
    attempt(f"priority of {pid}", lambda: os.setpriority(os.PRIO_PROCESS, pid, 5), "ESRCH")
    attempt(f"limits of {pid}", lambda: call(302, pid, 7, None, word), "ESRCH")
    attempt(f"processors of {pid}", lambda: os.sched_setaffinity(pid, {0}), "ESRCH")
    attempt(f"pages of {pid}", lambda: call(256, pid, 1, piece, piece), "ESRCH")

# Namespaces that its own processes are in and that the node owns.
for kind in ("net", "pid"):
    attempt(f"enter {kind} namespace", lambda: call(308, os.open(f"/proc/1/ns/{kind}", 0), 0), "EPERM")
for kind in ("net", "pid", "user"):
    place = os.open(f"/proc/1/ns/{kind}", 0)
    # NS_GET_USERNS, NS_GET_PARENT
    attempt(f"owner of {kind} namespace", lambda: fcntl.ioctl(place, 0xB701), "EPERM")
    if kind != "net":
        attempt(f"parent of {kind} namespace", lambda: fcntl.ioctl(place, 0xB702), "EPERM")
attempt("namespaces of process 1 by pidfd", lambda: call(308, os.pidfd_open(1), 0x40000000 | 0x20000000), "EPERM")
# CLONE_NEWUSER, NEWNS, NEWNET, NEWPID, NEWUTS, NEWIPC, NEWCGROUP, NEWTIME by
# clone3, which seccomp filters cannot look into.
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x4000000, 0x8000000, 0x2000000, 0x80):
    arguments = (ctypes.c_ulonglong * 11)(flag, 0, 0, 0, 17)
    attempt(f"clone3 with {flag:#x}", lambda: call(435, arguments, 88) or os._exit(0), "EPERM", "ENOSPC", "EINVAL")

# No process of the slice, the first included, has anything of the node open,
# nor its root or directory there.
given = os.readlink("/proc/self/fd/1")
mounts = {line.split()[2] for line in open("/proc/self/mountinfo")}
for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
    if int(pid) == os.getpid():
        continue
    links = [f"/proc/{pid}/{name}" for name in ("root", "cwd")]
    try:
        links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    except FileNotFoundError:
        continue
    for link in links:
        try:
            found, target = os.stat(link), os.readlink(link)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
            expect(f"{link} -> {target}", device in mounts or target == given, device)
expect("root of process 1", os.path.samefile("/proc/1/root", "/"))

# The program that the first process runs is the node's own file.
program = "/proc/1/exe"
place = os.open(program, os.O_PATH)
for how in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
    attempt(f"open {program} {how}", lambda: os.open(program, how))
    attempt(f"open it by O_PATH {how}", lambda: os.open(f"/proc/self/fd/{place}", how))
attempt("truncate it", lambda: os.truncate(program, 0))
attempt("change its mode", lambda: os.chmod(program, 0o777), "EPERM")
attempt("change its owner", lambda: os.chown(program, 0, 0), "EPERM", "EOVERFLOW", "EINVAL")
attempt("change its time", lambda: os.utime(program, (0, 0)), "EPERM", "EOVERFLOW")
attempt("give it an attribute", lambda: os.setxattr(program, "user.x", b"x"))
attempt("link it", lambda: os.link(f"/proc/self/fd/{place}", "/root/slice", follow_symlinks=True), "EXDEV", "EPERM")
attempt("go up from it", lambda: os.open("..", os.O_PATH, dir_fd=place), "ENOTDIR")
# FS_IOC_SETFLAGS, immutable
readable = os.open(program, os.O_RDONLY)
attempt("make it immutable", lambda: fcntl.ioctl(readable, 0x40086602, b"\x10\0\0\0\0\0\0\0"))
for link in os.listdir("/proc/1/map_files") if os.access("/proc/1/map_files", os.R_OK) else []:
    attempt(f"open what process 1 maps at {link}", lambda: os.open(f"/proc/1/map_files/{link}", os.O_WRONLY))
finish()
