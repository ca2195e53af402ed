//! A request to a handle, to be waited for, polled or awaited.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lock::lock;

/// Progress of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Images that are done, unreadable ones included.
    pub done: usize,
    /// Images of the job.
    pub total: usize,
}

/// A job on a handle's thread. It is also a [`Future`] for any runtime.
///
/// The result is returned once, by whichever of [`Job::wait`], [`Job::try_result`] and `.await` sees the end first; a
/// later call is an [`Error::Embedding`]. Dropping a job cancels it.
pub struct Job<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    is_cancelled: AtomicBool,
}

struct State<T> {
    /// What is made so far.
    value: Option<T>,
    is_over: bool,
    /// Whether the result was taken.
    is_told: bool,
    /// Why it ended early, until that is reported.
    error: Option<Error>,
    progress: Progress,
    waker: Option<Waker>,
}

impl<T> Job<T> {
    /// Blocks until the job is over.
    ///
    /// # Errors
    /// [`Error::Stopped`] if it was cancelled or its handle dropped, [`Error::OutOfTime`], or the error of the work.
    pub fn wait(&mut self) -> Result<T> {
        let mut state = self.shared.lock();
        while !state.is_over {
            let changed = self.shared.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
        state.result()
    }

    /// Blocks until the job is over, or for `timeout`; returns whether it is over.
    pub fn wait_for(&self, timeout: Duration) -> bool {
        let waits = |state: &mut State<T>| !state.is_over;
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(self.shared.lock(), timeout, waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_over
    }

    /// The result if the job is over, else `None` at once.
    pub fn try_result(&mut self) -> Option<Result<T>> {
        let mut state = self.shared.lock();
        state.is_over.then(|| state.result())
    }

    /// Whether it is over: done, failed or cancelled.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.lock().is_over
    }

    /// Its progress.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.lock().progress
    }

    /// Cancels it: it ends after the current batch at the latest, as [`Error::Stopped`]; loading a model is not
    /// interrupted.
    pub fn cancel(&self) {
        self.shared.is_cancelled.store(true, Ordering::Relaxed);
    }
}

impl<T> Job<Vec<T>> {
    /// The results since the last call, in order. [`Job::wait`] then returns the rest; after an error or a cancel, this
    /// returns what was done before.
    pub fn take_finished(&mut self) -> Vec<T> {
        let mut state = self.shared.lock();
        state.value.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl<T> Future for Job<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let mut state = self.shared.lock();
        if state.is_over {
            return Poll::Ready(state.result());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl<T> Shared<T> {
    /// Each write is whole, so a thread that panicked in between spoiled nothing.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }
}

impl<T> State<T> {
    fn result(&mut self) -> Result<T> {
        let given = || Error::Embedding("the result of this job was already taken".into());
        if std::mem::replace(&mut self.is_told, true) {
            return Err(given());
        }
        match self.error.take() {
            Some(error) => Err(error),
            None => self.value.take().ok_or_else(given),
        }
    }
}

/// The worker's side of a job.
pub(super) struct Ticket<T>(Arc<Shared<T>>);

impl<T> Ticket<T> {
    /// A job of `total` images that begins with `value`.
    pub fn new(total: usize, value: Option<T>) -> (Self, Job<T>) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                value,
                is_over: false,
                is_told: false,
                error: None,
                progress: Progress { done: 0, total },
                waker: None,
            }),
            changed: Condvar::new(),
            is_cancelled: AtomicBool::new(false),
        });
        (Self(shared.clone()), Job { shared })
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
    }

    pub fn progress(&self) -> Progress {
        self.0.lock().progress
    }

    /// The job is over; wakes everyone who waits.
    pub fn finish(self, result: Result<()>) {
        self.close(result.err());
    }

    /// The job is over, with `value` as its result.
    pub fn give(self, value: T) {
        self.0.lock().value = Some(value);
        self.close(None);
    }

    fn close(&self, error: Option<Error>) {
        let waker = {
            let mut state = self.0.lock();
            if state.is_over {
                return;
            }
            state.is_over = true;
            if error.is_some() {
                state.error = error;
            }
            state.waker.take()
        };
        self.0.changed.notify_all();
        // not under the lock: a waker may run any code, even one that locks the job again
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Ticket<Vec<T>> {
    /// More of the images are done.
    pub fn add(&self, finished: Vec<T>) {
        let mut state = self.0.lock();
        state.progress.done += finished.len();
        state.value.get_or_insert_default().extend(finished);
    }
}

impl<T> Drop for Ticket<T> {
    /// A job whose worker is gone must not be waited for.
    fn drop(&mut self) {
        self.close(Some(Error::Stopped));
    }
}

/// Runs `work`; a panic, which is a bug, becomes the error that `as_error` makes of its text. Public for the interfaces of other
/// languages, into which no panic may unwind.
pub fn catch_panic<R>(
    work: impl FnOnce() -> Result<R>,
    as_error: impl FnOnce(String) -> Error,
) -> Result<R> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        let said = said.unwrap_or("a panic without a message");
        Err(as_error(format!("a bug in ibot: {said}; please report it")))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_job_gives_its_parts_and_its_end_once() {
        let (ticket, mut job) = Ticket::new(3, Some(Vec::new()));
        assert!(job.try_result().is_none());
        ticket.add(vec![1, 2]);
        assert_eq!(job.progress(), Progress { done: 2, total: 3 });
        assert_eq!(job.take_finished(), [1, 2]);
        ticket.add(vec![3]);
        ticket.finish(Ok(()));
        assert_eq!(job.wait().unwrap(), [3]);
        assert!(matches!(job.wait(), Err(Error::Embedding(_))));
    }

    #[test]
    fn a_wait_has_a_bound() {
        let (ticket, mut job) = Ticket::new(0, None);
        assert!(!job.wait_for(Duration::from_millis(1)));
        ticket.give(7);
        assert!(job.wait_for(Duration::from_secs(600)));
        assert_eq!(job.wait().unwrap(), 7);
    }

    #[test]
    fn what_was_done_outlives_an_error() {
        let (ticket, mut job) = Ticket::new(2, Some(Vec::new()));
        ticket.add(vec![1]);
        job.cancel();
        assert!(ticket.is_cancelled());
        drop(ticket);
        assert!(matches!(job.try_result(), Some(Err(Error::Stopped))));
        assert_eq!(job.take_finished(), [1]);
    }

    #[test]
    fn an_awaited_job_wakes_its_task_once() {
        let (ticket, mut job) = Ticket::new(0, None);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut job).poll(&mut context).is_pending());
        ticket.give(7);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        let Poll::Ready(Ok(7)) = Pin::new(&mut job).poll(&mut context) else {
            panic!("the job is over");
        };
    }
}
