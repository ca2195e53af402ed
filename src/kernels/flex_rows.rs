//! Row-parallel bodies of the differentiable operations for burn's CPU backend Flex.

use burn::tensor::{Tensor, TensorData, TensorPrimitive};
use burn_flex::{Flex, FlexDevice, FlexTensor};
use rayon::prelude::*;

use super::vector_math::{exp, normal};
use super::{LayerNormGradients, LayerNormInput};

/// Entries a parallel piece should have: enough to be worth a task, few enough for a core's cache.
const PIECE: usize = 16 * 1024;

pub(super) fn contiguous<const D: usize>(tensor: Tensor<Flex, D>) -> FlexTensor {
    let tensor = tensor.into_primitive().tensor();
    let contiguous = tensor.to_contiguous();
    drop(tensor); // the last reference but one: the result may be written in place
    contiguous
}

/// The tensor itself where nobody else holds it, else a copy made on all cores.
pub(super) fn writable(tensor: Tensor<Flex, 2>) -> FlexTensor {
    let shape = tensor.dims();
    let device = tensor.device();
    let tensor = contiguous(tensor);
    if tensor.is_unique() {
        return tensor;
    }
    let source = tensor.storage::<f32>();
    let mut copy = vec![0.0; source.len()];
    copy.par_chunks_mut(PIECE)
        .zip(source.par_chunks(PIECE))
        .for_each(|(copy, source)| copy.copy_from_slice(source));
    let copy: Tensor<Flex, 2> = Tensor::from_data(TensorData::new(copy, shape), &device);
    copy.into_primitive().tensor()
}

pub(super) fn rows_of(tensor: FlexTensor) -> Tensor<Flex, 2> {
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// Whole rows that make about a piece.
fn piece_of(width: usize) -> usize {
    (PIECE / width.max(1)).max(1) * width
}

pub(super) fn gelu(x: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    let mut x = writable(x);
    x.storage_mut::<f32>().par_chunks_mut(PIECE).for_each(|x| {
        for x in x {
            *x *= normal(*x).0;
        }
    });
    rows_of(x)
}

pub(super) fn gelu_backward(x: Tensor<Flex, 2>, d_y: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    let (x, mut d_y) = (contiguous(x), writable(d_y));
    d_y.storage_mut::<f32>()
        .par_chunks_mut(PIECE)
        .zip(x.storage::<f32>().par_chunks(PIECE))
        .for_each(|(d_y, x)| {
            for (d_y, x) in d_y.iter_mut().zip(x) {
                let (below, density) = normal(*x);
                *d_y *= below + x * density;
            }
        });
    rows_of(d_y)
}

pub(super) fn softmax(x: Tensor<Flex, 2>, scale: f32) -> Tensor<Flex, 2> {
    let width = x.dims()[1].max(1);
    let mut x = writable(x);
    x.storage_mut::<f32>()
        .par_chunks_mut(piece_of(width))
        .for_each(|piece| {
            for row in piece.chunks_exact_mut(width) {
                let max = row.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x));
                let mut sum = 0.0;
                for x in row.iter_mut() {
                    *x = exp((*x - max) * scale);
                    sum += *x;
                }
                let share = 1.0 / sum;
                row.iter_mut().for_each(|x| *x *= share);
            }
        });
    rows_of(x)
}

pub(super) fn softmax_backward(
    y: Tensor<Flex, 2>,
    d_y: Tensor<Flex, 2>,
    scale: f32,
) -> Tensor<Flex, 2> {
    let width = y.dims()[1].max(1);
    let (y, mut d_y) = (contiguous(y), writable(d_y));
    d_y.storage_mut::<f32>()
        .par_chunks_mut(piece_of(width))
        .zip(y.storage::<f32>().par_chunks(piece_of(width)))
        .for_each(|(d_y, y)| {
            for (d_y, y) in d_y.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
                let along: f32 = d_y.iter().zip(y).map(|(d_y, y)| d_y * y).sum();
                for (d_y, y) in d_y.iter_mut().zip(y) {
                    *d_y = y * (*d_y - along) * scale;
                }
            }
        });
    rows_of(d_y)
}

/// Each token's row is gathered from all parts and heads, in parallel over tokens.
pub(super) fn heads_to_columns(parts: Vec<Tensor<Flex, 4>>) -> Tensor<Flex, 2> {
    let [batch, heads, tokens, head_width] = parts[0].dims();
    let device = parts[0].device();
    let width = parts.len() * heads * head_width;
    let parts: Vec<FlexTensor> = parts.into_iter().map(contiguous).collect();
    let sources: Vec<&[f32]> = parts.iter().map(FlexTensor::storage::<f32>).collect();
    let mut columns = vec![0.0; batch * tokens * width];
    columns
        .par_chunks_mut(piece_of(width))
        .enumerate()
        .for_each(|(piece, rows)| {
            let first = piece * piece_of(width) / width.max(1);
            for (row, target) in (first..).zip(rows.chunks_exact_mut(width)) {
                let (image, token) = (row / tokens, row % tokens);
                let targets = target.chunks_exact_mut(head_width);
                let from = sources
                    .iter()
                    .flat_map(|source| (0..heads).map(move |head| (source, head)));
                for (target, (source, head)) in targets.zip(from) {
                    let start = ((image * heads + head) * tokens + token) * head_width;
                    target.copy_from_slice(&source[start..start + head_width]);
                }
            }
        });
    Tensor::from_data(TensorData::new(columns, [batch * tokens, width]), &device)
}

