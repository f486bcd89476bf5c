//! A packet reaches a link.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use core::ptr::read_volatile;
use policy::SliceId;
use policy::abi::{Settings, TAG_ELSEWHERE, TAG_KERNEL};
use policy::decide::exempt::is_routed;
use policy::decide::raw::{Holder, Way, flow as flow_of};

use crate::claim::now_ns;
use crate::link::{self, Departure, Sender};
use crate::maps::LINK_OF;
use crate::{atomic, flow, octets, owner};

const SOCK_STREAM: u32 = 1;

/// The way out of a device with a rate, before its queue.
#[classifier]
pub fn pace(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the pointer is the kernel's, the fields readable and these writable here.
    unsafe {
        let device = read_volatile(&raw const (*skb).ifindex);
        let (Some(settings), Some(link)) = (owner::settings(), LINK_OF.get(device)) else {
            return TC_ACT_UNSPEC;
        };
        let sender = sender(skb, settings);
        // The queue serves in the order of times alone.
        (*skb).priority = 0;
        match link::departure(skb, *link, settings.rows, &sender) {
            // Without a time fq paces by what the socket asks for, and holds up others
            // that it has in the same flow.
            Departure::Now => {
                (*skb).tstamp = now_ns();
                TC_ACT_UNSPEC
            }
            Departure::At(time) => {
                (*skb).tstamp = time;
                TC_ACT_UNSPEC
            }
            Departure::Never => TC_ACT_SHOT,
        }
    }
}

/// Whose it is: of the socket that sends, else of who has the port.
#[inline(never)]
fn sender(skb: *mut __sk_buff, settings: &Settings) -> Sender {
    // SAFETY: the pointers are the kernel's; each is compared with null.
    unsafe {
        let sk = read_volatile(&raw const (*skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return of_flow(skb);
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return of_flow(skb);
        }
        let kind = read_volatile(&raw const (*sk).type_);
        let family = read_volatile(&raw const (*sk).family);
        let held_back = kind == SOCK_STREAM;
        let routed = is_routed(family, kind);
        let who = match owner::tag(sk.cast()) {
            Some(tag) => {
                let flags = atomic::load(&raw const (*tag).flags);
                if flags & TAG_KERNEL != 0 {
                    return of_flow(skb);
                }
                if flags & TAG_ELSEWHERE != 0 {
                    SliceId::NODE
                } else {
                    owner::counted_for((*tag).id, flags)
                }
            }
            None => owner::of_cgroup(bpf_skb_ancestor_cgroup_id(
                skb,
                settings.slices_level as i32,
            )),
        };
        Sender {
            who,
            held_back,
            routed,
        }
    }
}

/// Of a packet without a socket: resets, acknowledgements in TIME_WAIT, what is
/// forwarded.
#[inline(never)]
fn of_flow(skb: *mut __sk_buff) -> Sender {
    // SAFETY: the pointer is the kernel's, the field readable here.
    let forwarded = unsafe { read_volatile(&raw const (*skb).ingress_ifindex) } != 0;
    if forwarded {
        // After a translation of addresses its port may be a slice's by number.
        return Sender {
            who: SliceId::NODE,
            held_back: false,
            routed: true,
        };
    }
    let now = now_ns();
    let who = match flow_of(&octets::Inside(skb), Way::Out) {
        Some(key) => match flow::holder_of(&key, now) {
            Holder::Owner(owner) => owner,
            Holder::IfStarted(owner) if flow::is_started(&key, owner, now) => owner,
            Holder::IfStarted(_) | Holder::Nobody => SliceId::NODE,
        },
        None => SliceId::NODE,
    };
    Sender {
        who,
        held_back: false,
        routed: true,
    }
}
