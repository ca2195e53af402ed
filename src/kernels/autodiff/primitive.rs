//! Tensors to the primitives that nodes of the graph hold.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn_autodiff::Autodiff;

use crate::kernels::wrap::wrap;

pub(super) fn primitive<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// A matrix on the autodiff backend that is in no graph: with the node of another one it names that one's gradient, as burn
/// names gradients by whole tensors, of which it looks at the node alone.
pub(super) fn untracked<B: Backend>(tensor: &FloatTensor<B>) -> FloatTensor<Autodiff<B>> {
    primitive(Tensor::<Autodiff<B>, 2>::from_inner(wrap(tensor.clone())))
}
