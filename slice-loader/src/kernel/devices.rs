//! The devices on whose way out the frames of packet sockets are looked at.
//!
//! First the program is there, then `DEVICES` says so: a device that has just
//! come, or one that is no Ethernet, is closed to packet sockets. A kernel with
//! links to devices (TCX, Linux 6.6) gets one, which nobody takes off by
//! mistake; an older one a filter below clsact.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::Context;
use policy::abi::ArmedDevice;

use super::maps::Maps;
use super::store::Store;
use crate::sys::{bpf, tc};

/// The program, in the object.
pub const PROGRAM: &str = "frame";

/// `ARPHRD_ETHER`, `ARPHRD_LOOPBACK` of linux/if_arp.h.
const WITH_FRAMES: [&str; 2] = ["1", "772"];

/// Tunnels of Ethernet frames, as the kernel calls them.
const TUNNELS: [&str; 2] = ["DEVTYPE=vxlan", "DEVTYPE=geneve"];

/// Where the kernel lists the devices of this network namespace.
const LIST: &str = "/sys/class/net";

/// The program is pinned, so that whoever finds a new device has it.
///
/// # Errors
/// It cannot be pinned.
pub fn pin(store: &Store, program: BorrowedFd<'_>) -> anyhow::Result<()> {
    let (path, next) = (
        store.frame_program(),
        store.frame_program().with_file_name("frame_next"),
    );
    let _ = fs::remove_file(&next);
    bpf::object_pin(program, &next).with_context(|| format!("pin {}", next.display()))?;
    fs::rename(&next, &path).with_context(|| format!("pin {}", path.display()))
}

/// Looks at the frames of all devices that there are now (`wanted`), or of none
/// any more. Whether anything changed.
///
/// # Errors
/// The kernel refuses.
pub fn refresh(store: &Store, maps: &Maps, wanted: bool) -> anyhow::Result<bool> {
    let there = if wanted { list()? } else { BTreeMap::new() };
    let mut changed = false;
    let armed: BTreeMap<u32, ArmedDevice> = maps.devices.all()?.into_iter().collect();
    for number in armed.keys().filter(|number| !there.contains_key(number)) {
        maps.devices.remove(number)?;
        changed = true;
    }
    for number in pinned(store)?
        .into_iter()
        .filter(|number| !there.contains_key(number))
    {
        disarm(store, number)?;
    }
    if there.is_empty() {
        return Ok(changed);
    }
    let program = program(store)?;
    for (number, device) in there {
        let fresh = match arm(store, program.as_fd(), number) {
            Ok(fresh) => fresh,
            // It went meanwhile.
            Err(error) if is_gone(&error) => continue,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("look at the frames of device {number}"));
            }
        };
        if fresh || armed.get(&number) != Some(&device) {
            maps.devices.set(&number, &device)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Puts the program as it is now on every device that has one.
///
/// # Errors
/// The kernel refuses.
pub fn replace(store: &Store) -> anyhow::Result<()> {
    let numbers = pinned(store)?;
    if numbers.is_empty() {
        return Ok(());
    }
    let program = program(store)?;
    for number in numbers {
        arm(store, program.as_fd(), number)?;
    }
    Ok(())
}

/// Takes the program off all devices.
///
/// # Errors
/// The kernel refuses.
pub fn remove_all(store: &Store) -> anyhow::Result<()> {
    for number in pinned(store)? {
        disarm(store, number)?;
    }
    Ok(())
}

fn is_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)))
}

fn program(store: &Store) -> anyhow::Result<OwnedFd> {
    let path = store.frame_program();
    bpf::object_get(&path).with_context(|| format!("open program {}", path.display()))
}

/// Whether the program was not there before.
fn arm(store: &Store, program: BorrowedFd<'_>, number: u32) -> anyhow::Result<bool> {
    let path = store.device(number);
    if path.exists() {
        let pin = bpf::object_get(&path)?;
        match bpf::link_device(pin.as_fd()) {
            Ok(device) if device == number => {
                bpf::link_update(pin.as_fd(), program)?;
                return Ok(false);
            }
            // Another device has the number now.
            Ok(_) => fs::remove_file(&path)?,
            // A mark of a filter, not a link: put there anew, lest somebody
            // took it off.
            Err(_) => {
                by_filter(store, program, number)?;
                return Ok(false);
            }
        }
    }
    match bpf::device_link_create(program, number) {
        Ok(link) => {
            bpf::object_pin(link.as_fd(), &path)?;
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            by_filter(store, program, number)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// Where there are no links. What marks it is the pinned program, twice where
/// the place for filters is ours too.
fn by_filter(store: &Store, program: BorrowedFd<'_>, number: u32) -> anyhow::Result<()> {
    let made = tc::attach(program, number)?;
    let marks = [
        (true, store.device(number)),
        (made, place_mark(store, number)),
    ];
    for (wanted, path) in marks {
        if wanted && !path.exists() {
            bpf::object_pin(program, &path)?;
        }
    }
    Ok(())
}

fn disarm(store: &Store, number: u32) -> anyhow::Result<()> {
    let (pin, mark) = (store.device(number), place_mark(store, number));
    let is_link = bpf::object_get(&pin).and_then(|pin| bpf::link_device(pin.as_fd()));
    if is_link.is_err() {
        tc::detach(number, mark.exists())
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

fn place_mark(store: &Store, number: u32) -> PathBuf {
    // No dots: bpffs keeps them for itself.
    store
        .device(number)
        .with_file_name(format!("{number}_clsact"))
}

/// The devices that have the program.
fn pinned(store: &Store) -> anyhow::Result<Vec<u32>> {
    let names = store.devices()?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The devices that have Ethernet frames, by their numbers.
fn list() -> anyhow::Result<BTreeMap<u32, ArmedDevice>> {
    let mut devices = BTreeMap::new();
    for entry in fs::read_dir(LIST).with_context(|| format!("read {LIST}"))? {
        let directory = entry?.path();
        let read = |file: &str| fs::read_to_string(directory.join(file));
        // One that goes meanwhile is not there.
        let (Ok(number), Ok(kind), Ok(address)) = (read("ifindex"), read("type"), read("address"))
        else {
            continue;
        };
        // Of a tunnel the outer packet, which the kernel writes, has the sender's
        // socket too.
        let tunnel =
            read("uevent").is_ok_and(|text| TUNNELS.iter().any(|kind| text.contains(kind)));
        if WITH_FRAMES.contains(&kind.trim())
            && !tunnel
            && let Ok(number) = number.trim().parse()
            && let Some(address) = ethernet(address.trim())
        {
            devices.insert(
                number,
                ArmedDevice {
                    address,
                    reserved: 0,
                },
            );
        }
    }
    Ok(devices)
}

/// Six numbers of two hexadecimal digits.
fn ethernet(text: &str) -> Option<[u8; 6]> {
    let mut parts = text.split(':');
    let mut address = [0; 6];
    for octet in &mut address {
        *octet = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_are_read_as_the_kernel_writes_them() {
        assert_eq!(
            ethernet("52:54:00:12:34:ff"),
            Some([0x52, 0x54, 0, 0x12, 0x34, 0xff])
        );
        assert_eq!(ethernet("52:54:00:12:34"), None);
        assert_eq!(ethernet("52:54:00:12:34:56:78"), None);
        assert_eq!(ethernet(""), None);
    }
}
