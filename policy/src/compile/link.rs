//! Links as the maps have them: in bytes per second, by number.

use std::collections::BTreeMap;

use crate::abi::{self, LinkEntry, LinkKnobs};
use crate::admission::Admitted;
use crate::config::LinkTerms;
use crate::config::units::BitsPerSecond;
use crate::decide::pace::RATE_MAX;
use crate::ids::SliceId;

/// A link of the node; its place in the list is its number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// The device.
    pub name: String,
    /// What the owner gives, bytes per second; never 0.
    pub rate: u64,
    /// Whether networks are exempt.
    pub exempt: bool,
}

/// A row of `KNOBS`, in the order of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KnobsAt {
    /// Number of the link.
    pub link: u32,
    /// Whether of what goes to exempt networks.
    pub exempt: bool,
    /// Row of the slice; 0 is the node.
    pub row: u32,
}

impl KnobsAt {
    /// The index in the map, where the per-slice maps have so many rows.
    #[must_use]
    pub const fn index(self, rows: u32) -> u32 {
        let class = if self.exempt {
            abi::exempt_class(self.row, rows)
        } else {
            self.row
        };
        abi::link_index(self.link, class, rows)
    }

    /// What is at an index.
    #[must_use]
    pub const fn at(index: u32, rows: u32) -> Self {
        let class = index % abi::classes(rows);
        Self {
            link: index / abi::classes(rows),
            exempt: class >= rows,
            row: class % rows,
        }
    }
}

impl Link {
    /// Its row of `LINKS`.
    #[must_use]
    pub fn entry(&self) -> LinkEntry {
        LinkEntry {
            rate: self.rate,
            exempt: self.exempt.into(),
        }
    }
}

pub(super) fn links(admitted: &Admitted<'_>) -> Vec<Link> {
    let links = admitted.config().node.links.iter();
    links
        .map(|link| Link {
            name: link.name.to_string(),
            rate: link.rate.bytes_per_second(),
            exempt: !link.exempt.is_empty(),
        })
        .collect()
}

/// The knobs of the node and of every slice on every link.
pub(super) fn knobs(admitted: &Admitted<'_>) -> BTreeMap<KnobsAt, LinkKnobs> {
    let mut all = BTreeMap::new();
    for (number, link) in (0..).zip(&admitted.config().node.links) {
        let of_slices = admitted
            .slices()
            .map(|(id, slice)| (id, slice.links.on(&link.name.value)));
        for (id, terms) in [(SliceId::NODE, link.node)].into_iter().chain(of_slices) {
            let at = |exempt| KnobsAt {
                link: number,
                exempt,
                row: id.index(),
            };
            all.insert(at(false), entry(id, &terms));
            // The node has no quota, and a floor that must hold wherever it sends.
            if id.is_slice() && !link.exempt.is_empty() {
                all.insert(at(true), exempt_entry(id, &terms));
            }
        }
    }
    all
}

/// A floor may become 0: it is less than every slice has. A cap does not: the least that is read is
/// more than a byte.
fn entry(id: SliceId, terms: &LinkTerms) -> LinkKnobs {
    LinkKnobs {
        floor: terms.floor.bytes_per_second(),
        cap: terms
            .cap
            .map_or(RATE_MAX, |cap| BitsPerSecond::bytes_per_second(cap.value)),
        share: terms.share,
        id,
        quota: terms.quota.map_or(0, |quota| quota.limit.0),
        period_ns: terms.quota.map_or(0, |quota| quota.period.0),
        packets: terms.packets.map_or(0, u64::from),
        receive: terms.receive.map_or(0, BitsPerSecond::bytes_per_second),
    }
}

/// To exempt networks nothing is guaranteed, packets are not bounded, and the share is the
/// same again. What comes from there is as all that comes.
fn exempt_entry(id: SliceId, terms: &LinkTerms) -> LinkKnobs {
    LinkKnobs {
        floor: 0,
        cap: terms
            .exempt_cap
            .map_or(RATE_MAX, |cap| BitsPerSecond::bytes_per_second(cap.value)),
        share: terms.share,
        id,
        quota: 0,
        period_ns: 0,
        packets: 0,
        receive: 0,
    }
}
