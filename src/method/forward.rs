//! The method on one page: Algorithm 1 of iBOT (arXiv 2111.07832), with DINO's local views and DINOv2's KoLeo.
//!
//! ```text
//! u, v, masks                                            IbotInput
//! t      = teacher(u, v)            nothing is masked    Ibot::teacher_logits
//! target = sinkhorn(t), or softmax((t - center) / temp)  Ibot::targets
//! s      = student(masked u, v)                          Ibot::student_tokens, Head::logits
//! loss   = H(target of the other views, s)   class tokens
//!        + H(target, s)                      masked patches    Ibot::losses
//! center = momentum * center + (1 - momentum) * mean(t)  Ibot::update_centers
//! ```
//!
//! The optimizer's step and the teacher's average come after it, in `train/trainer/`. Shapes: B images, G global and L
//! local views of each, N patches of a view, M of them masked, width D, K prototypes.

use burn::tensor::Tensor;

use crate::backbone::{Backbone, TrainBackbone};
use crate::collective::{Collective, SingleProcess};
use crate::error::{Error, Result};
use crate::kernels::{IbotBackend, RowIndices, TrainBackend};
use crate::method::config::PatchWeight;
use crate::method::ibot::Ibot;
use crate::method::losses::{
    ClsLossInput, PatchLossInput, PatchWeighting, TeacherTargets, cls_loss, koleo_loss, patch_loss,
};
use crate::method::rows::PatchRows;
use crate::method::targets::{BatchTargets, KindTargets, Part};
use crate::method::tensor_collectives::all_gather;
use crate::method::terms::{IbotInput, IbotOutput, LossTerms};
use crate::precision::Precision;
use crate::random::{Random, Stream};

