//! Attention for burn's CPU backend Flex: straight from the packed queries, keys and values, one head's map at a time.
//!
//! Images are done in parallel. A map is [T, T] in a core's cache; no permuted copy is made, and no map outlives its head.

use burn::tensor::{Tensor, TensorData};
use burn_flex::Flex;
use rayon::prelude::*;

use crate::kernels::flex::product::{Matrix, Product};
use crate::kernels::flex::rows::{contiguous, in_pieces_with};
use crate::kernels::flex::vector_math::{Math, largest, sums, vectorized};
use crate::kernels::ops::attention::Sizes;
use crate::kernels::ops::attention::{AttentionInput, AttentionOutput};

/// Where the parts of one head are in the rows of an image.
#[derive(Clone, Copy)]
struct Head {
    sizes: Sizes,
    head: usize,
}

impl Head {
    fn width(self) -> usize {
        self.sizes.heads * self.sizes.head_width
    }

    /// Queries (0), keys (1) or values (2) in packed rows, `[T, D / H]`.
    fn packed(self, part: usize) -> Matrix {
        Matrix {
            start: part * self.width() + self.head * self.sizes.head_width,
            row_step: 3 * self.width(),
            column_step: 1,
        }
    }

    /// The head's columns in rows of all heads, `[T, D / H]`.
    fn columns(self) -> Matrix {
        Matrix {
            start: self.head * self.sizes.head_width,
            row_step: self.width(),
            column_step: 1,
        }
    }

    fn map(self) -> Matrix {
        Matrix::rows(self.sizes.tokens)
    }

    /// `[T, D / H] x [D / H, T]`, a map.
    fn map_of<'a>(self, left: (&'a [f32], Matrix), right: (&'a [f32], Matrix)) -> Product<'a> {
        Product {
            rows: self.sizes.tokens,
            inner: self.sizes.head_width,
            columns: self.sizes.tokens,
            left,
            right: (right.0, right.1.transposed()),
            factor: 1.0,
            parallel: false,
        }
    }

    /// `[T, T] x [T, D / H]`.
    fn mix_by<'a>(self, map: (&'a [f32], Matrix), rows: (&'a [f32], Matrix)) -> Product<'a> {
        Product {
            rows: self.sizes.tokens,
            inner: self.sizes.tokens,
            columns: self.sizes.head_width,
            left: map,
            right: rows,
            factor: 1.0,
            parallel: false,
        }
    }

    /// Product of a token's columns in two buffers of rows.
    #[inline(always)]
    fn dot(self, a: &[f32], b: &[f32], token: usize) -> f32 {
        let start = token * self.width() + self.head * self.sizes.head_width;
        let of_head = start..start + self.sizes.head_width;
        let (a, b) = (&a[of_head.clone()], &b[of_head]);
        let [dot] = sums([a, b], |[a, b]| [a * b]);
        dot
    }

    /// `q k^T / sqrt(D / H)`.
    fn scores(self, qkv: &[f32], map: &mut [f32]) {
        let product = Product {
            factor: self.sizes.scale() as f32,
            ..self.map_of((qkv, self.packed(0)), (qkv, self.packed(1)))
        };
        product.write(map, self.map());
    }
}

/// The heads of an image.
fn heads(sizes: Sizes) -> impl Iterator<Item = Head> {
    (0..sizes.heads).map(move |head| Head { sizes, head })
}

pub(super) fn forward(input: AttentionInput<Flex>) -> AttentionOutput<Flex> {
    let sizes = Sizes::new(&input);
    let (tokens, width) = (sizes.tokens, sizes.heads * sizes.head_width);
    let device = input.qkv.device();
    let qkv = contiguous(input.qkv);
    let mut row_lse = vec![0.0; sizes.batch * sizes.heads * tokens];
    let images = qkv
        .storage::<f32>()
        .par_chunks_exact(tokens * 3 * width)
        .zip(row_lse.par_chunks_exact_mut(sizes.heads * tokens));
    let context = in_pieces_with(
        sizes.batch * tokens * width,
        tokens * width,
        images,
        || vec![0.0; tokens * tokens],
        |map, context, (qkv, row_lse)| {
            for (head, row_lse) in heads(sizes).zip(row_lse.chunks_exact_mut(tokens)) {
                head.scores(qkv, map);
                vectorized(
                    #[inline(always)]
                    |math| softmax(math, map, row_lse),
                );
                head.mix_by((map, head.map()), (qkv, head.packed(2)))
                    .write(context, head.columns());
            }
        },
    );
    let count = row_lse.len();
    AttentionOutput {
        context: Tensor::from_data(
            TensorData::new(context, [sizes.batch * tokens, width]),
            &device,
        ),
        row_lse: Tensor::from_data(TensorData::new(row_lse, [count]), &device),
    }
}

