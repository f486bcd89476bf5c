//! How much the kernel hands to a link as one packet (generic segmentation offload).
//! `pace` writes one time on all of it, so on a slow link it must not be much: 64 KiB
//! are 52 ms of 10 Mbit/s.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nix::errno::Errno;
use policy::decide::pace::{EPOCH_NS, bytes_in};

use super::netlink::Netlink;

/// Where the kernel starts (`GSO_LEGACY_MAX_SIZE` of linux/netdevice.h), bytes.
const DEFAULT: u32 = 65_536;
/// Two segments, and the headers that the kernel counts with them: less would split
/// what TCP sends at once anyway.
const LEAST: u32 = 4_096;

/// What a device takes, bytes.
struct Sizes {
    now: u32,
    most: u32,
}

fn sizes(device: u32) -> anyhow::Result<Option<Sizes>> {
    let mut found = None;
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    Netlink::open()?.list(question, |answer| {
        if let RouteNetlinkMessage::NewLink(message) = answer
            && message.header.index == device
        {
            let mut sizes = Sizes {
                now: DEFAULT,
                most: DEFAULT,
            };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::GsoMaxSize(size) => sizes.now = size,
                    LinkAttribute::TsoMaxSize(size) => sizes.most = size.min(DEFAULT),
                    _ => {}
                }
            }
            found = Some(sizes);
        }
    })?;
    Ok(found)
}

fn set(device: u32, size: u32) -> anyhow::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = device;
    message.attributes = vec![LinkAttribute::GsoMaxSize(size)];
    let message = RouteNetlinkMessage::SetLink(message);
    Netlink::open()?.change(0, vec![message], &[Errno::ENODEV])
}

/// Bounds what a device gets at once to what leaves in an epoch at this rate, bytes
/// per second. Connections that are open keep to what they found.
///
/// # Errors
/// The kernel refuses.
pub fn bound(device: u32, rate: u64) -> anyhow::Result<()> {
    let Some(sizes) = sizes(device)? else {
        return Ok(());
    };
    let wanted = u32::try_from(bytes_in(EPOCH_NS, rate))
        .unwrap_or(DEFAULT)
        .max(LEAST)
        .min(sizes.most);
    if sizes.now == wanted {
        return Ok(());
    }
    set(device, wanted)
}

/// Lets a device have as much at once as the kernel gives from the start.
///
/// # Errors
/// The kernel refuses; that the device is gone is fine.
pub fn unbound(device: u32) -> anyhow::Result<()> {
    match sizes(device)? {
        Some(sizes) if sizes.now < sizes.most => set(device, sizes.most),
        _ => Ok(()),
    }
}
