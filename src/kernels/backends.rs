//! The backends, by what they are used for.

use burn::tensor::backend::AutodiffBackend;
use burn_ndarray::NdArray;

use crate::kernels::backend::IbotBackend;

/// burn's wgpu backend, without its operation fusion (wrong results: burn issues 5257, 5079).
pub type Gpu = burn_wgpu::CubeBackend<burn_wgpu::WgpuRuntime, f32, i32, u32>;

/// An autodiff backend whose inner backend trains iBOT too: the student lives on it, the teacher on the inner one.
pub trait TrainBackend: IbotBackend + AutodiffBackend<InnerBackend: IbotBackend> {}

impl<B: IbotBackend + AutodiffBackend<InnerBackend: IbotBackend>> TrainBackend for B {}

impl IbotBackend for NdArray<f32> {}
