//! A complete run: from an image folder, or from its own newest checkpoint, to two exported backbones.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn_autodiff::Autodiff;

use crate::backbone::VisionTransformer;
use crate::collective::{Collective, all_ok, check_equal, from_rank_0};
use crate::data::decode::drawing::write_drawing;
use crate::data::{ImageFolder, ImageSource as _, ValueRange, views_mosaic};
use crate::device::{Selected, on_device};
use crate::error::{Error, Result};
use crate::files::checkpoint::{Checkpoint, Manifest};
use crate::kernels::{IbotBackend, OnBackend, TrainBackend};
use crate::train::config::RunConfig;
use crate::train::health::HealthMonitor;
use crate::train::run::evaluation::{EvaluationTime, RunImages};
use crate::train::run::folder::RunFolder;
use crate::train::run::observer::{Observer, RunStart};
use crate::train::run::record::{AllowedChanges, RunRecord};
use crate::train::run::request::{OnDeviceLost, RunRequest};
use crate::train::run::setup::{RunSetup, Weights, loader, train_views};
use crate::train::run::together::{
    OfRank, check_same_tensors, found_by_rank_0, note_other_ranks, same_settings,
};
use crate::train::run::train_loop::{DueEvaluation, TrainLoop};
use crate::train::trainer::Trainer;

/// The first views of a run, in its folder.
const VIEWS: &str = "views.png";
/// Number of examples on it.
const DRAWN: usize = 8;

/// Runs on the selected device until the end, a failure, or `stop`; continues on the CPU after a GPU failure if
/// `on_device_lost` allows it.
///
/// # Errors
/// Before anything is written: invalid settings, images, weights or run folder. Afterwards: a device that
/// failed, a disk that is full, a loss that is not finite, or [`Error::Interrupted`], with the newest checkpoint in the
/// run folder.
pub fn run(request: &RunRequest, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<()> {
    // one rank cannot go on from a checkpoint while the others wait at a step
    let may_go_on = request.on_device_lost == OnDeviceLost::Cpu
        && request.collective.size() == 1
        && matches!(request.selected, Selected::Wgpu { .. });
    let allowed = |otherwise| {
        if request.allow_changes {
            AllowedChanges::All
        } else {
            otherwise
        }
    };
    match run_on_device(request, allowed(AllowedChanges::Nothing), stop, observer) {
        Err(error @ Error::Device(_)) if may_go_on => {
            observer.note(&format!(
                "{error}\n`on_device_lost` cpu: resuming on the CPU"
            ));
            let on_cpu = RunRequest {
                selected: Selected::Flex,
                ..request.clone()
            };
            // a device that could not even be opened has not had the folder compared with the settings
            run_on_device(&on_cpu, allowed(AllowedChanges::Backend), stop, observer)
        }
        result => result,
    }
}

fn run_on_device(
    request: &RunRequest,
    allowed: AllowedChanges,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<()> {
    on_device(&request.selected, |selected, guard| {
        observer.device(selected);
        let request = &RunRequest {
            selected: selected.clone(),
            ..request.clone()
        };
        let setup = RunSetup {
            request,
            guard: guard.clone(),
            stop,
            allowed,
        };
        let rank = request.collective.rank();
        let mut of_rank;
        let observer = match rank {
            0 => observer,
            _ => {
                of_rank = OfRank { rank, observer };
                &mut of_rank
            }
        };
        selected.dispatch(Start { setup, observer })
    })
}

struct Start<'a> {
    setup: RunSetup<'a>,
    observer: &'a mut dyn Observer,
}

impl OnBackend for Start<'_> {
    type Output = Result<()>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        train::<Autodiff<B>>(&self.setup, device, self.observer)
    }
}

type VitLoop<'a, B> = TrainLoop<'a, B, VisionTransformer<B>>;

