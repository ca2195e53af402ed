//! Cross-entropy between logits and the classes of labeled images.

use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

/// Mean cross-entropy against smoothed labels: the target of an image's own class is `1 - s + s / K`, that of each other
/// one `s / K`.
///
/// Source: Szegedy et al., arXiv 1512.00567, section 7; `LabelSmoothingCrossEntropy` in timm/loss/cross_entropy.py.
///
/// # Shapes
/// `logits` `[B, K]`, `labels` `[B]` below K -> `[1]`; `smoothing` s from 0 to below 1.
pub fn label_loss<B: Backend>(
    logits: Tensor<B, 2>,
    labels: &[usize],
    smoothing: f64,
) -> Tensor<B, 1> {
    let [batch, classes] = logits.dims();
    let spread = smoothing / classes as f64;
    // built on the host: labels come from there, and classes are few
    let mut targets = vec![spread as f32; batch * classes];
    for (row, label) in targets.chunks_exact_mut(classes).zip(labels) {
        row[*label] = (1.0 - smoothing + spread) as f32;
    }
    let targets = TensorData::new(targets, [batch, classes]);
    let targets = Tensor::<B, 2>::from_data(targets, &logits.device());
    let terms = (log_softmax(logits, 1) * targets).sum_dim(1).sum_dim(0);
    terms.reshape([1]) / -(batch as f64)
}
