//! `ibot embed`: the features of a folder's pictures as a file.

use std::path::{Path, PathBuf};

use ibot::data::PictureSource as _;
use ibot::embedding::{EmbeddingTable, FeatureKind};
use ibot::error::printable;
use ibot::path_text::path_text;
use ibot::{Error, Result};
use serde::Serialize;

use super::choices::{FEATURES, one_of};
use super::destination::outside;
use super::model::ModelArgs;
use super::signals::stop_on_signal;

/// Flags of `ibot embed`.
#[derive(Debug, clap::Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Image folder.
    #[arg(long)]
    data: PathBuf,
    /// File to write: .npy, .csv, .parquet or .safetensors; `ibot search` reads .safetensors.
    #[arg(long)]
    out: PathBuf,
    /// Feature to compute per image.
    #[arg(long, value_parser = one_of(FEATURES), default_value = "cls")]
    features: FeatureKind,
    /// Number of final blocks to concatenate (last block last).
    #[arg(long, value_name = "BLOCKS", default_value_t = 1)]
    layers: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    out: String,
    pictures: usize,
    width: usize,
    /// Images that could not be read.
    skipped: usize,
}

impl EmbedArgs {
    pub fn run(&self) -> Result<()> {
        EmbeddingTable::check_path(&self.out)?;
        outside("--out", &self.out, &self.data)?;
        let embedder = self.model.load()?;
        let folder = self.model.scan(&self.data)?;
        let stop = stop_on_signal()?;
        let (kind, layers) = (self.features, self.layers);
        let embedded = self
            .model
            .embed_until(&embedder, &folder, kind, layers, &stop)?;
        let skipped = folder.summary().skipped.len() + embedded.skipped.len();
        let is_cut_short = embedded.is_cut_short;
        let out = match is_cut_short {
            false => self.out.clone(),
            true => partial(&self.out),
        };
        let table = EmbeddingTable::new(embedded, embedder.hash());
        table.write(&out)?;
        if is_cut_short {
            let (made, of, out) = (table.len(), folder.len(), printable(&out));
            self.model.note(&format!(
                "{out}: features of the first {made} of {of} images"
            ));
            return Err(Error::Stopped);
        }
        let report = Report {
            out: path_text(&out),
            pictures: table.len(),
            width: table.width,
            skipped,
        };
        self.model.answer(&report, || {
            let out = printable(&report.out);
            format!("{out}: {} x {} features", report.pictures, report.width)
        })
    }
}

/// `x.partial.npy` for `x.npy`: the requested name is kept for the complete result.
fn partial(out: &Path) -> PathBuf {
    let ending = out.extension().unwrap_or_default().to_string_lossy();
    out.with_extension(format!("partial.{ending}"))
}
