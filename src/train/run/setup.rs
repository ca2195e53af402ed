//! What a run is made of, before its first step: settings that are checked, pictures, a trainer, a loader.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backbone::VisionTransformer;
use crate::data::{
    FolderConfig, ImageFolder, Loader, LoaderConfig, Position, ScanSummary, TrainViews,
};
use crate::device::DeviceGuard;
use crate::error::{Error, Result, printable};
use crate::eval::stratified_split;
use crate::kernels::TrainBackend;
use crate::train::config::RunConfig;
use crate::train::optim::Schedule;
use crate::train::run::observer::Observer;
use crate::train::run::record::RunRecord;
use crate::train::run::request::RunRequest;
use crate::train::trainer::Trainer;
use crate::train::weights::load_method;

type VitTrainer<B> = Trainer<B, VisionTransformer<B>>;

/// What a run has from its beginning to its end.
pub(super) struct RunSetup<'a> {
    pub request: &'a RunRequest,
    pub guard: DeviceGuard,
    pub stop: &'a AtomicBool,
}

impl RunSetup<'_> {
    /// Flags that do not go together, and folders that are not there.
    pub fn check_request(&self, config: &RunConfig) -> Result<()> {
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
    pub fn pictures(
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
    pub fn record(&self, config: &RunConfig) -> Result<RunRecord> {
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

    pub fn trainer<B: TrainBackend>(
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
                method = load_method(method, path, parts, &mut |note| observer.note(note))?;
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
