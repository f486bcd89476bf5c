//! bind(2), before the kernel looks at the port.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_setsockopt;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use policy::abi::{
    Address, Moment, Settings, TAG_ANY_PORT, TAG_ELSEWHERE, TAG_REUSE, TAG_V6ONLY, Tag, UDP,
    port_index,
};
use policy::decide::address::{self, Place, is_ipv4, wildcard_means};
use policy::decide::loopback::{Named, named};
use policy::decide::option::{SOL_SOCKET, at_bind};
use policy::{Reason, SliceId, Verdict};

use crate::atomic;
use crate::ctx::{SockAddr, family, in_node};
use crate::event::Denial;
use crate::{claim, loopback, owner, place, port};

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
    let v6only = atomic::load(flags) & TAG_V6ONLY != 0;
    let named = if who.is_slice() {
        named(who.index(), &address)
    } else {
        Named::Elsewhere
    };
    let revived = match owner::entry(who) {
        Some(entry) => claim::revive(tag, who, entry.sockets_max),
        None => Verdict::Allow,
    };
    let verdict = match named {
        _ if !revived.is_allow() => revived,
        Named::Elsewhere => verdict(&call, settings, who, ipv4, v6only, &address, protocol, port),
        Named::Mine(real) => private(&call, settings, tag, who, ipv4, &real, protocol, port),
        Named::Resolver | Named::Foreign => Verdict::Deny(Reason::AddressForeign),
    };
    if let Verdict::Deny(reason) = verdict {
        let mut denial = Denial::new(who, reason, Moment::Bind, family(ipv4), protocol);
        denial.local = address;
        denial.local_port = port;
        return denial.refuse();
    }
    if port == 0 {
        atomic::fetch_or(flags, TAG_ANY_PORT);
    } else {
        atomic::fetch_clear(flags, TAG_ANY_PORT);
    }
    if !who.is_slice() {
        return 1;
    }
    if port != 0 && atomic::load(flags) & TAG_REUSE != 0 {
        apply_reuse(&ctx, protocol);
    }
    ALLOW_PRIVILEGED
}

#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "inlined; a struct would go over the stack"
)]
fn verdict(
    call: &SockAddr,
    settings: &Settings,
    who: SliceId,
    ipv4: bool,
    v6only: bool,
    address: &Address,
    protocol: u8,
    port: u16,
) -> Verdict {
    // The node keeps its own ports even where its row is missing.
    let Some(entry) = owner::entry(who) else {
        return Verdict::allow_if(!who.is_slice(), Reason::NoPolicy);
    };
    let place = place::of(address);
    let verdict = address::bind(who, entry, place, is_ipv4(address));
    if !verdict.is_allow() {
        return verdict;
    }
    let mut own = matches!(place, Place::Own(_));
    if who.is_slice()
        && let Place::Wildcard = place
        && let Some(address) = wildcard_means(entry, ipv4, v6only)
    {
        call.set_address(ipv4, &address);
        own = true;
    }
    match (port, own) {
        (0, _) => Verdict::Allow,
        (_, true) => port::own(who, protocol, port),
        (_, false) => port::shared(settings, who, entry, protocol, port, false, false),
    }
}

/// A bind to the slice's private loopback: to the address it has there, and to
/// the port that stands for the one that is named.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "inlined; a struct would go over the stack"
)]
fn private(
    call: &SockAddr,
    settings: &Settings,
    tag: *mut Tag,
    who: SliceId,
    ipv4: bool,
    real: &Address,
    protocol: u8,
    port: u16,
) -> Verdict {
    if owner::entry(who).is_none() {
        return Verdict::Deny(Reason::NoPolicy);
    }
    // The kernel refuses to bind it again: what it holds stays.
    if call.is_bound() {
        return Verdict::Allow;
    }
    call.set_address(ipv4, real);
    if port == 0 {
        return Verdict::Allow;
    }
    match loopback::hold(tag, who, protocol, port, settings) {
        Ok(kernels) => {
            call.set_port(kernels);
            Verdict::Allow
        }
        Err(reason) => Verdict::Deny(reason),
    }
}

/// SO_REUSEADDR, asked for earlier, takes effect now: at a bind to a port that
/// the program names.
#[inline(always)]
fn apply_reuse(ctx: &SockAddrContext, protocol: u8) {
    let mut on = 1i32;
    // SAFETY: the value is an int, as the option wants, and lives on the stack.
    unsafe {
        bpf_setsockopt(
            ctx.as_ptr(),
            SOL_SOCKET,
            at_bind(protocol == UDP),
            (&raw mut on).cast(),
            4,
        );
    }
}
