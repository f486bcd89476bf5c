# Shared memory, semaphores and message queues. `make` makes some and waits;
# `seek` looks for those of others.

import struct

KEY = 0x51CE
name = ctypes.c_char_p(b"slice-queue")
if "make" in sys.argv:
    call(29, KEY, 4096, 0o1666)
    call(64, KEY, 1, 0o1666)
    call(68, KEY, 0o1666)
    call(240, name, os.O_CREAT | os.O_RDWR, 0o666, None)
    open("/dev/shm/slice-memory", "w").write("secret")
    print("ready", flush=True)
    sys.stdin.read()
    call(31, call(29, KEY, 0, 0), 0, None)
    call(66, call(64, KEY, 0, 0), 0, 0, None)
    call(71, call(68, KEY, 0), 0, None)
    call(241, name)
    os.unlink("/dev/shm/slice-memory")
    sys.exit(0)
out = ctypes.create_string_buffer(256)
attempt("find shared memory by key", lambda: call(29, KEY, 0, 0), "ENOENT")
attempt("find semaphores by key", lambda: call(64, KEY, 0, 0), "ENOENT")
attempt("find a queue by key", lambda: call(68, KEY, 0), "ENOENT")
for number in range(64):
    for generation in (0, 32768):
        attempt(f"attach shared memory {number}", lambda: call(30, number + generation, None, 0), "EINVAL", "EIDRM")
    attempt(f"look at shared memory {number}", lambda: call(31, number, 13, out), "EINVAL")
    attempt(f"look at shared memory {number} of all", lambda: call(31, number, 15, out), "EINVAL")
    attempt(f"look at semaphores {number}", lambda: call(66, number, 0, 18, out), "EINVAL")
    attempt(f"look at queue {number}", lambda: call(71, number, 11, out), "EINVAL")
for kind in ("shm", "sem", "msg"):
    lines = open(f"/proc/sysvipc/{kind}").read().splitlines()
    expect(f"/proc/sysvipc/{kind} shows", len(lines) == 1, lines)
attempt("open a message queue", lambda: call(240, name, os.O_RDONLY, 0, None), "ENOENT")
expect("/dev/mqueue has", os.listdir("/dev/mqueue") == [], os.listdir("/dev/mqueue"))
expect("/dev/shm has", os.listdir("/dev/shm") == [], os.listdir("/dev/shm"))
finish()
