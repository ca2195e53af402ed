//! Times the phases of a training step, [`Trainer::advance`], on random images.

use std::fmt;
use std::time::Instant;

use ibot::burn::module::Module;
use ibot::burn::tensor::Tensor;
use ibot::burn::tensor::TensorData;
use ibot::burn::tensor::backend::AutodiffBackend;
use ibot::kernels::Autodiff;
use serde::{Deserialize, Serialize};

use super::cost::{GpuCost, VitTrainer, gpu_cost};
use super::median::median;
use super::size::StepSize;
use ibot::device::{DeviceGuard, Selected};
use ibot::error::{Error, Result};
use ibot::kernels::{IbotBackend, OnBackend, TrainBackend};
use ibot::memory::peak_rss_mib;
use ibot::method::{IbotConfig, StreamingPrototypes};
use ibot::precision::Precision;
use ibot::random::{Random, Stream};
use ibot::train::{PhaseTimes, Rates, StepInput, TrainerConfig};

/// Global views an image.
const VIEWS: usize = 2;
/// Steps that are not counted: the first one compiles kernels and allocates memory.
const WARM_UP: usize = 1;
const LEARNING_RATE: f64 = 1e-4;
const EMA_DECAY: f64 = 0.996;

/// What to time.
#[derive(Debug, Clone)]
pub struct BenchRequest {
    /// How large a step is.
    pub size: StepSize,
    /// Whether logits are computed in tiles instead of stored.
    pub streaming_prototypes: StreamingPrototypes,
    /// Whether blocks keep only their inputs and run twice.
    pub grad_checkpointing: bool,
    /// Number format of matrix products and tokens.
    pub precision: Precision,
    /// Steps to time, after one to warm up.
    pub steps: usize,
    /// The device.
    pub selected: Selected,
}

/// Seconds of one step of [`Trainer`] and of its phases, each waited for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct StepTimes {
    /// The teacher's targets, the student's forward and the losses.
    pub forward_s: f64,
    /// Gradients.
    pub backward_s: f64,
    /// Gradient norm and AdamW.
    pub optimizer_s: f64,
    /// Centers and the teacher's moving average.
    pub ema_s: f64,
    /// All of these.
    pub total_s: f64,
    /// The loss, to show that the step computed one.
    pub loss: f32,
}

/// Steps of one size on one device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepReport {
    /// The device.
    pub device: String,
    /// What was timed, in words.
    pub size: String,
    /// Parameters that the optimizer trains.
    pub parameters: usize,
    /// Median of each phase.
    pub median: StepTimes,
    /// Peak resident size of this process, MiB; none if the system does not report it.
    pub peak_rss_mib: Option<f64>,
    /// On a GPU, or a software adapter.
    pub gpu: Option<GpuCost>,
    /// Each step.
    pub steps: Vec<StepTimes>,
}

impl fmt::Display for StepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.size)?;
        writeln!(
            f,
            "{:.1} M parameters trained; medians of {} steps after {WARM_UP}",
            self.parameters as f64 / 1e6,
            self.steps.len()
        )?;
        writeln!(f, "{:<12} {:>9} {:>7}", "phase", "ms", "share")?;
        let total = self.median.total_s;
        for (phase, seconds) in [
            ("forward", self.median.forward_s),
            ("backward", self.median.backward_s),
            ("optimizer", self.median.optimizer_s),
            ("EMA", self.median.ema_s),
            ("step", total),
        ] {
            let share = 100.0 * seconds / total;
            writeln!(f, "{phase:<12} {:>9.1} {share:>6.0}%", seconds * 1e3)?;
        }
        let all = || self.steps.iter().map(|step| step.total_s * 1e3);
        write!(
            f,
            "fastest and slowest step: {:.1} and {:.1} ms",
            all().fold(f64::INFINITY, f64::min),
            all().fold(0.0, f64::max)
        )?;
        if let Some(peak) = self.peak_rss_mib {
            write!(f, "\npeak memory of the process: {peak:.0} MiB")?;
        }
        match &self.gpu {
            Some(gpu) => write!(f, "\n{gpu}"),
            None => Ok(()),
        }
    }
}

