//! A whole run: from an image folder to two exported backbones.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;

use super::{
    Backbones, Observer, Rates, RunConfig, RunFolder, RunStart, Schedule, StepInput, StepMetrics,
    Trainer,
};
use crate::backbone::{TrainBackbone, VisionTransformer};
use crate::data::{
    AugmentConfig, Batch, ImageFolder, Loader, LoaderConfig, PictureSource, Position, ScanSummary,
    TrainViews,
};
use crate::device::{DeviceGuard, Selected};
use crate::error::{Error, Result};
use crate::eval::{KnnConfig, extract_features, knn_accuracy};
use crate::kernels::{Gpu, TrainBackend};
use crate::memory::resident_mib;
use crate::weights::load_pretrained;

/// What to train on, where, and what to keep.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// All settings.
    pub config: RunConfig,
    /// Image folder.
    pub data: PathBuf,
    /// Run folder; must not hold a run yet.
    pub out: PathBuf,
    /// The device.
    pub selected: Selected,
    /// A timm safetensors file to start from.
    pub pretrained: Option<PathBuf>,
    /// A labelled folder whose pictures k-NN classifies by those of `data`, before and after.
    pub knn_queries: Option<PathBuf>,
}

/// Runs on the selected device until the end, a failure, or `stop`.
///
/// # Errors
/// Settings, pictures or weights that cannot work, before anything is written; afterwards a device that failed, a loss
/// that is not finite, or [`Error::Interrupted`], with the last good backbones in the run folder.
pub fn run(request: &RunRequest, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<()> {
    let guard = DeviceGuard::install(&request.selected)?;
    observer.note(&request.selected.to_string());
    let run = Run {
        request,
        guard: guard.clone(),
        stop,
    };
    guard.catch(|| match &request.selected {
        Selected::Wgpu { device, .. } => run.train::<Autodiff<Gpu>>(device.clone(), observer),
        Selected::Flex => run.train::<Autodiff<Flex>>(Default::default(), observer),
        Selected::NdArray => run.train::<Autodiff<NdArray<f32>>>(Default::default(), observer),
    })?
}

struct Run<'a> {
    request: &'a RunRequest,
    guard: DeviceGuard,
    stop: &'a AtomicBool,
}

