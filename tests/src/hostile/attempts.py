# What every hostile program begins with: system calls by their numbers, and
# attempts, each of which must be refused. Runs as root of a slice.

import ctypes, errno, os, stat, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
succeeded = []


def call(number, *arguments):
    """The system call of this number on x86-64."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def attempt(attack, act, *refusals):
    """Tries an attack, which must be refused with one of these errors; with
    any, where none is named."""
    try:
        got = act()
    except OSError as refused:
        name = errno.errorcode.get(refused.errno, str(refused.errno))
        if refusals and name not in refusals:
            succeeded.append(f"{attack}: {name}, not {' or '.join(refusals)}")
    else:
        succeeded.append(f"{attack}: succeeded ({got!r})")


def expect(what, holds, seen=""):
    """Something that must hold."""
    if not holds:
        succeeded.append(f"{what} {seen}")


def finish():
    print("\n".join(succeeded), flush=True)
    sys.exit(1 if succeeded else 0)
