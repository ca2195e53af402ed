//! `ibot search`: the images most similar to a query image.

mod index;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ibot::data::decode::decode_rgb_in;
use ibot::data::{ImageFolder, length_and_time, read_whole};
use ibot::embedding::{
    Embedder, EmbeddingTable, FeatureKind, FeatureStore, FolderRequest, TableFormat, TableKind,
};
use ibot::error::{counted, printable};
use ibot::eval::nearest;
use ibot::path_text::{absolute, path_of_text, path_text};
use ibot::{Error, Result};
use serde::Serialize;

use super::destination;
use super::features::{read_finite, write};
use super::model::ModelArgs;
use super::sheets::save_sheet;
use super::signals::stop_on_signal;
use super::unchanged::{made_again, unchanged};
use index::{newer, refuse_images_elsewhere};

/// Flags of `ibot search`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("model", |model| model.required(false)))]
pub struct SearchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Query image. It is not among the images found, and neither are copies of its file.
    #[arg(long)]
    query: PathBuf,
    /// Image folder to search; not needed with an existing --index.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Features of the images to search, from `ibot embed`. With --data, a .safetensors file is made, or gets the
    /// features of new and changed images. Without --model, --query must be one of its images.
    #[arg(long, value_name = "FILE", visible_alias = "features")]
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
    /// Images left out because they are the query, by their path or their content.
    left_out: Vec<String>,
}

impl SearchArgs {
    pub fn run(&self) -> Result<()> {
        self.check()?;
        let query = || {
            decode_rgb_in(
                &self.query,
                self.model.pixels.max_pixels,
                self.model.range(),
            )
        };
        query()?; // before a model is loaded
        let (table, feature) = match (&self.data, &self.index) {
            (None, Some(index)) if self.model.model.is_none() => self.of_index(index)?,
            (data, index) => {
                let embedder = self.model.load()?;
                let table = match (data, index) {
                    (Some(data), index) => self.made(&embedder, data, index.as_deref())?,
                    (None, Some(index)) => self.kept(&embedder, index)?,
                    (None, None) => return Err(no_images()),
                };
                (table, embedder.embed(&[query()?])?.cls) // with the range of the folder
            }
        };
        let report = self.report(&table, &feature)?;
        if let Some(out) = &self.out {
            self.save(out, &report.hits)?;
        }
        self.model.answer(&report, || {
            let mut text = String::new();
            for hit in &report.hits {
                let _ = writeln!(text, "{:.4}  {}", hit.similarity, printable(&hit.path));
            }
            if let Some(out) = &self.out {
                let images = counted(report.hits.len(), "image");
                let _ = writeln!(text, "{}: {images}", printable(out));
            }
            text
        })
    }

    /// The images most like the feature of the query, which is left out.
    fn report(&self, table: &EmbeddingTable, feature: &[f32]) -> Result<Report> {
        let query = Query::of(&self.query)?;
        let (mut hits, mut left_out) = (Vec::new(), Vec::new());
        for (at, similarity) in nearest(&table.features, table.width, feature, table.len()) {
            if hits.len() == self.top {
                break;
            }
            let path = table.paths[at].clone();
            if query.is(&path_of_text(&path)) {
                left_out.push(path);
                continue;
            }
            hits.push(Hit {
                path,
                label: table.labels[at].clone(),
                similarity,
            });
        }
        if let [_, copy, ..] = left_out.as_slice() {
            let (count, copy) = (counted(left_out.len() - 1, "file"), printable(copy));
            self.model.note(&format!(
                "left out {count} with the same bytes as the query, such as {copy}"
            ));
        }
        Ok(Report {
            query: path_text(&self.query),
            hits,
            left_out,
        })
    }

    /// The features in a file, and among them that of the query.
    fn of_index(&self, index: &Path) -> Result<(EmbeddingTable, Vec<f32>)> {
        let table = self.there(index, read_finite(index)?)?;
        let query = Query::of(&self.query)?;
        let is_query = |path: &String| query.has_path(&path_of_text(path));
        let at = table.paths.iter().position(is_query).ok_or_else(|| {
            let remedy = format!(
                "is not among the images of {}: give --model to compute its features",
                printable(index)
            );
            Error::config("--query", self.query.display(), remedy)
        })?;
        let feature = table.row(at).to_vec();
        Ok((table, feature))
    }

