//! Which model on which device, and what it turns out to be.

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
    /// The model file.
    pub model: PathBuf,
    /// What the file does not say of itself.
    pub options: ModelOptions,
    /// Where it computes.
    pub device: DeviceRequest,
    /// Most pictures a batch.
    pub batch_size: usize,
    /// How long a batch should take: where one takes longer, the next ones have fewer pictures, down to one. Cancelling
    /// acts within a batch, and on the app's own GPU its frames wait for one. `None` for no bound.
    pub batch_time: Option<Duration>,
    /// The model is freed after so long without a request, and loaded again at the next one. `None` for never.
    pub idle: Option<Duration>,
    /// Pictures of more pixels are not read.
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
