//! Heads first: a frozen backbone keeps its bits, and begins afterwards as a run begins.

use ibot::device::DeviceGuard;
use ibot::files::state_dict;
use ibot::kernels::TrainBackend;
use ibot::method::VitIbot;
use ibot::train::{OptimizerConfig, Rates, StepInput, Trainer, TrainerConfig};
use std::collections::BTreeMap;
use std::path::Path;

use crate::{assert_close, random_views, tiny};

type Found = BTreeMap<String, Vec<f32>>;

const RATE: f64 = 1e-3;

fn rates(frozen_steps: usize, step: usize) -> Rates {
    Rates {
        learning_rate: RATE,
        temperature_teacher: 0.04,
        ema_decay: 0.7, // with most values, an average of equal numbers rounds to another one
        freeze_backbone: step < frozen_steps,
        frozen_backbone_steps: step.min(frozen_steps),
        ..Rates::default()
    }
}

fn input<B: TrainBackend>(device: &B::Device) -> StepInput<B> {
    let local = random_views::<B::InnerBackend>(2, device);
    let local = local
        .into_iter()
        .map(|view| view.narrow(2, 0, 8).narrow(3, 0, 8));
    StepInput {
        global_views: random_views(2, device),
        local_views: local.collect(),
        masks: (0..16).map(|patch| patch % 2 == 0).collect(),
    }
}

fn trainer<B: TrainBackend>(
    optimizer: OptimizerConfig,
    micro_batch_size: Option<usize>,
    device: &B::Device,
) -> Trainer<B, ibot::backbone::VisionTransformer<B>> {
    let config = TrainerConfig {
        optimizer,
        micro_batch_size,
        ..TrainerConfig::default()
    };
    let mut method: VitIbot<B> = tiny().init(3, device).unwrap();
    // networks that differ, as those of a run that goes on
    let other: VitIbot<B> = tiny().init(4, device).unwrap();
    method.teacher = other.teacher;
    config.init(method, device.clone(), DeviceGuard::Cpu)
}

/// Weights by name, those of the backbones and the mask token apart from those of the heads.
fn weights<B: TrainBackend>(
    trainer: &Trainer<B, ibot::backbone::VisionTransformer<B>>,
) -> [Found; 2] {
    let (student, teacher) = (&trainer.method.student, &trainer.method.teacher);
    let both = [
        ("student.", state_dict(student)),
        ("teacher.", state_dict(teacher)),
    ];
    let all = both.into_iter().flat_map(|(network, tensors)| {
        let tensors = tensors.into_iter();
        tensors.map(move |(name, tensor)| (format!("{network}{name}"), tensor.values))
    });
    let is_before = |name: &String| name.contains("backbone.") || name.ends_with("mask_token");
    let (before, heads) = all.partition(|(name, _)| is_before(name));
    [before, heads]
}

/// Neither gradient, weight decay nor average moves a backbone; the heads move as they would otherwise.
pub fn a_frozen_backbone_keeps_its_bits<B: TrainBackend>(device: &B::Device) {
    for micro_batch_size in [None, Some(1)] {
        let new = || trainer::<B>(OptimizerConfig::default(), micro_batch_size, device);
        let (mut frozen, mut free, input) = (new(), new(), input::<B>(device));
        let [before, heads_before] = weights(&frozen);
        let losses = [(&mut frozen, 3), (&mut free, 0)]
            .map(|(trainer, steps)| trainer.step(&input, &rates(steps, 0)).unwrap());
        let [found, expected] = losses.map(|losses| [losses.loss_cls, losses.loss_patch]);
        assert_close(&found, &expected.map(f64::from), 1e-5);
        let [[_, heads], [moved, expected]] = [&frozen, &free].map(weights);
        assert!(before.iter().all(|(name, values)| moved[name] != *values));
        for (name, found) in &heads {
            assert!(*found != heads_before[name], "{name} stays");
            let expected: Vec<f64> = expected[name].iter().map(|x| f64::from(*x)).collect();
            // Adam's first step is the rate, whatever the gradient: rounding may turn that of a gradient near 0
            let off = found.iter().zip(&expected);
            let off = off
                .filter(|(a, b)| (f64::from(**a) - **b).abs() > 1e-5)
                .count();
            assert!(
                off * 50 <= expected.len(),
                "{name}: {off} of {}",
                expected.len()
            );
        }
        for step in 1..3 {
            frozen.step(&input, &rates(3, step)).unwrap();
        }
        assert!(weights(&frozen)[0] == before, "a backbone moved");
        let moments = frozen.tensors().into_keys();
        let of_backbone =
            |name: &String| name.starts_with("optimizer.") && name.contains("backbone.");
        assert_eq!(moments.filter(of_backbone).count(), 0);
    }
}

