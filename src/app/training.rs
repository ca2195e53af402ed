//! A training run behind a thread of its own.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use image::RgbImage;

use crate::app::events::{Events, TrainingEvent};
use crate::app::job::caught;
use crate::device::faults::lock;
use crate::error::{Error, Result};
use crate::train::health::Sickness;
use crate::train::{
    Evaluation, Observer, RunRequest, RunStart, StepMetrics, TensorBoard, When, run,
};

/// How a run is watched.
#[derive(Default)]
pub struct TrainingConfig {
    /// A picture of the teacher's patches after so long since the last one, the first after the first step; `None` for
    /// none. Each costs a forward of four pictures.
    pub patches_every: Option<Duration>,
    /// Writes TensorBoard's events to the run folder too.
    pub tensorboard: bool,
    /// Called on the run's thread after each event: to ask a window to repaint, say. It must return soon.
    pub on_event: Option<Box<dyn FnMut() + Send>>,
}

impl TrainingConfig {
    /// Starts the run on a thread of its own. What it ran into comes as [`TrainingEvent::Failed`], settings and pictures
    /// that cannot work included.
    ///
    /// # Errors
    /// [`Error::Training`] where there is no thread to be had.
    pub fn start(self, request: RunRequest) -> Result<TrainingHandle> {
        let shared = Arc::new(Shared::default());
        let watched = shared.clone();
        let thread = std::thread::Builder::new().name("ibot-training".into());
        let thread = thread
            .spawn(move || watched.train(&request, self))
            .map_err(|error| Error::Training(format!("no thread to train on: {error}")))?;
        Ok(TrainingHandle {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl fmt::Debug for TrainingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (patches, tensorboard) = (self.patches_every, self.tensorboard);
        write!(
            f,
            "TrainingConfig(patches every {patches:?}, tensorboard: {tensorboard})"
        )
    }
}

/// A run under way, to be watched and steered from any thread.
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
    /// What happened since the last call, in order; does not wait.
    #[must_use]
    pub fn events(&self) -> Vec<TrainingEvent> {
        self.shared.events.take()
    }

    /// The next event, waiting for it as long as `patience`.
    #[must_use]
    pub fn next_event(&self, patience: Duration) -> Option<TrainingEvent> {
        self.shared.events.next(patience)
    }

    /// Lets the run stand still once the metrics of the steps under way are read, about a second later; it keeps its memory.
    pub fn pause(&self) {
        self.shared.set_paused(true);
    }

    /// Lets a paused run go on.
    pub fn resume(&self) {
        self.shared.set_paused(false);
    }

    /// Whether [`TrainingHandle::pause`] was the last word.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        *lock(&self.shared.is_paused)
    }

    /// Ends the run after the step under way, with a checkpoint, paused or not. The same request goes on from it.
    pub fn cancel(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // under the lock: the run must not begin to wait in between
        let _paused = lock(&self.shared.is_paused);
        self.shared.changed.notify_all();
    }

    /// Whether the run is over: finished, cancelled or failed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.is_over.load(Ordering::Acquire)
    }

    /// Waits for the end of the run; events stay to be read. The first call alone waits, and gives what the run ran into.
    ///
    /// # Errors
    /// Those of [`run`]: [`Error::Interrupted`] for a cancelled one.
    pub fn wait(&self) -> Result<()> {
        let thread = lock(&self.thread).take();
        // a callback of the run itself may own the last handle
        let is_other = |thread: &JoinHandle<_>| thread.thread().id() != std::thread::current().id();
        let Some(thread) = thread.filter(is_other) else {
            return Ok(());
        };
        thread.join().unwrap_or_else(|_| {
            Err(Error::Training(
                "an error in the program ended the run".into(),
            ))
        })
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
        let _ = self.wait(); // the last event told of it
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
        let work = || {
            if config.tensorboard {
                run(request, &self.stop, &mut TensorBoard::new(&mut watcher))
            } else {
                run(request, &self.stop, &mut watcher)
            }
        };
        let result = caught(work, Error::Training);
        self.events.push(match &result {
            Ok(()) => TrainingEvent::Finished(request.out.clone()),
            Err(Error::Interrupted { step, run }) => TrainingEvent::Cancelled {
                step: *step,
                run: run.clone(),
            },
            Err(error) => TrainingEvent::Failed(error.to_string()),
        });
        // after the event, so that who sees the end finds it; before the call, which may ask
        self.is_over.store(true, Ordering::Release);
        if let Some(call) = &mut watcher.on_event {
            call();
        }
        result
    }
}

/// Turns what a run tells into events, and holds it while it is paused.
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

    fn evaluated(&mut self, when: When, evaluation: &Evaluation) {
        self.tell(TrainingEvent::Evaluated(when, evaluation.clone()));
    }

    fn sick(&mut self, step: usize, sick: &[Sickness]) {
        let sick = sick.to_vec();
        self.tell(TrainingEvent::Sick { step, sick });
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

    fn patches(&mut self, step: usize, picture: &RgbImage) {
        self.last_patches = Some(Instant::now());
        let picture = picture.clone();
        self.tell(TrainingEvent::Patches { step, picture });
    }
}
