//! A link that hundreds of slices send on.

use anyhow::{Context, Result, ensure};

use super::ATTEMPTS;
use super::crowd::Crowd;
use crate::beyond::Beyond;
use crate::node::Node;
use crate::site::Site;

/// Millions of bits a second of the link.
const RATE: f64 = 20.0;

/// One has a floor, and one a larger share.
pub fn of_two_hundred(node: &mut Node) -> Result<()> {
    const MANY: usize = 200;
    const FLOOR: f64 = 2.0;
    const SHARE: f64 = 10.0;
    const WITHIN: f64 = 0.1;
    let beyond = Beyond::open(node)?;
    let site = Site::new(
        node,
        &[(
            "node.toml",
            &format!("[node]\nmax_slices = {MANY}\n[links.wire1]\nrate = \"{RATE} Mbit/s\"\n"),
        )],
    )?;
    let slices: Vec<String> = (0..MANY).map(|number| format!("s{number}")).collect();
    for (number, slice) in slices.iter().enumerate() {
        let text = match number {
            0 => format!("[link]\nfloor = \"{FLOOR} Mbit/s\"\n"),
            2 => format!("[link]\nshare = {SHARE}\n"),
            _ => String::new(),
        };
        site.write(&format!("slices/{slice}.toml"), &text)?;
    }
    site.must(&["up"])?;
    let one = (RATE - FLOOR) / (MANY as f64 - 1.0 + SHARE);
    let ideal = |number: usize| match number {
        0 => FLOOR + one,
        2 => SHARE * one,
        _ => one,
    };
    let crowd = Crowd {
        site: &site,
        beyond: &beyond,
        slices,
        // A machine that is emulated has better to do than to refuse datagrams.
        datagrams: Some(0.25),
        turns: None,
    };
    let mut worst = String::new();
    for _ in 0..ATTEMPTS {
        let seen = crowd.sends([4.0, 12.0], |_| Ok(()))?;
        let rates = seen.rates([0.0, 12.0]);
        let sum: f64 = rates.iter().sum();
        ensure!(sum <= 1.03 * RATE, "{sum} Mbit/s in all");
        let off = |(number, rate): (usize, &f64)| (rate * RATE / sum / ideal(number) - 1.0).abs();
        let off: Vec<f64> = rates.iter().enumerate().map(off).collect();
        let most = (0..MANY)
            .max_by(|a, b| off[*a].total_cmp(&off[*b]))
            .context("nobody")?;
        worst = format!(
            "s{most} has {:.4} of {:.4}, {sum:.2} in all",
            rates[most],
            ideal(most)
        );
        println!("{worst}");
        if off[most] <= WITHIN && sum >= 0.7 * RATE {
            site.must(&["down"])?;
            return Ok(());
        }
    }
    anyhow::bail!("{worst}")
}
