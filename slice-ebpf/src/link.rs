//! What a slice may send on a link, and when: its token bucket there, and the
//! division of the link's rate, which is made by whichever packet crosses the epoch.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_get_hash_recalc, bpf_loop, bpf_skb_ecn_set_ce};
use core::ptr::read_volatile;
use policy::SliceId;
use policy::abi::{
    Bucket, FlowTurn, LinkKnobs, LinkState, TURNS as FLOWS, classes, exempt_class, link_index,
    waiting_words,
};
use policy::decide::mark;
use policy::decide::pace::{
    self, Demand, Division, EPOCH_NS, HORIZON_NS, Knobs, PASSES, Sums, goes_ahead, is_long,
    may_wait, packets_leave_ns, packets_take_ns, takes_ns,
};

use crate::atomic::{
    self, compare_exchange, exchange, fetch_add, fetch_clear, fetch_or, load, store,
};
use crate::claim::now_ns;
use crate::maps::{BUCKETS, DIVIDED, KNOBS, LINK_STATES, LINKS, TURNS, WAITING};
use crate::{exempt, quota};

/// In [`Bucket::state`].
const IDLE: u64 = 0;
const FRESH: u64 = 1;
const SETTLED: u64 = 2;

/// Who sends a packet.
pub struct Sender {
    pub who: SliceId,
    /// The kernel waits with further packets until this one has left (TCP).
    pub held_back: bool,
    /// It goes where its header says.
    pub routed: bool,
}

/// When a packet leaves.
pub enum Departure {
    Now,
    /// On the monotonic clock, nanoseconds.
    At(u64),
    /// Too much of its slice waits.
    Never,
}

/// The class of what a slice sends, the node's where it has none.
#[inline(always)]
fn class_of(link: u32, who: SliceId, rows: u32, exempt: bool) -> u32 {
    let row = who.index();
    let has = |class| match KNOBS.get(link_index(link, class, rows)) {
        Some(knobs) => row < rows && knobs.id.0 == who.0 && knobs.share != 0,
        None => false,
    };
    // The node has no second one.
    let apart = exempt_class(row, rows);
    if exempt && has(apart) {
        apart
    } else if has(row) {
        row
    } else {
        0
    }
}

