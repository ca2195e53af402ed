//! Times the parts of a training step on random images.

use std::time::Instant;

use burn::tensor::Tensor;
use burn::tensor::TensorData;
use burn::tensor::backend::AutodiffBackend;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;
use serde::Serialize;

use crate::config::IbotConfig;
use crate::device::{DeviceGuard, Selected};
use crate::error::{Error, Result};
use crate::kernels::{Gpu, TrainBackend};
use crate::memory::peak_rss_mib;
use crate::random::{Random, Stream};
use crate::train::{Gradients, Optimizer, OptimizerConfig, UpdateRates};

/// Global views a picture.
const VIEWS: usize = 2;

/// What to time.
#[derive(Debug, Clone)]
pub struct BenchRequest {
    /// The method.
    pub method: IbotConfig,
    /// Pictures a step, each as two views.
    pub batch_size: usize,
    /// Steps to time.
    pub steps: usize,
    /// The device.
    pub selected: Selected,
}

/// Seconds of one step's parts, each waited for, and the peak memory of the process so far.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepTimes {
    /// Student and teacher forward, targets and losses.
    pub forward_s: f64,
    /// Gradients.
    pub backward_s: f64,
    /// AdamW.
    pub optimizer_s: f64,
    /// Teacher's moving average.
    pub ema_s: f64,
    /// All of these.
    pub total_s: f64,
    /// Largest resident size, MiB; none where the system does not tell.
    pub peak_rss_mib: Option<f64>,
    /// The loss, to show that the step computed one.
    pub loss: f32,
}

/// Calls `report` after each step; not generic, so that the backends are compiled here and not in each caller.
///
/// # Errors
/// Settings that cannot work, or a device that failed.
pub fn bench_steps(request: &BenchRequest, report: &mut dyn FnMut(StepTimes)) -> Result<()> {
    if request.batch_size == 0 {
        return Err(Error::config("--batch-size", 0, "must be at least 1"));
    }
    let guard = DeviceGuard::install(&request.selected)?;
    guard.catch(|| match &request.selected {
        Selected::Wgpu { device, .. } => {
            time::<Autodiff<Gpu>>(request, &guard, &device.clone(), report)
        }
        Selected::Flex => time::<Autodiff<Flex>>(request, &guard, &Default::default(), report),
        Selected::NdArray => {
            time::<Autodiff<NdArray<f32>>>(request, &guard, &Default::default(), report)
        }
    })?
}

fn time<B: TrainBackend>(
    request: &BenchRequest,
    guard: &DeviceGuard,
    device: &B::Device,
    report: &mut dyn FnMut(StepTimes),
) -> Result<()> {
    let mut method = request.method.init::<B>(0, device)?;
    let grid = [request.method.backbone()?.side(); 2];
    let mut optimizer = Optimizer::new(OptimizerConfig::default());
    let mut random = Random::new(0, 0, 0, Stream::View(0));
    let views = random_views::<B>(request, &mut random, device);
    let temperature = request.method.teacher_temperature(0.0);
    let policy = request.method.mask_policy();
    let masks: Vec<bool> = (0..VIEWS * request.batch_size)
        .flat_map(|_| policy.draw(&mut random, grid))
        .collect();
    for _ in 0..request.steps {
        let start = Instant::now();
        let output = method.forward(&views, &masks, temperature)?;
        guard.check_sync::<B>(device)?;
        let forward_s = start.elapsed().as_secs_f64();
        let grads = Gradients::of(&output.loss);
        guard.check_sync::<B>(device)?;
        let backward_s = start.elapsed().as_secs_f64() - forward_s;
        let optimizing = Instant::now();
        let rates = UpdateRates {
            learning_rate: 1e-4,
            ..UpdateRates::default()
        };
        method.student = optimizer.step(method.student, grads, &rates);
        guard.check_sync::<B>(device)?;
        let optimizer_s = optimizing.elapsed().as_secs_f64();
        let averaging = Instant::now();
        method = method.update_teacher(0.996);
        guard.check_sync::<B>(device)?;
        let ema_s = averaging.elapsed().as_secs_f64();
        let total_s = start.elapsed().as_secs_f64();
        let loss = guard.read::<B, _>(device, || output.loss.into_data())?;
        report(StepTimes {
            forward_s,
            backward_s,
            optimizer_s,
            ema_s,
            total_s,
            peak_rss_mib: peak_rss_mib(),
            loss: loss.iter::<f32>().next().unwrap_or(f32::NAN),
        });
    }
    Ok(())
}

fn random_views<B: AutodiffBackend>(
    request: &BenchRequest,
    random: &mut Random,
    device: &B::Device,
) -> Vec<Tensor<B::InnerBackend, 4>> {
    let side = request.method.image_size;
    let shape = [request.batch_size, 3, side, side];
    (0..VIEWS)
        .map(|_| {
            let values = random.fill(shape.iter().product(), Random::normal);
            Tensor::from_data(TensorData::new(values, shape), device)
        })
        .collect()
}
