# Calls whose tables all share and none of which is refused by the kernel
# itself: keys, asynchronous I/O, counters; by each way to call the kernel.

import mmap

context = ctypes.c_ulong(0)
event = ctypes.create_string_buffer(112)
event[0:8] = b"\1\0\0\0\x70\0\0\0"  # PERF_TYPE_SOFTWARE, PERF_ATTR_SIZE_VER5
event[40] = 0x60  # exclude_kernel, exclude_hv
attempt("add a key", lambda: call(248, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"k"), ctypes.c_char_p(b"v"), 1, -2), "ENOSYS")
attempt("ask for a key", lambda: call(249, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"k"), ctypes.c_char_p(b"info"), 0), "ENOSYS")
# KEYCTL_GET_KEYRING_ID of the session and of the user, JOIN_SESSION_KEYRING,
# DESCRIBE, GET_PERSISTENT
for words in ((0, -3, 1), (0, -4, 1), (1, None), (6, -4, None, 0), (22, -1, -2)):
    attempt(f"keyctl {words}", lambda: call(250, *words), "ENOSYS")
attempt("io_setup", lambda: call(206, 1, ctypes.byref(context)), "ENOSYS")
for kind in (3, 9, 10):
    attempt(f"read the kernel's log {kind}", lambda: call(103, kind, event, 112), "EPERM")
attempt("perf_event_open", lambda: call(298, event, 0, -1, -1, 0), "EACCES")
for number in (0, 39, 206, 248, 250, 298, 543):
    attempt(f"call {number} as x32", lambda: call(0x40000000 | number, 0, 0, 0), "ENOSYS")

# As programs of 32 bits call: int 0x80, from one of 64.
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
#                push rbx; mov eax,edi; mov ebx,esi; mov ecx,edx; zero edx, esi, edi; int 0x80; pop rbx; ret
code.write(bytes.fromhex("53 89f8 89f3 89d1 31d2 31f6 31ff cd80 5b c3"))
place = ctypes.addressof(ctypes.c_char.from_buffer(code))
old = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(place)
child = os.fork()
if child == 0:
    os._exit(0 if old(20, 0, 0) == os.getpid() else 1)
# A kernel without that way ends who tries.
if os.waitpid(child, 0)[1] == 0:
    for name, number, first, second, refusal in (
        ("io_setup", 245, 1, 0, errno.ENOSYS),
        ("add_key", 286, 0, 0, errno.ENOSYS),
        ("request_key", 287, 0, 0, errno.ENOSYS),
        ("keyctl", 288, 0, -3, errno.ENOSYS),
        ("perf_event_open", 336, 0, 0, errno.EACCES),
        ("syslog", 103, 10, 0, errno.EPERM),
    ):
        got = old(number, first, second)
        expect(f"{name} by int 0x80: {got}", got == -refusal)
    expect("int 0x80 works", old(20, 0, 0) == os.getpid())
finish()
