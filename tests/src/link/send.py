"""Sends to a port as fast as it can until its input ends:
send.py tcp|udp|sly ADDRESS PORT [FLOWS [MBIT]]"""

import os, socket, struct, sys, threading, time

SO_TXTIME, SCM_TXTIME = 61, 61

kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
flows = int(sys.argv[4]) if len(sys.argv) > 4 else 1
rate = float(sys.argv[5]) * 1e6 / 8 if len(sys.argv) > 5 else 0


def send():
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    own = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    if kind == 'sly':
        # Datagrams that ask for the best queue, and to have left long ago.
        own.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
        own.setsockopt(socket.SOL_SOCKET, SO_TXTIME, struct.pack('II', time.CLOCK_MONOTONIC, 0))
    own.connect((address, port))
    octets = b'x' * (16384 if kind == 'tcp' else 1400)
    due = time.monotonic()
    while True:
        try:
            if kind == 'sly':
                own.sendmsg([octets], [(socket.SOL_SOCKET, SCM_TXTIME, struct.pack('Q', 1))])
            else:
                own.send(octets)
        except ConnectionRefusedError:
            pass
        except OSError as error:
            # Too much of the slice waits.
            if error.errno != 105:
                raise
            time.sleep(0.001)
        if rate:
            due += len(octets) / rate
            time.sleep(max(0, due - time.monotonic()))


for _ in range(flows):
    threading.Thread(target=send, daemon=True).start()
sys.stdin.read()
os._exit(0)
