//! The threads that compute.

use ibot::{Error, Result};

/// Starts so many, 0 for one per core; `RAYON_NUM_THREADS` counts more. They would otherwise start at first use, with a panic if the
/// system refuses them.
///
/// # Errors
/// The system gives this program no threads.
pub fn start_threads(count: usize) -> Result<()> {
    let count = match std::env::var_os("RAYON_NUM_THREADS") {
        Some(_) => 0,
        None => count,
    };
    let threads = rayon::ThreadPoolBuilder::new().num_threads(count);
    threads.build_global().map_err(|error| {
        Error::Device(format!(
            "the compute threads cannot start: {error}; raise the limit of processes (ulimit -u), \
             or use fewer with RAYON_NUM_THREADS=1"
        ))
    })
}
