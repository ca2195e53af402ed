//! Row-parallel bodies of the differentiable operations for burn's CPU backend Flex.

use burn::tensor::{Tensor, TensorData, TensorPrimitive};
use burn_flex::{Flex, FlexDevice, FlexTensor};
use rayon::prelude::*;

use super::{LayerNormGradients, LayerNormInput};

/// Entries a parallel piece should have: enough to be worth a task, few enough for a core's cache.
const PIECE: usize = 16 * 1024;

fn contiguous<const D: usize>(tensor: Tensor<Flex, D>) -> FlexTensor {
    let tensor = tensor.into_primitive().tensor();
    let contiguous = tensor.to_contiguous();
    drop(tensor); // the last reference but one: the result may be written in place
    contiguous
}

/// The tensor itself where nobody else holds it, else a copy made on all cores.
fn writable(tensor: Tensor<Flex, 2>) -> FlexTensor {
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

fn rows_of(tensor: FlexTensor) -> Tensor<Flex, 2> {
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// Whole rows that make about a piece.
fn piece_of(width: usize) -> usize {
    (PIECE / width.max(1)).max(1) * width
}

const FRAC_1_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// 1 / sqrt(2 pi): density of the standard normal at zero.
const NORMAL_PEAK: f32 = 0.398_942_3;

fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * FRAC_1_SQRT_2))
}

pub(super) fn gelu(x: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    let mut x = writable(x);
    x.storage_mut::<f32>().par_chunks_mut(PIECE).for_each(|x| {
        for x in x {
            *x *= normal_cdf(*x);
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
                let pdf = NORMAL_PEAK * (-0.5 * x * x).exp();
                *d_y *= normal_cdf(*x) + x * pdf;
            }
        });
    rows_of(d_y)
}

pub(super) fn softmax(x: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    let width = x.dims()[1].max(1);
    let mut x = writable(x);
    x.storage_mut::<f32>()
        .par_chunks_mut(piece_of(width))
        .for_each(|piece| {
            for row in piece.chunks_exact_mut(width) {
                let max = row.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x));
                let mut sum = 0.0;
                for x in row.iter_mut() {
                    *x = (*x - max).exp();
                    sum += *x;
                }
                let scale = 1.0 / sum;
                row.iter_mut().for_each(|x| *x *= scale);
            }
        });
    rows_of(x)
}

pub(super) fn softmax_backward(y: Tensor<Flex, 2>, d_y: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    let width = y.dims()[1].max(1);
    let (y, mut d_y) = (contiguous(y), writable(d_y));
    d_y.storage_mut::<f32>()
        .par_chunks_mut(piece_of(width))
        .zip(y.storage::<f32>().par_chunks(piece_of(width)))
        .for_each(|(d_y, y)| {
            for (d_y, y) in d_y.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
                let along: f32 = d_y.iter().zip(y).map(|(d_y, y)| d_y * y).sum();
                for (d_y, y) in d_y.iter_mut().zip(y) {
                    *d_y = y * (*d_y - along);
                }
            }
        });
    rows_of(d_y)
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
