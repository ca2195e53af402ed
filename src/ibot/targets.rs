//! The teacher's side of a batch: tokens and targets, over all of its parts at once.
//!
//! A batch that does not fit the device comes in parts, and the student sees one part at a time. Sinkhorn-Knopp, centers
//! and KoLeo look at the whole batch, so that the teacher goes first, through all parts.

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use super::rows::{PatchRows, mask_tensor};
use super::teacher_rows::{RowTargets, TargetRule, TeacherRows};
use super::{Ibot, IbotInput};
use crate::backbone::{Backbone, PatchMask, TrainBackbone};
use crate::config::Targets;
use crate::error::{Error, Result};
use crate::kernels::TrainBackend;

/// What the teacher makes of one part of a batch.
pub(super) struct Part<B: Backend> {
    /// Pictures of the part.
    pub batch: usize,
    /// Class tokens of the global views, `[G B_p, D]`.
    pub cls: Tensor<B, 2>,
    pub masked: PatchRows,
    pub visible: PatchRows,
    /// The student's class tokens of the global views without a graph, for KoLeo over several parts.
    pub student_cls: Option<Tensor<B, 2>>,
}

/// Targets of a whole batch, made before the student sees any of it.
pub struct BatchTargets<B: AutodiffBackend> {
    pub(super) parts: Vec<Part<B::InnerBackend>>,
    pub(super) cls: RowTargets<B::InnerBackend>,
    pub(super) masked: Option<RowTargets<B::InnerBackend>>,
    pub(super) visible: Option<RowTargets<B::InnerBackend>>,
}

impl<B: AutodiffBackend> BatchTargets<B> {
    /// Pictures of all parts.
    pub(super) fn batch(&self) -> usize {
        self.parts.iter().map(|part| part.batch).sum()
    }
}

/// The teacher's tokens of a batch, on their way to the heads.
pub(super) struct BatchRows<'a, B: Backend> {
    pub parts: Vec<Part<B>>,
    pub cls: TeacherRows<'a, B>,
    pub masked: TeacherRows<'a, B>,
    pub visible: TeacherRows<'a, B>,
}

/// Tokens of a part's patches; none where it has no such patch.
struct PatchTokens<B: Backend> {
    masked: Option<Tensor<B, 2>>,
    visible: Option<Tensor<B, 2>>,
}

/// A part with its tokens.
type PartTokens<B> = (Part<B>, PatchTokens<B>);

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// The teacher's targets of a batch that comes in one or more parts.
    ///
    /// # Errors
    /// [`Error::Training`] where views or masks do not fit together, [`Error::Unsupported`] where logits do not fit the device.
    pub fn targets(&self, inputs: &[IbotInput<'_, B>]) -> Result<BatchTargets<B>> {
        let rows = self.teacher_rows(inputs)?;
        let device = rows.parts[0].cls.device();
        let targets = |rows: TeacherRows<'_, B::InnerBackend>| {
            rows.targets(self.config.streaming_prototypes, self.tile_entries, &device)
        };
        let no_image = || Error::Training("a batch needs at least one image".into());
        Ok(BatchTargets {
            cls: targets(rows.cls)?.ok_or_else(no_image)?,
            masked: targets(rows.masked)?,
            visible: targets(rows.visible)?,
            parts: rows.parts,
        })
    }

    /// Moves the centers towards the mean of the batch's logits.
    pub fn update_centers(&mut self, targets: &BatchTargets<B>) {
        self.update_centers_unless(targets, None);
    }

    /// [`Ibot::update_centers`], but where `gate` is 0 the centers that have a value keep it.
    ///
    /// # Shapes
    /// `gate` `[1]` or none.
    pub fn update_centers_unless(
        &mut self,
        targets: &BatchTargets<B>,
        gate: Option<&Tensor<B::InnerBackend, 1>>,
    ) {
        if self.config.cls_targets == Targets::Centering {
            targets.cls.move_center(&mut self.center, gate);
        }
        if let (Targets::Centering, Some(masked)) = (self.config.patch_targets, &targets.masked) {
            masked.move_center(&mut self.patch_center, gate);
        }
    }

    /// What of a batch goes through the teacher's heads; at least one part.
    pub(super) fn teacher_rows(
        &self,
        inputs: &[IbotInput<'_, B>],
    ) -> Result<BatchRows<'_, B::InnerBackend>> {
        let Some(first) = inputs.first() else {
            return Err(Error::Training("a batch needs at least one part".into()));
        };
        let sizes = self.check(first)?;
        let is_one_of_many = inputs.len() > 1;
        let parts = inputs.iter().map(|input| self.part(input, is_one_of_many));
        let (parts, patches): (Vec<_>, Vec<_>) =
            parts.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let (masked, visible) = patches
            .into_iter()
            .map(|tokens: PatchTokens<_>| (tokens.masked, tokens.visible))
            .unzip();
        let rule = |targets, center: &crate::losses::Center<_>, temperature| TargetRule {
            targets,
            center: center.value(),
            temperature,
            iterations: self.config.sinkhorn_iterations,
        };
        let of_patches = |tokens, rows: fn(&Part<_>) -> &PatchRows| TeacherRows {
            head: self.teacher.head_of_patches(),
            tokens,
            counts: parts.iter().map(|part| rows(part).rows.len()).collect(),
            views: [1, 1],
            rule: rule(
                self.config.patch_targets,
                &self.patch_center,
                first.temperature_patch,
            ),
        };
        Ok(BatchRows {
            cls: TeacherRows {
                head: &self.teacher.cls_head,
                tokens: parts.iter().map(|part| Some(part.cls.clone())).collect(),
                counts: parts.iter().map(|part| part.batch).collect(),
                views: [sizes.global_views, sizes.views],
                rule: rule(self.config.cls_targets, &self.center, first.temperature_cls),
            },
            masked: of_patches(masked, |part| &part.masked),
            visible: of_patches(visible, |part| &part.visible),
            parts,
        })
    }

    fn part(
        &self,
        input: &IbotInput<'_, B>,
        is_one_of_many: bool,
    ) -> Result<PartTokens<B::InnerBackend>> {
        let sizes = self.check(input)?;
        let images = Tensor::cat(input.global_views.to_vec(), 0); // [G B, 3, S, S]
        let device = images.device();
        let teacher = self.teacher.backbone.tokens(images.clone(), None);
        let patches = teacher.patches.dims()[1];
        let masked = PatchRows::of(input.masks, true, patches);
        let mut visible = PatchRows::of(input.masks, false, patches);
        if self.config.visible_loss_weight == 0.0 {
            visible.rows.clear();
        }
        let select = |rows: &PatchRows| {
            let is_any = !rows.rows.is_empty();
            is_any.then(|| rows.select(&teacher.patches))
        };
        let tokens = PatchTokens {
            masked: select(&masked),
            visible: select(&visible),
        };
        let student_cls = (is_one_of_many && self.config.koleo_weight > 0.0).then(|| {
            let mask = PatchMask {
                masked: mask_tensor(input.masks, images.dims()[0], &device),
                token: self.student.mask_token.val().inner(),
            };
            let backbone = self.student.network.backbone.valid();
            let mut of_images = input.random_of_global_views().to_vec();
            backbone
                .training_tokens(images, Some(mask), &mut of_images)
                .cls
        });
        let part = Part {
            batch: sizes.batch,
            cls: teacher.cls,
            masked,
            visible,
            student_cls,
        };
        Ok((part, tokens))
    }
}
