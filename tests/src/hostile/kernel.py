# Calls that would act on the kernel that all share. Words: `nested` where the
# program may make namespaces and runs in its own; a device of the node's.

import fcntl, socket, struct

nothing = ctypes.create_string_buffer(4096)
path = ctypes.c_char_p(b"/root/f")

# Devices: those that the node has, and those that are worth having.
wanted = {("c", 1, minor) for minor in (1, 2, 4, 11)} | {("c", 4, 0), ("c", 4, 64), ("c", 5, 1)}
wanted |= {("c", 10, minor) for minor in (183, 200, 229, 231, 232, 236, 237, 238)}
wanted |= {("b", 7, 0), ("b", 8, 0), ("b", 254, 0), ("b", 259, 0)}
for kind in ("block", "char"):
    for name in os.listdir(f"/sys/dev/{kind}"):
        wanted.add((kind[0], *map(int, name.split(":"))))
for kind, major, minor in sorted(wanted):
    mode = (stat.S_IFBLK if kind == "b" else stat.S_IFCHR) | 0o666
    for directory in ("/root", "/dev", "/dev/shm", "/run", "/tmp"):
        node = f"{directory}/node"
        attempt(f"make device {kind} {major}:{minor} in {directory}", lambda: os.mknod(node, mode, os.makedev(major, minor)), "EPERM")
for name in sorted(set(os.listdir("/dev"))):
    found = os.lstat(f"/dev/{name}")
    expect(f"/dev/{name} is a device", not stat.S_ISBLK(found.st_mode))
    if stat.S_ISCHR(found.st_mode):
        expect(f"/dev/{name}", name in ("null", "zero", "full", "random", "urandom", "tty"))

# File handles: guessed, for every file system that a descriptor leads to.
def handle(kind, *words):
    body = struct.pack(f"{len(words)}I", *words)
    return ctypes.create_string_buffer(struct.pack("Ii", len(body), kind) + body, 160)
places = {name: os.open(name, os.O_RDONLY) for name in ("/", "/proc", "/sys", "/dev", "/run", "/run/slice/net/tcp", "/etc/passwd")}
if "nested" not in sys.argv:
    places["the first process's program"] = os.open("/proc/1/exe", os.O_RDONLY)
places["the caller's file"] = 1
for name, place in places.items():
    for guess in (handle(1, 2, 0), handle(1, 12, 0), handle(1, 128, 0), handle(2, 2, 0, 2, 0), handle(0x81, 2, 0, 0)):
        attempt(f"open a handle of {name}", lambda: call(304, place, guess, os.O_RDONLY))

# Mounts.
for target in ("/proc", "/sys", "/proc/net", "/dev", "/run/slice/net/tcp", "/sys/fs/cgroup"):
    attempt(f"unmount {target}", lambda: call(166, ctypes.c_char_p(target.encode()), 2))
for target in ("/sys", "/run/slice/net/tcp"):
    # MS_REMOUNT | MS_BIND without MS_RDONLY, and of the whole file system
    for how in (0x20 | 0x1000, 0x20):
        attempt(f"remount {target}", lambda: call(165, None, ctypes.c_char_p(target.encode()), None, how, None))
for kind in ("ext4", "xfs", "btrfs", "vfat", "squashfs", "nfs", "proc", "sysfs", "debugfs", "tracefs", "securityfs", "bpf", "devtmpfs", "efivarfs", "configfs", "binfmt_misc", "hugetlbfs", "9p", "fuse", "overlay", "tmpfs", "cgroup", "cgroup2", "ramfs", "rpc_pipefs", "selinuxfs", "fusectl", "pstore"):
    name = ctypes.c_char_p(kind.encode())
    def create():
        context = call(430, name, 0)
        call(431, context, 6, None, None, 0)
        return call(432, context, 0, 0)
    harmless = ("nested" in sys.argv) and kind in ("overlay", "tmpfs", "cgroup2", "ramfs", "binfmt_misc", "bpf")
    if not harmless:
        attempt(f"fsopen {kind}", create)
        attempt(f"mount {kind}", lambda: call(165, name, ctypes.c_char_p(b"/mnt"), name, 0, None))
if "nested" not in sys.argv:
    attempt("open_tree a copy", lambda: call(428, -100, ctypes.c_char_p(b"/"), 1), "EPERM")
    attempt("move_mount", lambda: call(429, -100, ctypes.c_char_p(b"/proc"), -100, ctypes.c_char_p(b"/mnt"), 0), "EPERM")
    attempt("fspick", lambda: call(433, -100, ctypes.c_char_p(b"/sys"), 0), "EPERM")
    attempt("bind", lambda: call(165, ctypes.c_char_p(b"/"), ctypes.c_char_p(b"/mnt"), None, 0x1000, None), "EPERM")
    attempt("mount_setattr", lambda: call(442, -100, ctypes.c_char_p(b"/sys"), 0, (ctypes.c_ulonglong * 4)(0, 1), 32), "EPERM")
    attempt("pivot_root", lambda: call(155, ctypes.c_char_p(b"/"), ctypes.c_char_p(b"/mnt")), "EPERM")
