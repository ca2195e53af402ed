//! Whole training steps: one and ten of a tiny model, and one of ViT-S's width.

use ibot::burn::tensor::{Tensor, TensorData};

use super::check::{Check, Run};
use super::compare::{Measured, numbers};
use ibot::backbone::VitConfig;
use ibot::device::DeviceGuard;
use ibot::error::Result;
use ibot::kernels::TrainBackend;
use ibot::method::IbotConfig;
use ibot::method::VitIbot;
use ibot::precision::Precision;
use ibot::random::{Random, Stream};
use ibot::train::{Gradients, Rates, StepInput, TrainerConfig};

const BATCH: usize = 4;
const STEPS: usize = 10;
const LOSS_BAR: f64 = 1e-4;
const GRADIENT_BAR: f64 = 1e-3;
/// After ten steps, of which each moves the parameters by gradients that are off by rounding.
const LATE_LOSS_BAR: f64 = 1e-3;
const LATE_TEACHER_BAR: f64 = 1e-2;

pub(super) fn checks<B: TrainBackend>() -> Vec<Check<B>> {
    let all: [(&'static str, Run<B>); 3] = [
        ("a training step", |device| step::<B>(&tiny(), device)),
        ("ten training steps", ten_steps::<B>),
        ("a training step of ViT-S's width", |device| {
            step::<B>(&real_width(), device)
        }),
    ];
    all.map(Check::new).into()
}

fn tiny() -> IbotConfig {
    IbotConfig {
        image_size: 32,
        projector_hidden_dim: 48,
        projector_bottleneck_dim: 16,
        n_cls_prototypes: 257,
        n_patch_prototypes: 64,
        vit: Some(VitConfig {
            patch_size: 8,
            embed_dim: 48,
            depth: 2,
            num_heads: 3,
            ..VitConfig::default()
        }),
        ..IbotConfig::default()
    }
}

/// ViT-S's width, heads and tokens, and the reference's head but for its prototypes, in one block.
fn real_width() -> IbotConfig {
    IbotConfig {
        image_size: 224,
        n_cls_prototypes: 260,
        n_patch_prototypes: 132,
        vit: Some(VitConfig {
            patch_size: 16,
            embed_dim: 384,
            depth: 1,
            num_heads: 6,
            ..VitConfig::default()
        }),
        ..IbotConfig::default()
    }
}

/// Two views of random images and masks of a third of the patches, other ones at each step.
fn input<B: TrainBackend>(config: &IbotConfig, step: u64, device: &B::Device) -> StepInput<B> {
    let mut random = Random::new(1, step, 0, Stream::View(0));
    let side = config.image_size;
    let shape = [BATCH, 3, side, side];
    let mut view = || {
        let values = random.fill(shape.iter().product(), Random::normal);
        Tensor::from_data(TensorData::new(values, shape), device)
    };
    let patch = config.vit.as_ref().map_or(side, |vit| vit.patch_size);
    let patches = (side / patch) * (side / patch);
    StepInput {
        global_views: vec![view(), view()],
        local_views: Vec::new(),
        masks: (0..2 * BATCH * patches)
            .map(|patch| (patch + step as usize).is_multiple_of(3))
            .collect(),
    }
}

fn method<B: TrainBackend>(config: &IbotConfig, device: &B::Device) -> Result<VitIbot<B>> {
    config.init::<B>(2, device)
}

/// The losses of a step, what the teacher sees, and the gradient of each parameter.
fn step<B: TrainBackend>(config: &IbotConfig, device: &B::Device) -> Result<Vec<Measured>> {
    let input = input::<B>(config, 0, device);
    let mut method = method::<B>(config, device)?;
    let output = method.forward(&input.global_views, &input.masks, 0.05)?;
    let loss = output.loss.clone() * loss_scale();
    let named = Gradients::backward(&loss).by_name(&method.student);
    let mut all = vec![
        Measured::of("loss", output.loss.inner(), LOSS_BAR),
        Measured::of("loss of class tokens", output.terms.cls, LOSS_BAR),
        Measured::of("loss of patches", output.terms.patch, LOSS_BAR),
        Measured::of("teacher's class tokens", output.embedding, LOSS_BAR),
    ];
    for (name, gradient) in named {
        all.extend(gradients_of(&name, gradient.values));
    }
    Ok(all)
}

/// As in training: small gradients would vanish in f16.
fn loss_scale() -> f64 {
    match Precision::current() {
        Precision::F16 => 1024.0,
        Precision::F32 | Precision::Bf16 => 1.0,
    }
}

/// The gradient of a parameter; that of the keys' bias is zero but for rounding, as softmax does not see a shift of all
/// scores, and is left out.
fn gradients_of(name: &str, values: Vec<f32>) -> Vec<Measured> {
    let measured = |name, values| Measured::new(name, values, GRADIENT_BAR);
    if !name.ends_with("qkv.bias") {
        return vec![measured(format!("gradient of {name}"), values)];
    }
    let width = values.len() / 3;
    let part = |part, at: usize| {
        let values = values[at * width..(at + 1) * width].to_vec();
        measured(format!("gradient of {name}, {part}"), values)
    };
    vec![part("queries", 0), part("values", 2)]
}

/// The losses of each of ten steps, and what the teacher sees in new images after them.
fn ten_steps<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let config = tiny();
    let trainer = TrainerConfig {
        precision: Precision::current(),
        ..TrainerConfig::default()
    };
    let method = method::<B>(&config, device)?;
    let mut trainer = trainer.init(method, device.clone(), DeviceGuard::Cpu);
    let mut all = Vec::new();
    for step in 0..STEPS {
        let rates = Rates {
            learning_rate: 1e-3,
            temperature_teacher: 0.05,
            ema_decay: 0.9,
            ..Rates::default()
        };
        let losses = trainer.step(&input::<B>(&config, step as u64, device), &rates)?;
        let values = vec![losses.loss_cls, losses.loss_patch];
        let name = format!("losses of step {step}");
        all.push(Measured::new(name, values, LATE_LOSS_BAR));
    }
    let views = input::<B>(&config, STEPS as u64, device).global_views;
    for view in views {
        let features = numbers(trainer.method.embed(view)); // with the precision of the check
        let name = "teacher's class tokens after ten steps";
        all.push(Measured::new(name, features, LATE_TEACHER_BAR));
    }
    Ok(all)
}
