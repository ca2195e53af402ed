//! `ibot embed`: the features of a folder's pictures as a file.

use std::path::PathBuf;

use ibot::Result;
use ibot::embedding::{EmbeddingTable, FeatureKind, TableFormat};
use serde::Serialize;

use super::model::ModelArgs;

/// Flags of `ibot embed`.
#[derive(Debug, clap::Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Image folder.
    #[arg(long)]
    data: PathBuf,
    /// File to write: .npy, .csv, .parquet or .safetensors; the last one is what `ibot search` reads.
    #[arg(long)]
    out: PathBuf,
    /// Feature of a picture.
    #[arg(long, value_enum, default_value = "cls")]
    features: FeatureKind,
    /// Last blocks whose features are written, one after the other, the last block's last.
    #[arg(long, value_name = "BLOCKS", default_value_t = 1)]
    layers: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    out: PathBuf,
    pictures: usize,
    width: usize,
    /// Pictures that could not be read.
    skipped: usize,
}

impl EmbedArgs {
    pub fn run(&self) -> Result<()> {
        TableFormat::of(&self.out)?; // before hours of work
        let embedder = self.model.load()?;
        let folder = self.model.scan(&self.data)?;
        let (kind, layers) = (self.features, self.layers);
        let embedded = self.model.embed(&embedder, &folder, kind, layers)?;
        let skipped = folder.summary().skipped.len() + embedded.skipped.len();
        let table = EmbeddingTable::of(embedded, embedder.hash());
        table.write(&self.out)?;
        let report = Report {
            out: self.out.clone(),
            pictures: table.len(),
            width: table.width,
            skipped,
        };
        self.model.answer(&report, || {
            let out = self.out.display();
            format!("{out}: {} x {} features", report.pictures, report.width)
        })
    }
}
