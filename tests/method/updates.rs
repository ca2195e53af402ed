//! What the optimizer makes of a step's gradients.

use std::collections::BTreeMap;

use burn_autodiff::Autodiff;
use burn_wgpu::{WgpuDevice, WgpuRuntime};
use cubecl::Runtime;
use ibot::files::{NamedTensor, state_dict};
use ibot::kernels::wgsl::peak_bytes_in_use;
use ibot::kernels::{Gpu, GradScaleInput, IbotBackend as _, LossScale, TrainBackend};
use ibot::method::VitIbot;
use ibot::train::{Gradients, Optimizer, OptimizerConfig, OptimizerKind, UpdateRates};

use crate::training::input;
use crate::{assert_close, random_views, tiny_method};

/// Parameters and moments are written where they are: a step needs no memory for another copy of them.
pub fn adamw_works_in_place(device: &WgpuDevice) {
    type B = Autodiff<Gpu>;
    let mut method = tiny_method::<B>(device);
    let entries = |tensor: &NamedTensor| tensor.values.len() as u64;
    let bytes: u64 = 4 * state_dict(&method.student)
        .values()
        .map(entries)
        .sum::<u64>();
    let mut optimizer = Optimizer::<B>::new(OptimizerConfig::default());
    let update = UpdateRates {
        learning_rate: 0.01,
        ..UpdateRates::default()
    };
    for step in 0..3 {
        let masks = input::<B>(device).masks;
        let output = method.forward(&random_views(2, device), &masks, 0.04);
        let mut grads = Some(Gradients::backward(&output.unwrap().loss));
        let mut student = Some(method.student);
        let client = WgpuRuntime::client(device);
        let before = client.memory_usage().unwrap().bytes_in_use;
        let peak = peak_bytes_in_use(&mut || {
            let moved = student.take().zip(grads.take());
            student = moved.map(|(student, grads)| optimizer.step(student, grads, &update, None));
        });
        method.student = student.unwrap();
        assert!(peak > 0, "no kernel was launched");
        if step > 0 {
            let more = peak.saturating_sub(before);
            assert!(more < bytes, "{more} bytes more for parameters of {bytes}");
        }
    }
}

/// SGD without momentum or decay: a step is the clipped gradient itself.
pub fn gradients_are_clipped<B: TrainBackend>(device: &B::Device) {
    for largest in [1e-3, 1e3] {
        let config = OptimizerConfig {
            name: OptimizerKind::Sgd,
            momentum: 0.0,
            weight_decay: 0.0,
            clip_gradient_norm: Some(largest),
            ..OptimizerConfig::default()
        };
        let rates = UpdateRates {
            learning_rate: 1.0,
            ..UpdateRates::default()
        };
        let updates = one_update::<B>(config, &rates, device);
        let squares = |x: &f32| f64::from(*x).powi(2);
        let norm = updates.iter().flat_map(|(_, gradient, _)| gradient);
        let norm = norm.map(squares).sum::<f64>().sqrt();
        let scale = (largest / norm).min(1.0);
        assert_eq!(scale < 1.0, largest < 1.0, "{norm}");
        for (name, gradient, change) in updates {
            let expected: Vec<f64> = gradient.iter().map(|g| -f64::from(*g) * scale).collect();
            let off = change.iter().zip(&expected);
            let off = off.fold(0.0f64, |max, (c, e)| max.max((f64::from(*c) - e).abs()));
            // the change is read as a difference of weights of up to 1
            assert!(off < 1e-6, "{name}: off by {off}");
        }
    }
}

/// With zero gradients, AdamW moves only what decays: matrices, and by the settings positions and tokens, or all.
pub fn only_matrices_decay<B: TrainBackend>(device: &B::Device) {
    let is_matrix = |name: &str| name.ends_with("weight") && !name.contains("norm");
    let is_token = |name: &str| name.ends_with("token") || name.ends_with("pos_embed");
    let config = OptimizerConfig::default;
    what_decays::<B>(config(), is_matrix, device);
    let decay_tokens = OptimizerConfig {
        decay_tokens: true,
        ..config()
    };
    what_decays::<B>(
        decay_tokens,
        |name| is_matrix(name) || is_token(name),
        device,
    );
    let decay_all = OptimizerConfig {
        decay_all: true,
        ..config()
    };
    what_decays::<B>(decay_all, |_| true, device);
}

