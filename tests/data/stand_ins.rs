//! What is shown in the place of images that cannot be read, and which of these come back.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ibot::Error;
use ibot::data::view::{Augmenter, View};
use ibot::data::{Batch, ImageSource, LoaderConfig, Position, eval_batches};
use image::RgbImage;

use super::MadeImages;
use super::loading::{config, loader, take, train_views, values};
use super::skipping::{failing, in_time};

/// The images of those that are usable which a sample of a batch may show, by its first view.
fn shown(batch: &Batch, sample: usize, usable: &[usize]) -> Vec<usize> {
    let make = train_views();
    let mut augmenter = Augmenter::new(&make.augment);
    let at = batch.samples.iter().position(|&s| s == sample).unwrap();
    let view_len = make.augment.view_len();
    let found = &values(&batch.views[0], 16)[at * view_len..(at + 1) * view_len];
    let mut is_shown = |index: &usize| {
        let image = MadeImages::new(index + 1).decode(*index).unwrap();
        let (size, epoch) = ([image.width(), image.height()], batch.epoch as u64);
        let view = View::new(&make.augment, 5, epoch, sample, 0, size);
        augmenter.render(&image, &view).unwrap();
        let mut expected = vec![0.0; view_len];
        augmenter.write(&mut expected);
        found == expected
    };
    let usable = usable.iter().copied();
    usable.filter(|index| is_shown(index)).collect()
}

#[test]
fn a_bad_image_is_replaced_by_one_that_is_drawn_and_named_once() {
    in_time(|| {
        let usable = [0, 1, 4, 5, 6];
        let mut runs = Vec::new();
        for workers in [1, 4] {
            let mut loader = loader(
                failing(&[2, 3, 7]),
                &config(8, workers),
                Position::default(),
            );
            let batches = take(&mut loader, 6);
            let mut named: Vec<_> = loader.take_skipped();
            named.sort();
            let text: Vec<String> = named
                .iter()
                .map(|(p, r)| format!("{}: {r}", p.display()))
                .collect();
            assert_eq!(
                text,
                [2, 3, 7].map(|i| format!("image {i}: bad luck with {i}"))
            );
            assert_eq!(loader.skipped(), 3);
            loader.next_batch().unwrap();
            assert!(loader.take_skipped().is_empty());
            runs.push(batches);
        }
        assert_eq!(runs[0], runs[1]);
        let mut stand_ins = BTreeSet::new();
        for batch in &runs[0] {
            assert_eq!(shown(batch, 5, &usable), [5]);
            for sample in [2, 3, 7] {
                let shown = shown(batch, sample, &usable);
                assert_eq!(shown.len(), 1, "sample {sample}");
                let at = batch.samples.iter().position(|&s| s == sample).unwrap();
                // the class of the image that is seen
                assert_eq!(batch.labels[at], MadeImages::new(8).label(shown[0]));
                stand_ins.insert(shown[0]);
            }
        }
        // 18 draws of five
        assert!(stand_ins.len() > 2, "{stand_ins:?}");
        // from another place, and as two ranks have it, the same is seen
        let mut later = loader(
            failing(&[2, 3, 7]),
            &config(8, 2),
            Position { epoch: 0, batch: 4 },
        );
        assert_eq!(later.next_batch().unwrap(), runs[0][4]);
        let of_rank = |rank| {
            let config = LoaderConfig {
                rank,
                ranks: 2,
                ..config(8, 1)
            };
            let mut loader = loader(failing(&[2, 3, 7]), &config, Position::default());
            loader.next_batch().unwrap().labels
        };
        assert_eq!([of_rank(0), of_rank(1)].concat(), runs[0][0].labels);
    });
}

/// A source that counts how often each image is decoded.
fn counted(
    count: usize,
    before: impl Fn(usize) -> ibot::Result<()> + Send + Sync + 'static,
) -> (MadeImages, Arc<Vec<AtomicUsize>>) {
    let times: Arc<Vec<AtomicUsize>> = Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect());
    let counts = times.clone();
    let source = MadeImages::with(count, move |index| {
        counts[index].fetch_add(1, Ordering::SeqCst);
        before(index)
    });
    (source, times)
}

#[test]
fn no_neighbor_of_a_bad_folder_gets_its_weight() {
    in_time(|| {
        let bad = |index| match index {
            0..500 => Err(Error::data("somewhere", "cut off")),
            _ => Ok(()),
        };
        let (source, times) = counted(1000, bad);
        let mut loader = loader(Arc::new(source), &config(1000, 2), Position::default());
        loader.next_batch().unwrap();
        drop(loader);
        let most = times[500..]
            .iter()
            .map(|of| of.load(Ordering::SeqCst))
            .max();
        // once for itself, once in the place of another on average; and two more epochs may have begun
        assert!(most.unwrap() <= 16, "{most:?}");
        assert!(times[..500].iter().all(|of| of.load(Ordering::SeqCst) == 1));
    });
}

/// Images of files of ten each.
struct InFiles(MadeImages);

impl ImageSource for InFiles {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn name(&self, index: usize) -> PathBuf {
        format!("file {}", index / 10).into()
    }

