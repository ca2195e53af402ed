//! One model on one device.

use std::path::Path;

use burn_flex::Flex;
use burn_ndarray::NdArray;
use image::RgbImage;

use super::engine::{Engine, Made, Wanted, engine};
use crate::backbone::VitConfig;
use crate::data::view::Augmenter;
use crate::device::{DeviceGuard, Selected};
use crate::error::{Error, Result};
use crate::kernels::Gpu;
use crate::model::{ModelCard, ModelOptions, Preprocessing, read_model};
use crate::weights::NamedTensor;

/// Distance of fingerprints, over their largest entry, beyond which a device computes something else.
const MOST_DIFFERENCE: f32 = 0.05;

/// A model file on a device, ready for pictures.
pub struct Embedder {
    engine: Box<dyn Engine>,
    card: Option<ModelCard>,
    architecture: VitConfig,
    preprocessing: Preprocessing,
    hash: String,
    bytes: u64,
    difference: Option<f32>,
    device: String,
}

/// Features of some pictures.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    /// One a picture, `[B, D]`.
    pub cls: Vec<f32>,
    /// One a patch, row by row, `[B, N, D]`; empty where not asked for.
    pub patches: Vec<f32>,
}

/// Where the heads of the last block look.
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
    /// Those of [`read_model`]; [`Error::Weights`] where the weights do not fit the architecture; [`Error::Device`] where
    /// the device fails, or computes other features of the built-in pictures than the one that wrote the file.
    pub fn load(path: &Path, options: &ModelOptions, selected: &Selected) -> Result<Self> {
        let mut model = read_model(path, options)?;
        let guard = DeviceGuard::install(selected)?;
        let entries = |tensor: &NamedTensor| tensor.values.len() * size_of::<f32>();
        let bytes = model.tensors.values().map(entries).sum::<usize>() as u64;
        let engine = guard.clone().catch(|| match selected {
            Selected::Wgpu { device, .. } => engine::<Gpu>(&mut model, device.clone(), guard),
            Selected::Flex => engine::<Flex>(&mut model, Default::default(), guard),
            Selected::NdArray => engine::<NdArray<f32>>(&mut model, Default::default(), guard),
        });
        let engine = engine?.map_err(|error| match error {
            Error::Training(reason) => Error::Weights {
                path: path.to_path_buf(),
                reason,
            },
            other => other,
        })?;
        let mut embedder = Self {
            engine,
            card: model.card,
            architecture: model.architecture,
            preprocessing: model.preprocessing,
            hash: model.hash,
            bytes,
            difference: None,
            device: selected.to_string(),
        };
        embedder.difference = embedder.compare_fingerprint()?;
        match embedder.difference {
            Some(difference) if !(0.0..MOST_DIFFERENCE).contains(&difference) => {
                Err(Error::Device(format!(
                    "{}: features of the built-in pictures on this device ({selected}) are {:.1} % off those that the file \
                     was written with; `ibot verify` tells which operation is wrong",
                    path.display(),
                    100.0 * difference
                )))
            }
            _ => Ok(embedder),
        }
    }

    /// What the file says of itself; none for a file of another program.
    pub fn card(&self) -> Option<&ModelCard> {
        self.card.as_ref()
    }

    /// How far the features of the built-in pictures on this device (on the CPU, of the first one) are off those of the
    /// device that wrote the file, over their largest entry; none for a file without them.
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

    /// How a picture becomes the model's input.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Rows and columns of the patches of a picture.
    pub fn grid(&self) -> [usize; 2] {
        [self.preprocessing.image_size / self.architecture.patch_size; 2]
    }

    /// The pictures as the model sees them, without the normalisation: resized and cut to the input's size.
    ///
    /// # Errors
    /// [`Error::Data`] for a picture without a pixel.
    pub fn seen(&self, picture: &RgbImage) -> Result<RgbImage> {
        seen(&self.preprocessing, picture)
    }

    /// One feature a picture, all in one batch.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed, [`Error::Data`] for a picture without a pixel.
    pub fn embed(&self, pictures: &[RgbImage]) -> Result<Embeddings> {
        self.embeddings(pictures, false)
    }

    /// One feature a picture, and one a patch.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn embed_with_patches(&self, pictures: &[RgbImage]) -> Result<Embeddings> {
        self.embeddings(pictures, true)
    }

    fn embeddings(&self, pictures: &[RgbImage], patches: bool) -> Result<Embeddings> {
        let wanted = Wanted {
            patches,
            attention: false,
        };
        let made = self.run(pictures, wanted)?;
        Ok(Embeddings {
            cls: made.cls,
            patches: made.patches,
        })
    }

    /// Attention of the class token in the last block.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn attention(&self, pictures: &[RgbImage]) -> Result<AttentionMaps> {
        let wanted = Wanted {
            patches: false,
            attention: true,
        };
        Ok(AttentionMaps {
            values: self.run(pictures, wanted)?.attention,
            heads: self.architecture.num_heads,
            grid: self.grid(),
        })
    }

    fn run(&self, pictures: &[RgbImage], wanted: Wanted) -> Result<Made> {
        let augment = self.preprocessing.augment();
        let mut augmenter = Augmenter::new(&augment);
        let entries = augment.view_len();
        let mut pixels = vec![0.0; pictures.len() * entries];
        for (picture, out) in pictures.iter().zip(pixels.chunks_mut(entries)) {
            augmenter.eval_view(picture)?;
            augmenter.write(out);
        }
        self.run_pixels(pixels, pictures.len(), wanted)
    }

    /// Features of pixels that are prepared, `[count, 3, S, S]`.
    pub(crate) fn run_pixels(
        &self,
        pixels: Vec<f32>,
        count: usize,
        wanted: Wanted,
    ) -> Result<Made> {
        if count == 0 {
            return Ok(Made::default());
        }
        let side = self.preprocessing.image_size;
        self.engine.run(pixels, count, side, wanted)
    }

    fn compare_fingerprint(&self) -> Result<Option<f32>> {
        let Some(card) = &self.card else {
            return Ok(None);
        };
        // at another size of input, features are other ones
        let found = self.engine.fingerprint(&card.preprocessing)?;
        let largest = card
            .fingerprint
            .iter()
            .fold(0.0_f32, |max, x| max.max(x.abs()));
        if !card.fingerprint.len().is_multiple_of(found.len()) {
            return Ok(Some(f32::INFINITY));
        }
        let pairs = found.iter().zip(&card.fingerprint);
        let distance = pairs.fold(0.0_f32, |max, (a, b)| match (a - b).abs() {
            distance if distance <= max => max,
            distance => distance, // also what is not a number
        });
        Ok(Some(distance / largest.max(f32::MIN_POSITIVE)))
    }
}

/// A picture as a model sees it, without the normalisation: resized and cut to its input's size.
///
/// # Errors
/// [`Error::Data`] for a picture without a pixel.
pub fn seen(preprocessing: &Preprocessing, picture: &RgbImage) -> Result<RgbImage> {
    let side = preprocessing.image_size;
    let mut augmenter = Augmenter::new(&preprocessing.augment());
    let planes = augmenter.eval_view(picture)?.values();
    let plane = side * side;
    Ok(RgbImage::from_fn(side as u32, side as u32, |x, y| {
        let at = y as usize * side + x as usize;
        let value = |channel: usize| planes[channel * plane + at].round().clamp(0.0, 255.0);
        image::Rgb([0, 1, 2].map(|channel| value(channel) as u8))
    }))
}
