//! The packets of all slices with their owners, for a management slice that has
//! the grant `audit`.

use std::fs::File;
use std::io::{self, Read};

use crate::pcapng::Reader;
use crate::sys;

/// What the stream is asked for with, beside `AF_PACKET` and `SOCK_STREAM`: no
/// protocol of the kernel's.
pub const PROTOCOL: i32 = 0x534c;

/// The stream: pcapng, so that whoever does not want to look at each packet can
/// copy it into a file.
#[derive(Debug)]
pub struct Stream(File);

/// Opens the stream. It holds what is sent and received from now on; closed, it
/// costs the node nothing more. Packets that are not read in time are lost and
/// counted in the stream.
///
/// # Errors
/// EPERM: the slice has not the grant, or this process not CAP_NET_RAW. EBUSY: the
/// slice has such a stream already, or others have all that there are.
pub fn open() -> io::Result<Stream> {
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_STREAM, PROTOCOL)?;
    Ok(Stream(socket.into()))
}

impl Stream {
    /// The packets, one after the other.
    #[must_use]
    pub fn packets(self) -> Reader<io::BufReader<Self>> {
        Reader::new(io::BufReader::new(self))
    }
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}
