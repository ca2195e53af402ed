//! A whole run: from an image folder, or from its own newest checkpoint, to two exported backbones.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use burn::module::Module;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;

use super::evaluation::Pictures;
use super::training::Training;
use super::{
    Every, Observer, OnSick, PretrainedParts, RunConfig, RunFolder, RunRecord, RunStart, Schedule,
    Trainer, When, load_method,
};
use crate::backbone::VisionTransformer;
use crate::checkpoint::Keep;
use crate::data::{
    FolderConfig, ImageFolder, Loader, LoaderConfig, PictureSource, Position, ScanSummary,
    TrainViews,
};
use crate::device::{DeviceGuard, Selected};
use crate::error::{Error, Result};
use crate::eval::stratified_split;
use crate::kernels::{Gpu, TrainBackend};
use crate::model::DataCard;

/// What to train on, where, and what to keep.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// All settings.
    pub config: RunConfig,
    /// Image folder.
    pub data: PathBuf,
    /// Run folder; a run that it holds goes on.
    pub out: PathBuf,
    /// The device.
    pub selected: Selected,
    /// A file of weights to start from.
    pub pretrained: Option<PathBuf>,
    /// What of it.
    pub pretrained_parts: PretrainedParts,
    /// A labelled folder whose pictures k-NN classifies by those of `data`, before and after; not with
    /// [`RunConfig::held_out`].
    pub val: Option<PathBuf>,
    /// k-NN every so many epochs too; 0 for never.
    pub knn_every: usize,
    /// How often a checkpoint is written, beside the one at the end.
    pub checkpoint_every: Every,
    /// Which checkpoints stay.
    pub keep: Keep,
    /// Whether a run goes on with other settings than it began with.
    pub allow_changes: bool,
    /// What to do when the run is sick.
    pub on_sick: OnSick,
    /// What to do when the GPU fails.
    pub on_device_lost: OnDeviceLost,
}

/// What to do when a GPU fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnDeviceLost {
    /// End the run with an error.
    #[default]
    Stop,
    /// Go on from the newest checkpoint on the CPU, with Flex.
    Cpu,
}

impl RunRequest {
    /// A run without evaluation that writes a checkpoint every ten minutes, keeps the last two, and warns when it is sick.
    pub fn new(config: RunConfig, data: PathBuf, out: PathBuf, selected: Selected) -> Self {
        Self {
            config,
            data,
            out,
            selected,
            pretrained: None,
            pretrained_parts: PretrainedParts::Backbone,
            val: None,
            knn_every: 0,
            checkpoint_every: Every::Time(Duration::from_secs(600)),
            keep: Keep::default(),
            allow_changes: false,
            on_sick: OnSick::Warn,
            on_device_lost: OnDeviceLost::Stop,
        }
    }
}

