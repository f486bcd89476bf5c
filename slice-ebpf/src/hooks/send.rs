//! sendto(2) and sendmsg(2) with an address, on a slice's UDP socket.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use policy::abi::{Moment, Settings, TAG_ELSEWHERE};
use policy::decide::address::{self, Place, is_ipv4};
use policy::decide::loopback::{Named, is_resolver, localhost_ipv4, named, named_destination};
use policy::{Reason, SliceId, Verdict};

use super::connect::source_for;
use crate::atomic;
use crate::ctx::{SockAddr, family, in_node};
use crate::event::Denial;
use crate::{destination, loopback, owner, place};

/// `BPF_CGROUP_UDP4_SENDMSG`.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send(ctx, true)
}

/// `BPF_CGROUP_UDP6_SENDMSG`.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send(ctx, false)
}

#[inline(always)]
fn send(ctx: SockAddrContext, ipv4: bool) -> i32 {
    let Some(settings) = owner::settings() else {
        return 0;
    };
    let call = SockAddr(ctx.sock_addr);
    let Some(tag) = owner::tag_of_older(call.sk().cast(), in_node(ctx.as_ptr(), settings)) else {
        return 0;
    };
    // SAFETY: the storage lives as long as the socket that runs the hook.
    let (who, flags) = unsafe { ((*tag).id, atomic::load(&raw const (*tag).flags)) };
    if flags & TAG_ELSEWHERE != 0 {
        return 1;
    }
    let (address, port) = (call.address(ipv4), call.port());
    let verdict = verdict(&call, settings, who, ipv4, &address, port);
    if let Verdict::Deny(reason) = verdict {
        let protocol = call.protocol();
        let mut denial = Denial::new(who, reason, Moment::Send, family(ipv4), protocol);
        denial.local = call.source(ipv4);
        denial.peer = address;
        denial.peer_port = port;
        return denial.refuse();
    }
    1
}

#[inline(always)]
fn verdict(
    call: &SockAddr,
    settings: &Settings,
    who: SliceId,
    ipv4: bool,
    destination: &[u8; 16],
    port: u16,
) -> Verdict {
    // As in `connect`: sockets of slices only.
    let Some(entry) = owner::entry(who).filter(|_| who.is_slice()) else {
        return Verdict::Deny(Reason::NoPolicy);
    };
    // On a connected socket a message that names its source names no
    // destination: then this is :: or 0.0.0.0, port 0.
    let to = if port == 0 {
        Named::Elsewhere
    } else {
        named_destination(who.index(), destination)
    };
    let from = call.source(ipv4);
    match named(who.index(), &from) {
        Named::Mine(real) => call.set_source(ipv4, &real),
        Named::Resolver | Named::Foreign => return Verdict::Deny(Reason::AddressForeign),
        Named::Elsewhere => match place::of(&from) {
            // The kernel picks the source, or the slice has its own.
            Place::Wildcard => {
                let source = match to {
                    // Its route says the same; it may have been removed.
                    Named::Mine(_) => Some(localhost_ipv4(who.index())),
                    _ => source_for(who, entry, to, destination),
                };
                if let Some(source) = source
                    && is_ipv4(&source) == ipv4
                {
                    call.set_source(ipv4, &source);
                }
            }
            place => {
                // Where it leaves the node is known of the packet only.
                let verdict = address::source(who, entry, place, is_ipv4(&from), true);
                if !verdict.is_allow() {
                    return Verdict::Deny(Reason::AddressForeign);
                }
            }
        },
    }
    let protocol = call.protocol();
    match to {
        Named::Mine(real) => {
            call.set_address(ipv4, &real);
            if let Some(kernels) = loopback::kernels_port(who, protocol, port, settings) {
                call.set_port(kernels);
            }
            return Verdict::Allow;
        }
        Named::Resolver if is_resolver(destination, port) => {}
        Named::Resolver | Named::Foreign => return Verdict::Deny(Reason::LoopbackForeign),
        Named::Elsewhere => {}
    }
    destination::verdict(settings, who, destination, protocol, Some(port))
}
