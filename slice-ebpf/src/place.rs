//! What an address is on this node.

use policy::abi::Address;
use policy::decide::address::{self, Place};

use crate::maps::ADDRESSES;

/// What `address` is on this node.
#[inline(always)]
pub fn of(address: &Address) -> Place {
    match address::by_itself(address) {
        Some(place) => place,
        // SAFETY: the value is copied at once; its two words are written
        // together by the loader before an address is used.
        None => address::by_entry(unsafe { ADDRESSES.get(address) }.copied()),
    }
}
