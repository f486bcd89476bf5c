//! socket(2): the family and protocol before their module loads, then the tag.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{cgroup_sock, lsm_cgroup};
use aya_ebpf::programs::{LsmContext, SockContext};
use policy::abi::{Moment, RAW, TAG_ELSEWHERE, TAG_OPEN, TAG_RAW};
use policy::decide::create::{SOCK_RAW, one_more, socket};
use policy::{Reason, Verdict};

use crate::claim;
use crate::ctx::{Sock, allow, in_node};
use crate::event::Denial;
use crate::owner;

/// `security_socket_create`, for tasks in the slices' cgroups.
#[lsm_cgroup(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    let (family, kind, protocol, kernel): (i32, i32, i32, i32) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    let Some(settings) = owner::settings() else {
        return 0;
    };
    let who = owner::of_task(settings);
    if kernel != 0 {
        return 1;
    }
    // The program runs for the slices' cgroups only: one that is nobody's is
    // not the node's, but of a slice that is not known yet or any more.
    let verdict = if who.is_slice() {
        let raw = owner::entry(who).is_some_and(|entry| entry.flags & RAW != 0);
        socket(family, kind, protocol, raw)
    } else {
        Verdict::Deny(Reason::NoPolicy)
    };
    let Verdict::Deny(reason) = verdict else {
        return allow();
    };
    Denial::new(who, reason, Moment::Create, family as u8, protocol as u8).refuse();
    0
}

/// `BPF_CGROUP_INET_SOCK_CREATE`: tags every IPv4 and IPv6 socket.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    let Some(settings) = owner::settings() else {
        return 1;
    };
    let who = owner::of_task(settings);
    let elsewhere = if in_node(ctx.as_ptr(), settings) {
        0
    } else {
        TAG_ELSEWHERE
    };
    let raw = if Sock(ctx.sock).kind() == SOCK_RAW as u32 {
        TAG_RAW
    } else {
        0
    };
    let verdict = match owner::entry(who) {
        None => Verdict::Deny(Reason::NoPolicy),
        Some(_) if owner::tag_new(ctx.as_ptr(), who, TAG_OPEN | elsewhere | raw).is_none() => {
            Verdict::Deny(Reason::SocketLimit)
        }
        // Counted first, so that two CPUs cannot both take the last place.
        Some(entry) => one_more(claim::begin(who), entry.sockets_max),
    };
    match verdict {
        Verdict::Deny(reason) if who.is_slice() => {
            if let Some(tag) = owner::tag(ctx.as_ptr()) {
                claim::end(tag, TAG_OPEN, false, settings);
            }
            let sock = Sock(ctx.sock);
            Denial::new(who, reason, Moment::Create, sock.family(), sock.protocol()).refuse()
        }
        _ => {
            claim::opened(who);
            1
        }
    }
}
