//! A plan as text.

use std::fmt;
use std::net::IpAddr;

use super::{Cgroup, DiskLimits, Plan};
use crate::abi::Address;

/// One entry per line, in the order of the maps: for snapshots, and for people who compare.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |address: &Address| std::net::Ipv6Addr::from(*address).to_canonical();
        let settings = &self.settings;
        writeln!(
            f,
            "SETTINGS rows={} level={} netns={} flags={} loopback={}-{} ephemeral={}-{} linger_ns={} tally_rows={}",
            settings.rows,
            settings.slices_level,
            settings.node_netns,
            settings.flags,
            settings.loopback_low,
            settings.loopback_high,
            settings.ephemeral_low,
            settings.ephemeral_high,
            settings.linger_ns,
            settings.tally_rows,
        )?;
        for (row, entry) in &self.slices {
            writeln!(
                f,
                "SLICES {row} id={} flags={} sockets={} claims={} connections={} connections_per_second={} events={} ipv4={} ipv6={} name={}",
                entry.id.0,
                entry.flags,
                entry.sockets_max,
                entry.claims_max,
                entry.connections_max,
                entry.connections_per_second,
                entry.events_per_second,
                std::net::Ipv4Addr::from(entry.own_ipv4),
                std::net::Ipv6Addr::from(entry.own_ipv6),
                String::from_utf8_lossy(&entry.name).trim_end_matches('\0'),
            )?;
        }
        for (index, entry) in &self.reserved {
            let protocol = if *index < 1 << 16 { "tcp" } else { "udp" };
            writeln!(
                f,
                "RESERVED {protocol} {} owner={} kind={}{}",
                index & 0xffff,
                entry.owner.0,
                entry.kind,
                if entry.raw() { " raw" } else { "" }
            )?;
        }
        for (key, entry) in &self.addresses {
            writeln!(
                f,
                "ADDRESSES {} owner={} kind={}",
                address(key),
                entry.owner.0,
                entry.kind
            )?;
        }
        for (key, ports) in &self.refused {
            let ranges: Vec<String> = ports
                .rules
                .iter()
                .take(ports.count as usize)
                .map(|rule| format!("{}:{}-{}", rule.protocol, rule.low, rule.high))
                .collect();
            let prefix = std::net::Ipv6Addr::from(key.address);
            writeln!(
                f,
                "REFUSED row={} {prefix}/{} [{}]",
                key.row,
                key.length,
                ranges.join(" ")
            )?;
        }
        for (number, link) in self.links.iter().enumerate() {
            let exempt = if link.exempt { " exempt" } else { "" };
            writeln!(f, "LINKS {number} {} rate={}{exempt}", link.name, link.rate)?;
        }
        for (at, knobs) in &self.knobs {
            writeln!(
                f,
                "KNOBS link={} row={}{} id={} floor={} share={} cap={} quota={}/{} packets={} receive={}",
                at.link,
                at.row,
                if at.exempt { " exempt" } else { "" },
                knobs.id.0,
                knobs.floor,
                knobs.share,
                knobs.cap,
                knobs.quota,
                knobs.period_ns,
                knobs.packets,
                knobs.receive
            )?;
        }
        for at in &self.exempt {
            let network = match at.address {
                [a, b, c, d, ..] if at.version == 4 => IpAddr::from([a, b, c, d]),
                address => IpAddr::from(address),
            };
            writeln!(f, "EXEMPT link={} {network}/{}", at.link, at.length)?;
        }
        for write in &self.cgroups {
            let cgroup = match &write.cgroup {
                Cgroup::Holder => String::from("."),
                Cgroup::Slices => String::from("slices"),
                Cgroup::Slice(name) => format!("slices/{name}"),
            };
            writeln!(f, "cgroup {cgroup}/{} {}", write.file, write.value)?;
        }
        for (id, limits) in self.disk.iter().filter(|(_, limits)| !limits.is_none()) {
            let DiskLimits { bytes, inodes } = limits;
            writeln!(f, "disk project={} bytes={bytes} inodes={inodes}", id.0)?;
        }
        writeln!(
            f,
            "sysctl net.ipv4.ip_local_reserved_ports {}",
            self.reserved_ports
        )
    }
}
