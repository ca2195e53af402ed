//! A training run on its own thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::app::events::{Events, TrainingEvent};
use crate::app::job::catch_panic;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::train::health::Anomaly;
use crate::train::{
    Evaluation, EvaluationTime, Observer, PatchColors, RunRequest, RunStart, StepMetrics, run,
};

/// How a run is observed.
#[derive(Default)]
pub struct TrainingConfig {
    /// Time between two drawings of the teacher's patch features; the first comes after the first step. Each costs a forward
    /// pass of four images. `None` for none. Default `None`.
    pub patches_every: Option<Duration>,
    /// Called on the run's thread after each event, for example to repaint a window; it must return soon. Default
    /// `None`.
    pub on_event: Option<Box<dyn FnMut() + Send>>,
}

impl TrainingConfig {
    /// Starts the run on its own thread. Errors arrive as [`TrainingEvent::Failed`], including those of settings and
    /// images.
    ///
    /// # Errors
    /// [`Error::Training`] if no thread can be started.
    pub fn start(self, request: RunRequest) -> Result<TrainingHandle> {
        let shared = Arc::new(Shared::default());
        let watched = shared.clone();
        let thread = std::thread::Builder::new().name("ibot-training".into());
        let thread = thread
            .spawn(move || watched.train(&request, self))
            .map_err(|error| {
                Error::Training(format!("cannot start a thread to train on: {error}"))
            })?;
        Ok(TrainingHandle {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl fmt::Debug for TrainingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patches = self.patches_every;
        write!(f, "TrainingConfig(patches every {patches:?})")
    }
}

/// A running run, observed and controlled from any thread.
///
/// Dropping it cancels the run and waits for its checkpoint.
pub struct TrainingHandle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
}

#[derive(Default)]
struct Shared {
    events: Events,
    stop: AtomicBool,
    is_over: AtomicBool,
    is_paused: Mutex<bool>,
    changed: Condvar,
}

impl TrainingHandle {
    /// The events since the last call, in order; does not wait.
    #[must_use]
    pub fn events(&self) -> Vec<TrainingEvent> {
        self.shared.events.take()
    }

    /// The next event; waits up to `timeout` for it.
    #[must_use]
    pub fn next_event(&self, timeout: Duration) -> Option<TrainingEvent> {
        self.shared.events.next(timeout)
    }

    /// Pauses the run once the metrics of the current steps are read, about a second later; it keeps its memory.
    pub fn pause(&self) {
        self.shared.set_paused(true);
    }

    /// Resumes a paused run.
    pub fn resume(&self) {
        self.shared.set_paused(false);
    }

    /// Whether the run is paused or about to be.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        *lock(&self.shared.is_paused)
    }

    /// Ends the run after the current step, with a checkpoint, paused or not. The same request resumes from it.
    pub fn cancel(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // under the lock: the run must not start to wait in between, or nothing would wake it
        let _paused = lock(&self.shared.is_paused);
        self.shared.changed.notify_all();
    }

    /// Whether the run is over: finished, cancelled or failed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.is_over.load(Ordering::Acquire)
    }

    /// Waits for the end of the run; events can still be read. Only the first call waits and returns the run's error.
    ///
    /// # Errors
    /// Those of [`run`]: [`Error::Interrupted`] for a cancelled one.
    pub fn wait(&self) -> Result<()> {
        let thread = lock(&self.thread).take();
        // a callback of the run itself may own the last handle, and a thread cannot join itself
        let is_other = |thread: &JoinHandle<_>| thread.thread().id() != std::thread::current().id();
        let Some(thread) = thread.filter(is_other) else {
            return Ok(());
        };
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::Training("a bug in ibot ended the run".into())))
    }
}

impl fmt::Debug for TrainingHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (paused, over) = (self.is_paused(), self.is_over());
        write!(f, "TrainingHandle(paused: {paused}, over: {over})")
    }
}

impl Drop for TrainingHandle {
    fn drop(&mut self) {
        self.cancel();
        let _ = self.wait(); // the last event carried its error
    }
}

