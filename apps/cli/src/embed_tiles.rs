//! `ibot embed --tile`: the features of tiles of a folder's images.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ibot::data::{FolderConfig, ImageFolder, ImageSource as _, Tiles};
use ibot::embedding::{EmbeddedTiles, Embedder, FolderRequest, embed_tiles};
use ibot::error::{counted, printable};
use ibot::path_text::path_text;
use ibot::{Error, Result};
use serde::Serialize;

use super::model::ModelArgs;

/// Flags about tiles.
#[derive(Debug, Clone, clap::Args)]
pub struct TileArgs {
    /// Cut images into tiles of this many pixels; the file gets a row for each, with its x, y, width and height.
    #[arg(long, value_name = "PIXELS")]
    tile: Option<u32>,
    /// Pixels that neighboring tiles share at least.
    #[arg(long, value_name = "PIXELS", requires = "tile", default_value_t = 0)]
    tile_overlap: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    out: String,
    tiles: usize,
    images: usize,
    width: usize,
}

impl TileArgs {
    /// Whether images are cut.
    pub fn is_on(&self) -> bool {
        self.tile.is_some()
    }

    /// Refuses a size that cannot be.
    pub fn check(&self) -> Result<()> {
        self.config().validate()
    }

    fn config(&self) -> FolderConfig {
        FolderConfig {
            tile: self.tile,
            tile_overlap: self.tile_overlap,
            ..FolderConfig::default()
        }
    }

    /// Writes the features of all tiles to `out`, or of those until `stop` is raised to `partial`.
    pub fn embed(
        &self,
        model: &ModelArgs,
        embedder: &Embedder,
        folder: &Arc<ImageFolder>,
        request: &FolderRequest,
        [out, partial]: [&Path; 2],
        stop: &AtomicBool,
    ) -> Result<()> {
        let Some(grid) = self.config().tile_grid() else {
            return Ok(());
        };
        let tiles = Arc::new(Tiles::new(folder.clone(), grid));
        let (count, images) = (counted(tiles.len(), "tile"), counted(folder.len(), "image"));
        model.note(&format!("{count} of {images}"));
        let bar = ModelArgs::bar(tiles.len());
        let embedded = embed_tiles(embedder, &tiles, request, &mut |made| {
            bar.set_position(made as u64);
            !stop.load(Ordering::Relaxed)
        })?;
        bar.finish_and_clear();
        let EmbeddedTiles {
            table,
            skipped,
            is_cut_short,
        } = embedded;
        model.note_skipped(&skipped);
        let out = if is_cut_short { partial } else { out };
        table.write(out)?;
        let (rows, width, shown) = (table.len(), table.width, printable(out));
        if is_cut_short {
            model.note(&format!("{shown}: features of the first {rows} of {count}"));
            return Err(Error::Stopped);
        }
        let report = Report {
            out: path_text(out),
            tiles: rows,
            images: folder.len() - skipped.len(),
            width,
        };
        model.answer(&report, || {
            format!("{shown}: {rows} x {width} features of tiles")
        })
    }
}
