//! What goes into the method, and the losses that come out.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};

use crate::backbone::PatchMask;
use crate::error::{Error, Result};
use crate::method::config::{IbotConfig, SMALLEST_TEMPERATURE};
use crate::random::Random;

/// What [`Ibot::forward_crops`](super::Ibot::forward_crops) takes: B images in G global and L local views.
#[derive(Debug, Clone)]
pub struct IbotInput<B: AutodiffBackend> {
    /// G views `[B, 3, S, S]` that both networks see.
    pub global_views: Vec<Tensor<B::InnerBackend, 4>>,
    /// L views `[B, 3, s, s]` that the student alone sees.
    pub local_views: Vec<Tensor<B::InnerBackend, 4>>,
    /// `[G B, N]`, view by view, true where a patch is masked for the student.
    pub masks: Vec<bool>,
    /// Temperature of the teacher's class-token targets.
    pub temperature_cls: f64,
    /// Temperature of the teacher's patch targets.
    pub temperature_patch: f64,
    /// Whether the student's backbone and mask token are constants, so that gradients end at the heads.
    pub freeze_backbone: bool,
    /// Generators of drop path: one for each image of each view, view by view, `(G + L) B`.
    pub drop_path_rngs: Vec<Random>,
}

impl<B: AutodiffBackend> IbotInput<B> {
    /// Number B of images.
    pub(super) fn images(&self) -> usize {
        self.global_views.first().map_or(0, |view| view.dims()[0])
    }

    /// Number G + L of views.
    pub(super) fn views(&self) -> usize {
        self.global_views.len() + self.local_views.len()
    }

    /// The masks and the token that replaces masked patches.
    ///
    /// # Shapes
    /// `token` `[1, 1, D]`, on either backend.
    pub(super) fn patch_mask<A: Backend>(&self, token: Tensor<A, 3>) -> PatchMask<A> {
        let images = self.global_views.len() * self.images();
        let masks = self.masks.iter().map(|is| f32::from(u8::from(*is)));
        let data = TensorData::new(
            masks.collect::<Vec<f32>>(),
            [images, self.masks.len() / images, 1],
        );
        PatchMask {
            masked: Tensor::from_data(data, &token.device()),
            token,
        }
    }

    /// Whether views, masks and generators fit together, and temperatures can be divided by; `patches` N of an image.
    pub(super) fn check(&self, patches: usize) -> Result<()> {
        let wrong = |reason: String| Err(Error::Training(reason));
        let Some(first) = self.global_views.first() else {
            return wrong("forward needs at least one global view".into());
        };
        let (dims, images) = (first.dims(), self.images());
        if images == 0 {
            return wrong("a batch needs at least one image".into());
        }
        if self.global_views.iter().any(|view| view.dims() != dims) {
            return wrong("all global views must have one shape".into());
        }
        if let Some(local) = self.local_views.first() {
            let local = local.dims();
            if self.local_views.iter().any(|view| view.dims() != local) || local[0] != images {
                let reason =
                    "all local views must have one shape, and the batch size of the global ones";
                return wrong(reason.into());
            }
        }
        let views = self.global_views.len();
        let expected = views * images * patches;
        if self.masks.len() != expected {
            return wrong(format!(
                "{} mask entries for {views} views of {images} images with {patches} patches each: expected {expected}",
                self.masks.len(),
            ));
        }
        let temperatures = [self.temperature_cls, self.temperature_patch];
        let is_one = |it: &f64| (SMALLEST_TEMPERATURE..f64::INFINITY).contains(it);
        if let Some(wrong_one) = temperatures.iter().find(|it| !is_one(it)) {
            return wrong(format!(
                "a temperature of {wrong_one}: it must be at least {SMALLEST_TEMPERATURE:e}, such as 0.04"
            ));
        }
        let views = self.views();
        if self.drop_path_rngs.len() != views * images {
            return wrong(format!(
                "{} generators for {views} views of {images} images: each view of each image needs one",
                self.drop_path_rngs.len(),
            ));
        }
        Ok(())
    }
}

/// Losses of a batch or of a part of it, and the teacher's view of it.
#[derive(Debug, Clone)]
pub struct IbotOutput<B: AutodiffBackend> {
    /// Weighted sum of the terms, `[1]`; call `backward` on it.
    pub loss: Tensor<B, 1>,
    /// The terms before weighting.
    pub terms: LossTerms<B::InnerBackend>,
    /// The teacher's class tokens of all global views, view by view, `[G B, D]`.
    pub embedding: Tensor<B::InnerBackend, 2>,
}

/// The terms of the loss before their weights, `[1]` each.
#[derive(Debug, Clone)]
pub struct LossTerms<B: Backend> {
    /// Cross-entropy of class tokens across views.
    pub cls: Tensor<B, 1>,
    /// Cross-entropy of masked patches; zero without a masked patch.
    pub patch: Tensor<B, 1>,
    /// Cross-entropy of visible patches; none where its weight is 0.
    pub visible: Option<Tensor<B, 1>>,
    /// KoLeo regularizer of the student's class tokens; none where its weight is 0.
    pub koleo: Option<Tensor<B, 1>>,
}

impl<B: Backend> LossTerms<B> {
    /// The loss: all terms by their weights. Nowhere else are they weighed.
    pub fn weighted(&self, config: &IbotConfig) -> Tensor<B, 1> {
        // a weight of 1, the default, is no work for the device
        let weighed = |term: &Tensor<B, 1>, weight: f64| {
            if weight == 1.0 {
                term.clone()
            } else {
                term.clone() * weight
            }
        };
        let mut loss = weighed(&self.cls, config.cls_loss_weight)
            + weighed(&self.patch, config.patch_loss_weight);
        for (term, weight) in [
            (&self.visible, config.visible_loss_weight),
            (&self.koleo, config.koleo_weight),
        ] {
            if let Some(term) = term {
                loss = loss + weighed(term, weight);
            }
        }
        loss
    }

    /// Adds those of the next part of the same batch: cross-entropies are shares that add up, while each part has the
    /// KoLeo of the whole batch.
    pub fn plus(self, next: Self) -> Self {
        let visible = self.visible.zip(next.visible);
        Self {
            cls: self.cls + next.cls,
            patch: self.patch + next.patch,
            visible: visible.map(|(before, next)| before + next),
            koleo: next.koleo,
        }
    }
}

impl<B: AutodiffBackend> LossTerms<B> {
    /// The values, off the graph.
    pub(super) fn inner(self) -> LossTerms<B::InnerBackend> {
        LossTerms {
            cls: self.cls.inner(),
            patch: self.patch.inner(),
            visible: self.visible.map(Tensor::inner),
            koleo: self.koleo.map(Tensor::inner),
        }
    }
}
