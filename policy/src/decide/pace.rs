//! When a packet may leave a link, and how the rate of a link is divided.
//!
//! Each slice has a token bucket on each link, kept as one time: when all that
//! it has sent so far will have left at its present rate (earliest departure
//! times, as fq paces them). Every epoch the rates are divided anew among the
//! slices that have something to send, by water-filling: there is one level for
//! the link, and a slice gets its floor plus the level times its share, but no
//! more than it asks for and than its cap. A slice that wakes between two epochs
//! takes the level as it stands.

/// Time between two divisions, nanoseconds: several packets of a slow link, and
/// far below what people and congestion control react to.
pub const EPOCH_NS: u64 = 4_000_000;

/// Longest time that a datagram waits behind others of its slice, unless it is
/// the second in line; nanoseconds.
pub const WAIT_NS: u64 = 10_000_000;

/// Longest time that anything is stamped ahead, nanoseconds. TCP holds itself
/// back long before.
pub const HORIZON_NS: u64 = 2_000_000_000;

/// What a slice with a queue makes up for when its packets left late, because a CPU
/// or a timer stood still; nanoseconds of its rate.
pub const CATCH_UP_NS: u64 = 2 * EPOCH_NS;

/// Largest rate of a link or a slice, bytes per second: 10^11 bit/s.
pub const RATE_MAX: u64 = 12_500_000_000;

/// Most packets that the kernel hands over as one (`gso_max_segs`), and more.
const PACKETS_MAX: u64 = 1 << 16;

/// Least that packets in a second are bounded to: at less, one takes longer than
/// anything may wait.
pub const PACKETS_LEAST: u32 = 100;

/// Largest share.
pub const SHARE_MAX: u32 = 1_000;

/// Fraction bits of a level.
const LEVEL_BITS: u32 = 8;

/// What a slice may ask for beyond what it has sent, bytes: rates are divided
/// more often than a slow slice sends a packet.
const SLACK: u64 = 2 * 1514;

/// The longest time that is reckoned with, nanoseconds (69 s): what takes longer
/// counts as this. It is more than what may wait of a slice of the slowest rate takes.
const LONGEST_NS: u64 = 1 << 36;

/// Demand below which a slice that sends nothing is forgotten, bytes per second.
const LEAST: u64 = 100;

const SECOND_NS: u64 = 1_000_000_000;

/// What the owner gives a slice on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// Guaranteed rate, bytes per second.
    pub floor: u64,
    /// Most that it ever gets, bytes per second.
    pub cap: u64,
    /// Weight by which what the floors leave is split, 1 to [`SHARE_MAX`].
    pub share: u32,
}

/// How a link stands after a division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Rate for one unit of share, bytes per second with eight fraction bits.
    pub level: u64,
    /// What all slices together may send now, bytes per second: the link's rate,
    /// corrected by what was sent too much or too little before.
    pub budget: u64,
}

/// The rate of a slice at this level, bytes per second; never 0.
#[inline(always)]
pub fn rate(link_rate: u64, knobs: &Knobs, division: Division) -> u64 {
    // A packet that was stamped "never" could not be recalled.
    let least = (link_rate >> 10) + 1;
    let wanted = knobs
        .floor
        .wrapping_add(u64::from(knobs.share).wrapping_mul(division.level) >> LEVEL_BITS);
    wanted.max(least).min(knobs.cap).min(division.budget).max(1)
}

/// How long this many bytes take, nanoseconds.
#[inline(always)]
pub fn takes_ns(bytes: u32, rate: u64) -> u64 {
    if rate == 0 {
        return LONGEST_NS;
    }
    u64::from(bytes).wrapping_mul(SECOND_NS) / rate
}

/// How long this many packets take at the most that may leave in a second,
/// nanoseconds; nothing where they are not bounded (0).
#[inline(always)]
pub fn packets_take_ns(packets: u64, most: u64) -> u64 {
    if most == 0 {
        return 0;
    }
    packets.min(PACKETS_MAX).wrapping_mul(SECOND_NS) / most
}

/// The bytes that leave in this time, which is cut off at 2^36 ns.
#[inline(always)]
pub fn bytes_in(ns: u64, rate: u64) -> u64 {
    // In units of 1,024 ns, so that the product fits.
    let units = ns.min(LONGEST_NS) >> 10;
    units.wrapping_mul(rate.min(RATE_MAX)) / (SECOND_NS >> 10)
}

/// How long what takes `ns` at a rate takes at another.
#[inline(always)]
pub fn stretched(ns: u64, old: u64, new: u64) -> u64 {
    if new == 0 {
        return LONGEST_NS;
    }
    // At most 2^33 bytes, so that the product fits.
    bytes_in(ns, old).min(1 << 33).wrapping_mul(SECOND_NS) / new
}

