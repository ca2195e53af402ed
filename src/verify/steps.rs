//! A whole training step, and ten of them, of a tiny model.

use burn::tensor::{Tensor, TensorData};

use super::{Check, Run};
use crate::backbone::VitConfig;
use crate::config::IbotConfig;
use crate::device::DeviceGuard;
use crate::error::Result;
use crate::ibot::VitIbot;
use crate::kernels::{IbotBackend, TrainBackend};
use crate::random::{Random, Stream};
use crate::train::{Gradients, OptimizerConfig, Rates, StepInput, Trainer};

const BATCH: usize = 4;
const SIDE: usize = 32;
const PATCH: usize = 8;
const STEPS: usize = 10;

pub(super) fn checks<B: TrainBackend>() -> Vec<Check<B>> {
    let all: [(&'static str, f64, Run<B>); 4] = [
        ("a training step: losses", 1e-4, losses::<B>),
        ("a training step: gradients", 1e-3, gradients::<B>),
        ("ten training steps: losses", 1e-3, ten_losses::<B>),
        ("ten training steps: the teacher", 1e-2, ten_steps::<B>),
    ];
    let check = |(name, bar, run)| Check { name, bar, run };
    all.map(check).into()
}

fn tiny() -> IbotConfig {
    IbotConfig {
        image_size: SIDE,
        projector_hidden_dim: 48,
        projector_bottleneck_dim: 16,
        n_cls_prototypes: 257,
        n_patch_prototypes: 64,
        vit: Some(VitConfig {
            patch_size: PATCH,
            embed_dim: 48,
            depth: 2,
            num_heads: 3,
            ..VitConfig::default()
        }),
        ..IbotConfig::default()
    }
}

/// Two views of random pictures and masks of a third of the patches, other ones at each step.
fn input<B: TrainBackend>(step: u64, device: &B::Device) -> StepInput<B> {
    let mut random = Random::new(1, step, 0, Stream::View(0));
    let shape = [BATCH, 3, SIDE, SIDE];
    let mut view = || {
        let values = random.fill(shape.iter().product(), Random::normal);
        Tensor::from_data(TensorData::new(values, shape), device)
    };
    let patches = (SIDE / PATCH) * (SIDE / PATCH);
    StepInput {
        global_views: vec![view(), view()],
        local_views: Vec::new(),
        masks: (0..2 * BATCH * patches)
            .map(|patch| (patch + step as usize).is_multiple_of(3))
            .collect(),
    }
}

fn method<B: TrainBackend>(device: &B::Device) -> Result<VitIbot<B>> {
    tiny().init::<B>(2, device)
}

fn numbers<B: IbotBackend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn losses<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let input = input::<B>(0, device);
    let output = method::<B>(device)?.forward(&input.global_views, &input.masks, 0.05)?;
    let mut all = numbers(output.loss.inner());
    all.extend(numbers(output.loss_cls));
    all.extend(numbers(output.loss_patch));
    all.extend(numbers(output.embedding));
    Ok(all)
}

/// All gradients, each over its largest entry, so that small ones count as much.
fn gradients<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let input = input::<B>(0, device);
    let mut method = method::<B>(device)?;
    let output = method.forward(&input.global_views, &input.masks, 0.05)?;
    let named = Gradients::of(&output.loss).by_name(&method.student);
    let mut all = Vec::new();
    for (name, gradient) in named {
        // the gradient of the keys' bias is zero but for rounding: softmax does not see a shift of all scores
        if !name.ends_with("qkv.bias") {
            let largest = gradient
                .values
                .iter()
                .fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
            all.extend(gradient.values.iter().map(|x| x / largest));
        }
    }
    Ok(all)
}

fn train<B: TrainBackend>(device: &B::Device) -> Result<(VitIbot<B>, Vec<f32>)> {
    let method = method::<B>(device)?;
    let mut trainer = Trainer::new(
        method,
        OptimizerConfig::default(),
        device.clone(),
        DeviceGuard::Cpu,
    );
    let mut all = Vec::new();
    for step in 0..STEPS {
        let rates = Rates {
            learning_rate: 1e-3,
            temperature_teacher: 0.05,
            ema_decay: 0.9,
            ..Rates::default()
        };
        let (next, losses) = trainer.step(&input::<B>(step as u64, device), &rates);
        trainer = next;
        all.extend(
            [losses?]
                .map(|losses| [losses.loss_cls, losses.loss_patch])
                .concat(),
        );
    }
    Ok((trainer.method, all))
}

fn ten_losses<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    Ok(train::<B>(device)?.1)
}

/// What the teacher sees in new pictures after ten steps.
fn ten_steps<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let (method, _) = train::<B>(device)?;
    let views = input::<B>(STEPS as u64, device).global_views;
    Ok(views
        .into_iter()
        .flat_map(|view| numbers(method.embed(view)))
        .collect())
}
