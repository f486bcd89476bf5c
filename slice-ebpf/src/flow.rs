//! Flows that no socket of the kernel's holds: whose they are, and the ring of
//! those that a slice started.

use aya_ebpf::bindings::{__sk_buff, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use policy::abi::{FlowKey, STARTED_PER_SLICE, StartedAt, StartedFlow, TCP, UDP, port_index};
use policy::decide::address::{Place, is_ipv4};
use policy::decide::raw::{Holder, STARTED_NS, Started, holder, is_started_by, started};
use policy::{Reason, SliceId, Verdict};

use crate::atomic;
use crate::claim::{self, now_ns};
use crate::maps::{FLOWS, RESERVED, SLICES, STARTED, STARTED_RING};
use crate::{owner, place};

/// Replaces what is there.
const ANY: u64 = 0;
/// `BPF_NOEXIST`.
const ONLY_NEW: u64 = 1;
/// Looks at a flow before it is used without an entry: the map is full.
const TRIES: u32 = 2;
/// The network namespace of the packet's device.
const THIS_NAMESPACE: u64 = u64::MAX;

/// `STARTED` has this of the flow.
#[inline(always)]
fn entry(key: &FlowKey) -> Option<StartedFlow> {
    // SAFETY: the value is copied at once; its owner is one word.
    unsafe { STARTED.get(key) }.copied()
}

/// Whose what belongs to a flow is, seen from this node.
#[inline(always)]
pub fn holder_of(key: &FlowKey, now: u64) -> Holder {
    let shared = match place::of(&key.local) {
        Place::Own(owner) => return Holder::Owner(owner),
        Place::Private(row) => {
            return SLICES
                .get(row)
                .map_or(Holder::Nobody, |entry| Holder::Owner(entry.id));
        }
        Place::Shared | Place::Group => true,
        // Ports of the node's loopback and of machines behind it are nobody's.
        Place::Loopback | Place::Wildcard | Place::Foreign => false,
    };
    // SAFETY: the value is one word and copied at once.
    if let Some(owner) = unsafe { FLOWS.get(key) } {
        return Holder::Owner(*owner);
    }
    let Some(index) = port_index(key.protocol, key.local_port) else {
        // Identifiers have no holder but the one who asks.
        return match entry(key) {
            Some(entry) => Holder::IfStarted(entry.owner),
            None => Holder::Nobody,
        };
    };
    // The kernel gave the flow to a socket of the node, at another address than
    // the one at which a slice has the port.
    let nodes = entry(key).is_some_and(|entry| !entry.owner.is_slice() && now < entry.until_ns);
    if !shared || nodes {
        return Holder::Nobody;
    }
    match RESERVED.get(index) {
        Some(reserved) => holder(*reserved, claim::read(index), now),
        None => Holder::Nobody,
    }
}

/// Whether `who` started the flow, not long ago.
#[inline(always)]
pub fn is_started(key: &FlowKey, who: SliceId, now: u64) -> bool {
    is_started_by(who, entry(key), now)
}

/// `who` sends on a flow that no socket of its own has: it is its own from now
/// on, unless it is another's. One that the kernel gave a socket of `who`
/// (`certain`) is nobody else's any more.
#[inline(never)]
pub fn start(key: &FlowKey, who: SliceId, certain: bool) -> Verdict {
    let now = now_ns();
    let new = StartedFlow {
        owner: who,
        reserved: 0,
        until_ns: now.saturating_add(STARTED_NS),
    };
    let mut tries = 0;
    while tries < TRIES {
        let there = entry(key);
        match started(who, there, now) {
            Started::Mine => {
                if let Some(entry) = STARTED.get_ptr_mut(key) {
                    // SAFETY: the value lives at least as long as this program runs.
                    atomic::store(unsafe { &raw mut (*entry).until_ns }, new.until_ns);
                }
                return Verdict::Allow;
            }
            Started::Foreign if !certain => return Verdict::Deny(Reason::EchoForeign),
            _ => {}
        }
        // Another CPU may start it at this moment: who is first has it.
        let first = match there {
            _ if certain => STARTED.insert(key, new, ANY).is_ok(),
            Some(old) => replace(key, old, new),
            None => STARTED.insert(key, new, ONLY_NEW).is_ok(),
        };
        if first {
            remember(key, who);
            return Verdict::Allow;
        }
        tries += 1;
    }
    Verdict::Allow
}

/// Takes a flow that is its former owner's no more, unless another CPU has just
/// done so.
#[inline(always)]
fn replace(key: &FlowKey, old: StartedFlow, new: StartedFlow) -> bool {
    let Some(there) = STARTED.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: as in `start`.
    unsafe {
        let until = &raw mut (*there).until_ns;
        if atomic::compare_exchange(until, old.until_ns, new.until_ns) != old.until_ns {
            return false;
        }
        atomic::store(&raw mut (*there).owner, new.owner);
    }
    true
}

/// Puts a flow into its slice's ring and forgets the one that was there.
#[inline(always)]
fn remember(key: &FlowKey, who: SliceId) {
    let Some(state) = owner::state(who) else {
        return;
    };
    // SAFETY: the row lies in the array for good.
    let before = atomic::fetch_add(unsafe { &raw mut (*state).started }, 1);
    let at = StartedAt {
        row: who.index(),
        position: before as u32 % STARTED_PER_SLICE,
    };
    // SAFETY: copied at once; another CPU has another position.
    if let Some(oldest) = unsafe { STARTED_RING.get(at) }.copied()
        && entry(&oldest).is_some_and(|entry| entry.owner.0 == who.0)
    {
        let _ = STARTED.remove(oldest);
    }
    let _ = STARTED_RING.insert(at, key, ANY);
}

/// A socket of another owner has the flow: who had started it has it no more.
#[inline(never)]
pub fn taken(key: &FlowKey, who: SliceId) {
    if entry(key).is_some_and(|entry| entry.owner.0 != who.0) {
        let _ = STARTED.remove(key);
    }
}

/// Whether the kernel would give a packet of this flow to a socket of another.
#[inline(never)]
pub fn has_foreign_socket(skb: *mut __sk_buff, key: &FlowKey, who: SliceId) -> bool {
    // SAFETY: all zeros is a value of this union.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let (local, peer) = (words(&key.local), words(&key.peer));
    // What is looked up is the packet that comes: from the peer.
    let size = if is_ipv4(&key.local) {
        tuple.__bindgen_anon_1.ipv4.saddr = peer[3];
        tuple.__bindgen_anon_1.ipv4.daddr = local[3];
        tuple.__bindgen_anon_1.ipv4.sport = key.peer_port.to_be();
        tuple.__bindgen_anon_1.ipv4.dport = key.local_port.to_be();
        12
    } else {
        tuple.__bindgen_anon_1.ipv6.saddr = peer;
        tuple.__bindgen_anon_1.ipv6.daddr = local;
        tuple.__bindgen_anon_1.ipv6.sport = key.peer_port.to_be();
        tuple.__bindgen_anon_1.ipv6.dport = key.local_port.to_be();
        36
    };
    // SAFETY: the context is the kernel's, the tuple lives on the stack; what
    // is found is released below, on each way.
    unsafe {
        let (skb, tuple) = (skb.cast(), &raw mut tuple);
        let found = match key.protocol {
            // With those in TIME_WAIT and such, which have no tag.
            TCP => bpf_skc_lookup_tcp(skb, tuple, size, THIS_NAMESPACE, 0),
            UDP => bpf_sk_lookup_udp(skb, tuple, size, THIS_NAMESPACE, 0),
            _ => return false,
        };
        if found.is_null() {
            return false;
        }
        // One without a tag is older than the programs, so the node's, or over.
        let foreign = match owner::tag(found.cast()) {
            Some(tag) => (*tag).id.0 != who.0,
            None => true,
        };
        bpf_sk_release(found.cast());
        foreign
    }
}

/// An address as four words in network order.
#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    let mut at = 0;
    while at < 4 {
        words[at] = u32::from_ne_bytes([
            address[at * 4],
            address[at * 4 + 1],
            address[at * 4 + 2],
            address[at * 4 + 3],
        ]);
        at += 1;
    }
    words
}
