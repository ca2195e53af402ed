//! Target potentials and cross-entropy, against formulas in f64 on the host.

use burn::tensor::Tensor;
use ibot::kernels::{IbotBackend, Logits, Pairing, TiledTargets, TrainBackend};
use ibot::random::{Random, Stream};

use crate::loss_case::{Case, Inner, Outcome, STUDENT_TEMPERATURE, compare, error, tensor, wide};
use crate::{assert_close, host, values};

const ROWS: [usize; 6] = [0, 1, 2, 63, 65, 944];
const PROTOTYPES: [usize; 6] = [1, 3, 64, 257, 1031, 8192];

pub fn sizes<B: TrainBackend>(device: &B::Device) {
    for rows in ROWS {
        for prototypes in PROTOTYPES {
            let case = Case::random(1, rows, prototypes);
            compare(
                &format!("{rows} x {prototypes}"),
                &case.on_device::<B>(device),
                &case.on_host(),
                2e-5,
            );
        }
    }
}

/// Longer rows than lavapipe's loops have rounds for 8 lanes of 4 entries. The bar is that of NdArray, which adds two
/// million terms one after the other.
pub fn long_rows<B: TrainBackend>(device: &B::Device) {
    let case = Case::random(9, 2, 4 * 8 * 65_535 + 4);
    let found = case.on_device::<B>(device);
    compare("long rows", &found, &case.on_host(), 1e-3);
}

pub fn centered_targets<B: TrainBackend>(device: &B::Device) {
    for [rows, prototypes] in [[1, 1], [2, 3], [5, 64], [65, 257]] {
        let mut case = Case::random(2, rows, prototypes);
        case.center = Some(Random::new(3, 0, 0, Stream::Init).fill(prototypes, Random::normal));
        let name = format!("centered {rows} x {prototypes}");
        compare(&name, &case.on_device::<B>(device), &case.on_host(), 2e-5);
    }
}

/// Class tokens: each view with the others, more student views than teacher views, and no pair at all.
pub fn other_views<B: TrainBackend>(device: &B::Device) {
    for [student_views, teacher_views, images, prototypes] in [
        [2, 2, 3, 64],
        [5, 2, 1, 257],
        [10, 2, 4, 12],
        [1, 1, 2, 5],
        [2, 1, 3, 7],
        [3, 3, 2, 1031],
    ] {
        let mut case = Case::random(4, student_views * images, prototypes);
        case.teacher.truncate(teacher_views * images * prototypes);
        case.pairing = Pairing::OtherViews { images };
        case.center = Some(vec![0.25; prototypes]);
        let name = format!("{student_views} and {teacher_views} views of {images} x {prototypes}");
        compare(&name, &case.on_device::<B>(device), &case.on_host(), 2e-5);
    }
}

/// The gradient of the loss that the backend itself computes, by central differences of the same formula in f64.
pub fn finite_differences<B: TrainBackend>(device: &B::Device) {
    let step = 1e-6;
    for [rows, prototypes] in [[1, 4], [3, 5], [2, 9]] {
        let case = Case::random(5, rows, prototypes);
        let found = case.on_device::<B>(device);
        let targets = case.on_host().targets;
        let student = wide(&case.student);
        let differences: Vec<f64> = (0..student.len())
            .map(|at| {
                let loss = |step: f64| {
                    let mut student = student.clone();
                    student[at] += step;
                    let host = host::CrossEntropy {
                        student: &student,
                        targets: &targets,
                        weights: &wide(&case.weights),
                        prototypes,
                        pairing: case.pairing,
                        temperature: STUDENT_TEMPERATURE,
                    };
                    host.run().0
                };
                (loss(step) - loss(-step)) / (2.0 * step)
            })
            .collect();
        let error = error(&found.gradient, &differences, f64::MIN_POSITIVE);
        assert!(error < 1e-4, "{rows} x {prototypes}: {error}");
    }
}

