//! What the node's owner refuses.

use aya_ebpf::btf_maps::lpm_trie::Key;
use policy::abi::{Address, REFUSES_DESTINATIONS, Settings};
use policy::decide::destination::refused;
use policy::{SliceId, Verdict};

use crate::maps::REFUSED;

/// Bits of the row and of an address.
const WHOLE: u32 = 32 + 128;

/// Looks at the rules for this slice, then at those for all. Two look-ups in a
/// trie: their cost grows with the length of the prefixes, not their number.
#[inline(always)]
pub fn verdict(
    settings: &Settings,
    who: SliceId,
    destination: &Address,
    protocol: u8,
    port: u16,
) -> Verdict {
    if settings.flags & REFUSES_DESTINATIONS == 0 {
        return Verdict::Allow;
    }
    let mut data = [0; 20];
    let mut at = 0;
    while at < 16 {
        data[4 + at] = destination[at];
        at += 1;
    }
    let own = refused(
        REFUSED.get(&Key::new(WHOLE, row(data, who.index()))),
        protocol,
        port,
    );
    if !own.is_allow() {
        return own;
    }
    refused(REFUSED.get(&Key::new(WHOLE, data)), protocol, port)
}

#[inline(always)]
fn row(mut data: [u8; 20], index: u32) -> [u8; 20] {
    let bytes = index.to_be_bytes();
    data[0] = bytes[0];
    data[1] = bytes[1];
    data[2] = bytes[2];
    data[3] = bytes[3];
    data
}