attempt("move /proc/net away", lambda: call(429, -100, ctypes.c_char_p(b"/proc/net"), -100, ctypes.c_char_p(b"/mnt"), 0))

# Out of the root, by a directory that was kept open.
child = os.fork()
if child == 0:
    os.makedirs("/root/cell", exist_ok=True)
    kept = os.open("/", os.O_RDONLY)
    os.chroot("/root/cell")
    os.fchdir(kept)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    os._exit(0 if open("/etc/hostname").read().strip() == os.uname().nodename else 1)
expect("a kept directory leads out of the root", os.waitpid(child, 0)[1] == 0)

# The machine.
attempt("kexec_load", lambda: call(246, 0, 0, None, 0), "EPERM")
attempt("kexec_file_load", lambda: call(320, -1, -1, 0, None, 0), "EPERM")
for word in (0x1234567, 0x4321FEDC, 0xCDEF0123, 0xD000FCE2, 0x45584543):
    attempt(f"reboot {word:#x}", lambda: call(169, 0xFEE1DEAD, 672274793, word, None), "EPERM", "EINVAL")
for kind in (2, 3, 4, 5, 6, 7, 8, 9, 10):
    attempt(f"syslog {kind}", lambda: call(103, kind, nothing, 4096), "EPERM")
moment = (ctypes.c_long * 2)(1, 0)
attempt("settimeofday", lambda: call(164, moment, None), "EPERM")
attempt("clock_settime", lambda: call(227, 0, moment), "EPERM")
attempt("adjtimex", lambda: call(159, ctypes.create_string_buffer(struct.pack("I", 0x4000), 256)), "EPERM")
attempt("swapon", lambda: call(167, path, 0), "EPERM")
attempt("swapoff", lambda: call(168, path), "EPERM")
attempt("acct", lambda: call(163, path), "EPERM")
attempt("init_module", lambda: call(175, nothing, 64, ctypes.c_char_p(b"")), "EPERM")
attempt("finit_module", lambda: call(313, 0, ctypes.c_char_p(b""), 0), "EPERM")
attempt("delete_module", lambda: call(176, ctypes.c_char_p(b"overlay"), 0), "EPERM")
attempt("iopl", lambda: call(172, 3), "EPERM", "ENOSYS")
attempt("ioperm", lambda: call(173, 0x70, 1, 1), "EPERM", "EIO")
attempt("vhangup", lambda: call(153), "EPERM")
attempt("sethostname", lambda: call(170, path, 3), "EPERM")
attempt("setdomainname", lambda: call(171, path, 3), "EPERM")
attempt("userfaultfd for the kernel's faults", lambda: call(323, 0), "EPERM")
attempt("perf_event_open", lambda: call(298, ctypes.create_string_buffer(struct.pack("II", 1, 112), 112), 0, -1, -1, 0), "EACCES", "EPERM")
attempt("perf_event_open of all", lambda: call(298, ctypes.create_string_buffer(struct.pack("II", 1, 112), 112), -1, 0, -1, 0), "EACCES", "EPERM")
attempt("perf_event_open of a cgroup", lambda: call(298, ctypes.create_string_buffer(struct.pack("II", 1, 112), 112), os.open("/sys/fs/cgroup", 0), 0, -1, 4), "EACCES", "EPERM")
attempt("a real-time class", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), "EPERM")
attempt("a real-time class of disks", lambda: call(251, 1, 0, 1 << 13), "EPERM")
attempt("fanotify", lambda: call(300, 0x200, 0), "EPERM", "EMFILE")
attempt("fanotify of everything", lambda: call(300, 0, 0), "EPERM", "EMFILE")
for kind in range(3):
    # Q_GETINFO, Q_GETQUOTA, Q_SETQUOTA, Q_QUOTAOFF, Q_GETNEXTQUOTA
    for command in (0x800005, 0x800007, 0x800008, 0x800003, 0x800009):
        for name, place in places.items():
            attempt(f"quota {command:#x} of {name}", lambda: call(443, place, ctypes.c_uint32(command << 8 | kind).value, 0, nothing))
# BPF, each command there is.
for command in range(40):
    attempt(f"bpf {command}", lambda: call(321, command, ctypes.create_string_buffer(160), 144))
