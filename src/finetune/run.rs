//! A whole run: from a model file and a labeled folder to two exported classifiers.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use burn::module::Module as _;
use burn_autodiff::Autodiff;

use crate::backbone::VisionTransformer;
use crate::data::{FolderConfig, Loader, LoaderConfig, PictureSource as _, Position, TrainViews};
use crate::device::{DeviceGuard, Selected};
use crate::error::{Result, printable};
use crate::files::model::{
    DataCard, LoadedModel, ModelOptions, compare_fingerprint, fingerprint, read_model,
};
use crate::finetune::classifier::Classifier;
use crate::finetune::config::FinetuneConfig;
use crate::finetune::epochs::{Epochs, Origin};
use crate::finetune::folder::FinetuneFolder;
use crate::finetune::observer::{FinetuneObserver, FinetuneReport, FinetuneStart};
use crate::finetune::pictures::{HeldOut, Pictures};
use crate::finetune::trainer::ClassifierTrainer;
use crate::kernels::{IbotBackend, OnBackend, TrainBackend};
use crate::masking::MaskPolicy;
use crate::random::{Random, Stream};
use crate::train::Schedule;

/// What to fine-tune, on what, where, and what to keep.
#[derive(Debug, Clone)]
pub struct FinetuneRequest {
    /// All settings.
    pub config: FinetuneConfig,
    /// Model file; a classifier that it holds is not used.
    pub model: PathBuf,
    /// How it is read.
    pub options: ModelOptions,
    /// Labeled image folder: a folder a class.
    pub data: PathBuf,
    /// What accuracy is measured on.
    pub held_out: HeldOut,
    /// How the folders are read.
    pub folder: FolderConfig,
    /// Run folder; it may not hold a run.
    pub out: PathBuf,
    /// The device.
    pub selected: Selected,
}

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
    let run = Run {
        request,
        guard: guard.clone(),
        stop,
    };
    guard.catch(|| request.selected.dispatch(Start { run, observer }))?
}

struct Start<'a> {
    run: Run<'a>,
    observer: &'a mut dyn FinetuneObserver,
}

impl OnBackend for Start<'_> {
    type Output = Result<FinetuneReport>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        self.run.go::<Autodiff<B>>(device, self.observer)
    }
}

pub(super) struct Run<'a> {
    pub request: &'a FinetuneRequest,
    pub guard: DeviceGuard,
    pub stop: &'a AtomicBool,
}

impl Run<'_> {
    fn go<B: TrainBackend>(
        &self,
        device: B::Device,
        observer: &mut dyn FinetuneObserver,
    ) -> Result<FinetuneReport> {
        let FinetuneRequest {
            config, data, out, ..
        } = self.request;
        B::check_device(&device)?;
        // the model first: what is wrong with it is told before the first of many pictures is looked at
        let mut model = read_model(&self.request.model, &self.request.options)?;
        observer.note(&model.normalization.to_string());
        let backbone = self.backbone::<B>(&mut model, &device, observer)?;
        let FinetuneRequest {
            held_out, folder, ..
        } = self.request;
        let pictures = Pictures::scan(data, held_out, folder, config.seed, self.stop, observer)?;
        let classes = pictures.train.classes().len();
        let mut random = Random::new(config.seed, 0, 0, Stream::Init);
        let classifier = Classifier::new(backbone, classes, config.freeze, &mut random, &device);
        let loader = self.loader(&model, &pictures)?;
        let per_epoch = loader.batches_per_epoch();
        let steps = config.epochs.saturating_mul(per_epoch);
        // a folder that is smaller than a batch makes smaller steps
        let batch = config.batch_size.min(pictures.train.len());
        let schedule = Schedule::new(&config.schedule(), steps, per_epoch, batch);
        let origin = self.origin(&model, &pictures);
        let comments = [
            format!("ibot {}", env!("CARGO_PKG_VERSION")),
            format!(
                "model {}, BLAKE3 {}",
                printable(&self.request.model),
                model.hash
            ),
            format!("data {}", printable(data)),
            self.request.held_out.to_string(),
            format!("backend {}", self.request.selected.backend()),
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
        let trainer = ClassifierTrainer::new(classifier, config, device, self.guard.clone());
        let epochs = Epochs::new(self, origin, schedule, loader, pictures, folder);
        epochs.go(trainer, observer)
    }

    /// The file's backbone, which computes here what it computed where the file was written.
    fn backbone<B: TrainBackend>(
        &self,
        model: &mut LoadedModel,
        device: &B::Device,
        observer: &mut dyn FinetuneObserver,
    ) -> Result<VisionTransformer<B>> {
        let FinetuneRequest {
            config,
            model: path,
            ..
        } = self.request;
        model.architecture.drop_path_rate = config.drop_path();
        let backbone = model.backbone::<B>(path, device)?;
        if let Some(card) = &model.card {
            let inner = burn::module::AutodiffModule::valid(&backbone);
            let (preprocessing, guard) = (&card.preprocessing, &self.guard);
            let found = fingerprint::<B::InnerBackend, _>(&inner, preprocessing, guard, device)?;
            let selected = self.request.selected.to_string();
            let difference = compare_fingerprint(path, card, &found, &selected)?;
            observer.note(&format!(
                "model {}: features of the built-in pictures within {difference:.1e} of those in the file",
                printable(path)
            ));
        }
        Ok(backbone)
    }

    fn loader(&self, model: &LoadedModel, pictures: &Pictures) -> Result<Loader> {
        let config = &self.request.config;
        let views = TrainViews {
            augment: config.augment(&model.preprocessing),
            masks: MaskPolicy {
                start_epoch: usize::MAX, // nothing is masked
                ..MaskPolicy::default()
            },
            grid: [0, 0],
        };
        let loader = LoaderConfig {
            batch_size: config.batch_size,
            workers: config.workers,
            seed: config.seed,
            drop_last: false,
            ..LoaderConfig::default()
        };
        Loader::new(pictures.train.clone(), views, &loader, Position::default())
    }

    fn origin(&self, model: &LoadedModel, pictures: &Pictures) -> Origin {
        let card = model.card.as_ref();
        let encoder = card.map(|card| card.encoder.clone());
        Origin {
            encoder: encoder
                .or_else(|| self.request.options.encoder.clone())
                .unwrap_or_default(),
            architecture: model.architecture.clone(),
            preprocessing: model.preprocessing.clone(),
            data: DataCard {
                pictures: pictures.train.len(),
                fingerprint: pictures.train.fingerprint(),
            },
            license: card.and_then(|card| card.license.clone()),
            classes: pictures.train.classes().to_vec(),
        }
    }
}
