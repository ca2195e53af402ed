//! One model behind a thread of its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use image::RgbImage;

use super::job::Ticket;
use super::queue::{EmbedTask, Shared, Task};
use super::worker::Worker;
use super::{EmbedRequest, Job, PictureFeatures};
use crate::data::FolderConfig;
use crate::device::faults::lock;
use crate::device::{BackendChoice, Selected};
use crate::embedding::{Embedder, seen};
use crate::error::{Error, Result};
use crate::memory::{GpuMemory, resident_mib};
use crate::model::{ModelCard, ModelOptions, Preprocessing};

/// Where a handle computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceRequest {
    /// As `--backend` and `--device` say it: see [`crate::device::choose`].
    Choose(BackendChoice, Option<String>),
    /// This device: one that was selected before, or the app's own ([`crate::device::ExistingDevice`]).
    Selected(Selected),
}

impl Default for DeviceRequest {
    fn default() -> Self {
        BackendChoice::Auto.into()
    }
}

impl From<BackendChoice> for DeviceRequest {
    fn from(choice: BackendChoice) -> Self {
        Self::Choose(choice, None)
    }
}

impl From<Selected> for DeviceRequest {
    fn from(selected: Selected) -> Self {
        Self::Selected(selected)
    }
}

/// Which model, where, and how much of it at once.
#[derive(Debug, Clone)]
pub struct EmbedderConfig {
    /// The model file. No default.
    pub model: PathBuf,
    /// What the file does not say of itself. Default: nothing.
    pub options: ModelOptions,
    /// Where it computes. Default: a GPU if there is one, the CPU otherwise.
    pub device: DeviceRequest,
    /// Largest number of images a batch. Default 16.
    pub batch_size: usize,
    /// How long a batch should take; after one that takes longer, the next ones have fewer images, down to one. A job
    /// is cancelled within one batch, and frames of an application that shares its GPU wait for one. `None` for no
    /// bound. Default 0.2 s.
    pub batch_time: Option<Duration>,
    /// Time without a request after which the model is freed; the next request loads it again. `None` for never.
    /// Default `None`.
    pub idle: Option<Duration>,
    /// Images with more pixels are not read. Default 100 million.
    pub max_pixels: u64,
}

impl EmbedderConfig {
    /// On the best device, up to 16 pictures a batch of about 0.2 s, kept in memory.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            options: ModelOptions::default(),
            device: DeviceRequest::default(),
            batch_size: 16,
            batch_time: Some(Duration::from_millis(200)),
            idle: None,
            max_pixels: FolderConfig::default().max_pixels,
        }
    }

    /// Starts the thread. The model is loaded by [`EmbedderHandle::load`] or the first request, whichever is first.
    ///
    /// # Errors
    /// [`Error::Config`] for a batch of no pictures, [`Error::Embedding`] where there is no thread to be had.
    pub fn start(self) -> Result<EmbedderHandle> {
        if self.batch_size == 0 {
            return Err(Error::config("batch_size", 0, "give 1 or more"));
        }
        let shared = Arc::new(Shared::default());
        let worker = Worker::new(self, shared.clone());
        let thread = std::thread::Builder::new()
            .name("ibot-embedder".into())
            .spawn(move || worker.run())
            .map_err(|error| Error::Embedding(format!("no thread to embed with: {error}")))?;
        Ok(EmbedderHandle(Arc::new(Owner {
            shared,
            thread: Mutex::new(Some(thread)),
        })))
    }
}

/// A loaded model, in words and numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// What the file says of itself, license included; none for a file of another program.
    pub card: Option<ModelCard>,
    /// Width D of the features.
    pub width: usize,
    /// Heads H of the attention.
    pub heads: usize,
    /// Rows and columns of the N patches.
    pub grid: [usize; 2],
    /// How a picture becomes the model's input.
    pub preprocessing: Preprocessing,
    /// BLAKE3 of the file.
    pub hash: String,
    /// Backend and device.
    pub device: String,
    /// See [`Embedder::fingerprint_difference`].
    pub fingerprint_difference: Option<f32>,
    /// Bytes of the weights.
    pub bytes: u64,
}

