//! `ibot embed`: the features of a folder's images, or of their patches, as a file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ibot::data::{ImageFolder, ImageSource as _};
use ibot::embedding::{
    Embedder, EmbeddingTable, FeatureKind, FeatureStore, FolderRequest, PatchRequest, PatchTable,
    TableFormat, TableKind, TileTable, embed_patches,
};
use ibot::error::{counted, printable};
use ibot::path_text::path_text;
use ibot::{Error, Result};
use serde::Serialize;

use super::choices::{EMBEDDED, Embedded, one_of};
use super::destination::outside;
use super::embed_tiles::TileArgs;
use super::features::{partial, write_or_keep};
use super::images::Images;
use super::model::ModelArgs;
use super::ranks::RankArgs;
use super::signals::stop_on_signal;

/// Flags of `ibot embed`.
#[derive(Debug, clap::Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: Images,
    /// File to write: .npy, .csv, .parquet or .safetensors. If a .safetensors file is there and of the same model, only new and
    /// changed images are computed. Patches are an array of [images, rows, columns, width] in .npy and .safetensors, and
    /// a row per patch in .csv and .parquet.
    #[arg(long)]
    out: PathBuf,
    /// Features to compute per image.
    #[arg(long, value_parser = one_of(EMBEDDED), default_value = "cls")]
    features: Embedded,
    /// Number of final blocks to concatenate (last block last).
    #[arg(long, value_name = "BLOCKS", default_value_t = 1)]
    layers: usize,
    /// Compute the features of all images, also of those that have some in --out.
    #[arg(long)]
    recompute: bool,
    #[command(flatten)]
    tiles: TileArgs,
    #[command(flatten)]
    ranks: RankArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    out: String,
    images: usize,
    /// Rows and columns of the patches of each image.
    #[serde(skip_serializing_if = "Option::is_none")]
    grid: Option<[usize; 2]>,
    width: usize,
    /// Images whose features were in the file already, and those that are no longer in the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<usize>,
}

impl EmbedArgs {
    pub fn run(mut self) -> Result<()> {
        self.model.join(&self.ranks)?;
        self.model.ranks.end(self.embedded())
    }

    fn embedded(&self) -> Result<()> {
        self.check_out()?;
        self.tiles.check()?;
        if self.tiles.is_on() && matches!(self.features, Embedded::Patches) {
            let remedy = "cannot be combined with --tile: give cls, patch or both";
            return Err(Error::config("--features", "patches", remedy));
        }
        if self.tiles.is_on() {
            self.model.ranks.alone_for("--tile", "given")?;
        }
        if matches!(self.features, Embedded::Patches) {
            self.model.ranks.alone_for("--features", "patches")?;
        }
        self.kind().refuse_others(&self.out)?;
        let embedder = self.model.load()?;
        let folder = self.model.scan(self.data.path())?;
        match self.features {
            Embedded::Image(kind) if self.tiles.is_on() => {
                let request = self.model.request(kind, self.layers);
                let (stop, partial) = (stop_on_signal()?, partial(&self.out));
                let outs = [&*self.out, &partial];
                let (model, tiles) = (&self.model, &self.tiles);
                tiles.embed(model, &embedder, &folder, &request, outs, &stop)
            }
            Embedded::Image(kind) => self.images(&embedder, &folder, kind),
            Embedded::Patches => self.patches(&embedder, &folder),
        }
    }

    /// Refuses a file, or one that will be beside it, which cannot be written or would replace something else.
    fn check_out(&self) -> Result<()> {
        let written = if self.tiles.is_on() {
            TileTable::written
        } else {
            EmbeddingTable::written
        };
        for out in [&self.out, &partial(&self.out)] {
            for file in written(out) {
                outside("--out", &file, self.data.path())?;
            }
        }
        if self.tiles.is_on() {
            TileTable::check_path(&self.out)
        } else {
            EmbeddingTable::check_path(&self.out)
        }
    }

    /// What the file is to have rows of.
    fn kind(&self) -> TableKind {
        match self.features {
            Embedded::Patches => TableKind::Patches,
            Embedded::Image(_) if self.tiles.is_on() => TableKind::Tiles,
            Embedded::Image(_) => TableKind::Images,
        }
    }