/// `IBOT_FUZZ_SEED`, or another one each second.
pub fn fuzz_seed() -> u64 {
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = std::env::var("IBOT_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| start.unwrap().as_secs());
    println!("IBOT_FUZZ_SEED={seed}");
    seed
}

/// Random shapes with entries that break careless kernels: denormals, +-1e4, zeros of both signs, equal rows.
pub fn poison<B: TrainBackend>(device: &B::Device) {
    let seed = fuzz_seed();
    let mut random = Random::new(seed, 0, 0, Stream::Init);
    for round in 0..40 {
        let (rows, prototypes) = (1 + random.below(70), 1 + random.below(150));
        let kinds: &[f32] = match random.below(3) {
            0 => &[1e4, -1e4, 1e-40, -1e-40, 0.0, -0.0, 1.0],
            1 => &[1e-40, -1e-40, 1e-38, 0.0, -0.0],
            _ => &[1e4, -1e4],
        };
        let mut entries = |count: usize| -> Vec<f32> {
            let equal_rows = random.chance(0.3);
            let drawn: Vec<f32> = (0..count)
                .map(|_| kinds[random.below(kinds.len())])
                .collect();
            let from = |at: usize| if equal_rows { at % prototypes } else { at };
            (0..count).map(|at| drawn[from(at)]).collect()
        };
        let mut case = Case::random(seed, rows, prototypes);
        case.student = entries(rows * prototypes);
        case.teacher = entries(rows * prototypes);
        case.teacher_temperature = 0.04;
        if round % 2 == 0 {
            case.center = Some(entries(prototypes));
        }
        let name = format!("IBOT_FUZZ_SEED={seed}, round {round}, {rows} x {prototypes}");
        compare(&name, &case.on_device::<B>(device), &case.on_host(), 1e-4);
    }
}

/// Transposed logits, rows in the middle of a larger tensor, and student and teacher as slices of one tensor.
pub fn views_of_other_tensors<B: TrainBackend>(device: &B::Device) {
    for [rows, prototypes] in [[5, 12], [16, 64], [3, 7]] {
        let case = Case::random(6, rows, prototypes);
        let expected = case.on_host();
        let both: Vec<f32> = case.teacher.iter().chain(&case.student).copied().collect();
        let both = tensor::<Inner<B>>(&both, prototypes, device);
        let part = |first: usize| both.clone().narrow(0, first, rows);
        let student = Tensor::from_inner(part(rows)).require_grad();
        let found = case.through::<B>(student, part(0));
        compare(
            &format!("slices of {rows} x {prototypes}"),
            &found,
            &expected,
            2e-5,
        );
        let turned = |values: &[f32]| {
            let upright = tensor::<Inner<B>>(values, prototypes, device);
            let [columns, rows] = [prototypes, rows];
            // stored column by column, read row by row
            let data = values_of_transpose(&values_f32(upright), rows, columns);
            tensor::<Inner<B>>(&data, rows, device).transpose()
        };
        let student = Tensor::from_inner(turned(&case.student)).require_grad();
        let found = case.through::<B>(student, turned(&case.teacher));
        compare(
            &format!("transposed {rows} x {prototypes}"),
            &found,
            &expected,
            2e-5,
        );
        // the larger tensor is as it was
        let whole = values(both);
        assert_eq!(whole[..rows * prototypes], case.teacher);
        assert_eq!(whole[rows * prototypes..], case.student);
    }
}

fn values_f32<B: IbotBackend>(tensor: Tensor<B, 2>) -> Vec<f32> {
    values(tensor)
}

fn values_of_transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns)
        .map(|at| values[at % rows * columns + at / rows])
        .collect()
}

/// Student and teacher logits are one tensor, still held by the caller: it must not change.
pub fn shared_logits_stay<B: TrainBackend>(device: &B::Device) {
    let mut case = Case::random(7, 9, 20);
    case.student = case.teacher.clone();
    let held = tensor::<Inner<B>>(&case.teacher, 20, device);
    let student = Tensor::from_inner(held.clone()).require_grad();
    let found = case.through::<B>(student, held.clone());
    compare("one tensor twice", &found, &case.on_host(), 2e-5);
    assert_eq!(values(held), case.teacher);
}

/// Two runs give the same bits.
pub fn same_bits<B: TrainBackend>(device: &B::Device) {
    for prototypes in [64, 257] {
        let case = Case::random(8, 300, prototypes);
        let bits = |outcome: Outcome| (outcome.loss.to_bits(), outcome.gradient, outcome.targets);
        let first = bits(case.on_device::<B>(device));
        assert!(
            first == bits(case.on_device::<B>(device)),
            "two runs differ"
        );
    }
}

/// Logits of 1e4 over a temperature of 0.01: f32 runs out of room.
pub fn extreme_logits<B: TrainBackend>(device: &B::Device) {
    let mut random = Random::new(1, 0, 0, Stream::Init);
    let uniform = random.fill(15 * 23, |r| r.uniform(-1e4, 1e4));
    targets_only::<B>(uniform, 23, 0.01, 1e-4, device);
    // far apart from row to row, close within a row: a single potential in f32 would be off by percents
    let close =
        (0..12 * 7).map(|at| ((at / 7) as f32 - 6.0) * 1.5e3 + random.uniform(0.0, 0.05) as f32);
    targets_only::<B>(close.collect(), 7, 0.01, 2e-2, device);
}

/// Equal entries of +-1e4: their targets are simple fractions, and must be exact to rounding.
pub fn ties<B: TrainBackend>(device: &B::Device) {
    let signs = [
        1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0,
    ];
    targets_only::<B>(signs.map(|sign| sign * 1e4).to_vec(), 3, 0.01, 1e-5, device);
}

#[track_caller]
fn targets_only<B: TrainBackend>(
    logits: Vec<f32>,
    prototypes: usize,
    temperature: f64,
    tolerance: f64,
    device: &B::Device,
) {
    let expected = host::sinkhorn(&logits, prototypes, temperature, 3);
    let logits = tensor::<Inner<B>>(&logits, prototypes, device);
    let potentials = Inner::<B>::sinkhorn_potentials(logits.clone(), temperature, 3);
    assert_close(&values(potentials.targets(logits)), &expected, tolerance);
}

/// Without the factors 1/K and 1/M the logs of the rows grow by ln(K / M) in each iteration, here to 175: more than `exp` of f32 can take.
pub fn many_iterations<B: TrainBackend>(device: &B::Device) {
    let (rows, prototypes, temperature, iterations) = (4, 320, 0.07, 40);
    let logits = Case::random(11, rows, prototypes).teacher;
    let expected = host::sinkhorn(&logits, prototypes, temperature, iterations);
    let whole = tensor::<Inner<B>>(&logits, prototypes, device);
    let found = Inner::<B>::sinkhorn_potentials(whole.clone(), temperature, iterations);
    assert_close(&values(found.targets(whole.clone())), &expected, 1e-4);
    // as a product of one and the logits, in tiles
    let logits = Logits {
        bottleneck: Tensor::eye(rows, device),
        prototypes: whole.clone(),
    };
    let tiled = TiledTargets::sinkhorn(logits, 64, temperature, iterations);
    assert_close(&values(tiled.potentials.targets(whole)), &expected, 1e-4);
}
