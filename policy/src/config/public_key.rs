//! Public keys as OpenSSH writes them: type, key in base64, comment.

use std::fmt;

/// A public key without options: what it may do is the slice's policy, not a
/// matter of the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey {
    kind: &'static str,
    key: String,
    comment: String,
}

/// Types that OpenSSH still accepts (sshd(8)).
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Most characters of a key: RSA of 16384 bits has 2,796.
const LONGEST: usize = 4096;

/// Why a text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadKey {
    /// Does not begin with a type that is known.
    Kind,
    /// The part after the type is not one key in base64.
    Key,
    /// Is of another type than it says.
    Other,
    /// The comment has a control character.
    Comment,
    /// Is a private key.
    Private,
}

impl PublicKey {
    /// The key in a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, BadKey> {
        if line.contains("PRIVATE KEY") {
            return Err(BadKey::Private);
        }
        let mut words = line.trim().splitn(3, ' ');
        let word = words.next().unwrap_or_default();
        let kind = KINDS
            .iter()
            .find(|kind| **kind == word)
            .ok_or(BadKey::Kind)?;
        let key = words.next().unwrap_or_default();
        let base64 = |c: u8| c.is_ascii_alphanumeric() || c == b'+' || c == b'/';
        let body = key.trim_end_matches('=');
        if body.len() < 40
            || key.len() > LONGEST
            || !key.len().is_multiple_of(4)
            || key.len() - body.len() > 2
            || !body.bytes().all(base64)
        {
            return Err(BadKey::Key);
        }
        // Inside stands the type once more: length in four bytes, then the word.
        if !body.starts_with(&prefix(kind)) {
            return Err(BadKey::Other);
        }
        let comment = words.next().unwrap_or_default();
        if comment.chars().any(char::is_control) {
            return Err(BadKey::Comment);
        }
        Ok(Self {
            kind,
            key: key.to_owned(),
            comment: comment.to_owned(),
        })
    }
}

/// What the base64 of a key of this type begins with: as many characters as
/// the type alone decides.
fn prefix(kind: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let length = u32::try_from(kind.len()).unwrap_or(0).to_be_bytes();
    let bytes: Vec<u8> = length.into_iter().chain(kind.bytes()).collect();
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let digits = bytes.len() * 8 / 6;
    (0..digits)
        .map(|digit| {
            let value = (0..6).fold(0, |value, at| value << 1 | bit(digit * 6 + at));
            char::from(DIGITS[usize::from(value)])
        })
        .collect()
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)?;
        if self.comment.is_empty() {
            Ok(())
        } else {
            write!(f, " {}", self.comment)
        }
    }
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "does not begin with a type of key (`ssh-ed25519`, `ssh-rsa` ...)",
            Self::Key => "is cut, or no key in base64",
            Self::Other => "is of another type than it says",
            Self::Comment => "has a control character in its comment",
            Self::Private => "is a private key: it must not leave its owner, make a new pair",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBzqWUlYvfNjmQfQBJz3yBqc0dXZNoTZZHd2CTr1VN0L";

    #[test]
    fn a_key_is_written_back_as_it_was() {
        for line in [ED25519.to_owned(), format!("{ED25519} alice@lab, her key")] {
            assert_eq!(PublicKey::parse(&line).unwrap().to_string(), line);
        }
    }

    #[test]
    fn options_cut_keys_and_other_lines_are_refused() {
        for (line, bad) in [
            (format!("command=\"id\" {ED25519}"), BadKey::Kind),
            (format!("no-pty {ED25519}"), BadKey::Kind),
            (String::new(), BadKey::Kind),
            (ED25519[..50].to_owned(), BadKey::Key),
            (ED25519.replace("NTE5", "NT-5"), BadKey::Key),
            (ED25519.replace("ssh-ed25519", "ssh-rsa"), BadKey::Other),
            (format!("{ED25519} a\nssh-rsa"), BadKey::Comment),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----".to_owned(),
                BadKey::Private,
            ),
        ] {
            assert_eq!(PublicKey::parse(&line), Err(bad), "{line}");
        }
    }

    #[test]
    fn every_type_begins_as_openssh_writes_it() {
        assert_eq!(prefix("ssh-ed25519"), "AAAAC3NzaC1lZDI1NTE5");
        assert_eq!(prefix("ssh-rsa"), "AAAAB3NzaC1yc2");
        assert_eq!(
            prefix("ecdsa-sha2-nistp256"),
            "AAAAE2VjZHNhLXNoYTItbmlzdHAyNT"
        );
    }
}
