//! Moving average of the teacher's logits.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::kernels::{IbotBackend, wrap};

/// The center that DINO subtracts from the teacher's logits: without it, all images collapse to one prototype.
///
/// Source: `DINOv1Loss` in stable_pretraining/losses/dino.py (no center at first, the first update sets it) and
/// `Center` in lightly/models/modules/center.py (zero at first).
#[derive(Debug, Clone)]
pub struct Center<B: Backend> {
    value: Option<Tensor<B, 1>>,
    momentum: f64,
}

impl<B: Backend> Center<B> {
    /// No center until the first update, which sets it to its batch's mean.
    pub fn unset(momentum: f64) -> Self {
        Self {
            value: None,
            momentum,
        }
    }

    /// A center of zeros, which the first update moves by momentum.
    pub fn zeros(prototypes: usize, momentum: f64, device: &B::Device) -> Self {
        Self {
            value: Some(Tensor::zeros([prototypes], device)),
            momentum,
        }
    }

    /// Its value, `[K]`; none before the first update of an unset center.
    pub fn value(&self) -> Option<Tensor<B, 1>> {
        self.value.clone()
    }

    /// Replaces its value, `[K]`; none unsets it.
    pub fn set(&mut self, value: Option<Tensor<B, 1>>) {
        self.value = value;
    }
}

impl<B: IbotBackend> Center<B> {
    /// `center * momentum + mean * (1 - momentum)`, or `mean` where there is no center yet.
    ///
    /// # Shapes
    /// `mean` of the batch's logits `[K]`. `grad_scale` `[1]` as in [`crate::kernels::GradScale`]: if it is 0, a
    /// center that has a value keeps it. One without a value cannot, so the caller unsets it once it knows of the step.
    pub fn update(&mut self, mean: Tensor<B, 1>, grad_scale: Option<Tensor<B, 1>>) {
        let mean = vec![mean.into_primitive().tensor()];
        let moved = match self.value.take() {
            // decided on the device: reading the scale would make the host wait in each step
            Some(center) => {
                let center = vec![center.into_primitive().tensor()];
                B::ema(center, mean, self.momentum, grad_scale)
            }
            None => mean, // the reference's first update; DINO and lightly start from zeros instead
        };
        self.value = moved.into_iter().next().map(wrap);
    }
}
