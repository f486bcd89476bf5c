//! What the node's owner refuses.

use aya_ebpf::btf_maps::lpm_trie::Key;
use policy::abi::{Address, REFUSES_DESTINATIONS, RefusedPorts, Settings, refused_row};
use policy::decide::destination::refused;
use policy::{SliceId, Verdict};

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
    let own = refused(look_up(who.index(), destination), protocol, port);
    if !own.is_allow() {
        return own;
    }
    refused(look_up(ALL_SLICES, destination), protocol, port)
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
