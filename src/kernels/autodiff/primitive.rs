//! Tensors to the primitives that nodes of the graph hold.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

pub(super) fn primitive<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
) -> burn::tensor::ops::FloatTensor<B> {
    tensor.into_primitive().tensor()
}
