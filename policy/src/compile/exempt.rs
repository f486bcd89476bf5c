//! Exempt networks as entries of a longest-prefix map.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::abi::{Address, ExemptKey};
use crate::config::{Link, Prefix};

/// Most entries of the kernel's map for all links together.
pub const MAX_EXEMPT: usize = 65_536;

/// Bits of the link and the version that come before the address.
const BITS_BEFORE: u32 = 32;

/// A key of `EXEMPT`, in the order of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExemptAt {
    /// Number of the link.
    pub link: u8,
    /// IP version.
    pub version: u8,
    /// The network, as in [`ExemptKey::address`].
    pub address: Address,
    /// Bits of the address that count: 0 to 32, or to 128.
    pub length: u32,
}

impl ExemptAt {
    /// The key as the kernel's map has it.
    #[must_use]
    pub const fn key(&self) -> ExemptKey {
        ExemptKey {
            prefix_length: BITS_BEFORE + self.length,
            link: self.link,
            version: self.version,
            reserved: 0,
            address: self.address,
        }
    }

    fn new(link: u8, network: Prefix) -> Self {
        let (version, address) = match network.address() {
            IpAddr::V4(v4) => {
                let mut address = Address::default();
                address[..4].copy_from_slice(&v4.octets());
                (4, address)
            }
            IpAddr::V6(v6) => (6, v6.octets()),
        };
        Self {
            link,
            version,
            address,
            length: u32::from(network.length()),
        }
    }
}

impl From<&ExemptKey> for ExemptAt {
    fn from(key: &ExemptKey) -> Self {
        Self {
            link: key.link,
            version: key.version,
            address: key.address,
            length: key.prefix_length.saturating_sub(BITS_BEFORE),
        }
    }
}

/// The entries of all links, which are numbered by their places. Lists are long and made
/// by programs: what is named twice, or lies in another network, takes no entry.
#[must_use]
pub fn entries(links: &[Link]) -> BTreeSet<ExemptAt> {
    let mut entries = BTreeSet::new();
    for (number, link) in (0..).zip(links) {
        let mut networks: Vec<Prefix> = link.exempt.iter().map(|network| network.value).collect();
        // Each comes behind those around it.
        networks.sort();
        let mut around: Option<Prefix> = None;
        for network in networks {
            if around.is_some_and(|around| around.covers(network)) {
                continue;
            }
            around = Some(network);
            entries.insert(ExemptAt::new(number, network));
        }
    }
    entries
}
