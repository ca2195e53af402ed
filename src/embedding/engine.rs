//! A vision transformer behind one type, whatever its backend.

use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::backbone::VisionTransformer;
use crate::data::Pixels;
use crate::device::DeviceGuard;
use crate::error::Result;
use crate::files::model::{LoadedModel, Preprocessing, first_features};
use crate::kernels::{IbotBackend, OnBackend};
use crate::precision::Precision;

/// Tokens that a model sees at once at most, 47 images of 518 pixels in patches of 14: its memory grows with them.
const MAX_TOKENS: usize = 1 << 16;

/// Which results to compute for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Last blocks L whose features are given.
    pub layers: usize,
    pub patch_means: bool,
    pub patches: bool,
    pub attention: bool,
}

impl Wanted {
    /// The feature of each image.
    pub const CLS: Self = Self {
        layers: 1,
        patch_means: false,
        patches: false,
        attention: false,
    };
}

/// The results for a batch, on the host.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// `[B, L, D]`.
    pub cls: Vec<f32>,
    /// Means over the patches, `[B, L, D]`; empty where not wanted.
    pub patch_means: Vec<f32>,
    /// Those of the last L blocks side by side, the last block last, `[B, N, L * D]`; empty where not wanted.
    pub patches: Vec<f32>,
    /// Attention of the class token, or of all tokens where there is none, to the patches in the last block, `[B, H, N]`;
    /// empty where not wanted.
    pub attention: Vec<f32>,
}

impl Made {
    /// With the results for the images after these.
    fn append(&mut self, next: Self) {
        self.cls.extend(next.cls);
        self.patch_means.extend(next.patch_means);
        self.patches.extend(next.patches);
        self.attention.extend(next.attention);
    }
}

/// A model on a device.
pub(super) trait Engine: Send {
    /// `pixels` is `[B, 3, side, side]`.
    fn run(&self, pixels: Pixels, side: usize, wanted: Wanted) -> Result<Made>;

    /// The features of the first `count` built-in images.
    fn fingerprint(&self, preprocessing: &Preprocessing, count: usize) -> Result<Vec<f32>>;
}

/// Number of images of `side` pixels that a model sees at once.
fn images_at_once(side: usize, patch_size: usize) -> usize {
    let grid = side / patch_size.max(1);
    (MAX_TOKENS / (grid * grid + 1)).max(1)
}

struct On<B: Backend> {
    model: VisionTransformer<B>,
    device: B::Device,
    guard: DeviceGuard,
    precision: Precision,
}

/// A model on its way to a device.
pub(super) struct Loading<'a> {
    pub model: &'a mut LoadedModel,
    /// Its file.
    pub path: &'a Path,
    pub guard: DeviceGuard,
    pub precision: Precision,
}

impl OnBackend for Loading<'_> {
    type Output = Result<Box<dyn Engine>>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        B::check_precision(self.precision, &device)?;
        Ok(Box::new(On::<B> {
            model: self.model.backbone(self.path, &device)?,
            device,
            guard: self.guard,
            precision: self.precision,
        }))
    }
}

impl<B: IbotBackend> Engine for On<B> {
    fn run(&self, mut pixels: Pixels, side: usize, wanted: Wanted) -> Result<Made> {
        let at_once = images_at_once(side, self.model.config().patch_size);
        let mut all = Made::default();
        while !pixels.is_empty() {
            let images = pixels.take_first(at_once * 3 * side * side);
            let made = || self.made(images, side, wanted);
            // a device that is lost may panic at any use
            all.append(self.guard.catch(|| self.precision.autocast(made))??);
        }
        Ok(all)
    }

    fn fingerprint(&self, preprocessing: &Preprocessing, count: usize) -> Result<Vec<f32>> {
        let (model, guard, device) = (&self.model, &self.guard, &self.device);
        let features = || first_features::<B, _>(model, preprocessing, count, guard, device);
        self.precision.autocast(features)
    }
}

impl<B: IbotBackend> On<B> {
    fn made(&self, pixels: Pixels, side: usize, wanted: Wanted) -> Result<Made> {
        let images = pixels.into_tensor::<B>(side, &self.device);
        let attention = wanted
            .attention
            .then(|| self.model.last_selfattention(images.clone()));
        let layers = self.model.intermediate_layers(images, wanted.layers);
        let patches_of = |layer: &Tensor<B, 3>| self.model.patches_of(layer.clone());
        let means = layers.iter().map(|layer| patches_of(layer).mean_dim(1));
        let patch_means = wanted.patch_means.then(|| Tensor::cat(means.collect(), 1));
        let patches = || Tensor::cat(layers.iter().map(patches_of).collect(), 2);
        let patches = wanted.patches.then(patches);
        let pooled = |layer: Tensor<B, 3>| self.model.pool(layer).unsqueeze_dim(1);
        let cls = Tensor::<B, 3>::cat(layers.into_iter().map(pooled).collect(), 1);
        let read = || {
            let host = |tensor: Option<TensorData>| {
                tensor.map_or_else(Vec::new, |data| data.iter::<f32>().collect())
            };
            Made {
                cls: host(Some(cls.into_data())),
                patch_means: host(patch_means.map(Tensor::into_data)),
                patches: host(patches.map(Tensor::into_data)),
                attention: host(attention.map(Tensor::into_data)),
            }
        };
        self.guard.read::<B, _>(&self.device, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_images_are_seen_one_by_one() {
        assert_eq!(images_at_once(224, 16), 332);
        assert_eq!(images_at_once(518, 14), 47);
        assert_eq!(images_at_once(2048, 16), 3);
        assert_eq!(images_at_once(8192, 16), 1);
        assert_eq!(images_at_once(0, 0), 1 << 16);
    }
}
