//! Networks that do not count against what a slice has on a link.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::btf_maps::lpm_trie::Key;
use core::ptr::read_volatile;
use policy::decide::exempt::key;

use crate::maps::EXEMPT;
use crate::octets;

/// Whether a packet goes to an exempt network of the link.
#[inline(never)]
pub fn goes_there(skb: *mut __sk_buff, link: u32) -> bool {
    // SAFETY: the pointer is the kernel's, the field readable here.
    let ethertype = unsafe { read_volatile(&raw const (*skb).protocol) } as u16;
    let Some(key) = key(&octets::Inside(skb), u16::from_be(ethertype), link) else {
        return false;
    };
    let mut data = [0; 20];
    (data[0], data[1]) = (key.link, key.version);
    let mut at = 0;
    while at < 16 {
        data[4 + at] = key.address[at];
        at += 1;
    }
    EXEMPT.get(&Key::new(key.prefix_length, data)).is_some()
}
