//! The distribution that the VM runs, as a reference image: slices have roots
//! without a copy of anything.

use anyhow::Result;
use serde_json::Value;

use crate::node::Node;

/// The image's name.
pub const DEBIAN: &str = "debian";
/// The root of the distribution without what is mounted into it; the agent of
/// the VM mounts it, read-only.
pub const DISTRIBUTION: &str = "/mnt/debian";

/// Has the store refer to the distribution; it does so for the rest of the
/// boot.
///
/// # Errors
/// It cannot be imported.
pub fn debian(node: &Node) -> Result<()> {
    if versions(node, DEBIAN)?.is_empty() {
        let import = ["image", "import", DEBIAN, "--reference", DISTRIBUTION];
        node.must("slice", &import)?;
    }
    Ok(())
}

/// The versions of an image.
///
/// # Errors
/// `slice image list` fails.
pub fn versions(node: &Node, name: &str) -> Result<Vec<Value>> {
    let listed = node.must("slice", &["image", "list", "-o", "json"])?.stdout;
    let mut listed: Value = serde_json::from_str(&listed)?;
    let images = listed["images"].as_array_mut().map(std::mem::take);
    let mut images = images.unwrap_or_default();
    images.retain(|image| image["name"] == name);
    Ok(images)
}
