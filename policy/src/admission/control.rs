//! Slices that make slices do not make the same names.

use crate::config::{Complaint, Config};

/// No controller's names begin as another's.
pub(super) fn prefixes(config: &Config, complaints: &mut Vec<Complaint>) {
    let with = |slice: &'_ crate::config::Slice| {
        let control = slice.control.as_ref()?;
        Some((
            control.prefix.to_string(),
            slice.name.value.to_string(),
            control.at,
        ))
    };
    let mut all: Vec<_> = config.slices.iter().filter_map(with).collect();
    all.sort();
    // Sorted: what begins with another comes right after it, or after one that does so too.
    for pair in all.windows(2) {
        let [(first, one, first_at), (second, other, at)] = pair else {
            continue;
        };
        if second.starts_with(first.as_str()) {
            let message = format!(
                "the names of slices that {other} makes ({second}...) are such that {one} makes ({first}...)"
            );
            let help = "give them prefixes of which none begins with the other";
            complaints
                .push(Complaint::at(*at, message, help).with_other(Some(*first_at), "the other"));
        }
    }
}