/// Keeps logarithms and divisions of the KoLeo regularizer finite (DINOv2's `koleo_loss.py`).
const KOLEO_EPS: f64 = 1e-8;

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// Losses of a batch of global views, as the reference's `forward(global_views)`; moves the centers. The reference
    /// takes the temperature from the epoch: [`crate::method::IbotConfig::teacher_temperature`]. With `drop_path_rate`, each call drops
    /// the same blocks of all images; [`Ibot::forward_crops`] takes generators.
    ///
    /// # Shapes
    /// `global_views` G times `[B, 3, S, S]`; `masks` `[G B, N]`, view by view, true where a patch is masked.
    ///
    /// # Errors
    /// As [`Ibot::prepare`].
    pub fn forward(
        &mut self,
        global_views: &[Tensor<B::InnerBackend, 4>],
        masks: &[bool],
        temperature: f64,
    ) -> Result<IbotOutput<B>> {
        let images = global_views.iter().map(|view| view.dims()[0]).sum();
        self.forward_crops(IbotInput {
            global_views: global_views.to_vec(),
            local_views: Vec::new(),
            masks: masks.to_vec(),
            temperature_cls: temperature,
            temperature_patch: temperature,
            freeze_backbone: false,
            drop_path_rngs: vec![Random::new(0, 0, 0, Stream::DropPath(0)); images],
        })
    }

    /// Losses of a batch of global and local views; moves the centers.
    ///
    /// # Errors
    /// As [`Ibot::prepare`].
    pub fn forward_crops(&mut self, input: IbotInput<B>) -> Result<IbotOutput<B>> {
        let targets = self.prepare(vec![input], &SingleProcess)?;
        // before the centers move: a batch is centered by those before it
        let output = self.losses(&targets, 0);
        self.update_centers(&targets, None);
        Ok(output)
    }

    /// Everything that needs the whole batch, before the student learns from its parts one after the
    /// other: the teacher's targets and, for KoLeo, the student's class tokens. `inputs` are this rank's parts of the batch, at
    /// least one; all ranks call this together.
    ///
    /// # Errors
    /// [`Error::Training`] if views or masks do not fit together, or there are too few images for KoLeo;
    /// [`Error::Unsupported`] if logits that must be stored do not fit the device; those of `ranks`.
    pub fn prepare(
        &self,
        inputs: Vec<IbotInput<B>>,
        ranks: &dyn Collective,
    ) -> Result<BatchTargets<B>> {
        let mut targets = self.targets(self.teacher_logits(inputs)?, ranks)?;
        let images = targets.images();
        if self.config.koleo_weight > 0.0 && images < 2 {
            let reason =
                "KoLeo needs at least 2 images, because it takes the nearest other one".to_owned();
            return Err(Error::Training(reason));
        }
        // a nearest neighbor may be in another part; with one part, `losses` has all tokens itself
        if self.config.koleo_weight > 0.0 && !targets.counts.is_undivided() {
            targets.student_cls = self.student_cls_of_all(&targets, ranks)?;
        }
        Ok(targets)
    }

    /// The student's class tokens of each part of all ranks, `[G B_p, D]`.
    fn student_cls_of_all(
        &self,
        targets: &BatchTargets<B>,
        ranks: &dyn Collective,
    ) -> Result<Vec<Tensor<B::InnerBackend, 2>>> {
        let own = targets.parts.iter();
        let own: Vec<_> = own.map(|part| self.student_cls(&part.input)).collect();
        if ranks.size() == 1 {
            return Ok(own);
        }
        let all = all_gather(Tensor::cat(own, 0), ranks)?;
        let views = targets.parts[0].input.global_views.len();
        let mut start = 0;
        let parts = targets.counts.images().map(|images| {
            let rows = views * images;
            start += rows;
            all.clone().narrow(0, start - rows, rows)
        });
        Ok(parts.collect())
    }

    /// Losses of this rank's part `index`, from 0. Cross-entropies are the part's share of the batch mean: summed over the parts, losses
    /// and gradients equal those of the undivided batch. KoLeo is that of the whole batch in each part, with the gradient of this part's
    /// tokens.
    ///
    /// # Panics
    /// If `index` is not less than [`BatchTargets::parts`].
    pub fn losses(&self, batch: &BatchTargets<B>, index: usize) -> IbotOutput<B> {
        let (config, part) = (&self.config, &batch.parts[index]);
        let (cls, [masked, visible]) = self.student_tokens(part); // [(G + L) B, D], [M, D], [V, D]
        // random masks may leave a part without masked patches; its share of the loss is then 0
        let none = || Tensor::zeros([1], &cls.device());
        let patch_loss = |tokens: Option<_>, targets: &KindTargets<_>, rows: &PatchRows, all| {
            let pair = tokens.zip(targets.parts[index].clone()); // [M, D] and [M, K]
            pair.map_or_else(none, |(tokens, targets)| {
                let weighting = self.weighting(rows, all, batch, part);
                self.patch_loss(tokens, targets, weighting)
            })
        };
        let cls_targets = batch.cls.parts[index].clone(); // [G B, K]
        let terms = LossTerms {
            cls: cls_targets.map_or_else(none, |targets| {
                cls_loss(ClsLossInput {
                    student: self.student.network.cls_head.logits(cls.clone()), // [(G + L) B, K]
                    targets: TeacherTargets::from_inner(targets),
                    images: part.input.images(),
                    batch: batch.images(),
                    student_temperature: config.temperature_student,
                })
            }),
            patch: patch_loss(
                masked,
                &batch.masked,
                &part.masked,
                batch.counts.total(|part| part.masked),
            ),
            visible: (config.visible_loss_weight > 0.0).then(|| {
                let all = batch.counts.total(|part| part.visible);
                patch_loss(visible, &batch.visible, &part.visible, all)
            }),
            koleo: (config.koleo_weight > 0.0).then(|| koleo_of_views(&cls, batch, index)),
        };
        IbotOutput {
            loss: terms.weighted(config),
            terms: terms.inner(),
            embedding: part.embedding.clone(),
        }
    }

    /// What the losses look at: class tokens of all views, `[(G + L) B, D]`; masked and visible patches of the masked global
    /// views, `[M, D]` and `[V, D]`.
    fn student_tokens(&self, part: &Part<B>) -> (Tensor<B, 2>, [Option<Tensor<B, 2>>; 2]) {
        let (cls, patches) = if part.input.freeze_backbone {
            // off the graph, so that no activations are kept and no backward pass is made
            let (backbone, mask_token) = (
                self.student.network.backbone.valid(),
                self.student.mask_token.val().inner(),
            );
            let (cls, patches) = tokens_of_views(&backbone, mask_token, part, |views| views);
            (Tensor::from_inner(cls), patches.map(Tensor::from_inner))
        } else {
            tokens_of_views(
                &self.student.network.backbone,
                self.student.mask_token.val(),
                part,
                Tensor::from_inner,
            )
        };
        (cls, part.chosen.split(patches))
    }

    /// Class tokens of the masked global views without a graph, `[G B, D]`; equal to those in [`Ibot::losses`], because
    /// drop path draws the same numbers.
    fn student_cls(&self, input: &IbotInput<B>) -> Tensor<B::InnerBackend, 2> {
        let images = Tensor::cat(input.global_views.clone(), 0); // [G B, 3, S, S]
        let mask = input.patch_mask(self.student.mask_token.val().inner());
        let mut rngs = input.drop_path_rngs[..images.dims()[0]].to_vec();
        let backbone = self.student.network.backbone.valid();
        let none = RowIndices::new(Vec::new(), 0);
        let tokens = backbone.chosen_tokens(images, Some(mask), &mut rngs, &none);
        tokens.cls
    }

    /// Weights of some patches of a part, of which the whole batch has `all`.
    fn weighting(
        &self,
        rows: &PatchRows,
        all: usize,
        batch: &BatchTargets<B>,
        part: &Part<B>,
    ) -> PatchWeighting {
        match self.config.patch_weight {
            // both means are over the whole batch, so that the losses of the parts add up
            PatchWeight::Patch => PatchWeighting::PerPatch { patches: all },
            PatchWeight::Image => PatchWeighting::PerImage {
                counts: rows.counts.clone(),
                images: part.input.global_views.len() * batch.images(),
            },
        }
    }

    /// Heads and loss get only the selected patches, `tokens` `[M, D]`; the reference computes all logits and drops the rest.
    fn patch_loss(
        &self,
        tokens: Tensor<B, 2>,
        targets: TeacherTargets<B::InnerBackend>,
        weighting: PatchWeighting,
    ) -> Tensor<B, 1> {
        patch_loss(PatchLossInput {
            student: self.student.network.head_of_patches().logits(tokens), // [M, K]
            targets: TeacherTargets::from_inner(targets),
            weighting,
            student_temperature: self.config.temperature_student,
        })
    }
}

