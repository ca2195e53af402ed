//! Multi-head softmax attention from packed queries, keys and values, forward and backward.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax as burn_softmax;
use burn::tensor::backend::Backend;

use super::IbotBackend;

/// What [`super::IbotBackend::packed_attention`] takes.
#[derive(Debug, Clone)]
pub struct AttentionInput<B: Backend> {
    /// Queries, keys and values of each token side by side, `[B T, 3 D]`.
    pub qkv: Tensor<B, 2>,
    /// Number B of images.
    pub batch: usize,
    /// Number H of heads; divides D.
    pub heads: usize,
}

/// What attention computes, and what its backward needs of it.
#[derive(Debug, Clone)]
pub struct AttentionOutput<B: Backend> {
    /// Values mixed by attention, `[B T, D]`.
    pub mixed: Tensor<B, 2>,
    /// Attention of each token to each, `[B, H, T, T]`; rows sum to 1.
    pub probs: Tensor<B, 4>,
}

/// Sizes that the packed tensor implies.
struct Sizes {
    batch: usize,
    heads: usize,
    tokens: usize,
    head_width: usize,
}

impl Sizes {
    fn of<B: Backend>(input: &AttentionInput<B>) -> Self {
        let [rows, columns] = input.qkv.dims();
        Self {
            batch: input.batch,
            heads: input.heads,
            tokens: rows / input.batch,
            head_width: columns / 3 / input.heads,
        }
    }

    fn scale(&self) -> f64 {
        (self.head_width as f64).sqrt().recip()
    }

    /// `[B T, 3 D]` -> queries, keys and values, each `[B, H, T, D / H]`.
    fn split<B: Backend>(&self, qkv: Tensor<B, 2>) -> [Tensor<B, 4>; 3] {
        let packed = qkv
            .reshape([self.batch, self.tokens, 3, self.heads, self.head_width])
            .permute([2, 0, 3, 1, 4]);
        [0, 1, 2].map(|part| packed.clone().narrow(0, part, 1).squeeze_dim(0))
    }

    /// Rows of all attention maps, one below the other, `[B H T, T]`.
    fn map_rows(&self) -> [usize; 2] {
        [self.batch * self.heads * self.tokens, self.tokens]
    }

    fn maps(&self) -> [usize; 4] {
        [self.batch, self.heads, self.tokens, self.tokens]
    }
}

/// `softmax(q k^T / sqrt(D / H)) v` (arXiv 1706.03762, equation 1) for each head.
pub(super) fn forward<B: IbotBackend>(input: AttentionInput<B>) -> AttentionOutput<B> {
    let sizes = Sizes::of(&input);
    let [q, k, v] = sizes.split(input.qkv);
    let scores = q.matmul(k.swap_dims(2, 3)).reshape(sizes.map_rows());
    let probs = B::softmax_rows(scores, sizes.scale()).reshape(sizes.maps());
    AttentionOutput {
        mixed: B::heads_to_columns(vec![probs.clone().matmul(v)]),
        probs,
    }
}

/// Gradient of the packed input, `[B T, 3 D]`.
pub(super) fn backward<B: IbotBackend>(
    input: AttentionInput<B>,
    probs: Tensor<B, 4>,
    d_mixed: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let sizes = Sizes::of(&input);
    let [q, k, v] = sizes.split(input.qkv);
    let d_out = d_mixed
        .reshape([sizes.batch, sizes.tokens, sizes.heads, sizes.head_width])
        .swap_dims(1, 2);
    let d_probs = d_out.clone().matmul(v.swap_dims(2, 3));
    let d_v = probs.clone().swap_dims(2, 3).matmul(d_out);
    let rows = sizes.map_rows();
    let d_scores =
        B::softmax_rows_backward(probs.reshape(rows), d_probs.reshape(rows), sizes.scale());
    let d_scores = d_scores.reshape(sizes.maps());
    let d_q = d_scores.clone().matmul(k);
    let d_k = d_scores.swap_dims(2, 3).matmul(q);
    B::heads_to_columns(vec![d_q, d_k, d_v])
}

/// Parts P times `[B, H, T, D / H]` -> `[B T, P D]`: parts, and heads within a part, side by side.
pub(super) fn heads_to_columns<B: Backend>(parts: Vec<Tensor<B, 4>>) -> Tensor<B, 2> {
    let count = parts.len();
    let [batch, heads, tokens, head_width] = parts[0].dims();
    Tensor::stack::<5>(parts, 0)
        .permute([1, 3, 0, 2, 4])
        .reshape([batch * tokens, count * heads * head_width])
}

/// Softmax of each row times `scale`.
pub(super) fn softmax<B: Backend>(x: Tensor<B, 2>, scale: f64) -> Tensor<B, 2> {
    burn_softmax(x * scale, 1)
}

/// `scale * y * (d_y - sum(d_y * y))` for each row, from the softmax `y`.
pub(super) fn softmax_backward<B: Backend>(
    y: Tensor<B, 2>,
    d_y: Tensor<B, 2>,
    scale: f64,
) -> Tensor<B, 2> {
    let along = (d_y.clone() * y.clone()).sum_dim(1);
    y * (d_y - along) * scale
}