impl ModelInfo {
    pub(super) fn of(embedder: &Embedder) -> Self {
        Self {
            card: embedder.card().cloned(),
            width: embedder.width(),
            heads: embedder.architecture().num_heads,
            grid: embedder.grid(),
            preprocessing: embedder.preprocessing().clone(),
            hash: embedder.hash().to_owned(),
            device: embedder.device().to_owned(),
            fingerprint_difference: embedder.fingerprint_difference(),
            bytes: embedder.bytes(),
        }
    }

    /// A picture as the model sees it, resized and cut to its square input: what patches and attention lie on.
    ///
    /// # Errors
    /// [`Error::Data`] for a picture without a pixel.
    pub fn seen(&self, picture: &RgbImage) -> Result<RgbImage> {
        seen(&self.preprocessing, picture)
    }
}

/// What a handle holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryReport {
    /// Whether the model is loaded.
    pub is_loaded: bool,
    /// Bytes of the loaded weights, on the device that computes.
    pub model_bytes: u64,
    /// Resident memory of the whole process, MiB; none where the system does not tell.
    pub resident_mib: Option<f64>,
    /// What burn holds on the GPU, all its models together, after the last batch; none on the CPU.
    pub gpu: Option<GpuMemory>,
}

/// One model on one device, to be asked from any thread. Clones share it.
///
/// All of its work is done on one thread, job by job in turns of one batch, so a click does not wait for a folder. When
/// the last clone is dropped, jobs under way end with [`Error::Stopped`] within a batch, which the drop waits for.
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
    /// The job's: those of [`Embedder::load`] and [`crate::device::choose`].
    pub fn load(&self) -> Job<ModelInfo> {
        let (ticket, job) = Ticket::new(0, None);
        self.0.shared.push(Task::Load(ticket));
        job
    }

    /// Features of pictures, one entry each, in their order: an unreadable picture's is its error. Loads the model if it
    /// is not.
    ///
    /// # Errors
    /// The job's: [`Error::Stopped`], [`Error::OutOfTime`], [`Error::Device`], and those of [`EmbedderHandle::load`].
    /// [`Job::take_finished`] still gives what was done before.
    pub fn embed(&self, request: impl Into<EmbedRequest>) -> Job<Vec<Result<PictureFeatures>>> {
        let request = request.into();
        let (ticket, job) = Ticket::new(request.pictures.len(), Some(Vec::new()));
        let task = EmbedTask::new(request, ticket, Instant::now());
        self.0.shared.push(Task::Embed(Box::new(task)));
        job
    }

    /// Frees the model within one batch; the next request loads it again.
    pub fn unload(&self) {
        self.0.shared.unload();
    }

    /// After [`Error::Device`], or to move: frees the model and loads it on another device.
    ///
    /// For a [`DeviceRequest::Choose`] whose device was lost, that adapter is opened anew;
    /// `rebuild(BackendChoice::Flex)` goes to the CPU. The app's own device can not be opened here: adopt another.
    ///
    /// # Errors
    /// The job's: those of [`EmbedderHandle::load`]. Then there is no model until the next `rebuild`.
    pub fn rebuild(&self, device: impl Into<DeviceRequest>) -> Job<ModelInfo> {
        let (ticket, job) = Ticket::new(0, None);
        self.0.shared.push(Task::Rebuild(device.into(), ticket));
        job
    }

    /// What the model is, where it was loaded before.
    #[must_use]
    pub fn info(&self) -> Option<ModelInfo> {
        self.0.shared.status().info.clone()
    }

    /// What is held now.
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

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
        let thread = lock(&self.thread).take();
        // the worker itself drops a handle where a callback of a job owns the last one
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}