impl Run<'_> {
    fn train<B: TrainBackend>(&self, device: B::Device, observer: &mut dyn Observer) -> Result<()> {
        let config = self.request.config.clone().resolved()?;
        let pictures = self.scan(&self.request.data, observer)?;
        let mut loader = self.loader(&config, &pictures)?;
        let mut trainer = self.trainer::<B>(&config, &device)?;
        let schedule = self.schedule(&config, loader.batches_per_epoch());
        let mut folder = RunFolder::create(&self.request.out, &config, &self.provenance())?;
        self.evaluate(
            &trainer,
            &config,
            &pictures,
            "before training",
            &device,
            observer,
        )?;
        observer.started(&RunStart {
            steps: schedule.steps,
            epochs: schedule.epochs(),
            pictures: pictures.len(),
            parameters: trainer.method.student.num_params(),
            out: folder.path(),
        });

        for step in 0..schedule.steps {
            let rates = schedule.rates(&config.method, config.optimizer.weight_decay, step);
            let (next, metrics) = self.step(trainer, &mut loader, &config, step, rates, &device);
            trainer = next;
            let metrics = metrics.map_err(|error| self.failed(error, step, &folder, &trainer))?;
            folder.log(&metrics)?;
            observer.step(&metrics);
            note_skipped(&loader, observer);

            let stopped = self.stop.load(Ordering::Relaxed);
            let made = step + 1;
            if stopped || made == schedule.steps || made.is_multiple_of(schedule.steps_per_epoch) {
                self.save(&folder, &trainer)?;
            }
            if stopped {
                return Err(Error::Interrupted {
                    step: made,
                    run: folder.path().to_path_buf(),
                });
            }
        }
        self.evaluate(
            &trainer,
            &config,
            &pictures,
            "after training",
            &device,
            observer,
        )?;
        if loader.skipped() > 0 {
            observer.note(&format!(
                "{} pictures could not be decoded",
                loader.skipped()
            ));
        }
        observer.finished(folder.path());
        Ok(())
    }

    /// One batch and one step, `step` made before; the trainer comes back whatever happens.
    fn step<B: TrainBackend, M: TrainBackbone<B>>(
        &self,
        trainer: Trainer<B, M>,
        loader: &mut Loader,
        config: &RunConfig,
        step: usize,
        rates: Rates,
        device: &B::Device,
    ) -> (Trainer<B, M>, Result<StepMetrics>) {
        let started = Instant::now();
        let batch = match loader.next_batch() {
            Ok(batch) => batch,
            Err(error) => return (trainer, Err(error)),
        };
        let data_wait_s = started.elapsed().as_secs_f64();
        let input = upload::<B>(batch, &config.augment, device);
        let (trainer, losses) = trainer.step(&input, &rates);
        let step_s = started.elapsed().as_secs_f64();
        let metrics = losses.map(|losses| StepMetrics {
            step: step + 1,
            losses,
            rates,
            step_s,
            data_wait_s,
            images_per_s: config.batch_size as f64 / step_s,
            resident_mib: resident_mib(),
            gpu_in_use_mib: self.guard.gpu_memory().map(|memory| memory.in_use_mib),
        });
        (trainer, metrics)
    }

    /// What the configuration does not say of a run: its data and its device.
    fn provenance(&self) -> String {
        let data = self.request.data.display();
        let version = env!("CARGO_PKG_VERSION");
        format!("ibot {version}\ndata {data}\n{}", self.request.selected)
    }

    fn scan(
        &self,
        path: &std::path::Path,
        observer: &mut dyn Observer,
    ) -> Result<Arc<ImageFolder>> {
        let folder = ImageFolder::scan(path, &self.request.config.folder)?;
        observer.note(&summary_line(path, folder.summary()));
        Ok(Arc::new(folder))
    }

    fn loader(&self, config: &RunConfig, pictures: &Arc<ImageFolder>) -> Result<Loader> {
        let views = TrainViews {
            augment: config.augment.clone(),
            masks: config.method.mask_policy(),
            grid: [config.method.backbone()?.side(); 2],
        };
        let loader = LoaderConfig {
            batch_size: config.batch_size,
            workers: config.workers,
            seed: config.seed,
            ..LoaderConfig::default()
        };
        Loader::new(pictures.clone(), views, &loader, Position::default())
    }

    fn trainer<B: TrainBackend>(
        &self,
        config: &RunConfig,
        device: &B::Device,
    ) -> Result<Trainer<B, VisionTransformer<B>>> {
        let mut method = config.method.init::<B>(config.seed, device)?;
        match (&self.request.pretrained, config.method.pretrained) {
            (Some(path), _) => {
                method = method.map_backbone(|backbone| load_pretrained(backbone, path))?;
            }
            (None, true) => {
                let remedy =
                    "needs --pretrained FILE, a timm safetensors file: nothing is downloaded";
                return Err(Error::config("pretrained", true, remedy));
            }
            (None, false) => {}
        }
        let optimizer = config.optimizer.clone();
        let mut trainer = Trainer::new(method, optimizer, device.clone(), self.guard.clone());
        trainer.seed = config.seed;
        trainer.most_at_once = config.most_at_once;
        Ok(trainer)
    }

    fn schedule(&self, config: &RunConfig, steps_per_epoch: usize) -> Schedule {
        let steps = config
            .steps
            .unwrap_or(config.epochs.saturating_mul(steps_per_epoch));
        Schedule::new(&config.schedule, steps, steps_per_epoch, config.batch_size)
    }

    /// Reads the backbones, and writes them once the device has proved that it was sound to the end of the read: the last
    /// good files are not replaced by what a failed device gives.
    fn save<B: TrainBackend, M: TrainBackbone<B>>(
        &self,
        folder: &RunFolder,
        trainer: &Trainer<B, M>,
    ) -> Result<()> {
        let backbones = self
            .guard
            .read::<B, _>(trainer.device(), || Backbones::of(&trainer.method))?;
        folder.save(backbones)
    }

    /// The error of the step after `step`, with where the last good state is: it is written now, unless the device
    /// failed and its numbers are not to be trusted.
    fn failed<B: TrainBackend, M: TrainBackbone<B>>(
        &self,
        error: Error,
        step: usize,
        folder: &RunFolder,
        trainer: &Trainer<B, M>,
    ) -> Error {
        if matches!(error, Error::Device(_)) {
            return error;
        }
        let state = match self.save(folder, trainer) {
            Ok(()) => format!(
                "the state after step {step} is in {}",
                folder.path().display()
            ),
            Err(error) => format!("the state could not be written: {error}"),
        };
        Error::Training(format!("step {}: {error}; {state}", step + 1))
    }

    fn evaluate<B: TrainBackend, M: TrainBackbone<B>>(
        &self,
        trainer: &Trainer<B, M>,
        config: &RunConfig,
        pictures: &Arc<ImageFolder>,
        when: &str,
        device: &B::Device,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Some(path) = &self.request.knn_queries else {
            return Ok(());
        };
        let queries = ImageFolder::scan(path, &config.folder)?.with_classes(pictures.classes())?;
        let features = |folder| {
            extract_features::<B::InnerBackend, _>(
                &trainer.method.teacher.backbone,
                folder,
                &config.augment,
                config.batch_size,
                &self.guard,
                device,
            )
        };
        let (bank, queries) = (features(pictures.clone())?, features(Arc::new(queries))?);
        if let Some(accuracy) = knn_accuracy(&bank, &queries, &KnnConfig::default()) {
            observer.knn(when, accuracy, queries.len());
        }
        Ok(())
    }
}

/// A batch on the device.
fn upload<B: AutodiffBackend>(
    batch: Batch,
    augment: &AugmentConfig,
    device: &B::Device,
) -> StepInput<B> {
    let images = batch.samples.len();
    let mut views = batch.views.into_iter();
    let mut take = |count: usize, side: usize| {
        let shape = [images, 3, side, side];
        let views = views.by_ref().take(count);
        views
            .map(|view| Tensor::from_data(TensorData::new(view, shape), device))
            .collect()
    };
    StepInput {
        global_views: take(augment.global_views, augment.image_size),
        local_views: take(augment.local_views, augment.local_size),
        masks: batch.masks,
    }
}

fn summary_line(path: &std::path::Path, summary: &ScanSummary) -> String {
    format!("data {}: {summary}", path.display())
}

fn note_skipped(loader: &Loader, observer: &mut dyn Observer) {
    for (path, reason) in loader.take_skipped() {
        observer.note(&format!("skipped {}: {reason}", path.display()));
    }
}
