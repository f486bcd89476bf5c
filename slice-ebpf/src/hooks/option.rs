//! setsockopt(2) and getsockopt(2) of a slice's socket.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_sock, bpf_sockopt};
use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use core::ptr::{read_volatile, write_volatile};
use policy::abi::{
    Moment, Settings, TAG_BOUND, TAG_ELSEWHERE, TAG_RAW, TAG_REUSE, TAG_V6ONLY, TCP, Tag,
};
use policy::decide::create::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET};
use policy::decide::option::{
    OptionRule, PacketOption, RAW_PORT, SO_LINGER, SO_REUSEADDR, SOL_SLICE, SOL_SOCKET,
    packet_option, ring, rule, verdict, waits,
};
use policy::decide::sight::{NETLINK_SOCK_DIAG, netlink_option};
use policy::{Reason, Verdict};

use super::{netlink, raw_port};
use crate::atomic;
use crate::ctx::in_node;
use crate::event::Denial;
use crate::owner;

/// The kernel hands over this much of an option's value; with a longer one it
/// takes the value as it was only if the length is set to 0.
const PAGE: i32 = 4096;
/// The kernel does not set the option itself.
const HANDLED: i32 = -1;

/// `BPF_CGROUP_SETSOCKOPT`.
#[cgroup_sockopt(setsockopt)]
pub fn setsockopt(ctx: SockoptContext) -> i32 {
    let call = ctx.sockopt;
    // SAFETY: the pointer is the kernel's, the fields readable here.
    let (sk, level, name, length) = unsafe {
        (
            read_volatile(&raw const (*call).__bindgen_anon_1.sk),
            read_volatile(&raw const (*call).level),
            read_volatile(&raw const (*call).optname),
            read_volatile(&raw const (*call).optlen),
        )
    };
    if length > PAGE {
        // SAFETY: as above, writable here.
        unsafe { write_volatile(&raw mut (*call).optlen, 0) };
    }
    if level == SOL_SLICE && name == RAW_PORT {
        return match owner::settings() {
            Some(settings) => raw_port::claim(call, settings),
            None => 1,
        };
    }
    if level == SOL_SOCKET && name == SO_LINGER {
        return linger(call, length);
    }
    if family_of(sk) == AF_PACKET
        && let Some(settings) = owner::settings()
        && in_node(ctx.as_ptr(), settings)
    {
        return packet(call, settings, level, name, length);
    }
    if let Verdict::Deny(reason) = diagnostics(sk, level, name)
        && let Some(settings) = owner::settings()
        && in_node(ctx.as_ptr(), settings)
    {
        return netlink::refuse(
            owner::of_task(settings),
            reason,
            Moment::Option,
            NETLINK_SOCK_DIAG,
        );
    }
    let Some((tag, family, protocol)) = ruled(sk) else {
        return 1;
    };
    let rule = rule(level, name);
    if let Verdict::Deny(reason) = verdict(rule) {
        // SAFETY: the storage lives as long as the socket that runs the hook.
        let who = unsafe { (*tag).id };
        return Denial::new(who, reason, Moment::Option, family as u8, 0).refuse();
    }
    // SAFETY: the storage lives as long as the socket that runs the hook.
    let raw = unsafe { atomic::load(&raw const (*tag).flags) } & TAG_RAW != 0;
    let bit = match rule {
        OptionRule::AtBind | OptionRule::V6Only if length > PAGE => {
            // What is remembered must be what the kernel reads, which of a longer
            // value another thread may change meanwhile.
            // SAFETY: as above.
            let who = unsafe { (*tag).id };
            return Denial::new(who, Reason::Option, Moment::Option, family as u8, 0).refuse();
        }
        OptionRule::Copies if raw && is_on(call, length) => {
            // SAFETY: as above.
            let who = unsafe { (*tag).id };
            return Denial::new(who, Reason::Option, Moment::Option, family as u8, 0).refuse();
        }
        OptionRule::AtBind => TAG_REUSE,
        OptionRule::V6Only => TAG_V6ONLY,
        OptionRule::Errors if raw => {
            // SAFETY: as above, writable here.
            unsafe { write_volatile(&raw mut (*call).optlen, HANDLED) };
            return 1;
        }
        OptionRule::Pass | OptionRule::Refuse | OptionRule::Errors | OptionRule::Copies => {
            return 1;
        }
    };
    // SAFETY: as above; the two pointers bound the value.
    let value = unsafe {
        let start = read_volatile(&raw const (*call).__bindgen_anon_2.optval);
        let end = read_volatile(&raw const (*call).__bindgen_anon_3.optval_end);
        if start as usize + 4 > end as usize {
            return 1;
        }
        *start.cast::<u32>()
    };
    // SAFETY: as above.
    let flags = unsafe { &raw mut (*tag).flags };
    if value == 0 {
        atomic::fetch_clear(flags, bit);
    } else {
        atomic::fetch_or(flags, bit);
    }
    // On a bound TCP socket SO_REUSEADDR means what it says; on a UDP socket it
    // never reaches the kernel.
    let bound_tcp = protocol == TCP as u32 && atomic::load(flags) & TAG_BOUND != 0;
    if rule == OptionRule::AtBind && !bound_tcp {
        // SAFETY: as above, writable here.
        unsafe { write_volatile(&raw mut (*call).optlen, HANDLED) };
    }
    1
}

