//! What is left of what a controller may lend; each slice takes its part of it or is refused, by the key,
//! the resource and by how much.

use std::collections::BTreeMap;

use crate::config::units::{BitsPerSecond, Bytes, MilliCores};
use crate::config::{Control, Objection, PortRange, PortSet, Raw, Slice, SliceName, Terms};

/// Something of which there is a sum.
struct Resource {
    field: &'static str,
    what: &'static str,
    /// All that there is; none: no bound.
    pool: fn(&Control) -> Option<u64>,
    /// What a slice asks for.
    of: fn(&Terms) -> Option<u64>,
    print: fn(u64) -> String,
}

const RESOURCES: [Resource; 9] = [
    Resource {
        field: "cpu.floor",
        what: "CPU time",
        pool: |control| Some(control.cpu.0),
        of: |terms| Some(terms.cpu_floor),
        print: |steps| MilliCores(steps).to_string(),
    },
    Resource {
        field: "cpu.cap",
        what: "CPU time",
        pool: |control| control.cpu_cap.map(|cap| cap.0),
        of: |terms| terms.cpu_cap,
        print: |steps| MilliCores(steps).to_string(),
    },
    Resource {
        field: "memory.floor",
        what: "memory",
        pool: |control| Some(control.memory.0),
        of: |terms| Some(terms.memory_floor),
        print: |bytes| Bytes(bytes).to_string(),
    },
    Resource {
        field: "memory.cap",
        what: "memory",
        pool: |control| control.memory_cap.map(|cap| cap.0),
        of: |terms| terms.memory_cap,
        print: |bytes| Bytes(bytes).to_string(),
    },
    Resource {
        field: "disk.cap",
        what: "the disk",
        pool: |control| control.disk.map(|disk| disk.0),
        of: |terms| terms.disk_cap,
        print: |bytes| Bytes(bytes).to_string(),
    },
    Resource {
        field: "link.floor",
        what: "each link",
        pool: |control| Some(control.link.0),
        of: |terms| Some(terms.link_floor),
        print: |bits| BitsPerSecond(bits).to_string(),
    },
    Resource {
        field: "link.cap",
        what: "each link",
        pool: |control| control.link_cap.map(|cap| cap.0),
        of: |terms| terms.link_cap,
        print: |bits| BitsPerSecond(bits).to_string(),
    },
    Resource {
        field: "link.packets",
        what: "packets in a second on each link",
        pool: |control| control.link_packets.map(u64::from),
        of: |terms| terms.link_packets.map(u64::from),
        print: |packets| packets.to_string(),
    },
    Resource {
        field: "link.receive",
        what: "what arrives by each link",
        pool: |control| control.link_receive.map(|rate| rate.0),
        of: |terms| terms.link_receive,
        print: |bits| BitsPerSecond(bits).to_string(),
    },
];

/// What a controller has left to lend.
#[derive(Clone, Debug)]
pub struct Room<'a> {
    pub(super) controller: &'a Slice,
    pub(super) control: &'a Control,
    slices: u32,
    pub(super) tcp: PortSet,
    pub(super) udp: PortSet,
    left: [Option<u64>; RESOURCES.len()],
}

impl<'a> Room<'a> {
    /// All of it; none of a slice that controls nothing.
    #[must_use]
    pub fn of(controller: &'a Slice) -> Option<Self> {
        let control = controller.control.as_ref()?;
        Some(Self {
            controller,
            control,
            slices: control.slices,
            tcp: control.ports.tcp_set(),
            udp: control.ports.udp_set(),
            left: RESOURCES
                .each_ref()
                .map(|resource| (resource.pool)(control)),
        })
    }

