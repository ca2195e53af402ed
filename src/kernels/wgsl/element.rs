//! What an entry of a tensor is in memory, and tensors of them.

use burn::tensor::{DType, Shape, Tensor};
use burn_wgpu::{CubeTensor, WgpuRuntime, into_contiguous};

use crate::kernels::backends::Gpu;
use crate::precision::Precision;

/// A tensor on the device.
type GpuTensor = CubeTensor<WgpuRuntime>;

/// What an entry of a tensor is in memory. Kernels compute in f32: they widen what they load, and round once where they store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Element {
    #[default]
    F32,
    F16,
}

impl Element {
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// Of the tokens that the current precision keeps, and of its products' operands.
    pub fn current() -> Self {
        match Precision::current() {
            Precision::F16 => Self::F16,
            Precision::F32 | Precision::Bf16 => Self::F32, // `check_precision` refuses bf16
        }
    }

    /// Panics on anything but f32 and f16, which no caller passes.
    pub fn of(tensor: &GpuTensor) -> Self {
        Self::of_dtype(tensor.dtype)
    }

    pub fn of_dtype(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            other => panic!("the kernels take f32 and f16 tensors, not {other:?}"),
        }
    }

    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Its name in WGSL.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

/// The tensor's buffer without gaps, of f32 or f16.
pub(super) fn rows_of<const D: usize>(tensor: Tensor<Gpu, D>) -> GpuTensor {
    let tensor = tensor.into_primitive().tensor();
    Element::of(&tensor); // panics on others
    into_contiguous(tensor)
}

/// The same with entries of this kind: itself, or a copy.
pub(super) fn rows_as<const D: usize>(tensor: Tensor<Gpu, D>, element: Element) -> GpuTensor {
    rows_of(cast(tensor, element))
}

/// The tensor's buffer without gaps, as an operation of the current precision reads it: f32 alone, or f16 too.
pub(super) fn taken<const D: usize>(tensor: Tensor<Gpu, D>) -> GpuTensor {
    match Element::current() {
        Element::F32 => rows_as(tensor, Element::F32),
        Element::F16 => rows_of(tensor),
    }
}

/// The tensor with entries of this kind: itself, or a copy.
pub(super) fn cast<const D: usize>(tensor: Tensor<Gpu, D>, element: Element) -> Tensor<Gpu, D> {
    tensor.cast(element.dtype())
}

/// A new tensor with such entries on the device of `like`; they are whatever lies there.
pub(super) fn empty_of<const D: usize>(
    element: Element,
    like: &GpuTensor,
    shape: [usize; D],
) -> GpuTensor {
    let shape = Shape::from(shape);
    let bytes = shape.num_elements() * element.bytes();
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        shape,
        like.client.empty(bytes),
        element.dtype(),
    )
}
