//! What the node's owner refuses.

use aya_ebpf::btf_maps::lpm_trie::Key;
use policy::abi::{Address, REFUSES_DESTINATIONS, RefusedPorts, Settings, refused_row};
use policy::decide::destination::refused;
use policy::{Reason, SliceId, Verdict};

use crate::maps::REFUSED;

/// Bits of the row and of an address.
const WHOLE: u32 = 32 + 128;

/// The row of the rules for all.
const ALL_SLICES: u32 = 0;

/// `port` is `None` where the protocol has none or the peer chose it.
///
/// Looks at the rules for this slice, then at those for all. Two look-ups in a
/// trie: the cost of the first grows with the logarithm of the slices that
/// have rules of their own, that of the second does not.
#[inline(always)]
pub fn verdict(
    settings: &Settings,
    who: SliceId,
    destination: &Address,
    protocol: u8,
    port: Option<u16>,
) -> Verdict {
    if settings.flags & REFUSES_DESTINATIONS == 0 {
        return Verdict::Allow;
    }
    let protocol = protocol as u32;
    let (port, has_port) = match port {
        Some(port) => (port as u32, 1),
        None => (0, 0),
    };
    let mut refused = destination_refused(who.index(), destination, protocol, port, has_port);
    if refused == 0 {
        refused = destination_refused(ALL_SLICES, destination, protocol, port, has_port);
    }
    Verdict::allow_if(refused == 0, Reason::Destination)
}

/// Not 0 where a rule of the row refuses it; `port` counts where `has_port` is
/// not 0.
///
/// A global function: the verifier looks at the rules' rounds once for each
/// program, not once for each way in which a program can come here and go on.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn destination_refused(
    row: u32,
    destination: *const Address,
    protocol: u32,
    port: u32,
    has_port: u32,
) -> u32 {
    // SAFETY: the callers hand over a reference; the verifier, which does not
    // know, wants to see the comparison with null.
    let Some(destination) = (unsafe { destination.as_ref() }) else {
        return 1;
    };
    let port = (has_port != 0).then_some(port as u16);
    !refused(look_up(row, destination), protocol as u8, port).is_allow() as u32
}

#[inline(always)]
fn look_up(row: u32, destination: &Address) -> Option<&'static RefusedPorts> {
    let mut data = [0; 20];
    let row = refused_row(row);
    let mut at = 0;
    while at < 4 {
        data[at] = row[at];
        at += 1;
    }
    while at < 20 {
        data[at] = destination[at - 4];
        at += 1;
    }
    REFUSED.get(&Key::new(WHOLE, data))
}
