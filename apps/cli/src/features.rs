//! `--features`: features that a model computes, or those in a file, which is kept up to date where a model is given too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::{OsStringValueParser, TypedValueParser};
use ibot::data::ImageFolder;
use ibot::embedding::{
    Embedded, Embedder, EmbeddingTable, FeatureKind, FeatureStore, FolderRequest, TableFormat,
    TableKind,
};
use ibot::error::{counted, printable};
use ibot::{Error, Result};

use super::choices::FEATURES;
use super::destination::outside;
use super::model::ModelArgs;
use super::signals::stop_on_signal;
use super::unchanged::{made_again, unchanged};

/// Value of `--features`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Features {
    /// Which feature of an image a model is to compute.
    Kind(FeatureKind),
    /// A file that `ibot embed` wrote.
    File(PathBuf),
}

/// Parses `cls`, `patch`, `both`, or the name of a file of features.
pub fn features() -> impl TypedValueParser<Value = Features> {
    OsStringValueParser::new().try_map(|given: OsString| {
        let kind = FEATURES.iter().find(|(_, name, _)| given == *name);
        if let Some((kind, ..)) = kind {
            return Ok(Features::Kind(*kind));
        }
        match TableFormat::from_path(Path::new(&given)) {
            Ok(_) => Ok(Features::File(given.into())),
            Err(_) => Err(
                "give cls, patch or both, or a .safetensors, .parquet, .npy or .csv file from `ibot embed`",
            ),
        }
    })
}

/// Where the features of images come from.
pub struct Source<'a> {
    model: &'a ModelArgs,
    embedder: Option<Embedder>,
    kind: FeatureKind,
    /// Number of final blocks that features are computed of.
    layers: usize,
    file: Option<FeatureStore>,
}

impl<'a> Source<'a> {
    /// Loads the model, or reads the file, or both; refuses a file of another model, and one with a number that is not
    /// finite. Features of the last `layers` blocks are computed where the file does not have others.
    pub fn open(model: &'a ModelArgs, features: &Features, layers: usize) -> Result<Self> {
        let path = match features {
            Features::Kind(kind) => {
                return Ok(Self {
                    embedder: Some(model.load()?),
                    model,
                    kind: *kind,
                    layers,
                    file: None,
                });
            }
            Features::File(path) => path,
        };
        let mut source = Self {
            embedder: None,
            model,
            kind: FeatureKind::Cls,
            layers,
            file: None,
        };
        let is_there = path.exists();
        if model.model.is_some() {
            if TableFormat::from_path(path)? != TableFormat::Safetensors {
                let remedy = "must end in .safetensors with --model, so that its features can be told from those of other models \
                              and updated; leave out --model to use them as they are";
                return Err(Error::config("--features", path.display(), remedy));
            }
            EmbeddingTable::check_path(path)?;
            TableKind::Images.refuse_others(path)?;
        } else {
            // nothing is computed, so nothing can be shared
            model.ranks.alone_for("--features", &printable(path))?;
            if !is_there {
                let reason = "does not exist; `ibot embed` writes it, and this command does so with --model and --data";
                return Err(Error::data(path, reason));
            }
        }
        let store = FeatureStore::open(path, read_finite)?;
        let table = store.table();
        if model.model.is_some() {
            let embedder = model.load()?;
            if is_there {
                (source.kind, source.layers) = same_model(path, table, &embedder, model)?;
            }
            source.embedder = Some(embedder);
        } else {
            let recipe = table.recipe.as_deref().unwrap_or_default();
            let found = FolderRequest::of_recipe(recipe);
            (source.kind, source.layers) = found.unwrap_or((FeatureKind::Cls, 1));
        }
        if is_there {
            let what = table.recipe.as_ref();
            let what = what.map_or_else(String::new, |what| format!(", {}", printable(what)));
            let (name, images) = (printable(path), counted(table.len(), "image"));
            model.note(&format!("features {name}: {images}{what}"));
        }
        source.file = Some(store);
        Ok(source)
    }

    /// Number of final blocks that the features are of, or can be of if none are computed yet.
    pub fn most_layers(&self) -> usize {
        match (&self.file, &self.embedder) {
            (Some(file), _) if !file.table().is_empty() => self.layers,
            (_, Some(embedder)) => embedder.architecture().depth,
            _ => self.layers,
        }
    }

    /// Whether it is known of how many final blocks the features are: `.npy` and `.csv` do not say.
    pub fn knows_layers(&self) -> bool {
        let recipe =
            |file: &FeatureStore| FolderRequest::of_recipe(file.table().recipe.as_deref()?);
        self.embedder.is_some() || self.file.as_ref().and_then(recipe).is_some()
    }

