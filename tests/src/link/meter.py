"""Takes what comes on ports of TCP and UDP, and says how many bytes of payload came
on each between two moments after the first byte: meter.py FIRST COUNT AFTER FOR"""

import json, selectors, socket, sys, time

first, count = int(sys.argv[1]), int(sys.argv[2])
after, during = float(sys.argv[3]), float(sys.argv[4])
ready = selectors.DefaultSelector()
for number in range(count):
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        own = socket.socket(socket.AF_INET6, kind)
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(('::', first + number))
        if kind == socket.SOCK_STREAM:
            own.listen(64)
        ready.register(own, selectors.EVENT_READ, (number, kind == socket.SOCK_STREAM))
print('ready', flush=True)
came, start = [0] * count, None
while start is None or time.monotonic() < start + after + during:
    for key, _ in ready.select(0.2):
        number, listens = key.data
        if listens:
            ready.register(key.fileobj.accept()[0], selectors.EVENT_READ, (number, False))
            continue
        octets = key.fileobj.recv(1 << 16)
        now = time.monotonic()
        start = start or now
        if not octets and key.fileobj.type == socket.SOCK_STREAM:
            ready.unregister(key.fileobj)
        if start + after <= now < start + after + during:
            came[number] += len(octets)
print(json.dumps([octets * 8 / during / 1e6 for octets in came]))