/// Calls `report` after each step that is timed; not generic, so that the backends are compiled here and not in each
/// caller.
///
/// # Errors
/// Settings that cannot work, or a device that failed.
pub fn bench_steps(
    request: &BenchRequest,
    report: &mut dyn FnMut(&StepTimes),
) -> Result<StepReport> {
    if request.size.batch_size == 0 {
        return Err(Error::config("--batch-size", 0, "must be at least 1"));
    }
    if request.steps == 0 {
        return Err(Error::config("--steps", 0, "must be at least 1"));
    }
    let guard = DeviceGuard::install(&request.selected)?;
    let timing = Timing {
        request,
        guard: guard.clone(),
        report,
    };
    guard.catch(|| request.selected.dispatch(timing))?
}

struct Timing<'a> {
    request: &'a BenchRequest,
    guard: DeviceGuard,
    report: &'a mut dyn FnMut(&StepTimes),
}

impl OnBackend for Timing<'_> {
    type Output = Result<StepReport>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        time::<Autodiff<B>>(self.request, self.guard, &device, self.report)
    }
}

fn time<B: TrainBackend>(
    request: &BenchRequest,
    guard: DeviceGuard,
    device: &B::Device,
    report: &mut dyn FnMut(&StepTimes),
) -> Result<StepReport> {
    let config = IbotConfig {
        streaming_prototypes: request.streaming_prototypes,
        grad_checkpointing: request.grad_checkpointing,
        ..request.size.method()?
    };
    B::check_precision(request.precision, device)?;
    let method = config.init::<B>(0, device)?;
    let trainer = TrainerConfig {
        precision: request.precision,
        ..TrainerConfig::default()
    };
    let mut trainer = trainer.init(method, device.clone(), guard.clone());
    let rates = Rates {
        learning_rate: LEARNING_RATE,
        temperature_teacher: config.teacher_temperature(0.0),
        ema_decay: EMA_DECAY,
        ..Rates::default()
    };
    let input = random_input::<B>(&request.size, device)?;
    let mut steps = Vec::with_capacity(request.steps);
    for number in 0..WARM_UP + request.steps {
        let times = time_step(&mut trainer, &input, &rates)?;
        if number >= WARM_UP {
            report(&times);
            steps.push(times);
        }
    }
    let parameters = trainer.method.student.num_params();
    let peak_rss_mib = peak_rss_mib();
    let part = |of: fn(&StepTimes) -> f64| median(steps.iter().map(of).collect());
    Ok(StepReport {
        device: request.selected.to_string(),
        size: format!("{}, {}", request.size, request.precision),
        parameters,
        median: StepTimes {
            forward_s: part(|step| step.forward_s),
            backward_s: part(|step| step.backward_s),
            optimizer_s: part(|step| step.optimizer_s),
            ema_s: part(|step| step.ema_s),
            total_s: part(|step| step.total_s),
            loss: part(|step| f64::from(step.loss)) as f32,
        },
        peak_rss_mib,
        gpu: gpu_cost(
            &mut trainer,
            &input,
            &rates,
            (&request.selected, &guard),
            request.steps,
        )?,
        steps,
    })
}

fn time_step<B: TrainBackend>(
    trainer: &mut VitTrainer<B>,
    input: &StepInput<B>,
    rates: &Rates,
) -> Result<StepTimes> {
    let start = Instant::now();
    let phases = trainer.advance_timed(input, rates);
    let total_s = start.elapsed().as_secs_f64();
    let PhaseTimes {
        forward_s,
        backward_s,
        exchange_s: _, // one rank
        optimizer_s,
        ema_s,
    } = phases?;
    let (losses, sound) = trainer.read_losses();
    sound?;
    Ok(StepTimes {
        forward_s,
        backward_s,
        optimizer_s,
        ema_s,
        total_s,
        loss: losses.last().map_or(f32::NAN, |losses| losses.loss),
    })
}

pub(super) fn random_input<B: AutodiffBackend>(
    size: &StepSize,
    device: &B::Device,
) -> Result<StepInput<B>> {
    let config = size.method()?;
    let grid = [config.backbone()?.side(); 2];
    let mut random = Random::new(0, 0, 0, Stream::View(0));
    let shape = [size.batch_size, 3, size.image_size, size.image_size];
    let mut view = |_| {
        let values = random.fill(shape.iter().product(), Random::normal);
        Tensor::from_data(TensorData::new(values, shape), device)
    };
    let global_views = (0..VIEWS).map(&mut view).collect();
    let policy = config.mask_policy();
    let masks = (0..VIEWS * size.batch_size).flat_map(|_| policy.draw(&mut random, grid));
    Ok(StepInput {
        masks: masks.collect(),
        global_views,
        local_views: Vec::new(),
    })
}