fn what_decays<B: TrainBackend>(
    config: OptimizerConfig,
    decays: impl Fn(&str) -> bool,
    device: &B::Device,
) {
    let mut method = tiny_method::<B>(device);
    let output = method
        .forward(&random_views(2, device), &input::<B>(device).masks, 0.04)
        .unwrap();
    let grads = Gradients::backward(&(output.loss * 0.0));
    let before = state_dict(&method.student);
    let mut optimizer = Optimizer::<B>::new(OptimizerConfig {
        weight_decay: 1.0,
        ..config
    });
    let rates = UpdateRates {
        learning_rate: 0.5,
        ..UpdateRates::default()
    };
    let after = state_dict(&optimizer.step(method.student, grads, &rates, None));
    for (name, before) in before {
        let expected = if decays(&name) { 0.5 } else { 1.0 };
        let pairs = before.values.iter().zip(&after[&name].values);
        let off = pairs
            .map(|(old, new)| (old * expected - new).abs())
            .fold(0.0, f32::max);
        assert!(off < 1e-6, "{name}: off by {off}");
    }
}

/// Gradients of one step, and what an optimizer made of them: name, gradient, change.
fn one_update<B: TrainBackend>(
    config: OptimizerConfig,
    rates: &UpdateRates,
    device: &B::Device,
) -> Vec<(String, Vec<f32>, Vec<f32>)> {
    one_scaled_update::<B>(config, rates, None, device)
}

/// The same, with a loss that is multiplied by `loss_scale`, and gradients that are divided by it.
fn one_scaled_update<B: TrainBackend>(
    config: OptimizerConfig,
    rates: &UpdateRates,
    loss_scale: Option<f32>,
    device: &B::Device,
) -> Vec<(String, Vec<f32>, Vec<f32>)> {
    let mut config_of_method = crate::tiny();
    config_of_method.vit.as_mut().unwrap().depth = 2;
    let mut method: VitIbot<B> = config_of_method.init(3, device).unwrap();
    let output = method
        .forward(&random_views(2, device), &input::<B>(device).masks, 0.04)
        .unwrap();
    let state = loss_scale.map(|scale| LossScale::of([scale, 0.0], device));
    let grads = Gradients::backward_scaled(output.loss, state.as_ref());
    let named = grads.by_name(&method.student);
    let before = state_dict(&method.student);
    let mut optimizer = Optimizer::<B>::new(config);
    let grad_scale = match &state {
        Some(state) => Some(state.scale.clone().recip()),
        None => optimizer.max_norm().map(|max_norm| {
            let clipping = GradScaleInput {
                scalars: vec![grads.squared_norm(&method.student, device)],
                max_norm: Some(max_norm),
                before: None,
            };
            B::InnerBackend::grad_scale(clipping).grad_scale
        }),
    };
    let after = state_dict(&optimizer.step(method.student, grads, rates, grad_scale));
    let change = |name: &String| {
        let pairs = before[name].values.iter().zip(&after[name].values);
        pairs.map(|(old, new)| new - old).collect()
    };
    let named = named.into_iter();
    let unscaled = |mut values: Vec<f32>| {
        let scale = loss_scale.unwrap_or(1.0);
        values.iter_mut().for_each(|value| *value /= scale);
        values
    };
    named
        .map(|(name, gradient)| (name.clone(), unscaled(gradient.values), change(&name)))
        .collect()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, x| max.max(x.abs()))
}

/// The first step of Adam is the learning rate, whatever the gradient: so it shows each parameter's.
pub fn learning_rates_fall_with_depth<B: TrainBackend>(device: &B::Device) {
    let config = OptimizerConfig {
        weight_decay: 0.0,
        layer_decay: 0.5,
        patch_embed_lr_mult: 0.2,
        ..OptimizerConfig::default()
    };
    let rates = UpdateRates {
        learning_rate: 0.01,
        ..UpdateRates::default()
    };
    let updates = one_update::<B>(config, &rates, device);
    for (part, factor) in [
        ("cls_head.layers.0.weight", 1.0),
        ("backbone.norm.weight", 1.0),
        ("blocks.1.mlp.fc1.weight", 0.5),
        ("blocks.0.mlp.fc1.weight", 0.25),
        ("cls_token", 0.125),
        ("pos_embed", 0.125),
        ("patch_embed.proj.weight", 0.025),
    ] {
        let (_, _, change) = updates
            .iter()
            .find(|(name, ..)| name.ends_with(part))
            .unwrap();
        let found = largest(change);
        assert!(
            (found - 0.01 * factor).abs() < 1e-3 * factor,
            "{part}: {found}"
        );
    }
}

