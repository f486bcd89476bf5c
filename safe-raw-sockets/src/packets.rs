//! How many packet sockets of the broker live: each is asked about every packet
//! of the node, so their number is bounded.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};

/// Most packet sockets of a slice at once.
pub(crate) const MOST: usize = 8;

/// The packet sockets that were made, by their inodes.
#[derive(Debug)]
pub(crate) struct Packets {
    made: BTreeSet<u64>,
    /// /proc/net/packet of the node, opened before.
    list: File,
}

impl Packets {
    pub(crate) fn new(list: OwnedFd) -> Self {
        Self {
            made: BTreeSet::new(),
            list: list.into(),
        }
    }

    /// Whether there is room for one more; forgets those that were closed.
    ///
    /// # Errors
    /// The list cannot be read.
    pub(crate) fn have_room(&mut self) -> io::Result<bool> {
        if self.made.len() >= MOST {
            let mut text = String::new();
            self.list.rewind()?;
            self.list.read_to_string(&mut text)?;
            let alive = inodes(&text);
            self.made.retain(|inode| alive.contains(inode));
        }
        Ok(self.made.len() < MOST)
    }

    /// One more was made.
    ///
    /// # Errors
    /// It cannot be asked for its inode.
    pub(crate) fn add(&mut self, socket: &OwnedFd) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let socket = File::from(socket.as_fd().try_clone_to_owned()?);
        self.made.insert(socket.metadata()?.ino());
        Ok(())
    }
}

/// The last column of each line but the first.
fn inodes(text: &str) -> BTreeSet<u64> {
    text.lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next_back()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_are_the_last_column() {
        let text = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                    00000000c5a3b2a1 3      3    0003   0     1 0      65534  18374\n\
                    00000000c5a3b2a2 3      2    0800   2     1 0      0      999\n";
        assert_eq!(inodes(text), BTreeSet::from([999, 18374]));
        assert!(inodes("").is_empty());
    }
}
