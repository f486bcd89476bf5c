//! What a packet that a program wrote itself, or listens to, is: the rules for
//! raw and packet sockets.
//!
//! A packet on its way out is read strictly ([`sent`]): what would let two
//! readers see two different packets (options, extension headers, fragments,
//! lengths that contradict each other) is nobody's and does not leave. One on
//! its way in, or that is only looked at, is read as a host would read it
//! ([`flow`]), errors of ICMP by the packet that they quote.

mod frame;
mod packet;
mod rules;

pub use frame::{Device, HEADER as FRAME_HEADER, frame};
pub use packet::{
    ICMP, ICMPV6, Octets, Sent, Way, answers_for, destination, flow, segment_headers, sent,
};
pub use rules::{Holder, STARTED_NS, Started, holder, icmp, is_started_by, port, started};

#[cfg(test)]
mod tests;
