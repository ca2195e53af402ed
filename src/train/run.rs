//! A whole run: from an image folder, or from its own newest checkpoint, to two exported backbones.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use burn::module::Module;
use burn_autodiff::Autodiff;

use super::evaluation::Pictures;
use super::training::{DueEvaluation, TrainLoop};
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
use crate::error::{Error, Result, printable};
use crate::eval::stratified_split;
use crate::kernels::{IbotBackend, OnBackend, TrainBackend};
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
    /// A labeled folder whose pictures k-NN classifies by those of `data`, before and after; not with
    /// [`RunConfig::held_out`].
    pub val: Option<PathBuf>,
    /// k-NN every so many epochs too; 0 for never.
    pub knn_every: usize,
    /// How often a checkpoint is written, beside the one at the end.
    pub checkpoint_every: Every,
    /// Which checkpoints stay.
    pub keep: Keep,
    /// Whether a run goes on with other settings or pictures than it began with, and begins anew where it has work and no
    /// checkpoint.
    pub allow_changes: bool,
    /// What to do when the run is sick.
    pub on_sick: OnSick,
    /// What to do when the GPU fails.
    pub on_device_lost: OnDeviceLost,
}

/// What to do when a GPU fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    guard.catch(|| request.selected.dispatch(Start { run, observer }))?
}

struct Start<'a> {
    run: Run<'a>,
    observer: &'a mut dyn Observer,
}

impl OnBackend for Start<'_> {
    type Output = Result<()>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        self.run.train::<Autodiff<B>>(device, self.observer)
    }
}

type VitTrainer<B> = Trainer<B, VisionTransformer<B>>;
type VitLoop<'a, B> = TrainLoop<'a, B, VisionTransformer<B>>;

pub(super) struct Run<'a> {
    pub request: &'a RunRequest,
    pub guard: DeviceGuard,
    pub stop: &'a AtomicBool,
}

