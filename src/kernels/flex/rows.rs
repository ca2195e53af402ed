//! Row-parallel bodies of the differentiable operations for burn's CPU backend Flex.

use std::mem::MaybeUninit;

use burn::tensor::{Tensor, TensorData, TensorPrimitive};
use burn_flex::{Flex, FlexDevice, FlexTensor};
use rayon::prelude::*;

use crate::kernels::flex::vector_math::{sums, vectorized};
use crate::kernels::ops::layer_norm::{LayerNormGradients, LayerNormInput};
use crate::precision::Precision;

/// Entries a parallel piece should have: enough to be worth a task, few enough for a core's cache.
const PIECE: usize = 16 * 1024;
/// Rows whose columns one task sums up.
const SUMMED: usize = 128;

pub(super) fn contiguous<const D: usize>(tensor: Tensor<Flex, D>) -> FlexTensor {
    let tensor = tensor.into_primitive().tensor();
    let contiguous = tensor.to_contiguous();
    drop(tensor); // the last reference but one: the result may be written in place
    contiguous
}

/// The tensor itself where nobody else holds it, else a copy made on all cores.
pub(super) fn writable(tensor: Tensor<Flex, 2>) -> FlexTensor {
    changed(tensor, PIECE, |_| {})
}

/// The tensor with `work` done on each piece of so many entries: in place where nobody else holds it, else right after the
/// piece was copied, while it is in a core's cache.
pub(super) fn changed(
    tensor: Tensor<Flex, 2>,
    piece: usize,
    work: impl Fn(&mut [f32]) + Sync,
) -> FlexTensor {
    let shape = tensor.dims();
    let device = tensor.device();
    let mut tensor = contiguous(tensor);
    if tensor.is_unique() {
        let pieces = tensor.storage_mut::<f32>().par_chunks_mut(piece);
        pieces.for_each(&work);
        return tensor;
    }
    let source = tensor.storage::<f32>();
    let sources = source.par_chunks(piece);
    let copy = in_pieces(source.len(), piece, sources, |copy, source| {
        copy.copy_from_slice(source);
        work(copy);
    });
    let copy: Tensor<Flex, 2> = Tensor::from_data(TensorData::new(copy, shape), &device);
    copy.into_primitive().tensor()
}

/// `count` entries in pieces, each cleared by the core that then does `work` on it with the input of the same place.
pub(super) fn in_pieces<I: IndexedParallelIterator>(
    count: usize,
    piece: usize,
    inputs: I,
    work: impl Fn(&mut [f32], I::Item) + Sync + Send,
) -> Vec<f32> {
    in_pieces_with(
        count,
        piece,
        inputs,
        || (),
        |(), piece, input| work(piece, input),
    )
}

/// [`in_pieces`] with buffers that a core uses again for its next piece.
pub(super) fn in_pieces_with<I: IndexedParallelIterator, S>(
    count: usize,
    piece: usize,
    inputs: I,
    buffers: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, &mut [f32], I::Item) + Sync + Send,
) -> Vec<f32> {
    assert_eq!(inputs.len(), count.div_ceil(piece), "one input a piece");
    let mut entries = Vec::with_capacity(count);
    entries.spare_capacity_mut()[..count]
        .par_chunks_mut(piece)
        .zip(inputs)
        .for_each_init(buffers, |buffers, (piece, input)| {
            piece.fill(MaybeUninit::new(0.0));
            // SAFETY: each entry was just written, and the type has the layout of its content.
            let piece = unsafe { &mut *(std::ptr::from_mut(piece) as *mut [f32]) };
            work(buffers, piece, input);
        });
    // SAFETY: the pieces cover all entries, and as many inputs came as there are pieces.
    unsafe { entries.set_len(count) };
    entries
}

/// See [`crate::kernels::IbotBackend::rounded`]; on all cores.
pub(super) fn rounded<const D: usize>(x: Tensor<Flex, D>, precision: Precision) -> Tensor<Flex, D> {
    if precision == Precision::F32 {
        return x;
    }
    let shape = x.shape();
    let flat = x.reshape([1, shape.num_elements()]);
    let round = |piece: &mut [f32]| {
        piece.iter_mut().for_each(|x| *x = precision.nearest(*x));
    };
    rows_of(changed(flat, PIECE, round)).reshape(shape)
}

