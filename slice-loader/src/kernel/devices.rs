//! The devices on whose way out the frames of packet sockets are looked at.
//!
//! First the program is there, then `DEVICES` says so: a device that has just
//! come, or one that is no Ethernet, is closed to packet sockets.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;

use anyhow::Context;
use nix::errno::Errno;
use policy::abi::ArmedDevice;

use super::hook::Hook;
use super::maps::Maps;
use super::store::Store;

/// `ARPHRD_ETHER`, `ARPHRD_LOOPBACK` of linux/if_arp.h.
const WITH_FRAMES: [&str; 2] = ["1", "772"];

/// Tunnels of Ethernet frames, as the kernel calls them.
const TUNNELS: [&str; 2] = ["DEVTYPE=vxlan", "DEVTYPE=geneve"];

/// Where the kernel lists the devices of this network namespace.
const LIST: &str = "/sys/class/net";

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
    for number in Hook::Frames
        .devices(store)?
        .into_iter()
        .filter(|number| !there.contains_key(number))
    {
        Hook::Frames.disarm(store, number)?;
    }
    if there.is_empty() {
        return Ok(changed);
    }
    let program = Hook::Frames.open(store)?;
    for (number, device) in there {
        let fresh = match Hook::Frames.arm(store, program.as_fd(), number) {
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

pub(super) fn is_gone(error: &anyhow::Error) -> bool {
    let number = match error.downcast_ref::<io::Error>() {
        Some(error) => error.raw_os_error(),
        // Of netlink.
        None => error.downcast_ref::<Errno>().map(|error| *error as i32),
    };
    matches!(number, Some(libc::ENODEV | libc::ENXIO))
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