/// Each patch's row is gathered from the lines of all channels, in parallel over patches.
pub(super) fn patchify(images: Tensor<Flex, 4>, patch: usize) -> Tensor<Flex, 2> {
    let [batch, channels, height, width] = images.dims();
    let (rows, columns) = (height / patch, width / patch);
    let entries = channels * patch * patch;
    let device = images.device();
    let images = contiguous(images);
    let pixels = images.storage::<f32>();
    let mut patches = vec![0.0; batch * rows * columns * entries];
    patches
        .par_chunks_exact_mut(entries)
        .enumerate()
        .for_each(|(at, target)| {
            let (image, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
            for (line, target) in target.chunks_exact_mut(patch).enumerate() {
                let (channel, y) = (line / patch, row * patch + line % patch);
                let start = ((image * channels + channel) * height + y) * width + column * patch;
                target.copy_from_slice(&pixels[start..start + patch]);
            }
        });
    let shape = [batch * rows * columns, entries];
    Tensor::from_data(TensorData::new(patches, shape), &device)
}

/// Mean and inverse deviation of a row.
fn statistics(row: &[f32], eps: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = row.iter().sum::<f32>() / count;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

pub(super) fn layer_norm(input: LayerNormInput<Flex>) -> Tensor<Flex, 2> {
    let width = input.x.dims()[1].max(1);
    let eps = input.eps as f32;
    let mut x = writable(input.x);
    let (weight, bias) = (contiguous(input.weight), contiguous(input.bias));
    let (weight, bias) = (weight.storage::<f32>(), bias.storage::<f32>());
    x.storage_mut::<f32>()
        .par_chunks_mut(piece_of(width))
        .for_each(|piece| {
            for row in piece.chunks_exact_mut(width) {
                let (mean, inverse_deviation) = statistics(row, eps);
                for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
                    *x = (*x - mean) * inverse_deviation * weight + bias;
                }
            }
        });
    rows_of(x)
}

pub(super) fn layer_norm_backward(
    input: LayerNormInput<Flex>,
    d_y: Tensor<Flex, 2>,
    device: &FlexDevice,
) -> LayerNormGradients<Flex> {
    let width = d_y.dims()[1].max(1);
    let eps = input.eps as f32;
    let (x, mut d_y) = (contiguous(input.x), writable(d_y));
    let weight = contiguous(input.weight);
    let weight = weight.storage::<f32>();
    // Each piece has sums of its own, added in order afterwards: the same bits on any number of threads.
    let pieces: Vec<[Vec<f32>; 2]> = d_y
        .storage_mut::<f32>()
        .par_chunks_mut(piece_of(width))
        .zip(x.storage::<f32>().par_chunks(piece_of(width)))
        .map(|(d_y, x)| {
            let mut sums = [vec![0.0; width], vec![0.0; width]];
            for (d_y, x) in d_y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                layer_norm_row_backward(d_y, x, weight, eps, &mut sums);
            }
            sums
        })
        .collect();
    let [d_weight, d_bias] = [0, 1].map(|which| {
        let mut total = vec![0.0; width];
        for piece in &pieces {
            total
                .iter_mut()
                .zip(&piece[which])
                .for_each(|(total, part)| *total += part);
        }
        Tensor::from_data(TensorData::new(total, [width]), device)
    });
    LayerNormGradients {
        d_x: rows_of(d_y),
        d_weight,
        d_bias,
    }
}

/// Turns a row of `d_y` into its row of `d_x`, and adds to the sums of the weight's and the bias's gradient.
fn layer_norm_row_backward(
    d_y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    [d_weight, d_bias]: &mut [Vec<f32>; 2],
) {
    let (mean, inverse_deviation) = statistics(x, eps);
    let (mut sum, mut along) = (0.0, 0.0);
    for (((d_y, x), weight), (d_weight, d_bias)) in d_y
        .iter()
        .zip(x)
        .zip(weight)
        .zip(d_weight.iter_mut().zip(d_bias.iter_mut()))
    {
        let unit = (x - mean) * inverse_deviation;
        sum += d_y * weight;
        along += d_y * weight * unit;
        *d_weight += d_y * unit;
        *d_bias += d_y;
    }
    let count = x.len() as f32;
    let (sum, along) = (sum / count, along / count);
    for ((d_y, x), weight) in d_y.iter_mut().zip(x).zip(weight) {
        let unit = (x - mean) * inverse_deviation;
        *d_y = (*d_y * weight - sum - unit * along) * inverse_deviation;
    }
}
