//! Reading the contexts that the kernel hands over.
//!
//! Each field is read by itself, at its own width: the verifier rewrites these
//! loads and refuses merged ones.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};
use policy::abi::{Address, Settings, mapped};
use policy::decide::create::{AF_INET, AF_INET6};

/// Whether the socket is in the node's network namespace. `ctx` is the context
/// of a program of the kinds sock, sock_addr, sockopt.
#[inline(always)]
pub fn in_node(ctx: *mut c_void, settings: &Settings) -> bool {
    // SAFETY: the context is passed on as the kernel gave it.
    unsafe { bpf_get_netns_cookie(ctx) == settings.node_netns }
}

/// 1, what a program on an LSM hook returns to allow the call; hidden from the
/// compiler: it would return a value that it knows to be 1, and the verifier
/// does not see that then.
#[inline(always)]
pub fn allow() -> i32 {
    let one: i64;
    // SAFETY: sets one register.
    unsafe { core::arch::asm!("{0} = 1", out(reg) one) };
    one as i32
}

/// The address family of a hook for IPv4 or IPv6.
#[inline(always)]
pub const fn family(ipv4: bool) -> u8 {
    if ipv4 { AF_INET as u8 } else { AF_INET6 as u8 }
}

/// Host order of a 32-bit field that holds a port in network order in its
/// first two bytes.
#[inline(always)]
fn port_of(field: u32) -> u16 {
    let bytes = field.to_ne_bytes();
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// Four words in network order as an address.
#[inline(always)]
pub fn address_of(words: [u32; 4]) -> Address {
    // SAFETY: any bytes are an address. Made of bytes one by one it would take
    // a register each, and the stack.
    unsafe { core::mem::transmute::<[u32; 4], Address>(words) }
}

/// The words of an address in network order.
#[inline(always)]
fn words_of(address: &Address, at: usize) -> u32 {
    u32::from_ne_bytes([
        address[at],
        address[at + 1],
        address[at + 2],
        address[at + 3],
    ])
}

/// The context of bind, connect and sendmsg.
pub struct SockAddr(pub *mut bpf_sock_addr);

impl SockAddr {
    /// The socket.
    #[inline(always)]
    pub fn sk(&self) -> *mut bpf_sock {
        // SAFETY: the pointer is the kernel's, the field readable in all hooks.
        unsafe { read_volatile(&raw const (*self.0).__bindgen_anon_1.sk) }
    }

    /// The port that the caller named, host order.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        // SAFETY: as in `sk`.
        port_of(unsafe { read_volatile(&raw const (*self.0).user_port) })
    }

    /// The IP protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        // SAFETY: as in `sk`.
        unsafe { read_volatile(&raw const (*self.0).protocol) as u8 }
    }

    /// The address that the caller named.
    #[inline(always)]
    pub fn address(&self, ipv4: bool) -> Address {
        if ipv4 {
            // SAFETY: as in `sk`; this field only in hooks of IPv4.
            let field = unsafe { read_volatile(&raw const (*self.0).user_ip4) };
            return mapped(field.to_ne_bytes());
        }
        // SAFETY: as in `sk`; these fields only in hooks of IPv6.
        let words = unsafe {
            [
                read_volatile(&raw const (*self.0).user_ip6[0]),
                read_volatile(&raw const (*self.0).user_ip6[1]),
                read_volatile(&raw const (*self.0).user_ip6[2]),
                read_volatile(&raw const (*self.0).user_ip6[3]),
            ]
        };
        address_of(words)
    }

    /// Makes the call mean another address.
    #[inline(always)]
    pub fn set_address(&self, ipv4: bool, address: &Address) {
        // SAFETY: as in `address`; writable in all hooks of this kind.
        unsafe {
            if ipv4 {
                write_volatile(&raw mut (*self.0).user_ip4, words_of(address, 12));
            } else {
                write_volatile(&raw mut (*self.0).user_ip6[0], words_of(address, 0));
                write_volatile(&raw mut (*self.0).user_ip6[1], words_of(address, 4));
                write_volatile(&raw mut (*self.0).user_ip6[2], words_of(address, 8));
                write_volatile(&raw mut (*self.0).user_ip6[3], words_of(address, 12));
            }
        }
    }

    /// Makes the call mean another port.
    #[inline(always)]
    pub fn set_port(&self, port: u16) {
        let [high, low] = port.to_be_bytes();
        let field = u32::from_ne_bytes([high, low, 0, 0]);
        // SAFETY: as in `sk`; writable in all hooks of this kind.
        unsafe { write_volatile(&raw mut (*self.0).user_port, field) };
    }

    /// Whether the socket has a port.
    #[inline(always)]
    pub fn is_bound(&self) -> bool {
        let sk = self.sk();
        // SAFETY: the pointer comes from the context; the verifier knows it.
        unsafe { read_volatile(&raw const (*sk).src_port) != 0 }
    }

    /// The source address that a datagram names, or that its socket is bound to.
    #[inline(always)]
    pub fn source(&self, ipv4: bool) -> Address {
        if ipv4 {
            // SAFETY: as in `address`, in sendmsg.
            let field = unsafe { read_volatile(&raw const (*self.0).msg_src_ip4) };
            return mapped(field.to_ne_bytes());
        }
        // SAFETY: as in `address`, in sendmsg.
        let words = unsafe {
            [
                read_volatile(&raw const (*self.0).msg_src_ip6[0]),
                read_volatile(&raw const (*self.0).msg_src_ip6[1]),
                read_volatile(&raw const (*self.0).msg_src_ip6[2]),
                read_volatile(&raw const (*self.0).msg_src_ip6[3]),
            ]
        };
        address_of(words)
    }

    /// Gives a datagram another source address.
    #[inline(always)]
    pub fn set_source(&self, ipv4: bool, address: &Address) {
        // SAFETY: as in `source`; writable in sendmsg.
        unsafe {
            if ipv4 {
                write_volatile(&raw mut (*self.0).msg_src_ip4, words_of(address, 12));
            } else {
                write_volatile(&raw mut (*self.0).msg_src_ip6[0], words_of(address, 0));
                write_volatile(&raw mut (*self.0).msg_src_ip6[1], words_of(address, 4));
                write_volatile(&raw mut (*self.0).msg_src_ip6[2], words_of(address, 8));
                write_volatile(&raw mut (*self.0).msg_src_ip6[3], words_of(address, 12));
            }
        }
    }
}

