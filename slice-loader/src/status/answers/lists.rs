//! Lists, page by page: what is on a page is read or picked, and nothing else is made
//! for it, however many rows there are.

use jiff::Timestamp;
use policy::SliceId;
use policy::abi::Denials;
use policy::verdict::Reason;

use super::{Sight, Source, Told, paged};
use crate::report::ports::Protocol;
use crate::report::{Link, LinkRow, NODE, Owner, Port, RowKind, UNATTRIBUTED};
use crate::status::documents::{Drop, Drops, Links, Policy, Ports, Slices};
use crate::status::pages::{RowText, Written, cut, most, octets};
use crate::status::wire::{Part, Place, Refusal, Viewer};

/// Who asks, and what it may see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) viewer: &'a Viewer,
    pub(super) sight: Sight,
}

/// Something of each owner, by name and id, and when it was read.
pub type OfOwners<T> = (Timestamp, Vec<(String, u32, T)>);

impl Seen<'_> {
    fn sees(self, id: u32) -> bool {
        self.sight == Sight::All || id == self.viewer.id
    }
}

/// The order of owners: the node, the slices by name, the unattributed.
fn order(name: &str) -> (u8, &str) {
    let rank = match name {
        NODE => 0,
        UNATTRIBUTED => 2,
        _ => 1,
    };
    (rank, name)
}

fn text(place: Option<Place>) -> Option<String> {
    place.map(|place| place.to_string())
}

/// `/v1/slices`: the rows of a page alone are read.
pub(super) fn slices(
    source: &mut impl Source,
    seen: Seen<'_>,
    kind: Option<RowKind>,
    part: &Part,
) -> anyhow::Result<Told> {
    let owners = match seen.sight {
        Sight::Own => vec![(seen.viewer.name.clone(), seen.viewer.id)],
        Sight::All => source.owners()?,
    };
    let after = part.after.as_ref().map(|place| order(&place.name));
    // One more, so that it is known whether there is a next page.
    let picked = owners
        .iter()
        .filter(|(_, id)| kind.is_none_or(|kind| RowKind::of(SliceId(*id)) == kind))
        .filter(|(name, _)| after.is_none_or(|after| order(name) > after))
        .take(most(part) + 1);
    let picked: Vec<(&str, u32)> = picked.map(|(name, id)| (name.as_str(), *id)).collect();
    let read = source.rows(&picked)?;
    let time = read.iter().map(|(time, _)| *time).min();
    let rows = read
        .into_iter()
        .map(|(_, row)| (Place::new(&row.name, 0, 0), row));
    let total = match seen.sight {
        Sight::Own => None,
        Sight::All => Some(source.total()?),
    };
    let (rows, next) = cut(rows, most(part), octets(seen.sight))?;
    let document = Slices {
        time: time.unwrap_or_else(Timestamp::now),
        rows,
        total,
        next: text(next),
    };
    paged(&document, document.next.as_ref())
}

/// `/v1/ports`.
pub(super) fn ports(
    source: &mut impl Source,
    seen: Seen<'_>,
    slice: Option<&str>,
    wanted: impl Fn(&Port) -> bool,
    part: &Part,
) -> anyhow::Result<Told> {
    let there = source.ports()?;
    let key = |port: &Port| (port.protocol, port.low, port.owner.id);
    let after = part.after.as_ref().map(|place| {
        let mut protocols = Protocol::ALL.into_iter();
        let protocol = protocols.find(|protocol| protocol.slug() == place.name);
        let low = u16::try_from(place.numbers[0]).unwrap_or(u16::MAX);
        (protocol.unwrap_or(Protocol::Udp), low, place.numbers[1])
    });
    let mut picked: Vec<&Port> = there
        .ports
        .iter()
        .filter(|port| seen.sees(port.owner.id))
        .filter(|port| slice.is_none_or(|name| port.owner.name.as_deref() == Some(name)))
        .filter(|port| wanted(port) && after.is_none_or(|after| key(port) > after))
        .collect();
    picked.sort_by_key(|port| key(port));
    let rows = picked.into_iter().map(|port| {
        let place = Place::new(port.protocol.slug(), port.low.into(), port.owner.id);
        (place, port)
    });
    let (ports, next) = cut(rows, most(part), octets(seen.sight))?;
    let document = Ports {
        time: there.time,
        ports,
        next: text(next),
    };
    paged(&document, document.next.as_ref())
}

