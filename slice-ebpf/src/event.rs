//! Counting a denial and telling of it.

use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_set_retval};
use policy::abi::{Address, Event, LET_THROUGH, Moment, SliceState, TRACED_PER_SECOND};
use policy::decide::address::is_ipv4;
use policy::decide::create::{AF_INET, AF_INET6};
use policy::decide::raw::Sent;
use policy::verdict::REASON_ROWS;
use policy::{Reason, SliceId};

use crate::atomic;
use crate::claim::now_ns;
use crate::maps::{DENIALS, EVENTS, TRACED};
use crate::owner;
use crate::packet::Packet;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// What was denied.
pub struct Denial {
    pub who: SliceId,
    pub reason: Reason,
    pub moment: Moment,
    pub family: u8,
    pub protocol: u8,
    pub local_port: u16,
    pub peer_port: u16,
    pub local: Address,
    pub peer: Address,
}

impl Denial {
    /// A denial of which only this is known.
    #[inline(always)]
    pub fn new(who: SliceId, reason: Reason, moment: Moment, family: u8, protocol: u8) -> Denial {
        Denial {
            who,
            reason,
            moment,
            family,
            protocol,
            local_port: 0,
            peer_port: 0,
            local: [0; 16],
            peer: [0; 16],
        }
    }

    /// A packet that may not leave.
    #[inline(always)]
    pub fn of_sent(who: SliceId, reason: Reason, packet: &Option<Packet>) -> Denial {
        let mut denial = Denial::new(who, reason, Moment::Egress, 0, 0);
        if let Some(packet) = packet {
            denial.family = packet.family();
            denial.protocol = packet.protocol;
            denial.local_port = packet.source_port();
            denial.peer_port = packet.destination_port();
            denial.local = packet.source;
            denial.peer = packet.destination;
        }
        denial
    }

    /// A packet that a program wrote itself and that may not leave.
    #[inline(always)]
    pub fn of_written(who: SliceId, reason: Reason, packet: &Sent) -> Denial {
        let family = if is_ipv4(&packet.source) {
            AF_INET
        } else {
            AF_INET6
        };
        let mut denial = Denial::new(who, reason, Moment::Egress, family as u8, packet.protocol);
        denial.local_port = packet.port;
        denial.peer_port = packet.peer_port;
        denial.local = packet.source;
        denial.peer = packet.destination;
        denial
    }

    /// A packet that may not be received.
    #[inline(always)]
    pub fn of_received(who: SliceId, reason: Reason, packet: &Option<Packet>) -> Denial {
        let sent = Denial::of_sent(who, reason, packet);
        Denial {
            moment: Moment::Ingress,
            local_port: sent.peer_port,
            peer_port: sent.local_port,
            local: sent.peer,
            peer: sent.local,
            ..sent
        }
    }

    /// Counts it and tells of it where a task made the call; the call returns
    /// the reason's errno. The value is what the hook returns to the kernel.
    #[inline(always)]
    pub fn refuse(&self) -> i32 {
        self.tell(task());
        // SAFETY: the value is an error number, as the helper wants.
        unsafe { bpf_set_retval(-self.reason.errno()) };
        0
    }

    /// Counts it and tells of it where a packet is dropped.
    #[inline(always)]
    pub fn drop(&self) -> i32 {
        self.tell(NO_TASK);
        0
    }

    #[inline(always)]
    fn tell(&self, by: Task) {
        let mut event = event(self.who, self.reason as u8, self.moment, by);
        event.family = self.family;
        event.protocol = self.protocol;
        event.local_port = self.local_port;
        event.peer_port = self.peer_port;
        event.local = self.local;
        event.peer = self.peer;
        event_tell(&raw mut event);
    }
}

/// Whose process made a call, and its command.
type Task = (u32, [u8; 16]);

/// No process did, or the kernel does not know which.
const NO_TASK: Task = (0, [0; 16]);

