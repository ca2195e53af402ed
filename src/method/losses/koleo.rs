//! Kozachenko-Leonenko regularizer: spreads features over the sphere.

use burn::tensor::Tensor;

use crate::kernels::{IbotBackend, L2NormInput, LinearInput};

/// Similarity that takes a row out of its own neighbors; below any cosine.
const EXCLUDED: f64 = -2.0;

/// Mean negative log distance of each normalized feature to its nearest neighbor in the batch.
///
/// Source: Sablayrolles et al., arXiv 1806.03198; `KoLeoLoss` in lightly/loss/koleo_loss.py.
///
/// # Shapes
/// `features` `[B, D]`, B >= 2 -> `[1]`.
pub fn koleo_loss<B: IbotBackend>(features: Tensor<B, 2>, eps: f64) -> Tensor<B, 1> {
    let [batch, _] = features.dims();
    let device = features.device();
    let unit = B::l2_normalize_rows(L2NormInput {
        x: features,
        min_squared_norm: eps * eps,
    });
    // without this, each feature would be its own nearest neighbor at distance 0
    let own = Tensor::<B, 2>::eye(batch, &device).bool();
    // detached: the choice of the neighbor has no gradient, only the distance to it
    let detached = unit.clone().detach();
    let similarity = B::linear_rows(LinearInput {
        x: detached.clone(),
        weight: detached.transpose(),
        bias: None,
        residual: None,
    });
    let similarity = similarity.mask_fill(own, EXCLUDED);
    let nearest = similarity.argmax(1).reshape([batch]);
    // eps in each channel, as torch's PairwiseDistance: the root of 0 has no gradient
    let difference = unit.clone() - unit.select(0, nearest) + eps;
    let distance = (difference.clone() * difference).sum_dim(1).sqrt();
    -(distance + eps).log().mean_dim(0).reshape([1])
}
