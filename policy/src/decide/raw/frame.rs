//! The frame around a packet that a packet socket sends.

use super::packet::{Octets, Sent, sent};
use crate::verdict::Reason;

/// Octets of an Ethernet header; the device lo has one too.
pub const HEADER: u32 = 14;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// A device that packet sockets of slices may send on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its Ethernet address.
    pub address: [u8; 6],
}

/// Octets of a frame, behind its header.
struct Behind<'a, T>(&'a T);

impl<T: Octets> Octets for Behind<'_, T> {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.at(offset + HEADER)
    }
}

/// Reads a frame of `length` octets on its way out of `device`.
///
/// # Errors
/// [`Reason::Frame`]: it has another protocol than IPv4 and IPv6 (ARP, VLAN
/// tags), another sender than the device, or goes to a group of stations with a
/// packet that goes to one; [`Reason::Header`]: as [`sent`] has none.
#[inline(always)]
pub fn frame(octets: &impl Octets, length: u32, device: &Device) -> Result<Sent, Reason> {
    let Some(header) = octets.at::<{ HEADER as usize }>(0) else {
        return Err(Reason::Frame);
    };
    let [group, _, _, _, _, _, s0, s1, s2, s3, s4, s5, high, low] = header;
    let kind = u16::from_be_bytes([high, low]);
    if [s0, s1, s2, s3, s4, s5] != device.address || kind != IPV4 && kind != IPV6 {
        return Err(Reason::Frame);
    }
    let Some(packet) = sent(&Behind(octets), length.saturating_sub(HEADER)) else {
        return Err(Reason::Header);
    };
    let is_ipv4 = crate::decide::address::is_ipv4(&packet.source);
    let to_group = matches!(
        crate::decide::address::by_itself(&packet.destination),
        Some(crate::decide::address::Place::Group)
    );
    if is_ipv4 != (kind == IPV4) || group & 1 == 1 && !to_group {
        return Err(Reason::Frame);
    }
    Ok(packet)
}
