//! Features of a folder whose images several ranks share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use ibot::collective::{Collective, LocalRanks, SingleProcess};
use ibot::data::{FolderConfig, ImageFolder};
use ibot::device::{BackendChoice, select};
use ibot::embedding::{Embedded, Embedder, EmbeddingTable, FolderRequest, Reused, embed_changed};
use ibot::files::model::ModelOptions;
use ibot::{Error, Result};

use crate::tiny_model::Scratch;

/// What one rank does, which stops after so many images of all.
struct Work<'a> {
    model: PathBuf,
    images: PathBuf,
    request: FolderRequest,
    tables: &'a [EmbeddingTable],
    stop_after: usize,
}

impl Work<'_> {
    fn folder(&self) -> Arc<ImageFolder> {
        let folder = ImageFolder::scan(&self.images, &FolderConfig::default());
        Arc::new(folder.unwrap())
    }

    fn run(
        &self,
        collective: &dyn Collective,
        folder: &Arc<ImageFolder>,
    ) -> Result<(Embedded, Reused)> {
        let device = select(BackendChoice::Flex, None)?;
        let embedder = Embedder::load(&self.model, &ModelOptions::default(), &device)?;
        let mut goes_on = |made, _| made < self.stop_after;
        embed_changed(
            collective,
            &embedder,
            folder,
            &self.request,
            &self.tables.iter().collect::<Vec<_>>(),
            &mut goes_on,
        )
    }

    /// On so many ranks, in their order.
    fn on_ranks(&self, ranks: usize) -> Vec<Result<(Embedded, Reused)>> {
        let folder = self.folder();
        thread::scope(|scope| {
            let ranks = LocalRanks::group(ranks).into_iter();
            let ranks = ranks.map(|rank| scope.spawn(|| (self.run(&rank, &folder), rank).0));
            let ranks: Vec<_> = ranks.collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }
}

/// Leaves half of a file: its size can be read, its pixels cannot.
fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn bits(embedded: &Embedded) -> Vec<u32> {
    embedded
        .set
        .features
        .iter()
        .map(|value| value.to_bits())
        .collect()
}

#[test]
fn several_ranks_have_the_rows_of_one() {
    let scratch = Scratch::new("embed-ranks");
    let images = scratch.images(23);
    cut(&images[5]);
    cut(&images[17]);
    let mut work = Work {
        model: scratch.model(2),
        images: scratch.path("images"),
        request: FolderRequest {
            batch_size: 2,
            workers: 1,
            ..FolderRequest::default()
        },
        tables: &[],
        stop_after: usize::MAX,
    };
    let (alone, reused) = work.run(&SingleProcess, &work.folder()).unwrap();
    assert_eq!((alone.paths.len(), reused.computed), (21, 21));
    // more ranks than batches too
    for ranks in [2, 3, 5, 16] {
        let mut found = work.on_ranks(ranks).into_iter().map(Result::unwrap);
        let (first, reused) = found.next().unwrap();
        assert_eq!(bits(&first), bits(&alone), "{ranks} ranks");
        assert_eq!(first.paths, alone.paths);
        assert_eq!(first.stamps, alone.stamps);
        assert_eq!(first.skipped.len(), 2);
        assert_eq!((reused.kept, reused.computed), (0, 21));
        assert!(!first.is_cut_short);
        assert!(found.all(|(other, _)| other.paths.is_empty() && other.set.is_empty()));
    }
    // those in a table are not computed again
    let model = Embedder::load(
        &work.model,
        &ModelOptions::default(),
        &select(BackendChoice::Flex, None).unwrap(),
    );
    let mut half = alone.clone();
    half.paths.truncate(9);
    half.stamps.truncate(9);
    half.set.labels.truncate(9);
    half.set.features.truncate(9 * alone.set.width);
    let table = EmbeddingTable::new(half, model.unwrap().hash());
    work.tables = std::slice::from_ref(&table);
    let (first, reused) = work.on_ranks(3).swap_remove(0).unwrap();
    assert_eq!((reused.kept, reused.computed), (9, 12));
    assert_eq!((bits(&first), &first.paths), (bits(&alone), &alone.paths));
}

#[test]
fn one_rank_that_is_stopped_stops_all() {
    let scratch = Scratch::new("embed-ranks-stop");
    scratch.images(40);
    let work = Work {
        model: scratch.model(2),
        images: scratch.path("images"),
        request: FolderRequest {
            batch_size: 1,
            workers: 1,
            ..FolderRequest::default()
        },
        tables: &[],
        stop_after: 8,
    };
    let found: Vec<_> = work.on_ranks(2).into_iter().map(Result::unwrap).collect();
    assert!(found.iter().all(|(embedded, _)| embedded.is_cut_short));
    // a round of each
    assert_eq!(found[0].0.paths.len(), 8);
}

#[test]
fn ranks_whose_images_differ_or_are_all_broken_say_so() {
    let scratch = Scratch::new("embed-ranks-differ");
    let images = scratch.images(6);
    let work = Work {
        model: scratch.model(2),
        images: scratch.path("images"),
        request: FolderRequest::default(),
        tables: &[],
        stop_after: usize::MAX,
    };
    let whole = work.folder();
    let fewer = Arc::new(whole.part(&[0, 1, 2]));
    let errors: Vec<Error> = thread::scope(|scope| {
        let ranks = LocalRanks::group(2).into_iter().zip([&whole, &fewer]);
        let work = &work;
        let ranks = ranks.map(|(rank, folder)| scope.spawn(move || work.run(&rank, folder)));
        let ranks: Vec<_> = ranks.collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().unwrap().unwrap_err())
            .collect()
    });
    assert!(
        errors
            .iter()
            .any(|error| error.to_string().contains("images")),
        "{errors:?}"
    );
    images.iter().for_each(|path| cut(path));
    for error in work.on_ranks(2).into_iter().map(Result::unwrap_err) {
        let error = error.to_string();
        assert!(error.contains("none of the 6 images"), "{error}");
    }
}

