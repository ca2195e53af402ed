//! From the device that was selected to the backend that computes on it: the one place that knows which is which.

use burn_flex::Flex;
use burn_ndarray::NdArray;

use crate::device::Selected;
use crate::kernels::backend::IbotBackend;
use crate::kernels::backends::Gpu;

/// What can be done on any backend; to train, on `Autodiff<B>`.
pub trait OnBackend {
    /// What comes of it.
    type Output;

    /// Does it on `device` of the backend `B`.
    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output;
}

impl Selected {
    /// Does it on this device.
    pub fn dispatch<T: OnBackend>(&self, task: T) -> T::Output {
        match self {
            Self::Wgpu { device, .. } => task.run::<Gpu>(device.clone()),
            Self::Flex => task.run::<Flex>(Default::default()),
            Self::NdArray => task.run::<NdArray<f32>>(Default::default()),
        }
    }
}
