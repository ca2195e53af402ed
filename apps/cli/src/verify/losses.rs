//! Targets and losses, forward and backward.

use ibot::burn::tensor::Tensor;

use super::check::{Check, Run};
use super::compare::Measured;
use super::inputs::{BAR, Inner, gradient_of, missing, tensor, with_gradients};
use ibot::error::Result;
use ibot::kernels::{
    CrossEntropyInput, IbotBackend, Logits, Pairing, TargetPotentials, TiledInput, TiledTargets,
    TrainBackend,
};

/// More rows than one slab of the column sums, and prototypes that vectors of 4 do and do not divide.
const VECTORS: [usize; 2] = [130, 1024];
const SINGLES: [usize; 2] = [131, 1031];
/// The prototypes of the reference's class tokens.
const LONG_ROWS: [usize; 2] = [12, 65_536];
/// A workgroup a row: more of them than the 65 535 that one side of a grid may have.
const MANY_ROWS: [usize; 2] = [70_001, 8];

pub(super) fn checks<B: TrainBackend>() -> Vec<Check<B>> {
    let all: [(&'static str, Run<B>); 9] = [
        ("Sinkhorn targets, vectors", |device| {
            targets::<B>(VECTORS, false, device)
        }),
        ("Sinkhorn targets, single entries", |device| {
            targets::<B>(SINGLES, false, device)
        }),
        ("centered targets", |device| {
            targets::<B>(SINGLES, true, device)
        }),
        ("patch loss, vectors", |device| {
            loss::<B>(VECTORS, Pairing::SameRow, device)
        }),
        ("patch loss, single entries", |device| {
            loss::<B>(SINGLES, Pairing::SameRow, device)
        }),
        ("cls loss over view pairs", |device| {
            loss::<B>([12, 4096], Pairing::OtherViews { images: 4 }, device)
        }),
        ("cls loss, 65 536 prototypes", |device| {
            loss::<B>(LONG_ROWS, Pairing::OtherViews { images: 4 }, device)
        }),
        ("patch loss, 70 001 rows", |device| {
            loss::<B>(MANY_ROWS, Pairing::SameRow, device)
        }),
        ("patch loss, tiled", tiled_loss::<B>),
    ];
    all.map(Check::new).into()
}

fn potentials<B: TrainBackend>(
    teacher: &Tensor<Inner<B>, 2>,
    centered: bool,
) -> TargetPotentials<Inner<B>> {
    if centered {
        let center = tensor(4, [teacher.dims()[1]], &teacher.device());
        return Inner::<B>::centered_potentials(teacher.clone(), Some(center), 0.07);
    }
    Inner::<B>::sinkhorn_potentials(teacher.clone(), 0.07, 3)
}

fn targets<B: TrainBackend>(
    shape: [usize; 2],
    centered: bool,
    device: &B::Device,
) -> Result<Vec<Measured>> {
    let teacher = tensor::<Inner<B>, 2>(3, shape, device);
    let targets = potentials::<B>(&teacher, centered).targets(teacher);
    Ok(vec![Measured::of("targets", targets, BAR)])
}

fn loss<B: TrainBackend>(
    [rows, prototypes]: [usize; 2],
    pairing: Pairing,
    device: &B::Device,
) -> Result<Vec<Measured>> {
    let teacher_rows = match pairing {
        Pairing::SameRow => rows,
        Pairing::OtherViews { images } => 2 * images,
    };
    let teacher = tensor::<Inner<B>, 2>(5, [teacher_rows, prototypes], device);
    let student = tensor::<B, 2>(6, [rows, prototypes], device).require_grad();
    let potentials = potentials::<B>(&teacher, false);
    let loss = B::cross_entropy(&CrossEntropyInput {
        student_logits: student.clone(),
        teacher_logits: Tensor::from_inner(teacher),
        potentials: TargetPotentials::from_inner(potentials),
        pairing,
        row_weights: Tensor::full([rows], 1.0 / rows as f64, device),
        student_temperature: 0.1,
    })
    .loss;
    let gradient = student.grad(&loss.backward());
    let gradient = gradient.ok_or_else(|| missing("the logits"))?;
    Ok(vec![
        Measured::of("loss", loss, BAR),
        Measured::of(gradient_of("the logits"), gradient, BAR),
    ])
}

/// The loss of logits that are never stored, and its gradients by rows and prototypes.
fn tiled_loss<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let [rows, prototypes] = SINGLES;
    let teacher = Logits {
        bottleneck: tensor::<Inner<B>, 2>(20, [rows, 16], device) / 4.0,
        prototypes: tensor(21, [16, prototypes], device),
    };
    let columns = 200; // five tiles and a rest
    let targets = TiledTargets::sinkhorn(teacher, columns, 0.07, 3);
    let unit = (tensor::<B, 2>(22, [rows, 16], device) / 4.0).require_grad();
    let weights = tensor::<B, 2>(23, [16, prototypes], device).require_grad();
    let loss = B::tiled_cross_entropy(&TiledInput {
        student: Logits {
            bottleneck: unit.clone(),
            prototypes: weights.clone(),
        },
        targets: TiledTargets::from_inner(targets),
        pairing: Pairing::SameRow,
        row_weights: Tensor::ones([rows], device),
        student_temperature: 0.1,
    })
    .loss;
    let leaves = [("rows", &unit), ("prototypes", &weights)];
    with_gradients(loss.unsqueeze_dim(1), &leaves)
}
