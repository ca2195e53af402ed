//! Each operation of the kernels, forward and backward, at sizes that are no multiple of anything.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData, TensorMetadata};

use super::{Check, Run};
use crate::error::{Error, Result};
use crate::kernels::{
    AdamWInput, AdamWState, AttentionInput, CrossEntropyInput, IbotBackend, LayerNormInput,
    Pairing, StreamedInput, StreamedLogits, StreamedTargets, TargetPotentials, TrainBackend, wrap,
};
use crate::random::{Random, Stream};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// What f32 sums of a few thousand terms may differ by.
const BAR: f64 = 1e-4;
/// More rows than one slab of the column sums, and prototypes that vectors of 4 do and do not divide.
const VECTORS: [usize; 2] = [130, 1024];
const SINGLES: [usize; 2] = [131, 1031];

pub(super) fn checks<B: TrainBackend>() -> Vec<Check<B>> {
    let all: [(&'static str, Run<B>); 17] = [
        ("matrix product", matrix_product::<B>),
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
        ("patch loss, streamed", streamed_loss::<B>),
        ("moving average of 40 tensors", moving_average::<B>),
        ("AdamW", adamw::<B>),
        ("sum of squares", sum_of_squares::<B>),
        ("patches of images", patchify::<B>),
        ("GELU", gelu::<B>),
        ("layer norm", layer_norm::<B>),
        ("attention", attention::<B>),
        ("softmax of rows", softmax::<B>),
        ("gather and scatter of rows", select::<B>),
    ];
    let check = |(name, run)| Check {
        name,
        bar: BAR,
        run,
    };
    all.map(check).into()
}

fn draw(stream: u64, count: usize) -> Vec<f32> {
    Random::new(stream, 3, 0, Stream::Init).fill(count, Random::normal)
}

/// Numbers of a normal distribution, the same on every backend.
fn tensor<B: IbotBackend, const D: usize>(
    stream: u64,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    let values = draw(stream, shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn numbers<B: IbotBackend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// `y`, and the gradients of a weighted sum of it by `leaves`.
fn with_gradients<B: TrainBackend, const D: usize>(
    y: Tensor<B, 2>,
    leaves: &[&Tensor<B, D>],
) -> Result<Vec<f32>> {
    let weights = tensor::<B, 2>(99, y.dims(), &y.device());
    let grads = (y.clone() * weights).sum_dim(1).sum_dim(0).backward();
    let mut all = numbers(y);
    for leaf in leaves {
        let gradient = leaf.grad(&grads);
        let gradient = gradient.ok_or_else(|| Error::Device("a gradient is missing".into()))?;
        all.extend(numbers(gradient));
    }
    Ok(all)
}

fn matrix_product<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let a = tensor::<B, 2>(1, [65, 129], device).require_grad();
    let b = tensor::<B, 2>(2, [129, 47], device).require_grad();
    with_gradients(a.clone().matmul(b.clone()), &[&a, &b])
}

fn potentials<B: TrainBackend>(
    teacher: &Tensor<Inner<B>, 2>,
    centered: bool,
) -> TargetPotentials<Inner<B>> {
    let parts = std::slice::from_ref(teacher);
    if centered {
        let center = tensor(4, [teacher.dims()[1]], &teacher.device());
        return Inner::<B>::centered_potentials(parts, Some(center), 0.07);
    }
    Inner::<B>::sinkhorn_potentials(parts, 0.07, 3)
}

fn targets<B: TrainBackend>(
    shape: [usize; 2],
    centered: bool,
    device: &B::Device,
) -> Result<Vec<f32>> {
    let teacher = tensor::<Inner<B>, 2>(3, shape, device);
    Ok(numbers(
        potentials::<B>(&teacher, centered).targets(teacher),
    ))
}

/// The loss, and its gradient times the number of rows.
fn loss<B: TrainBackend>(
    [rows, prototypes]: [usize; 2],
    pairing: Pairing,
    device: &B::Device,
) -> Result<Vec<f32>> {
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
    let gradient = gradient.ok_or_else(|| Error::Device("a gradient is missing".into()))?;
    let mut all = numbers(gradient * rows as f64);
    all.extend(numbers(loss));
    Ok(all)
}

/// The loss of logits that are never stored, and its gradients by rows and prototypes.
fn streamed_loss<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let [rows, prototypes] = SINGLES;
    let teacher = StreamedLogits {
        unit: tensor::<Inner<B>, 2>(20, [rows, 16], device) / 4.0,
        prototypes: tensor(21, [16, prototypes], device),
    };
    let columns = 200; // five tiles and a rest
    let targets = StreamedTargets::sinkhorn(teacher, columns, 0.07, 3);
    let unit = (tensor::<B, 2>(22, [rows, 16], device) / 4.0).require_grad();
    let weights = tensor::<B, 2>(23, [16, prototypes], device).require_grad();
    let loss = B::streamed_cross_entropy(&StreamedInput {
        student: StreamedLogits {
            unit: unit.clone(),
            prototypes: weights.clone(),
        },
        targets: StreamedTargets::from_inner(targets),
        pairing: Pairing::SameRow,
        row_weights: Tensor::ones([rows], device),
        student_temperature: 0.1,
    })
    .loss;
    with_gradients(loss.unsqueeze_dim(1), &[&unit, &weights])
}

fn moving_average<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let side = |first: u64| {
        let sizes = [1usize, 4, 7, 1025, 4096];
        let tensors = (0..40).map(|at| {
            let shape = [sizes[at as usize % sizes.len()]];
            tensor::<Inner<B>, 1>(first + at, shape, device)
        });
        tensors.map(|t| t.into_primitive().tensor()).collect()
    };
    let averaged = Inner::<B>::ema(side(100), side(200), 0.9);
    Ok(averaged
        .into_iter()
        .flat_map(|t| numbers(wrap::<Inner<B>, 1>(t)))
        .collect())
}

