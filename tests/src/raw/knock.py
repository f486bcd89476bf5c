# What is heard at a port of some hosts: TCP, then UDP.

for host in sys.argv[2:]:
    for kind in (1, 2):
        sock = socket.socket(10 if ":" in host else 2, kind)
        sock.settimeout(0.5)
        try:
            sock.connect((host, int(sys.argv[1])))
            if kind == 2:
                sock.send(b"x")
                sock.recv(1)
            print("open", end=" ")
        except ConnectionRefusedError:
            print("refused", end=" ")
        except TimeoutError:
            print("silence", end=" ")