/// Runs on the selected device until the end, a failure, or `stop`; and on the CPU where a GPU failed and `on_device_lost`
/// says so.
///
/// # Errors
/// Settings, pictures, weights or a run folder that cannot work, before anything is written; afterwards a device that
/// failed, a disk that is full, a loss that is not finite, or [`Error::Interrupted`], with the newest checkpoint in the
/// run folder.
pub fn run(request: &RunRequest, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<()> {
    let may_go_on = request.on_device_lost == OnDeviceLost::Cpu
        && matches!(request.selected, Selected::Wgpu { .. });
    match run_on_device(request, stop, observer) {
        Err(error @ Error::Device(_)) if may_go_on => {
            observer.note(&format!(
                "{error}\n--on-device-lost cpu: going on without the GPU"
            ));
            let on_cpu = RunRequest {
                selected: Selected::Flex,
                allow_changes: true, // the backend is one
                ..request.clone()
            };
            run_on_device(&on_cpu, stop, observer)
        }
        result => result,
    }
}

fn run_on_device(
    request: &RunRequest,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<()> {
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

pub(super) struct Run<'a> {
    pub request: &'a RunRequest,
    pub guard: DeviceGuard,
    pub stop: &'a AtomicBool,
}

impl Run<'_> {
    fn train<B: TrainBackend>(&self, device: B::Device, observer: &mut dyn Observer) -> Result<()> {
        let request = self.request;
        let config = request.config.clone().resolved()?;
        let (pictures, val) = self.pictures(&config, observer)?;
        let record = self.record(&config, &pictures)?;
        let mut folder = RunFolder::open(&request.out, request.keep)?;
        let newest = folder.continued(&record, request.allow_changes, observer)?;
        let loader = self.loader(
            &config,
            &pictures,
            newest.as_ref().map_or(0, |c| c.manifest.step),
        )?;
        let mut trainer = self.trainer::<B>(&config, newest.is_some(), &device, observer)?;
        let schedule = self.schedule(&config, loader.batches_per_epoch());
        let began = newest.as_ref().map(|newest| newest.manifest.clone());
        if let Some(newest) = newest {
            let step = newest.manifest.step;
            trainer = trainer.restored(step, newest.tensors, folder.path())?;
        }
        folder.begin(
            &record,
            &config,
            began.as_ref().map_or(0, |manifest| manifest.step),
        )?;
        let (parameters, count) = (trainer.method.student.num_params(), pictures.len());
        let start = |training: &Training<'_>| RunStart {
            steps: training.schedule.steps,
            made: training.step,
            epochs: training.schedule.epochs(),
            steps_per_epoch: training.schedule.steps_per_epoch,
            pictures: count,
            parameters,
            out: request.out.clone(),
        };
        let pictures = Pictures {
            card: DataCard {
                pictures: record.pictures,
                fingerprint: record.fingerprint,
            },
            train: pictures,
            val,
        };
        let from = began.as_ref();
        let mut training = Training::new(self, config, schedule, folder, loader, pictures, from);
        // Without pictures to compare by there is little to learn from an untrained teacher, and much to wait for.
        if began.is_none() && training.has_val() {
            training.evaluate(&trainer, When::Before, true, observer)?;
        }
        observer.started(&start(&training));
        if training.step >= training.schedule.steps {
            observer
                .note("the run is complete; --epochs or --steps with --override makes it longer");
            training.evaluate(&trainer, When::After, true, observer)?;
        }
        training.go(trainer, observer)?;
        training.end(observer)
    }

    /// The pictures to train on; and those to validate on, of `--val` or held out, labelled by the classes of the others.
    fn pictures(
        &self,
        config: &RunConfig,
        observer: &mut dyn Observer,
    ) -> Result<(Arc<ImageFolder>, Option<Arc<ImageFolder>>)> {
        let (data, every) = (&self.request.data, self.request.knn_every);
        match (&self.request.val, config.held_out) {
            (None, None) if every > 0 => {
                let remedy = "needs labelled pictures that k-NN is asked about: --val DIR, or --held-out SHARE of --data";
                return Err(Error::config("--knn-every", every, remedy));
            }
            (Some(val), Some(share)) => {
                let remedy = format!("cannot go with --val {}: give one of them", val.display());
                return Err(Error::config("held_out", share, remedy));
            }
            _ => {}
        }
        let folder = ImageFolder::scan(data, &config.folder)?;
        observer.note(&summary_line(data, folder.summary()));
        if let Some(path) = &self.request.val {
            let of_val = FolderConfig {
                cache: None, // that of the training pictures, which has one bound for both
                ..config.folder.clone()
            };
            let val = ImageFolder::scan(path, &of_val)?.with_cache_of(&folder);
            let val = val.with_classes(folder.classes())?;
            return Ok((Arc::new(folder), Some(Arc::new(val))));
        }
        let Some(share) = config.held_out else {
            return Ok((Arc::new(folder), None));
        };
        let split = stratified_split(&folder.labels(), share, config.seed);
        if split.held_out.is_empty() {
            return Err(Error::data(data, "has too few pictures to hold some out"));
        }
        let (kept, held_out) = (split.kept.len(), split.held_out.len());
        observer.note(&format!(
            "{held_out} pictures are held out for evaluation; {kept} are trained on"
        ));
        let parts = [split.kept, split.held_out].map(|places| Arc::new(folder.part(&places)));
        let [train, val] = parts;
        Ok((train, Some(val)))
    }

    fn record(&self, config: &RunConfig, pictures: &ImageFolder) -> Result<RunRecord> {
        // a relative path would mean another folder where the run goes on from elsewhere
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(Error::io(path));
        Ok(RunRecord {
            ibot: env!("CARGO_PKG_VERSION").into(),
            backend: self.request.selected.backend().to_string(),
            device: self.request.selected.to_string(),
            data: absolute(&self.request.data)?,
            val: self.request.val.as_ref().map(absolute).transpose()?,
            pictures: pictures.len(),
            fingerprint: pictures.fingerprint(),
            config: config.to_toml()?,
        })
    }

    /// The loader whose next batch is that of a step.
    pub fn loader(
        &self,
        config: &RunConfig,
        pictures: &Arc<ImageFolder>,
        step: usize,
    ) -> Result<Loader> {
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
        let position = Position {
            epoch: 0,
            batch: step, // past the epoch's last one, those of the next epochs are meant
        };
        Loader::new(pictures.clone(), views, &loader, position)
    }

    fn trainer<B: TrainBackend>(
        &self,
        config: &RunConfig,
        goes_on: bool,
        device: &B::Device,
        observer: &mut dyn Observer,
    ) -> Result<Trainer<B, VisionTransformer<B>>> {
        let mut method = config.method.init::<B>(config.seed, device)?;
        match &self.request.pretrained {
            _ if goes_on => {}
            Some(path) => {
                let parts = self.request.pretrained_parts;
                method = load_method(method, path, parts, observer)?;
            }
            None if config.method.pretrained => {
                let remedy = "needs --pretrained FILE, a file of weights: nothing is downloaded";
                return Err(Error::config("pretrained", true, remedy));
            }
            None => {}
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
}

fn summary_line(path: &std::path::Path, summary: &ScanSummary) -> String {
    format!("data {}: {summary}", path.display())
}
