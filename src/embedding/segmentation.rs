//! Patches with the masks under them, and masks that classifiers of patches predict.

use std::sync::Arc;

use rayon::prelude::*;

use crate::data::{MaskedPictures, PictureSource as _};
use crate::embedding::embedder::Embedder;
use crate::embedding::patches::{PatchRequest, Visited, visit_patches};
use crate::error::{Error, Result};
use crate::eval::{Confusion, PatchRows, covers, upsampled_classes};
use crate::random::{Random, Stream};

/// The patches of all pictures with the classes under them; at most `per_image` of each picture, drawn from the seed.
/// `progress` gets the number of pictures after each batch.
///
/// Takes `4 D` bytes of memory for each patch.
///
/// # Errors
/// Those of [`visit_patches`]; [`Error::Unsupported`] where the memory is not there; [`Error::Data`] for a mask that cannot be used, or a feature that is not finite.
pub fn patch_rows(
    embedder: &Embedder,
    pictures: &Arc<MaskedPictures>,
    request: &PatchRequest,
    per_image: Option<usize>,
    seed: u64,
    progress: &mut dyn FnMut(usize),
) -> Result<(PatchRows, Visited)> {
    let shape = request.shape(embedder);
    let patch = embedder.architecture().patch_size;
    let mut rows = PatchRows {
        width: shape.width,
        ..PatchRows::default()
    };
    let of_image = shape.grid[0] * shape.grid[1];
    let most = pictures.len() * per_image.unwrap_or(of_image).min(of_image);
    // at once: a vector that grows takes three times as much while it moves
    if rows.features.try_reserve_exact(most * shape.width).is_err() {
        let bytes = most * shape.width * size_of::<f32>();
        let reason = format!("{most} patches take {bytes} bytes, which the system does not give");
        return Err(Error::Unsupported(reason));
    }
    let mut made = 0;
    let visited = visit_patches(embedder, pictures.clone(), request, &mut |batch| {
        let each = batch.patches.chunks_exact(shape.values());
        for (sample, patches) in batch.samples.iter().zip(each) {
            check_finite(pictures, *sample, patches)?;
            let covers = covers(&pictures.take(*sample)?, shape.grid[0] * patch, patch);
            let mut places: Vec<usize> = (0..covers.len()).collect();
            if let Some(count) = per_image.filter(|count| *count < places.len()) {
                Random::new(seed, 0, *sample as u64, Stream::Shuffle).shuffle(&mut places);
                places.truncate(count);
                places.sort_unstable();
            }
            rows.push_picture(patches, &covers, &places);
        }
        made += batch.samples.len();
        progress(made);
        Ok(true)
    })?;
    Ok((rows, visited))
}

/// A picture with its mask and the ones that were predicted.
#[derive(Debug, Clone, Copy)]
pub struct Segmented<'a> {
    /// Its place among the pictures.
    pub sample: usize,
    /// The true classes in the evaluation view, `[S, S]`.
    pub truth: &'a [u8],
    /// The predicted ones, `[S, S]` by each classifier.
    pub predicted: &'a [Vec<u8>],
}

/// What gives the patches `[N, D]` of a picture a score for each class: `[N, K]` by each of several classifiers.
pub type PatchScores<'a> = dyn Fn(&[f32]) -> Vec<Vec<f64>> + Sync + 'a;

/// Predicts the masks of all pictures, and counts how often they are right, once for each classifier; pixels to ignore are not
/// counted. `see` gets each picture; `scores` are those of `classes`, `[K]`.
///
/// # Errors
/// As [`patch_rows`].
pub fn segment(
    embedder: &Embedder,
    pictures: &Arc<MaskedPictures>,
    request: &PatchRequest,
    classes: &[u8],
    scores: &PatchScores<'_>,
    see: &mut dyn FnMut(Segmented<'_>) -> Result<()>,
) -> Result<(Vec<Confusion>, Visited)> {
    let shape = request.shape(embedder);
    let side = shape.grid[0] * embedder.architecture().patch_size;
    let mut confusions: Vec<Confusion> = Vec::new();
    let visited = visit_patches(embedder, pictures.clone(), request, &mut |batch| {
        let each: Vec<&[f32]> = batch.patches.chunks_exact(shape.values()).collect();
        let mask = |scores: Vec<f64>| upsampled_classes(&scores, classes, shape.grid, side);
        let masks = |patches: &&[f32]| scores(patches).into_iter().map(mask).collect();
        let predicted: Vec<Vec<Vec<u8>>> = each.par_iter().map(masks).collect();
        for ((sample, predicted), patches) in batch.samples.iter().zip(&predicted).zip(each) {
            check_finite(pictures, *sample, patches)?;
            let truth = pictures.take(*sample)?;
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

fn check_finite(pictures: &MaskedPictures, sample: usize, patches: &[f32]) -> Result<()> {
    match patches.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Error::data(
            pictures.name(sample),
            "its patch features are not finite",
        )),
    }
}
