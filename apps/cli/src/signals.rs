//! A signal that would end the process asks the run to stop instead; a second Ctrl-C ends the process.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ibot::device::end_process_at_once;
use ibot::{Error, Result};

use super::output::warn;
use super::screen::is_silent;

/// SIGHUP: the terminal was closed.
const HANG_UP: i32 = 1;
/// SIGINT: Ctrl-C.
const INTERRUPT: i32 = 2;
/// SIGQUIT: Ctrl-\.
const QUIT: i32 = 3;
/// SIGTERM: `kill`.
const TERMINATE: i32 = 15;

/// Of two equal signals that are closer than this, the second one is ignored: a closed terminal sends SIGHUP from
/// the kernel and from the shell, and `timeout` sends its signal to the process and to its group.
const ONE_WISH: Duration = Duration::from_millis(500);

/// Whether to stop.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// The signal that asked to stop; 0 for none.
static RECEIVED: AtomicI32 = AtomicI32::new(0);
/// A process that ends with this one, where there is one; 0 for none.
static ANOTHER: AtomicI32 = AtomicI32::new(0);
/// The newest signal, and when the first of its kind in a row came: who presses Ctrl-C again and again is heard too.
static NEWEST: Mutex<Option<(i32, Instant)>> = Mutex::new(None);

/// Whether a launcher of several processes passes signals on: its own, too, with which it ends all after one has failed.
static HAS_LAUNCHER: AtomicBool = AtomicBool::new(false);

/// Says nothing about signals: nobody presses keys for this process, and what a run made says its end.
#[cfg(feature = "mpi")]
pub fn leave_words_to_launcher() {
    HAS_LAUNCHER.store(true, Ordering::Relaxed);
}

/// A flag that the first signal sets.
pub fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    if let Some(stop) = STOP.get() {
        return Ok(stop.clone());
    }
    let stop = STOP.get_or_init(Arc::default).clone();
    watch()
        .map_err(|error| Error::Training(format!("cannot install a signal handler: {error}")))?;
    Ok(stop)
}

/// Exit status of an error.
pub fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Interrupted { .. } | Error::Stopped => exit_status(),
        _ => 1,
    }
}

/// Whether a signal asked to stop.
#[cfg(all(unix, feature = "mpi"))]
pub fn is_stopped() -> bool {
    RECEIVED.load(Ordering::Relaxed) != 0
}

/// Leaves it to another process to say that it stops; it ends with this one where a person does not want to wait.
#[cfg(all(unix, feature = "mpi"))]
pub fn stop_with(process: i32) {
    ANOTHER.store(process, Ordering::Relaxed);
}

/// What shells report for a process that the signal ended: 128 and its number.
pub fn exit_status() -> u8 {
    match RECEIVED.load(Ordering::Relaxed) {
        0 => status(INTERRUPT),
        signal => status(signal),
    }
}