    /// Refuses paths that cannot be searched or written, before the work starts.
    fn check(&self) -> Result<()> {
        if let Some(index) = &self.index
            && TableFormat::from_path(index)? != TableFormat::Safetensors
            && (self.data.is_some() || self.model.model.is_some())
        {
            let remedy = "must end in .safetensors with --model or --data, so that its features can be told from those of other \
                          models and updated";
            return Err(Error::config("--index", index.display(), remedy));
        }
        if let Some(out) = &self.out {
            destination::other_than("--out", out, &self.query)?;
            destination::png("--out", out)?;
        }
        let Some(data) = &self.data else {
            return self.index.as_ref().map(|_| ()).ok_or_else(no_images);
        };
        if let Some(out) = &self.out {
            destination::outside("--out", out, data)?;
        }
        if let Some(index) = &self.index {
            destination::outside("--index", index, data)?;
            EmbeddingTable::check_path(index)?;
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
        let request = self.model.request(FeatureKind::Cls, 1);
        if let Some(index) = index {
            TableKind::Images.refuse_others(index)?;
            EmbeddingTable::check_names(index, &folder)?;
        }
        let store = index.map(|index| {
            let before = |index: &Path| self.before(embedder, index, data, &folder);
            FeatureStore::open(index, before)
        });
        let mut store = store.transpose()?;
        let before: Vec<&EmbeddingTable> = store.iter().map(FeatureStore::table).collect();
        let stop = match index {
            Some(_) => stop_on_signal()?,
            None => Arc::default(), // nothing is lost if a signal ends the process
        };
        let (embedded, _) =
            (self.model).embed_changed(embedder, &folder, &request, &before, &stop)?;
        let is_cut_short = embedded.is_cut_short;
        let table = EmbeddingTable::new(embedded, embedder.hash());
        if let Some(store) = store.as_mut().filter(|store| *store.table() != table) {
            write(store, table.clone())?;
            let (name, count) = (printable(store.path()), counted(table.len(), "image"));
            self.model.note(&format!("index {name}: {count}"));
        }
        if is_cut_short {
            self.model.note("the same command computes the others");
            Err(Error::Stopped)
        } else {
            Ok(table)
        }
    }

    /// What an index holds that is to be updated.
    fn before(
        &self,
        embedder: &Embedder,
        index: &Path,
        data: &Path,
        folder: &ImageFolder,
    ) -> Result<EmbeddingTable> {
        let table = read_finite(index)?;
        if let Some(wrong) = self.unfit(embedder, &table) {
            let reason = format!("{wrong}; choose another file, or remove it first");
            return Err(Error::data(index, reason));
        }
        refuse_images_elsewhere(index, &table, data, folder)?;
        Ok(table)
    }

    /// The features in an index, without those of deleted images; reports what changed since.
    fn kept(&self, embedder: &Embedder, index: &Path) -> Result<EmbeddingTable> {
        let table = read_finite(index)?;
        let input = embedder.input(self.model.range());
        if let Some(wrong) = self.unfit(embedder, &table) {
            let reason = format!("{wrong}; remove it, and make it again with --data");
            return Err(Error::data(index, reason));
        }
        if let Some(own) = table.input.as_ref().filter(|own| **own != input) {
            let reason = format!(
                "has features of images that were prepared in another way ({}, and not {}); give --precision, --normalization and --range \
                 as they were, or --data, which makes it again",
                printable(own),
                printable(&input)
            );
            return Err(Error::data(index, reason));
        }
        self.there(index, table)
    }

    /// Why features of the query cannot be compared with those of an index, or be added to it, if that is so.
    fn unfit(&self, embedder: &Embedder, table: &EmbeddingTable) -> Option<String> {
        let expected = FolderRequest::default().recipe(embedder);
        match (table.model.as_deref(), table.recipe.as_deref()) {
            (hash, _) if hash != Some(embedder.hash()) => Some(format!(
                "was made with another model than {}",
                self.model.name()
            )),
            (_, Some(recipe)) if recipe == expected => None,
            (_, recipe) => Some(format!(
                "holds {}, but this search needs {expected}",
                recipe.unwrap_or("features of unknown kind")
            )),
        }
    }

    /// The rows of an index whose images are as they were; reports what changed since.
    fn there(&self, index: &Path, table: EmbeddingTable) -> Result<EmbeddingTable> {
        let table = unchanged(&self.model, index, table, true)?;
        let are_some_gone = self.model.left_out.are_some_gone();
        if let Some(newer) = newer(index, &table, are_some_gone)? {
            let (name, remedy) = (printable(index), made_again(index));
            self.model
                .note(&format!("features {name}: {newer}; {remedy}"));
        }
        Ok(table)
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
        save_sheet(&self.model, out, &title, &captioned)
    }
}

/// The query's file.
struct Query {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Query {
    fn of(path: &Path) -> Result<Self> {
        Ok(Self {
            bytes: read_whole(path)?,
            path: real(path)?,
        })
    }

    /// Whether a path leads to it.
    fn has_path(&self, path: &Path) -> bool {
        real(path).is_ok_and(|path| path == self.path)
    }

    /// Whether a path leads to it, or to a file with the same bytes.
    fn is(&self, path: &Path) -> bool {
        let length = |path| length_and_time(path).map(|(length, _)| length);
        let has_size = || length(path) == Some(self.bytes.len() as u64);
        let has_bytes = || read_whole(path).is_ok_and(|bytes| bytes == self.bytes);
        self.has_path(path) || has_size() && has_bytes()
    }
}

/// The path without links; of an image in an archive or on a server, as it is.
fn real(path: &Path) -> Result<PathBuf> {
    path.canonicalize().or_else(|_| absolute(path))
}

fn no_images() -> Error {
    let text = "no images to search: give --data DIR, or --index FILE.safetensors from `ibot embed` or an earlier search";
    Error::Embedding(text.to_owned())
}