    /// Computes the features of so many final blocks; does nothing where the file has its own.
    pub fn set_layers(&mut self, layers: usize) {
        if self
            .file
            .as_ref()
            .is_none_or(|file| file.table().is_empty())
        {
            self.layers = layers;
        }
    }

    /// Number of final blocks that the features are of.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// What the features are of, to print: the model, or the file.
    pub fn name(&self) -> String {
        match (&self.model.model, &self.file) {
            (None, Some(file)) => printable(file.path()),
            _ => self.model.name(),
        }
    }

    /// Scans an image folder. If it is a file of features instead, the error names the flag for these.
    pub fn scan(&self, path: &Path) -> Result<Arc<ImageFolder>> {
        let is_table = || path.is_file() && TableFormat::from_path(path).is_ok();
        self.model.scan(path).map_err(|error| match error {
            Error::Data { path: of, reason } if !reason.contains('\n') && is_table() => {
                Error::data(
                    of,
                    format!("{reason}; for stored features use --features FILE"),
                )
            }
            error => error,
        })
    }

    /// All features in the file, if there is no folder to take some of; without those of images that have changed since.
    pub fn all(&self) -> Result<Embedded> {
        let Some(file) = self.file.as_ref().filter(|file| !file.table().is_empty()) else {
            return Err(no_images());
        };
        let table = unchanged(self.model, file.path(), file.table().clone(), false)?;
        Ok(table.embedded())
    }

    /// Features of all images, of the folder `data` if there is one and else of the file.
    pub fn of(&mut self, data: Option<&Arc<ImageFolder>>) -> Result<Embedded> {
        match data {
            Some(folder) => self.of_folder(folder),
            None => self.all(),
        }
    }

    /// Features of a folder: those in the file, which gets those that it does not have if there is a model to compute
    /// them, and those that the model computes where there is no file. A signal ends it with what is made so far in the file.
    pub fn of_folder(&mut self, folder: &Arc<ImageFolder>) -> Result<Embedded> {
        let model = self.model;
        let Some(embedder) = &self.embedder else {
            return self.of_file(folder);
        };
        let Some(file) = &mut self.file else {
            return model.embed(embedder, folder, self.kind, self.layers);
        };
        outside("--features", file.path(), folder.root())?;
        EmbeddingTable::check_names(file.path(), folder)?;
        let request = model.request(self.kind, self.layers);
        let expected = embedder.input(folder.range());
        if let Some(input) = file
            .table()
            .input
            .as_ref()
            .filter(|input| **input != expected)
        {
            let (name, input) = (printable(file.path()), printable(input));
            let reason = format!(
                "holds features of images that were prepared in another way ({input}, and not {expected}); choose another file, or make \
                 it again with `ibot embed --out {name}`"
            );
            return Err(Error::data(file.path(), reason));
        }
        let stop = stop_on_signal()?;
        let (embedded, reused) =
            model.embed_changed(embedder, folder, &request, &[file.table()], &stop)?;
        let is_cut_short = embedded.is_cut_short;
        if reused.computed > 0 {
            let made = EmbeddingTable::new(embedded.clone(), embedder.hash());
            let is_store = file.table().is_store_of(embedder, folder, &request);
            let updated = if is_store {
                file.table().updated(made)
            } else {
                made
            };
            write(file, updated)?;
            let (name, images) = (printable(file.path()), counted(reused.computed, "image"));
            model.note(&format!("features {name}: {images} added or renewed"));
        }
        if is_cut_short {
            model.note("the same command computes the others");
            Err(Error::Stopped)
        } else {
            Ok(embedded)
        }
    }

    fn of_file(&self, folder: &ImageFolder) -> Result<Embedded> {
        let file = self.file.as_ref().ok_or_else(no_images)?;
        let (embedded, missing) = file.table().of_folder(folder)?;
        let (name, root) = (printable(file.path()), folder.root());
        let remedy = match TableFormat::from_path(file.path())? {
            TableFormat::Safetensors => {
                format!("give --model to compute them, or run `ibot embed --out {name}` again")
            }
            _ => made_again(file.path()),
        };
        if embedded.paths.is_empty() {
            let reason = format!("none of its images is in {name}, or all have changed: {remedy}");
            return Err(Error::data(root, reason));
        }
        if let Some(first) = missing.first() {
            let (count, first) = (counted(missing.len(), "image"), printable(first));
            self.model.note(&format!(
                "{count} of {} left out, {first} first: not in {name}, or changed since; {remedy}",
                printable(root)
            ));
            let reason = format!("not in {name}, or changed since");
            let missing = missing.into_iter().map(|path| (path, reason.clone()));
            self.model.left_out.skip(&missing.collect::<Vec<_>>());
        }
        Ok(embedded)
    }
}

