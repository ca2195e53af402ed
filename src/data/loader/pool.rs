//! Worker threads that make batches sample by sample, some batches ahead, and return them in order.
//!
//! A worker takes the next sample of the oldest batch that has one left, or opens the next batch while fewer than
//! `queue` are open, either only where there is memory for it. No worker waits for a slow image of another, and what a batch
//! holds does not depend on the number of workers.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::{Duration, Instant};

use crate::data::loader::open_batch::{FinishedBatch, Progress, Slot};
use crate::data::loader::pace::{batches_ahead, most_threads};
use crate::data::loader::pool_state::{Next, State};
use crate::data::storage::reading::take_waited;
use crate::data::views::pixels::Pixels;
use crate::error::{Error, Result, require};
use crate::lock::lock;

/// How often a wait for a batch checks the stop flag, because setting the flag wakes no thread.
const LOOK: Duration = Duration::from_millis(100);
/// Largest number of threads that is accepted.
const MAX_WORKERS: usize = 1024;

/// What the workers make.
pub(in crate::data) trait Task: Send + Sync + 'static {
    /// What a worker keeps between samples.
    type Worker;

    /// The state of a new worker.
    fn worker(&self) -> Self::Worker;

    /// Bytes of the views of a batch, at most.
    fn batch_bytes(&self) -> usize;

    /// Bytes of the image that is decoded for a sample, about. Called without a lock.
    fn image_bytes(&self, sample: usize) -> usize;

    /// Room for each view of this many samples.
    fn room(&self, samples: usize) -> Vec<Pixels>;

    /// Samples of batch `number`; None past the last. Called for each number once, in order, without a lock: others go on with
    /// what is open meanwhile.
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

    /// Ends waits in [`Task::make`]: what it makes is not used any more.
    fn stop(&self) {}

    /// What to call a sample in a message.
    fn name(&self, sample: usize) -> String;
}

/// The worker threads; joined when dropped.
pub(super) struct Pool<T: Task> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
    /// Maximum number of threads.
    most: usize,
}

struct Shared<T> {
    task: T,
    /// Of each batch.
    batch_bytes: usize,
    state: Mutex<State>,
    /// A batch is complete, or the workers have stopped.
    made: Condvar,
    /// A batch was taken, an image let go where one waits for that, or the pool is dropped.
    room: Condvar,
}

impl<T: Task> Pool<T> {
    /// Starts `workers` threads that make batches from number `first` on; 0 for one per core, and more while they mostly wait for
    /// images to be read and batches are late. Open batches and images take `memory` bytes at most; one of each may always be there.
    ///
    /// # Errors
    /// As [`check_workers`]; the operating system gives no thread.
    pub fn new(task: T, workers: usize, queue: usize, memory: usize, first: usize) -> Result<Self> {
        check_workers(workers)?;
        let shared = Arc::new(Shared {
            batch_bytes: task.batch_bytes(),
            task,
            state: Mutex::new(State::new(queue, memory, first)),
            made: Condvar::new(),
            room: Condvar::new(),
        });
        let count = worker_count(workers);
        // if a later thread is refused, `drop` joins those that already started
        let mut pool = Self {
            shared,
            threads: Vec::new(),
            most: most_threads(workers, count),
        };
        for _ in 0..count {
            pool.start_thread().map_err(|error| {
                Error::Loader(format!("cannot start a thread to read data: {error}"))
            })?;
        }
        Ok(pool)
    }

    fn start_thread(&mut self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let name = format!("data {}", self.threads.len());
        let thread = Builder::new().name(name).spawn(move || shared.run())?;
        self.threads.push(thread);
        Ok(())
    }

