//! Batches in parts.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use ibot::device::DeviceGuard;
use ibot::files::state_dict;
use ibot::kernels::TrainBackend;
use ibot::method::VitIbot;
use ibot::method::{IbotConfig, PatchWeight, StreamingPrototypes, TargetKind};
use ibot::random::{Random, Stream};
use ibot::train::{OptimizerConfig, Rates, StepInput, TrainerConfig};

use crate::{assert_close, tiny, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// What one step made of a method.
pub struct Step {
    /// Losses, and the norm of the gradient.
    pub terms: [f32; 6],
    /// Change of each parameter, proportional to its gradient.
    pub change: Vec<f64>,
    pub centers: [Vec<f32>; 2],
}

/// One step on 32 images in two views of each size, some without a masked patch, some with all masked.
pub fn one_step<B: TrainBackend>(
    method: VitIbot<B>,
    micro_batch_size: Option<usize>,
    device: &B::Device,
) -> Step {
    let masks = (0..256).map(|patch| (patch * 7 + patch / 9) % 5 < 2);
    step_with_masks(method, micro_batch_size, masks.collect(), device)
}

/// [`one_step`] with masks of one's own, view by view, four patches an image.
fn step_with_masks<B: TrainBackend>(
    method: VitIbot<B>,
    micro_batch_size: Option<usize>,
    masks: Vec<bool>,
    device: &B::Device,
) -> Step {
    let mut random = Random::new(7, 0, 0, Stream::View(0));
    let mut views = |count: usize, side: usize| -> Vec<Tensor<Inner<B>, 4>> {
        let shape = [32, 3, side, side];
        let mut view = || random.fill(shape.iter().product(), Random::normal);
        (0..count)
            .map(|_| Tensor::from_data(TensorData::new(view(), shape), device))
            .collect()
    };
    let input = StepInput::<B> {
        global_views: views(2, 16),
        local_views: views(2, 8),
        masks,
    };
    let rates = Rates {
        learning_rate: 1e3,
        temperature_teacher: 0.04,
        temperature_teacher_patch: Some(0.05),
        ema_decay: 1.0,
        ..Rates::default()
    };
    // with a large eps a step is proportional to the gradient
    let optimizer = OptimizerConfig {
        eps: 1e3,
        weight_decay: 0.0,
        ..OptimizerConfig::default()
    };
    let before = state_dict(&method.student);
    let config = TrainerConfig {
        optimizer,
        micro_batch_size,
        ..TrainerConfig::default()
    };
    let mut trainer = config.init(method, device.clone(), DeviceGuard::Cpu);
    let losses = trainer.step(&input, &rates);
    let after = state_dict(&trainer.method.student);
    let change = before
        .iter()
        .flat_map(|(name, before)| before.values.iter().zip(&after[name].values))
        .map(|(old, new)| f64::from(*new) - f64::from(*old))
        .collect();
    let centers = [&trainer.method.center, &trainer.method.patch_center];
    let losses = losses.unwrap();
    Step {
        terms: [
            losses.loss,
            losses.loss_cls,
            losses.loss_patch,
            losses.loss_visible.unwrap(),
            losses.loss_koleo.unwrap_or_default(),
            losses.gradient_norm,
        ],
        change,
        centers: centers.map(|center| center.value().map(values).unwrap_or_default()),
    }
}

/// Both steps are one but for rounding.
#[track_caller]
pub fn assert_same_step(found: &Step, expected: &Step) {
    let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    assert_close(&found.terms, &wide(&expected.terms), 1e-5);
    for (found, expected) in found.centers.iter().zip(&expected.centers) {
        assert_close(found, &wide(expected), 1e-6);
    }
    let largest = expected
        .change
        .iter()
        .fold(0.0, |max: f64, x| max.max(x.abs()));
    assert!(largest > 1e-3, "{largest}");
    assert_eq!(found.change.len(), expected.change.len());
    for (found, expected) in found.change.iter().zip(&expected.change) {
        assert!(
            (found - expected).abs() < 1e-5 * largest.max(1.0),
            "{found}, not {expected}"
        );
    }
}

/// A configuration with all losses, drop path, and one kind of targets.
pub fn all_losses(targets: TargetKind, patch_weight: PatchWeight) -> IbotConfig {
    let mut config = IbotConfig {
        cls_targets: targets,
        patch_targets: targets,
        patch_weight,
        visible_loss_weight: 0.5,
        koleo_weight: 0.1,
        drop_path_rate: 0.5,
        ..tiny()
    };
    config.vit.as_mut().unwrap().depth = 2; // the first block drops nothing
    config
}

/// A batch in four parts, or in one for each image, has the losses, gradients and centers of the same batch in one piece.
pub fn parts_add_up<B: TrainBackend>(device: &B::Device) {
    for (targets, weight) in [
        (TargetKind::Sinkhorn, PatchWeight::Image),
        (TargetKind::Centering, PatchWeight::Patch),
    ] {
        let config = all_losses(targets, weight);
        let run = |micro_batch_size| {
            one_step(
                config.init::<B>(3, device).unwrap(),
                micro_batch_size,
                device,
            )
        };
        let whole = run(None);
        for images in [8, 1] {
            assert_same_step(&run(Some(images)), &whole);
        }
    }
}

/// The first part has no masked patch and the last one no visible one, with stored and with tiled logits.
pub fn parts_without_masks_or_without_visible_patches<B: TrainBackend>(device: &B::Device) {
    for streaming_prototypes in [StreamingPrototypes::Never, StreamingPrototypes::Always] {
        let config = IbotConfig {
            streaming_prototypes,
            koleo_weight: 0.0, // images that are all mask tokens lie in one point
            ..all_losses(TargetKind::Sinkhorn, PatchWeight::Patch)
        };
        let masks = (0..256).map(|patch| match patch / 4 % 32 {
            0..8 => false,
            24.. => true,
            _ => patch % 3 == 0,
        });
        let masks: Vec<bool> = masks.collect();
        let run = |micro_batch_size| {
            let method = config.init::<B>(3, device).unwrap();
            step_with_masks(method, micro_batch_size, masks.clone(), device)
        };
        assert_same_step(&run(Some(8)), &run(None));
    }
}
