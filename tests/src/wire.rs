//! What the VM's agent tells `cargo xtask` over the virtio serial port:
//! frames of a kind byte, a little-endian length and that many bytes.
//!
//! The kernel's console is another device, so no kernel message can garble a
//! verdict. `xtask` compiles this same file.

use std::io::{self, Read, Write};

/// Longest payload of one frame, in bytes; more is refused as garbled.
pub const FRAME_MAX: usize = 64 * 1024;

/// Name of the virtio serial port, as /sys/class/virtio-ports/*/name shows it.
pub const PORT: &str = "slice.wire";

/// One report of the agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The agent runs and is about to start its command; the kernel's release.
    Hello(String),
    /// Bytes that the command wrote to its standard output.
    Out(Vec<u8>),
    /// Bytes that the command wrote to its standard error.
    Err(Vec<u8>),
    /// The command ended with this status (128 + signal number if killed).
    Exit(u8),
}

impl Frame {
    /// Writes the frame as a whole and flushes.
    ///
    /// # Errors
    /// Those of the port, and a payload beyond [`FRAME_MAX`].
    pub fn write(&self, port: &mut impl Write) -> io::Result<()> {
        let (kind, payload): (u8, &[u8]) = match self {
            Frame::Hello(release) => (b'h', release.as_bytes()),
            Frame::Out(bytes) => (b'o', bytes),
            Frame::Err(bytes) => (b'e', bytes),
            Frame::Exit(status) => (b'x', std::slice::from_ref(status)),
        };
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= FRAME_MAX)
            .ok_or_else(|| io::Error::other("frame too long"))?;
        let mut bytes = Vec::with_capacity(5 + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(payload);
        port.write_all(&bytes)?;
        port.flush()
    }

    /// Reads the next frame; `None` at a clean end.
    ///
    /// # Errors
    /// Those of the port, an end inside a frame, and an unknown kind.
    pub fn read(port: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut kind = [0u8];
        if port.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut length = [0u8; 4];
        port.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
        if length > FRAME_MAX {
            return Err(io::Error::other(format!("a frame of {length} bytes")));
        }
        let mut payload = vec![0u8; length];
        port.read_exact(&mut payload)?;
        Ok(Some(match kind[0] {
            b'h' => Frame::Hello(String::from_utf8_lossy(&payload).into_owned()),
            b'o' => Frame::Out(payload),
            b'e' => Frame::Err(payload),
            b'x' => Frame::Exit(payload.first().copied().unwrap_or(255)),
            other => return Err(io::Error::other(format!("a frame of kind {other:#x}"))),
        }))
    }
}
