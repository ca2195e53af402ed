//! A vision transformer behind one type, whatever its backend.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::backbone::VisionTransformer;
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::kernels::IbotBackend;
use crate::model::{FINGERPRINT_PICTURES, LoadedModel, Preprocessing, fingerprint_of_first};
use crate::random::Random;
use crate::weights::load_state_dict;

/// What is asked of a batch beside its features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub patches: bool,
    pub attention: bool,
}

/// What a batch gives, on the host.
#[derive(Debug, Default)]
pub(crate) struct Made {
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

    /// The features of built-in pictures, to compare with what a file says of them.
    fn fingerprint(&self, preprocessing: &Preprocessing) -> Result<Vec<f32>>;
}

struct On<B: Backend> {
    model: VisionTransformer<B>,
    device: B::Device,
    guard: DeviceGuard,
}

/// The model on the device of backend `B`.
pub(super) fn engine<B: IbotBackend>(
    model: &mut LoadedModel,
    device: B::Device,
    guard: DeviceGuard,
) -> Result<Box<dyn Engine>>
where
    VisionTransformer<B>: Send,
{
    let fresh = model
        .architecture
        .init::<B>(&mut Random::blank(), &device)?;
    let (loaded, mut report) = load_state_dict(fresh, std::mem::take(&mut model.tensors));
    report.ignore_classifier();
    if !report.is_clean() {
        return Err(Error::Training(format!(
            "the file does not fit its architecture: {report}"
        )));
    }
    Ok(Box::new(On {
        model: loaded,
        device,
        guard,
    }))
}

impl<B: IbotBackend> Engine for On<B>
where
    VisionTransformer<B>: Send,
{
    fn run(&self, pixels: Vec<f32>, count: usize, side: usize, wanted: Wanted) -> Result<Made> {
        // a device that is lost may panic at any use
        self.guard
            .catch(|| self.made(pixels, count, side, wanted))?
    }

    fn fingerprint(&self, preprocessing: &Preprocessing) -> Result<Vec<f32>> {
        // it is drivers that compute something else; on the CPU, where a picture is dear, one tells what the model is
        let count = match self.guard {
            DeviceGuard::Cpu => 1,
            DeviceGuard::Gpu(_) => FINGERPRINT_PICTURES,
        };
        let (guard, device) = (&self.guard, &self.device);
        fingerprint_of_first::<B, _>(count, &self.model, preprocessing, guard, device)
    }
}

impl<B: IbotBackend> On<B> {
    fn made(&self, pixels: Vec<f32>, count: usize, side: usize, wanted: Wanted) -> Result<Made> {
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
}
