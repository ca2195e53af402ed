//! Waiting for work on another thread, with Python's signals: Ctrl-C raises KeyboardInterrupt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ibot::app::{Job, Progress, catch_panic};
use ibot::{Error, Result};
use pyo3::prelude::*;

use crate::errors::raised;

/// Time between two looks at Python's signals.
pub const LOOK: Duration = Duration::from_millis(100);

/// The result of a job. `on_progress` is called with the numbers of finished images and of all whenever the first one
/// grew.
///
/// # Errors
/// That of the job, of `on_progress`, or KeyboardInterrupt.
pub fn result_of<T: Send>(
    py: Python<'_>,
    mut job: Job<T>,
    on_progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<T> {
    let mut told = Progress::default();
    loop {
        let is_over = py.detach(|| job.wait_for(LOOK));
        py.check_signals()?;
        let now = job.progress();
        if let Some(call) = on_progress.filter(|_| now.done > told.done) {
            told = now;
            call.call1((now.done, now.total))?;
        }
        if is_over {
            return py.detach(|| job.wait()).map_err(raised);
        }
    }
}

/// What `work` returns; it ends soon after the flag is raised, which Ctrl-C does.
///
/// # Errors
/// That of the work, or KeyboardInterrupt.
pub fn done<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&AtomicBool) -> Result<T> + Send,
) -> PyResult<T> {
    let stop = AtomicBool::new(false);
    let stop = &stop;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || catch_panic(|| work(stop), Error::Training));
        while !thread.is_finished() {
            py.detach(|| std::thread::sleep(LOOK / 10));
            if let Err(interrupt) = py.check_signals() {
                stop.store(true, Ordering::Relaxed);
                let _ = py.detach(|| thread.join());
                return Err(interrupt);
            }
        }
        let bug = |_| Err(Error::Training("a bug in ibot ended the thread".into()));
        thread.join().unwrap_or_else(bug).map_err(raised)
    })
}
