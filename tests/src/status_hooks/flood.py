import threading, time

idle = []
def connect():
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(0)
    try:
        sock.connect(PATH)
        sock.sendall(b'GET /v1/node HTTP/1.1\r\nX-Slow: ')
        idle.append(sock)
    except OSError:
        sock.close()

seen = {}
def ask_on():
    while True:
        status = get('/v1/slices')[0]
        seen[status] = seen.get(status, 0) + 1

# First what is asked too often, then connections that say nothing.
asking = [threading.Thread(target=ask_on, daemon=True) for _ in range(4)]
[thread.start() for thread in asking]
while not seen.get(429):
    time.sleep(0.1)
print('429', flush=True)
while True:
    connect()
    if len(idle) > 64:
        idle.pop(0).close()
    if seen.get(503):
        print('503', flush=True)
        seen[503] = 0
    time.sleep(0.001)
