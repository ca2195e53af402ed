//! All tiles of a folder's images.

use std::path::PathBuf;
use std::sync::Arc;

use crate::data::{ImageSource as _, Tiles, eval_batches};
use crate::embedding::embedded::NOT_FINITE;
use crate::embedding::embedder::Embedder;
use crate::embedding::folder::{FolderRequest, check_layers};
use crate::embedding::table::TileTable;
use crate::error::{Error, Result};
use crate::path_text::{absolute, path_text};

/// Features of tiles, and what became of the others.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedTiles {
    /// The features.
    pub table: TileTable,
    /// Images that could not be read, and why.
    pub skipped: Vec<(PathBuf, String)>,
    /// Whether `progress` ended the work before the last tile.
    pub is_cut_short: bool,
}

/// Features of all tiles, image by image and row by row; each image is decoded once. `progress` gets the number of
/// tiles after each batch; if it returns false, the features so far are the result.
///
/// # Errors
/// A number of layers that the model does not have, no usable image, a device that failed, or a feature that is not finite.
pub fn embed_tiles(
    embedder: &Embedder,
    tiles: &Arc<Tiles>,
    request: &FolderRequest,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<EmbeddedTiles> {
    check_layers(embedder, request.layers)?;
    let width = embedder.width();
    let wanted = request.wanted();
    let mut embedded = EmbeddedTiles::default();
    let table = &mut embedded.table;
    table.width = width * request.layers * request.kind.parts();
    table.model = embedder.hash().to_owned();
    table.recipe = request.recipe(embedder);
    let (augment, classes) = (embedder.preprocessing().augment(), tiles.folder().classes());
    let source = tiles.clone();
    let mut batches = eval_batches(source, &augment, request.batch_size, request.workers)?;
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let made = embedder.run_pixels(batch.pixels, wanted)?;
        request.add_features(made, width, &mut table.features);
        for sample in batch.samples {
            let path = tiles.name(sample);
            table.paths.push(path_text(&absolute(&path)?));
            let label = tiles.label(sample);
            table
                .labels
                .push(label.and_then(|label| classes.get(label).cloned()));
            table.areas.push(tiles.area(sample)?);
        }
        embedded.skipped.extend(batches.take_skipped());
        if !progress(table.len()) {
            embedded.is_cut_short = table.len() < tiles.len();
            break;
        }
    }
    embedded.skipped.extend(batches.take_skipped());
    let wrong = table.features.iter().position(|value| !value.is_finite());
    match wrong.and_then(|at| table.paths.get(at / table.width)) {
        None => Ok(embedded),
        Some(path) => Err(Error::data(path, NOT_FINITE)),
    }
}
