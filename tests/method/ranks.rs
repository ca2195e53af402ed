//! Ranks that train together, as threads of this process: the weights of one rank, bit for bit on Flex.

use std::sync::Arc;
use std::thread;

use burn::tensor::backend::BackendTypes;
use burn::tensor::{Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use ibot::collective::{Collective, LocalRanks, SingleProcess, Wire};
use ibot::device::DeviceGuard;
use ibot::method::{IbotConfig, PatchWeight, StreamingPrototypes, TargetKind};
use ibot::precision::Precision;
use ibot::random::{Random, Stream};
use ibot::train::{OptimizerConfig, OptimizerKind, Rates, StepInput, Tensors, TrainerConfig};

use crate::parts::all_losses;
use crate::suite::Check;
use crate::tiny;

type B = Autodiff<Flex>;

pub const CHECKS: &[(&str, Check<B>)] = &[
    ("ranks train alike", train_alike),
    ("ranks exchange halves", exchange_halves),
];

/// Images of a batch.
const BATCH: usize = 8;
const STEPS: u64 = 5;
/// Patches of a view.
const PATCHES: usize = 4;

/// What is trained.
#[derive(Clone)]
struct Case {
    name: &'static str,
    method: IbotConfig,
    optimizer: OptimizerConfig,
    local_views: usize,
    precision: Precision,
    wire: Wire,
    /// Images without a masked patch, from the first on.
    unmasked: usize,
}

/// Losses of the last step, and all tensors.
#[derive(Debug, PartialEq)]
struct Trained {
    losses: String,
    tensors: Vec<(String, Vec<u32>)>,
}

fn of_bits(tensors: Tensors) -> Vec<(String, Vec<u32>)> {
    let named = tensors.into_iter();
    named
        .map(|(name, tensor)| {
            let bits = tensor.values.iter().map(|value| value.to_bits());
            (name, bits.collect())
        })
        .collect()
}

/// Images `from..to` of a batch.
fn share(case: &Case, step: u64, from: usize, to: usize) -> StepInput<B> {
    let mut random = Random::new(7, step, 0, Stream::View(0));
    let mut views = |count: usize, side: usize| -> Vec<Tensor<Flex, 4>> {
        let mut view = || {
            let pixels = random.fill(BATCH * 3 * side * side, Random::normal);
            let data = TensorData::new(pixels, [BATCH, 3, side, side]);
            Tensor::from_data(data, &Default::default()).narrow(0, from, to - from)
        };
        (0..count).map(|_| view()).collect()
    };
    let [global_views, local_views] = [views(2, 16), views(case.local_views, 8)];
    let is_masked = |patch: usize| (patch * 7 + patch / 9 + step as usize) % 5 < 2;
    let of_view = |view: usize| {
        (from..to).flat_map(move |image| {
            let patches = (view * BATCH + image) * PATCHES..(view * BATCH + image + 1) * PATCHES;
            patches.map(move |patch| image >= case.unmasked && is_masked(patch))
        })
    };
    StepInput {
        global_views,
        local_views,
        masks: (0..2).flat_map(of_view).collect(),
    }
}

/// One rank of a run.
fn train(case: &Case, micro_batch_size: Option<usize>, collective: Arc<dyn Collective>) -> Trained {
    let device = Default::default();
    let (rank, ranks) = (collective.rank(), collective.size());
    let config = TrainerConfig {
        optimizer: case.optimizer.clone(),
        micro_batch_size,
        precision: case.precision,
        wire: case.wire,
        collective,
        ..TrainerConfig::default()
    };
    let method = case.method.init::<B>(3, &device).unwrap();
    let mut trainer = config.init(method, device, DeviceGuard::Cpu);
    let rates = Rates {
        learning_rate: 1e-2,
        temperature_teacher: 0.06,
        temperature_teacher_patch: Some(0.08),
        ema_decay: 0.9,
        ..Rates::default()
    };
    let mut losses = String::new();
    for step in 0..STEPS {
        let input = share(case, step, rank * BATCH / ranks, (rank + 1) * BATCH / ranks);
        losses = format!("{:?}", trainer.step(&input, &rates).unwrap());
    }
    Trained {
        losses,
        tensors: of_bits(trainer.tensors()),
    }
}

/// All ranks of a run.
fn train_on(case: &Case, ranks: usize, micro_batch_size: usize) -> Vec<Trained> {
    let ranks = LocalRanks::group(ranks).into_iter().map(|rank| {
        let case = case.clone();
        thread::spawn(move || train(&case, Some(micro_batch_size), Arc::new(rank)))
    });
    let ranks: Vec<_> = ranks.collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

fn cases() -> Vec<Case> {
    let plain = Case {
        name: "global views",
        method: tiny(),
        // gradients near 0 have a sign by rounding alone; a larger eps than Adam's keeps it out of the weights
        optimizer: OptimizerConfig {
            eps: 1e-2,
            ..OptimizerConfig::default()
        },
        local_views: 0,
        precision: Precision::F32,
        wire: Wire::F32,
        unmasked: 0,
    };
    let all = |targets, weight| Case {
        method: all_losses(targets, weight),
        local_views: 2,
        ..plain.clone()
    };
    let sinkhorn = all(TargetKind::Sinkhorn, PatchWeight::Image);
    let centering = all(TargetKind::Centering, PatchWeight::Patch);
    let with = |case: &Case, name, change: &dyn Fn(&mut Case)| {
        let mut case = Case {
            name,
            ..case.clone()
        };
        change(&mut case);
        case
    };
    vec![
        plain.clone(),
        with(&plain, "local views", &|case| case.local_views = 3),
        with(&plain, "KoLeo", &|case| case.method.koleo_weight = 0.1),
        with(&sinkhorn, "all losses, Sinkhorn", &|_| {}),
        with(&centering, "all losses, centering", &|_| {}),
        with(&sinkhorn, "tiles", &|case| {
            case.method.streaming_prototypes = StreamingPrototypes::Always;
        }),
        with(&centering, "shared head, tiles", &|case| {
            case.method.shared_head = true;
            case.method.streaming_prototypes = StreamingPrototypes::Always;
        }),
        with(&sinkhorn, "clipped SGD", &|case| {
            case.optimizer.name = OptimizerKind::Sgd;
            case.optimizer.clip_gradient_norm = Some(0.1);
        }),
        // of 2, 3 and 4 ranks, one at least has no masked patch; of 4 parts, one or two
        with(&sinkhorn, "a rank without masks", &|case| case.unmasked = 4),
        with(&sinkhorn, "a part without masks", &|case| case.unmasked = 2),
        with(&centering, "a center of three parts", &|case| {
            case.unmasked = 2;
        }),
        with(&centering, "no masks", &|case| case.unmasked = BATCH),
        with(&plain, "f16", &|case| case.precision = Precision::F16),
    ]
}

/// 1, 2 and 4 ranks with the batch in 4 parts, and 3 ranks with it in 3, have the same bits on each rank; those of the
/// undivided batch but for rounding.
fn train_alike(_: &<B as BackendTypes>::Device) {
    for case in &cases() {
        for (micro_batch_size, ranks) in [(2, &[2, 4][..]), (3, &[3])] {
            let alone = train(case, Some(micro_batch_size), Arc::new(SingleProcess));
            for ranks in ranks {
                for (rank, found) in train_on(case, *ranks, micro_batch_size).iter().enumerate() {
                    let name = case.name;
                    assert_eq!(found.losses, alone.losses, "{name}, {ranks} ranks");
                    let pairs = found.tensors.iter().zip(&alone.tensors);
                    let mut differ = pairs.filter(|(found, alone)| found != alone);
                    let differs = differ.next().map(|(found, _)| &found.0);
                    assert_eq!(differs, None, "{name}, rank {rank} of {ranks}");
                    assert_eq!(found.tensors.len(), alone.tensors.len());
                }
            }
            if case.precision == Precision::F32 {
                let undivided = train(case, None, Arc::new(SingleProcess));
                is_close(case.name, &alone, &undivided, 1e-5);
            }
        }
    }
}

/// Gradients that travel in half the bytes are those of all ranks alike, rounded to 11 bits.
fn exchange_halves(_: &<B as BackendTypes>::Device) {
    let mut case = cases().swap_remove(3);
    let alone = train(&case, Some(4), Arc::new(SingleProcess));
    case.wire = Wire::F16;
    let ranks = train_on(&case, 2, 4);
    assert!(ranks[0] == ranks[1]);
    assert!(ranks[0] != alone, "nothing was rounded");
    is_close(case.name, &ranks[0], &alone, 1e-3);
}

#[track_caller]
fn is_close(name: &str, found: &Trained, expected: &Trained, tolerance: f32) {
    for ((tensor, found), (_, expected)) in found.tensors.iter().zip(&expected.tensors) {
        for pair in found.iter().zip(expected) {
            let (found, expected) = (f32::from_bits(*pair.0), f32::from_bits(*pair.1));
            let error = (found - expected).abs();
            assert!(
                error <= tolerance * expected.abs().max(1.0),
                "{name}, {tensor}: {found}, not {expected}"
            );
        }
    }
}
