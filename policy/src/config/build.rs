//! From checked values to [`Node`] and [`Slice`]: defaults, and rules between keys.

use super::error::Complaint;
use super::fields::Fields;
use super::keys::{self, TableDef, Takes};
use super::name::SliceName;
use super::source::{At, Place};
use super::units::{BitsPerSecond, Bytes, MilliCores, Nanoseconds};
use super::{
    Context, Cpu, Disk, Flows, Give, Grants, Io, Link, LinkTable, LinkTerms, Login, Memory, Node,
    OwnAddress, PortRange, Ports, Raw, Refusal, RefusedProtocol, Role, Slice, SliceLinks,
    SlicePorts, capability, control,
};
use crate::abi;

/// `node.toml`.
pub(super) fn node(fields: &Fields, complaints: &mut Vec<Complaint>) -> Node {
    let node = fields.table("node");
    let give = node.table("give");
    let file = &keys::NODE_FILE;
    let mut reserved = ports(&node.table("reserved"));
    let page = page(fields, &mut reserved);
    Node {
        max_slices: count(&node, file, "node", "max_slices"),
        uid_base: count(&node, file, "node", "uid_base"),
        uids_per_slice: count(&node, file, "node", "uids_per_slice"),
        linger: time(&node, file, "node", "linger"),
        events_per_second: count(&node, file, "node", "events_per_second").value,
        reserved,
        exclude: node.table("addresses").prefixes("exclude"),
        give: Give {
            cpu: give.cpu("cpu"),
            memory: give.size_or_part("memory"),
            processes: give.count("processes"),
            disk: give.size_or_part("disk"),
            disk_overcommit: give
                .flag("disk_overcommit")
                .is_some_and(|overcommit| overcommit.value),
        },
        links: links(fields, complaints),
        flows: flows(fields),
        page,
        refuse: refusals(fields, complaints),
    }
}

/// The port of the status page, which becomes one that the node keeps: a slice that
/// held it on all addresses would leave the daemon none.
fn page(fields: &Fields, reserved: &mut Ports) -> Option<u16> {
    let written = fields.table("status").count("page")?;
    let page = u16::try_from(written.value).ok()?;
    let range = PortRange::new(page, page).ok()?;
    if !reserved.tcp.iter().any(|kept| kept.value.contains(page)) {
        reserved.tcp.push(written.map(|_| range));
    }
    Some(page)
}

/// `[flows]` of `node.toml`.
fn flows(fields: &Fields) -> Flows {
    let (file, flows) = (&keys::NODE_FILE, fields.table("flows"));
    Flows {
        keep: time(&flows, file, "flows", "keep"),
        cap: flows.size("cap").map_or(
            match declared(file, "flows", "cap") {
                Some(Takes::Size {
                    default: Some(cap), ..
                }) => Bytes(*cap),
                _ => Bytes(0),
            },
            |cap| cap.value,
        ),
    }
}

/// Every `[links.NAME]` of `node.toml`.
fn links(fields: &Fields, complaints: &mut Vec<Complaint>) -> Vec<Link> {
    let (file, table) = (&keys::NODE_FILE, "links.NAME");
    let tables = fields.devices("links");
    if let Some((name, one)) = tables.get(abi::LINKS as usize) {
        let message = format!(
            "{name} is one link too many: a node has at most {}",
            abi::LINKS
        );
        let help = "remove it: what is no uplink needs no table";
        complaints.push(Complaint::at(one.at, message, help));
    }
    let mut links: Vec<Link> = tables
        .into_iter()
        .filter_map(|(name, link)| {
            let node = LinkTerms {
                floor: link
                    .rate("node_floor")
                    .unwrap_or(At::default(BitsPerSecond(0))),
                share: count(&link, file, table, "node_share").value,
                cap: link.rate("node_cap"),
                quota: None,
                exempt_cap: None,
                packets: None,
                receive: None,
            };
            let whose = format!("of the node on {name}");
            cap_above_floor(&whose, node.floor, node.cap, complaints);
            Some(Link {
                // Without a rate it is complained about.
                rate: link.rate("rate")?,
                name: At::written(name, link.at),
                node,
                exempt: link.prefixes("exempt"),
            })
        })
        .collect();
    links.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    links
}