impl Shared {
    fn set_paused(&self, paused: bool) {
        *lock(&self.is_paused) = paused;
        self.changed.notify_all();
    }

    fn train(&self, request: &RunRequest, config: TrainingConfig) -> Result<()> {
        let mut watcher = Watcher {
            shared: self,
            patches_every: config.patches_every,
            last_patches: None,
            steps_per_epoch: 0,
            on_event: config.on_event,
        };
        let work = || run(request, &self.stop, &mut watcher);
        let result = catch_panic(work, Error::Training).map_err(|error| match error {
            // before its first step
            Error::Stopped => Error::Interrupted {
                step: 0,
                run: request.out.clone(),
            },
            other => other,
        });
        self.events.push(match &result {
            Ok(()) => TrainingEvent::Finished(request.out.clone()),
            Err(Error::Interrupted { step, run }) => TrainingEvent::Cancelled {
                step: *step,
                run: run.clone(),
            },
            Err(error) => TrainingEvent::Failed(error.to_string()),
        });
        // after the event, so that a caller who sees the end finds it; before the callback, which may query the handle
        self.is_over.store(true, Ordering::Release);
        if let Some(call) = &mut watcher.on_event {
            call();
        }
        result
    }
}

/// Turns the observer's calls into events, and holds the run while it is paused.
struct Watcher<'a> {
    shared: &'a Shared,
    patches_every: Option<Duration>,
    last_patches: Option<Instant>,
    steps_per_epoch: usize,
    on_event: Option<Box<dyn FnMut() + Send>>,
}

impl Watcher<'_> {
    fn tell(&mut self, event: TrainingEvent) {
        self.shared.events.push(event);
        if let Some(call) = &mut self.on_event {
            call();
        }
    }

    fn is_held(&self, paused: &bool) -> bool {
        *paused && !self.shared.stop.load(Ordering::Relaxed)
    }
}

impl Observer for Watcher<'_> {
    fn note(&mut self, line: &str) {
        self.tell(TrainingEvent::Note(line.to_owned()));
    }

    fn started(&mut self, start: &RunStart) {
        self.steps_per_epoch = start.steps_per_epoch;
        self.tell(TrainingEvent::Started(start.clone()));
    }

    fn step(&mut self, metrics: &StepMetrics) {
        let step = metrics.step;
        self.tell(TrainingEvent::Step(Box::new(metrics.clone())));
        if step.is_multiple_of(self.steps_per_epoch) {
            let epoch = step / self.steps_per_epoch;
            self.tell(TrainingEvent::Epoch { epoch, step });
        }
    }

    fn evaluated(&mut self, when: EvaluationTime, evaluation: &Evaluation) {
        self.tell(TrainingEvent::Evaluated(when, evaluation.clone()));
    }

    fn anomalies(&mut self, step: usize, found: &[Anomaly]) {
        let anomalies = found.to_vec();
        self.tell(TrainingEvent::Anomalies { step, anomalies });
    }

    fn rolled_back(&mut self, to: usize) {
        self.tell(TrainingEvent::RolledBack(to));
    }

    fn checkpoint(&mut self, step: usize) {
        self.tell(TrainingEvent::Checkpoint(step));
    }

    fn between_steps(&mut self, step: usize) {
        if !self.is_held(&lock(&self.shared.is_paused)) {
            return;
        }
        self.tell(TrainingEvent::Paused(step));
        let paused = lock(&self.shared.is_paused);
        let is_held = |paused: &mut bool| self.is_held(paused);
        drop(
            self.shared
                .changed
                .wait_while(paused, is_held)
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.tell(TrainingEvent::Resumed);
    }

    fn wants_patches(&self, _ends_epoch: bool) -> bool {
        let is_due = |every| self.last_patches.is_none_or(|last| last.elapsed() >= every);
        self.patches_every.is_some_and(is_due)
    }

    fn patches(&mut self, step: usize, images: &[PatchColors]) {
        self.last_patches = Some(Instant::now());
        let images = images.to_vec();
        self.tell(TrainingEvent::Patches { step, images });
    }
}