/// Whether the value, an octet or four, is anything but 0.
#[inline(always)]
#[allow(
    clippy::int_plus_one,
    reason = "this is the comparison that the verifier knows"
)]
fn is_on(call: *mut bpf_sockopt, length: i32) -> bool {
    // SAFETY: as in `setsockopt`; the two pointers bound the value.
    unsafe {
        let start = read_volatile(&raw const (*call).__bindgen_anon_2.optval);
        let end = read_volatile(&raw const (*call).__bindgen_anon_3.optval_end);
        if length > PAGE {
            true
        } else if start as usize + 4 <= end as usize {
            *start.cast::<u32>() != 0
        } else {
            start as usize + 1 <= end as usize && *start.cast::<u8>() != 0
        }
    }
}

/// SO_LINGER: a time is left out, so that close sends on behind the program's back, as
/// without the option; that it resets (a time of 0) stays.
#[inline(always)]
fn linger(call: *mut bpf_sockopt, length: i32) -> i32 {
    // SAFETY: as in `setsockopt`; the two pointers bound the value, which is writable.
    unsafe {
        if length > PAGE {
            write_volatile(&raw mut (*call).optlen, HANDLED);
            return 1;
        }
        let start = read_volatile(&raw const (*call).__bindgen_anon_2.optval);
        let end = read_volatile(&raw const (*call).__bindgen_anon_3.optval_end);
        if start as usize + 8 > end as usize {
            return 1;
        }
        let value = start.cast::<i32>();
        if waits(*value, *value.add(1)) {
            *value = 0;
        }
    }
    1
}

/// An option of a packet socket.
#[inline(always)]
fn packet(call: *mut bpf_sockopt, settings: &Settings, level: i32, name: i32, length: i32) -> i32 {
    let verdict = match packet_option(level, name) {
        PacketOption::Pass => return 1,
        PacketOption::Nothing => {
            // SAFETY: as in `setsockopt`, writable here.
            unsafe { write_volatile(&raw mut (*call).optlen, HANDLED) };
            return 1;
        }
        PacketOption::Answer(errno) => {
            // SAFETY: the value is an error number, as the helper wants.
            unsafe { bpf_set_retval(-errno) };
            return 0;
        }
        // Of a longer value the kernel reads what another thread may have put
        // there meanwhile.
        PacketOption::Ring if length > PAGE => Verdict::Deny(Reason::Option),
        PacketOption::Ring => ring_of(call),
        PacketOption::Refuse => Verdict::Deny(Reason::Option),
    };
    let Verdict::Deny(reason) = verdict else {
        return 1;
    };
    let who = owner::of_task(settings);
    Denial::new(who, reason, Moment::Option, AF_PACKET as u8, 0).refuse()
}