fn status(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// The first signal sets the flag; some signals end the process if they come again.
fn received(signal: i32) {
    let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    let now = in_a_row(*newest, signal, Instant::now());
    let before = newest.replace(now);
    drop(newest);
    match before {
        None => {
            RECEIVED.store(signal, Ordering::Release);
            if let Some(stop) = STOP.get() {
                stop.store(true, Ordering::Release);
            }
            let has_words = !is_silent() && !HAS_LAUNCHER.load(Ordering::Relaxed);
            if ANOTHER.load(Ordering::Relaxed) == 0 && has_words {
                warn("\nstopping; press Ctrl-C again to stop at once");
            }
        }
        Some((before, at)) if ends_at_once(before, at.elapsed(), signal) => {
            end_another();
            if !is_silent() {
                warn("stopped at once");
            }
            // the GPU that it waits for may be the reason
            end_process_at_once(status(signal));
        }
        Some(_) => {}
    }
}

/// A signal that comes now, and when the first of its kind in a row came.
fn in_a_row(before: Option<(i32, Instant)>, signal: i32, now: Instant) -> (i32, Instant) {
    let same = before.filter(|(before, _)| *before == signal);
    same.unwrap_or((signal, now))
}

fn end_another() {
    #[cfg(unix)]
    if let process @ 1.. = ANOTHER.load(Ordering::Relaxed) {
        // SAFETY: a signal to a process that this one started.
        unsafe { libc::kill(process, TERMINATE) };
    }
}

/// Whether a signal that comes this long after another one is a person's second one. One that a batch system sends as a
/// follow-up, such as SIGTERM a minute after SIGUSR1, must not cost the checkpoint that is being written.
fn ends_at_once(before: i32, after: Duration, signal: i32) -> bool {
    [INTERRUPT, QUIT, TERMINATE].contains(&signal) && before == signal && after >= ONE_WISH
}

/// Calls [`received`] on its own thread for each signal except ignored ones, as SIGHUP is under `nohup`.
#[cfg(unix)]
fn watch() -> std::io::Result<()> {
    use signal_hook::consts::{SIGALRM, SIGPROF, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU};
    let signals = [
        HANG_UP, INTERRUPT, QUIT, TERMINATE, SIGALRM, SIGPROF, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
    ];
    let signals = signals.into_iter().filter(|signal| !is_ignored(*signal));
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || signals.forever().for_each(received))?;
    Ok(())
}

/// Makes a write beyond `ulimit -f` an error, as on a full disk, where it would end the process: once SIGXFSZ is caught, it is one.
pub fn writes_beyond_limit_fail() {
    #[cfg(unix)]
    {
        use signal_hook::consts::SIGXFSZ;
        if !is_ignored(SIGXFSZ) {
            // without it, the process ends there
            let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
        }
    }
}

/// Whether the parent process set a signal to be ignored.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null action changes nothing; what is read is written by a call that succeeds.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Calls [`received`] for each console event, on a thread that Windows provides.
#[cfg(windows)]
fn watch() -> std::io::Result<()> {
    use windows_sys::Win32::System::Console::SetConsoleCtrlHandler;
    // SAFETY: a function of this program, which stays.
    match unsafe { SetConsoleCtrlHandler(Some(on_event), 1) } {
        0 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// # Safety
/// None is asked of the caller, which is Windows.
#[cfg(windows)]
unsafe extern "system" fn on_event(event: u32) -> i32 {
    use windows_sys::Win32::System::Console::{
        CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_SHUTDOWN_EVENT,
    };
    /// SIGBREAK of Windows' C library.
    const BREAK: i32 = 21;
    match event {
        CTRL_C_EVENT => received(INTERRUPT),
        CTRL_BREAK_EVENT => received(BREAK),
        // a closed window, a user who logs off, a shutdown: Windows ends the process when this function returns, and
        // after some seconds anyway
        _ => {
            let is_shutdown = event == CTRL_SHUTDOWN_EVENT;
            received(if is_shutdown { TERMINATE } else { HANG_UP });
            std::thread::sleep(Duration::from_secs(600));
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_signal_of_a_person_ends_at_once() {
        let second = Duration::from_secs(1);
        for signal in [INTERRUPT, QUIT, TERMINATE] {
            assert!(ends_at_once(signal, second, signal));
            assert!(!ends_at_once(signal, ONE_WISH / 2, signal));
            assert!(!ends_at_once(10, second, signal));
        }
        assert!(!ends_at_once(HANG_UP, second, HANG_UP));
        assert_eq!(status(QUIT), 131);
        // pressed again and again, each time soon after the last
        let first = Instant::now();
        let mut newest = in_a_row(Some((QUIT, first)), INTERRUPT, first);
        for press in 1..4 {
            newest = in_a_row(Some(newest), INTERRUPT, first + press * ONE_WISH / 2);
        }
        assert_eq!(newest, (INTERRUPT, first));
    }
}
