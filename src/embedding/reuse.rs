//! Features that are computed once: only images that are new or changed go through the model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::collective::{Collective, all_ok, check_equal};
use crate::data::{ImageFolder, ImageSource as _};
use crate::embedding::embedded::Embedded;
use crate::embedding::embedder::Embedder;
use crate::embedding::folder::{FolderRequest, stamps};
use crate::embedding::share::embed_share;
use crate::embedding::stamp::FileStamp;
use crate::embedding::table::EmbeddingTable;
use crate::error::Result;
use crate::eval::FeatureSet;
use crate::path_text::{absolute, path_of_text, path_text};

/// How many features of a folder were taken from tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reused {
    /// Images whose features were in a table.
    pub kept: usize,
    /// Images whose features were computed.
    pub computed: usize,
}

impl EmbeddingTable {
    /// Whether its features are those that `request` would compute with this model of images that are read as those of this
    /// folder, and it knows its files' sizes and times.
    pub fn is_store_of(
        &self,
        embedder: &Embedder,
        folder: &ImageFolder,
        request: &FolderRequest,
    ) -> bool {
        self.model.as_deref() == Some(embedder.hash())
            && self.recipe.as_ref() == Some(&request.recipe(embedder))
            && self.input.as_ref() == Some(&embedder.input(folder.range()))
            && self.stamps.len() == self.len()
    }

    /// The features of a folder's images that it holds, labeled as the folder says, in the folder's order, and the others:
    /// images that it does not have, and those whose file has another size or time than it says. Where it does not know
    /// these, its features are taken for those of the file.
    ///
    /// # Errors
    /// [`crate::Error::Io`] where the current folder is gone.
    pub fn of_folder(&self, folder: &ImageFolder) -> Result<(Embedded, Vec<PathBuf>)> {
        let paths = absolute_paths(folder)?;
        let stamps = stamps(folder);
        let rows = Rows::of(&[self]);
        let found = paths.iter().zip(&stamps);
        let found = found.map(|(path, stamp)| rows.find(path, *stamp));
        let found: Vec<_> = found.collect();
        let mut embedded = self.empty(folder);
        let mut missing = Vec::new();
        for (at, path) in paths.into_iter().enumerate() {
            match found[at] {
                Some((table, row)) => {
                    push(
                        &mut embedded,
                        table.row(row),
                        folder.label(at),
                        path,
                        stamps[at],
                    );
                }
                None => missing.push(path),
            }
        }
        Ok((embedded, missing))
    }

    /// All of its rows, with classes of the names that its labels have, sorted.
    pub fn embedded(&self) -> Embedded {
        let mut classes: Vec<String> = self.labels.iter().flatten().cloned().collect();
        classes.sort();
        classes.dedup();
        let label = |name: &Option<String>| classes.binary_search(name.as_ref()?).ok();
        Embedded {
            set: FeatureSet {
                features: self.features.clone(),
                width: self.width,
                labels: self.labels.iter().map(label).collect(),
            },
            paths: (self.paths.iter()).map(|path| path_of_text(path)).collect(),
            recipe: self.recipe.clone().unwrap_or_default(),
            input: self.input.clone().unwrap_or_default(),
            stamps: self.stamps.clone(),
            classes,
            ..Embedded::default()
        }
    }

    /// This table with the rows of another one: those of paths that both have are replaced.
    pub fn updated(&self, with: Self) -> Self {
        let new: std::collections::HashSet<&String> = with.paths.iter().collect();
        let stays: Vec<usize> = (0..self.len())
            .filter(|at| !new.contains(&self.paths[*at]))
            .collect();
        let mut updated = self.rows_at(&stays);
        updated.paths.extend(with.paths);
        updated.labels.extend(with.labels);
        updated.features.extend(with.features);
        updated.stamps.extend(with.stamps);
        updated
    }

    fn empty(&self, folder: &ImageFolder) -> Embedded {
        Embedded {
            set: FeatureSet {
                width: self.width,
                ..FeatureSet::default()
            },
            classes: folder.classes().to_vec(),
            recipe: self.recipe.clone().unwrap_or_default(),
            input: self.input.clone().unwrap_or_default(),
            ..Embedded::default()
        }
    }
}

