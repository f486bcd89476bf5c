//! The arithmetic by itself, and a link on which slices send packets by it.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// A slice as the program keeps it, and a sender.
struct Sender {
    knobs: Knobs,
    /// Bytes per second that it offers; all that there is room for if `None`.
    offers: Option<u64>,
    /// Connections, each of which hands over the next packet when its last but one has
    /// left, as TCP; 0 of datagrams.
    connections: usize,
    /// When what was handed over leaves.
    stamps: VecDeque<u64>,
    length: u32,
    next_ns: u64,
    /// Most packets in a second; 0 where they are not bounded.
    packets: u64,
    packets_next_ns: u64,
    due_ns: u64,
    rate: u64,
    before: Demand,
    arrived: u64,
    waited: bool,
    active: bool,
    fresh: bool,
    sent: u64,
}

impl Sender {
    fn new(floor: u64, share: u32, cap: u64) -> Sender {
        Sender {
            knobs: Knobs { floor, cap, share },
            offers: None,
            connections: 0,
            stamps: VecDeque::new(),
            length: 1514,
            next_ns: 0,
            packets: 0,
            packets_next_ns: 0,
            due_ns: 0,
            rate: 1,
            before: Demand::default(),
            arrived: 0,
            waited: false,
            active: false,
            fresh: false,
            sent: 0,
        }
    }

    fn offering(mut self, rate: u64) -> Sender {
        self.offers = Some(rate);
        self
    }
}

/// A link, whose time goes on in steps of a tenth of an epoch.
struct Link {
    rate: u64,
    debt: i64,
    division: Division,
    rest: u64,
    shares: u64,
    divided_ns: u64,
    now_ns: u64,
    slices: Vec<Sender>,
    /// Bytes by the time they leave, in bins of 100 ms.
    left: Vec<u64>,
}

impl Link {
    fn new(rate: u64, mut slices: Vec<Sender>) -> Link {
        for (number, slice) in (0..).zip(&mut slices) {
            // Not all in one moment, which would be a burst beyond the link.
            slice.due_ns = number * 1_700_000;
        }
        Link {
            rate,
            debt: 0,
            division: Division {
                level: highest(rate),
                budget: rate,
            },
            rest: rate,
            shares: 0,
            divided_ns: 0,
            now_ns: 1,
            slices,
            left: Vec::new(),
        }
    }

    fn divide(&mut self) {
        let elapsed = self.now_ns - self.divided_ns;
        let mut served = 0;
        for slice in self.slices.iter_mut().filter(|slice| slice.active) {
            let ahead = ahead(slice.next_ns, slice.packets_next_ns, self.now_ns);
            let demand = demand(
                &slice.knobs,
                slice.before,
                slice.arrived,
                slice.waited,
                ahead,
                slice.rate,
                elapsed,
            );
            served += demand.served;
            (slice.active, slice.fresh) = (demand.is_one(), false);
            (slice.before, slice.arrived, slice.waited) = (demand, 0, false);
        }
        self.debt = debt(self.debt, served, self.rate, elapsed);
        let budget = budget(self.rate, self.debt, elapsed);
        let mut level = self.division.level;
        for _ in 0..PASSES {
            let mut sums = Sums::default();
            for slice in self.slices.iter().filter(|slice| slice.active) {
                sums.add(&slice.knobs, slice.before.wants, level);
            }
            level = sums.level(budget);
            (self.rest, self.shares) = (sums.rest(budget), sums.shares);
        }
        self.division = Division { level, budget };
        for slice in self.slices.iter_mut().filter(|slice| slice.active) {
            slice.rate = rate(self.rate, &slice.knobs, self.division);
            if slice.next_ns > self.now_ns {
                slice.next_ns =
                    self.now_ns + takes_ns(slice.before.queue.try_into().unwrap(), slice.rate);
            }
        }
        self.divided_ns = self.now_ns;
    }

    fn send(&mut self, number: usize) -> bool {
        let slice = &mut self.slices[number];
        let now = self.now_ns;
        slice.stamps.retain(|stamp| *stamp > now);
        let held_back = slice.connections > 0;
        if held_back && slice.stamps.len() >= 2 * slice.connections {
            return false;
        }
        if self.now_ns >= self.divided_ns + EPOCH_NS {
            self.divide();
        }
        let slice = &mut self.slices[number];
        if !slice.active {
            (slice.active, slice.fresh) = (true, true);
            self.shares += u64::from(slice.knobs.share);
            let division = Division {
                level: level(self.rest, self.shares),
                budget: self.division.budget,
            };
            slice.rate = rate(self.rate, &slice.knobs, division);
        }
        let takes = takes_ns(slice.length, slice.rate);
        let by_packets = packets_take_ns(1, slice.packets);
        let ends = slice.next_ns.max(slice.packets_next_ns);
        let waits = ends.saturating_sub(self.now_ns);
        slice.waited |= waits_for_bytes(slice.next_ns, slice.packets_next_ns, self.now_ns);
        if !may_wait(waits, takes.max(by_packets), held_back, slice.fresh) {
            return false;
        }
        let leaves = ends.max(self.now_ns);
        slice.packets_next_ns = slice.packets_next_ns.max(self.now_ns) + by_packets;
        let from = counted_from(self.now_ns, slice.before.stands);
        slice.next_ns = slice.next_ns.max(from) + takes;
        if held_back {
            slice.stamps.push_back(leaves);
        }
        slice.arrived += u64::from(slice.length);
        slice.sent += u64::from(slice.length);
        let bin = usize::try_from(leaves / 100_000_000).unwrap();
        if self.left.len() <= bin {
            self.left.resize(bin + 1, 0);
        }
        self.left[bin] += u64::from(slice.length);
        true
    }