impl Run<'_> {
    fn train<B: TrainBackend>(&self, device: B::Device, observer: &mut dyn Observer) -> Result<()> {
        let (mut training, start) = self.set_up::<B>(&device, observer)?;
        // Without pictures to compare by there is little to learn from an untrained teacher, and much to wait for.
        if training.is_new() && training.has_val() {
            let before = DueEvaluation {
                when: When::Before,
                with_knn: true,
            };
            training.evaluate(&before, observer)?;
        }
        observer.started(&start);
        if start.made >= start.steps {
            observer
                .note("the run is complete; --epochs or --steps with --override makes it longer");
        }
        if let Some(owed) = training.owed_evaluation()? {
            training.evaluate(&owed, observer)?;
        }
        training.run(observer)?;
        training.end(observer)
    }

    /// From settings and folders to the next step. What can be refused is so before the first picture is looked at, as there
    /// may be many.
    fn set_up<B: TrainBackend>(
        &self,
        device: &B::Device,
        observer: &mut dyn Observer,
    ) -> Result<(VitLoop<'_, B>, RunStart)> {
        let request = self.request;
        let config = request.config.clone().resolved()?;
        self.check_request(&config)?;
        let mut folder = RunFolder::open(&request.out, request.keep, observer)?;
        let mut record = self.record(&config)?;
        let newest = folder.continued(&record, request.allow_changes, observer)?;
        let mut trainer = self.trainer::<B>(&config, newest.is_some(), device, observer)?;
        let (train, val) = self.pictures(&config, observer)?;
        record.pictures = train.len();
        record.fingerprint = train.fingerprint();
        folder.same_pictures(&record, request.allow_changes, observer)?;
        let began = newest.as_ref().map(|newest| newest.manifest.clone());
        let made = began.as_ref().map(|manifest| manifest.step);
        let loader = self.loader(&config, &train, made.unwrap_or(0))?;
        if let Some(newest) = newest {
            trainer.restore(newest.manifest.step, newest.tensors, folder.path())?;
        }
        let card = DataCard {
            pictures: record.pictures,
            fingerprint: record.fingerprint.clone(),
        };
        folder.begin(record, &config, made, observer)?;
        let parameters = trainer.method.student.num_params();
        let pictures = Pictures { train, card, val };
        let count = pictures.card.pictures;
        let from = began.as_ref();
        let training = TrainLoop::new(self, trainer, config, folder, loader, pictures, from);
        let start = RunStart {
            steps: training.schedule.steps,
            made: made.unwrap_or(0),
            epochs: training.schedule.epochs(),
            steps_per_epoch: training.schedule.steps_per_epoch,
            pictures: count,
            parameters,
            out: request.out.clone(),
        };
        Ok((training, start))
    }

    /// Flags that do not go together, and folders that are not there.
    fn check_request(&self, config: &RunConfig) -> Result<()> {
        let RunRequest {
            data,
            val,
            knn_every,
            ..
        } = self.request;
        match (val, config.held_out) {
            (None, None) if *knn_every > 0 => {
                let remedy = "needs labeled pictures that k-NN is asked about: --val DIR, or --held-out SHARE of --data";
                return Err(Error::config("--knn-every", knn_every, remedy));
            }
            (Some(val), Some(share)) => {
                let remedy = format!("cannot go with --val {}: give one of them", printable(val));
                return Err(Error::config("held_out", share, remedy));
            }
            _ => {}
        }
        let mut folders = [Some(data), val.as_ref()].into_iter().flatten();
        folders.try_for_each(|folder| match std::fs::metadata(folder) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::io(folder)(error)),
        })
    }

    /// The pictures to train on; and those to validate on, of `--val` or held out, labeled by the classes of the others.
    fn pictures(
        &self,
        config: &RunConfig,
        observer: &mut dyn Observer,
    ) -> Result<(Arc<ImageFolder>, Option<Arc<ImageFolder>>)> {
        let (data, stop) = (&self.request.data, self.stop);
        let folder = ImageFolder::scan_until(data, &config.folder, stop)?;
        observer.note(&summary_line(data, folder.summary()));
        if let Some(path) = &self.request.val {
            refuse_unlabeled(&folder, "--val")?;
            let of_val = FolderConfig {
                cache: None, // that of the training pictures, which has one bound for both
                ..config.folder.clone()
            };
            let val = ImageFolder::scan_until(path, &of_val, stop)?.with_cache_of(&folder);
            let val = val.with_classes(folder.classes())?;
            refuse_unlabeled(&val, "--val")?;
            return Ok((Arc::new(folder), Some(Arc::new(val))));
        }
        let Some(share) = config.held_out else {
            return Ok((Arc::new(folder), None));
        };
        refuse_unlabeled(&folder, "--held-out")?;
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

    /// How the run begins, but for its pictures.
    fn record(&self, config: &RunConfig) -> Result<RunRecord> {
        // a relative path would mean another folder where the run goes on from elsewhere
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(Error::io(path));
        Ok(RunRecord {
            ibot: env!("CARGO_PKG_VERSION").into(),
            backend: self.request.selected.backend().to_string(),
            device: self.request.selected.to_string(),
            data: absolute(&self.request.data)?,
            val: self.request.val.as_ref().map(absolute).transpose()?,
            pictures: 0,
            fingerprint: String::new(),
            config: config.to_toml()?,
            has_checkpoint: false,
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
    ) -> Result<VitTrainer<B>> {
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
        trainer.micro_batch_size = config.micro_batch_size;
        Ok(trainer)
    }

    pub fn schedule(&self, config: &RunConfig, steps_per_epoch: usize) -> Schedule {
        let steps = config
            .steps
            .unwrap_or(config.epochs.saturating_mul(steps_per_epoch));
        Schedule::new(&config.schedule, steps, steps_per_epoch, config.batch_size)
    }
}

/// k-NN votes by classes.
fn refuse_unlabeled(folder: &ImageFolder, flag: &str) -> Result<()> {
    if folder.labels().iter().any(Option::is_some) {
        return Ok(());
    }
    let reason = format!(
        "has no picture in a class, which k-NN asks for: put those of each class into a folder of its own, or leave out {flag}"
    );
    Err(Error::data(folder.root(), reason))
}

fn summary_line(path: &std::path::Path, summary: &ScanSummary) -> String {
    format!("data {}: {summary}", printable(path))
}
