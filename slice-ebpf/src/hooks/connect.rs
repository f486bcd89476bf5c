//! connect(2) of a slice's socket.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_bind;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use policy::abi::{
    Address, Moment, OWN_IPV4, OWN_IPV6, Settings, SliceEntry, TAG_ELSEWHERE, TCP, Tag, mapped,
    port_index,
};
use policy::decide::address::{Place, by_itself, is_ipv4};
use policy::decide::create::{AF_INET, AF_INET6};
use policy::decide::loopback::{Named, is_resolver, localhost_ipv4, named_destination};
use policy::{Reason, SliceId, Verdict};

use super::lookup;
use crate::atomic;
use crate::ctx::{SockAddr, family, in_node};
use crate::event::{Denial, let_through};
use crate::{claim, connection, destination, loopback, owner};

/// `BPF_CGROUP_INET4_CONNECT`.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(ctx, true)
}

/// `BPF_CGROUP_INET6_CONNECT`, IPv4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(ctx, false)
}

#[inline(always)]
fn connect(ctx: SockAddrContext, ipv4: bool) -> i32 {
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
    let (address, port, protocol) = (call.address(ipv4), call.port(), call.protocol());
    // The program runs for the slices' sockets only: one that is not tagged as a
    // slice's is none that `socket` let through.
    let entry = if who.is_slice() {
        owner::entry(who)
    } else {
        None
    };
    // Sockets for echo requests have no part in the translation: see
    // `policy::decide::loopback::is_echo`.
    let named = if port_index(protocol, port).is_some() {
        named_destination(who.index(), &address)
    } else {
        Named::Elsewhere
    };
    let revived = match entry {
        Some(entry) => claim::revive(tag, who, entry.sockets_max),
        None => Verdict::Allow,
    };
    let verdict = match (entry, named) {
        _ if !revived.is_allow() => revived,
        (None, _) => Verdict::Deny(Reason::NoPolicy),
        (Some(entry), Named::Elsewhere) => {
            outside(settings, tag, who, entry, &address, protocol, port)
        }
        (Some(entry), Named::Resolver) if is_resolver(&address, port) => {
            outside(settings, tag, who, entry, &address, protocol, port)
        }
        (Some(_), Named::Mine(real)) => {
            to_private(&call, settings, who, ipv4, &real, protocol, port)
        }
        (Some(_), _) => Verdict::Deny(Reason::LoopbackForeign),
    };
    if let Verdict::Deny(reason) = verdict {
        let mut denial = Denial::new(who, reason, Moment::Connect, family(ipv4), protocol);
        denial.peer = address;
        denial.peer_port = port;
        return denial.refuse();
    }
    if let Some(entry) = entry
        && let Some(own) = source_for(who, entry, named, &address)
    {
        bind_unbound(&ctx, &call, ipv4, &own);
    }
    let_through(
        who,
        Moment::Connect,
        family(ipv4),
        protocol,
        true,
        |event| {
            event.peer = address;
            event.peer_port = port;
        },
    );
    1
}

/// A connection to outside of the slice. It is counted last, when nothing else
/// refuses it; a peer given to a UDP socket is none.
#[inline(always)]
fn outside(
    settings: &Settings,
    tag: *mut Tag,
    who: SliceId,
    entry: &SliceEntry,
    address: &Address,
    protocol: u8,
    port: u16,
) -> Verdict {
    let verdict = destination::verdict(settings, who, address, protocol, Some(port));
    if !verdict.is_allow() || protocol != TCP {
        return verdict;
    }
    connection::start(tag, who, entry)
}

/// A connection to the slice's private loopback: to the address it has there,
/// and to the port that stands for the one that is named. Where none does, a
/// listener on all addresses may be meant, if it is the slice's.
#[inline(always)]
fn to_private(
    call: &SockAddr,
    settings: &Settings,
    who: SliceId,
    ipv4: bool,
    real: &Address,
    protocol: u8,
    port: u16,
) -> Verdict {
    call.set_address(ipv4, real);
    match loopback::kernels_port(who, protocol, port, settings) {
        Some(kernels) => {
            call.set_port(kernels);
            Verdict::Allow
        }
        // What `lookup` would say, at once and with an event for the caller.
        None => lookup::found(who.index(), protocol, port),
    }
}

/// The address that an unbound socket is given for this destination; the kernel
/// picks right for the private loopback, by its route.
#[inline(always)]
pub fn source_for(
    who: SliceId,
    entry: &SliceEntry,
    named: Named,
    destination: &Address,
) -> Option<Address> {
    match named {
        Named::Elsewhere => own_source(entry, destination),
        Named::Resolver => Some(localhost_ipv4(who.index())),
        Named::Mine(_) | Named::Foreign => None,
    }
}

/// The slice's own address for packets to this destination, if it has one and
/// the destination is not the loopback.
#[inline(always)]
fn own_source(entry: &SliceEntry, destination: &Address) -> Option<Address> {
    if let Some(Place::Loopback | Place::Wildcard) = by_itself(destination) {
        return None;
    }
    if is_ipv4(destination) {
        (entry.flags & OWN_IPV4 != 0).then_some(mapped(entry.own_ipv4))
    } else {
        (entry.flags & OWN_IPV6 != 0).then_some(entry.own_ipv6)
    }
}

/// Gives an unbound socket the slice's own address; the kernel still picks the
/// port. Where it fails, the packet hook drops what has a foreign source.
#[inline(always)]
fn bind_unbound(ctx: &SockAddrContext, call: &SockAddr, ipv4: bool, own: &Address) {
    let sk = call.sk();
    // SAFETY: the pointer comes from the context; the verifier knows it.
    if unsafe { core::ptr::read_volatile(&raw const (*sk).src_port) } != 0 {
        return;
    }
    if ipv4 {
        // struct sockaddr_in: family, port 0, address.
        let mut address = [0u8; 16];
        address[0] = AF_INET as u8;
        let mut at = 0;
        while at < 4 {
            address[4 + at] = own[12 + at];
            at += 1;
        }
        // SAFETY: a whole address on the stack, of the size given.
        unsafe { bpf_bind(ctx.sock_addr, address.as_mut_ptr().cast(), 16) };
    } else {
        // struct sockaddr_in6: family, port 0, flow, address, scope.
        let mut address = [0u8; 28];
        address[0] = AF_INET6 as u8;
        let mut at = 0;
        while at < 16 {
            address[8 + at] = own[at];
            at += 1;
        }
        // SAFETY: as above.
        unsafe { bpf_bind(ctx.sock_addr, address.as_mut_ptr().cast(), 28) };
    }
}