    /// What is left: the keys of [`Terms`] with what there was and is, as people read it.
    #[must_use]
    pub fn left(&self) -> BTreeMap<&'static str, [Option<String>; 2]> {
        let sums = RESOURCES.iter().zip(self.left).map(|(resource, left)| {
            let had = (resource.pool)(self.control);
            (
                resource.field,
                [had, left].map(|sum| sum.map(resource.print)),
            )
        });
        let ports = [
            ("ports.tcp", self.control.ports.tcp_set(), &self.tcp),
            ("ports.udp", self.control.ports.udp_set(), &self.udp),
        ];
        let ports = ports
            .map(|(field, had, left)| (field, [Some(had.to_string()), Some(left.to_string())]));
        let slices = [self.control.slices, self.slices].map(|count| Some(count.to_string()));
        sums.chain(ports).chain([("slices", slices)]).collect()
    }

    /// Lends to a slice what it asks for, all of it or nothing.
    ///
    /// # Errors
    /// Everything that it may not have.
    pub fn take(&mut self, name: &SliceName, terms: &Terms) -> Result<(), Vec<Objection>> {
        let mut wrong = terms.faults();
        let who = &self.controller.name.value;
        let mut object = |field: &str, message: String| wrong.push(Objection::new(field, message));
        let prefix = self.control.prefix.as_str();
        if name.as_str().strip_prefix(prefix).is_none_or(str::is_empty) {
            object(
                "name",
                format!("the slices of {who} have names that begin with {prefix}"),
            );
        }
        if self.slices == 0 {
            let most = self.control.slices;
            object(
                "",
                format!("one slice too many: [control] of {who} allows {most}"),
            );
        }
        let own = self
            .controller
            .context
            .as_ref()
            .map(|context| &context.image.value);
        let images = &self.control.images;
        let mut images = images.iter().chain(own.filter(|_| images.is_empty()));
        if !images.any(|image| image.as_str() == terms.image) {
            object(
                "context.image",
                format!("{who} may not lend the image {}", terms.image),
            );
        }
        if terms.raw && self.controller.raw != Raw::Safe {
            object("raw", format!("{who} has no raw sockets itself"));
        }
        let most = self.controller.processes;
        if let Some(over) = terms.processes.and_then(|count| count.checked_sub(most))
            && over > 0
        {
            object(
                "processes",
                format!("{over} more than {who} may have itself ({most})"),
            );
        }
        for (resource, left) in RESOURCES.iter().zip(self.left) {
            let Some(left) = left else {
                if resource.field == "disk.cap" && terms.disk_cap.is_some() {
                    object(
                        resource.field,
                        format!("[control] of {who} lends nothing of the disk"),
                    );
                }
                continue;
            };
            let print = resource.print;
            let has = (resource.pool)(self.control).unwrap_or(0);
            match (resource.of)(terms) {
                None => object(
                    resource.field,
                    format!(
                        "must be there: the slices of {who} have {} of {} together, of which {} are left",
                        print(has),
                        resource.what,
                        print(left)
                    ),
                ),
                Some(asked) if asked > left => object(
                    resource.field,
                    format!(
                        "{} of {} is {} too much: [control] of {who} has {}, of which {} are left",
                        print(asked),
                        resource.what,
                        print(asked - left),
                        print(has),
                        print(left)
                    ),
                ),
                Some(_) => {}
            }
        }
        let (tcp, udp) = (set(&terms.tcp), set(&terms.udp));
        for (field, protocol, asked, left) in [
            ("ports.tcp", "TCP", &tcp, &self.tcp),
            ("ports.udp", "UDP", &udp, &self.udp),
        ] {
            let over = asked.difference(left);
            if !over.is_empty() {
                object(
                    field,
                    format!("{protocol} port {over} is not {who}'s to lend, or lent already"),
                );
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        self.slices -= 1;
        self.tcp = self.tcp.difference(&tcp);
        self.udp = self.udp.difference(&udp);
        for (resource, left) in RESOURCES.iter().zip(&mut self.left) {
            if let (Some(left), Some(asked)) = (left, (resource.of)(terms)) {
                *left -= asked;
            }
        }
        Ok(())
    }
}

/// The ports of these ranges; what is none is left out.
pub(super) fn set(ranges: &[(u16, u16)]) -> PortSet {
    ranges
        .iter()
        .filter_map(|(low, high)| PortRange::new(*low, *high).ok())
        .collect()
}