/// `/v1/links`: each link is named on the page on which its rows begin, or would.
pub(super) fn links(
    source: &mut impl Source,
    seen: Seen<'_>,
    (link, slice): (Option<&str>, Option<&str>),
    part: &Part,
) -> anyhow::Result<Told> {
    let (time, all) = source.links()?;
    let key = |id: u32| (SliceId(id).index(), id);
    let after = part.after.as_ref();
    let first = after.and_then(|place| all.iter().position(|link| link.name == place.name));
    let mut links = Vec::new();
    let (mut room, mut length, mut next) = (most(part), octets(seen.sight), None);
    for (number, there) in all.iter().enumerate() {
        // The link that the page before ended in, or one that went meanwhile.
        let within = first.filter(|first| *first == number);
        if first.is_some_and(|first| number < first) || link.is_some_and(|name| there.name != name)
        {
            continue;
        }
        let after = within.and(after).map(|place| key(place.numbers[1]));
        let mut rows: Vec<&LinkRow> = there
            .rows
            .iter()
            .filter(|row| seen.sees(row.owner.id))
            .filter(|row| slice.is_none_or(|name| row.owner.name.as_deref() == Some(name)))
            .filter(|row| after.is_none_or(|after| key(row.owner.id) > after))
            .collect();
        rows.sort_by_key(|row| key(row.owner.id));
        let mut told = Link {
            name: there.name.clone(),
            rate: there.rate,
            there: there.there,
            rows: Written::default(),
        };
        for row in rows {
            let id = row.owner.id;
            let row = RowText::write(row)?;
            let octets = row.octets();
            if room == 0 || (octets > length && next.is_some()) {
                if !told.rows.is_empty() {
                    links.push(told);
                }
                return links_document(*time, links, next);
            }
            room -= 1;
            length = length.saturating_sub(octets);
            told.rows.push(row);
            next = Some(Place::new(&there.name, 0, id));
        }
        if within.is_none() || !told.rows.is_empty() {
            links.push(told);
        }
    }
    links_document(*time, links, None)
}

fn links_document(
    time: Timestamp,
    links: Vec<Link<Written<LinkRow>>>,
    next: Option<Place>,
) -> anyhow::Result<Told> {
    let document = Links {
        time,
        links,
        next: text(next),
    };
    paged(&document, document.next.as_ref())
}

/// `/v1/drops`.
pub(super) fn drops(
    source: &mut impl Source,
    seen: Seen<'_>,
    (slice, reason): (Option<&str>, Option<Reason>),
    part: &Part,
) -> anyhow::Result<Told> {
    let own = (seen.viewer.name.as_str(), seen.viewer.id);
    let (time, owners) = source.denials((seen.sight == Sight::Own).then_some(own))?;
    let after = part.after.as_ref().map(|place| {
        let (rank, name) = order(&place.name);
        (rank, name, place.numbers[0])
    });
    let of_owner = |(name, id, denials): &(String, u32, Denials)| {
        let owner = Owner {
            id: *id,
            name: Some(name.clone()),
        };
        let counts = denials.counts;
        let reasons = Reason::ALL.iter().copied();
        let given = reasons.filter(move |known| reason.is_none_or(|reason| reason == *known));
        let given: Vec<_> = given
            .filter_map(|reason| {
                let count = counts[reason as usize];
                let (rank, name) = order(owner.name.as_deref().unwrap_or_default());
                let wanted = after.is_none_or(|after| (rank, name, reason as u32) > after);
                (count > 0 && wanted).then(|| {
                    let row = Drop {
                        slice: owner.clone(),
                        reason: reason.slug().to_owned(),
                        sentence: reason.sentence().to_owned(),
                        count,
                    };
                    (Place::new(name, reason as u32, 0), row)
                })
            })
            .collect();
        given
    };
    let rows = owners
        .iter()
        .filter(|(name, id, _)| seen.sees(*id) && slice.is_none_or(|slice| name == slice))
        .flat_map(of_owner);
    let (drops, next) = cut(rows, most(part), octets(seen.sight))?;
    let document = Drops {
        time,
        drops,
        next: text(next),
    };
    paged(&document, document.next.as_ref())
}

/// `/v1/policy`.
pub(super) fn policy(
    source: &mut impl Source,
    seen: Seen<'_>,
    slice: Option<&str>,
    part: &Part,
) -> anyhow::Result<Result<Told, Refusal>> {
    let Some(policies) = source.policies()? else {
        return Ok(Err(Refusal::NoPolicy));
    };
    let after = part.after.as_ref().map(|place| place.name.as_str());
    let rows = policies
        .slices
        .iter()
        .filter(|policy| seen.sight == Sight::All || policy.name == seen.viewer.name)
        .filter(|policy| slice.is_none_or(|name| policy.name == name))
        .filter(|policy| after.is_none_or(|after| policy.name.as_str() > after))
        .map(|policy| (Place::new(&policy.name, 0, 0), policy));
    let (slices, next) = cut(rows, most(part), octets(seen.sight))?;
    let document = Policy {
        refuse: policies.refuse.clone(),
        slices,
        next: text(next),
    };
    Ok(Ok(paged(&document, document.next.as_ref())?))
}