/// May there be a ring as the value wants it (`struct tpacket_req`)?
#[inline(always)]
fn ring_of(call: *mut bpf_sockopt) -> Verdict {
    // SAFETY: as in `setsockopt`; the two pointers bound the value.
    unsafe {
        let start = read_volatile(&raw const (*call).__bindgen_anon_2.optval);
        let end = read_volatile(&raw const (*call).__bindgen_anon_3.optval_end);
        if start as usize + 8 > end as usize {
            return Verdict::Deny(Reason::Option);
        }
        let numbers = *start.cast::<[u32; 2]>();
        ring(numbers[0], numbers[1])
    }
}

/// The socket's family; 0 where there is no socket.
#[inline(always)]
fn family_of(sk: *mut bpf_sock) -> i32 {
    if sk.is_null() {
        return 0;
    }
    // SAFETY: as in `ruled`.
    unsafe { read_volatile(&raw const (*sk).family) as i32 }
}

/// `BPF_CGROUP_GETSOCKOPT`: SO_REUSEADDR reads as it was set.
#[cgroup_sockopt(getsockopt)]
pub fn getsockopt(ctx: SockoptContext) -> i32 {
    let call = ctx.sockopt;
    // SAFETY: as in `setsockopt`.
    let (sk, level, name, length) = unsafe {
        (
            read_volatile(&raw const (*call).__bindgen_anon_1.sk),
            read_volatile(&raw const (*call).level),
            read_volatile(&raw const (*call).optname),
            read_volatile(&raw const (*call).optlen),
        )
    };
    if length > PAGE {
        // SAFETY: as in `setsockopt`.
        unsafe { write_volatile(&raw mut (*call).optlen, 0) };
    }
    if level != SOL_SOCKET || name != SO_REUSEADDR {
        return 1;
    }
    let Some((tag, _, _)) = ruled(sk) else {
        return 1;
    };
    // SAFETY: as in `setsockopt`.
    let flags = atomic::load(unsafe { &raw const (*tag).flags });
    if flags & TAG_REUSE != 0 {
        report_set(call);
    }
    1
}

/// May this option be set, where the socket is netlink's?
#[inline(always)]
fn diagnostics(sk: *mut bpf_sock, level: i32, name: i32) -> Verdict {
    if sk.is_null() {
        return Verdict::Allow;
    }
    // SAFETY: as in `ruled`.
    let (family, protocol) = unsafe {
        (
            read_volatile(&raw const (*sk).family),
            read_volatile(&raw const (*sk).protocol),
        )
    };
    if family != AF_NETLINK as u32 {
        return Verdict::Allow;
    }
    netlink_option(protocol as u16, level, name)
}

/// Makes the answer an int of 1.
#[inline(always)]
fn report_set(call: *mut bpf_sockopt) {
    // SAFETY: as in `setsockopt`; the two pointers bound the value.
    unsafe {
        let start = read_volatile(&raw const (*call).__bindgen_anon_2.optval);
        let end = read_volatile(&raw const (*call).__bindgen_anon_3.optval_end);
        if start as usize + 4 > end as usize {
            return;
        }
        *start.cast::<u32>() = 1;
    }
}

/// The tag of a socket that the rules here are for, its family and protocol.
#[inline(always)]
fn ruled(sk: *mut bpf_sock) -> Option<(*mut Tag, i32, u32)> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the pointer comes from the context; the verifier knows it.
    let (family, protocol) = unsafe {
        (
            read_volatile(&raw const (*sk).family) as i32,
            read_volatile(&raw const (*sk).protocol),
        )
    };
    if family != AF_INET && family != AF_INET6 {
        return None;
    }
    let tag = owner::tag(sk.cast())?;
    // SAFETY: as in `setsockopt`.
    let (who, flags) = unsafe { ((*tag).id, atomic::load(&raw const (*tag).flags)) };
    (who.is_slice() && flags & TAG_ELSEWHERE == 0).then_some((tag, family, protocol))
}
