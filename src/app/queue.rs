//! The queue of the worker, and the worker's state.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::app::batch::Batch;
use crate::app::config::{DeviceRequest, ModelInfo};
use crate::app::job::Ticket;
use crate::app::request::{EmbedRequest, ImageFeatures, ImageInput};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::memory::GpuMemory;

/// Something to do.
pub(super) enum Task {
    Load(Ticket<ModelInfo>),
    Rebuild(DeviceRequest, Ticket<ModelInfo>),
    Embed(Box<EmbedTask>),
}

/// A request and its progress.
pub(super) struct EmbedTask {
    /// Without its images.
    pub request: EmbedRequest,
    /// The images that are left.
    pub images: std::vec::IntoIter<ImageInput>,
    pub ticket: Ticket<Vec<Result<ImageFeatures>>>,
    /// The next batch, if it was prepared ahead.
    pub ahead: Option<Batch>,
    deadline: Option<Instant>,
}

impl EmbedTask {
    pub fn new(
        mut request: EmbedRequest,
        ticket: Ticket<Vec<Result<ImageFeatures>>>,
        now: Instant,
    ) -> Self {
        Self {
            images: std::mem::take(&mut request.images).into_iter(),
            deadline: request.budget.and_then(|budget| now.checked_add(budget)),
            request,
            ticket,
            ahead: None,
        }
    }

    /// Why it should end early, if it should.
    pub fn early_end(&self) -> Option<Error> {
        if self.ticket.is_cancelled() {
            return Some(Error::Stopped);
        }
        let is_late = self.deadline.is_some_and(|end| Instant::now() >= end);
        is_late.then(|| {
            let progress = self.ticket.progress();
            Error::OutOfTime {
                done: progress.done,
                total: progress.total,
                budget: self.request.budget.unwrap_or_default(),
            }
        })
    }

    /// Ends it, and calls the progress callback once more.
    pub fn finish(mut self, result: Result<()>) {
        let progress = self.ticket.progress();
        let call = self.request.on_progress.take();
        self.ticket.finish(result);
        if let Some(mut call) = call {
            call(progress);
        }
    }
}

/// What the worker does next.
pub(super) enum Next {
    Do(Task),
    /// Tasks that are cancelled or late.
    End(VecDeque<Task>),
    Unload,
    Idle,
    Close(VecDeque<Task>),
}

/// State shared by handle and worker.
#[derive(Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    status: Mutex<Status>,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    unload: bool,
    closed: bool,
}

/// What the worker reports about itself.
#[derive(Default)]
pub(super) struct Status {
    pub info: Option<ModelInfo>,
    pub is_loaded: bool,
    pub gpu: Option<GpuMemory>,
}

impl Shared {
    pub fn status(&self) -> MutexGuard<'_, Status> {
        lock(&self.status)
    }

    /// Adds a task behind all others. Once it is closed, gives the task back: its job ends with [`Error::Stopped`] when it is dropped.
    pub fn push(&self, task: Task) -> Option<Task> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Some(task);
        }
        queue.tasks.push_back(task);
        drop(queue);
        self.changed.notify_all();
        None
    }

    pub fn unload(&self) {
        lock(&self.queue).unload = true;
        self.changed.notify_all();
    }

    pub fn close(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
    }

    /// Waits for something to do, or for `idle` to pass.
    pub fn next(&self, idle: Option<Duration>) -> Next {
        let deadline = idle.and_then(|idle| Instant::now().checked_add(idle));
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return Next::Close(std::mem::take(&mut queue.tasks));
            }
            if std::mem::take(&mut queue.unload) {
                return Next::Unload;
            }
            let ends =
                |task: &Task| matches!(task, Task::Embed(task) if task.early_end().is_some());
            let tasks = std::mem::take(&mut queue.tasks);
            let (over, waiting): (VecDeque<_>, _) = tasks.into_iter().partition(ends);
            queue.tasks = waiting;
            if !over.is_empty() {
                return Next::End(over);
            }
            if let Some(task) = queue.tasks.pop_front() {
                return Next::Do(task);
            }
            let Some(deadline) = deadline else {
                let woken = self.changed.wait(queue);
                queue = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Idle;
            }
            let woken = self.changed.wait_timeout(queue, left);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
