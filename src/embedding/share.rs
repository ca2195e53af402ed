//! All images of a folder, computed by several ranks: each has a share of them, and rank 0 gets the features of all.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::collective::{Collective, Wire, any_rank, check_equal, gather, share};
use crate::data::{ImageFolder, ImageSource as _, none_usable};
use crate::embedding::embedded::Embedded;
use crate::embedding::embedder::Embedder;
use crate::embedding::folder::{FolderRequest, embed_folder, embed_images};
use crate::embedding::stamp::FileStamp;
use crate::error::{Error, Result};
use crate::path_text::{path_of_text, path_text};

/// Batches after which the ranks hear of each other: one that was stopped stops all, and one that is silent is missed.
const ROUND: usize = 4;

/// [`embed_folder`] on all ranks. Each has neighboring batches of the folder; rank 0 gets the rows of all, in the folder's order,
/// and the others none. The rows have the bits that one rank gives them. `progress` gets how many images all have made, as far as
/// this rank can tell; if it returns false on any rank, all end after their round. With `may_be_none` it is no error that no image is
/// usable: others are in a table.
///
/// # Errors
/// As [`embed_folder`] and [`Collective`]; ranks whose folders differ.
pub(super) fn embed_share(
    collective: &dyn Collective,
    embedder: &Embedder,
    folder: &Arc<ImageFolder>,
    request: &FolderRequest,
    may_be_none: bool,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Embedded> {
    if collective.size() == 1 {
        return if may_be_none {
            embed_images(embedder, folder, request, progress)
        } else {
            embed_folder(embedder, folder, request, progress)
        };
    }
    // rows of another model, or made in another way, would be taken for those of this one
    let (model, recipe) = (embedder.hash(), request.recipe(embedder));
    let what = format!("{model}, {recipe}, {}", embedder.input(folder.range()));
    check_equal(collective, "model or features", what.as_bytes())?;
    let names = folder.fingerprint();
    check_equal(collective, "images", names.as_bytes())?;
    let (ranks, all) = (collective.size(), folder.len());
    let own = own_images(collective.rank(), ranks, all, request.batch_size);
    let part = Arc::new(folder.part(&own.collect::<Vec<_>>()));
    let mut rounds = Rounds {
        collective,
        left: rounds(ranks, all, request.batch_size),
        batches: 0,
        ended: Ok(false),
    };
    let mut embedded = embed_images(embedder, &part, request, &mut |made| {
        let goes_on = progress((made * ranks).min(all));
        rounds.batch(!goes_on)
    })?;
    embedded.is_cut_short = rounds.finish()?;
    if !any_rank(collective, !embedded.paths.is_empty())? && !may_be_none {
        return Err(none_usable(all, embedded.skipped.first()));
    }
    gathered(collective, embedded)
}

/// The images of a rank: whole batches of the folder, so that its batches are those of one rank.
fn own_images(rank: usize, ranks: usize, images: usize, batch_size: usize) -> Range<usize> {
    let own = share(rank, ranks, images.div_ceil(batch_size.max(1)));
    let begin = |batch: usize| (batch * batch_size).min(images);
    begin(own.start)..begin(own.end)
}

/// The rounds of the rank with the most batches.
fn rounds(ranks: usize, images: usize, batch_size: usize) -> usize {
    let batches = images.div_ceil(batch_size.max(1));
    batches.div_ceil(ranks).div_ceil(ROUND)
}

/// The words of the ranks to each other, of which each rank has as many.
struct Rounds<'c> {
    collective: &'c dyn Collective,
    left: usize,
    /// Batches of this rank.
    batches: usize,
    /// Whether any rank was stopped.
    ended: Result<bool>,
}

impl Rounds<'_> {
    /// After each batch, and whether another one follows.
    fn batch(&mut self, is_stopped: bool) -> bool {
        self.batches += 1;
        if self.batches.is_multiple_of(ROUND) {
            self.round(is_stopped);
        }
        matches!(self.ended, Ok(false))
    }

    fn round(&mut self, is_stopped: bool) {
        if self.left > 0 && matches!(self.ended, Ok(false)) {
            self.left -= 1;
            self.ended = any_rank(self.collective, is_stopped);
        }
    }

    /// Those that other ranks still have; whether any was stopped.
    fn finish(mut self) -> Result<bool> {
        while self.left > 0 && matches!(self.ended, Ok(false)) {
            self.round(false);
        }
        self.ended
    }
}

/// All of a share but its features, as text.
#[derive(Serialize, Deserialize)]
struct Rows {
    paths: Vec<String>,
    labels: Vec<Option<usize>>,
    stamps: Vec<Option<FileStamp>>,
    skipped: Vec<(String, String)>,
}

impl Rows {
    fn of(embedded: &Embedded) -> Self {
        let skipped = embedded.skipped.iter();
        Self {
            paths: (embedded.paths.iter())
                .map(|path| path_text(path))
                .collect(),
            labels: embedded.set.labels.clone(),
            stamps: embedded.stamps.clone(),
            skipped: skipped
                .map(|(path, reason)| (path_text(path), reason.clone()))
                .collect(),
        }
    }

    fn add_to(self, embedded: &mut Embedded) {
        let paths = self.paths.iter().map(|path| path_of_text(path));
        embedded.paths.extend(paths);
        embedded.set.labels.extend(self.labels);
        embedded.stamps.extend(self.stamps);
        let skipped = self.skipped.into_iter();
        let skipped = skipped.map(|(path, reason)| (path_of_text(&path), reason));
        embedded.skipped.extend(skipped);
    }
}

/// The shares of all ranks on rank 0, one after the other; no rows on the others.
fn gathered(collective: &dyn Collective, own: Embedded) -> Result<Embedded> {
    let broken = |error: serde_json::Error| Error::Ranks(format!("a share of features: {error}"));
    let rows = serde_json::to_vec(&Rows::of(&own)).map_err(broken)?;
    let rows = gather(collective, rows)?;
    let features = gather(collective, Wire::F32.bytes(&own.set.features))?;
    let mut all = own;
    all.set.features.clear();
    all.set.labels.clear();
    all.paths.clear();
    all.stamps.clear();
    all.skipped.clear();
    if collective.rank() == 0 {
        for (rows, features) in rows.iter().zip(features) {
            let rows: Rows = serde_json::from_slice(rows).map_err(broken)?;
            rows.add_to(&mut all);
            all.set.features.extend(Wire::F32.values(&features));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_batches_of_all_images() {
        for ranks in 1..5 {
            for images in 0..40 {
                for batch_size in 1..6 {
                    let shares = (0..ranks).map(|rank| own_images(rank, ranks, images, batch_size));
                    let shares: Vec<_> = shares.collect();
                    assert!(
                        shares
                            .iter()
                            .all(|of| of.start % batch_size == 0 || of.is_empty())
                    );
                    let all: Vec<usize> = shares.iter().cloned().flatten().collect();
                    assert_eq!(all, (0..images).collect::<Vec<_>>());
                    let most = shares.iter().map(|of| of.len().div_ceil(batch_size)).max();
                    let rounds = rounds(ranks, images, batch_size);
                    assert_eq!(most.map(|most| most.div_ceil(ROUND)), Some(rounds));
                }
            }
        }
    }
}
