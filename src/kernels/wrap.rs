//! Primitives of a backend as tensors.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorMetadata as _, TensorPrimitive};

/// A float primitive as a tensor of rank `D`.
pub(crate) fn wrap<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// A tensor of any rank as a row.
pub(crate) fn flat<B: Backend>(primitive: FloatTensor<B>) -> Tensor<B, 1> {
    let entries = primitive.shape().num_elements();
    wrap(B::float_reshape(primitive, Shape::new([entries])))
}

/// A row as a tensor of this shape.
pub(crate) fn shaped<B: Backend>(row: Tensor<B, 1>, shape: Shape) -> FloatTensor<B> {
    B::float_reshape(row.into_primitive().tensor(), shape)
}
