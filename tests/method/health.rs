//! Each way to fail, forced on a method, gets its name; a healthy one gets none.

use burn::tensor::{Tensor, TensorData};
use ibot::device::DeviceGuard;
use ibot::files::{NamedTensor, load_state_dict, state_dict};
use ibot::kernels::TrainBackend;
use ibot::method::{IbotConfig, IbotInput, TargetKind, VitIbot};
use ibot::random::{Random, Stream};
use ibot::train::health::{Anomaly, Health, HealthMonitor};
use ibot::train::{Rates, StepInput, TrainerConfig};

use crate::{random_views, tiny, values};

/// Softmax sharp enough that one prototype can have it all.
const SHARP: f64 = 0.001;
/// Softmax so flat that no prototype stands out.
const FLAT: f64 = 1e3;

/// What three checks say of a method whose teacher was changed.
fn verdict<B: TrainBackend>(
    config: &IbotConfig,
    temperature: f64,
    change: impl Fn(&str, &mut NamedTensor),
    device: &B::Device,
) -> (Vec<Anomaly>, Health) {
    let mut method: VitIbot<B> = config.init(3, device).unwrap();
    let mut tensors = state_dict(&method.teacher);
    for (name, tensor) in &mut tensors {
        change(name, tensor);
    }
    let (teacher, report) = load_state_dict(method.teacher, tensors);
    assert!(report.is_clean(), "{report}");
    method.teacher = teacher;
    let trainer = TrainerConfig::default().init(method, device.clone(), DeviceGuard::Cpu);
    let input = StepInput {
        global_views: random_views(4, device),
        local_views: vec![],
        masks: (0..32).map(|patch| patch % 2 == 0).collect(),
    };
    let rates = Rates {
        temperature_teacher: temperature,
        ..Rates::default()
    };
    let stats = || trainer.health_stats(&input, &rates).unwrap();
    let read = || Health::read(stats(), &DeviceGuard::Cpu, device).unwrap();
    let mut monitor = HealthMonitor::new(config.prototypes());
    assert_eq!(monitor.observe(&read()), []);
    assert_eq!(monitor.observe(&read()), []);
    (monitor.observe(&read()), read())
}

fn centered() -> IbotConfig {
    IbotConfig {
        patch_targets: TargetKind::Centering,
        ..tiny()
    }
}

pub fn healthy<B: TrainBackend>(device: &B::Device) {
    for config in [tiny(), centered()] {
        // weights that spread the tiny method's tokens, as training does
        let spread = |name: &str, tensor: &mut NamedTensor| {
            if name.ends_with("weight") && tensor.shape.len() > 1 {
                tensor.values.iter_mut().for_each(|value| *value *= 8.0);
            }
        };
        let (sick, health) = verdict::<B>(&config, 0.2, spread, device);
        assert_eq!(sick, [], "{health:?}");
        assert!((0.0..=1.0).contains(&health.agreement));
        let prototypes = config.prototypes().map(|count| count as f64);
        let patch = health.patch.unwrap();
        assert!(health.cls.perplexity > 1.0 && health.cls.perplexity <= prototypes[0] + 1e-3);
        assert!(patch.perplexity > 1.0 && patch.perplexity <= prototypes[1] + 1e-3);
    }
}

/// A student equal to its teacher agrees with it, wherever it looks.
pub fn agreement<B: TrainBackend>(device: &B::Device) {
    let sinkhorn = IbotConfig {
        cls_targets: TargetKind::Sinkhorn,
        ..tiny()
    };
    for config in [centered(), sinkhorn] {
        let (_, health) = verdict::<B>(&config, 0.04, |_, _| {}, device);
        assert_eq!(health.agreement, 1.0, "{:?}", config.cls_targets);
    }
}

