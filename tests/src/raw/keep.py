# Keeps a raw and a packet socket, and for each line tells whether they work and
# what becomes of opening another one.

import signal

raw = socket.socket(2, 3, 1)
raw.connect((THERE4, 0))
packets = socket.socket(17, 3, 0x8)
packets.bind(("wire0", 0x0800))


class Late(Exception):
    pass


def late(*_):
    raise Late


def hears(sock, offset, identifier):
    """Whether an answer with this identifier comes to the socket."""
    end = time.monotonic() + 5
    while select.select([sock], [], [], max(0, end - time.monotonic()))[0]:
        octets = sock.recv(2048)[offset:]
        if octets[20:21] == b"\0" and octets[24:26] == struct.pack("!H", identifier):
            return True
    return False


def opened():
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        socket.socket(2, 3, 1).close()
        return 0
    except OSError as error:
        return error.errno
    except Late:
        return "late"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


signal.signal(signal.SIGALRM, late)
print("open", flush=True)
for number, line in enumerate(sys.stdin):
    identifier = os.getpid() + number & 0xFFFF
    raw.send(icmp(8, 0, struct.pack("!HH", identifier, 1), b"echo"))
    print(hears(raw, 0, identifier), hears(packets, 14, identifier), opened(), flush=True)
