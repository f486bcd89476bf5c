//! bind(2), before the kernel looks at the port.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_setsockopt;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use policy::abi::{
    Moment, Settings, SliceEntry, TAG_ANY_PORT, TAG_ELSEWHERE, TAG_REUSE, UDP, port_index,
};
use policy::decide::address::{self, Place, is_ipv4, wildcard_means};
use policy::decide::bind::{Bind, port as decide, reuse};
use policy::decide::claim::Claimed;
use policy::decide::option::{SO_REUSEADDR, SOL_SOCKET};
use policy::{Reason, SliceId, Verdict};

use crate::atomic;
use crate::claim;
use crate::ctx::{SockAddr, in_node};
use crate::event::Denial;
use crate::maps::{ADDRESSES, RESERVED};
use crate::owner;

/// Goes on, and CAP_NET_BIND_SERVICE is not asked for.
const ALLOW_PRIVILEGED: i32 = 3;

/// `BPF_CGROUP_INET4_BIND`.
#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    bind(ctx, true)
}

/// `BPF_CGROUP_INET6_BIND`, dual-stack sockets included.
#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    bind(ctx, false)
}

#[inline(always)]
fn bind(ctx: SockAddrContext, ipv4: bool) -> i32 {
    let Some(settings) = owner::settings() else {
        return 1;
    };
    let call = SockAddr(ctx.sock_addr);
    let Some(tag) = owner::tag_of_older(call.sk().cast(), in_node(ctx.as_ptr(), settings)) else {
        return 1;
    };
    // SAFETY: the storage lives as long as the socket that runs the hook.
    let (who, flags) = unsafe { ((*tag).id, &raw mut (*tag).flags) };
    let protocol = call.protocol();
    if atomic::load(flags) & TAG_ELSEWHERE != 0 || port_index(protocol, 0).is_none() {
        return 1;
    }
    let (address, port) = (call.address(ipv4), call.port());
    match verdict(&call, settings, who, ipv4, &address, protocol, port) {
        Verdict::Allow => {}
        Verdict::Deny(reason) => {
            let mut denial = Denial::new(
                who,
                reason,
                Moment::Bind,
                if ipv4 { 2 } else { 10 },
                protocol,
            );
            denial.local = address;
            denial.local_port = port;
            return denial.refuse();
        }
    }
    if port == 0 {
        atomic::fetch_or(flags, TAG_ANY_PORT);
    } else {
        atomic::fetch_clear(flags, TAG_ANY_PORT);
    }
    if !who.is_slice() {
        return 1;
    }
    if atomic::load(flags) & TAG_REUSE != 0 {
        apply_reuse(&ctx, protocol, port, settings);
    }
    ALLOW_PRIVILEGED
}

#[inline(always)]
fn verdict(
    call: &SockAddr,
    settings: &Settings,
    who: SliceId,
    ipv4: bool,
    address: &[u8; 16],
    protocol: u8,
    port: u16,
) -> Verdict {
    // The node keeps its own ports even where its row is missing.
    let Some(entry) = owner::entry(who) else {
        return Verdict::allow_if(!who.is_slice(), Reason::NoPolicy);
    };
    let place = place(address);
    let verdict = address::bind(who, entry, place, is_ipv4(address));
    if !verdict.is_allow() {
        return verdict;
    }
    if let Place::Own(_) = place {
        return Verdict::Allow;
    }
    if who.is_slice()
        && let Place::Wildcard = place
        && let Some(own) = wildcard_means(entry, ipv4)
    {
        call.set_address(ipv4, &own);
        return Verdict::Allow;
    }
    if port == 0 {
        return Verdict::Allow;
    }
    port_verdict(settings, who, entry, protocol, port, false)
}

/// What `address` is on this node.
#[inline(always)]
pub fn place(address: &[u8; 16]) -> Place {
    match address::by_itself(address) {
        Some(place) => place,
        // SAFETY: the value is copied at once; its two words are written
        // together by the loader before an address is used.
        None => address::by_entry(unsafe { ADDRESSES.get(address) }.copied()),
    }
}

/// Asks policy about a port of the shared addresses.
#[inline(always)]
pub fn port_verdict(
    settings: &Settings,
    who: SliceId,
    slice: &SliceEntry,
    protocol: u8,
    port: u16,
    picked: bool,
) -> Verdict {
    let (Some(index), Some(state)) = (port_index(protocol, port), owner::state(who)) else {
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
    decide(&Bind {
        who,
        slice,
        port,
        picked,
        reserved: *reserved,
        claim: claim::read(index),
        claimed,
        now_ns: claim::now_ns(),
        settings,
    })
}

/// SO_REUSEADDR, asked for earlier, takes effect now or not at all.
#[inline(always)]
fn apply_reuse(ctx: &SockAddrContext, protocol: u8, port: u16, settings: &Settings) {
    let Some(reserved) = port_index(protocol, port).and_then(|index| RESERVED.get(index)) else {
        return;
    };
    let mut value = reuse(protocol == UDP, port, *reserved, settings) as i32;
    // SAFETY: the value is an int, as the option wants, and lives on the stack.
    unsafe {
        bpf_setsockopt(
            ctx.as_ptr(),
            SOL_SOCKET,
            SO_REUSEADDR,
            (&raw mut value).cast(),
            4,
        );
    }
}
