//! Each operation of the kernels, forward and backward, at sizes that are no multiple of anything.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData, TensorMetadata};

use super::{Check, Run};
use crate::error::{Error, Result};
use crate::kernels::{
    AdamWInput, AdamWState, AdamWTensor, AttentionInput, Before, CrossEntropyInput, IbotBackend,
    LayerNormInput, LinearInput, Pairing, StepScaleInput, StreamedInput, StreamedLogits,
    StreamedTargets, TargetPotentials, TrainBackend, wrap,
};
use crate::random::{Random, Stream};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// What f32 sums of a few thousand terms may differ by.
const BAR: f64 = 1e-4;
/// More rows than one slab of the column sums, and prototypes that vectors of 4 do and do not divide.
const VECTORS: [usize; 2] = [130, 1024];
const SINGLES: [usize; 2] = [131, 1031];
/// Widths of layers: multiples of 4, and none.
const EVEN_WIDTHS: [usize; 2] = [96, 52];
const ODD_WIDTHS: [usize; 2] = [33, 49];

pub(super) fn checks<B: TrainBackend>() -> Vec<Check<B>> {
    let all: [(&'static str, Run<B>); 25] = [
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
        ("AdamW of 40 tensors", adamw::<B>),
        ("sum of squares", sum_of_squares::<B>),
        ("scale of a step", step_scale::<B>),
        ("patches of images", patchify::<B>),
        ("GELU, vectors", |device| gelu::<B>(EVEN_WIDTHS[0], device)),
        ("GELU, single entries", |device| {
            gelu::<B>(ODD_WIDTHS[0], device)
        }),
        ("layer norm, vectors", |device| {
            layer_norm::<B>(EVEN_WIDTHS[0], device)
        }),
        ("layer norm, single entries", |device| {
            layer_norm::<B>(ODD_WIDTHS[0], device)
        }),
        ("attention, vectors", |device| attention::<B>(8, device)),
        ("attention, single entries", |device| {
            attention::<B>(7, device)
        }),
        ("attention, large scores", large_scores::<B>),
        ("linear layer after a norm, with a residual", |device| {
            linear_layer::<B>(EVEN_WIDTHS, true, device)
        }),
        ("linear layer after GELU", |device| {
            linear_layer::<B>(EVEN_WIDTHS, false, device)
        }),
        ("linear layer, odd widths", |device| {
            linear_layer::<B>(ODD_WIDTHS, true, device)
        }),
        ("linear layer after GELU, odd widths", |device| {
            linear_layer::<B>(ODD_WIDTHS, false, device)
        }),
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
    let averaged = Inner::<B>::ema(side(100), side(200), 0.9, None);
    Ok(averaged
        .into_iter()
        .flat_map(|t| numbers(wrap::<Inner<B>, 1>(t)))
        .collect())
}

/// Three steps of 40 tensors, clipped.
fn adamw<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let sizes = [1usize, 4, 7, 1025, 4096];
    let side = |first: u64| {
        let tensors = (0..40).map(move |at| {
            let shape = [sizes[at as usize % sizes.len()]];
            tensor::<Inner<B>, 1>(first + at, shape, device)
        });
        tensors.map(|t| t.into_primitive().tensor())
    };
    let zeros = |param: FloatTensor<Inner<B>>| {
        let state = AdamWState::zeros(param.shape(), device);
        (param, state)
    };
    let mut moved: Vec<_> = side(300).map(zeros).collect();
    for step in 1..=3 {
        let tensors = moved.into_iter().zip(side(300 + 100 * step as u64));
        let tensors = tensors.map(|((param, state), grad)| AdamWTensor {
            param,
            grad,
            state,
            learning_rate: 0.01,
            weight_decay: 0.1,
        });
        moved = Inner::<B>::adamw(AdamWInput {
            tensors: tensors.collect(),
            gradient_scale: Some(Tensor::full([1], 0.5, device)),
            betas: [0.9, 0.999],
            eps: 1e-8,
            step,
        });
    }
    let params = moved.into_iter();
    Ok(params
        .flat_map(|(param, _)| numbers(wrap::<Inner<B>, 1>(param)))
        .collect())
}

fn sum_of_squares<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let tensors = [1, 20_000, 7].map(|size| {
        let tensor = tensor::<Inner<B>, 1>(11, [size], device);
        tensor.into_primitive().tensor()
    });
    Ok(numbers(Inner::<B>::sum_of_squares(tensors.into(), device)))
}

