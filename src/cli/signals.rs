//! Ctrl-C and SIGTERM: the first one asks the run to stop, the second one ends the process.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use ibot::{Error, Result};

use super::output::warn;

/// The signal that asked to stop; 0 for none.
static RECEIVED: AtomicI32 = AtomicI32::new(0);
/// SIGINT, where Ctrl-C says no number.
const INTERRUPT: i32 = 2;

/// A flag that the first signal raises; a second one ends the process at once.
pub fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(stop) = STOP.get() {
        return Ok(stop.clone());
    }
    let stop = STOP.get_or_init(Arc::default).clone();
    let raised = stop.clone();
    watch(move |signal| {
        RECEIVED.store(signal, Ordering::Relaxed);
        if raised.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(exit_status()));
        }
        warn("\nstopping after what is under way; once more to stop at once");
    })
    .map_err(|error| Error::Training(format!("no signal handler: {error}")))?;
    Ok(stop)
}

/// What shells report for a process that the signal ended: 128 and its number.
pub fn exit_status() -> u8 {
    let signal = match RECEIVED.load(Ordering::Relaxed) {
        0 => INTERRUPT,
        signal => signal,
    };
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Calls `on_signal` on a thread of its own for each signal.
#[cfg(unix)]
fn watch(on_signal: impl Fn(i32) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || signals.forever().for_each(on_signal))?;
    Ok(())
}

#[cfg(not(unix))]
fn watch(on_signal: impl Fn(i32) + Send + 'static) -> std::io::Result<()> {
    ctrlc::set_handler(move || on_signal(INTERRUPT)).map_err(std::io::Error::other)
}
