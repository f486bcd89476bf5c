//! What a slice has sent of its quota on a link, and what that leaves it.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use policy::abi::LinkKnobs;
use policy::decide::pace::RATE_MAX;
use policy::decide::quota::Period;

use crate::atomic::{compare_exchange, fetch_add, load, store};
use crate::maps::{KNOBS, QUOTAS};

/// What the quota left when it was looked at last, bytes per second.
#[inline(always)]
pub fn cap(index: u32, knobs: &LinkKnobs) -> u64 {
    let cap = match QUOTAS.get(index) {
        Some(quota) if knobs.quota != 0 => load(&raw const quota.cap),
        _ => 0,
    };
    // Nobody has looked yet.
    if cap == 0 { RATE_MAX } else { cap }
}

/// Counts what was let through against the quota of a slice.
#[inline(always)]
pub fn use_up(index: u32, bytes: u32) {
    let (Some(knobs), Some(quota)) = (KNOBS.get(index), QUOTAS.get_ptr_mut(index)) else {
        return;
    };
    if knobs.quota != 0 {
        // SAFETY: rows of arrays stay.
        fetch_add(unsafe { &raw mut (*quota).used }, bytes as u64);
    }
}

/// Looks what the quota of a slice leaves it, and begins the next period where one is
/// over.
#[inline(always)]
pub fn look(index: u32, knobs: &LinkKnobs) {
    if knobs.quota == 0 {
        return;
    }
    let Some(quota) = QUOTAS.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: rows of arrays stay; the helper takes nothing.
    unsafe {
        let now = bpf_ktime_get_boot_ns();
        let before = Period {
            used: load(&raw const (*quota).used),
            ends_ns: load(&raw const (*quota).ends_ns),
        };
        let period = before.at(now, knobs.period_ns);
        if period.ends_ns != before.ends_ns
            && compare_exchange(&raw mut (*quota).ends_ns, before.ends_ns, period.ends_ns)
                == before.ends_ns
            && period.used != before.used
        {
            store(&raw mut (*quota).used, period.used);
        }
        let cap = period.cap(knobs.quota, knobs.floor, now);
        store(&raw mut (*quota).cap, cap.unwrap_or(knobs.cap));
    }
}
