//! Atomic operations on map values.
//!
//! Sequentially consistent throughout: with LLVM 22 a relaxed operation whose
//! result is used loses the fetch, and the verifier does not notice.

use core::intrinsics::{
    AtomicOrdering, atomic_and, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg,
};

const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;

/// Adds `value`; returns what was there.
#[inline(always)]
pub fn fetch_add(word: *mut u64, value: u64) -> u64 {
    // SAFETY: callers pass a field of a live map value, aligned to 8 by its layout.
    unsafe { atomic_xadd::<u64, u64, ORDER>(word, value) }
}

/// Subtracts `value`; returns what was there.
#[inline(always)]
pub fn fetch_sub(word: *mut u64, value: u64) -> u64 {
    fetch_add(word, value.wrapping_neg())
}

/// Sets the bits of `value`; returns what was there.
#[inline(always)]
pub fn fetch_or(word: *mut u64, value: u64) -> u64 {
    // SAFETY: as in `fetch_add`.
    unsafe { atomic_or::<u64, u64, ORDER>(word, value) }
}

/// Clears the bits of `value`; returns what was there.
#[inline(always)]
pub fn fetch_clear(word: *mut u64, value: u64) -> u64 {
    // SAFETY: as in `fetch_add`.
    unsafe { atomic_and::<u64, u64, ORDER>(word, !value) }
}

/// Stores `value`; returns what was there.
#[inline(always)]
pub fn exchange(word: *mut u64, value: u64) -> u64 {
    // SAFETY: as in `fetch_add`.
    unsafe { atomic_xchg::<u64, ORDER>(word, value) }
}

/// Stores `new` where `old` is there; returns what was there.
#[inline(always)]
pub fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    // SAFETY: as in `fetch_add`.
    unsafe { atomic_cxchg::<u64, ORDER, ORDER>(word, old, new).0 }
}

/// Stores `new` where `old` is there, in a 32-bit word; whether it was.
#[inline(always)]
pub fn swap_u32(word: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: as in `fetch_add`, aligned to 4.
    unsafe { atomic_cxchg::<u32, ORDER, ORDER>(word, old, new).1 }
}

/// Reads a word that others change.
#[inline(always)]
pub fn load<T: Copy>(word: *const T) -> T {
    // SAFETY: as in `fetch_add`; a volatile read of a naturally aligned word
    // is one load in BPF.
    unsafe { core::ptr::read_volatile(word) }
}

/// Writes a word that others read.
#[inline(always)]
pub fn store<T: Copy>(word: *mut T, value: T) {
    // SAFETY: as in `load`.
    unsafe { core::ptr::write_volatile(word, value) }
}

/// Keeps the compiler from moving reads and writes across. The processors that
/// Slice supports (x86-64) keep the order of loads and of stores by themselves.
#[inline(always)]
pub fn barrier() {
    // SAFETY: no instruction.
    unsafe { core::arch::asm!("", options(nostack)) }
}
