//! One model on its own thread.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::app::config::{DeviceRequest, EmbedderConfig, ModelInfo};
use crate::app::job::{Job, Ticket};
use crate::app::queue::{EmbedTask, Shared, Task};
use crate::app::request::{EmbedRequest, ImageFeatures};
use crate::app::worker::Worker;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::memory::{GpuMemory, resident_mib};

impl EmbedderConfig {
    /// Starts the thread. The model is loaded by [`EmbedderHandle::load`] or the first request, whichever is first.
    ///
    /// # Errors
    /// [`Error::Config`] for a batch of no images, [`Error::Embedding`] if no thread can be started.
    pub fn start(self) -> Result<EmbedderHandle> {
        if self.batch_size == 0 {
            return Err(Error::config("batch_size", 0, "give 1 or more"));
        }
        let shared = Arc::new(Shared::default());
        let worker = Worker::new(self, shared.clone());
        let thread = std::thread::Builder::new()
            .name("ibot-embedder".into())
            .spawn(move || worker.run())
            .map_err(|error| {
                Error::Embedding(format!("cannot start a thread to embed with: {error}"))
            })?;
        Ok(EmbedderHandle(Arc::new(Owner {
            shared,
            thread: Mutex::new(Some(thread)),
        })))
    }
}

/// What a handle holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryReport {
    /// Whether the model is loaded.
    pub is_loaded: bool,
    /// Bytes of the loaded weights, on the device that computes.
    pub model_bytes: u64,
    /// Resident memory of the whole process, MiB; none if the system does not report it.
    pub resident_mib: Option<f64>,
    /// Memory that burn holds on the GPU for all models together, after the last batch; none on the CPU.
    pub gpu: Option<GpuMemory>,
}

/// One model on one device, for requests from any thread. Clones share it.
///
/// One thread does all the work and alternates between jobs after each batch, so a click does not wait for a folder. When
/// the last clone is dropped, running jobs end with [`Error::Stopped`] within a batch, which the drop waits for.
#[derive(Clone)]
pub struct EmbedderHandle(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EmbedderHandle {
    /// Loads the model if it is not.
    ///
    /// # Errors
    /// The job's: those of [`crate::embedding::Embedder::load`] and [`crate::device::choose`]; [`Error::Weights`] where the file
    /// changed since it was loaded before.
    pub fn load(&self) -> Job<ModelInfo> {
        let (ticket, job) = Ticket::new(0, None);
        self.push(Task::Load(ticket));
        job
    }

    /// Features of images, one entry each, in order; the entry of an unreadable image is its error. Loads the model if it
    /// is not.
    ///
    /// # Errors
    /// The job's: [`Error::Stopped`], [`Error::OutOfTime`], [`Error::Device`], and those of [`EmbedderHandle::load`].
    /// [`Job::take_finished`] still gives what was done before.
    pub fn embed(&self, request: impl Into<EmbedRequest>) -> Job<Vec<Result<ImageFeatures>>> {
        let request = request.into();
        let (ticket, job) = Ticket::new(request.images.len(), Some(Vec::new()));
        let task = EmbedTask::new(request, ticket, Instant::now());
        self.push(Task::Embed(Box::new(task)));
        job
    }

    /// Frees the model within one batch; the next request loads it again.
    pub fn unload(&self) {
        self.0.shared.unload();
    }

    /// Ends the thread, for all clones, as the drop of the last one does: running and later jobs end with [`Error::Stopped`] within
    /// a batch, which this waits for; a model that is being loaded is loaded first.
    pub fn close(&self) {
        self.0.close();
    }

    /// Frees the model and loads it on another device: after [`Error::Device`], or to move it.
    ///
    /// A device that ibot opened is opened again by itself, for the next job after it failed; `rebuild(BackendChoice::Flex)` goes to
    /// the CPU. The app's own device cannot be opened here: adopt another.
    ///
    /// # Errors
    /// The job's: those of [`EmbedderHandle::load`]. Then there is no model until the next `rebuild`.
    pub fn rebuild(&self, device: impl Into<DeviceRequest>) -> Job<ModelInfo> {
        let (ticket, job) = Ticket::new(0, None);
        self.push(Task::Rebuild(device.into(), ticket));
        job
    }

    fn push(&self, task: Task) {
        // a closed handle has no thread on which `on_progress` could be called: the job ends by being dropped
        drop(self.0.shared.push(task));
    }

    /// Description of the model, once it was loaded.
    #[must_use]
    pub fn info(&self) -> Option<ModelInfo> {
        self.0.shared.status().info.clone()
    }

    /// Current memory use.
    #[must_use]
    pub fn memory(&self) -> MemoryReport {
        let status = self.0.shared.status();
        let is_loaded = status.is_loaded;
        MemoryReport {
            is_loaded,
            model_bytes: match &status.info {
                Some(info) if is_loaded => info.bytes,
                _ => 0,
            },
            resident_mib: resident_mib(),
            gpu: status.gpu,
        }
    }
}

impl std::fmt::Debug for EmbedderHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmbedderHandle({:?})", self.memory())
    }
}

impl Owner {
    fn close(&self) {
        self.shared.close();
        let thread = lock(&self.thread).take();
        // the worker itself drops a handle if a callback of a job owns the last one
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}
