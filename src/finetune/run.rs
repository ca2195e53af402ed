//! A whole run: from a model file and a labeled folder to two exported classifiers.

use std::sync::atomic::AtomicBool;

use burn::module::Module as _;
use burn_autodiff::Autodiff;

use crate::collective::{all_ok, check_equal};
use crate::data::{FolderConfig, ImageSource as _, ValueRange};
use crate::device::on_device;
use crate::error::{Error, Result};
use crate::files::model::{LoadedModel, read_model};
use crate::finetune::classifier::Classifier;
use crate::finetune::epochs::Epochs;
use crate::finetune::folder::{FinetuneFolder, Found};
use crate::finetune::labeled::LabeledImages;
use crate::finetune::observer::{FinetuneObserver, FinetuneReport, FinetuneStart};
use crate::finetune::record::{input, record};
use crate::finetune::resuming::{Place, place_of, report};
use crate::finetune::setup::{FinetuneRequest, FinetuneSetup};
use crate::finetune::together::begun_by_rank_0;
use crate::finetune::trainer::ClassifierTrainer;
use crate::kernels::{IbotBackend, OnBackend, TrainBackend};
use crate::random::{Random, Stream};
use crate::train::Schedule;

/// Trains a classifier until the end, a failure, or `stop`. After each epoch the folder holds the newest and the best one. The
/// same request resumes an interrupted run, as if it had not been interrupted, and gives the results of a complete one.
///
/// # Errors
/// Settings, images, a model file or a run folder that cannot work, before anything is written; afterwards a device that
/// failed, a disk that is full, a loss that is not finite, or [`crate::Error::Interrupted`], with the newest classifier in
/// the run folder, and a checkpoint. What was exported before stays.
pub fn finetune(
    request: &FinetuneRequest,
    stop: &AtomicBool,
    observer: &mut dyn FinetuneObserver,
) -> Result<FinetuneReport> {
    request.config.validate()?;
    request.held_out.check(&request.data)?;
    FinetuneFolder::refuse_used(&request.out)?;
    on_device(&request.selected, |selected, guard| {
        observer.note(&selected.to_string());
        let request = &FinetuneRequest {
            selected: selected.clone(),
            ..request.clone()
        };
        let setup = FinetuneSetup {
            request,
            guard: guard.clone(),
            stop,
        };
        selected.dispatch(Start { setup, observer })
    })
}

struct Start<'a> {
    setup: FinetuneSetup<'a>,
    observer: &'a mut dyn FinetuneObserver,
}

impl OnBackend for Start<'_> {
    type Output = Result<FinetuneReport>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        train::<Autodiff<B>>(&self.setup, device, self.observer)
    }
}

/// The model, its classifier and the images, on one rank.
fn prepared<B: TrainBackend>(
    setup: &FinetuneSetup<'_>,
    device: &B::Device,
    observer: &mut dyn FinetuneObserver,
) -> Result<(LoadedModel, Classifier<B>, LabeledImages)> {
    let FinetuneRequest {
        config,
        data,
        held_out,
        folder,
        ..
    } = setup.request;
    B::check_device(device)?;
    B::check_precision(config.precision, device)?;
    // the model first: its errors are reported before many images are scanned
    let mut model = read_model(&setup.request.model, &setup.request.options)?;
    observer.note(&model.normalization.to_string());
    config.augment(&model.preprocessing).validate()?;
    let backbone = setup.backbone::<B>(&mut model, device, observer)?;
    let folder = with_range(folder, model.preprocessing.range)?;
    let (ranks, seed, stop) = (setup.ranks(), config.seed, setup.stop);
    let images = LabeledImages::scan(data, held_out, &folder, seed, ranks.size(), stop, observer)?;
    model.preprocessing.range = images.train.range();
    let classes = images.train.classes().len();
    let mut random = Random::new(config.seed, 0, 0, Stream::Init);
    let classifier = Classifier::new(backbone, classes, config.freeze, &mut random, device);
    Ok((model, classifier, images))
}

