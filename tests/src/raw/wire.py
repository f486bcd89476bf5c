# Packets by hand, for programs that send what no socket would.

import socket, struct, sys


def checksum(octets):
    if len(octets) % 2:
        octets += b"\0"
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip4(source, destination, protocol, body, options=b"", fragment=0, length=None, version=4, header=None):
    words = (20 + len(options)) // 4 if header is None else header
    total = 20 + len(options) + len(body) if length is None else length
    first = version << 4 | words
    head = struct.pack(
        "!BBHHHBBH4s4s", first, 0, total, 7, fragment, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    ) + options
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return head + body


def ip6(source, destination, protocol, body, length=None):
    length = len(body) if length is None else length
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + ends + body


def udp(source, destination, data, length=None):
    length = 8 + len(data) if length is None else length
    return struct.pack("!HHHH", source, destination, length, 0) + data


def tcp(source, destination, data=b"", flags=2, sequence=1000, acknowledged=0, offset=5):
    return struct.pack(
        "!HHIIBBHHH", source, destination, sequence, acknowledged, offset << 4, flags, 1024, 0, 0
    ) + data


def icmp(kind, code, rest, data=b""):
    body = struct.pack("!BBH", kind, code, 0) + rest + data
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def icmp6(kind, code, rest, data, source, destination):
    body = struct.pack("!BBH", kind, code, 0) + rest + data
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    pseudo = ends + struct.pack("!IHBB", len(body), 0, 0, 58)
    return body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def frame(destination, source, kind, body):
    return mac(destination) + mac(source) + struct.pack("!H", kind) + body


HERE4, THERE4, ALIEN4 = "198.51.100.1", "198.51.100.2", "203.0.113.66"
HERE6, THERE6, ALIEN6 = "2001:db8:5::1", "2001:db8:5::2", "2001:db8:bad::66"
HERE, THERE, ALIEN = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:99"
