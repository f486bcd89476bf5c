//! What the programs in the kernel count of an owner.

use policy::SliceId;
use policy::abi::{Denials, SliceEntry, SliceState, Traffic};
use zerocopy::FromZeros;

use crate::node::Node;

/// A row of each of their tables.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// What was said of the owner.
    pub entry: SliceEntry,
    /// What it has open.
    pub state: SliceState,
    /// What it sent and received, on all CPUs.
    pub traffic: Traffic,
    /// What it was denied.
    pub denials: Denials,
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            entry: SliceEntry::new_zeroed(),
            state: SliceState::new_zeroed(),
            traffic: Traffic::new_zeroed(),
            denials: Denials::new_zeroed(),
        }
    }
}

impl Counted {
    /// Of one owner.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn of(node: &Node, id: SliceId) -> anyhow::Result<Self> {
        Ok(Self {
            entry: node.entry(id)?.unwrap_or_else(SliceEntry::new_zeroed),
            state: node.state(id)?,
            traffic: node.traffic(id)?,
            denials: node.denials(id)?,
        })
    }

    /// Of all rows, whosever they are, in their order: a call of the kernel for many of them.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn of_all(node: &Node) -> anyhow::Result<Vec<Self>> {
        let rows = node
            .all_entries()?
            .into_iter()
            .zip(node.all_states()?)
            .zip(node.all_traffic()?)
            .zip(node.all_denials()?)
            .map(|(((entry, state), traffic), denials)| Self {
                entry,
                state,
                traffic,
                denials,
            });
        Ok(rows.collect())
    }
}
