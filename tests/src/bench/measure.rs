//! The line that every bench prints; `xtask` compiles this same file.

use serde::{Deserialize, Serialize};

/// One measure: ours, a peer's in the same run, and what is to be reached.
/// Serialized as one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Name of the bench, such as `ports`.
    pub bench: String,
    /// What was measured, such as `packet out, 10000 slices`.
    pub measure: String,
    /// Unit of `ours` and `peer`, such as `ns` or `Mbit/s`.
    pub unit: String,
    /// Median of our repeats; `None` where it could not be measured.
    pub ours: Option<f64>,
    /// Median of the peer's repeats, interleaved with ours.
    pub peer: Option<f64>,
    /// What the peer is.
    pub peer_name: Option<String>,
    /// `ours / peer`.
    pub ratio: Option<f64>,
    /// What is to be reached, in words: `at most 150`.
    pub goal: Option<String>,
    /// Whether it was; `None` where it could not be measured or has no goal.
    pub met: Option<bool>,
    /// Why `met` is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Release of the kernel that was measured on.
    pub kernel: String,
    /// Least and greatest of our repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<(f64, f64)>,
    /// Least and greatest of the peer's repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_spread: Option<(f64, f64)>,
}
