//! The peer that can tell whose a packet is too, by the cgroup of its socket: it
//! attributes, counts and polices the packets of many slices, in the best form
//! it has. One look-up in a verdict map keyed by the cgroup jumps to the slice's
//! own chain; there the source address and a refused port are checked and the
//! packet is counted.

use anyhow::{Context, Result};

use super::loaded::Direction;
use super::wire;

/// The rules of nftables, in no hook; gone when dropped.
pub struct Rules {
    slices: u32,
}

/// The two chains that send each packet to its slice's chain.
const HOOKS: &str = "\
add chain inet slice-bench output { type filter hook output priority 0; }
add chain inet slice-bench input { type filter hook input priority 0; }
add rule inet slice-bench output socket cgroupv2 level 2 vmap @out
add rule inet slice-bench input socket cgroupv2 level 2 vmap @in
";
const NO_HOOKS: &str = "\
delete chain inet slice-bench output
delete chain inet slice-bench input
";

impl Rules {
    /// Rules for `slices` slices with the cgroups `PARENT/s1`, `PARENT/s2` and
    /// so on.
    ///
    /// # Errors
    /// nft refuses them.
    pub fn new(parent: &str, slices: u32) -> Result<Rules> {
        let rules = Rules { slices };
        let mut text = String::from("table inet slice-bench {\n");
        for slice in 1..=slices {
            text += &format!(
                "chain o{slice} {{ ip saddr != {{ 127.0.0.0/8, 192.0.2.1 }} drop; \
                 tcp dport 25 drop; counter accept; }}\nchain i{slice} {{ counter accept; }}\n"
            );
        }
        for (map, chain) in [("out", 'o'), ("in", 'i')] {
            let elements: Vec<String> = (1..=slices)
                .map(|slice| format!("\"{parent}/s{slice}\" : goto {chain}{slice}"))
                .collect();
            let elements = elements.join(",\n");
            text +=
                &format!("map {map} {{ type cgroupsv2 : verdict; elements = {{ {elements} }} }}\n");
        }
        text += "}\n";
        nft(&text)?;
        Ok(rules)
    }

    /// Lets them judge.
    ///
    /// # Errors
    /// nft's.
    pub fn hook(&self) -> Result<()> {
        nft(HOOKS)
    }

    /// No longer.
    ///
    /// # Errors
    /// nft's.
    pub fn unhook(&self) -> Result<()> {
        nft(NO_HOOKS)
    }

    /// Packets in the counter of the last slice's chain.
    ///
    /// # Errors
    /// nft's, or it has no counter.
    pub fn counted(&self, direction: Direction) -> Result<u64> {
        let chain = if direction == Direction::Out {
            'o'
        } else {
            'i'
        };
        let text = wire::run(&format!(
            "nft list chain inet slice-bench {chain}{}",
            self.slices
        ))?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words
            .iter()
            .position(|word| *word == "packets")
            .context("find the counter")?;
        let number = words.get(at + 1).context("find the counter's number")?;
        number.parse().with_context(|| format!("read {number}"))
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        let _ = nft("delete table inet slice-bench");
    }
}

fn nft(text: &str) -> Result<()> {
    wire::feed("nft", &["-f", "-"], text)
}
