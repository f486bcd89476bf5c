# Every forgery of a table, each sent and refused; prints what must have been
# counted, by reason. Between them honest packets, which must pass.

import json

FORGED, HONEST = b"FORGED-FORGED-FORGED-FORGED", b"HONEST-HONEST-HONEST-HONEST"
ECHO = struct.pack("!HH", 4242, 1)
MINE, OTHERS, NODES, FREE, LOW = 8200, 8300, 2222, 9555, 999

expected, wrong = {}, []


def sender(family):
    sock = socket.socket(family, socket.SOCK_RAW, 255)
    if family == socket.AF_INET6:
        sock.setsockopt(41, 36, 1)  # IPV6_HDRINCL
    return sock


raw4, raw6 = sender(socket.AF_INET), sender(socket.AF_INET6)
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
packets.bind(("wire0", 0))


def send(how, octets):
    if how == 4:
        raw4.sendto(octets, (THERE4, 0))
    elif how == 6:
        raw6.sendto(octets, (THERE6, 0, 0, 0))
    else:
        packets.send(octets)


def forged(reason, what, how, octets):
    try:
        send(how, octets)
    except OSError as error:
        if error.errno not in (1, 105):
            wrong.append(f"{what}: {error}")
        else:
            expected[reason] = expected.get(reason, 0) + 1
    else:
        wrong.append(f"{what}: was sent")


def honest(what, how, octets):
    try:
        send(how, octets)
    except OSError as error:
        wrong.append(f"honest: {what}: {error}")


def both(reason, what, four=None, six=None):
    """On raw sockets and in frames, of each family that is given."""
    if four is not None:
        forged(reason, what + ", IPv4", 4, four)
        forged(reason, what + ", IPv4 in a frame", 0, frame(THERE, HERE, 0x0800, four))
    if six is not None:
        forged(reason, what + ", IPv6", 6, six)
        forged(reason, what + ", IPv6 in a frame", 0, frame(THERE, HERE, 0x86DD, six))


def v4(protocol, body, **more):
    return ip4(more.pop("source", HERE4), THERE4, protocol, body, **more)


def v6(protocol, body, **more):
    return ip6(more.pop("source", HERE6), THERE6, protocol, body, **more)


# The source address.
for alien, alien6 in [(ALIEN4, ALIEN6), (THERE4, THERE6), ("198.51.100.10", "2001:db8:5::10"),
                      ("224.0.0.1", "ff02::1"), ("127.0.0.1", "::1")]:
    both("source_foreign", f"from {alien}", v4(17, udp(MINE, 7, FORGED), source=alien),
         v6(17, udp(MINE, 7, FORGED), source=alien6))
# The kernel puts its own address in for 0.0.0.0 on a raw socket; in a frame not.
forged("source_foreign", "from 0.0.0.0", 0, frame(THERE, HERE, 0x0800, v4(17, udp(MINE, 7, FORGED), source="0.0.0.0")))
forged("source_foreign", "from ::", 0, frame(THERE, HERE, 0x86DD, v6(17, udp(MINE, 7, FORGED), source="::")))
# The source port.
for protocol, make in [(6, lambda port: tcp(port, 7, FORGED)), (17, lambda port: udp(port, 7, FORGED))]:
    for reason, port in [("port_reserved", OTHERS), ("port_node", NODES), ("port_privileged", LOW), ("port_privileged", 0),
                         ("port_loopback", 61000)]:
        both(reason, f"protocol {protocol} from port {port}", v4(protocol, make(port)), v6(protocol, make(port)))
# Types of ICMP.
for kind in [3, 4, 5, 9, 10, 11, 12, 30, 40, 42, 253]:
    both("icmp_type", f"ICMP {kind}", v4(1, icmp(kind, 0, ECHO, FORGED)))
for kind in [1, 2, 3, 4, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 143, 255]:
    both("icmp_type", f"ICMPv6 {kind}", None, v6(58, icmp6(kind, 0, ECHO, FORGED, HERE6, THERE6)))
# ICMP of the other family.
both("header", "ICMPv6 in IPv4", v4(58, icmp(128, 0, ECHO, FORGED)), None)
both("header", "ICMP in IPv6", None, v6(1, icmp(8, 0, ECHO, FORGED)))
# Fragments.
for name, fragment in [("first", 0x2000), ("middle", 0x2002), ("last", 2)]:
    both("header", f"{name} fragment", v4(17, udp(MINE, 7, FORGED), fragment=fragment))
for more, offset in [(1, 0), (1, 8), (0, 8)]:
    part = struct.pack("!BBHI", 17, 0, offset | more, 7) + udp(MINE, 7, FORGED)
    both("header", f"fragment {offset} {more}", None, v6(44, part))
# Options and extension headers.
for name, options in [("no operation", b"\1\1\1\0"), ("record route", b"\7\7\4\0\0\0\0\0"), ("loose source route", b"\x83\7\4" + socket.inet_aton(ALIEN4) + b"\0"),
                      ("strict source route", b"\x89\7\4" + socket.inet_aton(ALIEN4) + b"\0"), ("router alert", b"\x94\4\0\0")]:
    both("header", name, v4(17, udp(MINE, 7, FORGED), options=options))
for number in [0, 43, 60, 135, 139, 140]:
    both("header", f"extension {number}", None, v6(number, b"\x11\0\1\4\0\0\0\0" + udp(MINE, 7, FORGED)))
