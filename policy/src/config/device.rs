//! Names of network devices.

use std::fmt;

use serde::Serialize;

/// The name of a network device that can be a link, as the kernel takes it (`dev_valid_name`),
/// without the loopback device: traffic inside the node is counted, not shaped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DeviceName(String);

/// Most bytes of a name (`IFNAMSIZ` less the zero that ends it).
pub const LONGEST: usize = 15;

/// Why a text is not the name of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDevice {
    /// No characters.
    Empty,
    /// More than 15 bytes.
    Long,
    /// Has this character.
    Character(char),
    /// `.` or `..`.
    Dots,
    /// The loopback device.
    Loopback,
}

impl DeviceName {
    /// The name, if it is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, BadDevice> {
        // The kernel takes control characters; whoever reads a name on a terminal does not.
        let odd = |c: &char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
        if let Some(c) = text.chars().find(odd) {
            return Err(BadDevice::Character(c));
        }
        match text {
            "" => Err(BadDevice::Empty),
            "." | ".." => Err(BadDevice::Dots),
            "lo" => Err(BadDevice::Loopback),
            _ if text.len() > LONGEST => Err(BadDevice::Long),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for BadDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "is empty"),
            Self::Long => write!(f, "is longer than {LONGEST} bytes"),
            Self::Character(c) => write!(f, "has the character {c:?}"),
            Self::Dots => write!(f, "is a directory's"),
            Self::Loopback => write!(
                f,
                "is the loopback device's, and traffic inside the node is not shaped"
            ),
        }
    }
}

impl std::error::Error for BadDevice {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_the_kernel_takes() {
        for good in [
            "eth0",
            "enp3s0f1",
            "eth0.100",
            "wg-uplink",
            "bond0",
            "123456789012345",
        ] {
            assert_eq!(DeviceName::new(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", BadDevice::Empty),
            ("1234567890123456", BadDevice::Long),
            // Bytes count, not characters.
            ("ääääääää", BadDevice::Long),
            ("eth/0", BadDevice::Character('/')),
            ("eth0:1", BadDevice::Character(':')),
            ("eth 0", BadDevice::Character(' ')),
            ("eth\u{7}", BadDevice::Character('\u{7}')),
            (".", BadDevice::Dots),
            ("..", BadDevice::Dots),
            ("lo", BadDevice::Loopback),
        ] {
            assert_eq!(DeviceName::new(bad), Err(why), "{bad}");
        }
    }
}
