//! Levels of images, bytes on the host, as normalized pixels on the device.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

/// How levels of 0 to 255 become what a model sees: `level * scale + offset` for red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelScale {
    /// 1 / (255 std).
    pub scale: [f32; 3],
    /// -mean / std.
    pub offset: [f32; 3],
}

impl LevelScale {
    /// `(level / 255 - mean) / std`.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self {
            scale: std.map(|std| 1.0 / (255.0 * std)),
            offset: [0, 1, 2].map(|channel: usize| -mean[channel] / std[channel]),
        }
    }
}

/// What [`IbotBackend::upload_levels`](crate::kernels::IbotBackend::upload_levels) takes.
#[derive(Debug, Clone)]
pub struct LevelsInput {
    /// `[B, 3, H, W]`.
    pub levels: Vec<u8>,
    /// B, 3, H and W.
    pub dims: [usize; 4],
    /// What it does to them.
    pub normalization: LevelScale,
}

impl LevelsInput {
    /// Pixels of one channel of one image.
    pub(in crate::kernels) fn area(&self) -> usize {
        self.dims[2] * self.dims[3]
    }
}

/// Normalized on the host, by all cores.
///
/// # Shapes
/// `[B, 3, H, W]`
pub(crate) fn on_host(levels: &[u8], area: usize, normalization: &LevelScale) -> Vec<f32> {
    let LevelScale { scale, offset } = normalization;
    let mut values = vec![0.0; levels.len()];
    let planes = values.par_chunks_mut(area.max(1)).enumerate();
    planes
        .zip(levels.par_chunks(area.max(1)))
        .for_each(|((plane, values), levels)| {
            let (scale, offset) = (scale[plane % 3], offset[plane % 3]);
            for (value, level) in values.iter_mut().zip(levels) {
                *value = f32::from(*level) * scale + offset;
            }
        });
    values
}

/// Normalized on the host, and sent as f32.
pub(in crate::kernels) fn upload<B: Backend>(
    input: &LevelsInput,
    device: &B::Device,
) -> Tensor<B, 4> {
    let values = on_host(&input.levels, input.area(), &input.normalization);
    Tensor::from_data(TensorData::new(values, input.dims), device)
}
