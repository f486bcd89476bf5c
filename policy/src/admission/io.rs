//! Can this node keep what the slices' files say of block I/O?

use super::{Io, Unbounded};
use crate::config::{Complaint, Config, Place, Slice};

pub(super) fn io(config: &Config, io: &Io, complaints: &mut Vec<Complaint>) {
    for slice in &config.slices {
        let name = slice.name.value.as_str();
        if let (Some(at), Err(why)) = (cap(slice), &io.device) {
            let what = format!("slice {name} has a bound on block I/O");
            complaints.push(cannot_be_kept(&what, at, why));
        }
        if let (Some(weight), Err(why)) = (slice.io.weight, &io.weights) {
            let what = format!("slice {name} has a weight of block I/O");
            complaints.push(cannot_be_kept(&what, weight.at, why));
        }
    }
}

/// Where a slice is bounded, if it is.
fn cap(slice: &Slice) -> Option<Option<Place>> {
    let io = &slice.io;
    let bytes = io.read.or(io.write).map(|cap| cap.at);
    bytes.or(io.read_operations.or(io.write_operations).map(|cap| cap.at))
}

fn cannot_be_kept(what: &str, at: Option<Place>, unbounded: &Unbounded) -> Complaint {
    Complaint::maybe_at(
        at,
        format!("{what}, which this node cannot keep: {}", unbounded.why),
        unbounded.remedy.clone(),
    )
}
