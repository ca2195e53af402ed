//! The one thread on which a handle's model computes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::batch::Batch;
use crate::app::config::{DeviceRequest, EmbedderConfig, ModelInfo};
use crate::app::job::catch_panic;
use crate::app::queue::{EmbedTask, Next, Shared, Task};
use crate::app::request::ImageInput;
use crate::device::{DeviceGuard, Selected, reopened_if_lost, select};
use crate::embedding::{Embedder, Made, Wanted};
use crate::error::{Error, Result};
use crate::memory::GpuMemory;

pub(super) struct Worker {
    config: EmbedderConfig,
    shared: Arc<Shared>,
    /// The device, once it is selected.
    selected: Option<Selected>,
    embedder: Option<Embedder>,
    /// Images of the next batch.
    batch_size: usize,
}

impl Worker {
    pub fn new(config: EmbedderConfig, shared: Arc<Shared>) -> Self {
        Self {
            batch_size: config.batch_size,
            config,
            shared,
            selected: None,
            embedder: None,
        }
    }

    /// Works until the handle is dropped.
    pub fn run(mut self) {
        // a callback that panics ends its own job, not the waiting ones
        while self.catch_panic(|worker| Ok(worker.turn())).unwrap_or(true) {}
    }

    /// Does one task; returns whether more may follow.
    fn turn(&mut self) -> bool {
        let idle = self.config.idle.filter(|_| self.embedder.is_some());
        match self.shared.next(idle) {
            Next::Do(Task::Load(ticket)) => match self.catch_panic(Self::info) {
                Ok(info) => ticket.give(info),
                Err(error) => ticket.finish(Err(error)),
            },
            Next::Do(Task::Rebuild(device, ticket)) => {
                match self.catch_panic(|worker| worker.rebuild(device)) {
                    Ok(info) => ticket.give(info),
                    Err(error) => ticket.finish(Err(error)),
                }
            }
            Next::Do(Task::Embed(task)) => self.embed(task),
            Next::End(tasks) => tasks.into_iter().for_each(|task| end(task, None)),
            Next::Unload | Next::Idle => self.unload(),
            Next::Close(tasks) => {
                tasks
                    .into_iter()
                    .for_each(|task| end(task, Some(Error::Stopped)));
                // errors while freeing a device are dropped: nobody is left to report them to
                let _ = self.catch_panic(|worker| {
                    worker.unload();
                    Ok(())
                });
                return false;
            }
        }
        true
    }

    fn catch_panic<R>(&mut self, work: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        catch_panic(|| work(self), Error::Embedding)
    }

    fn rebuild(&mut self, device: DeviceRequest) -> Result<ModelInfo> {
        self.unload();
        self.selected = None;
        self.config.device = device;
        self.info()
    }

    /// The model, loaded if it is not, and again where its device failed since: in other work, as the next batch of this would.
    ///
    /// # Errors
    /// Those of loading it; [`Error::Weights`] where its file is another one than before, whose features must not be mixed with
    /// those made so far.
    fn loaded(&mut self) -> Result<&Embedder> {
        let has_failed = self.guard().is_some_and(|guard| guard.check().is_err());
        if has_failed && self.embedder.is_some() {
            self.unload();
        }
        if self.embedder.is_none() {
            let selected = self.selected()?;
            let embedder = Embedder::load(&self.config.model, &self.config.options, &selected)?;
            if self.is_another(&embedder) {
                drop(embedder);
                self.unload();
                let reason = "the file changed since it was loaded; start another embedder to use it as it is now";
                return Err(Error::Weights {
                    path: self.config.model.clone(),
                    reason: reason.to_owned(),
                });
            }
            let gpu = self.gpu_memory();
            let mut status = self.shared.status();
            status.info = Some(ModelInfo::new(&embedder));
            status.is_loaded = true;
            status.gpu = gpu;
            drop(status);
            self.embedder = Some(embedder);
        }
        let missing = || Error::Embedding("the model is not loaded".into());
        self.embedder.as_ref().ok_or_else(missing)
    }

    /// Whether an earlier load found other bytes in the file, or another input size or normalization beside it.
    fn is_another(&self, embedder: &Embedder) -> bool {
        let status = self.shared.status();
        status.info.as_ref().is_some_and(|info| {
            info.hash != embedder.hash() || info.preprocessing != *embedder.preprocessing()
        })
    }

    fn info(&mut self) -> Result<ModelInfo> {
        self.loaded().map(ModelInfo::new)
    }

    /// The device: chosen once, and again after a rebuild; opened again if it failed.
    fn selected(&mut self) -> Result<Selected> {
        let selected = match (&self.selected, &self.config.device) {
            (Some(selected), _) | (None, DeviceRequest::Selected(selected)) => selected.clone(),
            (None, DeviceRequest::Choose(choice, device)) => select(*choice, device.as_deref())?,
        };
        let selected = reopened_if_lost(selected)?;
        self.selected = Some(selected.clone());
        Ok(selected)
    }

