//! Images to flat patches.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// `[B, C, S, S]` -> `[B N, C P P]`.
pub(in crate::kernels) fn forward<B: Backend>(images: Tensor<B, 4>, patch: usize) -> Tensor<B, 2> {
    let [batch, channels, height, width] = images.dims();
    let (rows, columns) = (height / patch, width / patch);
    images
        .reshape([batch, channels, rows, patch, columns, patch])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([batch * rows * columns, channels * patch * patch])
}

/// The images whose patches these are, of shape `dims`.
pub(in crate::kernels) fn backward<B: Backend>(
    patches: Tensor<B, 2>,
    dims: [usize; 4],
    patch: usize,
) -> Tensor<B, 4> {
    let [batch, channels, height, width] = dims;
    let (rows, columns) = (height / patch, width / patch);
    patches
        .reshape([batch, rows, columns, channels, patch, patch])
        .permute([0, 3, 1, 4, 2, 5])
        .reshape(dims)
}
