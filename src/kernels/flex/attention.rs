//! Attention for burn's CPU backend Flex: straight from the packed queries, keys and values, one head's map at a time.
//!
//! Images are done in parallel. A map is [T, T] in a core's cache; no permuted copy is made, and no map outlives its head.

use std::borrow::Cow;

use burn::tensor::{Tensor, TensorData};
use burn_flex::Flex;
use rayon::prelude::*;

use crate::kernels::flex::matrix::Matrix;
use crate::kernels::flex::product::Product;
use crate::kernels::flex::rows::{contiguous, in_pieces_with};
use crate::kernels::flex::vector_math::{Math, largest, sums, vectorized};
use crate::kernels::ops::attention::Sizes;
use crate::kernels::ops::attention::{AttentionInput, AttentionOutput};
use crate::precision::Precision;

/// Where the parts of one head are in the rows of an image.
#[derive(Clone, Copy)]
struct Head {
    sizes: Sizes,
    head: usize,
    /// Number M of queries: all T, or those of some tokens, copied out.
    queries: usize,
    /// Entries from one query to the next.
    query_step: usize,
    /// Whether products have operands in bf16.
    in_bf16: bool,
}

impl Head {
    fn width(self) -> usize {
        self.sizes.heads * self.sizes.head_width
    }

    /// `[M, D / H]`.
    fn queries(self) -> Matrix {
        Matrix {
            row_step: self.query_step,
            ..self.packed(0)
        }
    }

    /// Queries (0), keys (1) or values (2) in packed rows, `[T, D / H]`.
    fn packed(self, part: usize) -> Matrix {
        Matrix {
            start: part * self.width() + self.head * self.sizes.head_width,
            row_step: 3 * self.width(),
            column_step: 1,
        }
    }

    /// The head's columns in rows of all heads, `[M, D / H]`.
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

    /// `[M, D / H] x [D / H, T]`, a map.
    fn map_of<'a>(self, left: (&'a [f32], Matrix), right: (&'a [f32], Matrix)) -> Product<'a> {
        Product {
            rows: self.queries,
            inner: self.sizes.head_width,
            columns: self.sizes.tokens,
            left,
            right: (right.0, right.1.transposed()),
            factor: 1.0,
            parallel: false,
            in_bf16: self.in_bf16,
        }
    }

    /// `[M, T] x [T, D / H]`.
    fn mix_by<'a>(self, map: &'a [f32], rows: (&'a [f32], Matrix)) -> Product<'a> {
        Product {
            rows: self.queries,
            inner: self.sizes.tokens,
            columns: self.sizes.head_width,
            left: (map, self.map()),
            right: rows,
            factor: 1.0,
            parallel: false,
            in_bf16: self.in_bf16,
        }
    }

    /// `[T, M] x [M, D / H]`, by the transpose of a map.
    fn mix_back<'a>(self, map: &'a [f32], rows: (&'a [f32], Matrix)) -> Product<'a> {
        Product {
            rows: self.sizes.tokens,
            inner: self.queries,
            left: (map, self.map().transposed()),
            ..self.mix_by(map, rows)
        }
    }

    /// Product of a query's columns in two buffers of rows.
    #[inline(always)]
    fn dot(self, a: &[f32], b: &[f32], query: usize) -> f32 {
        let start = query * self.width() + self.head * self.sizes.head_width;
        let of_head = start..start + self.sizes.head_width;
        let (a, b) = (&a[of_head.clone()], &b[of_head]);
        let [dot] = sums([a, b], |[a, b]| [a * b]);
        dot
    }

    /// `q k^T / sqrt(D / H)`.
    fn scores(self, queries: &[f32], qkv: &[f32], map: &mut [f32]) {
        let product = Product {
            factor: self.sizes.scale() as f32,
            ..self.map_of((queries, self.queries()), (qkv, self.packed(1)))
        };
        product.write(map, self.map());
    }
}

/// What all images and heads have in common.
#[derive(Clone, Copy)]
struct Common {
    sizes: Sizes,
    in_bf16: bool,
}

impl Common {
    fn new(input: &AttentionInput<Flex>) -> Self {
        Self {
            sizes: Sizes::new(input),
            in_bf16: Precision::current() == Precision::Bf16,
        }
    }

    /// The heads of an image.
    fn heads(self, queries: usize, query_step: usize) -> impl Iterator<Item = Head> {
        let Self { sizes, in_bf16 } = self;
        (0..sizes.heads).map(move |head| Head {
            sizes,
            head,
            queries,
            query_step,
            in_bf16,
        })
    }
}

/// For each image the tokens whose queries are asked for, or `None` for all of them.
fn chosen_tokens(input: &AttentionInput<Flex>) -> Vec<Option<Vec<usize>>> {
    let Some(queries) = &input.queries else {
        return vec![None; input.batch];
    };
    let tokens = Sizes::new(input).tokens;
    let mut chosen = vec![Vec::new(); input.batch];
    for &place in queries.indices() {
        chosen[place as usize / tokens].push(place as usize % tokens);
    }
    chosen.into_iter().map(Some).collect()
}

/// Rows that lie `step` apart, or copies of the first `width` entries of some, side by side.
fn picked<'a>(
    rows: &'a [f32],
    step: usize,
    width: usize,
    chosen: Option<&[usize]>,
) -> Cow<'a, [f32]> {
    let Some(chosen) = chosen else {
        return Cow::Borrowed(rows);
    };
    let row = |token: &usize| &rows[token * step..][..width];
    Cow::Owned(chosen.iter().flat_map(row).copied().collect())
}