fn train<B: TrainBackend>(
    setup: &FinetuneSetup<'_>,
    device: B::Device,
    observer: &mut dyn FinetuneObserver,
) -> Result<FinetuneReport> {
    let FinetuneRequest { config, out, .. } = setup.request;
    let ranks = setup.ranks();
    // a rank that waits for one that failed would not hear why
    let prepared = all_ok(ranks, prepared::<B>(setup, &device, observer));
    let (model, classifier, images) = prepared?;
    let origin = FinetuneSetup::origin(&model, &images);
    let input = input(&model.encoder, &model.preprocessing, &setup.request.folder);
    let input = all_ok(ranks, input)?;
    let settings = record(setup.request, &model.hash, &images, &input);
    let settings = all_ok(ranks, settings)?;
    check_same_run(setup, &model.hash, &images, &input)?;
    let begin = || FinetuneFolder::begin(out, settings, config.epochs, observer);
    let (folder, found) = begun_by_rank_0(out, ranks, begin)?;
    let mut trainer = ClassifierTrainer::new(classifier, config, device, setup.guard.clone())
        .with_collective(setup.request.collective.clone());
    let (place, epochs) = match found {
        Found::Nothing => (Place::default(), Vec::new()),
        Found::Checkpoint(checkpoint, epochs) => {
            let restored = trainer.restore(checkpoint.manifest.step, &checkpoint.tensors, out);
            all_ok(ranks, restored)?;
            (place_of(&checkpoint.manifest, out)?.0, epochs)
        }
        Found::Complete(epochs) => {
            if let Some(folder) = &folder {
                folder.remove_checkpoints()?; // a run that was killed at its end
            }
            return report(&origin, &images, epochs, FinetuneFolder::files(out));
        }
    };
    let loader = setup.loader(&model, &images, place.position())?;
    let per_epoch = loader.batches_per_epoch();
    let steps = config.epochs.saturating_mul(per_epoch);
    // a folder with fewer images than a batch uses a smaller batch
    let batch = config.batch_size.min(images.train.len());
    let schedule = Schedule::new(&config.schedule(), steps, per_epoch, batch);
    observer.started(&FinetuneStart {
        steps,
        made: trainer.steps(),
        epochs: config.epochs,
        classes: origin.classes.clone(),
        images: images.train.len(),
        held_out: images.held_out.len(),
        parameters: if config.freeze {
            trainer.classifier.head.num_params()
        } else {
            trainer.classifier.num_params()
        },
        out: out.clone(),
    });
    let all = Epochs::new(setup, origin, schedule, loader, images, folder);
    all.run(trainer, place, epochs, observer)
}

/// Refuses ranks with another model, another input of it, other images or other settings. Paths count as they were given: ranks
/// may have other current folders.
fn check_same_run(
    setup: &FinetuneSetup<'_>,
    hash: &str,
    images: &LabeledImages,
    input: &[String],
) -> Result<()> {
    let FinetuneRequest {
        config,
        data,
        held_out,
        selected,
        ..
    } = setup.request;
    let names = [&images.train, &images.held_out].map(|part| part.fingerprint());
    let (range, backend) = (images.train.range(), selected.backend());
    let what =
        format!("{hash} {input:?} {data:?} {held_out:?} {names:?} {range} {backend} {config:?}");
    let of_all = "model, its input, images, their range of values or settings";
    check_equal(setup.ranks(), of_all, what.as_bytes())
}

/// How folders are read: with the model's range of values, unless another one is given; and whole.
fn with_range(folder: &FolderConfig, of_model: ValueRange) -> Result<FolderConfig> {
    if let Some(side) = folder.tile {
        let remedy =
            "is for training without labels and for embedding: a class is that of a whole image";
        return Err(Error::config("folder.tile", side, remedy));
    }
    Ok(FolderConfig {
        range: folder.range.or(of_model),
        ..folder.clone()
    })
}