/// The context of create, post-bind and release: the socket itself.
pub struct Sock(pub *mut bpf_sock);

impl Sock {
    /// The type (`SOCK_*`).
    #[inline(always)]
    pub fn kind(&self) -> u32 {
        // SAFETY: as in `protocol`.
        unsafe { read_volatile(&raw const (*self.0).type_) }
    }

    /// The IP protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        // SAFETY: the pointer is the kernel's, the field readable in all hooks.
        unsafe { read_volatile(&raw const (*self.0).protocol) as u8 }
    }

    /// The address family.
    #[inline(always)]
    pub fn family(&self) -> u8 {
        // SAFETY: as in `protocol`.
        unsafe { read_volatile(&raw const (*self.0).family) as u8 }
    }

    /// The local port, host order; in post-bind only.
    #[inline(always)]
    pub fn local_port(&self) -> u16 {
        // SAFETY: as in `protocol`, in post-bind.
        unsafe { read_volatile(&raw const (*self.0).src_port) as u16 }
    }

    /// The local address; in post-bind only.
    #[inline(always)]
    pub fn local(&self, ipv4: bool) -> Address {
        if ipv4 {
            // SAFETY: as in `protocol`, in post-bind of IPv4.
            let field = unsafe { read_volatile(&raw const (*self.0).src_ip4) };
            return mapped(field.to_ne_bytes());
        }
        // SAFETY: as in `protocol`, in post-bind of IPv6.
        let words = unsafe {
            [
                read_volatile(&raw const (*self.0).src_ip6[0]),
                read_volatile(&raw const (*self.0).src_ip6[1]),
                read_volatile(&raw const (*self.0).src_ip6[2]),
                read_volatile(&raw const (*self.0).src_ip6[3]),
            ]
        };
        address_of(words)
    }
}