fn adamw<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let primitive = |stream| {
        let tensor = tensor::<Inner<B>, 1>(stream, [1031], device);
        tensor.into_primitive().tensor()
    };
    let mut param = primitive(7);
    let mut state = AdamWState::zeros(param.shape(), device);
    for step in 1..=3 {
        (param, state) = Inner::<B>::adamw(AdamWInput {
            param,
            grad: primitive(7 + step as u64),
            state,
            gradient_scale: 0.5,
            learning_rate: 0.01,
            weight_decay: 0.1,
            betas: [0.9, 0.999],
            eps: 1e-8,
            step,
        });
    }
    Ok(numbers(wrap::<Inner<B>, 1>(param)))
}

fn sum_of_squares<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let tensors = [1, 20_000, 7].map(|size| {
        let tensor = tensor::<Inner<B>, 1>(11, [size], device);
        tensor.into_primitive().tensor()
    });
    Ok(numbers(Inner::<B>::sum_of_squares(tensors.into(), device)))
}

fn patchify<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let images = tensor::<B, 4>(12, [2, 3, 12, 12], device).require_grad();
    with_gradients(B::patchify(images.clone(), 4), &[&images])
}

fn gelu<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let x = tensor::<B, 2>(13, [67, 33], device).require_grad();
    with_gradients(B::exact_gelu(x.clone() * 3.0), &[&x])
}

fn layer_norm<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let x = tensor::<B, 2>(14, [67, 96], device).require_grad();
    let y = B::layer_norm_rows(LayerNormInput {
        x: x.clone(),
        weight: tensor(15, [96], device),
        bias: tensor(16, [96], device),
        eps: 1e-6,
    });
    with_gradients(y, &[&x])
}

fn attention<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let qkv = tensor::<B, 2>(17, [2 * 17, 3 * 24], device).require_grad();
    let output = B::packed_attention(AttentionInput {
        qkv: qkv.clone(),
        batch: 2,
        heads: 3,
    });
    with_gradients(output.mixed, &[&qkv])
}

fn softmax<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    Ok(numbers(B::softmax_rows(
        tensor(18, [67, 197], device),
        0.125,
    )))
}

fn select<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let x = tensor::<B, 2>(19, [50, 33], device).require_grad();
    let rows = Tensor::from_ints([3, 49, 0, 7, 7], device);
    with_gradients(x.clone().select(0, rows), &[&x])
}
