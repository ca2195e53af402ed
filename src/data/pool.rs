//! Worker threads that make batches sample by sample, some batches ahead, and return them in order.
//!
//! A worker takes the next sample of the oldest batch that has one left, or opens the next batch while fewer than
//! `queue` are open. So memory is bounded, no worker waits for a slow picture of another, and what a batch holds does
//! not depend on the number of workers.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::Duration;

use crate::data::pixels::Pixels;
use crate::error::{Error, Result};

/// How often a wait for a batch checks the stop flag, because setting the flag wakes no thread.
const LOOK: Duration = Duration::from_millis(100);

/// What the workers make.
pub(super) trait Task: Send + Sync + 'static {
    /// What a worker keeps between samples.
    type Worker;

    /// The state of a new worker.
    fn worker(&self) -> Self::Worker;

    /// Room for each view of this many samples.
    fn room(&self, samples: usize) -> Vec<Pixels>;

    /// Samples of batch `number`; None past the last. Called for each number once, in order.
    fn samples(&self, number: usize) -> Option<Vec<usize>>;

    /// Makes one sample and writes each of its views. Returns the sample that they show, another one if this one cannot be
    /// read; None to leave it out.
    fn make(
        &self,
        worker: &mut Self::Worker,
        number: usize,
        sample: usize,
        slot: &Slot,
    ) -> Result<Option<usize>>;

    /// What to call a sample in a message.
    fn name(&self, sample: usize) -> String;
}

/// One sample's place in a batch.
pub(super) struct Slot {
    batch: Arc<Open>,
    at: usize,
}

impl Slot {
    /// Lets `fill` write view number `view`, at this place of all samples.
    pub fn write(&self, view: usize, fill: impl FnOnce(&mut Pixels, Range<usize>)) {
        let mut pixels = lock(&self.batch.views[view]);
        let view_len = pixels.len() / self.batch.samples.len();
        let start = self.at * view_len;
        fill(&mut pixels, start..start + view_len);
    }
}

/// A batch in the making.
struct Open {
    number: usize,
    samples: Vec<usize>,
    /// One lock for every view, held while a sample's view is copied in.
    views: Vec<Mutex<Pixels>>,
}

/// A complete batch.
pub(super) struct Made {
    pub number: usize,
    pub samples: Vec<usize>,
    /// Of every view.
    pub views: Vec<Pixels>,
    /// `[B]`: the sample at each place; None if it was left out.
    pub shown: Vec<Option<usize>>,
}

/// The worker threads; joined when dropped.
pub(super) struct Pool<T: Task> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<T> {
    task: T,
    queue: usize,
    state: Mutex<State>,
    /// A batch is complete, or the workers have stopped.
    made: Condvar,
    /// A batch was taken, or the pool is dropped.
    room: Condvar,
}

struct State {
    open: VecDeque<Progress>,
    /// Number of the batch to open next.
    next: usize,
    /// Whether the task has no further batch.
    is_over: bool,
    /// Whether workers are to return.
    is_stopped: bool,
    failure: Option<Error>,
}

struct Progress {
    batch: Arc<Open>,
    /// Samples that a worker has taken.
    taken: usize,
    /// Samples that are finished.
    finished: usize,
    shown: Vec<Option<usize>>,
}

impl<T: Task> Pool<T> {
    /// `workers` threads, 0 for one per processor, that make batches from number `first` on.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn new(task: T, workers: usize, queue: usize, first: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            task,
            queue: queue.max(1),
            state: Mutex::new(State {
                open: VecDeque::new(),
                next: first,
                is_over: false,
                is_stopped: false,
                failure: None,
            }),
            made: Condvar::new(),
            room: Condvar::new(),
        });
        // if a later thread is refused, `drop` joins those that already started
        let mut pool = Self {
            shared,
            threads: Vec::new(),
        };
        for number in 0..worker_count(workers) {
            let shared = pool.shared.clone();
            let thread = Builder::new()
                .name(format!("data {number}"))
                .spawn(move || shared.run())
                .map_err(|error| {
                    Error::Loader(format!("cannot start a thread to read data: {error}"))
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    pub fn task(&self) -> &T {
        &self.shared.task
    }

    /// Whether [`Pool::take`] would not wait.
    pub fn is_ready(&self) -> bool {
        lock(&self.shared.state).is_ready()
    }

    /// The next batch, in order; None past the last. Waits for it, but not once `stop` is set.
    ///
    /// # Errors
    /// The first error or panic of a worker; after it, that the loader has stopped. [`Error::Stopped`], after which the
    /// batch is still available.
    pub fn take(&mut self, stop: &AtomicBool) -> Result<Option<Made>> {
        let mut state = lock(&self.shared.state);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            // before complete batches: an error must not hide behind a full queue
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            if state.is_stopped {
                let message = "the loader stopped after an earlier error";
                return Err(Error::Loader(message.to_owned()));
            }
            if state.open.front().is_some_and(Progress::is_complete) {
                let progress = state.open.pop_front();
                self.shared.room.notify_all(); // a worker may open the next batch
                return Ok(progress.map(Progress::close));
            }
            if state.is_over && state.open.is_empty() {
                return Ok(None);
            }
            state = wait_at_most(LOOK, &self.shared.made, state);
        }
    }
}

impl State {
    fn is_ready(&self) -> bool {
        let first = self.open.front();
        first.map_or(self.is_over, Progress::is_complete) || self.is_stopped
    }
}

impl<T: Task> Drop for Pool<T> {
    fn drop(&mut self) {
        lock(&self.shared.state).is_stopped = true; // under the lock, or a worker that is about to wait would miss it
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // a worker catches its own panics, so the result of `join` says nothing new
            let _ = thread.join();
        }
    }
}

