//! The peer that divides rates, too: HTB with a class for each slice, the best that it can
//! be given: its part as the rate, the link or its cap as a ceiling, a quantum by its
//! share, and leaves that keep flows apart.

use std::fmt::Write as _;

use anyhow::Result;

use super::wire::feed;

/// Bytes that a class of share 1 takes at once of what is left over.
const QUANTUM: u32 = 1514;

/// What a slice has, in bits a second.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    pub rate: f64,
    pub ceiling: f64,
    pub share: u32,
}

/// By what a packet's class is known.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// The port that it goes to, the first class's first.
    Port(u16),
    /// The priority of its socket, which is the class's [`handle`]: no filter at all.
    Priority,
}

/// The number of the `at`th class, as sockets name it.
pub fn handle(at: usize) -> u32 {
    (1 << 16) | minor(at)
}

fn minor(at: usize) -> u32 {
    0x10 + u32::try_from(at).unwrap_or(0)
}

/// Makes the tree of a device of a rate, in bits a second, instead of what it had.
///
/// # Errors
/// tc refuses it.
pub fn tree(device: &str, rate: f64, classes: &[Class], by: By) -> Result<()> {
    let mut text = format!(
        "qdisc replace dev {device} root handle 1: htb default 10\n\
         class add dev {device} parent 1: classid 1:1 htb rate {rate}bit ceil {rate}bit\n"
    );
    for (at, class) in classes.iter().enumerate() {
        let minor = minor(at);
        let Class {
            rate,
            ceiling,
            share,
        } = class;
        let quantum = QUANTUM * share;
        write!(
            text,
            "class add dev {device} parent 1:1 classid 1:{minor:x} htb rate {rate:.0}bit \
             ceil {ceiling:.0}bit quantum {quantum}\n\
             qdisc add dev {device} parent 1:{minor:x} fq_codel\n"
        )?;
        if let By::Port(first) = by {
            let port = usize::from(first) + at;
            for protocol in ["tcp", "udp"] {
                writeln!(
                    text,
                    "filter add dev {device} parent 1: protocol ip flower ip_proto {protocol} \
                     dst_port {port} classid 1:{minor:x}"
                )?;
            }
        }
    }
    feed("tc", &["-batch", "-"], &text)
}
