//! Giving memory back to the kernel.
#![allow(unsafe_code)]

/// Returns the free pages of every malloc arena. glibc keeps them otherwise: each thread that ever
/// ran had an arena of its own, and a daemon would hold the largest pull's buffers for good.
pub fn trim() {
    // SAFETY: takes an integer, touches only malloc's own state, under malloc's locks.
    unsafe { libc::malloc_trim(0) };
}
