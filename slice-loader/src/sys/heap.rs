//! What the C library keeps of memory that was freed.

/// Below this a block is taken from the heap, else from the kernel, which gets it back.
#[cfg(target_env = "gnu")]
const BLOCK: libc::c_int = 128 * 1024;

/// Has this process give back what it took for a large answer: with a heap for each thread,
/// each of them keeps as much as the largest answer took that it ever made (mallopt(3)).
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, BLOCK)] {
        // SAFETY: it takes two numbers; one that it does not know it refuses.
        let _ = unsafe { libc::mallopt(what, value) };
    }
}
