//! Patch features of many images, batch by batch: at no time are all of them in memory.

use std::path::PathBuf;
use std::sync::Arc;

use crate::data::{ImageFolder, ImageSource, eval_batches};
use crate::embedding::embedder::Embedder;
use crate::embedding::engine::Wanted;
use crate::embedding::folder::check_layers;
use crate::embedding::table::{PatchOrigin, PatchOwner, PatchShape, PatchTable};
use crate::error::{Error, Result, counted};
use crate::path_text::{absolute, path_text};
use crate::random::{Random, Stream};

/// How the patches of a folder are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchRequest {
    /// Number of final blocks whose patch features are put side by side, last block last; 1 to the depth.
    pub layers: usize,
    /// Images a batch.
    pub batch_size: usize,
    /// Threads that decode; 0 for one a core.
    pub workers: usize,
}

impl Default for PatchRequest {
    fn default() -> Self {
        Self {
            layers: 1,
            batch_size: 32,
            workers: 0,
        }
    }
}

impl PatchRequest {
    /// Grid, and width of a patch's feature.
    pub fn shape(&self, embedder: &Embedder) -> PatchShape {
        PatchShape {
            grid: embedder.grid(),
            width: embedder.width() * self.layers,
        }
    }

    /// The requested features in words.
    pub fn recipe(&self, embedder: &Embedder) -> String {
        let side = embedder.preprocessing().image_size;
        format!(
            "patches of {} at {side} pixels",
            counted(self.layers, "block")
        )
    }
}

/// Patch features of some images.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchBatch {
    /// Places of the images in their source, rising, `[B]`.
    pub samples: Vec<usize>,
    /// `[B, N, D]`, the patches of each row by row.
    pub patches: Vec<f32>,
}

impl PatchBatch {
    /// Each image's place and its patches, `[N, D]`.
    pub fn images(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let values = self.patches.len() / self.samples.len().max(1);
        let samples = self.samples.iter().copied();
        samples.zip(self.patches.chunks_exact(values.max(1)))
    }
}

/// Room for patches, at once: a vector that grows takes three times as much while it moves.
///
/// # Errors
/// [`Error::Unsupported`] where the memory is not there.
pub(super) fn room(patches: usize, width: usize) -> Result<Vec<f32>> {
    let mut room = Vec::new();
    if room.try_reserve_exact(patches * width).is_err() {
        let bytes = patches * width * size_of::<f32>();
        let reason =
            format!("{patches} patches take {bytes} bytes, which the system does not give");
        return Err(Error::Unsupported(reason));
    }
    Ok(room)
}

/// Which of an image's patches are taken, rising: all, or so many that are drawn from the seed.
pub(super) fn drawn(patches: usize, most: Option<usize>, seed: u64, sample: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..patches).collect();
    if let Some(most) = most.filter(|most| *most < patches) {
        Random::new(seed, 0, sample as u64, Stream::Shuffle).shuffle(&mut places);
        places.truncate(most);
        places.sort_unstable();
    }
    places
}

/// How the images of a source were gone through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visited {
    /// Images that could not be read, and why.
    pub skipped: Vec<(PathBuf, String)>,
    /// Whether `visit` ended the work before the last image.
    pub is_cut_short: bool,
}

/// Computes the patch features of all images of a source, in its order, and hands them to `visit` batch by batch; false ends
/// the work.
///
/// # Errors
/// A number of layers that the model does not have, no usable image, a device that failed, [`Error::Data`] for a feature that is
/// not finite, and those of `visit`.
pub fn visit_patches(
    embedder: &Embedder,
    source: Arc<dyn ImageSource>,
    request: &PatchRequest,
    visit: &mut dyn FnMut(PatchBatch) -> Result<bool>,
) -> Result<Visited> {
    check_layers(embedder, request.layers)?;
    let wanted = Wanted {
        layers: request.layers,
        patches: true,
        ..Wanted::CLS
    };
    let (augment, last) = (embedder.preprocessing().augment(), source.len());
    let mut batches = eval_batches(
        source.clone(),
        &augment,
        request.batch_size,
        request.workers,
    )?;
    let mut visited = Visited::default();
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let patches = embedder.run_pixels(batch.pixels, wanted)?.patches;
        let samples = batch.samples;
        let is_last = samples.last().is_none_or(|sample| sample + 1 == last);
        visited.skipped.extend(batches.take_skipped());
        let batch = PatchBatch { samples, patches };
        let is_bad = |patches: &[f32]| patches.iter().any(|value| !value.is_finite());
        if let Some((sample, _)) = batch.images().find(|(_, patches)| is_bad(patches)) {
            let reason = "its patch features are not finite";
            return Err(Error::data(source.name(sample), reason));
        }
        if !visit(batch)? {
            visited.is_cut_short = !is_last;
            break;
        }
    }
    visited.skipped.extend(batches.take_skipped());
    Ok(visited)
}

impl PatchTable {
    /// Begins a table at `path`, in the format of its ending, for the patches of a folder's images.
    ///
    /// # Errors
    /// Those of [`PatchTable::create`].
    pub fn of_folder(
        path: &std::path::Path,
        embedder: &Embedder,
        folder: &ImageFolder,
        request: &PatchRequest,
    ) -> Result<Self> {
        check_layers(embedder, request.layers)?;
        let owner = |at: usize| {
            let name = folder.name(at);
            let label = folder.label(at);
            Ok(PatchOwner {
                path: path_text(&absolute(&name)?),
                label: label.and_then(|label| folder.classes().get(label).cloned()),
            })
        };
        let owners: Result<Vec<PatchOwner>> = (0..folder.len()).map(owner).collect();
        let origin = PatchOrigin {
            model: embedder.hash().to_owned(),
            recipe: request.recipe(embedder),
        };
        Self::create(path, request.shape(embedder), owners?, origin)
    }
}

/// Writes the patches of all images of a folder to a table that was begun for them. `progress` gets the number of images
/// after each batch; false ends the work.
///
/// # Errors
/// Those of [`visit_patches`] and [`PatchTable::push`].
pub fn embed_patches(
    embedder: &Embedder,
    folder: &Arc<ImageFolder>,
    request: &PatchRequest,
    table: &mut PatchTable,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Visited> {
    let values = table.shape().values().max(1);
    visit_patches(embedder, folder.clone(), request, &mut |batch| {
        let patches = batch.patches.chunks_exact(values);
        let mut pairs = batch.samples.iter().zip(patches);
        pairs.try_for_each(|(sample, patches)| table.push(*sample, patches))?;
        Ok(progress(table.len()))
    })
}