fn train<B: TrainBackend>(
    setup: &RunSetup<'_>,
    device: B::Device,
    observer: &mut dyn Observer,
) -> Result<()> {
    let (mut training, start) = set_up::<B>(setup, &device, observer)?;
    // where nothing is compared with it, evaluating the untrained teacher takes time and shows little
    if training.is_new() && training.compares_teachers() {
        let before = DueEvaluation {
            when: EvaluationTime::Before,
            with_knn: true,
        };
        training.evaluate(&before, observer)?;
    }
    observer.started(&start);
    if start.start_step >= start.steps {
        observer.note(
            "the run is complete; raise `epochs` or `steps` with `allow_changes` to train longer",
        );
        // killed between its last checkpoint and its weights, it has those of an earlier step, or none
        training.export()?;
    }
    // the run may have been stopped after a step but before its evaluation
    if let Some(owed) = training.owed_evaluation()? {
        training.evaluate(&owed, observer)?;
    }
    training.run(observer)?;
    training.finish(observer)
}

/// From settings and folders to the next step. Everything is checked before the first image is read, because there
/// may be many.
fn set_up<'a, B: TrainBackend>(
    setup: &'a RunSetup<'_>,
    device: &B::Device,
    observer: &mut dyn Observer,
) -> Result<(VitLoop<'a, B>, RunStart)> {
    let request = setup.request;
    let ranks = &*request.collective;
    let asked = request.config.clone().resolved()?;
    let mut folder = open_folder(setup, &asked, observer)?;
    let mut record = all_ok(ranks, setup.record(&asked))?;
    let newest = found_by_rank_0(&mut folder, ranks, |folder| {
        folder.continued(&record, setup.allowed, observer)
    })?;
    let started_from = from_rank_0(ranks, || Ok(folder.started_from()))?;
    let weights = setup.weights(newest.is_some(), started_from.as_ref());
    let trainer = setup.trainer::<B>(&asked, weights, device, observer);
    let mut trainer = all_ok(ranks, trainer)?;
    // config.toml keeps what was asked; checkpoints keep the measured range of values, which a resumed run takes from there: where
    // images have changed, it would measure another one
    let mut config = asked.clone();
    let began = newest.as_ref().map(|newest| newest.manifest.clone());
    let kept = began.as_ref().map(|began| kept_range(&began.config));
    config.folder.range = asked.folder.range.or(kept.unwrap_or_default());
    let (train, val) = all_ok(ranks, setup.images(&config, observer))?;
    config.folder.range = train.range();
    record.note_images(&train, val.as_deref());
    if !matches!(weights, Weights::New) {
        record.pretrained.clone_from(&started_from);
    }
    let is_trained_at_start = record.pretrained.is_some();
    same_images(&record, &train, ranks)?;
    // rank 0 alone has read the record of the run before
    let is_same = folder.same_images(&record, setup.allowed, observer);
    all_ok(ranks, is_same)?;
    let made = began.as_ref().map(|manifest| manifest.step);
    let examples = count_examples(&config, &train, observer);
    record.examples = examples;
    let loader = loader(&config, train.clone(), made.unwrap_or(0), ranks);
    let loader = all_ok(ranks, loader)?;
    // before `folder.begin`, which changes the folder: a checkpoint that does not fit must leave it as it was
    let restore = |newest| restore(&mut trainer, newest, folder.path());
    let monitor = all_ok(ranks, newest.map(restore).transpose())?.flatten();
    let monitor = monitor.unwrap_or_else(|| HealthMonitor::new(config.method.prototypes()));
    same_start(&trainer, setup, made.unwrap_or(0))?;
    let (card, evaluated) = (record.data_card(), record.evaluated());
    let begun = match ranks.rank() {
        0 => {
            note_other_ranks(folder.ranks_before(), &config, ranks.size(), observer);
            let begun = folder.begin(record, &asked, made, observer);
            begun.and_then(|()| match made {
                None => draw_views(&config, train.clone(), folder.path(), observer),
                Some(_) => Ok(()),
            })
        }
        _ => Ok(()),
    };
    all_ok(ranks, begun)?;
    let images = RunImages {
        train,
        card,
        val,
        evaluated,
    };
    let from = (began.as_ref(), monitor);
    let mut training = TrainLoop::new(setup, trainer, config, folder, loader, images, from);
    training.is_trained_at_start = is_trained_at_start;
    let start = training.start(examples);
    Ok((training, start))
}

/// Whether all ranks found the same images, and measured the same range of values on them.
fn same_images(record: &RunRecord, train: &ImageFolder, ranks: &dyn Collective) -> Result<()> {
    let (of, range) = (&record.validation, train.range());
    let found = format!("{}\n{of:?}\n{range}", record.fingerprint);
    check_equal(
        ranks,
        "names or range of values of the images",
        found.as_bytes(),
    )
}

