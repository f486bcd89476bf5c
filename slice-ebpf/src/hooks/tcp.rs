//! TCP's states: a port is held as long as TCP may answer for it, which is
//! longer than a descriptor is open.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE, BPF_TCP_CLOSING,
    BPF_TCP_FIN_WAIT2, BPF_TCP_LISTEN, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::bpf_sock_ops_cb_flags_set;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use core::ptr::read_volatile;
use policy::abi::{
    Moment, Settings, TAG_ANY_PORT, TAG_BOUND, TAG_CONNECTING, TAG_ELSEWHERE, TAG_OWN, TAG_RUNNING,
    TCP, Tag, port_index,
};

use crate::atomic;
use crate::claim;
use crate::event::let_through;
use crate::{connection, loopback, owner};

/// `BPF_CGROUP_SOCK_OPS`.
#[sock_ops]
pub fn tcp_state(ctx: SockOpsContext) -> u32 {
    let call: *mut bpf_sock_ops = ctx.as_ptr().cast();
    // SAFETY: the pointer is the kernel's, the fields readable here.
    let (event, sk) = unsafe {
        (
            read_volatile(&raw const (*call).op),
            read_volatile(&raw const (*call).__bindgen_anon_2.sk),
        )
    };
    if sk.is_null() {
        return 1;
    }
    let (Some(settings), Some(tag)) = (owner::settings(), owner::tag(sk.cast())) else {
        return 1;
    };
    match event {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            run(call, tag);
            // SAFETY: the storage lives as long as the socket that runs the hook.
            atomic::fetch_or(unsafe { &raw mut (*tag).flags }, TAG_CONNECTING);
        }
        BPF_SOCK_OPS_TCP_LISTEN_CB => {
            run(call, tag);
            // SAFETY: as above.
            atomic::fetch_clear(unsafe { &raw mut (*tag).flags }, TAG_CONNECTING);
            hold_picked(call, tag, settings);
            listens(call, tag);
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            // SAFETY: as above.
            if atomic::load(unsafe { &raw const (*tag).flags }) & TAG_CONNECTING == 0 {
                accepted(tag);
            }
            run(call, tag);
        }
        BPF_SOCK_OPS_STATE_CB => {
            // SAFETY: as above; in this event these are the two states.
            let (old, new) = unsafe {
                (
                    read_volatile(&raw const (*call).__bindgen_anon_1.args[0]),
                    read_volatile(&raw const (*call).__bindgen_anon_1.args[1]),
                )
            };
            if new == BPF_TCP_CLOSE {
                closed(tag, old, settings);
            }
        }
        _ => {}
    }
    1
}

/// TCP runs the socket from now on; its way back to CLOSE will be told.
#[inline(always)]
fn run(call: *mut bpf_sock_ops, tag: *mut Tag) {
    // SAFETY: the context is passed on as the kernel gave it.
    let told = unsafe { bpf_sock_ops_cb_flags_set(call, BPF_SOCK_OPS_STATE_CB_FLAG as i32) };
    if told == 0 {
        // SAFETY: the storage lives as long as the socket that runs the hook.
        atomic::fetch_or(unsafe { &raw mut (*tag).flags }, TAG_RUNNING);
    }
}

/// listen(2) without bind(2): the kernel picked the port and no bind hook ran.
#[inline(always)]
fn hold_picked(call: *mut bpf_sock_ops, tag: *mut Tag, settings: &Settings) {
    // SAFETY: as in `tcp_state` and `run`.
    let (port, who, flags) = unsafe {
        (
            read_volatile(&raw const (*call).local_port) as u16,
            (*tag).id,
            atomic::load(&raw const (*tag).flags),
        )
    };
    // listen(2) takes a descriptor. Nothing can be refused here: one too many
    // is counted, and the next is refused.
    let _ = claim::revive(tag, who, u32::MAX);
    let Some(index) = port_index(TCP, port) else {
        return;
    };
    if flags & (TAG_ELSEWHERE | TAG_OWN) == 0
        && claim::holds(tag) != Some(index)
        && !loopback::holds(tag, port, settings)
    {
        // Where another owner holds it, the packets for this listener are
        // dropped: see ingress.
        let _ = claim::hold(tag, who, index, true, settings);
    }
}

/// Tells of it where the owner is traced. The kernel says nothing of the process here.
#[inline(always)]
fn listens(call: *mut bpf_sock_ops, tag: *mut Tag) {
    // SAFETY: as in `tcp_state` and `run`.
    let (port, family, who) = unsafe {
        (
            read_volatile(&raw const (*call).local_port) as u16,
            read_volatile(&raw const (*call).family) as u8,
            (*tag).id,
        )
    };
    let_through(who, Moment::Listen, family, TCP, false, |event| {
        event.local_port = port;
    });
}

/// A connection came in: its tag is a copy of the listener's, which held the
/// port for itself.
#[inline(always)]
fn accepted(tag: *mut Tag) {
    // SAFETY: as in `run`; nobody else knows the new socket's storage yet.
    let (who, flags, held) = unsafe { ((*tag).id, &raw mut (*tag).flags, &raw mut (*tag).held) };
    atomic::store(
        flags,
        atomic::load(flags) & (TAG_ELSEWHERE | TAG_OWN) | TAG_RUNNING,
    );
    // What the listener remembers of packets may have been copied half-way.
    // SAFETY: as above.
    unsafe {
        (*tag).sequence = 0;
        (*tag).version = 0;
    }
    claim::begin(who);
    claim::opened(who);
    loopback::share(tag, who);
    if let Some(index) = claim::holds(tag)
        && !claim::take(index, who, true, false).is_allow()
    {
        atomic::store(held, 0);
    }
}

/// TCP is done with the socket, or left its port in TIME_WAIT.
#[inline(always)]
fn closed(tag: *mut Tag, old: u32, settings: &Settings) {
    let time_wait = old == BPF_TCP_FIN_WAIT2 || old == BPF_TCP_CLOSING;
    // What becomes of it next is not known: not before a listener's first
    // connection either.
    // SAFETY: the storage lives as long as the socket that runs the hook.
    atomic::fetch_clear(unsafe { &raw mut (*tag).flags }, TAG_CONNECTING);
    claim::forget_flow(tag);
    // SAFETY: as in `run`.
    let (who, flags) = unsafe { ((*tag).id, atomic::load(&raw const (*tag).flags)) };
    // A listener that was shut down keeps only a port that it was bound to.
    if old == BPF_TCP_LISTEN && flags & (TAG_BOUND | TAG_ANY_PORT) == 0 {
        claim::let_go(tag, who, settings);
    }
    connection::over(tag, who);
    claim::end(tag, TAG_RUNNING, time_wait, settings);
}
