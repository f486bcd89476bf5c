# Asks another machine for an echo, of both families, on raw sockets as ping's.

import os, select, time


def ask(family, peer, identifier, wait=3.0):
    """Whether an answer with this identifier came; and what else came."""
    six = family == socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_RAW, 58 if six else 1)
    rest = struct.pack("!HH", identifier, 1)
    if six:
        # The kernel fills in ICMPv6's checksum.
        message = struct.pack("!BBH", 128, 0, 0) + rest + b"echo"
    else:
        message = icmp(8, 0, rest, b"echo")
    sock.sendto(message, (peer, 0))
    until = time.monotonic() + wait
    others = []
    while (left := until - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            break
        data, sender = sock.recvfrom(2048)
        body = data if six else data[(data[0] & 15) * 4:]
        kind, seen = body[0], struct.unpack("!H", body[4:6])[0]
        if kind == (129 if six else 0) and seen == identifier and sender[0] == peer:
            return True, others
        others.append((kind, seen, sender[0]))
    return False, others