    /// Lets this time pass; what each slice has sent in it, bytes per second.
    fn run(&mut self, milliseconds: u32) -> Vec<f64> {
        let end = self.now_ns + u64::from(milliseconds) * 1_000_000;
        let before: Vec<u64> = self.slices.iter().map(|slice| slice.sent).collect();
        while self.now_ns < end {
            self.now_ns += EPOCH_NS / 10;
            for number in 0..self.slices.len() {
                match self.slices[number].offers {
                    None => while self.send(number) {},
                    Some(0) => {}
                    Some(rate) => {
                        if self.slices[number].due_ns + SECOND_NS < self.now_ns {
                            self.slices[number].due_ns = self.now_ns;
                        }
                        while self.slices[number].due_ns <= self.now_ns {
                            self.slices[number].due_ns +=
                                takes_ns(self.slices[number].length, rate);
                            self.send(number);
                        }
                    }
                }
            }
        }
        self.slices
            .iter()
            .zip(before)
            .map(|(slice, before)| (slice.sent - before) as f64 / f64::from(milliseconds) * 1e3)
            .collect()
    }
}

/// What each would get of a fluid, found by halving.
fn ideal(rate: f64, slices: &[Sender]) -> Vec<f64> {
    let at = |level: f64| -> Vec<f64> {
        slices
            .iter()
            .map(|slice| {
                let wants = slice.offers.map_or(f64::MAX, |offer| offer as f64);
                (slice.knobs.floor as f64 + f64::from(slice.knobs.share) * level)
                    .min(wants)
                    .min(slice.knobs.cap as f64)
            })
            .collect()
    };
    let (mut low, mut high) = (0.0, rate);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if at(middle).iter().sum::<f64>() > rate {
            high = middle;
        } else {
            low = middle;
        }
    }
    at(low)
}

/// Megabits per second, in bytes.
const fn mbit(number: u64) -> u64 {
    number * 125_000
}

fn divides(rate: u64, slices: Vec<Sender>, within: f64) -> Link {
    let mut link = Link::new(rate, slices);
    let ideal = ideal(rate as f64, &link.slices);
    link.run(3_000);
    let got = link.run(5_000);
    for (number, (got, ideal)) in got.iter().zip(&ideal).enumerate() {
        let offers = link.slices[number].offers.is_some();
        assert!(
            // Who sends now and then finds the level of a moment.
            *got >= (1.0 - within) * ideal - 900.0
                && (offers || *got <= (1.0 + within) * ideal + 900.0),
            "slice {number} got {got:.0} of {ideal:.0} B/s"
        );
    }
    link
}

const ALL: u64 = RATE_MAX;

#[test]
fn shares_of_five_and_one_are_met() {
    let mut slices = vec![Sender::new(0, 5, ALL)];
    slices.extend((0..5).map(|_| Sender::new(0, 1, ALL)));
    divides(mbit(10), slices, 0.01);
}

#[test]
fn what_one_leaves_the_others_get() {
    let slices = (0..5).map(|_| Sender::new(0, 1, ALL));
    let idle = Sender::new(0, 5, ALL).offering(0);
    divides(mbit(10), slices.chain([idle]).collect(), 0.01);
}

#[test]
fn a_floor_comes_before_shares() {
    let slices = vec![Sender::new(mbit(2), 1, ALL), Sender::new(0, 1, ALL)];
    divides(mbit(10), slices, 0.01);
}

#[test]
fn a_cap_leaves_the_rest_to_others() {
    let slices = vec![Sender::new(0, 3, ALL), Sender::new(0, 1, mbit(1))];
    divides(mbit(10), slices, 0.01);
}