/// AdamW's first step is the learning rate; were the steps before it counted, it would be up to three times that.
pub fn a_thawed_backbone_begins_at_its_first_step<B: TrainBackend>(device: &B::Device) {
    let config = OptimizerConfig {
        weight_decay: 0.0,
        ..OptimizerConfig::default()
    };
    let (mut trainer, input) = (trainer::<B>(config, None, device), input::<B>(device));
    for step in 0..4 {
        trainer.step(&input, &rates(4, step)).unwrap();
    }
    let [before, heads] = weights(&trainer);
    trainer.step(&input, &rates(4, 4)).unwrap();
    let [after, heads_after] = weights(&trainer);
    let moved = largest_change(&before, &after, "");
    assert!((moved / RATE - 1.0).abs() < 0.01, "{moved}");
    assert!(largest_change(&heads, &heads_after, "") > 0.0);
}

/// The same of prototypes, beside a backbone that was frozen for another time.
pub fn thawed_prototypes_begin_at_their_first_step<B: TrainBackend>(device: &B::Device) {
    let config = OptimizerConfig {
        weight_decay: 0.0,
        ..OptimizerConfig::default()
    };
    let rates = |step: usize| Rates {
        freeze_prototypes: step < 5,
        frozen_prototype_steps: step.min(5),
        ..rates(2, step)
    };
    let (mut trainer, input) = (trainer::<B>(config, None, device), input::<B>(device));
    for step in 0..5 {
        let [_, before] = weights(&trainer);
        trainer.step(&input, &rates(step)).unwrap();
        let [_, after] = weights(&trainer);
        assert_eq!(largest_change(&before, &after, "prototypes."), 0.0);
    }
    let [_, before] = weights(&trainer);
    trainer.step(&input, &rates(5)).unwrap();
    let [_, after] = weights(&trainer);
    let moved = largest_change(&before, &after, "prototypes.");
    assert!((moved / RATE - 1.0).abs() < 0.01, "{moved}");
}

/// The largest change of a student's weight whose name has this part.
fn largest_change(before: &Found, after: &Found, part: &str) -> f64 {
    let students = before
        .iter()
        .filter(|(name, _)| name.starts_with("student.") && name.contains(part));
    let changes = students.flat_map(|(name, old)| old.iter().zip(&after[name]));
    changes.fold(0.0f64, |max, (old, new)| {
        max.max(f64::from(new - old).abs())
    })
}

/// From a checkpoint amid the frozen steps, of their end, and after it, a run goes on bit for bit.
pub fn frozen_runs_resume<B: TrainBackend>(device: &B::Device) {
    let input = input::<B>(device);
    let new = || trainer::<B>(OptimizerConfig::default(), None, device);
    let mut undisturbed = new();
    let mut states = Vec::new();
    for step in 0..5 {
        states.push(undisturbed.tensors());
        undisturbed.step(&input, &rates(2, step)).unwrap();
    }
    for (from, state) in states.into_iter().enumerate().skip(1) {
        let mut resumed = new();
        resumed.restore(from, state, Path::new("state")).unwrap();
        for step in from..5 {
            resumed.step(&input, &rates(2, step)).unwrap();
        }
        assert!(
            resumed.tensors() == undisturbed.tensors(),
            "from step {from}"
        );
    }
}