    /// Starts one more thread, and lets them make more batches ahead, where the workers spend most of their time waiting for
    /// images. Called when a batch is late.
    fn keep_up(&mut self) {
        if self.threads.len() >= self.most {
            return;
        }
        let is_slow = lock(&self.shared.state).pace.is_slow(self.threads.len());
        if !is_slow {
            return;
        }
        if let Err(error) = self.start_thread() {
            log::debug!("no more threads to read data: {error}");
            self.most = self.threads.len();
            return;
        }
        let count = self.threads.len();
        let mut state = lock(&self.shared.state);
        if let Some(first) = state.open.front() {
            let ahead = batches_ahead(count, first.batch.samples.len());
            state.queue = state.queue.max(ahead);
        }
        log::debug!("{count} threads read data: most of their time is a wait for it");
        self.shared.room.notify_all();
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
    pub fn take(&mut self, stop: &AtomicBool) -> Result<Option<FinishedBatch>> {
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
                state.budget.batches.release(self.shared.batch_bytes);
                self.shared.room.notify_all(); // a worker may open the next batch
                return Ok(progress.map(Progress::close));
            }
            if state.is_over && state.open.is_empty() {
                return Ok(None);
            }
            drop(state);
            self.keep_up();
            state = lock(&self.shared.state);
            if !state.is_ready() {
                state = wait_at_most(LOOK, &self.shared.made, state);
            }
        }
    }
}

impl<T: Task> Drop for Pool<T> {
    fn drop(&mut self) {
        lock(&self.shared.state).is_stopped = true; // under the lock, or a worker that is about to wait would miss it
        self.shared.room.notify_all();
        self.shared.task.stop();
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
            let start = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                self.task
                    .make(&mut worker, slot.batch.number, sample, &slot)
            }));
            match outcome {
                Ok(Ok(shown)) => {
                    let times = [start.elapsed(), take_waited()];
                    self.finish(&slot, shown, times);
                }
                // an error here ends the loader: unreadable images are handled in `Task::make`
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
            match state.next_slot() {
                Next::Slot(slot) => return Some(slot),
                Next::Wait => {
                    state = wait(&self.room, state);
                    continue;
                }
                Next::Open => {}
            }
            if state.is_over {
                return None;
            }
            // each open batch has its full buffers, from when it is opened to when it is taken
            let may_open = !state.is_opening && state.open.len() < state.queue;
            if !may_open || !state.budget.batches.hold(self.batch_bytes) {
                state = wait(&self.room, state);
                continue;
            }
            let number = state.next;
            state.next += 1;
            state.is_opening = true;
            drop(state);
            let opened = self.task.samples(number).map(|samples| {
                let room = self.task.room(samples.len());
                let image_bytes = |sample: &usize| self.task.image_bytes(*sample);
                let image_bytes = samples.iter().map(image_bytes).collect();
                Progress::new(number, samples, image_bytes, room)
            });
            state = lock(&self.state);
            state.is_opening = false;
            match opened {
                Some(progress) => {
                    // a share of a batch may be empty, and no worker finishes it
                    if progress.is_complete() {
                        self.made.notify_all();
                    }
                    state.open.push_back(progress);
                }
                None => {
                    state.budget.batches.release(self.batch_bytes);
                    state.is_over = true;
                    self.made.notify_all();
                }
            }
            self.room.notify_all();
        }
    }

    /// With the time that the sample took, and what of it was a wait.
    fn finish(&self, slot: &Slot, shown: Option<usize>, [all, waited]: [Duration; 2]) {
        let mut state = lock(&self.state);
        state.pace.add(all, waited);
        let bytes = slot.batch.image_bytes[slot.at];
        state.budget.images.release(bytes);
        if std::mem::take(&mut state.is_short) {
            self.room.notify_all();
        }
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
        self.task.stop();
        self.made.notify_all();
        self.room.notify_all();
    }
}

/// Refuses more threads than any machine has use for: with tens of thousands of them the process would be ended by its system.
///
/// # Errors
/// [`Error::Config`].
pub(crate) fn check_workers(workers: usize) -> Result<()> {
    let remedy = format!("must be at most {MAX_WORKERS}; 0 is one per core");
    require(workers <= MAX_WORKERS, "workers", workers, remedy)
}

/// `workers` for a pool of one of so many ranks: 0, which may grow, only where the process has its machine to itself.
pub fn workers_of_rank(workers: usize, ranks: usize) -> usize {
    match workers {
        0 if ranks > 1 => rayon::current_num_threads(),
        workers => workers,
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
