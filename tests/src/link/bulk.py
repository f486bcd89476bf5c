"""Sends by TCP as fast as it can until its input ends, and says what its connections
measured: bulk.py ADDRESS PORT FLOWS"""

import json, os, socket, struct, sys, threading, time

address, port, flows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
began, told = time.monotonic(), []


def send():
    own = socket.create_connection((address, port))
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    while True:
        try:
            own.send(b'x' * 4096)
        except OSError:
            # Who took it is gone.
            return
        # struct tcp_info: options, round trip, retransmissions.
        info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        if time.monotonic() > began + 1:
            told.append((info[5] & 8, *struct.unpack_from('I', info, 68), *struct.unpack_from('I', info, 100)))


for _ in range(flows):
    threading.Thread(target=send, daemon=True).start()
sys.stdin.read()
ecn, round_trips, again = zip(*told)
print(json.dumps({'ecn': all(ecn), 'rtt_ms': sum(round_trips) / len(told) / 1e3, 'again': max(again)}))
sys.stdout.flush()
os._exit(0)
