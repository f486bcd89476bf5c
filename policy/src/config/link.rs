//! Links and what everybody has of them, as written: floor, share and cap.

use super::device::DeviceName;
use super::prefix::Prefix;
use super::source::{At, Place};
use super::units::{BitsPerSecond, Bytes, Nanoseconds};

/// An uplink device and the rate that the owner gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The device; placed at its table.
    pub name: At<DeviceName>,
    /// What is divided.
    pub rate: At<BitsPerSecond>,
    /// What the node itself has of it.
    pub node: LinkTerms,
    /// Networks of whose traffic caps and quotas of slices say nothing, as written.
    pub exempt: Vec<At<Prefix>>,
}

/// What somebody has of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTerms {
    /// Guaranteed whenever it is wanted.
    pub floor: At<BitsPerSecond>,
    /// Weight by which what the floors leave is split. 1 to 1000.
    pub share: u32,
    /// Never more than this.
    pub cap: Option<At<BitsPerSecond>>,
    /// What may be sent in a period.
    pub quota: Option<Quota>,
    /// Never more than this to exempt networks.
    pub exempt_cap: Option<At<BitsPerSecond>>,
    /// Never more packets in a second than this.
    pub packets: Option<u32>,
    /// Never receives more than this.
    pub receive: Option<BitsPerSecond>,
}

/// What a slice may send on a link in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// So much.
    pub limit: Bytes,
    /// So long.
    pub period: Nanoseconds,
}

/// One table of a slice's file about links: `[link]` or `[links.NAME]`. What is not written there
/// is absent, not the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTable {
    /// Where the table starts.
    pub at: Place,
    /// See [`LinkTerms::floor`].
    pub floor: Option<At<BitsPerSecond>>,
    /// See [`LinkTerms::share`].
    pub share: Option<u32>,
    /// See [`LinkTerms::cap`].
    pub cap: Option<At<BitsPerSecond>>,
    /// See [`Quota::limit`].
    pub quota: Option<Bytes>,
    /// See [`Quota::period`].
    pub quota_period: Option<At<Nanoseconds>>,
    /// See [`LinkTerms::exempt_cap`].
    pub exempt_cap: Option<At<BitsPerSecond>>,
    /// See [`LinkTerms::packets`].
    pub packets: Option<u32>,
    /// See [`LinkTerms::receive`].
    pub receive: Option<BitsPerSecond>,
}

/// What a slice's file says about links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceLinks {
    /// `[link]`: every link of the node.
    pub every: Option<LinkTable>,
    /// `[links.NAME]`: one link; sorted by name.
    pub one: Vec<(DeviceName, LinkTable)>,
}

impl SliceLinks {
    /// Share of a slice that says nothing.
    pub const SHARE: u32 = 1;

    /// How long the quota of a slice lasts that does not say so.
    pub const QUOTA_PERIOD: Nanoseconds = Nanoseconds(30 * 86_400_000_000_000);

    /// What the slice has of a link of the node: key by key `[links.NAME]` goes over `[link]`, and
    /// that over the defaults.
    #[must_use]
    pub fn on(&self, link: &DeviceName) -> LinkTerms {
        let one = self
            .one
            .iter()
            .find(|(name, _)| name == link)
            .map(|(_, table)| table);
        let tables = || one.into_iter().chain(&self.every);
        LinkTerms {
            floor: tables()
                .find_map(|table| table.floor)
                .unwrap_or(At::default(BitsPerSecond(0))),
            share: tables()
                .find_map(|table| table.share)
                .unwrap_or(Self::SHARE),
            cap: tables().find_map(|table| table.cap),
            quota: tables().find_map(|table| table.quota).map(|limit| Quota {
                limit,
                period: tables()
                    .find_map(|table| table.quota_period)
                    .map_or(Self::QUOTA_PERIOD, |period| period.value),
            }),
            exempt_cap: tables().find_map(|table| table.exempt_cap),
            packets: tables().find_map(|table| table.packets),
            receive: tables().find_map(|table| table.receive),
        }
    }
}
