//! One model on one device.

use std::path::Path;

use image::RgbImage;

use crate::backbone::VitConfig;
use crate::data::views::view::Augmenter;
use crate::data::{Pixels, ValueRange};
use crate::device::{DeviceGuard, Selected};
use crate::embedding::engine::{Engine, Loading, Made, Wanted};
use crate::error::Result;
use crate::files::NamedTensor;
use crate::files::model::{
    FINGERPRINT_IMAGES, ModelCard, ModelOptions, Normalized, Preprocessing, compare_fingerprint,
    read_model,
};
use crate::precision::Precision;

/// Number of built-in images that are compared on the CPU, which has no faulty driver: they detect a model that is not what
/// its file says, in a quarter of the time.
const COMPARED_ON_CPU: usize = 2;

/// A model file on a device, ready for images.
pub struct Embedder {
    engine: Box<dyn Engine>,
    card: Option<ModelCard>,
    architecture: VitConfig,
    preprocessing: Preprocessing,
    normalization: Normalized,
    hash: String,
    bytes: u64,
    difference: Option<f32>,
    device: String,
    precision: Precision,
}

/// Features of some images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    /// One an image, `[B, D]`.
    pub cls: Vec<f32>,
    /// One per patch, row by row, `[B, N, D]`; empty if not requested.
    pub patches: Vec<f32>,
}

/// Attention of the last block.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionMaps {
    /// Attention of the class token to each patch, `[B, H, N]`.
    pub values: Vec<f32>,
    /// Heads H.
    pub heads: usize,
    /// Rows and columns of the N patches.
    pub grid: [usize; 2],
}

impl Embedder {
    /// Reads a model file and puts it on a device.
    ///
    /// # Errors
    /// Those of [`read_model`]; [`crate::Error::Weights`] where the weights do not fit the architecture;
    /// [`crate::Error::Device`] where the device fails, or computes other features of the built-in images than the one
    /// that wrote the file.
    pub fn load(path: &Path, options: &ModelOptions, selected: &Selected) -> Result<Self> {
        let mut model = read_model(path, options)?;
        let guard = DeviceGuard::install(selected)?;
        let entries = |tensor: &NamedTensor| tensor.values.len() * size_of::<f32>();
        let bytes = model.tensors.values().map(entries).sum::<usize>() as u64;
        let loading = Loading {
            model: &mut model,
            path,
            guard: guard.clone(),
            precision: options.precision,
        };
        let engine = guard.catch(|| selected.dispatch(loading))??;
        let device = selected.to_string();
        let compared = match selected {
            Selected::Wgpu { .. } => FINGERPRINT_IMAGES,
            Selected::Flex | Selected::NdArray => COMPARED_ON_CPU,
        };
        let compare = |card: &ModelCard| {
            // at another input size, features differ from those in the file
            let found = engine.fingerprint(&card.preprocessing, compared)?;
            compare_fingerprint(path, card, &found, &device)
        };
        let difference = model.card.as_ref().map(compare).transpose()?;
        Ok(Self {
            engine,
            card: model.card,
            architecture: model.architecture,
            preprocessing: model.preprocessing,
            normalization: model.normalization,
            hash: model.hash,
            bytes,
            difference,
            device,
            precision: options.precision,
        })
    }

    /// The file's metadata; none for a file of another program.
    pub fn card(&self) -> Option<&ModelCard> {
        self.card.as_ref()
    }

    /// How far the features of the built-in images on this device are off those of the device that wrote the file, over
    /// their largest entry; none for a file without them.
    pub fn fingerprint_difference(&self) -> Option<f32> {
        self.difference
    }

    /// BLAKE3 of the model file.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Bytes of the weights on the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Backend and device, in words.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Width D of the features.
    pub fn width(&self) -> usize {
        self.architecture.embed_dim
    }

    /// Shape of the backbone.
    pub fn architecture(&self) -> &VitConfig {
        &self.architecture
    }

    /// How an image becomes the model's input.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// How images become its input, those of more than 8 bits by this range of values, and which numbers it computes with, as text:
    /// features of two tables can be mixed if their models, recipes and these agree.
    pub fn input(&self, range: ValueRange) -> String {
        let preprocessing = serde_json::to_string(&self.preprocessing).unwrap_or_default();
        let range = serde_json::to_string(&range).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION"); // images may be decoded otherwise in another one
        let precision = self.precision;
        format!("ibot {version}, {precision}, range {range}, {preprocessing}")
    }

    /// Mean and deviation that images are normalized with, and why it is these.
    pub fn normalization(&self) -> &Normalized {
        &self.normalization
    }

    /// Rows and columns of the patches of an image.
    pub fn grid(&self) -> [usize; 2] {
        [self.preprocessing.image_size / self.architecture.patch_size; 2]
    }

    /// The images as the model sees them, without the normalization: resized and cut to the input's size.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for an image without a pixel.
    pub fn seen(&self, image: &RgbImage) -> Result<RgbImage> {
        seen(&self.preprocessing, image)
    }

    /// One feature an image, all in one batch.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the device failed, [`crate::Error::Data`] for an image without a pixel.
    pub fn embed(&self, images: &[RgbImage]) -> Result<Embeddings> {
        self.embeddings(images, Wanted::CLS)
    }

    /// One feature an image, and one a patch.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn embed_with_patches(&self, images: &[RgbImage]) -> Result<Embeddings> {
        let wanted = Wanted {
            patches: true,
            ..Wanted::CLS
        };
        self.embeddings(images, wanted)
    }

    fn embeddings(&self, images: &[RgbImage], wanted: Wanted) -> Result<Embeddings> {
        let made = self.run(images, wanted)?;
        Ok(Embeddings {
            cls: made.cls,
            patches: made.patches,
        })
    }

    /// Attention of the class token in the last block.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn attention(&self, images: &[RgbImage]) -> Result<AttentionMaps> {
        let wanted = Wanted {
            attention: true,
            ..Wanted::CLS
        };
        Ok(AttentionMaps {
            values: self.run(images, wanted)?.attention,
            heads: self.architecture.num_heads,
            grid: self.grid(),
        })
    }

    fn run(&self, images: &[RgbImage], wanted: Wanted) -> Result<Made> {
        let augment = self.preprocessing.augment();
        let mut augmenter = Augmenter::new(&augment);
        let entries = augment.view_len();
        let mut levels = vec![0; images.len() * entries];
        for (image, out) in images.iter().zip(levels.chunks_mut(entries)) {
            augmenter.eval_view(image)?;
            augmenter.write_levels(out);
        }
        self.run_pixels(Pixels::from_levels(levels, &augment), wanted)
    }

    /// Features of pixels that are prepared.
    pub(crate) fn run_pixels(&self, pixels: Pixels, wanted: Wanted) -> Result<Made> {
        if pixels.is_empty() {
            return Ok(Made::default());
        }
        let side = self.preprocessing.image_size;
        self.engine.run(pixels, side, wanted)
    }
}

/// An image as a model sees it, without the normalization: resized and cut to its input's size.
///
/// # Errors
/// [`crate::Error::Data`] for an image without a pixel.
pub fn seen(preprocessing: &Preprocessing, image: &RgbImage) -> Result<RgbImage> {
    let mut augmenter = Augmenter::new(&preprocessing.augment());
    Ok(augmenter.eval_view(image)?.image())
}
