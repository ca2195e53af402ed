//! Batches: their order and content, for any number of workers and from any position.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ibot::Error;
use ibot::data::augment::{Blur, ByKind, PerView, Solarize, ViewKind};
use ibot::data::view::{Augmenter, View};
use ibot::data::{
    AugmentConfig, Batch, ImageSource, Loader, LoaderConfig, Pixels, Position, TrainViews,
    bench_loader, eval_batches,
};
use ibot::masking::MaskPolicy;

use super::MadeImages;

const PATCHES: usize = 16;

pub fn train_views() -> TrainViews {
    TrainViews {
        augment: AugmentConfig {
            image_size: 16,
            ..AugmentConfig::default()
        },
        masks: MaskPolicy::default(),
        grid: [4, 4],
    }
}

pub fn loader(source: Arc<dyn ImageSource>, config: &LoaderConfig, start: Position) -> Loader {
    Loader::new(source, train_views(), config, start).unwrap()
}

pub fn config(batch_size: usize, workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch_size,
        workers,
        seed: 5,
        ..LoaderConfig::default()
    }
}

/// As a model sees them, of views of `side`.
pub fn values(pixels: &Pixels, side: usize) -> Vec<f32> {
    pixels.clone().into_values(side)
}

pub fn take(loader: &mut Loader, count: usize) -> Vec<Batch> {
    (0..count).map(|_| loader.next_batch().unwrap()).collect()
}

/// Bits of views and masks of every (epoch, sample).
pub fn per_sample(batches: &[Batch]) -> BTreeMap<(usize, usize), Vec<u32>> {
    let mut all = BTreeMap::new();
    for batch in batches {
        let count = batch.samples.len();
        for (at, &sample) in batch.samples.iter().enumerate() {
            let mut bits = Vec::new();
            for (number, view) in batch.views.iter().enumerate() {
                let view_len = view.len() / count;
                let values = &values(view, 16)[at * view_len..(at + 1) * view_len];
                bits.extend(values.iter().map(|value| value.to_bits()));
                let mask = batch
                    .masks
                    .chunks_exact(PATCHES)
                    .nth(number * count + at)
                    .unwrap();
                bits.extend(mask.iter().map(|&masked| u32::from(masked)));
            }
            assert!(
                all.insert((batch.epoch, sample), bits).is_none(),
                "sample {sample} twice"
            );
        }
    }
    all
}

#[test]
fn workers_and_batch_size_change_nothing_in_a_sample() {
    let mut runs = Vec::new();
    for (batch_size, workers) in [(4, 1), (4, 4), (6, 1), (6, 3), (1, 9)] {
        let config = LoaderConfig {
            drop_last: false,
            ..config(batch_size, workers)
        };
        let mut loader = loader(Arc::new(MadeImages::new(26)), &config, Position::default());
        assert_eq!(loader.batches_per_epoch(), 26usize.div_ceil(batch_size));
        let count = 2 * loader.batches_per_epoch();
        runs.push((config, take(&mut loader, count)));
    }
    let first = per_sample(&runs[0].1);
    assert_eq!(first.len(), 52);
    for (config, batches) in &runs {
        assert!(per_sample(batches) == first, "{config:?}");
    }
    assert_eq!(runs[0].1, runs[1].1);
    // Not everything is equal: views, epochs and samples differ.
    let distinct: std::collections::BTreeSet<_> = first.values().collect();
    assert_eq!(distinct.len(), 52);
    assert_ne!(runs[0].1[0].views[0], runs[0].1[0].views[1]);
}

#[test]
fn a_batch_holds_what_its_samples_and_masks_say() {
    let source = Arc::new(MadeImages::new(10));
    let mut loader = loader(source.clone(), &config(4, 2), Position::default());
    let make = train_views();
    let mut augmenter = Augmenter::new(&make.augment);
    for batch in take(&mut loader, 4) {
        let view_len = make.augment.view_len();
        assert_eq!(batch.views.len(), 2);
        assert_eq!(batch.masks.len(), 2 * 4 * PATCHES);
        for (number, views) in batch.views.iter().enumerate() {
            assert_eq!(views.len(), 4 * view_len);
            let views = values(views, 16);
            for (at, &sample) in batch.samples.iter().enumerate() {
                let image = source.decode(sample).unwrap();
                let epoch = batch.epoch as u64;
                let size = [image.width(), image.height()];
                let view = View::new(&make.augment, 5, epoch, sample, number, size);
                augmenter.render(&image, &view).unwrap();
                let mut expected = vec![0.0; view_len];
                augmenter.write(&mut expected);
                assert_eq!(views[at * view_len..(at + 1) * view_len], expected);
                let mask = make.masks.mask(5, epoch, sample, number, [4, 4]);
                let start = (number * 4 + at) * PATCHES;
                assert_eq!(batch.masks[start..start + PATCHES], mask);
            }
        }
    }
}

