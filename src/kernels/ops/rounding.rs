//! Where half precision rounds, on backends that keep f32.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use crate::kernels::backend::IbotBackend;
use crate::precision::Precision;

/// Each entry as the nearest number that `precision` has, ties to even; too large for f16 is infinite.
pub fn rounded<B: IbotBackend, const D: usize>(
    x: Tensor<B, D>,
    precision: Precision,
) -> Tensor<B, D> {
    if precision == Precision::F32 {
        return x;
    }
    let nearest = |x| precision.nearest(x);
    let (shape, device) = (x.shape(), x.device());
    let entries = x.into_data().iter::<f32>().map(nearest).collect();
    Tensor::from_data(TensorData::new::<f32, _>(entries, shape), &device)
}

/// `x` with entries of this type: itself, or a copy.
pub(crate) fn as_dtype<B: Backend, const D: usize>(x: Tensor<B, D>, dtype: DType) -> Tensor<B, D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// `x` as an operand of a product in the [`Precision::current`].
pub(in crate::kernels) fn operand<B: IbotBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    B::rounded(x, Precision::current())
}

/// `x` as an operand of one of attention's products in the [`Precision::current`]: of maps that a GPU never stores, and of
/// tokens that it keeps in f16 anyway.
pub(in crate::kernels) fn attention_operand<B: IbotBackend, const D: usize>(
    x: Tensor<B, D>,
) -> Tensor<B, D> {
    match Precision::current() {
        Precision::Bf16 => B::rounded(x, Precision::Bf16),
        Precision::F32 | Precision::F16 => x,
    }
}

/// `x` as tokens, and their gradients, are stored in the [`Precision::current`].
pub(in crate::kernels) fn as_stored<B: IbotBackend, const D: usize>(
    x: Tensor<B, D>,
) -> Tensor<B, D> {
    match Precision::current() {
        Precision::F16 => B::rounded(x, Precision::F16),
        Precision::F32 | Precision::Bf16 => x,
    }
}
