//! Patch embedding as one matrix product.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::init::uniform_param;
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

    /// # Shapes
    /// `images` `[B, 3, S, S]` -> `[B, N, D]`, patches row by row.
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 3> {
        let [batch, channels, height, width] = images.dims();
        let patch = self.patch_size;
        let (rows, columns) = (height / patch, width / patch);
        let flat = images
            .reshape([batch, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch * rows * columns, channels * patch * patch]);
        let embedded = self.proj.forward(flat);
        let embed_dim = embedded.dims()[1];
        embedded.reshape([batch, rows * columns, embed_dim])
    }
}