/// Without `--data`, features must be in a file.
pub fn no_images() -> Error {
    let remedy = "give an image folder: --data DIR, or a file from `ibot embed`: --features FILE";
    Error::config("--data", "absent", remedy)
}

/// A table from `ibot embed` with a row at least, whose numbers are all finite.
pub fn read_finite(path: &Path) -> Result<EmbeddingTable> {
    let table = EmbeddingTable::read(path)?;
    if table.is_empty() {
        let reason = "holds features of no image; remove it, and make it again with `ibot embed`";
        return Err(Error::data(path, reason));
    }
    let wrong = table.features.iter().position(|value| !value.is_finite());
    match wrong.and_then(|at| table.paths.get(at / table.width.max(1))) {
        None => Ok(table),
        Some(of) => {
            let reason = format!("the features of {} are not finite", printable(of));
            Err(Error::data(path, reason))
        }
    }
}

/// `x.partial.npy` for `x.npy`, what `ibot embed` goes on from.
pub fn partial(out: &Path) -> PathBuf {
    beside(out, "partial")
}

fn beside(out: &Path, word: &str) -> PathBuf {
    let ending = out.extension().unwrap_or_default().to_string_lossy();
    out.with_extension(format!("{word}.{ending}"))
}

/// Writes features into the file of `--features` or `--index`.
///
/// # Errors
/// As [`write_or_keep`].
pub fn write(store: &mut FeatureStore, table: EmbeddingTable) -> Result<()> {
    // not under the name that an interrupted `ibot embed` goes on from
    let kept = beside(store.path(), "kept");
    let remedy = "give it a name of its own to use it, as in --features FILE";
    write_or_keep(store, table, &kept, remedy)
}

/// Writes features, which may be hours of work; where the file cannot be written, as `kept`, and then the error says so.
///
/// # Errors
/// As [`FeatureStore::write`], with `remedy` where they are kept.
pub fn write_or_keep(
    store: &mut FeatureStore,
    table: EmbeddingTable,
    kept: &Path,
    remedy: &str,
) -> Result<()> {
    let Err(error) = store.write(table) else {
        return Ok(());
    };
    if store.table().write(kept).is_err() {
        return Err(error);
    }
    let kept = printable(kept);
    Err(Error::Embedding(format!(
        "{error}; the features are in {kept}: {remedy}"
    )))
}

/// Refuses features of another model; the kind of feature and the number of blocks that the file holds.
fn same_model(
    path: &Path,
    table: &EmbeddingTable,
    embedder: &Embedder,
    args: &ModelArgs,
) -> Result<(FeatureKind, usize)> {
    let model = args.name();
    let remedy = format!(
        "give the model that made it, choose another file, or make it again with `ibot embed --model {model} --data DIR --out {}`",
        printable(path)
    );
    let refused = |what: String| Err(Error::data(path, format!("{what}; {remedy}")));
    if table.model.as_deref() != Some(embedder.hash()) {
        return refused(format!("holds features of another model than {model}"));
    }
    if table.stamps.len() != table.len() {
        return refused("does not say the sizes and times of its images".to_owned());
    }
    let recipe = table.recipe.as_deref().unwrap_or_default();
    let Some((kind, layers)) = FolderRequest::of_recipe(recipe) else {
        return refused("does not say which features it holds".to_owned());
    };
    let expected = args.request(kind, layers).recipe(embedder);
    if expected != recipe {
        let recipe = printable(recipe);
        return refused(format!("holds {recipe}, but this would be {expected}"));
    }
    Ok((kind, layers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_cannot_be_written_are_kept_beside_the_file() {
        let folder = std::env::temp_dir().join(format!("ibot-kept-{}", std::process::id()));
        let path = folder.join("all.safetensors");
        let mut store = FeatureStore::open(&path, EmbeddingTable::read).unwrap();
        // no file can have the temporary name
        std::fs::create_dir_all(folder.join("all.safetensors.tmp")).unwrap();
        let table = EmbeddingTable {
            paths: vec!["a.png".to_owned()],
            labels: vec![None],
            width: 2,
            features: vec![1.0, 2.0],
            stamps: vec![None],
            ..EmbeddingTable::default()
        };
        let error = write(&mut store, table.clone()).unwrap_err();
        let kept = folder.join("all.kept.safetensors");
        assert!(error.to_string().contains(&printable(&kept)), "{error}");
        assert_eq!(
            EmbeddingTable::read(&kept).unwrap().features,
            table.features
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
