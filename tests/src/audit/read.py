# Reads the packets of all slices into a file until there is one named "done".

import os, select, socket, sys

name, waits = sys.argv[1], len(sys.argv) > 2
for done in ("/root/go", "/root/done"):
    if os.path.exists(done):
        os.remove(done)
stream = socket.socket(17, socket.SOCK_STREAM, 0x534C)
print("reading", flush=True)
while waits and not os.path.exists("/root/go"):
    select.select([], [], [], 0.1)
with open(name, "wb") as file:
    while True:
        if select.select([stream], [], [], 0.3)[0]:
            octets = os.read(stream.fileno(), 1 << 16)
            if not octets:
                print("end", flush=True)
                break
            file.write(octets)
        elif os.path.exists("/root/done"):
            break
