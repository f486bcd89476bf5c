//! The values of a table that passed their declarations.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::MemoryGive;
use super::device::DeviceName;
use super::name::SliceName;
use super::ports::PortRange;
use super::prefix::Prefix;
use super::public_key::PublicKey;
use super::source::{At, Place};
use super::units::{BitsPerSecond, Bytes, MilliCores, Nanoseconds};

/// A value that passed its declaration.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Count(u32),
    Size(Bytes),
    SizeOrPart(MemoryGive),
    Rate(BitsPerSecond),
    Time(Nanoseconds),
    Cpu(MilliCores),
    Flag(bool),
    Text(String),
    Word(&'static str),
    Words(Vec<&'static str>),
    PublicKeys(Vec<PublicKey>),
    Name(SliceName),
    Names(Vec<SliceName>),
    Ports(Vec<At<PortRange>>),
    Prefixes(Vec<At<Prefix>>),
    Ipv4(Ipv4Addr),
    Ipv6(Ipv6Addr),
    Table(Fields),
    Tables(Vec<Fields>),
    Devices(Vec<(DeviceName, Fields)>),
}

/// The values of one table that passed.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    /// Where the table stands.
    pub at: Place,
    values: BTreeMap<&'static str, At<Value>>,
}

macro_rules! take {
    ($($(#[$doc:meta])* $method:ident $variant:ident -> $type:ty;)*) => {$(
        $(#[$doc])*
        pub fn $method(&self, key: &str) -> Option<At<$type>> {
            match self.values.get(key) {
                Some(At { value: Value::$variant(value), at }) => {
                    Some(At { value: value.clone(), at: *at })
                }
                _ => None,
            }
        }
    )*};
}

impl Fields {
    /// A table at a place.
    pub fn new(at: Place, values: BTreeMap<&'static str, At<Value>>) -> Self {
        Self { at, values }
    }

    /// A table that nobody wrote.
    pub fn absent(at: Place) -> Self {
        Self {
            at,
            values: BTreeMap::new(),
        }
    }

    take! {
        count Count -> u32;
        size Size -> Bytes;
        size_or_part SizeOrPart -> MemoryGive;
        rate Rate -> BitsPerSecond;
        time Time -> Nanoseconds;
        cpu Cpu -> MilliCores;
        flag Flag -> bool;
        text Text -> String;
        word Word -> &'static str;
        words Words -> Vec<&'static str>;
        public_keys PublicKeys -> Vec<PublicKey>;
        name Name -> SliceName;
        names Names -> Vec<SliceName>;
        ipv4 Ipv4 -> Ipv4Addr;
        ipv6 Ipv6 -> Ipv6Addr;
    }

    /// Whether the key was written, and rightly.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The ranges of a list of ports.
    pub fn ports(&self, key: &str) -> Vec<At<PortRange>> {
        match self.values.get(key) {
            Some(At {
                value: Value::Ports(ports),
                ..
            }) => ports.clone(),
            _ => Vec::new(),
        }
    }

    /// A list of prefixes.
    pub fn prefixes(&self, key: &str) -> Vec<At<Prefix>> {
        match self.values.get(key) {
            Some(At {
                value: Value::Prefixes(prefixes),
                ..
            }) => prefixes.clone(),
            _ => Vec::new(),
        }
    }

    /// A table within this one.
    pub fn table(&self, key: &str) -> Self {
        match self.values.get(key) {
            Some(At {
                value: Value::Table(fields),
                ..
            }) => fields.clone(),
            _ => Self::absent(self.at),
        }
    }

    /// A list of tables.
    pub fn tables(&self, key: &str) -> Vec<Self> {
        match self.values.get(key) {
            Some(At {
                value: Value::Tables(tables),
                ..
            }) => tables.clone(),
            _ => Vec::new(),
        }
    }

    /// Tables by the names of devices, in the order of the file.
    pub fn devices(&self, key: &str) -> Vec<(DeviceName, Self)> {
        match self.values.get(key) {
            Some(At {
                value: Value::Devices(tables),
                ..
            }) => tables.clone(),
            _ => Vec::new(),
        }
    }
}
