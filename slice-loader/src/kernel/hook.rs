//! A program on the way out of devices, of each that it is put on.
//!
//! A kernel with links to devices (TCX, Linux 6.6) gets one, which nobody takes
//! off by mistake; an older one a filter below clsact. The program is pinned, so
//! that whoever finds a new device has it; and each device's link is, or what
//! marks that it has the program otherwise.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::Context;

use super::store::Store;
use crate::sys::{bpf, tc};

/// Which of the programs, and its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `frame`, before all others: one of them may let a packet out by itself.
    Frames,
    /// `pace`, after all that drop.
    Pace,
}

impl Hook {
    /// The program, in the object and where it is pinned.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Hook::Frames => "frame",
            Hook::Pace => "pace",
        }
    }

    const fn other(self) -> Hook {
        match self {
            Hook::Frames => Hook::Pace,
            Hook::Pace => Hook::Frames,
        }
    }

    const fn turn(self) -> tc::Turn {
        match self {
            Hook::Frames => tc::Turn::First,
            Hook::Pace => tc::Turn::Last,
        }
    }

    const fn directory(self) -> &'static str {
        match self {
            Hook::Frames => "devices",
            Hook::Pace => "paced",
        }
    }

    /// Where the program is pinned.
    #[must_use]
    pub fn pinned_program(self, store: &Store) -> PathBuf {
        store.root().join(self.program())
    }

    fn pin_of(self, store: &Store, number: u32) -> PathBuf {
        store.root().join(self.directory()).join(number.to_string())
    }

    /// No dots: bpffs keeps them for itself.
    fn place_mark(self, store: &Store, number: u32) -> PathBuf {
        self.pin_of(store, number)
            .with_file_name(format!("{number}_clsact"))
    }

    /// Pins the program, in place of the former.
    ///
    /// # Errors
    /// It cannot be pinned.
    pub fn pin(self, store: &Store, program: BorrowedFd<'_>) -> anyhow::Result<()> {
        let path = self.pinned_program(store);
        let next = path.with_file_name(format!("{}_next", self.program()));
        let _ = fs::remove_file(&next);
        bpf::object_pin(program, &next).with_context(|| format!("pin {}", next.display()))?;
        fs::rename(&next, &path).with_context(|| format!("pin {}", path.display()))
    }

    /// The pinned program.
    ///
    /// # Errors
    /// There is none.
    pub fn open(self, store: &Store) -> anyhow::Result<OwnedFd> {
        let path = self.pinned_program(store);
        bpf::object_get(&path).with_context(|| format!("open program {}", path.display()))
    }

    /// The numbers of the devices that have the program.
    ///
    /// # Errors
    /// The directory cannot be read; that it is not there is no error.
    pub fn devices(self, store: &Store) -> anyhow::Result<Vec<u32>> {
        let names = store.names(self.directory())?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Puts the program on a device; whether it was not there before.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn arm(self, store: &Store, program: BorrowedFd<'_>, number: u32) -> anyhow::Result<bool> {
        let path = self.pin_of(store, number);
        if path.exists() {
            let pin = bpf::object_get(&path)?;
            match bpf::link_device(pin.as_fd()) {
                Ok(device) if device == number => {
                    bpf::link_update(pin.as_fd(), program)?;
                    return Ok(false);
                }
                // Another device has the number now.
                Ok(_) => fs::remove_file(&path)?,
                // A mark of a filter, not a link: somebody may have taken that off.
                // Where it is there it stays, since the kernel tells of each that is
                // put there, and who hears of it looks here.
                Err(_) => {
                    let ours = bpf::program_info(program)?.number;
                    if tc::attached(number, self.turn())? != Some(ours) {
                        self.by_filter(store, program, number)?;
                    }
                    return Ok(false);
                }
            }
        }
        match bpf::device_link_create(program, number, self.turn() == tc::Turn::First) {
            Ok(link) => bpf::object_pin(link.as_fd(), &path)?,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.by_filter(store, program, number)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Where there are no links. What marks it is the pinned program, twice where
    /// the place for filters is ours too.
    fn by_filter(self, store: &Store, program: BorrowedFd<'_>, number: u32) -> anyhow::Result<()> {
        let made = tc::attach(program, number, self.turn())?;
        let marks = [
            (true, self.pin_of(store, number)),
            (made, self.place_mark(store, number)),
        ];
        for (wanted, path) in marks {
            if wanted && !path.exists() {
                bpf::object_pin(program, &path)?;
            }
        }
        Ok(())
    }

    /// Takes the program off a device.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn disarm(self, store: &Store, number: u32) -> anyhow::Result<()> {
        let (pin, mark) = (self.pin_of(store, number), self.place_mark(store, number));
        // The place for filters goes with the last that is in it.
        let other = self.other();
        if mark.exists() && other.pin_of(store, number).exists() {
            let its = other.place_mark(store, number);
            fs::rename(&mark, &its).with_context(|| format!("pin {}", its.display()))?;
        }
        let is_link = bpf::object_get(&pin).and_then(|pin| bpf::link_device(pin.as_fd()));
        if is_link.is_err() {
            tc::detach(number, mark.exists(), self.turn())
                .with_context(|| format!("take the filter off device {number}"))?;
        }
        for path in [mark, pin] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts the pinned program on every device that has one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn replace(self, store: &Store) -> anyhow::Result<()> {
        let numbers = self.devices(store)?;
        if numbers.is_empty() {
            return Ok(());
        }
        let program = self.open(store)?;
        for number in numbers {
            self.arm(store, program.as_fd(), number)?;
        }
        Ok(())
    }

    /// Takes the program off all devices.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_all(self, store: &Store) -> anyhow::Result<()> {
        for number in self.devices(store)? {
            self.disarm(store, number)?;
        }
        Ok(())
    }
}
