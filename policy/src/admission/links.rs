//! What slices are to have of links: links that the node has, and no more floors than fit the rate
//! of each.

use crate::compile::exempt::{self, MAX_EXEMPT};
use crate::config::build::cap_above_floor;
use crate::config::units::BitsPerSecond;
use crate::config::{At, Complaint, Config, Link, LinkTerms, Place, Slice};

pub(super) fn links(config: &Config, complaints: &mut Vec<Complaint>) {
    for slice in &config.slices {
        unknown(slice, &config.node.links, complaints);
        exempt_nothing(slice, &config.node.links, complaints);
    }
    for link in &config.node.links {
        let terms: Vec<(&Slice, LinkTerms)> = config
            .slices
            .iter()
            .map(|slice| (slice, slice.links.on(&link.name.value)))
            .collect();
        for (slice, terms) in &terms {
            // Within one table it was seen when the file was read: here the two are of different ones.
            let whose = format!("of slice {} on {}", slice.name.value, link.name.value);
            cap_above_floor(&whose, terms.floor, terms.cap, complaints);
        }
        let promised = config.slices.iter();
        let promised = promised.map(|slice| slice.promise().link(&link.name.value));
        complaints.extend(floors(link, &promised.collect::<Vec<_>>()));
    }
    complaints.extend(exempt_too_many(&config.node.links));
}

/// More exempt networks than the kernel's map has room for.
fn exempt_too_many(links: &[Link]) -> Option<Complaint> {
    let entries = exempt::entries(links).len();
    let over = entries.checked_sub(MAX_EXEMPT).filter(|over| *over > 0)?;
    let longest = links.iter().max_by_key(|link| link.exempt.len())?;
    Some(Complaint::maybe_at(
        longest.exempt.first().and_then(|network| network.at),
        format!("the exempt networks make {entries} entries, {over} more than the node holds"),
        "name wider networks",
    ))
}

/// Who names a cap for exempt networks believes that there are some.
fn exempt_nothing(slice: &Slice, links: &[Link], complaints: &mut Vec<Complaint>) {
    let has_none = |link: &Link| link.exempt.is_empty();
    let of_one = slice.links.one.iter().filter_map(|(device, table)| {
        let link = links.iter().find(|link| link.name.value == *device)?;
        has_none(link).then(|| (table, format!("the link {device} has no `exempt` networks")))
    });
    let of_every = slice.links.every.iter().filter_map(|table| {
        let none = !links.is_empty() && links.iter().all(has_none);
        none.then(|| (table, String::from("no link has `exempt` networks")))
    });
    for (table, why) in of_one.chain(of_every) {
        let Some(cap) = table.exempt_cap else {
            continue;
        };
        let message = format!("slice {} has `exempt_cap`, and {why}", slice.name.value);
        let help = "add for example `exempt = [\"198.51.100.0/24\"]` to the link in node.toml, or remove `exempt_cap`";
        complaints.push(Complaint::maybe_at(cap.at, message, help));
    }
}

/// Tables about links that there are not.
fn unknown(slice: &Slice, links: &[Link], complaints: &mut Vec<Complaint>) {
    let name = &slice.name.value;
    if links.is_empty() {
        let every = slice.links.every.map(|table| ("[link]", table.at));
        let one = slice.links.one.first();
        let Some((table, at)) = every.or(one.map(|(_, table)| ("[links]", table.at))) else {
            return;
        };
        complaints.push(Complaint::at(
            at,
            format!("slice {name} has {table}, and the node has no link"),
            format!(
                "add for example `[links.eth0]` and `rate = \"100 Mbit/s\"` to node.toml, or remove {table}"
            ),
        ));
        return;
    }
    for (device, table) in &slice.links.one {
        if links.iter().any(|link| link.name.value == *device) {
            continue;
        }
        let known: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        complaints.push(Complaint::at(
            table.at,
            format!("slice {name} names the link {device}, which the node does not have"),
            format!(
                "the node's links are {}; add `{device}` to node.toml, or remove the table",
                known.join(", ")
            ),
        ));
    }
}

/// Floors are promises: all must hold at once.
fn floors(link: &Link, slices: &[At<BitsPerSecond>]) -> Option<Complaint> {
    let floors = || slices.iter().copied();
    // 16,382 floors of 100 Gbit/s are far below 2^64.
    let of_slices: u64 = floors().map(|floor| floor.value.0).sum();
    let sum = of_slices + link.node.floor.value.0;
    let rate = link.rate.value;
    let over = sum.checked_sub(rate.0).filter(|over| *over > 0)?;
    let promised = floors().filter(|floor| floor.value.0 > 0).count();
    let who = match (link.node.floor.value.0 > 0, promised) {
        (true, 0) => String::from("the node needs"),
        (true, 1) => String::from("the node and one slice need"),
        (true, n) => format!("the node and {n} slices need"),
        (false, 1) => String::from("one slice needs"),
        (false, n) => format!("{n} slices together need"),
    };
    let largest = floors()
        .chain([link.node.floor])
        .max_by_key(|floor| floor.value)?;
    let name = &link.name.value;
    let message = format!(
        "the floors on link {name} do not fit: {who} {}, its rate is {rate}, {} too much",
        BitsPerSecond(sum),
        BitsPerSecond(over),
    );
    let help = format!(
        "lower floors on {name} by {} in all, or raise its `rate`",
        BitsPerSecond(over)
    );
    let rate_at: Option<Place> = link.rate.at;
    Some(Complaint::maybe_at(largest.at, message, help).with_other(rate_at, "its rate"))
}