pub(super) fn rows_of(tensor: FlexTensor) -> Tensor<Flex, 2> {
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// Whole rows that make about a piece.
pub(super) fn piece_of(width: usize) -> usize {
    (PIECE / width.max(1)).max(1) * width
}

pub(super) fn gelu(x: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    rows_of(changed(x, PIECE, |x| {
        vectorized(
            #[inline(always)]
            |math| {
                for x in x.iter_mut() {
                    *x *= math.normal(*x).0;
                }
            },
        );
    }))
}

pub(super) fn gelu_backward(x: Tensor<Flex, 2>, d_y: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    let (x, mut d_y) = (contiguous(x), writable(d_y));
    d_y.storage_mut::<f32>()
        .par_chunks_mut(PIECE)
        .zip(x.storage::<f32>().par_chunks(PIECE))
        .for_each(|(d_y, x)| {
            vectorized(
                #[inline(always)]
                |math| {
                    for (d_y, x) in d_y.iter_mut().zip(x) {
                        let (below, density) = math.normal(*x);
                        *d_y *= below + x * density;
                    }
                },
            );
        });
    rows_of(d_y)
}

/// Sum of each column of rows of this width. Pieces have sums of their own, added in order afterwards: the same bits on any
/// number of threads.
pub(super) fn column_sums(rows: &[f32], width: usize) -> Vec<f32> {
    let piece = |piece: &[f32]| {
        let mut sums = vec![0.0; width];
        vectorized(
            #[inline(always)]
            |_| {
                let rows = piece.chunks_exact(width);
                rows.for_each(|row| add(&mut sums, row));
            },
        );
        sums
    };
    let pieces = rows.par_chunks(SUMMED * width.max(1)).map(piece);
    in_order(pieces.collect(), width)
}

#[inline(always)]
fn add(total: &mut [f32], part: &[f32]) {
    for (total, part) in total.iter_mut().zip(part) {
        *total += part;
    }
}

/// Their sum, one after the other.
pub(super) fn in_order(parts: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    parts.iter().for_each(|part| add(&mut total, part));
    total
}

/// Each patch's row is gathered from the lines of all channels, in parallel over patches.
pub(super) fn patchify(images: Tensor<Flex, 4>, patch: usize) -> Tensor<Flex, 2> {
    let [batch, channels, height, width] = images.dims();
    let (rows, columns) = (height / patch, width / patch);
    let entries = channels * patch * patch;
    let device = images.device();
    let images = contiguous(images);
    let pixels = images.storage::<f32>();
    let count = batch * rows * columns;
    let places = (0..count).into_par_iter();
    let patches = in_pieces(count * entries, entries, places, |target, at| {
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
#[inline(always)]
fn statistics(row: &[f32], eps: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let [sum] = sums([row], |[x]| [x]);
    let mean = sum / count;
    let [squares] = sums([row], |[x]| [(x - mean) * (x - mean)]);
    (mean, 1.0 / (squares / count + eps).sqrt())
}

pub(super) fn layer_norm(input: LayerNormInput<Flex>) -> Tensor<Flex, 2> {
    let width = input.x.dims()[1].max(1);
    let eps = input.eps as f32;
    let (weight, bias) = (contiguous(input.weight), contiguous(input.bias));
    let (weight, bias) = (weight.storage::<f32>(), bias.storage::<f32>());
    rows_of(changed(input.x, piece_of(width), |piece| {
        vectorized(
            #[inline(always)]
            |_| {
                for row in piece.chunks_exact_mut(width) {
                    let (mean, inverse_deviation) = statistics(row, eps);
                    for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
                        *x = (*x - mean) * inverse_deviation * weight + bias;
                    }
                }
            },
        );
    }))
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
    // as column_sums does
    let (of_weight, of_bias) = d_y
        .storage_mut::<f32>()
        .par_chunks_mut(SUMMED * width)
        .zip(x.storage::<f32>().par_chunks(SUMMED * width))
        .map(|(d_y, x)| {
            let mut sums = [vec![0.0; width], vec![0.0; width]];
            vectorized(
                #[inline(always)]
                |_| {
                    for (d_y, x) in d_y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        layer_norm_row_backward(d_y, x, weight, eps, &mut sums);
                    }
                },
            );
            sums.into()
        })
        .unzip();
    let total = |parts| Tensor::from_data(TensorData::new(in_order(parts, width), [width]), device);
    LayerNormGradients {
        d_x: rows_of(d_y),
        d_weight: total(of_weight),
        d_bias: total(of_bias),
    }
}

/// Turns a row of `d_y` into its row of `d_x`, and adds to the sums of the weight's and the bias's gradient.
#[inline(always)]
fn layer_norm_row_backward(
    d_y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    [d_weight, d_bias]: &mut [Vec<f32>; 2],
) {
    let (mean, inverse_deviation) = statistics(x, eps);
    let count = x.len();
    let (weight, d_weight, d_bias) = (
        &weight[..count],
        &mut d_weight[..count],
        &mut d_bias[..count],
    );
    let [sum, along] = sums([&*d_y, weight, x], |[d_y, weight, x]| {
        let scaled = d_y * weight;
        [scaled, scaled * (x - mean) * inverse_deviation]
    });
    let (sum, along) = (sum / count as f32, along / count as f32);
    for at in 0..count {
        let unit = (x[at] - mean) * inverse_deviation;
        d_weight[at] += d_y[at] * unit;
        d_bias[at] += d_y[at];
        d_y[at] = (d_y[at] * weight[at] - sum - unit * along) * inverse_deviation;
    }
}