    fn images(
        &self,
        embedder: &Embedder,
        folder: &Arc<ImageFolder>,
        kind: FeatureKind,
    ) -> Result<()> {
        EmbeddingTable::check_names(&self.out, folder)?;
        let stop = stop_on_signal()?;
        let request = self.model.request(kind, self.layers);
        let mut store = self.store()?;
        let (own, partly) = self.before(embedder, folder, &request, store.as_ref());
        let before: Vec<&EmbeddingTable> = own.into_iter().chain(&partly).collect();
        let (embedded, reused) =
            (self.model).embed_changed(embedder, folder, &request, &before, &stop)?;
        let is_cut_short = embedded.is_cut_short;
        if !self.model.ranks.is_first() {
            return if is_cut_short {
                Err(Error::Stopped)
            } else {
                Ok(())
            };
        }
        let out = self.written_to(is_cut_short);
        let table = EmbeddingTable::new(embedded, embedder.hash());
        let paths: HashSet<&String> = table.paths.iter().collect();
        let removed = (!before.is_empty()).then(|| {
            let before = own.map_or(&[][..], |own| &own.paths);
            before.iter().filter(|path| !paths.contains(path)).count()
        });
        let report = Report {
            kept: removed.map(|_| reused.kept),
            removed,
            out: path_text(&out),
            images: table.len(),
            grid: None,
            width: table.width,
        };
        match store.as_mut().filter(|_| !is_cut_short) {
            Some(store) => {
                let remedy = "the same command goes on from there";
                write_or_keep(store, table, &partial(&self.out), remedy)?;
            }
            None => table.write(&out)?,
        }
        if !is_cut_short && partly.is_some() {
            // its rows are in the whole file now
            let partial = partial(&self.out);
            std::fs::remove_file(&partial).map_err(Error::io(&partial))?;
        }
        self.report(&report, is_cut_short, folder)
    }

    /// The file in --out, if it is one that others may write meanwhile; empty where it cannot be read.
    fn store(&self) -> Result<Option<FeatureStore>> {
        if TableFormat::from_path(&self.out)? != TableFormat::Safetensors {
            return Ok(None);
        }
        let read = |path: &Path| Ok(EmbeddingTable::read(path).unwrap_or_default());
        FeatureStore::open(&self.out, read).map(Some)
    }

    /// Tables whose features need not be computed again: that in --out, and what an interrupted run left beside it; none
    /// where they are of another model or recipe.
    fn before<'a>(
        &self,
        embedder: &Embedder,
        folder: &ImageFolder,
        request: &FolderRequest,
        store: Option<&'a FeatureStore>,
    ) -> (Option<&'a EmbeddingTable>, Option<EmbeddingTable>) {
        let Some(store) = store.filter(|_| !self.recompute) else {
            return (None, None);
        };
        let is_usable = |table: &EmbeddingTable| table.is_store_of(embedder, folder, request);
        let own = Some(store.table()).filter(|table| is_usable(table));
        if own.is_none() && self.out.exists() {
            self.model.note(&format!(
                "{}: holds no features of this model and these settings; all images are computed",
                printable(&self.out)
            ));
        }
        let partly = EmbeddingTable::read(&partial(&self.out)).ok();
        (own, partly.filter(is_usable))
    }

    fn patches(&self, embedder: &Embedder, folder: &Arc<ImageFolder>) -> Result<()> {
        let stop = stop_on_signal()?;
        let request = PatchRequest {
            layers: self.layers,
            batch_size: self.model.batch_size,
            workers: self.model.workers,
        };
        let mut table = PatchTable::of_folder(&self.out, embedder, folder, &request)?;
        let (shape, format) = (table.shape().clone(), TableFormat::from_path(&self.out)?);
        let ([rows, columns], width) = (shape.grid, shape.width);
        let gigabytes = shape.bytes(folder.len(), format) as f64 / 1e9;
        let (images, out) = (counted(folder.len(), "image"), printable(&self.out));
        self.model.note(&format!(
            "{out}: {images} x {rows} x {columns} patches x {width} values, about {gigabytes:.2} GB"
        ));
        let bar = ModelArgs::bar(folder.len());
        let visited = embed_patches(embedder, folder, &request, &mut table, &mut |made| {
            bar.set_position(made as u64);
            !stop.load(Ordering::Relaxed)
        })?;
        bar.finish_and_clear();
        self.model.note_skipped(&visited.skipped);
        let out = self.written_to(visited.is_cut_short);
        let report = Report {
            out: path_text(&out),
            images: table.len(),
            grid: Some(shape.grid),
            kept: None,
            removed: None,
            width,
        };
        table.finish(&out)?;
        self.report(&report, visited.is_cut_short, folder)
    }

    /// The file that gets the features; the requested name is kept for the complete result.
    fn written_to(&self, is_cut_short: bool) -> PathBuf {
        if is_cut_short {
            partial(&self.out)
        } else {
            self.out.clone()
        }
    }

    fn report(&self, report: &Report, is_cut_short: bool, folder: &ImageFolder) -> Result<()> {
        let (images, width, out) = (report.images, report.width, printable(&report.out));
        if is_cut_short {
            let of = folder.len();
            self.model
                .note(&format!("{out}: features of {images} of {of} images"));
            return Err(Error::Stopped);
        }
        self.model.answer(report, || match report.grid {
            None => {
                let (kept, removed) = (report.kept.unwrap_or(0), report.removed.unwrap_or(0));
                let changes = match (kept, removed) {
                    (0, 0) => String::new(),
                    (_, 0) => format!(", {kept} of them kept"),
                    _ => format!(", {kept} of them kept, {removed} removed"),
                };
                format!("{out}: {images} x {width} features{changes}")
            }
            Some([rows, columns]) => {
                format!("{out}: {images} x {rows} x {columns} x {width} features")
            }
        })
    }
}
