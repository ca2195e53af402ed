//! One step of training, and what it refuses.

use burn::module::Param;
use burn::tensor::Tensor;
use ibot::device::DeviceGuard;
use ibot::kernels::TrainBackend;
use ibot::train::{AdamW, AdamWConfig, Gradients, Rates, StepInput, Trainer};
use ibot::weights::state_dict;

use crate::{random_views, tiny_method};

const RATES: Rates = Rates {
    epoch: 0,
    learning_rate: 1e-3,
    temperature_teacher: 0.04,
    ema_decay: 0.99,
};

fn input<B: TrainBackend>(device: &B::Device) -> StepInput<B> {
    StepInput {
        global_views: random_views(2, device),
        masks: (0..16).map(|patch| patch % 2 == 0).collect(),
    }
}

/// A loss that is not finite names its term and leaves weights and moments alone.
pub fn a_broken_step_changes_nothing<B: TrainBackend>(device: &B::Device) {
    let mut method = tiny_method::<B>(device);
    let broken = Tensor::full([8, 10], f32::NAN, device);
    method.student.network.patch_head.prototypes.weight = Param::from_tensor(broken);
    let teacher = state_dict(&method.teacher);
    let backbone = state_dict(&method.student.network.backbone);
    let trainer = Trainer::new(
        method,
        AdamWConfig::default(),
        device.clone(),
        DeviceGuard::Cpu,
    );
    let (trainer, losses) = trainer.step(&input(device), &RATES);
    let message = losses.unwrap_err().to_string();
    assert!(message.contains("loss_patch is NaN"), "{message}");
    assert_eq!(state_dict(&trainer.method.teacher), teacher);
    assert_eq!(
        state_dict(&trainer.method.student.network.backbone),
        backbone
    );
}

pub fn views_and_masks_must_fit<B: TrainBackend>(device: &B::Device) {
    let mut method = tiny_method::<B>(device);
    let views = random_views::<B::InnerBackend>(2, device);
    let message = method
        .forward(&views, &[true; 15], 0.04)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("15 mask entries") && message.contains("expected 16"),
        "{message}"
    );
    assert!(method.forward(&[], &[], 0.04).is_err());
    let odd = vec![views[0].clone(), views[1].clone().narrow(0, 0, 1)];
    assert!(method.forward(&odd, &[true; 12], 0.04).is_err());
}

/// With zero gradients, AdamW moves only what decays: matrices, not biases, norms, positions or tokens.
pub fn only_matrices_decay<B: TrainBackend>(device: &B::Device) {
    let mut method = tiny_method::<B>(device);
    let output = method
        .forward(&random_views(2, device), &input::<B>(device).masks, 0.04)
        .unwrap();
    let grads = Gradients::of(&(output.loss * 0.0));
    let before = state_dict(&method.student);
    let mut optimizer = AdamW::<B>::new(AdamWConfig {
        weight_decay: 1.0,
        ..AdamWConfig::default()
    });
    let after = state_dict(&optimizer.step(method.student, grads, 0.0, 0.5));
    let is_norm = |name: &str| name.contains("norm");
    for (name, before) in before {
        let matrix = name.ends_with("weight") && !is_norm(&name);
        let expected = if matrix { 0.5 } else { 1.0 };
        let pairs = before.values.iter().zip(&after[&name].values);
        let off = pairs
            .map(|(old, new)| (old * expected - new).abs())
            .fold(0.0, f32::max);
        assert!(off < 1e-6, "{name}: off by {off}");
    }
}
