//! How long a thread waits for the bytes of images: where that is most of the time, more threads read at once.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// Since it was last taken.
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs `read`, and counts its time as a wait for a disk or a server. For sources of images: a loader with as many threads as
/// cores starts more of them where they mostly wait.
pub fn reading<T>(read: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = read();
    WAITED.set(WAITED.get() + start.elapsed());
    result
}

/// The time that this thread has waited since the last call.
pub(in crate::data) fn take_waited() -> Duration {
    WAITED.take()
}
