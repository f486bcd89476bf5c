//! May a packet that a program wrote itself leave?

use super::packet::{Sent, is_echo};
use crate::abi::{
    CLAIM, Claim, RESERVED_SLICE, Reserved, Settings, SliceEntry, StartedFlow, TCP, UDP,
};
use crate::ids::SliceId;
use crate::verdict::{Reason, Verdict};

/// How long a started flow stays a slice's after its last packet, nanoseconds:
/// longer than answers take.
pub const STARTED_NS: u64 = 10_000_000_000;

/// May a slice send this type of ICMP? Only what asks and answers; errors and
/// redirects speak for the kernel.
#[inline(always)]
pub fn icmp(packet: &Sent) -> Verdict {
    let passes =
        packet.protocol == TCP || packet.protocol == UDP || is_echo(packet.protocol, packet.kind);
    Verdict::allow_if(passes, Reason::IcmpType)
}

/// Whose a started flow is to the one who sends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Started {
    /// The sender's already.
    Mine,
    /// Nobody's: the sender's from now on.
    Free,
    /// Another owner's.
    Foreign,
}

/// Whose the flow of a packet of `who` is, as `STARTED` has it.
#[inline(always)]
pub fn started(who: SliceId, entry: Option<StartedFlow>, now_ns: u64) -> Started {
    match entry {
        Some(entry) if entry.owner.0 == who.0 => Started::Mine,
        Some(entry) if now_ns < entry.until_ns => Started::Foreign,
        _ => Started::Free,
    }
}

/// Whether a source port that no socket names counts as one that the kernel
/// picked: where a slice may not bind what is nobody's, it may still send from
/// where the kernel would have had it send.
#[inline(always)]
pub fn port(slice: &SliceEntry, settings: &Settings, port: u16) -> bool {
    slice.flags & CLAIM == 0 && port >= settings.ephemeral_low && port <= settings.ephemeral_high
}

/// Whose what comes to a port is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// This owner's, whoever sends it.
    Owner(SliceId),
    /// This owner's where it started the flow: the kernel picked the port for
    /// it, or it sent from there itself, and may have given it to another since.
    IfStarted(SliceId),
    /// Nobody's.
    Nobody,
}

/// Whose a port of the shared addresses is.
#[inline(always)]
pub fn holder(reserved: Reserved, claim: Claim, now_ns: u64) -> Holder {
    if claim.held(now_ns) {
        return if claim.named() {
            Holder::Owner(claim.owner())
        } else {
            Holder::IfStarted(claim.owner())
        };
    }
    match reserved.kind {
        RESERVED_SLICE => Holder::Owner(reserved.owner),
        _ => Holder::Nobody,
    }
}

/// Whether a flow in `STARTED` is the slice's at this time.
#[inline(always)]
pub fn is_started_by(who: SliceId, entry: Option<StartedFlow>, now_ns: u64) -> bool {
    matches!(started(who, entry, now_ns), Started::Mine)
        && entry.is_some_and(|entry| now_ns < entry.until_ns)
}
