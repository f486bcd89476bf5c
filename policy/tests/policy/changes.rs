//! From one plan to the next: every write in between leaves an old or a new answer.

use std::collections::{BTreeMap, BTreeSet};

use policy::abi::{Address, LinkEntry, LinkKnobs, Reserved, SliceEntry};
use policy::compile::{KnobsAt, Link, Plan, Step, compile};
use policy::config::PortRange;
use policy::ledger::Ledger;
use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::FromZeros;

use crate::laws::{borrowed, reservations, texts};
use crate::links::node_links;
use crate::node::{facts, read};
use crate::refusals::{answers, refusal};

/// The maps as the kernel would have them.
struct Maps {
    slices: BTreeMap<u32, SliceEntry>,
    reserved: BTreeMap<u32, Reserved>,
    links: BTreeMap<u32, LinkEntry>,
    knobs: BTreeMap<KnobsAt, LinkKnobs>,
    plan: Plan,
}

impl Maps {
    fn of(plan: &Plan) -> Self {
        Self {
            slices: plan.slices.clone(),
            reserved: plan.reserved.clone(),
            links: (0..)
                .zip(&plan.links)
                .map(|(number, link)| (number, link.entry()))
                .collect(),
            knobs: plan.knobs.clone(),
            plan: plan.clone(),
        }
    }

    /// Applies a step one write at a time.
    fn apply(&mut self, step: &Step, mut after_each: impl FnMut(&Self)) {
        match step {
            Step::Slices(rows) => rows.iter().for_each(|(row, entry)| {
                self.slices.insert(*row, *entry);
                after_each(self);
            }),
            Step::Reserved(rows) => rows.iter().for_each(|(row, entry)| {
                self.reserved.insert(*row, *entry);
                after_each(self);
            }),
            Step::Addresses(changes) => {
                self.plan.addresses.extend(changes.set.iter().copied());
                for key in &changes.remove {
                    assert!(self.plan.addresses.remove(key).is_some());
                }
            }
            Step::Refused(changes) => {
                for (key, ports) in &changes.set {
                    self.plan.refused.insert(*key, *ports);
                    after_each(self);
                }
                for key in &changes.remove {
                    assert!(self.plan.refused.remove(key).is_some());
                    after_each(self);
                }
            }
            Step::Links(rows) => rows.iter().for_each(|(number, entry)| {
                self.links.insert(*number, *entry);
                after_each(self);
            }),
            Step::Knobs(rows) => rows.iter().for_each(|(at, knobs)| {
                self.knobs.insert(*at, *knobs);
                after_each(self);
            }),
            Step::Exempt(changes) => {
                for (at, _) in &changes.set {
                    self.plan.exempt.insert(*at);
                    after_each(self);
                }
                for at in &changes.remove {
                    assert!(self.plan.exempt.remove(at));
                    after_each(self);
                }
            }
            Step::Settings(settings) => self.plan.settings = *settings,
        }
    }

    /// The plan that makes these maps: in arrays a zeroed row is none.
    fn plan(mut self, like: &Plan) -> Plan {
        self.slices
            .retain(|_, entry| *entry != SliceEntry::new_zeroed());
        self.reserved
            .retain(|_, entry| *entry != Reserved::new_zeroed());
        self.links.retain(|_, entry| entry.rate != 0);
        self.knobs
            .retain(|_, knobs| *knobs != LinkKnobs::new_zeroed());
        // The map has rates, and no names.
        let rates: Vec<LinkEntry> = self.links.into_values().collect();
        let shall: Vec<LinkEntry> = like.links.iter().map(Link::entry).collect();
        assert_eq!(rates, shall);
        Plan {
            slices: self.slices,
            reserved: self.reserved,
            links: like.links.clone(),
            knobs: self.knobs,
            cgroups: like.cgroups.clone(),
            disk: like.disk.clone(),
            reserved_ports: like.reserved_ports.clone(),
            ..self.plan
        }
    }
}

/// Whether some addresses are exempt on each link, as the kernel's map says it.
fn exempt(plan: &Plan) -> Vec<bool> {
    let ask = |link, [c, d]: [u8; 2]| {
        let address = [198, 51, c, d];
        plan.exempt.iter().any(|at| {
            let bits = |[a, b, c, d, ..]: Address| u32::from_be_bytes([a, b, c, d]);
            let mask = u32::MAX.checked_shl(32 - at.length).unwrap_or(0);
            let apart = (bits(at.address) ^ u32::from_be_bytes(address)) & mask;
            (at.link, at.version, apart) == (link, 4, 0)
        })
    };
    let places = [[0, 0], [0, 1], [0, 130], [1, 0], [1, 255], [2, 0]];
    (0..4)
        .flat_map(|link| places.map(|place| ask(link, place)))
        .collect()
}

proptest! {
    // A failure is kept as a named test, not as a seed.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_lead_from_any_plan_to_any_other_and_never_through_a_third_answer(
        old in vec(refusal(), 0..4),
        new in vec(refusal(), 0..4),
        before in reservations(),
        after in reservations(),
        uplinks in (node_links(), node_links()),
    ) {
        let facts = facts();
        let mut ledger = Ledger::default();
        let mut plan = |rules: &[String], slices: &[(Vec<PortRange>, Vec<PortRange>)], links: &str| {
            let texts = texts(slices);
            let config = read(&format!("{}{links}", rules.concat()), &borrowed(&texts)).unwrap();
            let rows = policy::admission::rows(&config);
            ledger = ledger.assign(config.slices.iter().map(|slice| &slice.name.value), rows, &BTreeSet::new());
            policy::admission::admit(&config, &facts, &ledger).ok().map(|admitted| compile(&admitted))
        };
        let (Some(old), Some(new)) =
            (plan(&old, &before, &uplinks.0), plan(&new, &after, &uplinks.1))
        else { return Ok(()) };
        prop_assert!(old.changes(&old).is_empty());
        let changes = old.changes(&new);
        prop_assert_eq!(changes.is_empty(), old == new);
        let (first, last) = (answers(&old.refused, 0), answers(&new.refused, 0));
        let (apart, then) = (exempt(&old), exempt(&new));
        let mut maps = Maps::of(&old);
        for step in &changes.steps {
            maps.apply(step, |maps| {
                let now = answers(&maps.plan.refused, 0);
                for ((now, first), last) in now.iter().zip(&first).zip(&last) {
                    assert!(now == first || now == last, "neither the old answer nor the new one");
                }
                // Numbers of links that are not the same are other links'.
                if !changes.other_links {
                    for ((now, first), last) in exempt(&maps.plan).iter().zip(&apart).zip(&then) {
                        assert!(now == first || now == last, "neither was it exempt nor will it be");
                    }
                }
                for (number, _) in maps.links.iter().filter(|(_, entry)| entry.rate != 0) {
                    let at = KnobsAt { link: *number, exempt: false, row: 0 };
                    assert!(maps.knobs[&at].share > 0, "a link with a rate and without knobs");
                }
            });
        }
        prop_assert_eq!(maps.plan(&new), new.clone());
        // And back, which is what a failure half-way does.
        let mut maps = Maps::of(&new);
        new.changes(&old).steps.iter().for_each(|step| maps.apply(step, |_| ()));
        prop_assert_eq!(maps.plan(&old), old);
    }
}
