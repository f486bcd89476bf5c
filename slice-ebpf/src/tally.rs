//! Who sent what to whom: a row per flow of each owner, beside what is counted
//! of the owner as a whole.
//!
//! The rows are of a generation. The loader begins the next one, waits until no
//! program is left that adds to the former, and takes its rows: none is lost. An
//! owner has a bounded number of rows in each; what finds none is added to what
//! the owner has beside them, so that all together is always what was counted.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use policy::SliceId;
use policy::abi::{Settings, TalliedFlow, Tally, rest_index};
use policy::decide::raw::Sent;

use crate::atomic;
use crate::maps::{TALLIES_EVEN, TALLIES_ODD, TALLY, TALLY_REST};
use crate::owner;
use crate::packet::{self, stays};

/// Makes a row where there is none.
const NEW: u64 = 1;

/// What a packet is, segments of a large one counted apiece.
#[derive(Clone, Copy)]
pub struct Amount {
    pub packets: u64,
    pub bytes: u64,
}

/// Adds a packet at a cgroup hook to the row of its flow.
#[inline(never)]
pub fn add(skb: *mut __sk_buff, who: SliceId, sent: bool, packets: u64, bytes: u64) -> u32 {
    let amount = Amount { packets, bytes };
    let inside = stays(skb);
    let Some(settings) = on() else {
        return 0;
    };
    let mut flow = TalliedFlow {
        owner: who,
        protocol: 0,
        kind: 0,
        local_port: 0,
        peer_port: 0,
        inside: inside as u16,
        reserved: 0,
        local: [0; 16],
        peer: [0; 16],
    };
    if !packet::tell(skb, sent, &mut flow) {
        return rest(settings, generation(), who, way(sent, inside), amount);
    }
    row(settings, &flow, sent, amount)
}

/// Adds a frame of a packet socket's to the row of its flow.
#[inline(never)]
pub fn add_frame(
    skb: *mut __sk_buff,
    who: SliceId,
    packet: &Sent,
    packets: u64,
    bytes: u64,
) -> u32 {
    let Some(settings) = on() else {
        return 0;
    };
    let flow = TalliedFlow {
        owner: who,
        protocol: packet.protocol,
        kind: packet.kind,
        local_port: packet.port,
        peer_port: packet.peer_port,
        inside: stays(skb) as u16,
        reserved: 0,
        local: packet.source,
        peer: packet.destination,
    };
    row(settings, &flow, true, Amount { packets, bytes })
}

/// What holds for the node, where flows are tallied.
#[inline(always)]
fn on() -> Option<&'static Settings> {
    owner::settings().filter(|settings| settings.tally_rows > 0)
}

/// The generation that is filled.
#[inline(always)]
fn generation() -> u64 {
    match TALLY.get_ptr(0) {
        // The row lies in the array for good.
        Some(word) => atomic::load(word),
        None => 0,
    }
}

#[inline(always)]
fn find(generation: u64, flow: &TalliedFlow) -> Option<*mut Tally> {
    if generation & 1 == 0 {
        let row = TALLIES_EVEN.get_ptr_mut(flow);
        // Keeps the two calls apart: of a call that may be on either map, the
        // kernel makes a slow one.
        atomic::barrier();
        row
    } else {
        TALLIES_ODD.get_ptr_mut(flow)
    }
}

#[inline(always)]
fn row(settings: &Settings, flow: &TalliedFlow, sent: bool, amount: Amount) -> u32 {
    let generation = generation();
    match find(generation, flow) {
        Some(row) => count(row, sent, amount),
        None => first(settings, flow, generation << 1 | sent as u64, amount),
    }
}

#[inline(always)]
fn count(row: *mut Tally, sent: bool, amount: Amount) -> u32 {
    // SAFETY: the row lives at least as long as this program runs: the loader
    // waits for it before it removes any.
    unsafe {
        let (packets, bytes) = if sent {
            (&raw mut (*row).sent_packets, &raw mut (*row).sent_bytes)
        } else {
            (
                &raw mut (*row).received_packets,
                &raw mut (*row).received_bytes,
            )
        };
        atomic::fetch_add(packets, amount.packets);
        atomic::fetch_add(bytes, amount.bytes);
        atomic::store(&raw mut (*row).last_ns, bpf_ktime_get_coarse_ns());
    }
    0
}

/// The first packet of a flow in this generation; `at` is the generation and
/// whether it is sent. A function of its own, for its stack.
#[inline(never)]
fn first(settings: &Settings, flow: &TalliedFlow, at: u64, amount: Amount) -> u32 {
    let (generation, sent) = (at >> 1, at & 1 != 0);
    let index = rest_index(generation, flow.owner.index(), settings.rows);
    let Some(of_owner) = TALLY_REST.get_ptr_mut(index) else {
        return 0;
    };
    // SAFETY: the row lies in the array for good.
    let rows = unsafe {
        (*of_owner).owner = flow.owner;
        &raw mut (*of_owner).rows
    };
    // Counted first, so that two CPUs cannot both take the last place.
    if atomic::fetch_add(rows, 1) < settings.tally_rows as u64 {
        // SAFETY: the helper takes nothing.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        let (yes, no) = (
            amount,
            Amount {
                packets: 0,
                bytes: 0,
            },
        );
        let (out, back) = if sent { (yes, no) } else { (no, yes) };
        let tally = Tally {
            sent_packets: out.packets,
            sent_bytes: out.bytes,
            received_packets: back.packets,
            received_bytes: back.bytes,
            first_ns: now,
            last_ns: now,
        };
        let made = if generation & 1 == 0 {
            TALLIES_EVEN.insert(flow, tally, NEW)
        } else {
            TALLIES_ODD.insert(flow, tally, NEW)
        };
        if made.is_ok() {
            return 0;
        }
    }
    atomic::fetch_sub(rows, 1);
    // Another CPU may have made it meanwhile.
    match find(generation, flow) {
        Some(row) => count(row, sent, amount),
        None => rest(
            settings,
            generation,
            flow.owner,
            way(sent, flow.inside != 0),
            amount,
        ),
    }
}

/// Which of the four sums of [`policy::abi::Traffic`].
#[inline(always)]
fn way(sent: bool, inside: bool) -> u32 {
    !sent as u32 | (inside as u32) << 1
}

/// Adds to what an owner has beside its rows.
#[inline(always)]
fn rest(settings: &Settings, generation: u64, who: SliceId, way: u32, amount: Amount) -> u32 {
    let index = rest_index(generation, who.index(), settings.rows);
    let Some(row) = TALLY_REST.get_ptr_mut(index) else {
        return 0;
    };
    // SAFETY: the row lies in the array for good.
    unsafe {
        (*row).owner = who;
        let traffic = &raw mut (*row).traffic;
        let (packets, bytes) = match way {
            0 => (
                &raw mut (*traffic).sent_packets,
                &raw mut (*traffic).sent_bytes,
            ),
            1 => (
                &raw mut (*traffic).received_packets,
                &raw mut (*traffic).received_bytes,
            ),
            2 => (
                &raw mut (*traffic).loopback_sent_packets,
                &raw mut (*traffic).loopback_sent_bytes,
            ),
            _ => (
                &raw mut (*traffic).loopback_received_packets,
                &raw mut (*traffic).loopback_received_bytes,
            ),
        };
        atomic::fetch_add(packets, amount.packets);
        atomic::fetch_add(bytes, amount.bytes);
    }
    0
}
