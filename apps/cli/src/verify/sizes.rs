//! What training runs, at the sizes of ViT-S: a GPU takes other kernels and other tiles for these than for small ones.
//!
//! Most of it computes on whole numbers from -2 to 2, whose sums are exact in any order, so that nothing may differ.

use ibot::burn::tensor::{DType, Tensor};

use super::check::{Check, Run};
use super::compare::Measured;
use super::inputs::{BAR, Inner, gradient_of, missing, tensor, tokens, whole};
use super::layers::{attention_of, linear_layer};
use ibot::error::Result;
use ibot::kernels::{
    IbotBackend, LayerNormInput, Layout, LinearBackwardInput, LinearInput, LinearLayerInput,
    Prologue, RowIndices, TrainBackend,
};

const EXACT: f64 = 0.0;
/// Tokens of an image of 224 x 224 in patches of 16 x 16, and heads of ViT-S.
const TOKENS: usize = 197;
const HEADS: usize = 6;

pub(super) fn checks<B: TrainBackend>() -> Vec<Check<B>> {
    let all: [(&'static str, Run<B>); 15] = [
        ("products of 512 x 512 x 64", |device| {
            products::<B>([512, 512, 64], device)
        }),
        ("products of 600 x 1536 x 384", |device| {
            products::<B>([600, 1536, 384], device)
        }),
        ("products of 517 x 515 x 131", |device| {
            products::<B>([517, 515, 131], device)
        }),
        ("products of 520 x 256 x 8192", |device| {
            products::<B>([520, 256, 8192], device)
        }),
        ("gradients over 4 096 rows, 384 x 1536", |device| {
            weights::<B>([4096, 384, 1536], device)
        }),
        ("gradients over 20 003 rows, 8 x 384", |device| {
            weights::<B>([20_003, 8, 384], device)
        }),
        ("linear layer, norm, 600 x 384 x 1536", |device| {
            linear_layer::<B>(600, [384, 1536], true, device)
        }),
        ("linear layer, GELU, 600 x 1536 x 384", |device| {
            linear_layer::<B>(600, [1536, 384], false, device)
        }),
        ("MLP, 600 x 384 x 1536 x 384", mlp::<B>),
        ("products of 12 pairs, 197 x 197 x 64", pairs::<B>),
        ("sums of 20 003 rows", column_sums::<B>),
        ("layer norm of 20 003 rows", layer_norm::<B>),
        ("gather and scatter of 2 102 rows", select::<B>),
        ("attention, 197 tokens, 6 heads of 64", |device| {
            attention::<B>(64, device)
        }),
        ("attention, 197 tokens, 6 heads of 32", |device| {
            attention::<B>(32, device)
        }),
    ];
    all.map(Check::new).into()
}

/// `x W + bias + residual`, and all gradients: the three ways in which operands lie.
fn products<B: TrainBackend>(
    [rows, inputs, outputs]: [usize; 3],
    device: &B::Device,
) -> Result<Vec<Measured>> {
    let x: Tensor<Inner<B>, 2> = whole(30, [rows, inputs], device);
    let weight = whole(31, [inputs, outputs], device);
    let y = Inner::<B>::linear_rows(LinearInput {
        x: x.clone(),
        weight: weight.clone(),
        bias: Some(whole(32, [outputs], device)),
        residual: Some(whole(33, [rows, outputs], device)),
    });
    let found = Inner::<B>::linear_rows_backward(LinearBackwardInput {
        x,
        weight,
        d_y: whole(34, [rows, outputs], device),
        wants_x: true,
        wants_weight: true,
        wants_bias: true,
    });
    let d_x = found.d_x.ok_or_else(|| missing("input"))?;
    let d_weight = found.d_weight.ok_or_else(|| missing("weight"))?;
    let d_bias = found.d_bias.ok_or_else(|| missing("bias"))?;
    Ok(vec![
        Measured::of("result", y, EXACT),
        Measured::of(gradient_of("input"), d_x, EXACT),
        Measured::of(gradient_of("weight"), d_weight, EXACT),
        Measured::of(gradient_of("bias"), d_bias, EXACT),
    ])
}

/// The gradients of weight and bias alone, which are sums over the rows.
fn weights<B: TrainBackend>(
    [rows, inputs, outputs]: [usize; 3],
    device: &B::Device,
) -> Result<Vec<Measured>> {
    let found = Inner::<B>::linear_rows_backward(LinearBackwardInput {
        x: whole(35, [rows, inputs], device),
        weight: whole(36, [inputs, outputs], device),
        d_y: whole(37, [rows, outputs], device),
        wants_x: false,
        wants_weight: true,
        wants_bias: true,
    });
    let d_weight = found.d_weight.ok_or_else(|| missing("weight"))?;
    let d_bias = found.d_bias.ok_or_else(|| missing("bias"))?;
    Ok(vec![
        Measured::of(gradient_of("weight"), d_weight, EXACT),
        Measured::of(gradient_of("bias"), d_bias, EXACT),
    ])
}

/// Its shift's gradient is a sum of whole numbers.
fn layer_norm<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let shape = [20_003, 384];
    let input = LayerNormInput {
        x: tensor::<Inner<B>, 2>(38, shape, device),
        weight: tensor(39, [shape[1]], device),
        bias: tensor(40, [shape[1]], device),
        eps: 1e-6,
    };
    let y = Inner::<B>::layer_norm_rows(input.clone());
    let found = Inner::<B>::layer_norm_rows_backward(input, whole(41, shape, device));
    Ok(vec![
        Measured::of("result", y, BAR),
        Measured::of(gradient_of("input"), found.d_x, BAR),
        Measured::of(gradient_of("scale"), found.d_weight, BAR),
        Measured::of(gradient_of("shift"), found.d_bias, EXACT),
    ])
}

