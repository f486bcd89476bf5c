//! bind(2), after the kernel gave the port: the claim, which decides races.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use policy::abi::{
    Address, Moment, Settings, TAG_ANY_PORT, TAG_BOUND, TAG_ELSEWHERE, TAG_OWN, Tag, port_index,
};
use policy::decide::address::Place;
use policy::decide::loopback::shown;
use policy::{Reason, SliceId, Verdict};

use crate::atomic;
use crate::claim;
use crate::ctx::{Sock, in_node};
use crate::event::{Denial, let_through};
use crate::{loopback, owner, place, port};

/// `BPF_CGROUP_INET4_POST_BIND`.
#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    post_bind(ctx, true)
}

/// `BPF_CGROUP_INET6_POST_BIND`.
#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    post_bind(ctx, false)
}

#[inline(always)]
fn post_bind(ctx: SockContext, ipv4: bool) -> i32 {
    let Some(settings) = owner::settings() else {
        return 1;
    };
    let here = in_node(ctx.as_ptr(), settings);
    let Some(tag) = owner::tag_of_older(ctx.as_ptr(), here) else {
        return 1;
    };
    let sock = Sock(ctx.sock);
    // SAFETY: the storage lives as long as the socket that runs the hook.
    let (who, flags) = unsafe { ((*tag).id, atomic::load(&raw const (*tag).flags)) };
    let (protocol, port) = (sock.protocol(), sock.local_port());
    if flags & TAG_ELSEWHERE != 0 || port_index(protocol, 0).is_none() {
        return 1;
    }
    let local = sock.local(ipv4);
    match claim_port(
        tag,
        settings,
        who,
        protocol,
        port,
        &local,
        flags & TAG_ANY_PORT != 0,
    ) {
        Verdict::Allow => {
            let_through(who, Moment::Bind, sock.family(), protocol, true, |event| {
                event.local = shown(who.index(), &local);
                event.local_port = port;
            });
            1
        }
        Verdict::Deny(reason) => {
            let mut denial = Denial::new(who, reason, Moment::Bind, sock.family(), protocol);
            denial.local = shown(who.index(), &local);
            denial.local_port = port;
            denial.refuse()
        }
    }
}

#[inline(always)]
fn claim_port(
    tag: *mut Tag,
    settings: &Settings,
    who: SliceId,
    protocol: u8,
    port: u16,
    local: &Address,
    picked: bool,
) -> Verdict {
    let Some(entry) = owner::entry(who) else {
        return Verdict::allow_if(!who.is_slice(), Reason::NoPolicy);
    };
    let Some(index) = port_index(protocol, port) else {
        return Verdict::Deny(Reason::NoPolicy);
    };
    let verdict = match place::of(local) {
        Place::Own(_) => {
            // SAFETY: as in `post_bind`.
            atomic::fetch_or(unsafe { &raw mut (*tag).flags }, TAG_OWN);
            port::own(who, protocol, port)
        }
        // A port that was named on the private loopback is nobody else's: the
        // kernel's port behind it is one that is kept for this. Another thread
        // may have bound the socket differently meanwhile.
        Place::Private(_) if who.is_slice() && !picked => {
            Verdict::allow_if(loopback::holds(tag, port, settings), Reason::PortLoopback)
        }
        _ => match port::shared(settings, who, entry, protocol, port, picked, picked) {
            Verdict::Allow => claim::hold(tag, who, index, !picked, settings),
            denied => denied,
        },
    };
    if !verdict.is_allow() {
        return verdict;
    }
    if !picked {
        // SAFETY: as in `post_bind`.
        atomic::fetch_or(unsafe { &raw mut (*tag).flags }, TAG_BOUND);
    }
    Verdict::Allow
}
