//! The parts of fine-tuning before its first step.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backbone::{VisionTransformer, VitConfig};
use crate::collective::Collective;
use crate::data::{FolderConfig, ImageSource as _, Loader, LoaderConfig, Position, TrainViews};
use crate::device::{DeviceGuard, Selected};
use crate::error::{Result, printable};
use crate::files::model::{
    DataCard, LoadedModel, ModelOptions, Preprocessing, compare_fingerprint, fingerprint,
};
use crate::finetune::config::FinetuneConfig;
use crate::finetune::labeled::{HeldOut, LabeledImages};
use crate::finetune::observer::FinetuneObserver;
use crate::kernels::TrainBackend;
use crate::masking::MaskPolicy;

/// A request to fine-tune: model, data, run folder and device.
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
    /// Run folder; a run of the same settings, model and images in it resumes.
    pub out: PathBuf,
    /// The device.
    pub selected: Selected,
    /// The ranks that train together, each with a share of every batch; [`crate::collective::SingleProcess`] for one. All have
    /// the same request but for the device; rank 0 writes the run folder, which all must see.
    pub collective: Arc<dyn Collective>,
}

/// The origin of the weights, for the metadata of model files.
pub(super) struct Origin {
    pub encoder: String,
    pub architecture: VitConfig,
    pub preprocessing: Preprocessing,
    pub data: DataCard,
    pub license: Option<String>,
    pub classes: Vec<String>,
}

/// What a run has from its beginning to its end.
pub(super) struct FinetuneSetup<'a> {
    pub request: &'a FinetuneRequest,
    pub guard: DeviceGuard,
    pub stop: &'a AtomicBool,
}

impl FinetuneSetup<'_> {
    /// The file's backbone, which computes here what it computed where the file was written.
    pub fn backbone<B: TrainBackend>(
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
            let like = match difference {
                0.0 => "equal to".to_owned(),
                _ => format!("within {difference:.1e} of"),
            };
            observer.note(&format!(
                "model {}: features of the built-in images are {like} those in the file",
                printable(path)
            ));
        }
        Ok(backbone)
    }

    /// The ranks of the run.
    pub fn ranks(&self) -> &dyn Collective {
        &*self.request.collective
    }

    /// This rank's shares of the batches from `start` on.
    pub fn loader(
        &self,
        model: &LoadedModel,
        images: &LabeledImages,
        start: Position,
    ) -> Result<Loader> {
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
            rank: self.ranks().rank(),
            ranks: self.ranks().size(),
            ..LoaderConfig::default()
        };
        Loader::new(images.train.clone(), views, &loader, start)
    }

    pub fn origin(model: &LoadedModel, images: &LabeledImages) -> Origin {
        let card = model.card.as_ref();
        Origin {
            encoder: model.encoder.clone(),
            architecture: model.architecture.clone(),
            preprocessing: model.preprocessing.clone(),
            data: DataCard {
                images: images.train.len(),
                fingerprint: images.train.fingerprint(),
            },
            license: card.and_then(|card| card.license.clone()),
            classes: images.train.classes().to_vec(),
        }
    }
}