/// Class tokens of all views, `[(G + L) B, D]`, and the chosen patches of the masked global views, `[M, D]`, by a backbone
/// on either backend; `on` brings views there.
fn tokens_of_views<B: TrainBackend, A: IbotBackend>(
    backbone: &impl Backbone<A>,
    mask_token: Tensor<A, 3>,
    part: &Part<B>,
    on: impl Fn(Tensor<B::InnerBackend, 4>) -> Tensor<A, 4>,
) -> (Tensor<A, 2>, Option<Tensor<A, 2>>) {
    let input = &part.input;
    let images = on(Tensor::cat(input.global_views.clone(), 0)); // [G B, 3, S, S]
    let mask = input.patch_mask(mask_token);
    // copies, so that `student_cls` and this pass draw the same numbers
    let mut rngs = input.drop_path_rngs.clone();
    let (global_rngs, local_rngs) = rngs.split_at_mut(images.dims()[0]);
    let indices = &part.chosen.indices;
    let global = backbone.chosen_tokens(images, Some(mask), global_rngs, indices);
    let mut cls = global.cls;
    if !input.local_views.is_empty() {
        // local views have another size, hence a second pass; nothing is masked in them, and they are not targets
        let local = on(Tensor::cat(input.local_views.clone(), 0)); // [L B, 3, s, s]
        let none = RowIndices::new(Vec::new(), 0);
        let local = backbone.chosen_tokens(local, None, local_rngs, &none);
        // global views first: `Pairing::OtherViews` takes view v of student and teacher for the same crop
        cls = Tensor::cat(vec![cls, local.cls], 0);
    }
    (cls, global.patches)
}

/// Sum over the global views of the regularizer of each (DINOv2's `ssl_meta_arch.py`), over the images of all parts of all
/// ranks; those of the other parts are constants.
///
/// # Shapes
/// `cls` of this part, global views first, `[(G + L) B_p, D]` -> `[1]`.
fn koleo_of_views<B: TrainBackend>(
    cls: &Tensor<B, 2>,
    batch: &BatchTargets<B>,
    index: usize,
) -> Tensor<B, 1> {
    let own = batch.counts.place(index);
    // view by view: across views the nearest neighbor would be another view of the same image
    let loss_of_view = |view: usize| {
        let images = batch.counts.images().enumerate().map(|(at, images)| {
            // the distance to a neighbor in another part has a gradient only for this part's tokens here; the other
            // part adds its own when its turn comes
            let tokens = if at == own {
                cls.clone()
            } else {
                Tensor::from_inner(batch.student_cls[at].clone())
            };
            tokens.narrow(0, view * images, images)
        });
        let images = Tensor::cat(images.collect(), 0); // [B, D]
        // in f32, as everything after the network
        Precision::F32.autocast(|| koleo_loss(images, KOLEO_EPS))
    };
    let views = 0..batch.parts[index].input.global_views.len();
    views
        .map(loss_of_view)
        .reduce(|sum, view| sum + view)
        .unwrap_or_else(|| Tensor::zeros([1], &cls.device()))
}