#[test]
fn epochs_are_permutations_and_positions_arithmetic() {
    let source = || Arc::new(MadeImages::new(12));
    let mut whole = loader(source(), &config(3, 2), Position::default());
    let batches = take(&mut whole, 12);
    let places: Vec<_> = batches
        .iter()
        .map(|batch| (batch.epoch, batch.index))
        .collect();
    assert_eq!(places[..5], [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]);
    let order = |epoch: usize| -> Vec<usize> {
        let of_epoch = batches.iter().filter(|batch| batch.epoch == epoch);
        of_epoch.flat_map(|batch| batch.samples.clone()).collect()
    };
    for epoch in 0..3 {
        let mut sorted = order(epoch);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..12).collect::<Vec<_>>());
    }
    assert_ne!(order(0), order(1));
    assert_ne!(order(0), (0..12).collect::<Vec<_>>());
    for start in [
        Position { epoch: 1, batch: 2 },
        Position { epoch: 0, batch: 6 },
    ] {
        let mut resumed = loader(source(), &config(3, 3), start);
        assert_eq!(take(&mut resumed, 6), batches[6..]);
    }
}

#[test]
fn incomplete_batches_are_dropped_or_not() {
    let count = |drop_last| {
        let config = LoaderConfig {
            drop_last,
            ..config(4, 1)
        };
        let mut loader = loader(Arc::new(MadeImages::new(10)), &config, Position::default());
        let in_epoch = loader.batches_per_epoch();
        let batches = take(&mut loader, in_epoch);
        batches
            .iter()
            .map(|batch| batch.samples.len())
            .collect::<Vec<_>>()
    };
    assert_eq!(count(true), [4, 4]);
    assert_eq!(count(false), [4, 4, 2]);
}

#[test]
fn too_few_images_and_bad_settings_are_refused() {
    let refuse = |count, config: &LoaderConfig| {
        let source = Arc::new(MadeImages::new(count));
        match Loader::new(source, train_views(), config, Position::default()) {
            Err(error @ Error::Config { .. }) => error.to_string(),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("accepted"),
        }
    };
    let message = refuse(3, &config(4, 1));
    assert!(message.contains("lower batch_size to 3"), "{message}");
    assert!(refuse(3, &config(0, 1)).contains("batch_size"));
    let queue = LoaderConfig {
        queue: 0,
        ..config(2, 1)
    };
    assert!(refuse(3, &queue).contains("queue"));
}

#[test]
fn small_sets_are_decoded_once() {
    for (bytes, expected) in [(1 << 20, 6), ((1 << 20) + 1, 18)] {
        let source = Arc::new(MadeImages {
            bytes,
            ..MadeImages::new(6)
        });
        let config = LoaderConfig {
            cache_mib: 1,
            queue: 1,
            ..config(6, 1)
        };
        let mut loader = loader(source.clone(), &config, Position::default());
        take(&mut loader, 3);
        drop(loader);
        let decoded = source.decoded.load(Ordering::SeqCst);
        // A worker may already be at the next epoch.
        assert!(
            (expected..=expected + 12).contains(&decoded),
            "{decoded} of {bytes} bytes"
        );
        if expected == 6 {
            assert_eq!(decoded, 6);
        }
    }
}

#[test]
fn evaluation_sees_every_image_once_in_order() {
    let augment = train_views().augment;
    let run = |batch_size, workers| {
        let source = Arc::new(MadeImages::new(11));
        let batches = eval_batches(source, &augment, batch_size, workers).unwrap();
        batches.collect::<Result<Vec<_>, _>>().unwrap()
    };
    let batches = run(4, 3);
    let samples: Vec<usize> = batches
        .iter()
        .flat_map(|batch| batch.samples.clone())
        .collect();
    let labels: Vec<_> = batches
        .iter()
        .flat_map(|batch| batch.labels.clone())
        .collect();
    assert_eq!(samples, (0..11).collect::<Vec<_>>());
    assert_eq!(
        labels,
        (0..11).map(|index| Some(index % 3)).collect::<Vec<_>>()
    );
    assert_eq!(batches[2].pixels.len(), 3 * augment.view_len());
    let pixels = |batches: &[ibot::data::EvalBatch]| -> Vec<f32> {
        batches
            .iter()
            .flat_map(|batch| values(&batch.pixels, 16))
            .collect()
    };
    assert_eq!(pixels(&batches), pixels(&run(5, 1)));
    let mut augmenter = Augmenter::new(&augment);
    let image = MadeImages::new(11).decode(10).unwrap();
    augmenter.eval_view(&image).unwrap();
    let mut expected = vec![0.0; augment.view_len()];
    augmenter.write(&mut expected);
    assert_eq!(pixels(&batches[2..])[2 * augment.view_len()..], expected);
}