/// `[link]` and every `[links.NAME]` of a slice's file.
fn slice_links(fields: &Fields, complaints: &mut Vec<Complaint>) -> SliceLinks {
    let mut table = |title: &str, fields: &Fields| {
        let table = LinkTable {
            at: fields.at,
            floor: fields.rate("floor"),
            share: fields.count("share").map(|share| share.value),
            cap: fields.rate("cap"),
            quota: fields.size("quota").map(|limit| limit.value),
            quota_period: fields.time("quota_period"),
            exempt_cap: fields.rate("exempt_cap"),
            packets: fields.count("packets").map(|packets| packets.value),
            receive: fields.rate("receive").map(|rate| rate.value),
        };
        if let Some(floor) = table.floor {
            cap_above_floor(&format!("of {title}"), floor, table.cap, complaints);
        }
        table
    };
    let every = fields
        .has("link")
        .then(|| table("[link]", &fields.table("link")));
    let mut one: Vec<_> = fields
        .devices("links")
        .into_iter()
        .map(|(name, fields)| {
            let title = format!("[links.{}]", keys::quoted(name.as_str()));
            let table = table(&title, &fields);
            (name, table)
        })
        .collect();
    one.sort_by(|(a, _), (b, _)| a.cmp(b));
    let links = SliceLinks { every, one };
    complaints.extend(period_of_nothing(&links));
    links
}

/// Who names a period believes that there is a quota.
fn period_of_nothing(links: &SliceLinks) -> Option<Complaint> {
    let every = links.every.filter(|_| links.one.is_empty());
    let has = |table: &LinkTable| table.quota.is_some();
    let table = links
        .one
        .iter()
        .map(|(_, table)| table)
        .filter(|_| !links.every.is_some_and(|table| has(&table)))
        .chain(&every)
        .find(|table| table.quota_period.is_some() && !has(table))?;
    let message = "`quota_period` without `quota`: there is nothing to last so long";
    let help = "add for example `quota = \"100 GB\"`, or remove `quota_period`";
    Some(Complaint::maybe_at(table.quota_period?.at, message, help))
}

/// `slices/NAME.toml`.
pub(super) fn slice(
    fields: &Fields,
    name: At<SliceName>,
    complaints: &mut Vec<Complaint>,
) -> Slice {
    let file = &keys::SLICE_FILE;
    let (own_ports, address) = (fields.table("ports"), fields.table("address"));
    let (cpu, memory) = (fields.table("cpu"), fields.table("memory"));
    let (disk, io) = (fields.table("disk"), fields.table("io"));
    let cpu = Cpu {
        floor: cpu.cpu("floor").unwrap_or(At::default(MilliCores(0))),
        share: count(&cpu, file, "cpu", "share").value,
        cap: cpu.cpu("cap"),
    };
    let memory = Memory {
        floor: memory.size("floor").unwrap_or(At::default(Bytes(0))),
        cap: memory.size("cap"),
    };
    cap_above_floor("of [cpu]", cpu.floor, cpu.cap, complaints);
    cap_above_floor("of [memory]", memory.floor, memory.cap, complaints);
    let stem = name.value.to_string();
    let address = OwnAddress {
        ipv4: address.ipv4("ipv4"),
        ipv6: address.ipv6("ipv6"),
    };
    let links = slice_links(fields, complaints);
    let grants = grants(fields, complaints);
    let control = control::build(fields, grants, (&address, &links), complaints);
    Slice {
        name,
        description: fields.text("description").map(|text| text.value),
        role: role(fields),
        grants,
        sockets: count(fields, file, "", "sockets").value,
        connections: fields.count("connections").map(|most| most.value),
        connections_per_second: count(fields, file, "", "connections_per_second").value,
        events_per_second: count(fields, file, "", "events_per_second").value,
        processes: count(fields, file, "", "processes").value,
        ports: SlicePorts {
            reserved: ports(&own_ports),
            raw: raw_ports(&own_ports, fields, complaints),
            claim: own_ports.flag("claim").is_none_or(|claim| claim.value),
            claims: count(&own_ports, file, "ports", "claims").value,
        },
        address,
        cpu,
        memory,
        disk: Disk {
            cap: disk.size("cap"),
            inodes: disk.count("inodes"),
        },
        io: Io {
            weight: io.count("weight"),
            read: io.size("read"),
            write: io.size("write"),
            read_operations: io.count("read_operations"),
            write_operations: io.count("write_operations"),
        },
        links,
        refuse: refusals(fields, complaints),
        context: fields
            .has("context")
            .then(|| context(&fields.table("context"), &stem, complaints))
            .flatten(),
        login: login(fields, complaints),
        raw: raw(fields, complaints),
        control,
        controller: None,
    }
}