/// With a center that makes one prototype the target of all rows, student and teacher agree in the rows where it is the student's too:
/// of all prototypes together, in each row once.
pub fn agreement_after_centering<B: TrainBackend>(device: &B::Device) {
    let mut method: VitIbot<B> = tiny().init(3, device).unwrap();
    let input = IbotInput::<B> {
        global_views: random_views(4, device),
        local_views: vec![],
        masks: vec![false; 32],
        temperature_cls: 0.04,
        temperature_patch: 0.04,
        freeze_backbone: false,
        drop_path_rngs: vec![Random::new(0, 0, 0, Stream::DropPath(0)); 8],
    };
    let [prototypes, _] = tiny().prototypes();
    let mut agreement = |preferred: usize| {
        let mut center = vec![0.0f32; prototypes];
        center[preferred] = -1000.0;
        let center = TensorData::new(center, [prototypes]);
        method.center.set(Some(Tensor::from_data(center, device)));
        values(method.health_stats(&input).unwrap().agreement)[0]
    };
    let found: Vec<f32> = (0..prototypes).map(&mut agreement).collect();
    assert!(found.iter().all(|share| *share < 1.0), "{found:?}");
    let all: f32 = found.iter().sum();
    assert!((all - 1.0).abs() < 1e-5, "{found:?}");
}

/// The last norm gives one feature for all images and patches: flat, and with sharp targets all on one prototype.
pub fn flat_features<B: TrainBackend>(device: &B::Device) {
    let flat = |name: &str, tensor: &mut NamedTensor| {
        if name == "backbone.norm.weight" {
            tensor.values.fill(0.0);
        }
        if name == "backbone.norm.bias" {
            let numbers = tensor.values.iter_mut().zip(1..);
            numbers.for_each(|(value, at)| *value = at as f32);
        }
    };
    let (sick, health) = verdict::<B>(&centered(), SHARP, flat, device);
    let expected = [
        Anomaly::CollapsedToOnePrototype,
        Anomaly::PatchesCollapsedToOnePrototype,
        Anomaly::FlatFeatures,
    ];
    assert_eq!(sick, expected, "{health:?}");
    // Sinkhorn-Knopp cannot be fooled into one prototype: equal rows become uniform
    let config = IbotConfig {
        cls_targets: TargetKind::Sinkhorn,
        ..tiny()
    };
    let (sick, health) = verdict::<B>(&config, SHARP, flat, device);
    let expected = [
        Anomaly::UniformTeacher,
        Anomaly::UniformTeacherOfPatches,
        Anomaly::FlatFeatures,
    ];
    assert_eq!(sick, expected, "{health:?}");
}

pub fn uniform_teacher<B: TrainBackend>(device: &B::Device) {
    let (sick, health) = verdict::<B>(&centered(), FLAT, |_, _| {}, device);
    assert!(
        sick.starts_with(&[Anomaly::UniformTeacher, Anomaly::UniformTeacherOfPatches]),
        "{sick:?} {health:?}"
    );
}

pub fn exploding_logits<B: TrainBackend>(device: &B::Device) {
    for factor in [1e7, f32::NAN] {
        let explode = |name: &str, tensor: &mut NamedTensor| {
            if name == "cls_head.prototypes.weight" {
                tensor.values.iter_mut().for_each(|value| *value *= factor);
            }
        };
        let (sick, health) = verdict::<B>(&centered(), 0.04, explode, device);
        assert!(
            sick.contains(&Anomaly::ExplodingLogits),
            "{sick:?} {health:?}"
        );
    }
}

/// Of an odd batch in parts of one image, two are looked at: one alone cannot show a collapse.
pub fn odd_batch<B: TrainBackend>(device: &B::Device) {
    let config = tiny();
    let method: VitIbot<B> = config.init(3, device).unwrap();
    let trainer = TrainerConfig {
        micro_batch_size: Some(1),
        ..TrainerConfig::default()
    };
    let trainer = trainer.init(method, device.clone(), DeviceGuard::Cpu);
    for (images, looked_at) in [(5, 2), (1, 1)] {
        let patches = 2 * images * 4;
        let input = StepInput {
            global_views: random_views(images, device),
            local_views: vec![],
            masks: (0..patches).map(|patch| patch % 2 == 0).collect(),
        };
        let stats = trainer.health_stats(&input, &Rates::default()).unwrap();
        assert_eq!(stats.images, looked_at);
    }
}