#[test]
fn who_sends_as_many_packets_as_it_may_takes_of_the_link_what_they_carry() {
    for (length, connections) in [(100, 0), (1514, 0), (1514, 4)] {
        let few = Sender {
            packets: 200,
            length,
            connections,
            ..Sender::new(0, 5, ALL)
        };
        let mut link = Link::new(mbit(10), vec![few, Sender::new(0, 1, ALL)]);
        link.run(3_000);
        let got = link.run(5_000);
        let (gets, rest) = (
            200.0 * f64::from(length),
            mbit(10) as f64 - 200.0 * f64::from(length),
        );
        assert!((got[0] / gets - 1.0).abs() < 0.01, "{got:?} of {gets}");
        assert!((got[1] / rest - 1.0).abs() < 0.02, "{got:?} of {rest}");
    }
}

#[test]
fn nothing_is_stamped_beyond_the_horizon() {
    // As many as the kernel makes of one datagram, at the fewest packets in a second.
    let takes = packets_take_ns(128, u64::from(PACKETS_LEAST));
    for held_back in [false, true] {
        for fresh in [false, true] {
            assert!(may_wait(takes, takes, held_back, fresh));
            assert!(may_wait(HORIZON_NS, HORIZON_NS, held_back, fresh));
            assert!(!may_wait(HORIZON_NS + 1, takes, held_back, fresh));
            assert!(!may_wait(HORIZON_NS + 1, u64::MAX / 2, held_back, fresh));
        }
    }
}

#[test]
fn what_can_be_told_is_told_before_it_is_dropped() {
    for takes in [1, 1_000_000, 3_000_000, 12_000_000, 500_000_000] {
        for fresh in [false, true] {
            let first = |is: &dyn Fn(u64) -> bool| (0..1 << 31).step_by(100_000).find(|w| is(*w));
            let told = first(&|wait| is_long(wait, takes, false, fresh)).unwrap();
            let dropped = first(&|wait| !may_wait(wait, takes, false, fresh)).unwrap();
            assert!(
                told >= takes && told <= dropped / 2 + 100_000,
                "{told} {dropped}"
            );
            // Of TCP two packets that are on their way are no queue.
            let told = first(&|wait| is_long(wait, takes, true, fresh)).unwrap();
            let most = (2 * takes).max(WAIT_NS);
            assert!(told > most && told <= most + 100_000, "{told}");
        }
    }
}

#[test]
fn packets_that_are_one_for_the_kernel_take_as_long_as_all() {
    assert_eq!(packets_take_ns(1, 5_000), 200_000);
    assert_eq!(packets_take_ns(44, 5_000), 44 * 200_000);
    assert_eq!(packets_take_ns(44, 0), 0);
    assert_eq!(packets_take_ns(u64::MAX, u64::MAX), 0);
    // Even so many at the least rate are a time.
    assert_eq!(packets_take_ns(u64::MAX, 100), (1 << 16) * 10_000_000);
}

#[test]
fn who_asks_for_little_gets_it_and_the_link_is_full() {
    let slices = vec![
        Sender::new(mbit(6), 1, ALL).offering(mbit(1)),
        Sender::new(0, 1, ALL),
        Sender::new(0, 2, ALL),
    ];
    divides(mbit(10), slices, 0.03);
}

#[test]
fn who_is_alone_gets_all_at_every_rate() {
    for rate in [mbit(1), mbit(10), mbit(100), mbit(1_000), mbit(10_000)] {
        divides(rate, vec![Sender::new(0, 1, ALL)], 0.01);
    }
}

#[test]
fn large_packets_of_a_slow_link_are_divided_among_like_small_ones() {
    for slices in [1u32, 2, 3] {
        let senders = (0..slices).map(|number| Sender {
            length: 43 * 1514,
            connections: 1,
            ..Sender::new(0, 1 + number, ALL)
        });
        divides(mbit(10), senders.collect(), 0.05);
    }
}

#[test]
fn many_connections_and_one_get_the_same_while_others_come_and_go() {
    let held_back = |connections| Sender {
        length: 3 * 1514,
        connections,
        ..Sender::new(0, 1, ALL)
    };
    let slices = vec![
        held_back(8),
        held_back(1),
        Sender::new(0, 2, ALL).offering(0),
    ];
    let mut link = Link::new(mbit(10), slices);
    let mut sent = [0.0; 2];
    for time in 0..200 {
        link.slices[2].offers = if time % 5 < 2 { None } else { Some(0) };
        let got = link.run(30);
        sent[0] += got[0];
        sent[1] += got[1];
    }
    let ratio = sent[0] / sent[1];
    assert!((ratio - 1.0).abs() < 0.08, "{ratio}");
}

#[test]
fn many_slow_slices_are_divided_among_like_few() {
    let slices = (0..200).map(|_| Sender::new(0, 1, ALL)).collect();
    divides(mbit(50), slices, 0.03);
}