/// Whether a packet may still be stamped where its slice's last one leaves in
/// `wait_ns`, and itself takes `takes_ns`. `fresh`: rates were not divided since the
/// slice woke, so that its rate may be too high, and stamps cannot be recalled.
#[inline(always)]
pub fn may_wait(wait_ns: u64, takes_ns: u64, held_back: bool, fresh: bool) -> bool {
    let most = if held_back {
        HORIZON_NS
    } else {
        // Also where one that is many takes longer.
        stands_ns(fresh)
            .max(takes_ns.wrapping_mul(2))
            .min(HORIZON_NS)
    };
    wait_ns <= most
}

/// Longest time that datagrams wait, where two of them do not take longer.
#[inline(always)]
fn stands_ns(fresh: bool) -> u64 {
    if fresh { EPOCH_NS } else { WAIT_NS }
}

/// Whether what waits is so much that flows are to be told: of datagrams half of what one
/// may wait behind, or, as on a slow link, a packet; of TCP all that datagrams may wait.
/// Arguments as of [`may_wait`].
#[inline(always)]
pub fn is_long(wait_ns: u64, takes_ns: u64, held_back: bool, fresh: bool) -> bool {
    if held_back {
        // A connection keeps two packets here by itself (TCP small queues); with less it
        // would wait for acknowledgements that its peer holds back.
        wait_ns > WAIT_NS.max(takes_ns.wrapping_mul(2))
    } else {
        wait_ns > (stands_ns(fresh) / 2).max(takes_ns)
    }
}

/// The time from which a packet of a slice is counted at the earliest. Who had no queue
/// saves nothing for later: its rate was another's in the meantime.
#[inline(always)]
pub fn counted_from(now_ns: u64, stands: bool) -> u64 {
    if stands {
        now_ns.saturating_sub(CATCH_UP_NS)
    } else {
        now_ns
    }
}

/// When all that was sent has left at the most packets in a second that there may be: of a
/// bound that was lifted (0) nothing is left.
#[inline(always)]
#[must_use]
pub const fn packets_leave_ns(most: u64, packets_next_ns: u64) -> u64 {
    if most == 0 { 0 } else { packets_next_ns }
}

/// How long from now all bytes of a slice have left, for [`demand`]; negative where that
/// is past. Who waits since it may send no more packets does not wait for bytes, and has
/// none of them to make up for.
#[inline(always)]
pub fn ahead(next_ns: u64, packets_next_ns: u64, now_ns: u64) -> i64 {
    if packets_next_ns > now_ns && next_ns <= now_ns {
        -(LONGEST_NS as i64)
    } else {
        next_ns.wrapping_sub(now_ns) as i64
    }
}

/// Whether a packet that comes now has to wait for bytes that its slice sent before.
#[inline(always)]
pub fn waits_for_bytes(next_ns: u64, packets_next_ns: u64, now_ns: u64) -> bool {
    next_ns > now_ns && next_ns >= packets_next_ns
}

/// What a slice had when rates were divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Bytes that have left since the last division.
    pub served: u64,
    /// Bytes stamped and not yet left.
    pub queue: u64,
    /// Whether that is a queue, and not just a packet on its way.
    pub stands: bool,
    /// Rate at which it would be content until the next, bytes per second.
    pub wants: u64,
}

impl Demand {
    /// Whether the slice is to be divided for at all: a trickle that is forgotten
    /// is no loss.
    #[inline(always)]
    pub fn is_one(&self) -> bool {
        self.queue > 0 || self.wants > LEAST
    }
}

/// The demand of a slice that had `before` at the last division and has stamped
/// `arrived` bytes since. At `rate` all has left `ahead_ns` from now; a negative time
/// is what is left to be made up for.
///
/// Who sends packets that have to wait (`waited`) would send more than it does. Of
/// others the demand is the mean of some epochs: a packet every ten milliseconds is
/// no demand for the rate of that packet.
#[inline(always)]
pub fn demand(
    knobs: &Knobs,
    before: Demand,
    arrived: u64,
    waited: bool,
    ahead_ns: i64,
    rate: u64,
    elapsed_ns: u64,
) -> Demand {
    let all = before.queue.wrapping_add(arrived);
    let queue = bytes_in(ahead_ns.max(0) as u64, rate).min(all);
    let late = ahead_ns <= 0 && ahead_ns > -(CATCH_UP_NS as i64);
    let units = (elapsed_ns.min(SECOND_NS) >> 10).max(1);
    let stands = queue > 0 && (waited || arrived == 0 && before.stands) || late && before.stands;
    // At most 2^36 bytes wait, and 2^20 units are in a second.
    let asked = if stands {
        arrived.wrapping_add(queue).wrapping_add(SLACK)
    } else {
        arrived
    };
    let now = asked.min(1 << 36).wrapping_mul(SECOND_NS >> 10) / units;
    let wants = if late && stands {
        // Nothing is known of what it would have sent.
        now.max(before.wants)
    } else if stands || before.stands {
        now
    } else {
        before.wants - before.wants / 4 + now / 4
    };
    Demand {
        served: all.wrapping_sub(queue),
        queue,
        stands,
        wants: wants.min(knobs.cap).min(RATE_MAX),
    }
}