/// Takes the tokens for a packet; when it may leave.
#[inline(never)]
pub fn departure(skb: *mut __sk_buff, link: u32, rows: u32, sender: &Sender) -> Departure {
    let Some(entry) = LINKS.get(link) else {
        return Departure::Now;
    };
    let rate = load(&raw const entry.rate);
    let Some(state) = LINK_STATES.get_ptr_mut(link) else {
        return Departure::Now;
    };
    if rate == 0 {
        return Departure::Now;
    }
    let apart = load(&raw const entry.exempt) != 0;
    let exempt = apart && sender.routed && exempt::goes_there(skb, link);
    let class = class_of(link, sender.who, rows, exempt);
    let index = link_index(link, class, rows);
    let Some(bucket) = BUCKETS.get_ptr_mut(index) else {
        return Departure::Now;
    };
    let now = now_ns();
    // SAFETY: rows of arrays stay; the context's fields are readable here.
    unsafe {
        let from = pace::counted_from(now, load(&raw const (*bucket).stands) != 0);
        if now >= load(&raw const (*state).divided_ns).wrapping_add(EPOCH_NS) {
            divide(link, rows, now);
        }
        if load(&raw const (*bucket).state) == IDLE {
            wake(link, class, rows);
        }
        let bytes = read_volatile(&raw const (*skb).wire_len);
        let most = most_packets(index);
        let by_packets = packets_take_ns(segments(skb), most);
        let takes = takes_ns(bytes, load(&raw const (*bucket).rate));
        let next = load(&raw const (*bucket).next_ns);
        let packets_next = packets_leave_ns(most, load(&raw const (*bucket).packets_next_ns));
        let ends = next.max(packets_next);
        let longer = takes.max(by_packets);
        let wait = ends.saturating_sub(now);
        let flow = bpf_get_hash_recalc(skb) % FLOWS;
        let turn = TURNS.get_ptr_mut(index.wrapping_mul(FLOWS).wrapping_add(flow));
        let ahead = if wait != 0 && turn.is_some_and(|turn| begins(turn, now, ends, bytes)) {
            lane(&raw mut (*bucket).ahead_ns, now, longer)
        } else {
            None
        };
        if pace::waits_for_bytes(next, packets_next, now) {
            store(&raw mut (*bucket).waited, 1);
        }
        let fresh = load(&raw const (*bucket).state) == FRESH;
        if ahead.is_none() && !may_wait(wait, longer, sender.held_back, fresh) {
            fetch_add(&raw mut (*bucket).dropped_bytes, bytes as u64);
            fetch_add(&raw mut (*bucket).dropped_packets, segments(skb));
            return Departure::Never;
        }
        if ahead.is_none() {
            if is_long(wait, longer, sender.held_back, fresh) {
                tell(skb, index, now, sender.held_back);
            } else if sender.held_back && load(&raw const (*bucket).marking) != 0 {
                store(&raw mut (*bucket).marking, 0);
            }
        }
        let mut at = now;
        if next >= from || compare_exchange(&raw mut (*bucket).next_ns, next, from + takes) != next
        {
            at = fetch_add(&raw mut (*bucket).next_ns, takes).max(now);
        }
        if by_packets != 0 {
            at = at.max(after_packets(bucket, packets_next, now, by_packets));
        }
        if let Some(time) = ahead {
            at = time;
        }
        fetch_add(&raw mut (*bucket).bytes, bytes as u64);
        fetch_add(&raw mut (*bucket).packets, segments(skb));
        quota::use_up(index, bytes);
        if let Some(turn) = turn {
            // No packet overtakes one of its flow, whatever became of the rate.
            at = at.max(load(&raw const (*turn).last_ns).min(now + HORIZON_NS));
            store(&raw mut (*turn).last_ns, at);
        }
        let asked = read_volatile(&raw const (*skb).tstamp);
        if sender.held_back {
            // TCP paces itself, too.
            at = at.max(asked.min(now + HORIZON_NS));
        } else if asked != 0 && at <= now {
            // A time that a program asked for is not the queue's business.
            return Departure::At(now);
        }
        if at > now {
            Departure::At(at)
        } else {
            Departure::Now
        }
    }
}

/// Marks a packet behind too many, if its flow can be told so.
#[inline(never)]
fn tell(skb: *mut __sk_buff, index: u32, now: u64, held_back: bool) {
    let Some(bucket) = BUCKETS.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: rows of arrays stay; the context is the kernel's.
    unsafe {
        let clock = &raw mut (*bucket).marking;
        let word = load(clock);
        if held_back {
            if word == 0 {
                compare_exchange(clock, 0, mark::first(now));
                return;
            }
            // Of several CPUs one goes on.
            if !mark::is_due(word, now)
                || compare_exchange(clock, word, mark::next(word, now)) != word
            {
                return;
            }
        }
        if bpf_skb_ecn_set_ce(skb) != 0 {
            fetch_add(&raw mut (*bucket).marks, segments(skb));
        } else if held_back {
            // Another flow's turn.
            compare_exchange(clock, mark::next(word, now), word);
        }
    }
}

/// Most packets in a second that a class may send; 0 where they are not bounded.
#[inline(always)]
fn most_packets(index: u32) -> u64 {
    KNOBS.get(index).map_or(0, |knobs| knobs.packets)
}

/// When a packet leaves at the most packets in a second.
///
/// A bucket of its own, not more bytes or time in the other: what that says waits is
/// what the slice is divided for, and bytes that it never sends would be taken from
/// others. So who sends as many packets as it may has of the link what these carry.
#[inline(always)]
unsafe fn after_packets(bucket: *mut Bucket, next: u64, now: u64, takes: u64) -> u64 {
    // SAFETY: rows of arrays stay.
    unsafe {
        let clock = &raw mut (*bucket).packets_next_ns;
        // Nothing is saved for later.
        if next < now && compare_exchange(clock, next, now.wrapping_add(takes)) == next {
            return now;
        }
        fetch_add(clock, takes)
    }
}

