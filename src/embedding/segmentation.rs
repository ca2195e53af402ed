//! Patches with the masks under them, and masks that classifiers of patches predict.

use std::sync::Arc;

use rayon::prelude::*;

use crate::data::{ImageSource as _, MaskedImages};
use crate::embedding::embedder::Embedder;
use crate::embedding::patches::{PatchRequest, Visited, drawn, room, visit_patches};
use crate::error::Result;
use crate::eval::{Confusion, PatchRows, covers, upsampled_classes};

/// The patches of all images with the classes under them; at most `per_image` of each image, drawn from the seed.
/// `progress` gets the number of images after each batch.
///
/// Takes `4 D` bytes of memory for each patch.
///
/// # Errors
/// Those of [`visit_patches`]; [`crate::Error::Unsupported`] where the memory is not there; [`crate::Error::Data`] for a mask that
/// cannot be used.
pub fn patch_rows(
    embedder: &Embedder,
    images: &Arc<MaskedImages>,
    request: &PatchRequest,
    per_image: Option<usize>,
    seed: u64,
    progress: &mut dyn FnMut(usize),
) -> Result<(PatchRows, Visited)> {
    let shape = request.shape(embedder);
    let patch = embedder.architecture().patch_size;
    let of_image = shape.grid[0] * shape.grid[1];
    let most = images.len() * per_image.unwrap_or(of_image).min(of_image);
    let mut rows = PatchRows {
        width: shape.width,
        features: room(most, shape.width)?,
        ..PatchRows::default()
    };
    let mut made = 0;
    let visited = visit_patches(embedder, images.clone(), request, &mut |batch| {
        for (sample, patches) in batch.images() {
            let covers = covers(&images.take(sample)?, shape.grid[0] * patch, patch);
            let places = drawn(covers.len(), per_image, seed, sample);
            rows.push_image(patches, &covers, &places);
        }
        made += batch.samples.len();
        progress(made);
        Ok(true)
    })?;
    Ok((rows, visited))
}

/// An image with its mask and the ones that were predicted.
#[derive(Debug, Clone, Copy)]
pub struct Segmented<'a> {
    /// Its place among the images.
    pub sample: usize,
    /// The true classes in the evaluation view, `[S, S]`.
    pub truth: &'a [u8],
    /// The predicted ones, `[S, S]` by each classifier.
    pub predicted: &'a [Vec<u8>],
}

/// What gives the patches `[N, D]` of an image a score for each class: `[N, K]` by each of several classifiers.
pub type PatchScores<'a> = dyn Fn(&[f32]) -> Vec<Vec<f64>> + Sync + 'a;

/// Predicts the masks of all images, and counts how often they are right, once for each classifier; pixels to ignore are not
/// counted. `see` gets each image; `scores` are those of `classes`, `[K]`.
///
/// # Errors
/// As [`patch_rows`].
pub fn segment(
    embedder: &Embedder,
    images: &Arc<MaskedImages>,
    request: &PatchRequest,
    classes: &[u8],
    scores: &PatchScores<'_>,
    see: &mut dyn FnMut(Segmented<'_>) -> Result<()>,
) -> Result<(Vec<Confusion>, Visited)> {
    let shape = request.shape(embedder);
    let side = shape.grid[0] * embedder.architecture().patch_size;
    let mut confusions: Vec<Confusion> = Vec::new();
    let visited = visit_patches(embedder, images.clone(), request, &mut |batch| {
        let each: Vec<(usize, &[f32])> = batch.images().collect();
        let mask = |scores: Vec<f64>| upsampled_classes(&scores, classes, shape.grid, side);
        let masks =
            |(_, patches): &(usize, &[f32])| scores(patches).into_iter().map(mask).collect();
        let predicted: Vec<Vec<Vec<u8>>> = each.par_iter().map(masks).collect();
        for (sample, predicted) in batch.samples.iter().zip(&predicted) {
            let truth = images.take(*sample)?;
            confusions.resize(predicted.len(), Confusion::default());
            for (confusion, predicted) in confusions.iter_mut().zip(predicted) {
                confusion.add(&truth, predicted);
            }
            see(Segmented {
                sample: *sample,
                truth: &truth,
                predicted,
            })?;
        }
        Ok(true)
    })?;
    Ok((confusions, visited))
}
