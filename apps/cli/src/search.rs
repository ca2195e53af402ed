//! `ibot search`: the images most similar to a query image.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ibot::data::decode::decode_rgb;
use ibot::embedding::{Embedder, EmbeddingTable, FeatureKind, FolderRequest, TableFormat};
use ibot::error::{counted, printable};
use ibot::eval::nearest;
use ibot::path_text::{path_of_text, path_text};
use ibot::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;

use super::cluster::save_sheet;
use super::destination;
use super::model::ModelArgs;

/// Flags of `ibot search`.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Query image.
    #[arg(long)]
    query: PathBuf,
    /// Image folder to search; not needed with an existing --index.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Features of the folder by the same model, as `ibot embed --out INDEX.safetensors` writes them; with --data, they are
    /// computed and written there first.
    #[arg(long)]
    index: Option<PathBuf>,
    /// Number of images to find.
    #[arg(long, default_value_t = 15)]
    top: usize,
    /// Write a contact sheet to this PNG file.
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
    query: String,
    hits: Vec<Hit>,
}

impl SearchArgs {
    pub fn run(&self) -> Result<()> {
        self.check()?;
        let query = decode_rgb(&self.query, self.model.max_pixels)?;
        let embedder = self.model.load()?;
        let table = match (&self.data, &self.index) {
            (Some(data), index) => self.made(&embedder, data, index.as_deref())?,
            (None, Some(index)) => self.kept(&embedder, index)?,
            (None, None) => return Err(no_pictures()),
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
            self.save(out, &hits)?;
        }
        let report = Report {
            query: path_text(&self.query),
            hits,
        };
        self.model.answer(&report, || {
            let mut text = String::new();
            for hit in &report.hits {
                let _ = writeln!(text, "{:.4}  {}", hit.similarity, printable(&hit.path));
            }
            text
        })
    }

    /// Refuses paths that cannot be searched or written, before the work starts.
    fn check(&self) -> Result<()> {
        if let Some(index) = &self.index
            && TableFormat::from_path(index)? != TableFormat::Safetensors
        {
            let remedy = "must end in .safetensors, the only format that a search reads";
            return Err(Error::config("--index", index.display(), remedy));
        }
        if let Some(out) = &self.out {
            destination::png("--out", out)?;
        }
        let Some(data) = &self.data else {
            return self.index.as_ref().map(|_| ()).ok_or_else(no_pictures);
        };
        if let Some(out) = &self.out {
            destination::outside("--out", out, data)?;
        }
        if let Some(index) = &self.index {
            EmbeddingTable::check_path(index)?;
            destination::outside("--index", index, data)?;
        }
        Ok(())
    }

    /// The features of a folder; written to the index if one is given.
    fn made(
        &self,
        embedder: &Embedder,
        data: &Path,
        index: Option<&Path>,
    ) -> Result<EmbeddingTable> {
        let folder = self.model.scan(data)?;
        let embedded = self.model.embed(embedder, &folder, FeatureKind::Cls, 1)?;
        let table = EmbeddingTable::new(embedded, embedder.hash());
        if let Some(index) = index {
            table.write(index)?;
            let (name, count) = (printable(index), table.len());
            self.model
                .note(&format!("index {name}: {}", counted(count, "image")));
        }
        Ok(table)
    }

    /// The features in an index, without those of deleted images; reports what changed since.
    fn kept(&self, embedder: &Embedder, index: &Path) -> Result<EmbeddingTable> {
        let table = EmbeddingTable::read(index)?;
        let model = self.model.model.display();
        let expected = FolderRequest::default().recipe(embedder);
        let wrong = match (table.model.as_deref(), table.recipe.as_deref()) {
            (hash, _) if hash != Some(embedder.hash()) => {
                Some(format!("was made with another model than {model}"))
            }
            (_, Some(recipe)) if recipe == expected => None,
            (_, recipe) => Some(format!(
                "holds {}, but this search needs {expected}",
                recipe.unwrap_or("features of unknown kind")
            )),
        };
        if let Some(wrong) = wrong {
            let reason = format!("{wrong}; make it again with --data");
            return Err(Error::data(index, reason));
        }
        let state = IndexState::of(index, &table)?;
        if state.there.is_empty() {
            let reason = format!(
                "all of its {} images are gone, such as {}; make it again with --data",
                table.len(),
                printable(table.paths.first().map_or("", String::as_str))
            );
            return Err(Error::data(index, reason));
        }
        if let Some(difference) = state.difference(table.len()) {
            let name = printable(index);
            let remedy = "make it again with --data";
            self.model
                .note(&format!("index {name}: {difference}; {remedy}"));
        }
        Ok(match state.there.len() == table.len() {
            true => table,
            false => table.rows_at(&state.there),
        })
    }

    fn save(&self, out: &Path, hits: &[Hit]) -> Result<()> {
        let found = hits.iter().map(|hit| {
            let label = hit.label.as_deref().unwrap_or_default();
            let caption = format!("{:.3} {label}", hit.similarity);
            (path_of_text(&hit.path), caption)
        });
        let query = (self.query.clone(), "query".to_owned());
        let captioned: Vec<(PathBuf, String)> = std::iter::once(query).chain(found).collect();
        let title = format!("nearest to {}", printable(&self.query));
        let missing = save_sheet(out, &title, &captioned, self.model.max_pixels)?;
        if missing > 0 {
            let out = printable(out);
            self.model.note(&format!(
                "{missing} of the images found cannot be read and are missing from {out}"
            ));
        }
        Ok(())
    }
}

fn no_pictures() -> Error {
    let remedy = "give the images to search: --data DIR, or --index FILE.safetensors from `ibot embed` or an earlier search";
    Error::config("--data", "absent", remedy)
}

/// What changed in the images of an index since it was made.
struct IndexState {
    /// Rows whose images still exist.
    there: Vec<usize>,
    /// Number of images that were written after the index.
    changed: usize,
    /// Whether one of their folders was: an image was added, renamed or removed.
    has_changed_folders: bool,
}

impl IndexState {
    fn of(index: &Path, table: &EmbeddingTable) -> Result<Self> {
        let written = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified());
        let made = written(index).map_err(Error::io(index))?;
        let paths: Vec<PathBuf> = table.paths.iter().map(|path| path_of_text(path)).collect();
        let times: Vec<Option<SystemTime>> =
            paths.par_iter().map(|path| written(path).ok()).collect();
        let folders: BTreeSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
        let is_newer = |time: &SystemTime| *time > made;
        Ok(Self {
            there: (0..times.len()).filter(|at| times[*at].is_some()).collect(),
            changed: times.iter().flatten().filter(|time| is_newer(time)).count(),
            has_changed_folders: folders
                .iter()
                .any(|folder| written(folder).as_ref().is_ok_and(is_newer)),
        })
    }

    /// The changes in words; none if nothing changed.
    fn difference(&self, pictures: usize) -> Option<String> {
        let gone = pictures - self.there.len();
        let mut parts = Vec::new();
        if gone > 0 {
            parts.push(format!("{gone} of {pictures} images are gone and left out"));
        }
        if self.changed > 0 {
            parts.push(format!("{} were changed since then", self.changed));
        }
        if self.has_changed_folders && gone == 0 {
            parts.push(
                "their folders were changed since then, and new images are not found".to_owned(),
            );
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}