#[test]
fn a_slice_that_joins_takes_its_part_at_once_and_never_more_than_the_link() {
    let slices = vec![Sender::new(0, 1, ALL), Sender::new(0, 1, ALL).offering(0)];
    let mut link = Link::new(mbit(10), slices);
    link.run(1_000);
    link.slices[1].offers = None;
    link.run(50);
    let got = link.run(200);
    assert!((got[1] / got[0] - 1.0).abs() < 0.1, "{got:?}");
    link.slices[0].offers = Some(0);
    link.run(20);
    let got = link.run(200);
    assert!(got[1] > 0.95 * mbit(10) as f64, "{got:?}");
    let most = link.left.iter().max().unwrap();
    assert!(*most as f64 <= 1.1 * mbit(1) as f64, "{most} in 100 ms");
}

#[test]
fn what_leaves_late_is_made_up_for() {
    let mut slices = vec![Sender::new(0, 3, ALL), Sender::new(0, 1, ALL)];
    for slice in &mut slices {
        slice.connections = 1;
    }
    let mut link = Link::new(mbit(10), slices);
    link.run(1_000);
    let before: Vec<u64> = link.slices.iter().map(|slice| slice.sent).collect();
    let start = link.now_ns;
    while link.now_ns < start + SECOND_NS {
        link.run(20);
        // Nobody runs.
        link.now_ns += CATCH_UP_NS;
    }
    let passed = (link.now_ns - start) as f64 / 1e9;
    for (number, ideal) in [0.75, 0.25].into_iter().enumerate() {
        let got = (link.slices[number].sent - before[number]) as f64 / passed;
        let ideal = ideal * mbit(10) as f64;
        assert!((got / ideal - 1.0).abs() < 0.05, "{got} of {ideal}");
    }
    let most = link.left.iter().max().unwrap();
    assert!(*most as f64 <= 1.1 * mbit(1) as f64, "{most} in 100 ms");
}

#[test]
fn time_for_bytes_and_bytes_in_time_agree() {
    for rate in [1, 1_000, mbit(1), mbit(100), RATE_MAX] {
        for bytes in [64u32, 1_514, 65_549] {
            let ns = takes_ns(bytes, rate);
            let back = bytes_in(ns, rate);
            assert!(ns > LONGEST_NS || back <= u64::from(bytes));
            let lost = rate * 1_025 / SECOND_NS + 1;
            assert!(
                ns > LONGEST_NS || back + lost >= u64::from(bytes),
                "{rate} {bytes}"
            );
        }
    }
}

proptest! {
    // The same policies each time: how far a fluid is from packets has no bound that
    // is worth a name.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(5), ..ProptestConfig::with_cases(100) })]
    #[test]
    fn random_policies_are_met(
        rate in 10u64..200,
        slices in prop::collection::vec((0u64..100, 1u32..20, 0u64..40, 0u64..3), 1..12),
    ) {
        let rate = mbit(rate);
        let floors: u64 = slices.iter().map(|slice| slice.0).sum::<u64>().max(100);
        let senders = slices
            .iter()
            .map(|&(floor, share, cap, offers)| {
                let floor = rate * floor / floors / 2;
                let cap = if cap == 0 { ALL } else { (rate * cap / 40).max(floor).max(rate / 8) };
                let sender = Sender::new(floor, share, cap);
                if offers == 0 { sender.offering(rate / 10) } else { sender }
            })
            .collect();
        divides(rate, senders, 0.08);
    }

    #[test]
    fn nothing_overflows_and_no_rate_is_zero(
        rate_of_link in 1u64..=RATE_MAX,
        floor in 0u64..=RATE_MAX,
        cap in 1u64..=RATE_MAX,
        share in 1u32..=SHARE_MAX,
        level in 0u64..=(RATE_MAX * 5 / 4) << LEVEL_BITS,
        before in -(1i64 << 36)..(1i64 << 36),
        (queue, arrived, served) in (0u64..1 << 36, 0u64..1 << 36, any::<u64>()),
        (stands, waited) in any::<(bool, bool)>(),
        (ahead, elapsed) in (any::<i64>(), any::<u64>()),
    ) {
        let knobs = Knobs { floor, cap, share };
        let budget = budget(rate_of_link, debt(before, served, rate_of_link, elapsed), elapsed);
        prop_assert!(budget >= rate_of_link / 2 && budget <= rate_of_link + rate_of_link / 4 + 1);
        let rate = rate(rate_of_link, &knobs, Division { level, budget });
        prop_assert!(rate >= 1 && rate <= cap && rate <= budget);
        let before = Demand { served: 0, queue, stands, wants: level.min(RATE_MAX) };
        let demand = demand(&knobs, before, arrived, waited, ahead, rate, elapsed);
        prop_assert!(demand.wants <= cap);
        prop_assert_eq!(demand.served + demand.queue, queue + arrived);
        let mut sums = Sums::default();
        sums.add(&knobs, demand.wants, level);
        prop_assert!(sums.level(budget) <= highest(budget));
    }
}
