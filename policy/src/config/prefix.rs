//! Prefixes of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network `address/length`; bits beyond the length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPrefix {
    /// Neither an address nor `ADDRESS/LENGTH`.
    Form,
    /// Longer than the address.
    Length(u8),
    /// The address has bits beyond the length; this is the network it lies in.
    HostBits(Prefix),
    /// An IPv4-mapped IPv6 address; this is how to write it.
    Mapped(Ipv4Addr),
}

impl Prefix {
    /// The network that `address` lies in.
    ///
    /// # Errors
    /// [`BadPrefix::Length`] if the length is beyond the address, [`BadPrefix::Mapped`] for `::ffff:0:0/96`.
    pub fn around(address: IpAddr, length: u8) -> Result<Self, BadPrefix> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if length > longest {
            return Err(BadPrefix::Length(longest));
        }
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                if let (Some(v4), 96..) = (v6.to_ipv4_mapped(), length) {
                    return Err(BadPrefix::Mapped(v4));
                }
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Ok(Self { address, length })
    }

    /// One address alone.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self {
            address,
            length: if address.is_ipv4() { 32 } else { 128 },
        }
    }

    /// Reads `10.0.0.0/8`, `2001:db8::/32`, or an address alone.
    ///
    /// # Errors
    /// What is wrong with it; bits beyond the length are an error, not silently cut.
    pub fn parse(text: &str) -> Result<Self, BadPrefix> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadPrefix::Form)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            Some(digits) if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(BadPrefix::Form);
            }
            Some(digits) => digits.parse().map_err(|_| BadPrefix::Length(longest))?,
        };
        let network = Self::around(address, length)?;
        if network.address == address {
            Ok(network)
        } else {
            Err(BadPrefix::HostBits(network))
        }
    }

    /// The first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits count: 0 to 32 for IPv4, 0 to 128 for IPv6.
    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether the address lies in the network; of the other family, never.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                Self::around(address, self.length).is_ok_and(|network| network == self)
            }
            _ => false,
        }
    }

    /// Whether all of `other` lies in this network.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for BadPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => write!(f, "is neither an address nor ADDRESS/LENGTH"),
            Self::Length(longest) => write!(f, "is longer than /{longest}"),
            Self::HostBits(network) => write!(f, "has bits beyond /{}", network.length),
            Self::Mapped(_) => write!(f, "is an IPv4 address written as IPv6"),
        }
    }
}

impl std::error::Error for BadPrefix {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_exactly() {
        for good in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "192.0.2.1/32",
            "2001:db8::/32",
            "::/0",
            "::1/128",
        ] {
            assert_eq!(Prefix::parse(good).unwrap().to_string(), good);
        }
        assert_eq!(
            Prefix::parse("192.0.2.1").unwrap().to_string(),
            "192.0.2.1/32"
        );
        let ten = Prefix::parse("10.0.0.0/8").unwrap();
        for (bad, why) in [
            ("10.0.0.0/33", BadPrefix::Length(32)),
            ("::/129", BadPrefix::Length(128)),
            ("10.0.0.0/300", BadPrefix::Length(32)),
            ("10.0.0.0/", BadPrefix::Form),
            ("10.0.0.0/+8", BadPrefix::Form),
            ("10.0/8", BadPrefix::Form),
            ("example.org", BadPrefix::Form),
            ("10.1.0.0/8", BadPrefix::HostBits(ten)),
            (
                "::ffff:10.0.0.1",
                BadPrefix::Mapped(Ipv4Addr::new(10, 0, 0, 1)),
            ),
        ] {
            assert_eq!(Prefix::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_network_contains_its_own_and_no_other() {
        let ten = Prefix::parse("10.0.0.0/8").unwrap();
        assert!(ten.contains("10.255.0.1".parse().unwrap()));
        assert!(!ten.contains("11.0.0.0".parse().unwrap()));
        assert!(!ten.contains("::a00:1".parse().unwrap()));
        assert!(ten.covers(Prefix::parse("10.1.0.0/16").unwrap()));
        assert!(!Prefix::parse("10.1.0.0/16").unwrap().covers(ten));
        assert!(Prefix::parse("0.0.0.0/0").unwrap().covers(ten));
        assert!(!Prefix::parse("::/0").unwrap().covers(ten));
    }
}