/// The MLP of a block, with its residual and without gradients, as the teacher runs it.
fn mlp<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let (rows, width, hidden) = (600, 384, 1536);
    let layer = |stream: u64, [inputs, outputs]: [usize; 2], x, residual| LinearLayerInput {
        x,
        prologue: Prologue::Nothing,
        weight: tensor::<Inner<B>, 2>(stream, [inputs, outputs], device) / (inputs as f64).sqrt(),
        bias: Some(tensor(stream + 1, [outputs], device)),
        residual,
    };
    let x: Tensor<Inner<B>, 2> = tensor(45, [rows, width], device);
    let first = layer(46, [width, hidden], x.clone(), None);
    let second = layer(48, [hidden, width], x.clone(), Some(x));
    let (x, prologue) = Inner::<B>::linear_layer_gelu(first).rows();
    let y = Inner::<B>::linear_layer(LinearLayerInput {
        x,
        prologue,
        ..second
    });
    Ok(vec![Measured::of("result", y, BAR)])
}

/// Products of many matrices at once, in each of the ways in which the operands lie.
fn pairs<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let count = 2 * HEADS;
    let ways = [
        ("plain", Layout::Plain, [TOKENS, TOKENS], [TOKENS, 64]),
        (
            "right transposed",
            Layout::RightTransposed,
            [TOKENS, 64],
            [TOKENS, 64],
        ),
        (
            "left transposed",
            Layout::LeftTransposed,
            [TOKENS, TOKENS],
            [TOKENS, 64],
        ),
    ];
    let product = |(name, layout, left, right): (_, _, [usize; 2], [usize; 2])| {
        let left = whole::<Inner<B>, 3>(52, [count, left[0], left[1]], device);
        let right = whole::<Inner<B>, 3>(53, [count, right[0], right[1]], device);
        let product = Inner::<B>::matrix_products(left, right, layout);
        Measured::of(name, product, EXACT)
    };
    Ok(ways.map(product).into())
}

fn column_sums<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let x = whole::<Inner<B>, 2>(54, [20_003, 386], device);
    let sums = Inner::<B>::column_sums(x);
    Ok(vec![Measured::of("sums", sums, EXACT)])
}

/// Every third row of 32 images' tokens, as masks pick them.
fn select<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let rows = 32 * TOKENS;
    let x = whole::<B, 2>(42, [rows, 384], device).require_grad();
    let places = RowIndices::new((0..rows as i32).step_by(3).rev().collect(), rows);
    let y = B::gather_rows(tokens(&x), &places).cast(DType::F32);
    let weights = whole::<B, 2>(43, y.dims(), device);
    let grads = (y.clone() * weights).sum_dim(1).sum_dim(0).backward();
    let gradient = x.grad(&grads).ok_or_else(|| missing("the tokens"))?;
    Ok(vec![
        Measured::of("rows", y, EXACT),
        Measured::of(gradient_of("the tokens"), gradient, EXACT),
    ])
}

fn attention<B: TrainBackend>(head_width: usize, device: &B::Device) -> Result<Vec<Measured>> {
    let qkv = whole::<B, 2>(44, [2 * TOKENS, 3 * HEADS * head_width], device);
    attention_of(qkv, 2, HEADS)
}
