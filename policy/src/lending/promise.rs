//! What the node promises for a slice.

use crate::config::units::BitsPerSecond;
use crate::config::{At, Control, DeviceName, Slice};

/// What the node promises for a slice: its floors, its cap of the disk, and all that it sets aside to
/// lend. For a slice that another made it promises nothing more.
#[derive(Clone, Copy, Debug)]
pub struct Promise<'a>(&'a Slice);

impl Slice {
    /// What the node promises for it.
    #[must_use]
    pub const fn promise(&self) -> Promise<'_> {
        Promise(self)
    }
}

impl Promise<'_> {
    fn with(&self, own: At<u64>, pool: impl Fn(&Control) -> u64) -> At<u64> {
        if self.0.controller.is_some() {
            return At::default(0);
        }
        let Some(control) = &self.0.control else {
            return own;
        };
        let pool = pool(control);
        At {
            value: own.value.saturating_add(pool),
            at: own.at.or((pool > 0).then_some(control.at)),
        }
    }

    /// CPU time in thousandths of a core.
    #[must_use]
    pub fn cpu(&self) -> At<u64> {
        self.with(self.0.cpu.floor.map(|floor| floor.0), |control| {
            control.cpu.0
        })
    }

    /// Bytes of memory.
    #[must_use]
    pub fn memory(&self) -> At<u64> {
        self.with(self.0.memory.floor.map(|floor| floor.0), |control| {
            control.memory.0
        })
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn disk(&self) -> At<u64> {
        let own = self
            .0
            .disk
            .cap
            .map_or(At::default(0), |cap| cap.map(|cap| cap.0));
        self.with(own, |control| control.disk.map_or(0, |disk| disk.0))
    }

    /// Bits in a second of a link.
    #[must_use]
    pub fn link(&self, link: &DeviceName) -> At<BitsPerSecond> {
        let own = self.0.links.on(link).floor.map(|floor| floor.0);
        self.with(own, |control| control.link.0).map(BitsPerSecond)
    }

    /// How many slices.
    #[must_use]
    pub fn slices(&self) -> u32 {
        let own = At::default(1);
        let all = self.with(own, |control| u64::from(control.slices));
        u32::try_from(all.value).unwrap_or(u32::MAX)
    }
}
