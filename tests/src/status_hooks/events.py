import time

def open_events(after=None):
    """A stream of events: the status, and the file to read it from."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(PATH)
    seen = f'Last-Event-ID: {after}\r\n' if after else ''
    # By HTTP/1.0, in which a body is not cut into chunks.
    sock.sendall(f'GET /v1/events HTTP/1.0\r\n{seen}\r\n'.encode())
    file = sock.makefile('rb')
    status = int(file.readline().split()[1])
    while file.readline().strip():
        pass
    return status, file, sock

def events(after, ends):
    """What comes after an event until one that `ends` is true of: ids and documents."""
    status, file, _ = open_events(after)
    assert status == 200, status
    seen, last = [], None
    for line in file:
        key, _, value = line.decode().rstrip('\n').partition(': ')
        if key == 'id':
            last = value
        elif key == 'data':
            seen.append([last, json.loads(value)])
            if ends(seen[-1][1]):
                return seen
    raise SystemExit(f'the stream ended: {seen}')