    fn decode(&self, index: usize) -> ibot::Result<RgbImage> {
        self.0.decode(index)
    }

    fn of_one_file(&self, index: usize) -> Range<usize> {
        let start = index / 10 * 10;
        start..start + 10
    }
}

#[test]
fn the_tiles_of_a_bad_file_are_replaced_by_those_of_one_other() {
    in_time(|| {
        let source = MadeImages::with(100, |index| match index {
            30..40 => Err(Error::data("somewhere", "cut off")),
            _ => Ok(()),
        });
        let source = Arc::new(InFiles(source));
        let mut loader = loader(source, &config(100, 2), Position::default());
        let usable: Vec<usize> = (0..30).chain(40..100).collect();
        let mut files = BTreeSet::new();
        for batch in take(&mut loader, 4) {
            let shown = (30..40).flat_map(|sample| shown(&batch, sample, &usable));
            let shown: BTreeSet<usize> = shown.collect();
            assert_eq!(shown.len(), 10);
            let of_epoch: BTreeSet<usize> = shown.iter().map(|index| index / 10).collect();
            assert_eq!(of_epoch.len(), 1, "{shown:?}");
            files.extend(of_epoch);
        }
        assert!(files.len() > 1, "another one in each epoch: {files:?}");
        let skipped = loader.take_skipped();
        assert_eq!(skipped.len(), 1, "{skipped:?}");
    });
}

/// An error of a disk.
fn disk_error(index: usize) -> Error {
    Error::io(format!("image {index}"))(std::io::Error::from_raw_os_error(5))
}

#[test]
fn an_image_that_the_disk_did_not_give_comes_back_in_the_next_epoch() {
    in_time(|| {
        let is_bad = Arc::new(AtomicBool::new(true));
        let bad = is_bad.clone();
        let source = MadeImages::with(12, move |index| match index {
            0..4 if bad.load(Ordering::SeqCst) => Err(disk_error(index)),
            _ => Ok(()),
        });
        let mut loader = loader(Arc::new(source), &config(12, 2), Position::default());
        let usable: Vec<usize> = (4..12).collect();
        let first = loader.next_batch().unwrap();
        for sample in 0..4 {
            assert_eq!(shown(&first, sample, &usable).len(), 1);
        }
        loader.next_batch().unwrap();
        let told = loader.take_skipped();
        let [(_, why)] = &told[..] else {
            panic!("one line is said: {told:?}")
        };
        let said = "; it and 3 other files are read again in the next epoch";
        assert!(why.ends_with(said), "{why}");
        is_bad.store(false, Ordering::SeqCst);
        // two may have been begun before
        take(&mut loader, 2);
        for _ in 0..3 {
            let batch = loader.next_batch().unwrap();
            for sample in 0..12 {
                assert_eq!(shown(&batch, sample, &[sample]), [sample]);
            }
        }
        assert!(loader.take_skipped().is_empty(), "said once");
        assert_eq!(loader.skipped(), 0);
    });
}

/// What a share that is away for half a second costs: few lines, no image for good, and few reads.
#[test]
fn a_share_that_is_away_for_a_moment_ends_nothing() {
    in_time(|| {
        let is_away = Arc::new(AtomicBool::new(false));
        let away = is_away.clone();
        let (source, times) = counted(2000, move |index| {
            if away.load(Ordering::SeqCst) {
                return Err(disk_error(index));
            }
            Ok(())
        });
        let mut loader = loader(Arc::new(source), &config(4, 3), Position::default());
        take(&mut loader, 3);
        is_away.store(true, Ordering::SeqCst);
        let all = || {
            times
                .iter()
                .map(|of| of.load(Ordering::SeqCst))
                .sum::<usize>()
        };
        let before = all();
        let back = is_away.clone();
        let timer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            back.store(false, Ordering::SeqCst);
        });
        let started = Instant::now();
        let mut lines = 0;
        while started.elapsed() < Duration::from_millis(500) {
            loader.next_batch().unwrap();
            lines += loader.take_skipped().len();
        }
        timer.join().unwrap();
        // batches that were made before do not count
        assert!(all() - before < 200, "{}", all() - before);
        take(&mut loader, 10);
        lines += loader.take_skipped().len();
        // one each time that their number has doubled
        assert!((1..=8).contains(&lines), "{lines} lines");
        assert_eq!(loader.skipped(), 0);
        // one that stays away does not keep the loader from being dropped
        is_away.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(300));
        let started = Instant::now();
        drop(loader);
        assert!(started.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn evaluation_names_each_image_that_the_disk_did_not_give() {
    in_time(|| {
        let source = MadeImages::with(8, |index| match index {
            1 | 2 | 5 => Err(disk_error(index)),
            _ => Ok(()),
        });
        let augment = train_views().augment;
        let mut batches = eval_batches(Arc::new(source), &augment, 8, 2).unwrap();
        let all: Vec<_> = batches.by_ref().map(Result::unwrap).collect();
        assert_eq!(all[0].samples, [0, 3, 4, 6, 7]);
        assert_eq!(batches.take_skipped().len(), 3);
    });
}
