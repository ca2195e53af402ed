//! A vision transformer behind one type, whatever its backend.

use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::backbone::VisionTransformer;
use crate::device::DeviceGuard;
use crate::error::Result;
use crate::kernels::IbotBackend;
use crate::model::{LoadedModel, Preprocessing, fingerprint};

/// What is asked of a batch beside its features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub patches: bool,
    pub attention: bool,
}

/// What a batch gives, on the host.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// `[B, D]`.
    pub cls: Vec<f32>,
    /// `[B, N, D]`; empty where not wanted.
    pub patches: Vec<f32>,
    /// Attention of the class token, or of all tokens where there is none, to the patches in the last block, `[B, H, N]`;
    /// empty where not wanted.
    pub attention: Vec<f32>,
}

/// A model on a device.
pub(super) trait Engine: Send {
    /// `pixels` is `[count, 3, side, side]`.
    fn run(&self, pixels: Vec<f32>, count: usize, side: usize, wanted: Wanted) -> Result<Made>;

    /// The features of the built-in pictures.
    fn fingerprint(&self, preprocessing: &Preprocessing) -> Result<Vec<f32>>;
}

struct On<B: Backend> {
    model: VisionTransformer<B>,
    device: B::Device,
    guard: DeviceGuard,
}

/// The model of the file at `path` on the device of backend `B`.
pub(super) fn engine<B: IbotBackend>(
    model: &mut LoadedModel,
    path: &Path,
    device: B::Device,
    guard: DeviceGuard,
) -> Result<Box<dyn Engine>>
where
    VisionTransformer<B>: Send,
{
    Ok(Box::new(On {
        model: model.backbone(path, &device)?,
        device,
        guard,
    }))
}

impl<B: IbotBackend> Engine for On<B>
where
    VisionTransformer<B>: Send,
{
    fn run(&self, pixels: Vec<f32>, count: usize, side: usize, wanted: Wanted) -> Result<Made> {
        let pixels = TensorData::new(pixels, [count, 3, side, side]);
        let images = Tensor::<B, 4>::from_data(pixels, &self.device);
        let attention = wanted
            .attention
            .then(|| self.model.last_attention(images.clone()));
        let features = self.model.features(images, None);
        let patches = wanted
            .patches
            .then(|| self.model.patches_of(features.clone()));
        let cls = self.model.pool(features);
        let read = || {
            let host = |tensor: Option<TensorData>| {
                tensor.map_or_else(Vec::new, |data| data.iter::<f32>().collect())
            };
            Made {
                cls: host(Some(cls.into_data())),
                patches: host(patches.map(Tensor::into_data)),
                attention: host(attention.map(Tensor::into_data)),
            }
        };
        self.guard.read::<B, _>(&self.device, read)
    }

    fn fingerprint(&self, preprocessing: &Preprocessing) -> Result<Vec<f32>> {
        fingerprint::<B, _>(&self.model, preprocessing, &self.guard, &self.device)
    }
}
