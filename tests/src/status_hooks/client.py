import json, socket, sys

PATH = '/run/slice/status.sock'

def ask(request):
    """What is answered to these octets: status, type, body; status 0 for none."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    octets = b''
    try:
        sock.connect(PATH)
        try:
            sock.sendall(request.encode('latin-1'))
            sock.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass  # an answer may be there all the same
        while piece := sock.recv(65536):
            octets += piece
    except OSError as error:
        if not octets:
            return [0, type(error).__name__, '']
    head, _, body = octets.partition(b'\r\n\r\n')
    lines = head.decode('latin-1').split('\r\n')
    if len(lines[0].split()) < 2:
        return [0, 'nothing', '']
    kinds = [line.split(': ')[1] for line in lines if line.lower().startswith('content-type: ')]
    return [int(lines[0].split()[1]), (kinds or [''])[0], body.decode()]

def get(path, more=''):
    return ask(f'GET {path} HTTP/1.1\r\nHost: slice\r\nConnection: close\r\n{more}\r\n')

if len(sys.argv) > 1:
    print(json.dumps([ask(request) for request in json.loads(sys.argv[1])]))
