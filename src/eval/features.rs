//! Frozen features of an image folder.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;

use crate::backbone::Backbone;
use crate::data::{AugmentConfig, EvalBatches, ImageFolder, eval_batches};
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::kernels::IbotBackend;

/// Features and classes of the images of a folder that could be read.
#[derive(Debug, Clone, Default)]
pub struct FeatureSet {
    /// Row-major `[B, D]`.
    pub features: Vec<f32>,
    /// Width D.
    pub width: usize,
    /// Class of each row, where it has one, `[B]`.
    pub labels: Vec<Option<usize>>,
}

impl FeatureSet {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// The rows at these places.
    pub fn rows(&self, places: &[usize]) -> Self {
        let row = |at: &usize| &self.features[at * self.width..(at + 1) * self.width];
        Self {
            features: places.iter().flat_map(row).copied().collect(),
            width: self.width,
            labels: places.iter().map(|at| self.labels[*at]).collect(),
        }
    }

    /// The last `width` entries of each row, all of them where it has fewer.
    pub fn last_columns(&self, width: usize) -> Self {
        Self {
            features: last_columns(&self.features, self.width, width),
            width: self.width.min(width),
            labels: self.labels.clone(),
        }
    }

    /// All rows with length one, `[B, D]`; k-means on them groups by cosine similarity.
    pub fn unit_rows(&self) -> Vec<f32> {
        let rows = self.features.chunks_exact(self.width.max(1));
        rows.flat_map(unit).collect()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// How features of images are computed: those of a backbone ([`Backbone::embed`]), in a folder's order.
#[derive(Debug)]
pub struct FeatureExtractor<'a, B: IbotBackend, M> {
    /// The backbone.
    pub backbone: &'a M,
    /// How images become its input.
    pub augment: &'a AugmentConfig,
    /// Images at once, B.
    pub batch_size: usize,
    /// Threads that decode; 0 for one per core, and more while they wait for files.
    pub workers: usize,
    /// Of the device.
    pub guard: &'a DeviceGuard,
    /// Where the backbone is.
    pub device: &'a B::Device,
    /// Ends it within a batch of being raised.
    pub stop: &'a AtomicBool,
}

impl<B: IbotBackend, M: Backbone<B>> FeatureExtractor<'_, B, M> {
    /// The features of all images of a folder that can be decoded.
    ///
    /// # Errors
    /// No usable image, a worker that failed, a device that failed, or a feature that is not finite; [`Error::Stopped`].
    pub fn extract(&self, folder: Arc<ImageFolder>) -> Result<FeatureSet> {
        let batches = eval_batches(folder.clone(), self.augment, self.batch_size, self.workers)?;
        self.features(&folder, batches)
    }

    /// [`Self::extract`] of a part of a folder, for which it is no error that no image is usable.
    pub(crate) fn extract_part(&self, part: Arc<ImageFolder>) -> Result<FeatureSet> {
        let batches = eval_batches(part.clone(), self.augment, self.batch_size, self.workers)?;
        self.features(&part, batches.or_none())
    }

    fn features(&self, folder: &ImageFolder, mut batches: EvalBatches) -> Result<FeatureSet> {
        let (side, device) = (self.augment.image_size, self.device);
        let mut set = FeatureSet {
            features: Vec::new(),
            width: self.backbone.width(),
            labels: Vec::new(),
        };
        let mut upload = || {
            let batch = batches.next_until(self.stop).transpose()?;
            let sent =
                batch.map(|batch| (batch.pixels.into_tensor::<B>(side, device), batch.labels));
            Ok::<_, Error>(sent)
        };
        let mut next = upload()?;
        while let Some((images, labels)) = next {
            let embedded = self.backbone.embed(images);
            next = upload()?; // while the device computes these features
            let data = self.guard.read::<B, _>(device, || embedded.into_data())?;
            set.features.extend(data.iter::<f32>());
            set.labels.extend(labels);
        }
        if set.features.iter().any(|value| !value.is_finite()) {
            let reason = "has images whose features are not finite";
            return Err(Error::data(folder.root(), reason));
        }
        Ok(set)
    }
}

/// The last `kept` entries of each row of `width`, all of them where it has fewer.
///
/// # Shapes
/// `[B, width]` -> `[B, kept]`, row-major.
pub fn last_columns(rows: &[f32], width: usize, kept: usize) -> Vec<f32> {
    let skipped = width.saturating_sub(kept);
    let rows = rows.chunks_exact(width.max(1));
    rows.flat_map(|row| &row[skipped..]).copied().collect()
}

/// The row with length one; zeros stay zeros.
pub(super) fn unit(row: &[f32]) -> Vec<f32> {
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    row.iter().map(|x| x / norm).collect()
}

/// The rows of `width` values, each at length one; `None` for an empty one, or where a value is not finite.
pub(super) fn finite_unit_rows(mut rows: Vec<f32>, width: usize) -> Option<Vec<f32>> {
    if width == 0 || rows.is_empty() || !rows.par_iter().all(|value| value.is_finite()) {
        return None;
    }
    let in_place = |row: &mut [f32]| row.copy_from_slice(&unit(row));
    rows.par_chunks_exact_mut(width).for_each(in_place);
    Some(rows)
}