/// A step that is clipped, one whose loss is not finite, and one after it.
fn step_scale<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let mut before = None;
    let mut all = Vec::new();
    for (loss, squared_norm) in [(2.5, 16.0), (f32::NAN, 1.0), (3.5, 1.0)] {
        let scalars = [loss, squared_norm].map(|value| Tensor::from_floats([value], device));
        let found = Inner::<B>::step_scale(StepScaleInput {
            scalars: scalars.into(),
            largest_norm: Some(3.0),
            before,
        });
        // what is not finite is no number to compare
        let finite = numbers(found.scalars).into_iter().filter(|x| x.is_finite());
        all.extend(finite);
        all.extend(numbers(found.scale.clone()));
        before = Some(found.scale);
    }
    Ok(all)
}

fn patchify<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let images = tensor::<B, 4>(12, [2, 3, 12, 12], device).require_grad();
    with_gradients(B::patchify(images.clone(), 4), &[&images])
}

fn gelu<B: TrainBackend>(width: usize, device: &B::Device) -> Result<Vec<f32>> {
    let x = tensor::<B, 2>(13, [67, width], device).require_grad();
    with_gradients(B::exact_gelu(x.clone() * 3.0), &[&x])
}

fn layer_norm<B: TrainBackend>(width: usize, device: &B::Device) -> Result<Vec<f32>> {
    let x = tensor::<B, 2>(14, [67, width], device).require_grad();
    let weight = tensor::<B, 1>(15, [width], device).require_grad();
    let input = LayerNormInput {
        x: x.clone(),
        weight: weight.clone(),
        bias: tensor(16, [width], device),
        eps: 1e-6,
    };
    let mut all = with_gradients(B::layer_norm_rows(input.clone()), &[&x])?;
    all.extend(with_gradients(B::layer_norm_rows(input), &[&weight])?);
    Ok(all)
}

fn attention<B: TrainBackend>(head_width: usize, device: &B::Device) -> Result<Vec<f32>> {
    attention_of::<B>(tensor(17, [2 * 17, 3 * 3 * head_width], device))
}

/// Scores of hundreds, whose exponentials do not fit f32.
fn large_scores<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    attention_of::<B>(tensor::<B, 2>(18, [2 * 17, 3 * 24], device) * 10.0)
}

fn attention_of<B: TrainBackend>(qkv: Tensor<B, 2>) -> Result<Vec<f32>> {
    let qkv = qkv.require_grad();
    let output = B::packed_attention(AttentionInput {
        qkv: qkv.clone(),
        batch: 2,
        heads: 3,
    });
    with_gradients(output.mixed, &[&qkv])
}

fn linear_layer<B: TrainBackend>(
    [inputs, outputs]: [usize; 2],
    norm: bool,
    device: &B::Device,
) -> Result<Vec<f32>> {
    let x = tensor::<B, 2>(20, [67, inputs], device).require_grad();
    let weight = tensor::<B, 2>(21, [inputs, outputs], device).require_grad();
    let residual = tensor::<B, 2>(24, [67, outputs], device).require_grad();
    let before = match norm {
        true => Before::LayerNorm {
            weight: tensor(22, [inputs], device),
            bias: tensor(23, [inputs], device),
            eps: 1e-6,
        },
        false => Before::Gelu,
    };
    let y = B::linear_layer(LinearInput {
        x: x.clone(),
        before,
        weight: weight.clone(),
        bias: Some(tensor(25, [outputs], device)),
        residual: norm.then(|| residual.clone()),
    });
    let mut leaves = vec![&x, &weight];
    leaves.extend(norm.then_some(&residual));
    with_gradients(y, &leaves)
}

fn select<B: TrainBackend>(device: &B::Device) -> Result<Vec<f32>> {
    let x = tensor::<B, 2>(19, [50, 33], device).require_grad();
    let rows = Tensor::from_ints([3, 49, 0, 7, 7], device);
    with_gradients(x.clone().select(0, rows), &[&x])
}
