# At the other end of the wire: counts the packets with each mark that come,
# until a file is there.

import json, os, select

done, marks = sys.argv[1], (b"FORGED-FORGED", b"HONEST-HONEST")
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
print("listening", flush=True)
seen = [0, 0]
quiet = 0
while quiet < 3:
    if select.select([sock], [], [], 0.2)[0]:
        octets, sender = sock.recvfrom(65535)
        if sender[2] == 4:  # PACKET_OUTGOING: what this machine sends itself
            continue
        for number, mark in enumerate(marks):
            seen[number] += mark in octets
    elif os.path.exists(done):
        quiet += 1
print(json.dumps({"forged": seen[0], "honest": seen[1]}), flush=True)
