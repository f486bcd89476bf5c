//! A raw socket claims a port, on which its program speaks TCP or UDP itself:
//! setsockopt(2) at a level that is not the kernel's.

use aya_ebpf::bindings::{bpf_sock, bpf_sockopt};
use core::ptr::{read_volatile, write_volatile};
use policy::abi::{
    Address, Moment, Settings, TAG_ELSEWHERE, TAG_RAW, TAG_RAW_PORT, Tag, mapped, port_index,
};
use policy::decide::address::bind;
use policy::decide::create::{AF_INET, AF_INET6};
use policy::verdict::errno::EINVAL;
use policy::{SliceId, Verdict};

use crate::atomic;
use crate::event::Denial;
use crate::{claim, owner, place, port};

/// The kernel does not look at the option.
const HANDLED: i32 = -1;

/// An address and a port.
struct Named {
    ipv4: bool,
    address: Address,
    port: u16,
}

/// Claims the port that the value names. The value of the hook: the kernel
/// answers ENOPROTOOPT where this is no socket for it.
#[inline(never)]
pub fn claim(call: *mut bpf_sockopt, settings: &Settings) -> i32 {
    // SAFETY: the pointers are the kernel's, the fields readable here.
    let (sk, family, protocol) = unsafe {
        let sk: *mut bpf_sock = read_volatile(&raw const (*call).__bindgen_anon_1.sk);
        if sk.is_null() {
            return 1;
        }
        (
            sk,
            read_volatile(&raw const (*sk).family) as i32,
            read_volatile(&raw const (*sk).protocol) as u8,
        )
    };
    let Some(tag) = owner::tag(sk.cast()) else {
        return 1;
    };
    // SAFETY: the storage lives as long as the socket that runs the hook.
    let (who, flags) = unsafe { ((*tag).id, atomic::load(&raw const (*tag).flags)) };
    let is_raw = flags & (TAG_RAW | TAG_ELSEWHERE) == TAG_RAW;
    if !who.is_slice() || !is_raw || port_index(protocol, 0).is_none() {
        return 1;
    }
    // SAFETY: as above. The kernel shows more octets than a short value has.
    let length = unsafe { read_volatile(&raw const (*call).optlen) };
    let Some(named) = named(call, family, length) else {
        return invalid();
    };
    // A second port on one socket; none.
    if flags & TAG_RAW_PORT != 0 || named.port == 0 {
        return invalid();
    }
    let Some(entry) = owner::entry(who) else {
        return invalid();
    };
    if !bind(who, entry, place::of(&named.address), named.ipv4).is_allow() {
        return invalid();
    }
    if let Verdict::Deny(reason) = take(tag, settings, who, protocol, named.port) {
        let mut denial = Denial::new(who, reason, Moment::Option, family as u8, protocol);
        denial.local = named.address;
        denial.local_port = named.port;
        return denial.refuse();
    }
    // SAFETY: as above, writable here.
    unsafe { write_volatile(&raw mut (*call).optlen, HANDLED) };
    1
}

#[inline(always)]
fn take(tag: *mut Tag, settings: &Settings, who: SliceId, protocol: u8, number: u16) -> Verdict {
    let (Some(entry), Some(index)) = (owner::entry(who), port_index(protocol, number)) else {
        return Verdict::Deny(policy::Reason::NoPolicy);
    };
    let verdict = port::shared(settings, who, entry, protocol, number, false, false);
    if !verdict.is_allow() {
        return verdict;
    }
    let mine = port::kept(protocol, number).is_for(who);
    let picked = number >= settings.ephemeral_low && number <= settings.ephemeral_high;
    // The kernel does not know of the claim and gives the port to others.
    if picked && !mine {
        return Verdict::Deny(policy::Reason::ClaimForbidden);
    }
    claim::hold_raw(tag, who, index, settings)
}

/// The address in the value; `None` where it is too short or of another family.
#[inline(always)]
fn named(call: *mut bpf_sockopt, family: i32, length: i32) -> Option<Named> {
    if length < 16 || family == AF_INET6 && length < 28 {
        return None;
    }
    // SAFETY: the two pointers bound the value, and each read is compared.
    unsafe {
        let start = read_volatile(&raw const (*call).__bindgen_anon_2.optval) as usize;
        let end = read_volatile(&raw const (*call).__bindgen_anon_3.optval_end) as usize;
        if start + 16 > end || *(start as *const u16) as i32 != family {
            return None;
        }
        let port = u16::from_be_bytes(*((start + 2) as *const [u8; 2]));
        match family {
            AF_INET => Some(Named {
                ipv4: true,
                address: mapped(*((start + 4) as *const [u8; 4])),
                port,
            }),
            AF_INET6 if start + 28 <= end => Some(Named {
                ipv4: false,
                address: *((start + 8) as *const Address),
                port,
            }),
            _ => None,
        }
    }
}

fn invalid() -> i32 {
    // SAFETY: the value is an error number, as the helper wants.
    unsafe { aya_ebpf::helpers::generated::bpf_set_retval(-EINVAL) };
    0
}
