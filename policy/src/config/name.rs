//! Names of slices.

use std::fmt;

use serde::Serialize;

/// The name of a slice: `[a-z][a-z0-9_]{0,30}`, and not one of the words that status shows beside
/// slices. That no account of the node has it is checked by [`super::load`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SliceName(String);

/// Most characters of a name: what a Unix account name may have.
pub const LONGEST: usize = 31;

/// Words that mean something else wherever a slice's name may stand.
const TAKEN: [&str; 3] = ["node", "all", "unattributed"];

/// Why a text is not the name of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// No characters.
    Empty,
    /// More than 31 characters.
    Long,
    /// Does not begin with a lower-case letter.
    Start,
    /// Has this character.
    Character(char),
    /// Means something else.
    Taken,
}

impl SliceName {
    /// The name, if it is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, BadName> {
        let first = text.chars().next().ok_or(BadName::Empty)?;
        let odd = |c: &char| !matches!(c, 'a'..='z' | '0'..='9' | '_');
        if let Some(c) = text.chars().find(odd) {
            return Err(BadName::Character(c));
        }
        if !first.is_ascii_lowercase() {
            return Err(BadName::Start);
        }
        if text.len() > LONGEST {
            return Err(BadName::Long);
        }
        if TAKEN.contains(&text) {
            return Err(BadName::Taken);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::borrow::Borrow<str> for SliceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "is empty"),
            Self::Long => write!(f, "is longer than {LONGEST} characters"),
            Self::Start => write!(f, "does not begin with a letter"),
            Self::Character(c) => write!(f, "has the character {c:?}"),
            Self::Taken => write!(f, "means something else on every node"),
        }
    }
}

impl std::error::Error for BadName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_pattern() {
        for good in ["a", "alpha", "a_1", &"a".repeat(31)] {
            assert_eq!(SliceName::new(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", BadName::Empty),
            ("Alpha", BadName::Character('A')),
            ("1a", BadName::Start),
            ("_a", BadName::Start),
            ("a-b", BadName::Character('-')),
            ("ä", BadName::Character('ä')),
            (&"a".repeat(32), BadName::Long),
            ("node", BadName::Taken),
            ("all", BadName::Taken),
            ("unattributed", BadName::Taken),
        ] {
            assert_eq!(SliceName::new(bad), Err(why), "{bad}");
        }
    }
}