/// [`embed_folder`](crate::embedding::embed_folder) of the images whose features are not in `tables`, and the features in them of
/// the others; in the folder's order. Of several tables, the first one that has an image counts; those of another model, recipe or
/// input are passed over. `progress` gets the number of images computed, and [`Reused`] has that of all to compute.
///
/// A feature is taken where the path is the same, and the file has the size and the time that the table says; whole seconds where one
/// of both has no finer time, as in copies and archives.
///
/// Several ranks, which have the same tables, compute a share each. Rank 0 then has all; the others lack what was computed.
///
/// # Errors
/// As [`embed_folder`](crate::embedding::embed_folder) and [`Collective`]; ranks that find other images to compute.
pub fn embed_changed(
    collective: &dyn Collective,
    embedder: &Embedder,
    folder: &Arc<ImageFolder>,
    request: &FolderRequest,
    tables: &[&EmbeddingTable],
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<(Embedded, Reused)> {
    let usable = tables.iter().copied();
    let usable = usable.filter(|table| table.is_store_of(embedder, folder, request));
    let usable: Vec<&EmbeddingTable> = usable.collect();
    let rows = Rows::of(&usable);
    let paths = all_ok(collective, absolute_paths(folder))?;
    let stamps = stamps(folder);
    let known: Vec<_> = (paths.iter().zip(&stamps))
        .map(|(path, stamp)| stamp.and_then(|stamp| rows.find(path, Some(stamp))))
        .collect();
    let missing: Vec<usize> = (0..paths.len()).filter(|at| known[*at].is_none()).collect();
    same_missing(collective, folder, &missing)?;
    let kept = paths.len() - missing.len();
    if kept == 0 {
        let all = folder.len();
        let mut progress = |made| progress(made, all);
        let embedded = embed_share(collective, embedder, folder, request, false, &mut progress)?;
        let computed = embedded.set.len();
        return Ok((embedded, Reused { kept, computed }));
    }
    let made = if missing.is_empty() {
        Embedded {
            recipe: request.recipe(embedder),
            input: embedder.input(folder.range()),
            classes: folder.classes().to_vec(),
            ..Embedded::default()
        }
    } else {
        let part = Arc::new(folder.part(&missing));
        let count = missing.len();
        let mut progress = |made| progress(made, count);
        embed_share(collective, embedder, &part, request, true, &mut progress)?
    };
    let computed = made.paths.len();
    let new: HashMap<&PathBuf, usize> = made.paths.iter().zip(0..).collect();
    let width = usable.first().map_or(made.set.width, |table| table.width);
    let mut merged = Embedded {
        set: FeatureSet {
            width,
            ..FeatureSet::default()
        },
        skipped: made.skipped.clone(),
        classes: made.classes.clone(),
        recipe: made.recipe.clone(),
        input: made.input.clone(),
        is_cut_short: made.is_cut_short,
        ..Embedded::default()
    };
    for (at, path) in paths.into_iter().enumerate() {
        let label = folder.label(at);
        if let Some((table, row)) = known[at] {
            push(&mut merged, table.row(row), label, path, stamps[at]);
        } else if let Some(&row) = new.get(&path) {
            let features = &made.set.features[row * width..(row + 1) * width];
            push(&mut merged, features, label, path, made.stamps[row]);
        }
    }
    Ok((merged, Reused { kept, computed }))
}

/// Whether all ranks are to compute the features of the same images: one that had none to compute would not meet the others again. The
/// times of files may differ between machines, as long as a client of a file server shows those of before.
fn same_missing(
    collective: &dyn Collective,
    folder: &ImageFolder,
    missing: &[usize],
) -> Result<()> {
    if collective.size() == 1 {
        return Ok(());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(folder.fingerprint().as_bytes());
    for at in missing {
        hasher.update(&(*at as u64).to_le_bytes());
    }
    let what = "images to compute, by their names and the sizes and times of their files,";
    check_equal(collective, what, hasher.finalize().as_bytes())
}

fn push(
    embedded: &mut Embedded,
    features: &[f32],
    label: Option<usize>,
    path: PathBuf,
    stamp: Option<FileStamp>,
) {
    embedded.set.features.extend_from_slice(features);
    embedded.set.labels.push(label);
    embedded.paths.push(path);
    embedded.stamps.push(stamp);
}

fn absolute_paths(folder: &ImageFolder) -> Result<Vec<PathBuf>> {
    let paths = (0..folder.len()).map(|at| folder.name(at));
    paths.map(absolute).collect()
}

/// Rows of tables by their paths.
struct Rows<'a>(HashMap<&'a str, (&'a EmbeddingTable, usize)>);

impl<'a> Rows<'a> {
    fn of(tables: &[&'a EmbeddingTable]) -> Self {
        let mut rows = HashMap::new();
        for &table in tables {
            for (row, path) in table.paths.iter().enumerate() {
                rows.entry(path.as_str()).or_insert((table, row));
            }
        }
        Self(rows)
    }

    /// The row of an image, unless its file is known to have changed.
    fn find(&self, path: &Path, stamp: Option<FileStamp>) -> Option<(&'a EmbeddingTable, usize)> {
        let (table, row) = *self.0.get(path_text(path).as_str())?;
        let is_like = |own: FileStamp| stamp.is_some_and(|now| now.is_like(own));
        let is_same = table.stamp(row).is_none_or(is_like);
        is_same.then_some((table, row))
    }
}