/// The run folder, once all ranks have the same settings and find what these name; rank 0 alone creates and locks it.
fn open_folder(
    setup: &RunSetup<'_>,
    config: &RunConfig,
    observer: &mut dyn Observer,
) -> Result<RunFolder> {
    let request = setup.request;
    let ranks = &*request.collective;
    let shared = RunConfig {
        workers: 0, // of each machine
        ..config.clone()
    };
    same_settings(&shared.to_toml()?, ranks)?;
    let options = (
        (request.val.is_some(), request.knn_every, request.on_anomaly),
        (request.checkpoint_every, request.mixed_devices),
    );
    let options = format!("{options:?}");
    check_equal(
        ranks,
        "options such as `val`, `knn_every` or `on_anomaly`",
        options.as_bytes(),
    )?;
    all_ok(ranks, setup.check_request(config))?;
    let folder = match ranks.rank() {
        0 => RunFolder::open(&request.out, request.keep, observer),
        _ => Ok(RunFolder::read_only(&request.out)),
    };
    all_ok(ranks, folder)
}

/// The number of examples that the images are, and a note where it is another one.
fn count_examples(
    config: &RunConfig,
    train: &Arc<ImageFolder>,
    observer: &mut dyn Observer,
) -> usize {
    let examples = config.folder.examples(train.clone()).len();
    if let Some(grid) = config.folder.tile_grid() {
        let (tiles, side, images) = (examples, grid.side(), train.len());
        observer.note(&format!(
            "{tiles} tiles of {side} x {side} pixels from {images} images; each is an example (`tile`)"
        ));
    }
    examples
}

/// Restores the trainer of a resumed run; returns the health monitor of its checkpoint, if that has one.
fn restore<B: TrainBackend>(
    trainer: &mut Trainer<B, VisionTransformer<B>>,
    newest: Checkpoint,
    run: &Path,
) -> Result<Option<HealthMonitor>> {
    let Manifest {
        step, loop_state, ..
    } = newest.manifest;
    trainer.restore(step, newest.tensors, run)?;
    // null is none
    serde_json::from_value(loop_state).map_err(|error| {
        let reason = format!(
            "the health monitor in its checkpoint of step {step} cannot be read: {error}; resume with the version of ibot that wrote it"
        );
        Error::checkpoint(run, reason)
    })
}

/// Refuses ranks that start from other weights: one file of them may be another one on another machine.
fn same_start<B: TrainBackend>(
    trainer: &Trainer<B, VisionTransformer<B>>,
    setup: &RunSetup<'_>,
    step: usize,
) -> Result<()> {
    let ranks = &*setup.request.collective;
    if ranks.size() == 1 {
        return Ok(());
    }
    let read = || trainer.tensors();
    let tensors = setup.guard.read::<B, _>(trainer.device(), read);
    check_same_tensors(&all_ok(ranks, tensors)?, step, ranks)
}

/// Draws the first views into the run folder, to look at before the run is long.
fn draw_views(
    config: &RunConfig,
    train: Arc<ImageFolder>,
    run: &Path,
    observer: &mut dyn Observer,
) -> Result<()> {
    let (examples, views) = (config.folder.examples(train), train_views(config)?);
    let file = run.join(VIEWS);
    let drawn = views_mosaic(&*examples, &views, config.seed, DRAWN)
        .and_then(|mosaic| write_drawing(&file, &mosaic));
    // not worth a run: what really keeps it from training, its first batch or checkpoint will say
    if let Err(error) = drawn {
        observer.note(&format!("{VIEWS} cannot be drawn: {error}"));
    }
    Ok(())
}

/// The range of values in the settings of a checkpoint; versions without this setting used the whole range.
fn kept_range(config: &str) -> ValueRange {
    let has_range = |table: &toml::Table| table.get("folder")?.get("range").map(|_| ());
    match toml::from_str(config).ok().as_ref().and_then(has_range) {
        None => ValueRange::Full,
        Some(()) => RunConfig::default()
            .merged_with_toml(config)
            .map_or(ValueRange::Auto, |config| config.folder.range),
    }
}