fn role(fields: &Fields) -> Role {
    match fields.word("role").map(|word| word.value) {
        Some("management") => Role::Management,
        _ => Role::Slice,
    }
}

/// `grants`, which tenants do not have.
fn grants(fields: &Fields, complaints: &mut Vec<Complaint>) -> Grants {
    let Some(words) = fields
        .words("grants")
        .filter(|words| !words.value.is_empty())
    else {
        return Grants::default();
    };
    if role(fields) != Role::Management {
        let message = "`grants` in a slice that is no management slice";
        let help = "add `role = \"management\"`, or remove `grants`";
        complaints.push(Complaint::maybe_at(words.at, message, help));
    }
    let has = |grant| words.value.contains(&grant);
    let (audit, control, status) = (has("audit"), has("control"), has("status"));
    let without = [
        (
            audit,
            "the grant `audit` without [context]: nobody makes the stream of packets",
        ),
        (
            control,
            "the grant `control` without [context]: there is no /run/slice/status.sock",
        ),
        (
            status,
            "the grant `status` without [context]: there is no /run/slice/status.sock",
        ),
    ];
    for (_, message) in without.into_iter().filter(|(granted, _)| *granted) {
        if !fields.has("context") {
            let help = "add [context] with an `image`, or remove the grant";
            complaints.push(Complaint::maybe_at(words.at, message, help));
        }
    }
    Grants {
        audit,
        control,
        status,
    }
}

/// `raw`, which needs a first process that the calls of the others come from.
fn raw(fields: &Fields, complaints: &mut Vec<Complaint>) -> Raw {
    let Some(word) = fields.word("raw").filter(|word| word.value == "safe") else {
        return Raw::None;
    };
    if !fields.has("context") {
        let message = "`raw = \"safe\"` without [context]: nobody makes the sockets";
        let help = "add [context] with an `image`, or remove `raw`";
        complaints.push(Complaint::maybe_at(word.at, message, help));
    }
    Raw::Safe
}

/// `raw_tcp` and `raw_udp`, which need raw sockets to speak through.
fn raw_ports(own: &Fields, fields: &Fields, complaints: &mut Vec<Complaint>) -> Ports {
    let ports = Ports {
        tcp: own.ports("raw_tcp"),
        udp: own.ports("raw_udp"),
    };
    let first = ports.tcp.first().map(|range| ("raw_tcp", range.at));
    let first = first.or(ports.udp.first().map(|range| ("raw_udp", range.at)));
    let safe = fields.word("raw").is_some_and(|word| word.value == "safe");
    if let Some((key, at)) = first
        && !safe
    {
        let message = format!("`{key}` without `raw = \"safe\"`: nobody speaks on the port");
        let help =
            "add `raw = \"safe\"` at the top of the file, or reserve the port with `tcp` or `udp`";
        complaints.push(Complaint::maybe_at(at, message, help));
    }
    ports
}

/// `[login]`, which needs somewhere to log in to.
fn login(fields: &Fields, complaints: &mut Vec<Complaint>) -> Login {
    let login = fields.table("login");
    let keys = |key| login.public_keys(key).map(|keys| keys.value);
    let login_of = Login {
        keys: keys("keys").unwrap_or_default(),
        authorities: keys("authorities").unwrap_or_default(),
    };
    if fields.has("login") && !fields.has("context") {
        let message = "[login] without [context]: there is nothing to log in to";
        let help = "add [context] with an `image`, or remove [login]";
        complaints.push(Complaint::at(login.at, message, help));
    }
    login_of
}

/// `[context]`; none without an image, which is complained about.
fn context(fields: &Fields, slice: &str, complaints: &mut Vec<Complaint>) -> Option<Context> {
    let file = &keys::SLICE_FILE;
    let Some(image) = fields.name("image") else {
        let image = Complaint::at(
            fields.at,
            "[context] has no `image`",
            "add for example `image = \"debian\"`; `slice image list` tells which there are",
        );
        complaints.push(image);
        return None;
    };
    let flag = |key| fields.flag(key).map(|flag| flag.value);
    Some(Context {
        image,
        hostname: fields
            .name("hostname")
            .map_or_else(|| slice.to_owned(), |name| name.value.to_string()),
        autostart: flag("autostart").unwrap_or(true),
        nested: flag("nested").unwrap_or(false),
        stop_after: time(fields, file, "context", "stop_after"),
        capabilities: fields
            .words("capabilities")
            .map_or_else(|| capability::default().collect(), |words| words.value),
    })
}

