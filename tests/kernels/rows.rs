//! The differentiable operations, against formulas in f64 on the host and their finite differences.

use burn::tensor::{Tensor, TensorData};
use ibot::kernels::{
    AttentionInput, LayerNormInput, LinearLayerInput, Prologue, RowIndices, TrainBackend,
    attention_maps,
};
use ibot::random::{Random, Stream};

use crate::{assert_close, values};

/// Step of the finite differences; their error in f64 is far below the bars.
const STEP: f64 = 1e-5;

pub fn draw(stream: u64, count: usize, deviation: f64) -> Vec<f32> {
    Random::new(stream, 1, 0, Stream::Init).fill(count, |r| deviation * r.normal())
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

pub fn tensor<B: TrainBackend, const D: usize>(
    values: &[f32],
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device).require_grad()
}

/// Gradient of `sum(weights * f(x))` by central differences.
fn differences(x: &[f64], weights: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let total = |x: &[f64]| -> f64 {
        f(x).iter()
            .zip(weights)
            .map(|(y, w)| y * f64::from(*w))
            .sum()
    };
    (0..x.len())
        .map(|at| {
            let moved = |step: f64| {
                let mut x = x.to_vec();
                x[at] += step;
                total(&x)
            };
            (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
        })
        .collect()
}

/// The gradient of `x` in `sum(weights * y)`.
fn gradient<B: TrainBackend, const D: usize>(
    x: &Tensor<B, D>,
    y: Tensor<B, 2>,
    weights: &[f32],
) -> Vec<f32> {
    let [rows, columns] = y.dims();
    let weights = tensor::<B, 2>(weights, [rows, columns], &y.device()).detach();
    let loss = (y * weights).sum_dim(1).sum_dim(0);
    values(x.grad(&loss.backward()).unwrap())
}

pub fn gelu_f64(x: &[f64]) -> Vec<f64> {
    let cdf = |x: f64| 0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2));
    x.iter().map(|x| x * cdf(*x)).collect()
}

/// Sizes around the pieces of the parallel body, and entries far out on both sides.
pub fn gelu<B: TrainBackend>(device: &B::Device) {
    for rows in [1, 3, 5_462] {
        let (x, weights) = (draw(1, rows * 3, 3.0), draw(2, rows * 3, 1.0));
        let input = tensor::<B, 2>(&x, [rows, 3], device);
        let y = B::exact_gelu(input.clone());
        assert_close(&values(y.clone()), &gelu_f64(&wide(&x)), 1e-5);
        // entry by entry: the function works on each alone
        let expected: Vec<f64> = wide(&x)
            .iter()
            .zip(&weights)
            .flat_map(|(x, w)| differences(&[*x], &[*w], gelu_f64))
            .collect();
        assert_close(&gradient(&input, y, &weights), &expected, 1e-5);
    }
}

pub fn layer_norm_f64(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let width = weight.len();
    x.chunks(width)
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = 1.0 / (variance + 1e-6).sqrt();
            let unit = row.iter().map(move |x| (x - mean) * scale);
            unit.zip(weight)
                .zip(bias)
                .map(|((u, w), b)| u * w + b)
                .collect::<Vec<_>>()
        })
        .collect()
}

pub fn layer_norm<B: TrainBackend>(device: &B::Device) {
    for [rows, width] in [[1, 7], [3, 64], [2, 1]] {
        let (x, weights) = (draw(3, rows * width, 2.0), draw(4, rows * width, 1.0));
        let (weight, bias) = (draw(5, width, 1.0), draw(6, width, 1.0));
        let [wide_x, wide_weight, wide_bias] = [&x, &weight, &bias].map(|values| wide(values));
        let input = LayerNormInput::<B> {
            x: tensor(&x, [rows, width], device),
            weight: tensor(&weight, [width], device),
            bias: tensor(&bias, [width], device),
            eps: 1e-6,
        };
        let y = B::layer_norm_rows(input.clone());
        assert_close(
            &values(y.clone()),
            &layer_norm_f64(&wide_x, &wide_weight, &wide_bias),
            1e-4,
        );
        let d_x = differences(&wide_x, &weights, |x| {
            layer_norm_f64(x, &wide_weight, &wide_bias)
        });
        assert_close(&gradient(&input.x, y.clone(), &weights), &d_x, 1e-3);
        let d_weight = differences(&wide_weight, &weights, |w| {
            layer_norm_f64(&wide_x, w, &wide_bias)
        });
        let y = B::layer_norm_rows(input.clone());
        assert_close(&gradient(&input.weight, y, &weights), &d_weight, 1e-4);
        let d_bias = differences(&wide_bias, &weights, |b| {
            layer_norm_f64(&wide_x, &wide_weight, b)
        });
        let y = B::layer_norm_rows(input.clone());
        assert_close(&gradient(&input.bias, y, &weights), &d_bias, 1e-4);
    }
}

