//! The backends, by what they are used for.

use burn::tensor::backend::AutodiffBackend;
use burn_autodiff::grads::Gradients;
use burn_ndarray::NdArray;

use crate::kernels::backend::IbotBackend;

/// burn's wgpu backend, without its operation fusion (wrong results: burn issues 5257, 5079).
pub type Gpu = burn_wgpu::CubeBackend<burn_wgpu::WgpuRuntime, f32, i32, u32>;

/// An autodiff backend whose inner backend trains iBOT too: the student lives on it, the teacher on the inner one.
/// Gradients are burn-autodiff's, as those of all its autodiff backends.
pub trait TrainBackend:
    IbotBackend + AutodiffBackend<InnerBackend: IbotBackend, Gradients = Gradients>
{
}

impl<B> TrainBackend for B where
    B: IbotBackend + AutodiffBackend<InnerBackend: IbotBackend, Gradients = Gradients>
{
}

impl IbotBackend for NdArray<f32> {}
