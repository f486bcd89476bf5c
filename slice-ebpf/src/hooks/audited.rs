//! A packet that was let through, for those who audit: the programs that let it
//! through jump here.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::bpf_skb_ancestor_cgroup_id;
use aya_ebpf::macros::{cgroup_skb, classifier};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use core::ptr::read_volatile;
use policy::SliceId;
use policy::abi::{AUDITED_IN, AUDITED_OUT, TAG_KERNEL};
use policy::decide::raw::FRAME_HEADER;

use super::node::of_packet;
use crate::{atomic, audit, owner};

/// It left a socket.
#[cgroup_skb(egress)]
pub fn audit_out(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    if let Some(who) = owner(skb) {
        audit::tell_all(skb, who, AUDITED_OUT, 0);
    }
    1
}

/// It reaches a socket.
#[cgroup_skb(ingress)]
pub fn audit_in(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    if let Some(who) = owner(skb) {
        audit::tell_all(skb, who, AUDITED_IN, 0);
    }
    1
}

/// It is a frame of a packet socket.
#[classifier]
pub fn audit_frame(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    if let Some(settings) = owner::settings() {
        // SAFETY: the context is the kernel's.
        let cgroup = unsafe { bpf_skb_ancestor_cgroup_id(skb, settings.slices_level as i32) };
        let who = owner::of_cgroup(cgroup);
        if who.is_slice() {
            audit::tell_all(skb, who, AUDITED_OUT, FRAME_HEADER);
        }
    }
    TC_ACT_UNSPEC
}

/// The slice that a packet was counted for, if it was one.
#[inline(always)]
fn owner(skb: *mut __sk_buff) -> Option<SliceId> {
    // SAFETY: the pointer is the kernel's and compared with null; the storage
    // lives as long as the socket.
    let (who, flags) = unsafe {
        let sk = read_volatile(&raw const (*skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return None;
        }
        let tag = owner::tag(sk.cast())?;
        ((*tag).id, atomic::load(&raw const (*tag).flags))
    };
    let who = if flags & TAG_KERNEL != 0 {
        of_packet(skb)
    } else {
        owner::counted_for(who, flags)
    };
    who.is_slice().then_some(who)
}
