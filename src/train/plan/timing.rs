//! Real steps, timed before a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn_autodiff::Autodiff;
use serde::Serialize;

use crate::collective::SingleProcess;
use crate::data::{Batch, ImageFolder, Loader, Pixels};
use crate::device::{DeviceGuard, Selected, on_device};
use crate::error::{Error, Result};
use crate::kernels::{IbotBackend, OnBackend, TrainBackend};
use crate::memory::{GpuMemory, peak_rss_mib};
use crate::method::VitIbot;
use crate::random::{Random, Stream};
use crate::train::config::RunConfig;
use crate::train::optim::Rates;
use crate::train::run::loader;
use crate::train::trainer::{StepInput, TrainerConfig};

/// Steps that are not counted: the first one compiles kernels and makes the optimizer's state, and the loader has batches in
/// store that a run in full swing has not.
const SETTLING: usize = 3;
/// After this long no further step is begun, once one is timed.
const PATIENCE: Duration = Duration::from_secs(30);
const LEARNING_RATE: f64 = 1e-6;

/// How long steps take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepTiming {
    /// Steps that were timed.
    pub steps: usize,
    /// Their mean, in seconds.
    pub step_s: f64,
    /// The fastest one.
    pub fastest_s: f64,
    /// The slowest one.
    pub slowest_s: f64,
    /// Of the mean, the wait for images; none where the views were random numbers.
    pub data_wait_s: Option<f64>,
    /// The first step, which compiles kernels.
    pub first_s: f64,
    /// Memory on a GPU after the last step.
    pub gpu: Option<GpuMemory>,
    /// Peak resident memory of the process, MiB; none where the system does not tell.
    pub peak_rss_mib: Option<f64>,
}

/// Where batches come from.
enum Batches {
    Loaded(Box<Loader>),
    Random(Box<RunConfig>),
}

struct Timing<'a> {
    config: &'a RunConfig,
    guard: DeviceGuard,
    batches: Batches,
    steps: usize,
    stop: &'a AtomicBool,
}

/// See [`super::Plan::time`].
pub(super) fn time_steps(
    config: &RunConfig,
    selected: &Selected,
    images: Option<Arc<ImageFolder>>,
    steps: usize,
    stop: &AtomicBool,
) -> Result<StepTiming> {
    let batches = match images {
        Some(images) => Batches::Loaded(Box::new(loader(config, images, 0, &SingleProcess)?)),
        None => Batches::Random(Box::new(config.clone())),
    };
    on_device(selected, |selected, guard| {
        selected.dispatch(Timing {
            config,
            guard: guard.clone(),
            batches,
            steps: steps.max(1),
            stop,
        })
    })
}

impl OnBackend for Timing<'_> {
    type Output = Result<StepTiming>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        self.timed::<Autodiff<B>>(&device)
    }
}

impl Timing<'_> {
    fn timed<B: TrainBackend>(mut self, device: &B::Device) -> Result<StepTiming> {
        B::check_precision(self.config.precision, device)?;
        let method: VitIbot<B> = self.config.method.init(self.config.seed, device)?;
        let trainer = TrainerConfig {
            optimizer: self.config.optimizer.clone(),
            seed: self.config.seed,
            micro_batch_size: self.config.micro_batch_size,
            precision: self.config.precision,
            ..TrainerConfig::default()
        };
        let mut trainer = trainer.init(method, device.clone(), self.guard.clone());
        let rates = Rates {
            learning_rate: LEARNING_RATE,
            temperature_teacher: self.config.method.teacher_temperature(0.0),
            ema_decay: self.config.method.ema_decay(0.0),
            ..Rates::default()
        };
        let began = Instant::now();
        let mut waits = Vec::new();
        let mut times = Vec::new();
        while times.len() < SETTLING + self.steps {
            // slow steps need no settling beyond the first: the loader has its time
            if times.len() > 1 && began.elapsed() > PATIENCE {
                break;
            }
            let started = Instant::now();
            let batch = self.next()?;
            waits.push(started.elapsed().as_secs_f64());
            let input = StepInput::<B>::upload(batch, &self.config.augment, device);
            trainer.step(&input, &rates)?;
            self.guard.check_sync::<B>(device)?;
            times.push(started.elapsed().as_secs_f64());
        }
        let timed = SETTLING.min(times.len() - 1);
        let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
        let (first_s, waits, times) = (times[0], &waits[timed..], &times[timed..]);
        Ok(StepTiming {
            steps: times.len(),
            step_s: mean(times),
            fastest_s: times.iter().copied().fold(f64::INFINITY, f64::min),
            slowest_s: times.iter().copied().fold(0.0, f64::max),
            data_wait_s: matches!(self.batches, Batches::Loaded(_)).then(|| mean(waits)),
            first_s,
            gpu: self.guard.gpu_memory(),
            peak_rss_mib: peak_rss_mib(),
        })
    }

    fn next(&mut self) -> Result<Batch> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        match &mut self.batches {
            Batches::Loaded(loader) => loader.next_batch_until(self.stop),
            Batches::Random(config) => random_batch(config),
        }
    }
}

/// Noise in the shape of a batch, with masks as they are drawn in a run.
fn random_batch(config: &RunConfig) -> Result<Batch> {
    let (batch, augment) = (config.batch_size, &config.augment);
    let mut random = Random::new(config.seed, 0, 0, Stream::View(0));
    let sides = std::iter::repeat_n(augment.image_size, augment.global_views);
    let sides = sides.chain(std::iter::repeat_n(augment.local_size, augment.local_views));
    let views =
        sides.map(|side| Pixels::Values(random.fill(batch * 3 * side * side, Random::normal)));
    let views = views.collect();
    let grid = [config.method.backbone()?.side(); 2];
    let policy = config.method.mask_policy();
    Ok(Batch {
        epoch: 0,
        index: 0,
        samples: vec![0; batch],
        labels: vec![None; batch],
        views,
        masks: policy.of_batch(config.seed, 0, [augment.global_views, batch], grid),
    })
}