#[inline(always)]
fn task() -> Task {
    // SAFETY: the helper takes nothing.
    let pid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    (pid, bpf_get_current_comm().unwrap_or([0; 16]))
}

/// An event of which only this is known; its time comes when it is told.
#[inline(always)]
fn event(id: SliceId, reason: u8, moment: Moment, (pid, command): Task) -> Event {
    Event {
        time_ns: 0,
        id,
        pid,
        reason,
        moment: moment as u8,
        protocol: 0,
        family: 0,
        local_port: 0,
        peer_port: 0,
        local: [0; 16],
        peer: [0; 16],
        command,
        suppressed: 0,
    }
}

/// Until when an owner is traced.
#[inline(always)]
fn traced_until(who: SliceId) -> u64 {
    match TRACED.get_ptr(who.index()) {
        Some(until) => atomic::load(until),
        None => 0,
    }
}

/// Tells of a call that was let through where its owner is traced; `by_task`: the
/// kernel knows whose process made it. Nobody traced, it costs a look at a row.
#[inline(always)]
pub fn let_through(
    who: SliceId,
    moment: Moment,
    family: u8,
    protocol: u8,
    by_task: bool,
    fill: impl FnOnce(&mut Event),
) {
    if traced_until(who) == 0 {
        return;
    }
    let by = if by_task { task() } else { NO_TASK };
    let mut event = event(who, LET_THROUGH, moment, by);
    event.family = family;
    event.protocol = protocol;
    fill(&mut event);
    event_tell(&raw mut event);
}

/// Counts a denial and tells of it, unless its slice was denied too much in
/// this second; the time and what was suppressed are put in here. What is
/// returned says nothing.
///
/// A global function: the verifier looks at it once for each program, not once
/// for each reason to deny.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn event_tell(event: *mut Event) -> u32 {
    // SAFETY: the caller hands over its own event; the verifier, which does
    // not know, wants to see the comparison with null.
    let Some(event) = (unsafe { event.as_mut() }) else {
        return 0;
    };
    if let Some(row) = DENIALS.get_ptr_mut(event.id.index())
        && (event.reason as u32) < REASON_ROWS
    {
        // SAFETY: the row is in the array, the reason's number was compared.
        let word = unsafe {
            (&raw mut (*row).counts)
                .cast::<u64>()
                .add(event.reason as usize)
        };
        atomic::fetch_add(word, 1);
    }
    let Some(state) = owner::state(event.id) else {
        return 0;
    };
    event.time_ns = now_ns();
    // SAFETY: the row lies in the array for good.
    let suppressed = unsafe { &raw mut (*state).events_suppressed };
    let mut most = owner::entry(event.id).map_or(1, |entry| entry.events_per_second);
    if traced_until(event.id) > event.time_ns {
        // What is let through leaves denials their own.
        let own = if event.reason == LET_THROUGH { 0 } else { most };
        most = own.saturating_add(TRACED_PER_SECOND);
    } else if event.reason == LET_THROUGH {
        return 0;
    }
    if !within_rate(state, event.time_ns / NS_PER_SECOND, most) {
        atomic::fetch_add(suppressed, 1);
        return 0;
    }
    event.suppressed = atomic::load(suppressed);
    if EVENTS.output(event, 0).is_err() {
        atomic::fetch_add(suppressed, 1);
    }
    0
}

/// At most `most` events of a slice in a second of the clock. What is not told
/// is not counted, so that it takes no place from those who may have more.
#[inline(always)]
fn within_rate(state: *mut SliceState, second: u64, most: u32) -> bool {
    // SAFETY: the row lies in the array for good.
    let (window, count) = unsafe {
        (
            &raw mut (*state).events_second,
            &raw mut (*state).events_in_second,
        )
    };
    let old = atomic::load(window);
    if old != second && atomic::compare_exchange(window, old, second) == old {
        atomic::store(count, 0);
    }
    atomic::load(count) < most as u64 && atomic::fetch_add(count, 1) < most as u64
}