/// Segments of a packet.
#[inline(always)]
fn segments(skb: *mut __sk_buff) -> u64 {
    // SAFETY: the field is readable here.
    match unsafe { read_volatile(&raw const (*skb).gso_segs) } {
        0 => 1,
        segments => segments as u64,
    }
}

/// A time in the lane of those that go ahead, which ends at `end`.
#[inline(always)]
fn lane(end: *mut u64, now: u64, takes: u64) -> Option<u64> {
    let ends = load(end);
    let at = ends.max(now);
    // Who comes at the same moment on another CPU waits with the others.
    if pace::is_lane(at.wrapping_sub(now))
        && compare_exchange(end, ends, at.wrapping_add(takes)) == ends
    {
        Some(at)
    } else {
        None
    }
}

/// Whether a flow with nothing waiting goes ahead of the queue, which ends at
/// `queue_ns`.
#[inline(always)]
fn begins(turn: *mut FlowTurn, now: u64, queue_ns: u64, bytes: u32) -> bool {
    // SAFETY: rows of arrays stay.
    unsafe {
        if load(&raw const (*turn).last_ns) > now {
            return false;
        }
        if load(&raw const (*turn).round_ns) <= now {
            store(&raw mut (*turn).round_ns, queue_ns);
            store(&raw mut (*turn).bytes, 0);
        }
        let sent = load(&raw const (*turn).bytes);
        let sent = sent.wrapping_add(bytes as u64);
        store(&raw mut (*turn).bytes, sent);
        goes_ahead(sent)
    }
}

/// A slice that sent nothing does: it gets a part of what the last division left.
#[inline(never)]
fn wake(link: u32, class: u32, rows: u32) {
    let index = link_index(link, class, rows);
    let (Some(entry), Some(state), Some(knobs), Some(bucket)) = (
        LINKS.get(link),
        LINK_STATES.get_ptr_mut(link),
        KNOBS.get(index),
        BUCKETS.get_ptr_mut(index),
    ) else {
        return;
    };
    let rate = load(&raw const entry.rate);
    // SAFETY: rows of arrays stay.
    unsafe {
        if compare_exchange(&raw mut (*bucket).state, IDLE, FRESH) != IDLE {
            return;
        }
        quota::look(index, knobs);
        let share = knobs.share as u64;
        let shares = fetch_add(&raw mut (*state).shares, share).wrapping_add(share);
        let division = Division {
            level: pace::level(load(&raw const (*state).rest), shares),
            budget: load(&raw const (*state).budget).max(1),
        };
        store(
            &raw mut (*bucket).rate,
            pace::rate(rate, &of(knobs, index), division),
        );
        let word = link
            .wrapping_mul(waiting_words(rows))
            .wrapping_add(class / 64);
        if let Some(word) = WAITING.get_ptr_mut(word) {
            fetch_or(word, 1 << (class % 64));
        }
    }
}

/// What a slice has on a link now, its quota included as it was looked at last.
#[inline(always)]
fn of(knobs: &LinkKnobs, index: u32) -> Knobs {
    Knobs {
        floor: knobs.floor,
        cap: knobs.cap.min(quota::cap(index, knobs)),
        share: knobs.share,
    }
}

/// What the passes of a division have in common.
struct Pass {
    link: u32,
    rows: u32,
    /// Classes that may have something to send.
    classes: u32,
    rate: u64,
    now: u64,
    elapsed: u64,
    division: Division,
}