/// Each row of `map` to its softmax; `row_lse` gets the logarithm of the sum of exponentials.
#[inline(always)]
fn softmax(math: Math, map: &mut [f32], row_lse: &mut [f32]) {
    for (row, row_lse) in map.chunks_exact_mut(row_lse.len()).zip(row_lse) {
        let max = largest([&*row], |[x]| x);
        for x in row.iter_mut() {
            *x = math.exp(*x - max);
        }
        let [total] = sums([&*row], |[x]| [x]);
        let share = 1.0 / total;
        row.iter_mut().for_each(|x| *x *= share);
        *row_lse = max + total.ln();
    }
}

pub(super) fn backward(
    input: AttentionInput<Flex>,
    output: AttentionOutput<Flex>,
    d_context: Tensor<Flex, 2>,
) -> Tensor<Flex, 2> {
    let sizes = Sizes::new(&input);
    let (tokens, width) = (sizes.tokens, sizes.heads * sizes.head_width);
    let device = input.qkv.device();
    let qkv = contiguous(input.qkv);
    let (row_lse, d_context) = (contiguous(output.row_lse), contiguous(d_context));
    let context = contiguous(output.context);
    let images = qkv
        .storage::<f32>()
        .par_chunks_exact(tokens * 3 * width)
        .zip(d_context.storage::<f32>().par_chunks_exact(tokens * width))
        .zip(
            row_lse
                .storage::<f32>()
                .par_chunks_exact(sizes.heads * tokens),
        )
        .zip(context.storage::<f32>().par_chunks_exact(tokens * width));
    let d_qkv = in_pieces_with(
        sizes.batch * tokens * 3 * width,
        tokens * 3 * width,
        images,
        || [vec![0.0; tokens * tokens], vec![0.0; tokens * tokens]],
        |[map, d_map], d_qkv, (((qkv, d_context), row_lse), context)| {
            for (head, row_lse) in heads(sizes).zip(row_lse.chunks_exact(tokens)) {
                head.scores(qkv, map);
                head.map_of((d_context, head.columns()), (qkv, head.packed(2)))
                    .write(d_map, head.map());
                let scale = sizes.scale() as f32;
                vectorized(
                    #[inline(always)]
                    |math| {
                        softmax_backward(math, map, d_map, row_lse, scale, |token| {
                            head.dot(context, d_context, token)
                        });
                    },
                );
                // map is now the softmax, d_map the gradient of the unscaled scores
                let [to_keys, to_values] =
                    [&*d_map, &*map].map(|map| (map.as_slice(), head.map().transposed()));
                let products = [
                    (0, head.mix_by((d_map, head.map()), (qkv, head.packed(1)))),
                    (1, head.mix_by(to_keys, (qkv, head.packed(0)))),
                    (2, head.mix_by(to_values, (d_context, head.columns()))),
                ];
                for (part, product) in products {
                    product.write(d_qkv, head.packed(part));
                }
            }
        },
    );
    let shape = [sizes.batch * tokens, 3 * width];
    Tensor::from_data(TensorData::new(d_qkv, shape), &device)
}

/// Each row of `map` from scores to their softmax, and of `d_map` from the gradient of the softmax to that of the scores
/// before they were scaled. `along` gives the sum of a row's softmax times its gradient: from the values that were mixed,
/// since a softmax of large scores is no closer to 1 in sum than `row_lse` is.
#[inline(always)]
fn softmax_backward(
    math: Math,
    map: &mut [f32],
    d_map: &mut [f32],
    row_lse: &[f32],
    scale: f32,
    along: impl Fn(usize) -> f32,
) {
    let tokens = row_lse.len();
    let rows = map.chunks_exact_mut(tokens).zip(row_lse).enumerate();
    for ((token, (row, &row_lse)), d_row) in rows.zip(d_map.chunks_exact_mut(tokens)) {
        for x in row.iter_mut() {
            *x = math.exp(*x - row_lse);
        }
        let along = along(token);
        for (d_y, y) in d_row.iter_mut().zip(&*row) {
            *d_y = y * (*d_y - along) * scale;
        }
    }
}
