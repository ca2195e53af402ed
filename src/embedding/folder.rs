//! All pictures of a folder.

use std::sync::Arc;

use super::engine::Wanted;
use super::{Embedded, Embedder, FeatureKind};
use crate::data::{ImageFolder, PictureSource as _, eval_batches};
use crate::error::{Error, Result};
use crate::eval::FeatureSet;

/// How a folder is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderRequest {
    /// Which feature.
    pub kind: FeatureKind,
    /// Pictures a batch.
    pub batch_size: usize,
    /// Threads that decode; 0 for one a core.
    pub workers: usize,
}

impl Default for FolderRequest {
    fn default() -> Self {
        Self {
            kind: FeatureKind::Cls,
            batch_size: 32,
            workers: 0,
        }
    }
}

/// Features of all pictures of a folder, in its order. `progress` hears the number of pictures after each batch, and stops
/// by giving false.
///
/// # Errors
/// No usable picture, a device that failed, a feature that is not finite, or [`Error::Stopped`].
pub fn embed_folder(
    embedder: &Embedder,
    folder: &Arc<ImageFolder>,
    request: &FolderRequest,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Embedded> {
    let width = embedder.width();
    let wanted = Wanted {
        patches: request.kind != FeatureKind::Cls,
        attention: false,
    };
    let mut embedded = Embedded {
        set: FeatureSet {
            features: Vec::new(),
            width: width
                * if request.kind == FeatureKind::Both {
                    2
                } else {
                    1
                },
            labels: Vec::new(),
        },
        classes: folder.classes().to_vec(),
        ..Embedded::default()
    };
    let augment = embedder.preprocessing().augment();
    let mut batches = eval_batches(
        folder.clone(),
        &augment,
        request.batch_size,
        request.workers,
    )?;
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let count = batch.samples.len();
        let made = embedder.run_pixels(batch.pixels, count, wanted)?;
        let per_picture = made.patches.len() / count;
        for at in 0..count {
            let cls = &made.cls[at * width..(at + 1) * width];
            let patches = &made.patches[at * per_picture..(at + 1) * per_picture];
            let features = &mut embedded.set.features;
            match request.kind {
                FeatureKind::Cls => features.extend(cls),
                FeatureKind::Patch => features.extend(mean(patches, width)),
                FeatureKind::Both => {
                    features.extend(cls);
                    features.extend(mean(patches, width));
                }
            }
        }
        embedded.set.labels.extend(batch.labels);
        let paths = batch.samples.iter().map(|sample| folder.name(*sample));
        embedded.paths.extend(paths);
        embedded.skipped.extend(batches.take_skipped());
        if !progress(embedded.paths.len()) {
            return Err(Error::Stopped);
        }
    }
    embedded.skipped.extend(batches.take_skipped());
    let row = embedded.set.width;
    let wrong = embedded
        .set
        .features
        .iter()
        .position(|value| !value.is_finite());
    match wrong.and_then(|at| embedded.paths.get(at / row)) {
        None => Ok(embedded),
        Some(path) => Err(Error::data(path, "its features are not finite numbers")),
    }
}

fn mean(patches: &[f32], width: usize) -> Vec<f32> {
    let count = (patches.len() / width).max(1);
    let mut sum = vec![0.0_f64; width];
    for patch in patches.chunks_exact(width) {
        for (sum, value) in sum.iter_mut().zip(patch) {
            *sum += f64::from(*value);
        }
    }
    sum.iter().map(|sum| (sum / count as f64) as f32).collect()
}