pub fn prototypes_can_be_frozen<B: TrainBackend>(device: &B::Device) {
    let rates = UpdateRates {
        learning_rate: 0.01,
        weight_decay: Some(0.5),
        freeze_prototypes: true,
        ..UpdateRates::default()
    };
    for (name, _, change) in one_update::<B>(OptimizerConfig::default(), &rates, device) {
        assert_eq!(
            largest(&change) == 0.0,
            name.ends_with("prototypes.weight"),
            "{name}"
        );
    }
}

/// With an eps far above the gradients a step is proportional to them, clipped; with a loss scale too.
pub fn each_gradient_is_clipped<B: TrainBackend>(device: &B::Device) {
    for loss_scale in [None, Some(1024.0)] {
        clipped_as_a_whole::<B>(loss_scale, device);
    }
}

fn clipped_as_a_whole<B: TrainBackend>(loss_scale: Option<f32>, device: &B::Device) {
    let (bar, eps) = (0.05, 1e3);
    let config = OptimizerConfig {
        weight_decay: 0.0,
        eps,
        clip_each_gradient: Some(bar),
        ..OptimizerConfig::default()
    };
    let rates = UpdateRates {
        learning_rate: eps,
        ..UpdateRates::default()
    };
    let mut clipped = 0;
    for (name, gradient, change) in one_scaled_update::<B>(config, &rates, loss_scale, device) {
        let norm = gradient
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        let scale = (bar / (norm + 1e-6)).min(1.0);
        clipped += usize::from(scale < 1.0);
        for (gradient, change) in gradient.iter().zip(&change) {
            let expected = -f64::from(*gradient) * scale;
            // the change is read as a difference of weights of up to 1
            assert!(
                (f64::from(*change) - expected).abs() < 1e-3 * expected.abs() + 1e-6,
                "{name}"
            );
        }
    }
    assert!(clipped > 0, "nothing was clipped");
}

/// Two steps of SGD and of LARS, by their formulas.
pub fn momentum_follows_the_formula<B: TrainBackend>(device: &B::Device) {
    for name in [OptimizerKind::Sgd, OptimizerKind::Lars] {
        let mut method = tiny_method::<B>(device);
        let mut optimizer = Optimizer::<B>::new(OptimizerConfig {
            name,
            weight_decay: 0.1,
            ..OptimizerConfig::default()
        });
        let rates = UpdateRates {
            learning_rate: 0.5,
            ..UpdateRates::default()
        };
        let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for _ in 0..2 {
            let output = method
                .forward(&random_views(2, device), &input::<B>(device).masks, 0.04)
                .unwrap();
            let grads = Gradients::backward(&output.loss);
            let named = grads.by_name(&method.student);
            let before = state_dict(&method.student);
            method.student = optimizer.step(method.student, grads, &rates, None);
            let after = state_dict(&method.student);
            for (parameter, gradient) in named {
                let old = wide(&before[&parameter].values);
                let is_matrix = before[&parameter].shape.len() >= 2;
                let decays = is_matrix && parameter.ends_with("weight");
                let decay = if decays { 0.1 } else { 0.0 };
                let mut update: Vec<f64> = wide(&gradient.values);
                update
                    .iter_mut()
                    .zip(&old)
                    .for_each(|(u, p)| *u += decay * p);
                let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
                if name == OptimizerKind::Lars && is_matrix {
                    let trust = 0.001 * norm(&old) / norm(&update);
                    update.iter_mut().for_each(|u| *u *= trust);
                }
                if let Some(sum) = sums.get(&parameter) {
                    update
                        .iter_mut()
                        .zip(sum)
                        .for_each(|(u, sum)| *u += 0.9 * sum);
                }
                let expected: Vec<f64> =
                    old.iter().zip(&update).map(|(p, u)| p - 0.5 * u).collect();
                assert_close(&after[&parameter].values, &expected, 1e-5);
                sums.insert(parameter, update);
            }
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}
