//! What is told of slices that slices make, and what is asked for: the keys of a slice's file, so that
//! what was told of a slice can be asked for again.

use policy::config::units::{BitsPerSecond, Bytes, MilliCores};
use serde::{Deserialize, Serialize};

use crate::node::control;

/// What a slice that another makes may ask for: keys of its file (policy.md). What is absent is as for
/// a slice whose file does not say it, or as its controller has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    /// Its name, where the path does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A line for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Most processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// `safe` for raw and packet sockets, else `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// Reserved ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// CPU time, such as "1.5 cores".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Bounds>,
    /// Memory, such as "64 MiB".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bounds>,
    /// Its disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// Each link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<OnLink>,
    /// Its root and its first process; a slice that is made must have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
    /// Who logs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
}

/// Ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Ports {
    /// Of TCP.
    pub tcp: Vec<Port>,
    /// Of UDP.
    pub udp: Vec<Port>,
}

/// A port, or a range such as "20000-20009".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Port {
    /// One.
    One(u16),
    /// Several.
    Range(String),
}

/// Floor and cap, as in a slice's file: text with a unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Guaranteed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    /// Never more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<String>,
}

/// The disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// Never more, such as "1 GiB".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<String>,
}

/// Each link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct OnLink {
    /// Guaranteed, such as "1 Mbit/s".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    /// Never more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<String>,
    /// Never more packets in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u32>,
    /// Of what arrives, never more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive: Option<String>,
}

/// Root and first process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Context {
    /// Name of the image that it begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Host name inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Whether it starts when it is made, and with the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
}

/// Who logs in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Login {
    /// Public keys of OpenSSH.
    pub keys: Vec<String>,
}

/// A slice as its controller is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// Its id; null where it is not in force.
    pub id: Option<u32>,
    /// Who made it.
    pub controller: String,
    /// Another after each change; the tag of the answer.
    pub generation: u64,
    /// Whether it is in force; else the node's owner gave its controller less since.
    pub in_force: bool,
    /// Whether its context runs.
    pub running: bool,
    /// What it was given.
    pub terms: Terms,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Done {
    /// Whether anything was done.
    pub changed: bool,
    /// The slice; null where it is gone.
    pub slice: Option<Slice>,
    /// What did not go as it should: that it does not start, for example.
    pub warnings: Vec<String>,
}

/// `/v1/control`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Control {
    /// The slices that the asker made, by name.
    pub slices: Vec<Slice>,
    /// What it has to lend, by key.
    pub lends: Vec<Lends>,
}

/// Something to lend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Lends {
    /// The key, as `memory.floor`; `slices` for how many.
    pub key: String,
    /// All that there is; null where nothing bounds it.
    pub limit: Option<String>,
    /// What is left of that.
    pub left: Option<String>,
}

impl From<&policy::config::Terms> for Terms {
    fn from(terms: &policy::config::Terms) -> Self {
        let ports = |ranges: &[(u16, u16)]| {
            let one = |(low, high): &(u16, u16)| match low == high {
                true => Port::One(*low),
                false => Port::Range(format!("{low}-{high}")),
            };
            ranges.iter().map(one).collect()
        };
        let some = |value: u64| (value > 0).then_some(value);
        let cores = |value: u64| MilliCores(value).to_string();
        let bytes = |value: u64| Bytes(value).to_string();
        let rate = |value: u64| BitsPerSecond(value).to_string();
        Self {
            name: None,
            description: terms.description.clone(),
            processes: terms.processes,
            raw: terms.raw.then(|| "safe".to_owned()),
            ports: Some(Ports {
                tcp: ports(&terms.tcp),
                udp: ports(&terms.udp),
            }),
            cpu: Some(Bounds {
                floor: some(terms.cpu_floor).map(cores),
                cap: terms.cpu_cap.map(cores),
            }),
            memory: Some(Bounds {
                floor: some(terms.memory_floor).map(bytes),
                cap: terms.memory_cap.map(bytes),
            }),
            disk: Some(Disk {
                cap: terms.disk_cap.map(bytes),
            }),
            link: Some(OnLink {
                floor: some(terms.link_floor).map(rate),
                cap: terms.link_cap.map(rate),
                packets: terms.link_packets,
                receive: terms.link_receive.map(rate),
            }),
            context: Some(Context {
                image: Some(terms.image.clone()),
                hostname: Some(terms.hostname.clone()),
                autostart: Some(terms.autostart),
            }),
            login: Some(Login {
                keys: terms.keys.clone(),
            }),
        }
    }
}

impl From<control::Shown> for Slice {
    fn from(shown: control::Shown) -> Self {
        Self {
            terms: Terms::from(&shown.terms),
            name: shown.name,
            id: shown.id,
            controller: shown.controller,
            generation: shown.generation,
            in_force: shown.in_force,
            running: shown.running,
        }
    }
}

impl From<control::Done> for Done {
    fn from(done: control::Done) -> Self {
        Self {
            changed: done.changed,
            slice: done.slice.map(Slice::from),
            warnings: done.warnings,
        }
    }
}

impl From<control::Listed> for Control {
    fn from(listed: control::Listed) -> Self {
        let lends = listed.lends.into_iter();
        Self {
            slices: listed.slices.into_iter().map(Slice::from).collect(),
            lends: lends
                .map(|(key, [limit, left])| Lends {
                    key: key.to_owned(),
                    limit,
                    left,
                })
                .collect(),
        }
    }
}