/// Divides the link's rate, unless another CPU is at it, which then goes on with
/// the old rates.
#[inline(never)]
fn divide(link: u32, rows: u32, now: u64) {
    let (Some(state), Some(entry)) = (LINK_STATES.get_ptr_mut(link), LINKS.get(link)) else {
        return;
    };
    // SAFETY: rows of arrays stay; what is written plainly is this CPU's while it is
    // busy. The context of a pass lives through it.
    unsafe {
        if exchange(&raw mut (*state).busy, 1) != 0 {
            return;
        }
        let elapsed = now.saturating_sub(load(&raw const (*state).divided_ns));
        if elapsed < EPOCH_NS {
            store(&raw mut (*state).busy, 0);
            return;
        }
        let mut pass = Pass {
            link,
            rows,
            classes: if load(&raw const entry.exempt) != 0 {
                classes(rows)
            } else {
                rows
            },
            rate: load(&raw const entry.rate),
            now,
            elapsed,
            division: Division {
                level: 0,
                budget: 0,
            },
        };
        let context = (&raw mut pass).cast::<c_void>();
        (*state).slices = 0;
        (*state).word = 0;
        (*state).bits = 0;
        (*state).sums = [0; 3];
        bpf_loop(
            pass.classes.wrapping_add(pass.classes.div_ceil(64)),
            collect as *mut c_void,
            context,
            0,
        );
        let slices = load(&raw const (*state).slices) as u32;
        (*state).debt = pace::debt((*state).debt, (*state).sums[0], pass.rate, elapsed);
        pass.division = Division {
            level: (*state).level,
            budget: pace::budget(pass.rate, (*state).debt, elapsed),
        };
        let mut left = PASSES;
        while left != 0 {
            left -= 1;
            (*state).sums = [0; 3];
            bpf_loop(slices, add as *mut c_void, context, 0);
            let sums = sums(state);
            pass.division.level = sums.level(pass.division.budget);
            store(&raw mut (*state).rest, sums.rest(pass.division.budget));
            store(&raw mut (*state).shares, sums.shares);
        }
        store(&raw mut (*state).level, pass.division.level);
        store(&raw mut (*state).budget, pass.division.budget);
        bpf_loop(slices, settle as *mut c_void, context, 0);
        (*state).divisions = (*state).divisions.wrapping_add(1);
        store(&raw mut (*state).divided_ns, now);
        atomic::barrier();
        store(&raw mut (*state).busy, 0);
    }
}

#[inline(always)]
fn sums(state: *mut LinkState) -> Sums {
    // SAFETY: rows of arrays stay; the CPU that divides reads what it wrote.
    let [content, floors, shares] = unsafe { (*state).sums };
    Sums {
        content,
        floors,
        shares,
    }
}

/// Goes one step through the bits of who waits: a word, or a slice of it, whose
/// demand it finds.
extern "C" fn collect(_: u32, context: *mut c_void) -> i64 {
    // SAFETY: `divide` passes this; it lives as long.
    let pass = unsafe { &*context.cast::<Pass>() };
    let Some(state) = LINK_STATES.get_ptr_mut(pass.link) else {
        return 1;
    };
    let words = pass.classes.div_ceil(64);
    // SAFETY: rows of arrays stay; as in `divide`.
    unsafe {
        let word = load(&raw const (*state).word) as u32;
        let bits = load(&raw const (*state).bits);
        if bits == 0 {
            if word >= words {
                return 1;
            }
            let first = pass.link.wrapping_mul(waiting_words(pass.rows));
            if let Some(waiting) = WAITING.get(first.wrapping_add(word)) {
                store(&raw mut (*state).bits, load(waiting));
            }
            store(&raw mut (*state).word, word as u64 + 1);
            return 0;
        }
        store(&raw mut (*state).bits, bits & bits.wrapping_sub(1));
        let class = word
            .wrapping_sub(1)
            .wrapping_mul(64)
            .wrapping_add(bits.trailing_zeros());
        demand(state, pass, class);
    }
    0
}

