//! A terminal for a command, and somebody who types at it.

use anyhow::Result;

use crate::node::{Node, Output};

/// Runs a command on a terminal of 33 rows and 99 columns; once it has written
/// `sign`, types. An empty sign is waited for in vain: nothing is typed.
///
/// # Errors
/// python3 cannot be started; a status other than 0 is no error.
pub fn on_terminal(node: &Node, words: &[&str], sign: &str, typed: &str) -> Result<Output> {
    const SCRIPT: &str = "\
import fcntl, os, pty, struct, sys, termios
sign, typed, words = sys.argv[1].encode(), sys.argv[2].encode(), sys.argv[3:]
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', 33, 99, 0, 0))
    os.execvp(words[0], words)
out = b''
while True:
    try: data = os.read(fd, 4096)
    except OSError: break
    if not data: break
    out += data
    if typed and sign and sign in out:
        os.write(fd, typed)
        typed = b''
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.write(out.decode(errors='replace'))
sys.stdout.flush()
os._exit(code if code >= 0 else 128 - code)
";
    node.run("python3", &[&["-c", SCRIPT, sign, typed], words].concat())
}
