//! Patch embedding as one matrix product.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::init::uniform_param;
use crate::kernels::{IbotBackend, LinearLayerInput};
use crate::random::Random;

/// timm's `PatchEmbed`: a convolution whose kernel and stride are the patch, written as a [`Linear`] on flat patches.
#[derive(Module, Debug)]
pub struct PatchEmbed<B: Backend> {
    /// The weight is `[3 P P, D]`, rows in the order (channel, y, x) of timm's `[D, 3, P, P]`.
    pub proj: Linear<B>,
    patch_size: usize,
}

impl<B: Backend> PatchEmbed<B> {
    /// PyTorch's initialization of a convolution: uniform within the inverse root of the inputs.
    pub(super) fn new(
        patch_size: usize,
        width: usize,
        random: &mut Random,
        device: &B::Device,
    ) -> Self {
        let inputs = 3 * patch_size * patch_size;
        let bound = (inputs as f64).sqrt().recip();
        Self {
            proj: Linear {
                weight: uniform_param(random, [inputs, width], bound, device),
                bias: Some(uniform_param(random, [width], bound, device)),
            },
            patch_size,
        }
    }

    /// Side of a patch in pixels.
    pub fn patch_size(&self) -> usize {
        self.patch_size
    }
}

impl<B: IbotBackend> PatchEmbed<B> {
    /// The tokens of the patches of images.
    ///
    /// # Shapes
    /// `images` `[B, 3, H, W]` -> `[B, N, D]`, patches row by row.
    ///
    /// # Panics
    /// Where H or W is no multiple of the patch: no settings lead here, as they are checked before.
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 3> {
        let [batch, _, height, width] = images.dims();
        let side = self.patch_size;
        assert!(
            height.is_multiple_of(side) && width.is_multiple_of(side),
            "images of {height} x {width} cannot be cut into patches of {side}"
        );
        let patches = B::patchify(images, self.patch_size);
        let embedded = B::linear_layer(LinearLayerInput::new(patches, &self.proj));
        let [rows, width] = embedded.dims();
        embedded.reshape([batch, rows / batch, width])
    }
}
