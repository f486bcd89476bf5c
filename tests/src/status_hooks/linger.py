import socket, struct, sys, time

# A socket whose other end never reads, so that what waits for it waits for ever.
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()

def stuck():
    sock = socket.create_connection(listener.getsockname())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 1000))
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        return sock

# The last to let go of each is who is sent it.
for _ in range(4):
    sock = stuck()
    to = socket.socket(socket.AF_UNIX)
    to.connect(PATH)
    socket.send_fds(to, [b'G'], [sock.fileno()])
    sock.close()
start = time.monotonic()
stuck().close()
print('closed' if time.monotonic() < start + 20 else 'waited', flush=True)
sys.stdin.read()
