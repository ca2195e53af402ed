//! Pixels of a batch: bytes where their levels are whole, a quarter of the memory and of the upload.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};

use crate::data::views::augment::AugmentConfig;
use crate::kernels::{IbotBackend, LevelScale, LevelsInput, normalized_on_host};

/// Pixels of images of one size, channel by channel: `[B, 3, S, S]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// Levels of 0 to 255, which are normalized where they are needed: on the device, by [`Pixels::into_tensor`].
    Levels {
        /// The levels.
        levels: Vec<u8>,
        /// What comes of them.
        normalization: LevelScale,
    },
    /// Normalized.
    Values(Vec<f32>),
}

impl Default for Pixels {
    /// No image.
    fn default() -> Self {
        Self::Values(Vec::new())
    }
}

impl Pixels {
    /// Levels that are normalized as `augment` says.
    pub fn from_levels(levels: Vec<u8>, augment: &AugmentConfig) -> Self {
        Self::Levels {
            levels,
            normalization: LevelScale::new(augment.mean, augment.std),
        }
    }

    /// Bytes of `entries` of random views.
    pub(crate) fn bytes_of_views(augment: &AugmentConfig, entries: usize) -> usize {
        let entry = if augment.has_whole_levels() {
            size_of::<u8>()
        } else {
            size_of::<f32>()
        };
        entries.saturating_mul(entry)
    }

    /// Room for `entries` of random views.
    pub(in crate::data) fn of_views(augment: &AugmentConfig, entries: usize) -> Self {
        if augment.has_whole_levels() {
            Self::from_levels(vec![0; entries], augment)
        } else {
            Self::Values(vec![0.0; entries])
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Self::Levels { levels, .. } => levels.len(),
            Self::Values(values) => values.len(),
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that they take, on the host and on the way to a GPU.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Levels { levels, .. } => levels.len(),
            Self::Values(values) => size_of_val(values.as_slice()),
        }
    }

    /// The first entries, or all where there are not so many; the others stay.
    pub(crate) fn take_first(&mut self, entries: usize) -> Self {
        if entries >= self.len() {
            return std::mem::take(self);
        }
        match self {
            Self::Levels {
                levels,
                normalization,
            } => Self::Levels {
                levels: levels.drain(..entries).collect(),
                normalization: *normalization,
            },
            Self::Values(values) => Self::Values(values.drain(..entries).collect()),
        }
    }

    /// Without the entries in `range`, which must be there.
    pub(in crate::data) fn remove(&mut self, range: Range<usize>) {
        match self {
            Self::Levels { levels, .. } => drop(levels.drain(range)),
            Self::Values(values) => drop(values.drain(range)),
        }
    }

    /// The pixels as a model sees them, normalized on the host: the bits of [`Pixels::into_tensor`].
    ///
    /// # Shapes
    /// `side` S; `[B, 3, S, S]`.
    pub fn into_values(self, side: usize) -> Vec<f32> {
        match self {
            Self::Levels {
                levels,
                normalization,
            } => normalized_on_host(&levels, side * side, &normalization),
            Self::Values(values) => values,
        }
    }

    /// The pixels as a model sees them, on the device.
    ///
    /// # Shapes
    /// `side` S; `[B, 3, S, S]`.
    ///
    /// # Panics
    /// Where the entries are not those of such images.
    pub fn into_tensor<B: IbotBackend>(self, side: usize, device: &B::Device) -> Tensor<B, 4> {
        let images = self.len() / (3 * side * side).max(1);
        let dims = [images, 3, side, side];
        match self {
            Self::Levels {
                levels,
                normalization,
            } => {
                let input = LevelsInput {
                    levels,
                    dims,
                    normalization,
                };
                B::upload_levels(input, device)
            }
            Self::Values(values) => Tensor::from_data(TensorData::new(values, dims), device),
        }
    }
}
