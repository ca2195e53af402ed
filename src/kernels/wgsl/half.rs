//! Which precisions a device has.

use burn::tensor::backend::Backend as _;
use burn::tensor::{DType, Tensor};
use burn_wgpu::WgpuDevice;

use crate::error::{Error, Result};
use crate::kernels::backends::Gpu;
use crate::kernels::ops::rounding;
use crate::precision::Precision;

/// wgpu compiles for Direct3D 12 by Windows' own compiler, which has no f16, unless it finds the newer one.
const NO_HALF: &str = if cfg!(target_os = "windows") {
    "the adapter has no f16 in shaders (SHADER_F16); use f32, or IBOT_API=vulkan; through Direct3D 12, f16 needs Microsoft's dxcompiler.dll \
     beside the program"
} else {
    "the adapter has no f16 in shaders (SHADER_F16); use f32"
};

/// See [`crate::kernels::IbotBackend::check_precision`].
pub(super) fn check(precision: Precision, device: &WgpuDevice) -> Result<()> {
    let remedy = match precision {
        Precision::F32 => return Ok(()),
        Precision::F16 if Gpu::supports_dtype(device, DType::F16) => return Ok(()),
        Precision::F16 => NO_HALF,
        Precision::Bf16 => "GPUs have no bf16 through WGSL; use f16, or `backend` flex",
    };
    Err(Error::config("precision", precision, remedy))
}

/// See [`crate::kernels::IbotBackend::rounded`]; of the entries that `x` has.
pub(super) fn rounded<const D: usize>(x: Tensor<Gpu, D>, precision: Precision) -> Tensor<Gpu, D> {
    match precision {
        Precision::F32 => x,
        Precision::F16 if x.dtype() == DType::F16 => x,
        Precision::F16 => x.cast(DType::F16).cast(DType::F32),
        Precision::Bf16 => rounding::rounded(x, precision), // `check` refuses it
    }
}