# Tunnels and protocols with ports of their own.
inner4, inner6 = v4(17, udp(MINE, 7, FORGED)), v6(17, udp(MINE, 7, FORGED))
for number, body in [(4, inner4), (41, inner6), (47, b"\0\0\x08\0" + inner4), (2, b"\x16\0\0\0" + FORGED), (33, udp(MINE, 7, FORGED)),
                     (50, FORGED), (51, FORGED), (89, FORGED), (103, FORGED), (112, FORGED), (115, FORGED),
                     (132, udp(MINE, 7, FORGED)), (136, udp(MINE, 7, FORGED)), (254, FORGED)]:
    both("header", f"protocol {number}", v4(number, body), v6(number, body))
# Lengths that do not agree; the kernel corrects those of raw IPv4 sockets.
both("header", "a runt of UDP", v4(17, b"\x20\x08\0\7"), v6(17, b"\x20\x08\0\7"))
both("header", "a runt of TCP", v4(6, tcp(MINE, 7)[:12]), v6(6, tcp(MINE, 7)[:12]))
both("header", "a runt of ICMP", v4(1, b"\x08\0\0\0"), v6(58, b"\x80\0\0\0"))
both("header", "TCP's header too long", v4(6, tcp(MINE, 7, offset=15)), v6(6, tcp(MINE, 7, offset=15)))
both("header", "TCP's header too short", v4(6, tcp(MINE, 7, offset=4)), v6(6, tcp(MINE, 7, offset=4)))
both("header", "UDP longer than its packet", v4(17, udp(MINE, 7, FORGED, length=900)), v6(17, udp(MINE, 7, FORGED, length=900)))
for name, octets in [("longer than the frame", v4(17, udp(MINE, 7, FORGED), length=1200)), ("of no length", v4(17, udp(MINE, 7, FORGED), length=0)),
                     ("version 5", v4(17, udp(MINE, 7, FORGED), version=5)), ("header of 16", v4(17, udp(MINE, 7, FORGED), header=4)),
                     ("header of 60", v4(17, udp(MINE, 7, FORGED), header=15))]:
    forged("header", name, 0, frame(THERE, HERE, 0x0800, octets))
for name, octets in [("IPv6 longer than the frame", v6(17, udp(MINE, 7, FORGED), length=1200)), ("a jumbogram", v6(17, udp(MINE, 7, FORGED), length=0)),
                     ("from a mapped address", v6(17, udp(MINE, 7, FORGED), source="::ffff:198.51.100.1"))]:
    forged("header", name, 0, frame(THERE, HERE, 0x86DD, octets))
# Frames.
good4, good6 = v4(17, udp(MINE, 7, FORGED)), v6(17, udp(MINE, 7, FORGED))
arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + mac(HERE) + socket.inet_aton(ALIEN4) + mac(THERE) + socket.inet_aton(THERE4) + FORGED
for name, octets in [
    ("from another station", frame(THERE, ALIEN, 0x0800, good4)),
    ("IPv6 from another station", frame(THERE, ALIEN, 0x86DD, good6)),
    ("to all stations", frame("ff:ff:ff:ff:ff:ff", HERE, 0x0800, good4)),
    ("to a group of stations", frame("33:33:00:00:00:01", HERE, 0x86DD, good6)),
    ("ARP", frame("ff:ff:ff:ff:ff:ff", HERE, 0x0806, arp)),
    ("RARP", frame(THERE, HERE, 0x8035, arp)),
    ("a VLAN", frame(THERE, HERE, 0x8100, b"\0\5\x08\0" + good4)),
    ("a VLAN in a VLAN", frame(THERE, HERE, 0x88A8, b"\0\5\x81\0\0\6\x08\0" + good4)),
    ("PPPoE", frame(THERE, HERE, 0x8864, b"\x11\0\0\1\0\x40\0\x21" + good4)),
    ("MPLS", frame(THERE, HERE, 0x8847, b"\0\0\1\xff" + good4)),
    ("LLDP", frame("01:80:c2:00:00:0e", HERE, 0x88CC, FORGED)),
    ("a bridge's", frame("01:80:c2:00:00:00", HERE, 0x0026, b"\x42\x42\3" + FORGED)),
    ("MAC control", frame("01:80:c2:00:00:01", HERE, 0x8808, b"\0\1\xff\xff" + FORGED)),
    ("MACsec", frame(THERE, HERE, 0x88E5, FORGED)),
    ("EAPOL", frame(THERE, HERE, 0x888E, FORGED)),
    ("IPv6 as IPv4", frame(THERE, HERE, 0x0800, good6)),
    ("IPv4 as IPv6", frame(THERE, HERE, 0x86DD, good4)),
]:
    forged("frame", name, 0, octets)

for number in range(3):
    honest("UDP", 4, v4(17, udp(MINE, 7, HONEST)))
    honest("UDP over IPv6", 6, v6(17, udp(MINE, 7, HONEST)))
    honest("UDP from a free port", 4, v4(17, udp(FREE, 7, HONEST)))
    honest("a SYN", 6, v6(6, tcp(FREE, 7, HONEST)))
    honest("echo", 4, v4(1, icmp(8, 0, ECHO, HONEST)))
    honest("timestamp", 4, v4(1, icmp(13, 0, ECHO, HONEST)))
    honest("echo over IPv6", 6, v6(58, icmp6(128, 0, ECHO, HONEST, HERE6, THERE6)))
    honest("a frame", 0, frame(THERE, HERE, 0x0800, v4(17, udp(MINE, 7, HONEST))))
    honest("a frame of IPv6", 0, frame(THERE, HERE, 0x86DD, v6(17, udp(MINE, 7, HONEST))))

print(json.dumps({"expected": expected, "wrong": wrong, "honest": 27, "forged": sum(expected.values())}))
