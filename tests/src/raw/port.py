# A port on which a program speaks TCP or UDP itself.

import select, time


def named(family, host, port):
    if family == socket.AF_INET:
        return struct.pack("=H", 2) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
    return struct.pack("=H", 10) + struct.pack("!HI", port, 0) + socket.inet_pton(10, host) + bytes(4)


def claim(sock, value):
    """The error number of the claim; 0 where it is granted."""
    try:
        sock.setsockopt(0x534C, 1, value)
        return 0
    except OSError as error:
        return error.errno


def segment(family, here, port, there, peer, data, flags, sequence, acknowledged):
    octets = tcp(port, peer, data, flags, sequence, acknowledged)
    if family == socket.AF_INET:
        ends = socket.inet_aton(here) + socket.inet_aton(there) + struct.pack("!HH", 6, len(octets))
    else:
        ends = socket.inet_pton(10, here) + socket.inet_pton(10, there) + struct.pack("!IHBB", len(octets), 0, 0, 6)
    return octets[:16] + struct.pack("!H", checksum(ends + octets)) + octets[18:]


def speak(family, here, port, there, peer, data, claims=True):
    """Connects to a server by hand and says something; whether it got so far."""
    sock = socket.socket(family, socket.SOCK_RAW, 6)
    if claims and claim(sock, named(family, here, port)):
        return False

    def send(data, flags, sequence, acknowledged):
        sock.sendto(segment(family, here, port, there, peer, data, flags, sequence, acknowledged), (there, 0))

    send(b"", 2, 1000, 0)
    until = time.monotonic() + 10
    while (left := until - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
        octets = sock.recv(2048)
        body = octets if family == socket.AF_INET6 else octets[(octets[0] & 15) * 4:]
        source, to, sequence, acknowledged = struct.unpack("!HHII", body[:12])
        if (source, to) == (peer, port) and body[13] == 0x12 and acknowledged == 1001:
            send(b"", 0x10, 1001, sequence + 1)
            send(data, 0x18, 1001, sequence + 1)
            # Long enough for the kernel to have spoken, if it would.
            time.sleep(0.5)
            send(b"", 0x11, 1001 + len(data), sequence + 1)
            time.sleep(0.5)
            return True
    return False
