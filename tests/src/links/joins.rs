//! Slices that begin and end all the time beside one that relies on its floor.

use anyhow::{Result, ensure};

use super::crowd::{Crowd, FIRST};
use super::wiretap::Wiretap;
use crate::beyond::Beyond;
use crate::node::Node;
use crate::site::Site;

/// Millions of bits a second of the link.
const RATE: f64 = 20.0;

/// All but the first begin or rest, one each 100 ms, by TCP and by datagrams.
pub fn keep_the_floor(node: &mut Node) -> Result<()> {
    const FLOOR: f64 = 8.0;
    let beyond = Beyond::open(node)?;
    let mut files = vec![
        (
            "node.toml".to_owned(),
            format!("[links.wire1]\nrate = \"{RATE} Mbit/s\"\n"),
        ),
        (
            "slices/s0.toml".to_owned(),
            format!("[link]\nfloor = \"{FLOOR} Mbit/s\"\n"),
        ),
        (
            "slices/s1.toml".to_owned(),
            "[link]\nshare = 5\n".to_owned(),
        ),
    ];
    files.extend((2..10).map(|number| (format!("slices/s{number}.toml"), String::new())));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (&**name, &**text))
        .collect();
    let site = Site::up(node, &files)?;
    let crowd = Crowd {
        site: &site,
        beyond: &beyond,
        slices: (0..10).map(|number| format!("s{number}")).collect(),
        datagrams: Some(4.0),
        turns: Some(100),
    };
    let window = [2.0, 60.0];
    let wiretap = Wiretap::start(&site, &beyond, FIRST)?;
    crowd.sends(window, |_| Ok(()))?;
    let seen = crowd.seen_of_packets(&wiretap.end()?, window)?;
    // Where the machine stands still nobody gets anything, and what waited leaves at once:
    // of that there is little. On a quiet one no window is below.
    let windows = seen.windows(0, 200);
    let full = |all: f64| all >= 0.95 * RATE;
    let below = |[floor, all]: &&[f64; 2]| *floor < 0.95 * FLOOR && full(*all);
    let below = windows.iter().filter(below).count();
    let idle = windows.iter().filter(|[_, all]| !full(*all)).count();
    let over = seen.windows(0, 100);
    let over = over.iter().filter(|[_, all]| *all > 1.1 * RATE).count();
    let rates = seen.rates([0.0, window[1]]);
    let all: f64 = rates.iter().sum();
    let per_cent = |count: usize| count as f64 * 100.0 / windows.len() as f64;
    let told = format!(
        "{rates:.2?}, {all:.2} in all; of the windows of 200 ms {:.2} % below the floor, {:.1} % \
         not full; of those of 100 ms {:.1} % over",
        per_cent(below),
        per_cent(idle),
        per_cent(over)
    );
    println!("{told}");
    ensure!(rates[0] >= FLOOR && all <= 1.01 * RATE, "{told}");
    ensure!(per_cent(below) <= 3.0 && per_cent(over) <= 10.0, "{told}");
    Ok(())
}