for flags in (0, 8, 16):
    view = ctypes.c_char_p(b"/run/slice/net/tcp")
    attribute = ctypes.create_string_buffer(struct.pack("QII", ctypes.cast(view, ctypes.c_void_p).value, 0, flags), 144)
    attempt(f"take the view's link {flags}", lambda: call(321, 7, attribute, 16))

# Modules: by families of generic netlink and disciplines of terminals, which the
# kernel looks for in them. Whoever makes namespaces may have them loaded.
def modules():
    return {line.split()[0] for line in open("/proc/modules")}
if "nested" not in sys.argv:
    there = modules()
    for family in (b"l2tp", b"wireguard", b"SMC_PNETID", b"ovs_flow", b"IPVS", b"macsec", b"nbd", b"NET_DM", b"psample"):
        generic = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
        name = struct.pack("HH", 5 + len(family), 2) + family + b"\0"
        name += b"\0" * (-len(name) % 4)
        generic.send(struct.pack("IHHIIBBH", 20 + len(name), 16, 1, 1, 0, 3, 1, 0) + name)
        generic.recv(65536)
    inner = os.openpty()[1]
    for discipline in range(1, 31):
        try:
            fcntl.ioctl(inner, 0x5423, struct.pack("i", discipline))
        except OSError:
            pass
    expect("modules were loaded", modules() <= there, modules() - there)

# Cgroups that are removed and stay, since a socket was made in each.
kept = []
def divide():
    os.mkdir("/sys/fs/cgroup/gone")
    for _ in range(400):
        open("/sys/fs/cgroup/gone/cgroup.procs", "w").write("0")
        kept.append(socket.socket(socket.AF_UNIX))
        open("/sys/fs/cgroup/cgroup.procs", "w").write("0")
        os.rmdir("/sys/fs/cgroup/gone")
        os.mkdir("/sys/fs/cgroup/gone")
attempt("keep removed cgroups", divide, "EAGAIN")
if os.path.exists("/sys/fs/cgroup/gone"):
    os.rmdir("/sys/fs/cgroup/gone")
expect("it kept them", 128 < len(kept) <= 256, len(kept))
kept.clear()

# Settings: none can be opened for writing that the node or others would feel.
attempt("choose the next process id", lambda: os.write(os.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY), b"9\n"), "EPERM")
# Those that can be opened: limits of its own IPC namespace; the next process
# id, which is asked for at the write; triggers, each of which is its opener's.
OWN = ("/proc/sys/fs/mqueue/", "/proc/sys/kernel/ns_last_pid", "/proc/pressure/", "/proc/sys/kernel/msg", "/proc/sys/kernel/sem", "/proc/sys/kernel/shm", "/proc/sys/kernel/auto_msgmni")
if "nested" in sys.argv:
    # Limits of its own user namespace, below those of the slice's.
    OWN += ("/proc/sys/user/",)
def writable(top, skip):
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if not skip(f"{directory}/{name}")]
        for name in files:
            file = f"{directory}/{name}"
            if os.path.islink(file):
                continue
            try:
                os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                continue
            yield file
for file in writable("/proc", lambda name: name.count("/") == 2 and (name[6:].isdigit() or name.endswith("self"))):
    expect(f"{file} can be written", file.startswith(OWN))
for file in writable("/sys", lambda name: name == "/sys/fs/cgroup"):
    expect(f"{file} can be written", False)
for file in writable("/sys/fs/cgroup", lambda name: False):
    expect(f"{file} can be written", os.path.basename(file) in ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control") or file.count("/") > 4)
for limit, value in (("memory.max", "max"), ("pids.max", "max"), ("cpu.max", "max"), ("cgroup.freeze", "0"), ("cgroup.max.descendants", "9")):
    attempt(f"write {limit}", lambda: open(f"/sys/fs/cgroup/{limit}", "w").write(value))

# What tells of the kernel's memory.
for file in ("/proc/kcore", "/proc/kmsg", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup", "/proc/slabinfo", "/proc/vmallocinfo", "/proc/timer_list", "/proc/sched_debug", "/dev/mem", "/dev/kmsg", "/sys/kernel/debug/x", "/sys/kernel/security/lsm", "/sys/class/dmi/id/product_uuid", "/sys/firmware/acpi/tables/DSDT"):
    attempt(f"read {file}", lambda: open(file, "rb").read(1))
addresses = {line.split()[0] for line in open("/proc/kallsyms")} if os.path.exists("/proc/kallsyms") else set()
expect("addresses of the kernel are shown", addresses <= {"0000000000000000"}, next(iter(addresses), ""))

# A name of the kernel's own: events that udev would believe.
events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
for to in ((0, 1), (0, 2), (1, 0)):
    attempt(f"send a uevent to {to}", lambda: events.sendto(b"add@/devices/x\0ACTION=add\0", to))
finish()
