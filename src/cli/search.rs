//! `ibot search`: the pictures that look most like another one to a model.

use std::fmt::Write as _;
use std::path::PathBuf;

use ibot::data::FolderConfig;
use ibot::data::decode::decode_rgb;
use ibot::embedding::{EmbeddingTable, FeatureKind, FolderRequest, TableFormat};
use ibot::eval::nearest;
use ibot::{Error, Result};
use serde::Serialize;

use super::cluster::save_sheet;
use super::model::ModelArgs;

/// Flags of `ibot search`.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Picture to look for.
    #[arg(long)]
    query: PathBuf,
    /// Image folder to search.
    #[arg(long, required_unless_present = "index")]
    data: Option<PathBuf>,
    /// Features of the folder by the same model, as `ibot embed --out INDEX.safetensors` writes them; with --data they are
    /// made and written there first.
    #[arg(long)]
    index: Option<PathBuf>,
    /// Number of pictures to find.
    #[arg(long, default_value_t = 15)]
    top: usize,
    /// Contact sheet to write, a PNG.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Hit {
    path: String,
    label: Option<String>,
    similarity: f32,
}

#[derive(Debug, Serialize)]
struct Report {
    query: PathBuf,
    hits: Vec<Hit>,
}

impl SearchArgs {
    pub fn run(&self) -> Result<()> {
        if let Some(index) = &self.index
            && TableFormat::of(index)? != TableFormat::Safetensors
        {
            let remedy = "must end in .safetensors, which is what a search reads";
            return Err(Error::config("--index", index.display(), remedy));
        }
        let query = decode_rgb(&self.query, FolderConfig::default().max_pixels)?;
        let embedder = self.model.load()?;
        let table = match (&self.data, &self.index) {
            (Some(data), index) => {
                let folder = self.model.scan(data)?;
                let embedded = self.model.embed(&embedder, &folder, FeatureKind::Cls, 1)?;
                let table = EmbeddingTable::of(embedded, embedder.hash());
                if let Some(index) = index {
                    table.write(index)?;
                    self.model.note(&format!(
                        "index {}: {} pictures",
                        index.display(),
                        table.len()
                    ));
                }
                table
            }
            (None, Some(index)) => {
                let table = EmbeddingTable::read(index)?;
                let model = self.model.model.display();
                let expected = FolderRequest::default().recipe(&embedder);
                let wrong = match (table.model.as_deref(), table.recipe.as_deref()) {
                    (hash, _) if hash != Some(embedder.hash()) => {
                        Some(format!("was made by another model than {model}"))
                    }
                    (_, Some(recipe)) if recipe == expected => None,
                    (_, recipe) => Some(format!(
                        "holds {}, and a search compares {expected}",
                        recipe.unwrap_or("features of no known kind")
                    )),
                };
                if let Some(wrong) = wrong {
                    let reason = format!("{wrong}: make it again with --data");
                    return Err(Error::data(index, reason));
                }
                table
            }
            (None, None) => {
                return Err(Error::config("--index", "absent", "give --data or --index"));
            }
        };
        let feature = embedder.embed(&[query])?.cls;
        let hits: Vec<Hit> = nearest(&table.features, table.width, &feature, self.top)
            .into_iter()
            .map(|(at, similarity)| Hit {
                path: table.paths[at].clone(),
                label: table.labels[at].clone(),
                similarity,
            })
            .collect();
        if let Some(out) = &self.out {
            let found = hits.iter().map(|hit| {
                let label = hit.label.as_deref().unwrap_or_default();
                (
                    PathBuf::from(&hit.path),
                    format!("{:.3} {label}", hit.similarity),
                )
            });
            let query = (self.query.clone(), "query".to_owned());
            let captioned: Vec<(PathBuf, String)> = std::iter::once(query).chain(found).collect();
            let title = format!("nearest to {}", self.query.display());
            let missing = save_sheet(out, &title, &captioned)?;
            if missing > 0 {
                self.model.note(&format!(
                    "{missing} of the pictures found cannot be read and are not on {}",
                    out.display()
                ));
            }
        }
        let report = Report {
            query: self.query.clone(),
            hits,
        };
        self.model.answer(&report, || {
            let mut text = String::new();
            for hit in &report.hits {
                let _ = writeln!(text, "{:.4}  {}", hit.similarity, hit.path);
            }
            text
        })
    }
}
