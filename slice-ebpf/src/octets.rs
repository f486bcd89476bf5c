//! A packet's octets, wherever they are: in its head, in pages, in fragments.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative};
use core::mem::MaybeUninit;
use policy::decide::raw::Octets;

/// From where the hook's data begins: the IP header at the cgroup hooks, the
/// frame's at a device.
pub struct Packet(pub *mut __sk_buff);

impl Octets for Packet {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut octets = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the context is the kernel's; the helper writes `N` octets or
        // answers with an error.
        unsafe {
            let to = octets.as_mut_ptr().cast();
            let read = bpf_skb_load_bytes(self.0.cast(), offset, to, N as u32);
            (read == 0).then(|| octets.assume_init())
        }
    }
}

/// From the IP header on, for whom the frame's header is there or not.
pub struct Inside(pub *mut __sk_buff);

impl Octets for Inside {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut octets = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: as in `Packet`.
        unsafe {
            let to = octets.as_mut_ptr().cast();
            let from = BPF_HDR_START_NET;
            let read = bpf_skb_load_bytes_relative(self.0.cast(), offset, to, N as u32, from);
            (read == 0).then(|| octets.assume_init())
        }
    }
}
