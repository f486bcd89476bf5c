//! May the owner bind a port? Asked before the bind and after it.

use policy::abi::{RESERVED_NOBODY, Reserved, Settings, SliceEntry, port_index};
use policy::decide::bind::{Bind, own_port, port};
use policy::decide::claim::Claimed;
use policy::{Reason, SliceId, Verdict};

use crate::atomic;
use crate::claim;
use crate::maps::RESERVED;
use crate::owner;

/// Asks policy about a port of the shared addresses.
#[inline(always)]
pub fn shared(
    settings: &Settings,
    who: SliceId,
    slice: &SliceEntry,
    protocol: u8,
    number: u16,
    picked: bool,
    given: bool,
) -> Verdict {
    let (Some(index), Some(state)) = (port_index(protocol, number), owner::state(who)) else {
        return Verdict::Deny(Reason::NoPolicy);
    };
    let Some(reserved) = RESERVED.get(index) else {
        return Verdict::Deny(Reason::NoPolicy);
    };
    // SAFETY: the row lies in the array for good.
    let claimed = unsafe {
        Claimed {
            ports: atomic::load(&raw const (*state).claims),
            linger_debt_ns: atomic::load(&raw const (*state).linger_debt_ns),
        }
    };
    port(&Bind {
        who,
        slice,
        port: number,
        picked,
        given,
        reserved: *reserved,
        claim: claim::read(index),
        claimed,
        now_ns: claim::now_ns(),
        settings,
    })
}

/// Whom policy keeps a port for.
#[inline(always)]
pub fn kept(protocol: u8, number: u16) -> Reserved {
    let row = port_index(protocol, number).and_then(|index| RESERVED.get(index));
    row.copied().unwrap_or(Reserved {
        owner: SliceId::NODE,
        kind: RESERVED_NOBODY,
        flags: 0,
    })
}

/// Asks policy about a port of the slice's own address.
#[inline(always)]
pub fn own(who: SliceId, protocol: u8, number: u16) -> Verdict {
    match port_index(protocol, number).and_then(|index| RESERVED.get(index)) {
        Some(reserved) => own_port(who, *reserved),
        None => Verdict::Deny(Reason::NoPolicy),
    }
}