/// A rank that has nothing to compute, as its file server shows other times, would leave the others waiting.
#[test]
fn ranks_that_would_compute_other_images_say_so() {
    let scratch = Scratch::new("embed-ranks-other-times");
    scratch.images(6);
    let work = Work {
        model: scratch.model(2),
        images: scratch.path("images"),
        request: FolderRequest {
            workers: 1,
            ..FolderRequest::default()
        },
        tables: &[],
        stop_after: usize::MAX,
    };
    let folder = work.folder();
    let (all, _) = work.run(&SingleProcess, &folder).unwrap();
    let device = select(BackendChoice::Flex, None).unwrap();
    let model = Embedder::load(&work.model, &ModelOptions::default(), &device).unwrap();
    let table = |rows: usize| {
        let mut some = all.clone();
        some.paths.truncate(rows);
        some.stamps.truncate(rows);
        some.set.labels.truncate(rows);
        some.set.features.truncate(rows * all.set.width);
        EmbeddingTable::new(some, model.hash())
    };
    // all known on one of them; some or none on the other
    for rows in [[6, 5], [5, 6], [0, 6], [3, 2]] {
        let errors = thread::scope(|scope| {
            let ranks = LocalRanks::group(2).into_iter().zip(rows);
            let (work, folder) = (&work, &folder);
            let ranks = ranks.map(|(rank, rows)| {
                let table = table(rows);
                scope.spawn(move || {
                    let work = Work {
                        model: work.model.clone(),
                        images: work.images.clone(),
                        request: work.request,
                        tables: std::slice::from_ref(&table),
                        stop_after: usize::MAX,
                    };
                    work.run(&rank, folder).unwrap_err().to_string()
                })
            });
            let ranks: Vec<_> = ranks.collect();
            let errors = ranks.into_iter().map(|rank| rank.join().unwrap());
            errors.collect::<Vec<String>>()
        });
        for error in errors {
            let said = "images to compute, by their names and the sizes and times of their files, of rank 1 differ";
            assert!(error.contains(said), "{rows:?}: {error}");
        }
    }
}