impl<T: Task> Shared<T> {
    fn run(&self) {
        // an uncaught panic would end this thread only, and `take` would wait forever
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work()));
        if let Err(panic) = outcome {
            self.fail(panicked(&*panic, "starting"));
        }
    }

    fn work(&self) {
        let mut worker = self.task.worker();
        while let Some(slot) = self.next_slot() {
            let sample = slot.batch.samples[slot.at];
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                self.task
                    .make(&mut worker, slot.batch.number, sample, &slot)
            }));
            match outcome {
                Ok(Ok(shown)) => self.finish(&slot, shown),
                // an error here ends the loader: unreadable pictures are handled in `Task::make`
                Ok(Err(error)) => return self.fail(error),
                Err(panic) => return self.fail(panicked(&*panic, &self.task.name(sample))),
            }
        }
    }

    /// The next sample to make; None when there is none any more.
    fn next_slot(&self) -> Option<Slot> {
        let mut state = lock(&self.state);
        loop {
            if state.is_stopped {
                return None;
            }
            let unfinished = |open: &&mut Progress| open.taken < open.batch.samples.len();
            // the oldest unfinished batch first, because that one is taken next
            if let Some(progress) = state.open.iter_mut().find(unfinished) {
                progress.taken += 1;
                return Some(Slot {
                    batch: progress.batch.clone(),
                    at: progress.taken - 1,
                });
            }
            if state.is_over {
                return None;
            }
            // bounds the memory: each open batch has its full buffers
            if state.open.len() >= self.queue {
                state = wait(&self.room, state);
                continue;
            }
            let number = state.next;
            state.next += 1;
            match self.task.samples(number) {
                Some(samples) => {
                    let room = self.task.room(samples.len());
                    let views = room.into_iter().map(Mutex::new).collect();
                    state.open.push_back(Progress {
                        shown: vec![None; samples.len()],
                        batch: Arc::new(Open {
                            number,
                            samples,
                            views,
                        }),
                        taken: 0,
                        finished: 0,
                    });
                }
                None => {
                    state.is_over = true;
                    self.made.notify_all();
                }
            }
        }
    }

    fn finish(&self, slot: &Slot, shown: Option<usize>) {
        let mut state = lock(&self.state);
        let number = slot.batch.number;
        let progress = state
            .open
            .iter_mut()
            .find(|open| open.batch.number == number);
        // only complete batches are removed, and this one lacks a sample, so it is still there
        if let Some(progress) = progress {
            progress.finished += 1;
            progress.shown[slot.at] = shown;
            if progress.finished == progress.batch.samples.len() {
                log::debug!("batch {number} is decoded");
                self.made.notify_all();
            }
        }
    }

    fn fail(&self, error: Error) {
        let mut state = lock(&self.state);
        // only the first error is kept: later ones often follow from it
        if !state.is_stopped {
            state.is_stopped = true;
            state.failure = Some(error);
        }
        self.made.notify_all();
        self.room.notify_all();
    }
}

impl Progress {
    fn is_complete(&self) -> bool {
        self.finished == self.batch.samples.len()
    }

    fn close(self) -> Made {
        // a worker may hold its `Arc` of the batch a moment longer, so the buffers are moved out of their locks
        let take = |view: &Mutex<Pixels>| std::mem::take(&mut *lock(view));
        Made {
            number: self.batch.number,
            samples: self.batch.samples.clone(),
            views: self.batch.views.iter().map(take).collect(),
            shown: self.shown,
        }
    }
}

/// `workers`, or one per processor for 0.
pub(super) fn worker_count(workers: usize) -> usize {
    if workers > 0 {
        return workers;
    }
    available_parallelism().map_or(1, usize::from)
}

fn panicked(panic: &(dyn Any + Send), what: &str) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    Error::Loader(format!("a data worker panicked at {what}: {text}"))
}

fn lock<S>(mutex: &Mutex<S>) -> MutexGuard<'_, S> {
    // a poisoned lock is fine: the panic becomes an error elsewhere, and each change under the lock is complete
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_at_most<'a>(
    time: Duration,
    condition: &Condvar,
    state: MutexGuard<'a, State>,
) -> MutexGuard<'a, State> {
    let waited = condition.wait_timeout(state, time);
    waited.unwrap_or_else(PoisonError::into_inner).0
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}
