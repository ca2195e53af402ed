//! Multi-head softmax attention from packed queries, keys and values, forward and backward.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::product::{Layout, RowIndices};
use crate::kernels::ops::rounding::{as_dtype, as_stored, attention_operand};

/// What [`crate::kernels::IbotBackend::packed_attention`] takes.
#[derive(Debug, Clone)]
pub struct AttentionInput<B: Backend> {
    /// Queries, keys and values of each token side by side, `[B T, 3 D]`.
    pub qkv: Tensor<B, 2>,
    /// Number B of images.
    pub batch: usize,
    /// Number H of heads; divides D.
    pub heads: usize,
    /// The M of B T tokens whose context is looked at. That of the others, which have no gradient from there, is left out
    /// where this saves work. `None` for all.
    pub queries: Option<RowIndices>,
}

/// What attention computes, and what its backward needs of it.
#[derive(Debug, Clone)]
pub struct AttentionOutput<B: Backend> {
    /// Values mixed by attention, `[B T, D]`; undefined outside of [`AttentionInput::queries`].
    pub context: Tensor<B, 2>,
    /// Logarithm of the sum of each query's exponentials, `[B H T]`: the maps are `exp(scores - row_lse)`, and never kept.
    /// Undefined outside of [`AttentionInput::queries`].
    pub row_lse: Tensor<B, 1>,
}

/// Sizes that the packed tensor implies.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub tokens: usize,
    pub head_width: usize,
}

impl Sizes {
    pub fn new<B: Backend>(input: &AttentionInput<B>) -> Self {
        let [rows, columns] = input.qkv.dims();
        Self {
            batch: input.batch,
            heads: input.heads,
            tokens: rows / input.batch,
            head_width: columns / 3 / input.heads,
        }
    }

    pub fn scale(&self) -> f64 {
        (self.head_width as f64).sqrt().recip()
    }

    /// `[B T, 3 D]` -> queries, keys and values, each `[B, H, T, D / H]`.
    fn split<B: Backend>(&self, qkv: Tensor<B, 2>) -> [Tensor<B, 4>; 3] {
        let packed = qkv
            .reshape([self.batch, self.tokens, 3, self.heads, self.head_width])
            .permute([2, 0, 3, 1, 4]);
        [0, 1, 2].map(|part| packed.clone().narrow(0, part, 1).squeeze_dim(0))
    }

    /// `[B T, D]` -> `[B, H, T, D / H]`.
    fn by_head<B: Backend>(&self, rows: Tensor<B, 2>) -> Tensor<B, 4> {
        rows.reshape([self.batch, self.tokens, self.heads, self.head_width])
            .swap_dims(1, 2)
    }

    fn row_lses(&self) -> [usize; 4] {
        [self.batch, self.heads, self.tokens, 1]
    }
}

/// `q k^T / sqrt(D / H)`, `[B, H, T, T]`.
fn scores<B: IbotBackend>(sizes: &Sizes, q: Tensor<B, 4>, k: Tensor<B, 4>) -> Tensor<B, 4> {
    products(q, k, Layout::RightTransposed) * sizes.scale()
}

/// The product of each head's matrices.
fn products<B: IbotBackend>(
    left: Tensor<B, 4>,
    right: Tensor<B, 4>,
    layout: Layout,
) -> Tensor<B, 4> {
    let [batch, heads, _, _] = left.dims();
    let flat = |x: Tensor<B, 4>| attention_operand(x.flatten::<3>(0, 1));
    let product = B::matrix_products(flat(left), flat(right), layout);
    let [_, rows, columns] = product.dims();
    product.reshape([batch, heads, rows, columns])
}

/// Softmax of each row, `[B, H, T, T]`, and the logarithm of the sum of its exponentials, `[B, H, T, 1]`.
fn softmax<B: Backend>(scores: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let max = scores.clone().max_dim(3);
    let exponentials = (scores - max.clone()).exp();
    let sum = exponentials.clone().sum_dim(3);
    (exponentials / sum.clone(), sum.log() + max)
}

/// `softmax(q k^T / sqrt(D / H)) v` (arXiv 1706.03762, equation 1) for each head.
pub fn forward<B: IbotBackend>(input: AttentionInput<B>) -> AttentionOutput<B> {
    let sizes = Sizes::new(&input);
    let [q, k, v] = sizes.split(input.qkv);
    let (probs, row_lse) = softmax(scores(&sizes, q, k));
    let count = sizes.batch * sizes.heads * sizes.tokens;
    AttentionOutput {
        context: as_stored(heads_to_columns(vec![products(probs, v, Layout::Plain)])),
        row_lse: row_lse.reshape([count]),
    }
}

/// Gradient of the packed input, `[B T, 3 D]`.
pub fn backward<B: IbotBackend>(
    input: AttentionInput<B>,
    output: AttentionOutput<B>,
    d_context: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let sizes = Sizes::new(&input);
    let [q, k, v] = sizes.split(input.qkv);
    let scores = scores(&sizes, q.clone(), k.clone());
    let probs = (scores - output.row_lse.reshape(sizes.row_lses())).exp();
    let d_out = sizes.by_head(d_context);
    // sum of d_probs * probs over the keys (FlashAttention, arXiv 2205.14135, equation 4)
    let along = (d_out.clone() * sizes.by_head(output.context)).sum_dim(3);
    let d_probs = products(d_out.clone(), v, Layout::RightTransposed);
    let d_v = products(probs.clone(), d_out, Layout::LeftTransposed);
    let d_scores = probs * (d_probs - along) * sizes.scale();
    let d_q = products(d_scores.clone(), k, Layout::Plain);
    let d_k = products(d_scores, q, Layout::LeftTransposed);
    as_stored(heads_to_columns(vec![d_q, d_k, d_v]))
}

/// Attention of each token to each, `[B, H, T, T]`; rows sum to 1. To look at: training keeps no maps.
pub fn attention_maps<B: IbotBackend>(input: AttentionInput<B>) -> Tensor<B, 4> {
    let sizes = Sizes::new(&input);
    let [q, k, _] = sizes.split(as_dtype(input.qkv, DType::F32));
    softmax(scores(&sizes, q, k)).0
}

/// n parts `[B, H, T, D / H]` -> `[B T, n D]`: parts, and heads within a part, side by side.
fn heads_to_columns<B: Backend>(parts: Vec<Tensor<B, 4>>) -> Tensor<B, 2> {
    let count = parts.len();
    let [batch, heads, tokens, head_width] = parts[0].dims();
    Tensor::stack::<5>(parts, 0)
        .permute([1, 3, 0, 2, 4])
        .reshape([batch * tokens, count * heads * head_width])
}
