//! A whole run: from a model file and a labeled folder to two exported classifiers.

use std::sync::atomic::AtomicBool;

use burn::module::Module as _;
use burn_autodiff::Autodiff;

use crate::data::PictureSource as _;
use crate::device::DeviceGuard;
use crate::error::{Result, printable};
use crate::files::model::read_model;
use crate::finetune::classifier::Classifier;
use crate::finetune::epochs::Epochs;
use crate::finetune::folder::FinetuneFolder;
use crate::finetune::observer::{FinetuneObserver, FinetuneReport, FinetuneStart};
use crate::finetune::pictures::Pictures;
use crate::finetune::setup::{FinetuneRequest, FinetuneSetup};
use crate::finetune::trainer::ClassifierTrainer;
use crate::kernels::{IbotBackend, OnBackend, TrainBackend};
use crate::random::{Random, Stream};
use crate::train::Schedule;

/// Trains a classifier until the end, a failure, or `stop`. After each epoch the folder holds the newest and the best one.
///
/// # Errors
/// Settings, pictures, a model file or a run folder that cannot work, before anything is written; afterwards a device that
/// failed, a disk that is full, a loss that is not finite, or [`crate::Error::Interrupted`], with the newest classifier in
/// the run folder. What was exported before stays.
pub fn finetune(
    request: &FinetuneRequest,
    stop: &AtomicBool,
    observer: &mut dyn FinetuneObserver,
) -> Result<FinetuneReport> {
    request.config.validate()?;
    request.held_out.check(&request.data)?;
    FinetuneFolder::refuse_used(&request.out)?;
    let guard = DeviceGuard::install(&request.selected)?;
    observer.note(&request.selected.to_string());
    let setup = FinetuneSetup {
        request,
        guard: guard.clone(),
        stop,
    };
    guard.catch(|| request.selected.dispatch(Start { setup, observer }))?
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

fn train<B: TrainBackend>(
    setup: &FinetuneSetup<'_>,
    device: B::Device,
    observer: &mut dyn FinetuneObserver,
) -> Result<FinetuneReport> {
    let FinetuneRequest {
        config, data, out, ..
    } = setup.request;
    B::check_device(&device)?;
    B::check_precision(config.precision, &device)?;
    // the model first: its errors are reported before many pictures are scanned
    let mut model = read_model(&setup.request.model, &setup.request.options)?;
    observer.note(&model.normalization.to_string());
    let backbone = setup.backbone::<B>(&mut model, &device, observer)?;
    let FinetuneRequest {
        held_out, folder, ..
    } = setup.request;
    let pictures = Pictures::scan(data, held_out, folder, config.seed, setup.stop, observer)?;
    let classes = pictures.train.classes().len();
    let mut random = Random::new(config.seed, 0, 0, Stream::Init);
    let classifier = Classifier::new(backbone, classes, config.freeze, &mut random, &device);
    let loader = setup.loader(&model, &pictures)?;
    let per_epoch = loader.batches_per_epoch();
    let steps = config.epochs.saturating_mul(per_epoch);
    // a folder with fewer images than a batch uses a smaller batch
    let batch = config.batch_size.min(pictures.train.len());
    let schedule = Schedule::new(&config.schedule(), steps, per_epoch, batch);
    let origin = setup.origin(&model, &pictures);
    let comments = [
        format!("ibot {}", env!("CARGO_PKG_VERSION")),
        format!(
            "model {}, BLAKE3 {}",
            printable(&setup.request.model),
            model.hash
        ),
        format!("data {}", printable(data)),
        setup.request.held_out.to_string(),
        format!("backend {}", setup.request.selected.backend()),
    ];
    let folder = FinetuneFolder::begin(out, config, &comments)?;
    observer.started(&FinetuneStart {
        steps,
        epochs: config.epochs,
        classes: origin.classes.clone(),
        pictures: pictures.train.len(),
        held_out: pictures.held_out.len(),
        parameters: match config.freeze {
            true => classifier.head.num_params(),
            false => classifier.num_params(),
        },
        out: out.clone(),
    });
    let trainer = ClassifierTrainer::new(classifier, config, device, setup.guard.clone());
    let epochs = Epochs::new(setup, origin, schedule, loader, pictures, folder);
    epochs.run(trainer, observer)
}