/// Finds the demand of a slice and puts it on the list, or forgets it.
#[inline(always)]
unsafe fn demand(state: *mut LinkState, pass: &Pass, class: u32) {
    let index = link_index(pass.link, class, pass.rows);
    let (Some(bucket), Some(knobs)) = (BUCKETS.get_ptr_mut(index), KNOBS.get(index)) else {
        return;
    };
    // SAFETY: as in `divide`.
    unsafe {
        let bytes = load(&raw const (*bucket).bytes);
        let before = Demand {
            served: 0,
            queue: (*bucket).queue,
            stands: (*bucket).stands != 0,
            wants: (*bucket).wants,
        };
        quota::look(index, knobs);
        let demand = pace::demand(
            &of(knobs, index),
            before,
            bytes.wrapping_sub((*bucket).bytes_before),
            exchange(&raw mut (*bucket).waited, 0) != 0,
            pace::ahead(
                load(&raw const (*bucket).next_ns),
                packets_leave_ns(knobs.packets, load(&raw const (*bucket).packets_next_ns)),
                pass.now,
            ),
            load(&raw const (*bucket).rate),
            pass.elapsed,
        );
        (*bucket).bytes_before = bytes;
        (*bucket).queue = demand.queue;
        store(&raw mut (*bucket).stands, demand.stands as u64);
        (*bucket).wants = demand.wants;
        (*state).sums[0] = (*state).sums[0].wrapping_add(demand.served);
        if !demand.is_one() {
            let word = pass
                .link
                .wrapping_mul(waiting_words(pass.rows))
                .wrapping_add(class / 64);
            if let Some(word) = WAITING.get_ptr_mut(word) {
                fetch_clear(word, 1 << (class % 64));
            }
            store(&raw mut (*bucket).state, IDLE);
            return;
        }
        store(&raw mut (*bucket).state, SETTLED);
        let count = load(&raw const (*state).slices) as u32;
        if let Some(place) = DIVIDED.get_ptr_mut(link_index(pass.link, count, pass.rows)) {
            store(place, class);
            store(&raw mut (*state).slices, count as u64 + 1);
        }
    }
}

/// Adds a slice of the list to the sums.
extern "C" fn add(place: u32, context: *mut c_void) -> i64 {
    // SAFETY: as in `collect`.
    let pass = unsafe { &*context.cast::<Pass>() };
    let Some(class) = DIVIDED.get(link_index(pass.link, place, pass.rows)) else {
        return 1;
    };
    let index = link_index(pass.link, load(class), pass.rows);
    let (Some(state), Some(bucket), Some(knobs)) = (
        LINK_STATES.get_ptr_mut(pass.link),
        BUCKETS.get(index),
        KNOBS.get(index),
    ) else {
        return 1;
    };
    let mut sums = sums(state);
    sums.add(
        &of(knobs, index),
        load(&raw const bucket.wants),
        pass.division.level,
    );
    // SAFETY: as in `divide`.
    unsafe { (*state).sums = [sums.content, sums.floors, sums.shares] };
    0
}

/// Gives a slice of the list its rate; what waits leaves at it.
extern "C" fn settle(place: u32, context: *mut c_void) -> i64 {
    // SAFETY: as in `collect`.
    let pass = unsafe { &*context.cast::<Pass>() };
    let Some(class) = DIVIDED.get(link_index(pass.link, place, pass.rows)) else {
        return 1;
    };
    let index = link_index(pass.link, load(class), pass.rows);
    let (Some(bucket), Some(knobs)) = (BUCKETS.get_ptr_mut(index), KNOBS.get(index)) else {
        return 1;
    };
    // SAFETY: as in `divide`.
    unsafe {
        let old = load(&raw const (*bucket).rate);
        let new = pace::rate(pass.rate, &of(knobs, index), pass.division);
        store(&raw mut (*bucket).rate, new);
        let next = load(&raw const (*bucket).next_ns);
        if next > pass.now && old != new {
            let then = pass
                .now
                .wrapping_add(pace::stretched(next - pass.now, old, new));
            fetch_add(&raw mut (*bucket).next_ns, then.wrapping_sub(next));
        }
    }
    0
}
