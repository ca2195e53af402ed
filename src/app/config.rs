//! Which model on which device, and its description once loaded.

use std::path::PathBuf;
use std::time::Duration;

use image::RgbImage;

use crate::data::FolderConfig;
use crate::device::{BackendChoice, Selected};
use crate::embedding::{Embedder, seen};
use crate::error::Result;
use crate::files::model::{ModelCard, ModelOptions, Preprocessing};

/// Where a handle computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceRequest {
    /// By a backend and, if given, a device's number or name, see [`crate::device::choose`].
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

/// Which model, where, and how large its batches are.
#[derive(Debug, Clone)]
pub struct EmbedderConfig {
    /// The model file. It must stay as it is while the embedder runs, because it is read again after the model was freed. No
    /// default.
    pub model: PathBuf,
    /// What the file's metadata lacks. Default: nothing.
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
    /// On the best device, up to 16 images a batch of about 0.2 s, kept in memory.
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
}

/// Description of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The file's metadata, license included; none for a file of another program.
    pub card: Option<ModelCard>,
    /// Width D of the features.
    pub width: usize,
    /// Heads H of the attention.
    pub heads: usize,
    /// Rows and columns of the N patches.
    pub grid: [usize; 2],
    /// The preprocessing of images.
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
    pub(super) fn new(embedder: &Embedder) -> Self {
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

    /// An image as the model sees it, resized and cut to its square input: what patches and attention lie on.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for an image without a pixel.
    pub fn seen(&self, image: &RgbImage) -> Result<RgbImage> {
        seen(&self.preprocessing, image)
    }
}