    fn gpu_memory(&self) -> Option<GpuMemory> {
        self.guard()?.gpu_memory()
    }

    fn guard(&self) -> Option<DeviceGuard> {
        DeviceGuard::install(self.selected.as_ref()?).ok()
    }

    /// Frees the model and its device memory.
    fn unload(&mut self) {
        drop(self.embedder.take());
        if let Some(guard) = self.guard() {
            guard.free_unused();
        }
        let gpu = self.gpu_memory();
        let mut status = self.shared.status();
        status.is_loaded = false;
        status.gpu = gpu;
    }

    /// Computes one batch; the rest of the job goes behind the other tasks.
    fn embed(&mut self, mut task: Box<EmbedTask>) {
        match self.catch_panic(|worker| worker.one_batch(&mut task)) {
            Ok(true) => match tell(&mut task) {
                Ok(()) => {
                    if let Some(refused) = self.shared.push(Task::Embed(task)) {
                        end(refused, Some(Error::Stopped));
                    }
                }
                Err(error) => task.finish(Err(error)),
            },
            Ok(false) => task.finish(Ok(())),
            Err(error) => {
                if matches!(error, Error::Device(_)) {
                    self.unload();
                }
                task.finish(Err(error));
            }
        }
    }

    /// Whether there is more to do.
    fn one_batch(&mut self, task: &mut EmbedTask) -> Result<bool> {
        let (batch_size, max_pixels) = (self.batch_size, self.config.max_pixels);
        let embedder = self.loaded()?;
        let wanted = Wanted {
            patches: task.request.patches,
            attention: task.request.attention,
            ..Wanted::CLS
        };
        let (ticket, preprocessing) = (&task.ticket, embedder.preprocessing());
        let prepare = |images: Vec<ImageInput>| {
            let is_cancelled = || ticket.is_cancelled();
            Batch::prepare(images, preprocessing, max_pixels, is_cancelled)
        };
        let mut take = |count: usize| task.images.by_ref().take(count).collect::<Vec<_>>();
        let mut batch = match task.ahead.take() {
            Some(batch) => batch,
            None => prepare(take(batch_size)),
        };
        if batch.is_cut() {
            return Err(Error::Stopped);
        }
        let next = take(batch_size);
        let (pixels, count) = batch.take_pixels();
        let started = Instant::now();
        // reads the next batch while the device computes this one
        let (made, took, ahead) = std::thread::scope(|scope| {
            let ahead = (!next.is_empty()).then(|| scope.spawn(|| prepare(next)));
            let made = embedder.run_pixels(pixels, wanted);
            let took = started.elapsed();
            (made, took, ahead.map(std::thread::ScopedJoinHandle::join))
        });
        task.ahead = match ahead {
            Some(Ok(batch)) => Some(batch),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => None,
        };
        let made: Made = made?;
        task.ticket.add(batch.features(&made, count));
        self.adapt(took, count);
        let gpu = self.gpu_memory();
        self.shared.status().gpu = gpu;
        Ok(task.ahead.is_some())
    }

    /// Half as many images if a batch took too long, twice as many if it could have been longer. Halves and
    /// doubles only, because each new size chooses kernels and allocates memory again.
    fn adapt(&mut self, took: Duration, count: usize) {
        let Some(wanted) = self.config.batch_time else {
            return;
        };
        let share = took.as_secs_f64() / wanted.as_secs_f64();
        if share > 1.5 {
            self.batch_size = (count / 2).clamp(1, self.batch_size);
        } else if share < 0.5 && count == self.batch_size {
            self.batch_size = (2 * count).min(self.config.batch_size);
        }
    }
}

/// Calls the progress callback. One that panics is not called again, and its job ends with an error.
fn tell(task: &mut EmbedTask) -> Result<()> {
    let Some(mut call) = task.request.on_progress.take() else {
        return Ok(());
    };
    let progress = task.ticket.progress();
    let told = catch_unwind(AssertUnwindSafe(|| call(progress)));
    told.map_err(|_| Error::Embedding("`on_progress` panicked".into()))?;
    task.request.on_progress = Some(call);
    Ok(())
}

/// Ends a task with `error`, or with its own reason.
fn end(task: Task, error: Option<Error>) {
    let error = |own: Option<Error>| error.or(own).unwrap_or(Error::Stopped);
    match task {
        Task::Embed(task) => {
            let own = task.early_end();
            task.finish(Err(error(own)));
        }
        Task::Load(ticket) | Task::Rebuild(_, ticket) => ticket.finish(Err(error(None))),
    }
}
