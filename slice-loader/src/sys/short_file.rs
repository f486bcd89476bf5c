//! Files of the kernel that are short and read often: opened, read at once, closed. A node
//! with a thousand slices reads ten thousand of them for one answer.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than any that is meant: then one call reads all of it.
const USUAL: usize = 4096;

/// What the file says.
///
/// # Errors
/// It cannot be read, or is no text.
pub fn read(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; USUAL];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    // One that fills the room has more.
    if length == USUAL {
        file.read_to_end(&mut bytes)?;
    }
    String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ones_and_long_ones_are_read_as_they_are() {
        let path = std::env::temp_dir().join(format!("short-file-{}", std::process::id()));
        for length in [0, 1, USUAL - 1, USUAL, USUAL + 1, 3 * USUAL] {
            let text = "x".repeat(length);
            std::fs::write(&path, &text).unwrap();
            assert_eq!(read(&path).unwrap(), text);
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert!(read(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(read(&path).is_err());
    }
}