/// What was sent beyond the link's rate and must still be saved, or (negative)
/// what may still be made up for, bytes.
#[inline(always)]
pub fn debt(before: i64, served: u64, link_rate: u64, elapsed_ns: u64) -> i64 {
    let due = bytes_in(elapsed_ns, link_rate) as i64;
    let epoch = bytes_in(EPOCH_NS, link_rate) as i64;
    let late = bytes_in(CATCH_UP_NS, link_rate) as i64;
    let debt = before
        .wrapping_add(served.min(1 << 40) as i64)
        .wrapping_sub(due);
    debt.max(-late).min(4 * epoch)
}

/// What all slices together may send until the next division: half of the debt is
/// paid by then, if it comes as late as this one: on a slow link a packet may take
/// many epochs.
#[inline(always)]
pub fn budget(link_rate: u64, debt: i64, elapsed_ns: u64) -> u64 {
    let units = elapsed_ns.clamp(EPOCH_NS, SECOND_NS) >> 10;
    // At most 2^36 bytes are owed, and 2^20 units are in a second.
    let part = debt
        .unsigned_abs()
        .min(1 << 36)
        .wrapping_mul(SECOND_NS >> 11)
        / units;
    if debt > 0 {
        link_rate.saturating_sub(part).max(link_rate / 2)
    } else {
        link_rate.wrapping_add(part).min(link_rate + link_rate / 4)
    }
    .max(1)
}

/// The sums over slices at a level, from which the next level follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// What those want that are content at this level, bytes per second.
    pub content: u64,
    /// Floors of the others.
    pub floors: u64,
    /// Shares of the others.
    pub shares: u64,
}

impl Sums {
    /// Adds a slice.
    #[inline(always)]
    pub fn add(&mut self, knobs: &Knobs, wants: u64, level: u64) {
        let gets = knobs
            .floor
            .wrapping_add(u64::from(knobs.share).wrapping_mul(level) >> LEVEL_BITS);
        if wants <= gets {
            self.content = self.content.wrapping_add(wants);
        } else {
            self.floors = self.floors.wrapping_add(knobs.floor);
            self.shares = self.shares.wrapping_add(u64::from(knobs.share));
        }
    }

    /// What of a budget is left for shares, bytes per second.
    #[inline(always)]
    pub fn rest(&self, budget: u64) -> u64 {
        budget
            .saturating_sub(self.content)
            .saturating_sub(self.floors)
    }

    /// The level at which a budget is used up if nobody else were content: a
    /// step of Newton's method on a concave function, which never lands above
    /// the right level after the first. At most [`highest`].
    #[inline(always)]
    pub fn level(&self, budget: u64) -> u64 {
        if self.shares > 0 {
            level(self.rest(budget), self.shares)
        } else if self.content <= budget {
            highest(budget)
        } else {
            0
        }
    }
}

/// The level at which what is left goes to this many shares: of those that a
/// division found, and of the slices that woke since.
#[inline(always)]
pub fn level(rest: u64, shares: u64) -> u64 {
    if shares == 0 {
        return 0;
    }
    (rest << LEVEL_BITS) / shares
}

/// The level at which a slice of the smallest share gets the whole budget.
#[inline(always)]
pub fn highest(budget: u64) -> u64 {
    budget << LEVEL_BITS
}

/// Passes over the slices with which a level is found: each but the first lands
/// at or below the right one.
pub const PASSES: u32 = 4;

/// Bytes that a flow with nothing waiting sends ahead of what others of its slice
/// have waiting: once until that has left. (The "new flows" of RFC 8290, in times.)
pub const AHEAD: u64 = 2 * 1514;

/// Whether a flow with nothing waiting, which with this packet has sent `bytes` since
/// the queue stood that it found, may go ahead of it.
#[inline(always)]
pub fn goes_ahead(bytes: u64) -> bool {
    bytes <= AHEAD
}

/// Whether those that go ahead are few enough that one more is no delay for them.
#[inline(always)]
pub fn is_lane(waits_ns: u64) -> bool {
    waits_ns <= WAIT_NS
}

#[cfg(test)]
mod tests;