#[test]
fn the_benchmark_counts_images() {
    let duration = Duration::from_millis(100);
    let source = Arc::new(MadeImages::new(40));
    let found = bench_loader(source.clone(), train_views(), 2, duration).unwrap();
    let speed = found.images_per_s;
    assert_eq!(
        found.bytes_per_image,
        2 * 4 * train_views().augment.view_len()
    );
    let decoded = source.decoded.load(Ordering::SeqCst) as f64;
    assert!(
        speed > 10.0 && speed * 0.1 < decoded,
        "{speed} a second, {decoded} decoded"
    );
}

/// Local views follow the global ones, in their own size, with the crops and probabilities of their kind, and no masks.
#[test]
fn local_views_follow_the_global_ones() {
    let each = |first: f64, others: f64, local: f64| {
        PerView::ByKind(ByKind {
            first,
            others,
            local,
        })
    };
    let mut make = train_views();
    make.augment = AugmentConfig {
        local_views: 3,
        local_size: 8,
        scale: [0.9, 1.0],
        local_scale: [0.05, 0.1],
        blur: Blur {
            probability: each(1.0, 0.0, 0.0),
            ..Blur::default()
        },
        solarize: Solarize {
            probability: each(0.0, 0.0, 1.0),
            ..Solarize::default()
        },
        ..make.augment
    };
    let source = Arc::new(MadeImages::new(10));
    let mut loader = Loader::new(
        source.clone(),
        make.clone(),
        &config(4, 2),
        Position::default(),
    )
    .unwrap();
    let batch = loader.next_batch().unwrap();
    let lens: Vec<usize> = batch.views.iter().map(Pixels::len).collect();
    let (global, local) = (4 * 3 * 16 * 16, 4 * 3 * 8 * 8);
    assert_eq!(lens, [global, global, local, local, local]);
    assert_eq!(batch.masks.len(), 2 * 4 * PATCHES);
    let mut augmenter = Augmenter::of_kind(&make.augment, ViewKind::Local);
    for number in 0..5 {
        for (at, &sample) in batch.samples.iter().enumerate() {
            let image = source.decode(sample).unwrap();
            let size = [image.width(), image.height()];
            let view = View::new(&make.augment, 5, 0, sample, number, size);
            let [width, height] = [view.area.width, view.area.height].map(f64::from);
            let share = width * height / f64::from(size[0] * size[1]);
            let is_local = number >= 2;
            assert_eq!(share < 0.3, is_local, "view {number} covers {share}");
            assert_eq!(view.blur.is_some(), number == 0);
            assert_eq!(view.solarize, is_local);
            if is_local {
                augmenter.render(&image, &view).unwrap();
                let mut expected = vec![0.0; 3 * 8 * 8];
                augmenter.write(&mut expected);
                let len = expected.len();
                let found = values(&batch.views[number], 8);
                assert_eq!(found[at * len..(at + 1) * len], expected);
            }
        }
    }
}

/// Four images that nobody gets before the gate is open.
pub fn gated_images() -> (Arc<AtomicBool>, MadeImages) {
    let is_open = Arc::new(AtomicBool::new(false));
    let gate = is_open.clone();
    let source = MadeImages::with(4, move |_| {
        while !gate.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    });
    (is_open, source)
}

/// Who waits for a slow image can stop, and go on later with the batch that was waited for.
#[test]
fn a_wait_for_a_batch_can_be_stopped() {
    let (is_open, source) = gated_images();
    let mut found = loader(Arc::new(source), &config(2, 1), Position::default());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::Relaxed);
        });
        let stopped = found.next_batch_until(&stop);
        assert!(matches!(stopped, Err(Error::Stopped)));
    });
    is_open.store(true, Ordering::Relaxed);
    let source = Arc::new(MadeImages::new(4));
    let mut expected = loader(source.clone(), &config(2, 1), Position::default());
    assert_eq!(take(&mut found, 2), take(&mut expected, 2));

    let mut batches = eval_batches(source, &train_views().augment, 2, 1).unwrap();
    let stopped = batches.next_until(&AtomicBool::new(true));
    assert!(matches!(stopped, Some(Err(Error::Stopped))));
    assert!(batches.next().is_none());
}
