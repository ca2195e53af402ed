//! The layers' operations, forward and backward, at sizes that are no multiple of anything.

use ibot::burn::tensor::{DType, Tensor};

use super::check::{Check, Run};
use super::compare::Measured;
use super::inputs::{BAR, gradient_of, missing, tensor, tokens, with_gradients};
use ibot::error::Result;
use ibot::kernels::{
    AttentionInput, LayerNormInput, LevelScale, LevelsInput, LinearLayerInput, Prologue,
    TrainBackend,
};
use ibot::precision::Precision;

/// Widths of layers: multiples of 4, and none.
const EVEN_WIDTHS: [usize; 2] = [96, 52];
const ODD_WIDTHS: [usize; 2] = [33, 49];

/// A score of 300 is rounded to 1.5e-5, and its exponential off by as much for that alone; two of them make a gradient.
const LARGE_SCORES_BAR: f64 = 5e-4;

pub(super) fn checks<B: TrainBackend>() -> Vec<Check<B>> {
    let all: [(&'static str, Run<B>); 13] = [
        ("images from bytes", levels::<B>),
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
            linear_layer::<B>(67, EVEN_WIDTHS, true, device)
        }),
        ("linear layer after GELU", |device| {
            linear_layer::<B>(67, EVEN_WIDTHS, false, device)
        }),
        ("linear layer, odd widths", |device| {
            linear_layer::<B>(67, ODD_WIDTHS, true, device)
        }),
        ("linear layer after GELU, odd widths", |device| {
            linear_layer::<B>(67, ODD_WIDTHS, false, device)
        }),
    ];
    all.map(Check::new).into()
}

/// The same bits everywhere.
fn levels<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for (name, side) in [("whole words", 12), ("single levels", 11)] {
        let input = LevelsInput {
            levels: (0..2 * 3 * side * side)
                .map(|at| (at % 256) as u8)
                .collect(),
            dims: [2, 3, side, side],
            normalization: LevelScale::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        };
        all.push(Measured::of(name, B::upload_levels(input, device), 0.0));
    }
    Ok(all)
}

fn patchify<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let images = tensor::<B, 4>(12, [2, 3, 12, 12], device).require_grad();
    with_gradients(B::patchify(images.clone(), 4), &[("images", &images)])
}

fn gelu<B: TrainBackend>(width: usize, device: &B::Device) -> Result<Vec<Measured>> {
    let x = tensor::<B, 2>(13, [67, width], device).require_grad();
    let rows = tokens(&(x.clone() * 3.0));
    with_gradients(B::exact_gelu(rows), &[("input", &x)])
}

fn layer_norm<B: TrainBackend>(width: usize, device: &B::Device) -> Result<Vec<Measured>> {
    let x = tensor::<B, 2>(14, [67, width], device).require_grad();
    let weight = tensor::<B, 1>(15, [width], device).require_grad();
    let bias = tensor::<B, 1>(16, [width], device).require_grad();
    let input = LayerNormInput {
        x: tokens(&x),
        weight: weight.clone(),
        bias: bias.clone(),
        eps: 1e-6,
    };
    let mut all = with_gradients(B::layer_norm_rows(input.clone()), &[("input", &x)])?;
    let leaves = [("scale", &weight), ("shift", &bias)];
    let of_parameters = with_gradients(B::layer_norm_rows(input), &leaves)?;
    all.extend(of_parameters.into_iter().skip(1)); // without the result, which is there
    Ok(all)
}

fn attention<B: TrainBackend>(head_width: usize, device: &B::Device) -> Result<Vec<Measured>> {
    let qkv = tensor::<B, 2>(17, [2 * 17, 3 * 3 * head_width], device);
    attention_of(qkv, 2, 3)
}

/// Scores of hundreds, whose exponentials do not fit f32.
fn large_scores<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let qkv = tensor::<B, 2>(18, [2 * 17, 3 * 24], device) * 10.0;
    let mut all = attention_of(qkv, 2, 3)?;
    for measured in &mut all {
        measured.bar = LARGE_SCORES_BAR;
    }
    Ok(all)
}

/// The result, and the gradients of queries, keys and values, each on its own.
pub(super) fn attention_of<B: TrainBackend>(
    qkv: Tensor<B, 2>,
    batch: usize,
    heads: usize,
) -> Result<Vec<Measured>> {
    let qkv = B::rounded(qkv, Precision::current()).require_grad();
    let output = B::packed_attention(AttentionInput {
        qkv: tokens(&qkv),
        batch,
        heads,
        queries: None,
    });
    let context = output.context.cast(DType::F32);
    let weights = tensor::<B, 2>(99, context.dims(), &context.device());
    let grads = (context.clone() * weights).sum_dim(1).sum_dim(0).backward();
    let width = context.dims()[1];
    let d_qkv = qkv.grad(&grads).ok_or_else(|| missing("the input"))?;
    let mut all = vec![Measured::of("result", context, BAR)];
    for (at, name) in ["queries", "keys", "values"].into_iter().enumerate() {
        let part = d_qkv.clone().narrow(1, at * width, width);
        all.push(Measured::of(gradient_of(name), part, BAR));
    }
    Ok(all)
}

/// After a norm and with a residual, or after GELU; with a bias.
pub(super) fn linear_layer<B: TrainBackend>(
    rows: usize,
    [inputs, outputs]: [usize; 2],
    norm: bool,
    device: &B::Device,
) -> Result<Vec<Measured>> {
    let x = tensor::<B, 2>(20, [rows, inputs], device).require_grad();
    let weight = tensor::<B, 2>(21, [inputs, outputs], device).require_grad();
    let bias = tensor::<B, 1>(25, [outputs], device).require_grad();
    let residual = tensor::<B, 2>(24, [rows, outputs], device).require_grad();
    let [scale, shift] =
        [22, 23].map(|stream| tensor::<B, 1>(stream, [inputs], device).require_grad());
    let prologue = if norm {
        Prologue::LayerNorm {
            weight: scale.clone(),
            bias: shift.clone(),
            eps: 1e-6,
        }
    } else {
        Prologue::Gelu { ready: None }
    };
    let y = B::linear_layer(LinearLayerInput {
        x: tokens(&x),
        prologue,
        weight: weight.clone(),
        bias: Some(bias.clone()),
        residual: norm.then(|| tokens(&residual)),
    });
    let y = y.cast(DType::F32);
    let weights = tensor::<B, 2>(99, y.dims(), device);
    let grads = (y.clone() * weights).sum_dim(1).sum_dim(0).backward();
    let mut all = vec![Measured::of("result", y, BAR)];
    let mut leaves = vec![("input", &x), ("weight", &weight)];
    leaves.extend(norm.then_some(("residual", &residual)));
    for (name, leaf) in leaves {
        let gradient = leaf.grad(&grads).ok_or_else(|| missing(name))?;
        all.push(Measured::of(gradient_of(name), gradient, BAR));
    }
    let mut leaves = vec![("bias", &bias)];
    if norm {
        leaves.extend([("scale", &scale), ("shift", &shift)]);
    }
    for (name, leaf) in leaves {
        let gradient = leaf.grad(&grads).ok_or_else(|| missing(name))?;
        all.push(Measured::of(gradient_of(name), gradient, BAR));
    }
    Ok(all)
}
