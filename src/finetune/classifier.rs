//! A backbone with a linear layer on its feature, as timm's `VisionTransformer` with `num_classes`.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::backbone::{Backbone as _, VisionTransformer};
use crate::files::{NamedTensor, state_dict};
use crate::init::timm_linear;
use crate::kernels::{IbotBackend, LinearLayerInput};
use crate::precision::Precision;
use crate::random::Random;

/// Deviation of the head's weights at the start: timm's 0.02 times BEiT's `init_scale` of 0.001, so that the first steps
/// move the head and not the backbone.
const HEAD_STD: f64 = 2e-5;

/// A backbone and its classifier.
#[derive(Module, Debug)]
pub struct Classifier<B: Backend> {
    /// The backbone.
    pub backbone: VisionTransformer<B>,
    /// From its feature to a logit a class, `[D, K]`.
    pub head: Linear<B>,
}

impl<B: IbotBackend> Classifier<B> {
    /// A new head for `classes` classes on a backbone; `frozen` for one that gets no gradient.
    pub fn new(
        backbone: VisionTransformer<B>,
        classes: usize,
        frozen: bool,
        random: &mut Random,
        device: &B::Device,
    ) -> Self {
        let width = backbone.config().embed_dim;
        Self {
            head: timm_linear(random, [width, classes], HEAD_STD, true, device),
            backbone: if frozen { backbone.no_grad() } else { backbone },
        }
    }

    /// Logits of images.
    ///
    /// # Shapes
    /// `images` `[B, 3, H, W]` -> logits `[B, K]`.
    pub fn logits(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.logits_of(self.backbone.embed(images))
    }

    /// [`Classifier::logits`] with drop path, drawn from one generator an image.
    ///
    /// # Shapes
    /// As [`Classifier::logits`]; `drop_path_rngs` `[B]`.
    pub fn training_logits(
        &self,
        images: Tensor<B, 4>,
        drop_path_rngs: &mut [Random],
    ) -> Tensor<B, 2> {
        let features = self.backbone.training_features(images, drop_path_rngs);
        self.logits_of(self.backbone.pool(features))
    }

    /// In f32 with every precision.
    fn logits_of(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        // not `Linear::forward`, which is burn's product: from 32 rows on it asks for 24 KiB of workgroup memory, and some GPUs have 16
        let layer = LinearLayerInput::new(features, &self.head);
        Precision::F32.autocast(|| B::linear_layer(layer))
    }

    /// All weights under the names of timm's model with a classifier: those of the backbone, `head.weight` `[K, D]` and
    /// `head.bias` `[K]`; reads them from the device.
    pub fn tensors(&self) -> BTreeMap<String, NamedTensor> {
        let mut tensors = state_dict(&self.backbone);
        let head = state_dict(&self.head).into_iter();
        tensors.extend(head.map(|(name, tensor)| (format!("head.{name}"), tensor)));
        tensors
    }
}