/// Copies rows back to where [`picked`] has them from.
fn put_back(picked: &[f32], width: usize, chosen: &[usize], rows: &mut [f32], step: usize) {
    for (token, row) in chosen.iter().zip(picked.chunks_exact(width)) {
        rows[token * step..][..width].copy_from_slice(row);
    }
}

/// With chosen queries, `row_lse` of an image begins with theirs.
pub(super) fn forward(input: AttentionInput<Flex>) -> AttentionOutput<Flex> {
    let common = Common::new(&input);
    let sizes = common.sizes;
    let (tokens, width) = (sizes.tokens, sizes.heads * sizes.head_width);
    let device = input.qkv.device();
    let chosen = chosen_tokens(&input);
    let qkv = contiguous(input.qkv);
    let mut row_lse = vec![0.0; sizes.batch * sizes.heads * tokens];
    let images = qkv
        .storage::<f32>()
        .par_chunks_exact(tokens * 3 * width)
        .zip(row_lse.par_chunks_exact_mut(sizes.heads * tokens))
        .zip(&chosen);
    let context = in_pieces_with(
        sizes.batch * tokens * width,
        tokens * width,
        images,
        || vec![0.0; tokens * tokens],
        |map, context, ((qkv, row_lse), chosen)| {
            forward_image(common, chosen.as_deref(), qkv, map, context, row_lse);
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

fn forward_image(
    common: Common,
    chosen: Option<&[usize]>,
    qkv: &[f32],
    map: &mut [f32],
    context: &mut [f32],
    row_lse: &mut [f32],
) {
    let sizes = common.sizes;
    let width = sizes.heads * sizes.head_width;
    let (count, step) = chosen.map_or((sizes.tokens, 3 * width), |chosen| (chosen.len(), width));
    if count == 0 {
        return;
    }
    let queries = picked(qkv, 3 * width, width, chosen);
    let mut of_chosen = chosen.map(|_| vec![0.0; count * width]);
    let map = &mut map[..count * sizes.tokens];
    for (head, row_lse) in common
        .heads(count, step)
        .zip(row_lse.chunks_exact_mut(count))
    {
        head.scores(&queries, qkv, map);
        vectorized(
            #[inline(always)]
            |math| softmax(math, map, row_lse),
        );
        let target = match &mut of_chosen {
            Some(of_chosen) => of_chosen.as_mut_slice(),
            None => &mut *context,
        };
        head.mix_by(map, (qkv, head.packed(2)))
            .write(target, head.columns());
    }
    if let Some((chosen, found)) = chosen.zip(of_chosen) {
        put_back(&found, width, chosen, context, width);
    }
}

/// Each row of `map` to its softmax; `row_lse` gets the logarithm of the sum of exponentials.
#[inline(always)]
fn softmax(math: Math, map: &mut [f32], row_lse: &mut [f32]) {
    let tokens = map.len() / row_lse.len();
    for (row, row_lse) in map.chunks_exact_mut(tokens).zip(row_lse) {
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
    let common = Common::new(&input);
    let sizes = common.sizes;
    let (tokens, width) = (sizes.tokens, sizes.heads * sizes.head_width);
    let device = input.qkv.device();
    let chosen = chosen_tokens(&input);
    let qkv = contiguous(input.qkv);
    let (row_lse, d_context) = (contiguous(output.row_lse), contiguous(d_context));
    let context = contiguous(output.context);
    let rows = tokens * width;
    let of_output = context
        .storage::<f32>()
        .par_chunks_exact(rows)
        .zip(d_context.storage::<f32>().par_chunks_exact(rows));
    let row_lse = row_lse.storage::<f32>();
    let images = qkv
        .storage::<f32>()
        .par_chunks_exact(3 * rows)
        .zip(of_output)
        .zip(row_lse.par_chunks_exact(sizes.heads * tokens))
        .zip(&chosen);
    let d_qkv = in_pieces_with(
        sizes.batch * 3 * rows,
        3 * rows,
        images,
        || [vec![0.0; tokens * tokens], vec![0.0; tokens * tokens]],
        |maps, d_qkv, (((qkv, (context, d_context)), row_lse), chosen)| {
            let chosen = chosen.as_deref();
            let pick = |rows| picked(rows, width, width, chosen);
            let of_output = [&*pick(context), &*pick(d_context)];
            backward_image(common, chosen, qkv, of_output, row_lse, maps, d_qkv);
        },
    );
    let shape = [sizes.batch * tokens, 3 * width];
    Tensor::from_data(TensorData::new(d_qkv, shape), &device)
}

/// `context` and its gradient are those of the chosen queries.
fn backward_image(
    common: Common,
    chosen: Option<&[usize]>,
    qkv: &[f32],
    [context, d_context]: [&[f32]; 2],
    row_lse: &[f32],
    maps: &mut [Vec<f32>; 2],
    d_qkv: &mut [f32],
) {
    let sizes = common.sizes;
    let width = sizes.heads * sizes.head_width;
    let (count, step) = chosen.map_or((sizes.tokens, 3 * width), |chosen| (chosen.len(), width));
    if count == 0 {
        return;
    }
    let queries = &*picked(qkv, 3 * width, width, chosen);
    let mut d_queries = chosen.map(|_| vec![0.0; count * width]);
    let [map, d_map] = maps.each_mut().map(|map| &mut map[..count * sizes.tokens]);
    let scale = sizes.scale() as f32;
    for (head, row_lse) in common.heads(count, step).zip(row_lse.chunks_exact(count)) {
        head.scores(queries, qkv, map);
        head.map_of((d_context, head.columns()), (qkv, head.packed(2)))
            .write(d_map, head.map());
        vectorized(
            #[inline(always)]
            |math| {
                softmax_backward(math, map, d_map, row_lse, scale, |query| {
                    head.dot(context, d_context, query)
                });
            },
        );
        // map is now the softmax, d_map the gradient of the unscaled scores
        let to_queries = head.mix_by(d_map, (qkv, head.packed(1)));
        match &mut d_queries {
            Some(d_queries) => to_queries.write(d_queries, head.columns()),
            None => to_queries.write(d_qkv, head.packed(0)),
        }
        head.mix_back(d_map, (queries, head.queries()))
            .write(d_qkv, head.packed(1));
        head.mix_back(map, (d_context, head.columns()))
            .write(d_qkv, head.packed(2));
    }
    if let Some((chosen, found)) = chosen.zip(d_queries) {
        put_back(&found, width, chosen, d_qkv, 3 * width);
    }
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
    let tokens = map.len() / row_lse.len();
    let rows = map.chunks_exact_mut(tokens).zip(row_lse).enumerate();
    for ((query, (row, &row_lse)), d_row) in rows.zip(d_map.chunks_exact_mut(tokens)) {
        for x in row.iter_mut() {
            *x = math.exp(*x - row_lse);
        }
        let along = along(query);
        for (d_y, y) in d_row.iter_mut().zip(&*row) {
            *d_y = y * (*d_y - along) * scale;
        }
    }
}
