//! One step of training, and what it refuses.

use burn::module::Param;
use burn::tensor::Tensor;
use ibot::Error;
use ibot::device::DeviceGuard;
use ibot::files::state_dict;
use ibot::kernels::TrainBackend;
use ibot::train::{OptimizerConfig, OptimizerKind, Rates, StepInput, Trainer, TrainerConfig};

use crate::{random_views, tiny_method};

fn rates() -> Rates {
    Rates {
        learning_rate: 1e-3,
        temperature_teacher: 0.04,
        ema_decay: 0.99,
        ..Rates::default()
    }
}

pub fn input<B: TrainBackend>(device: &B::Device) -> StepInput<B> {
    StepInput {
        global_views: random_views(2, device),
        local_views: Vec::new(),
        masks: (0..16).map(|patch| patch % 2 == 0).collect(),
    }
}

/// A loss that is not finite names its term and leaves weights and moments alone.
pub fn a_broken_step_changes_nothing<B: TrainBackend>(device: &B::Device) {
    let mut method = tiny_method::<B>(device);
    let broken = Tensor::full([8, 10], f32::NAN, device);
    let head = method.student.network.patch_head.as_mut().unwrap();
    head.prototypes.weight = Param::from_tensor(broken);
    let teacher = state_dict(&method.teacher);
    let backbone = state_dict(&method.student.network.backbone);
    let mut trainer = TrainerConfig::default().init(method, device.clone(), DeviceGuard::Cpu);
    let error = trainer.step(&input(device), &rates()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("loss_patch is NaN"), "{message}");
    assert!(matches!(error, Error::NotFinite { .. }), "{error:?}");
    assert_eq!(state_dict(&trainer.method.teacher), teacher);
    assert_eq!(
        state_dict(&trainer.method.student.network.backbone),
        backbone
    );
}

fn broken_input<B: TrainBackend>(device: &B::Device) -> StepInput<B> {
    let mut input = input::<B>(device);
    input.global_views[0] = input.global_views[0].clone() * f32::NAN;
    input
}

/// Steps that nobody looks at give the same bits as those that are read one by one, and none moves anything after one that
/// was not finite, until that was read; also where it was the first, and whatever the rule.
pub fn unread_steps_wait<B: TrainBackend>(device: &B::Device) {
    for name in [
        OptimizerKind::AdamW,
        OptimizerKind::Sgd,
        OptimizerKind::Lars,
    ] {
        let trainer = || {
            let optimizer = OptimizerConfig {
                name,
                clip_gradient_norm: Some(0.1),
                ..OptimizerConfig::default()
            };
            let method = tiny_method::<B>(device);
            let config = TrainerConfig {
                optimizer,
                ..TrainerConfig::default()
            };
            config.init(method, device.clone(), DeviceGuard::Cpu)
        };
        let (good, broken) = (input::<B>(device), broken_input::<B>(device));
        let advance = |trainer: &mut Trainer<B, _>, inputs: [&StepInput<B>; 2]| {
            for input in inputs {
                trainer.advance(input, &rates()).unwrap();
            }
        };
        let mut expected = trainer();
        let mut one_by_one = Vec::new();
        for _ in 0..2 {
            one_by_one.push(expected.step(&good, &rates()).unwrap());
        }

        let mut found = trainer();
        advance(&mut found, [&broken, &good]);
        assert_eq!(
            found.tensors()["student.mask_token"],
            trainer().tensors()["student.mask_token"]
        );
        let (losses, sound) = found.read_losses();
        assert!(losses.is_empty());
        let message = sound.unwrap_err().to_string();
        assert!(message.contains("loss_cls is NaN"), "{message}");
        assert!(!found.tensors().contains_key("center.cls"));

        advance(&mut found, [&good, &good]);
        advance(&mut found, [&broken, &good]);
        let (losses, sound) = found.read_losses();
        assert_eq!(losses, one_by_one);
        assert!(sound.is_err());
        assert!(losses[0].gradient_norm > 0.1, "nothing is clipped");
        assert!(found.tensors() == expected.tensors(), "{name:?}");

        let losses = found.step(&good, &rates()).unwrap();
        assert_eq!(losses, expected.step(&good, &rates()).unwrap());
        assert!(found.tensors() == expected.tensors(), "{name:?}");
    }
}

/// What `ibot bench` times is the step that trains, also in parts.
pub fn timed_steps_are_the_same<B: TrainBackend>(device: &B::Device) {
    for micro_batch_size in [None, Some(1)] {
        let trainer = || {
            let config = TrainerConfig {
                micro_batch_size,
                ..TrainerConfig::default()
            };
            config.init(tiny_method::<B>(device), device.clone(), DeviceGuard::Cpu)
        };
        let input = input::<B>(device);
        let (mut expected, mut found) = (trainer(), trainer());
        let losses = expected.step(&input, &rates()).unwrap();
        let phases = found.advance_timed(&input, &rates());
        let (of_found, sound) = found.read_losses();
        sound.unwrap();
        assert_eq!(of_found, [losses]);
        assert!(found.tensors() == expected.tensors());
        let phases = phases.unwrap();
        for seconds in [
            phases.forward_s,
            phases.backward_s,
            phases.optimizer_s,
            phases.ema_s,
        ] {
            assert!(seconds > 0.0, "{phases:?}");
        }
    }
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
    for temperature in [0.0, -1.0, f64::NAN] {
        let error = method.forward(&views, &[true; 16], temperature);
        let message = error.unwrap_err().to_string();
        assert!(message.contains("a temperature of"), "{message}");
    }
    assert!(method.forward(&[], &[], 0.04).is_err());
    let odd = vec![views[0].clone(), views[1].clone().narrow(0, 0, 1)];
    assert!(method.forward(&odd, &[true; 12], 0.04).is_err());
}