/// Attention of each head by its definition; `qkv` is [B T, 3 D].
pub fn attention_f64(qkv: &[f64], [batch, tokens, heads, head_width]: [usize; 4]) -> Vec<f64> {
    let width = heads * head_width;
    let at = |image: usize, token: usize, part: usize, head: usize, c: usize| {
        qkv[(image * tokens + token) * 3 * width + part * width + head * head_width + c]
    };
    let mut mixed = vec![0.0; batch * tokens * width];
    for (image, head) in (0..batch).flat_map(|image| (0..heads).map(move |head| (image, head))) {
        for query in 0..tokens {
            let dot = |key: usize| -> f64 {
                let products = (0..head_width)
                    .map(|c| at(image, query, 0, head, c) * at(image, key, 1, head, c));
                products.sum::<f64>() / (head_width as f64).sqrt()
            };
            let largest = (0..tokens).map(dot).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = (0..tokens).map(|key| (dot(key) - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..head_width {
                let sum = (0..tokens)
                    .map(|key| weights[key] * at(image, key, 2, head, c))
                    .sum::<f64>();
                mixed[(image * tokens + query) * width + head * head_width + c] = sum / total;
            }
        }
    }
    mixed
}

pub fn attention<B: TrainBackend>(device: &B::Device) {
    for [batch, tokens, heads, head_width] in [[1, 1, 1, 1], [2, 5, 3, 4]] {
        let sizes = [batch, tokens, heads, head_width];
        let (rows, width) = (batch * tokens, heads * head_width);
        let (qkv, weights) = (draw(7, rows * 3 * width, 1.0), draw(8, rows * width, 1.0));
        let input = AttentionInput::<B> {
            qkv: tensor(&qkv, [rows, 3 * width], device),
            batch,
            heads,
            queries: None,
        };
        let output = B::packed_attention(input.clone());
        assert_close(
            &values(output.context.clone()),
            &attention_f64(&wide(&qkv), sizes),
            1e-5,
        );
        let expected = differences(&wide(&qkv), &weights, |qkv| attention_f64(qkv, sizes));
        assert_close(
            &gradient(&input.qkv, output.context, &weights),
            &expected,
            1e-4,
        );
        let sums = values(attention_maps(input).sum_dim(3));
        assert_close(&sums, &vec![1.0; batch * heads * tokens], 1e-5);
    }
}

/// Where only some queries are asked for, theirs are the same, and so is the gradient; an image may have none.
pub fn attention_of_some<B: TrainBackend>(device: &B::Device) {
    let sizes @ [batch, tokens, heads, head_width] = [3, 5, 2, 4];
    let (rows, width) = (batch * tokens, heads * head_width);
    let qkv = draw(14, rows * 3 * width, 1.0);
    let places = [11, 2, 0, 14];
    let mut weights = draw(15, rows * width, 1.0);
    for (row, weights) in weights.chunks_mut(width).enumerate() {
        if !places.contains(&(row as i32)) {
            weights.fill(0.0);
        }
    }
    let of = |queries| {
        let input = AttentionInput::<B> {
            qkv: tensor(&qkv, [rows, 3 * width], device),
            batch,
            heads,
            queries,
        };
        let context = B::packed_attention(input.clone()).context;
        let d_qkv = gradient(&input.qkv, context.clone(), &weights);
        (values(context), d_qkv)
    };
    let (context, d_qkv) = of(Some(RowIndices::new(places.to_vec(), rows)));
    let expected = attention_f64(&wide(&qkv), sizes);
    for row in places.map(|place| place as usize * width..(place as usize + 1) * width) {
        assert_close(&context[row.clone()], &expected[row], 1e-5);
    }
    assert_close(&d_qkv, &wide(&of(None).1), 1e-5);
}

/// Scores far beyond what exp can take: no overflow, and all of the weight on the largest.
pub fn attention_of_extremes<B: TrainBackend>(device: &B::Device) {
    // one head of width 1, three tokens: queries, keys and values side by side
    let qkv = [100.0, 100.0, 1.0, -100.0, 100.0, 2.0, 0.0, -100.0, 6.0];
    let input = AttentionInput::<B> {
        qkv: tensor(&qkv, [3, 3], device),
        batch: 1,
        heads: 1,
        queries: None,
    };
    // at 6.0: 8 of f32's last digits. Vulkan lets a division alone be 2.5 of them off, and Metal's fast one is no better.
    let bar = 4e-6;
    let maps = values(attention_maps(input.clone()));
    let third = 1.0 / 3.0;
    let expected = [0.5, 0.5, 0.0, 0.0, 0.0, 1.0, third, third, third];
    assert_close(&maps, &expected, bar);
    let output = B::packed_attention(input.clone());
    let row_lse = [1e4 + 2f64.ln(), 1e4, 3f64.ln()];
    assert_close(&values(output.row_lse), &row_lse, 1e-3); // f32 has no finer numbers at 1e4
    assert_close(&values(output.context.clone()), &[1.5, 6.0, 3.0], bar);
    let d_qkv = gradient(&input.qkv, output.context, &[1.0, 1.0, 1.0]);
    assert!(d_qkv.iter().all(|x| x.is_finite()), "{d_qkv:?}");
}

/// `residual + before(x) weight + bias` in f64.
fn linear_f64(
    before: impl Fn(&[f64]) -> Vec<f64>,
    x: &[f64],
    weight: &[f64],
    bias: &[f64],
    residual: &[f64],
) -> Vec<f64> {
    let outputs = bias.len();
    let inputs = weight.len() / outputs;
    let x = before(x);
    let row = |row: usize| &x[row * inputs..(row + 1) * inputs];
    (0..residual.len())
        .map(|at| {
            let (from, to) = (row(at / outputs), at % outputs);
            let products = from.iter().zip(weight[to..].iter().step_by(outputs));
            residual[at] + bias[to] + products.map(|(x, w)| x * w).sum::<f64>()
        })
        .collect()
}

/// Each kind of linear layer against its formula and finite differences of all that it is differentiable in.
pub fn linear_layers<B: TrainBackend>(device: &B::Device) {
    for [rows, inputs, outputs] in [[1, 1, 1], [3, 5, 7], [5, 8, 2]] {
        for kind in ["nothing", "gelu", "norm"] {
            let x = draw(20, rows * inputs, 1.5);
            let [norm_weight, norm_bias] = [21, 22].map(|stream| draw(stream, inputs, 1.0));
            let weight = draw(23, inputs * outputs, 0.7);
            let bias = draw(24, outputs, 1.0);
            let [residual, weights] = [25, 26].map(|stream| draw(stream, rows * outputs, 1.0));
            let norm = [
                tensor::<B, 1>(&norm_weight, [inputs], device),
                tensor::<B, 1>(&norm_bias, [inputs], device),
            ];
            let input = LinearLayerInput::<B> {
                x: tensor(&x, [rows, inputs], device),
                prologue: match kind {
                    "gelu" => Prologue::Gelu { ready: None },
                    "norm" => Prologue::LayerNorm {
                        weight: norm[0].clone(),
                        bias: norm[1].clone(),
                        eps: 1e-6,
                    },
                    _ => Prologue::Nothing,
                },
                weight: tensor(&weight, [inputs, outputs], device),
                bias: Some(tensor(&bias, [outputs], device)),
                residual: Some(tensor(&residual, [rows, outputs], device)),
            };
            let all = [&x, &norm_weight, &norm_bias, &weight, &bias, &residual].map(|v| wide(v));
            let of = |all: &[Vec<f64>; 6]| {
                let [x, norm_weight, norm_bias, weight, bias, residual] = all;
                let before = |x: &[f64]| match kind {
                    "gelu" => gelu_f64(x),
                    "norm" => layer_norm_f64(x, norm_weight, norm_bias),
                    _ => x.to_vec(),
                };
                linear_f64(before, x, weight, bias, residual)
            };
            let y = B::linear_layer(input.clone());
            assert_close(&values(y.clone()), &of(&all), 1e-4);
            let columns = tensor::<B, 2>(&weights, [rows, outputs], device).detach();
            let grads = (y * columns).sum_dim(1).sum_dim(0).backward();
            let found = [
                input.x.grad(&grads).map(values),
                norm[0].grad(&grads).map(values),
                norm[1].grad(&grads).map(values),
                input.weight.grad(&grads).map(values),
                input.bias.unwrap().grad(&grads).map(values),
                input.residual.unwrap().grad(&grads).map(values),
            ];
            for (which, found) in found.into_iter().enumerate() {
                if kind != "norm" && (which == 1 || which == 2) {
                    assert!(found.is_none(), "a norm that is not there has no gradient");
                    continue;
                }
                let expected = differences(&all[which], &weights, |moved| {
                    let mut all = all.clone();
                    all[which] = moved.to_vec();
                    of(&all)
                });
                assert_close(&found.unwrap(), &expected, 1e-3);
            }
        }
    }
}

/// What a layer lacks, and an input that nobody differentiates.
pub fn bare_linear_layer<B: TrainBackend>(device: &B::Device) {
    let x = tensor::<B, 2>(&[1.0, 2.0, 3.0, 4.0], [2, 2], device).detach();
    let weight = tensor::<B, 2>(&[1.0, -1.0, 0.5, 2.0], [2, 2], device);
    let y = B::linear_layer(LinearLayerInput {
        x: x.clone(),
        prologue: Prologue::Nothing,
        weight: weight.clone(),
        bias: None,
        residual: None,
    });
    assert_close(&values(y.clone()), &[2.0, 3.0, 5.0, 5.0], 1e-6);
    let d_weight = gradient(&weight, y, &[1.0, 0.0, 0.0, 1.0]);
    assert_close(&d_weight, &[1.0, 3.0, 2.0, 4.0], 1e-6);
}

/// Each entry of each patch is the pixel where timm's convolution would look, and the gradient goes back there.
pub fn patchify<B: TrainBackend>(device: &B::Device) {
    let [batch, side, patch] = [2, 6, 2];
    let pixels = draw(9, batch * 3 * side * side, 1.0);
    let images = tensor::<B, 4>(&pixels, [batch, 3, side, side], device);
    let patches = B::patchify(images.clone(), patch);
    let at = |image: usize, channel: usize, y: usize, x: usize| {
        ((image * 3 + channel) * side + y) * side + x
    };
    let columns = side / patch;
    let sources: Vec<usize> = (0..batch * columns * columns * 3 * patch * patch)
        .map(|entry| {
            let (row, inside) = (entry / 12, entry % 12);
            let (image, cell) = (row / (columns * columns), row % (columns * columns));
            let (channel, y, x) = (inside / 4, inside / 2 % 2, inside % 2);
            at(
                image,
                channel,
                cell / columns * patch + y,
                cell % columns * patch + x,
            )
        })
        .collect();
    let expected: Vec<f32> = sources.iter().map(|at| pixels[*at]).collect();
    assert_eq!(values(patches.clone()), expected);
    let weights = draw(10, expected.len(), 1.0);
    let mut d_pixels = vec![0.0; pixels.len()];
    for (source, weight) in sources.iter().zip(&weights) {
        d_pixels[*source] = f64::from(*weight);
    }
    assert_close(&gradient(&images, patches, &weights), &d_pixels, 1e-6);
}