pub(crate) fn cap_above_floor<T: Ord + Copy + std::fmt::Display>(
    whose: &str,
    floor: At<T>,
    cap: Option<At<T>>,
    complaints: &mut Vec<Complaint>,
) {
    if let Some(cap) = cap
        && cap.value < floor.value
    {
        let message = format!(
            "the cap {whose} ({}) is below its floor ({})",
            cap.value, floor.value
        );
        let help = "raise the cap, or lower the floor";
        complaints
            .push(Complaint::maybe_at(cap.at, message, help).with_other(floor.at, "the floor"));
    }
}

fn ports(fields: &Fields) -> Ports {
    Ports {
        tcp: fields.ports("tcp"),
        udp: fields.ports("udp"),
    }
}

fn refusals(fields: &Fields, complaints: &mut Vec<Complaint>) -> Vec<Refusal> {
    let tables = fields.tables("refuse");
    let refusals: Vec<Refusal> = tables.iter().map(refusal).collect();
    for refusal in &refusals {
        for except in &refusal.except {
            let inside = refusal.to.iter().any(|to| to.value.covers(except.value));
            if !inside && !refusal.to.is_empty() {
                let message = format!("the exception {} lies in none of `to`", except.value);
                let help = "remove it: what is not refused needs no exception";
                let other = refusal.to.first().and_then(|to| to.at);
                let complaint = Complaint::maybe_at(except.at, message, help);
                complaints.push(complaint.with_other(other, "refused here"));
            }
        }
    }
    refusals
}

fn refusal(fields: &Fields) -> Refusal {
    Refusal {
        at: fields.at,
        to: fields.prefixes("to"),
        except: fields.prefixes("except"),
        protocol: match fields.word("protocol").map(|word| word.value) {
            Some("tcp") => RefusedProtocol::Tcp,
            Some("udp") => RefusedProtocol::Udp,
            _ => RefusedProtocol::Any,
        },
        ports: fields.ports("ports"),
    }
}

/// A count as written, or its declared default.
pub(super) fn count(fields: &Fields, file: &'static TableDef, table: &str, key: &str) -> At<u32> {
    fields
        .count(key)
        .unwrap_or(match declared(file, table, key) {
            Some(Takes::Count { default, .. }) => At::default(*default),
            _ => At::default(0),
        })
}

fn time(fields: &Fields, file: &'static TableDef, table: &str, key: &str) -> Nanoseconds {
    fields.time(key).map_or(
        match declared(file, table, key) {
            Some(Takes::Time { default, .. }) => Nanoseconds(*default),
            _ => Nanoseconds(0),
        },
        |time| time.value,
    )
}

fn declared(file: &'static TableDef, table: &str, key: &str) -> Option<&'static Takes> {
    let table = file.tables().into_iter().find(|def| def.path == table)?;
    table.key(key).map(|key| &key.takes)
}

/// The name a slice has: its file's, which the key `name` may only confirm.
pub(super) fn slice_name(
    stem: &str,
    fields: &Fields,
    file: usize,
    known: &dyn Fn(&str) -> bool,
    complaints: &mut Vec<Complaint>,
) -> Option<At<SliceName>> {
    let top = Place::top(file);
    let written = fields.name("name");
    let at = written.as_ref().and_then(|name| name.at).unwrap_or(top);
    let name = match SliceName::new(stem) {
        Ok(name) => name,
        Err(bad) => {
            let message = format!("the file's name \"{stem}\" {bad}");
            complaints.push(Complaint::at(
                top,
                message,
                format!("rename the file: {}", super::read::NAME_HELP),
            ));
            return None;
        }
    };
    if let Some(written) = written
        && written.value != name
    {
        let message = format!(
            "the slice is named \"{}\" in a file named \"{stem}.toml\"",
            written.value
        );
        let help = format!(
            "rename the file to {}.toml, or write `name = \"{stem}\"`",
            written.value
        );
        complaints.push(Complaint::at(at, message, help));
    }
    if known(stem) {
        let message = format!("the node already has an account or group named \"{stem}\"");
        let help = "choose another name: a slice must not be mistaken for an account of the node";
        complaints.push(Complaint::at(at, message, help));
    }
    Some(At::written(name, at))
}
