//! Where half precision rounds, on backends that keep f32.

use burn::tensor::{Tensor, TensorData};
use half::{bf16, f16};

use crate::kernels::backend::IbotBackend;
use crate::precision::Precision;

/// Each entry as the nearest number that `precision` has, ties to even; too large for f16 is infinite.
pub fn rounded<B: IbotBackend, const D: usize>(
    x: Tensor<B, D>,
    precision: Precision,
) -> Tensor<B, D> {
    let nearest: fn(f32) -> f32 = match precision {
        Precision::F32 => return x,
        Precision::F16 => |x| f16::from_f32(x).to_f32(),
        Precision::Bf16 => |x| bf16::from_f32(x).to_f32(),
    };
    let (shape, device) = (x.shape(), x.device());
    let entries = x.into_data().iter::<f32>().map(nearest).collect();
    Tensor::from_data(TensorData::new::<f32, _>(entries, shape), &device)
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

/// `x` as tokens, and their gradients, are kept in the [`Precision::current`].
pub(in crate::kernels) fn kept<B: IbotBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    match Precision::current() {
        Precision::F16 => B::rounded(x, Precision::F16),
        Precision::F32 | Precision::Bf16 => x,
    }
}
