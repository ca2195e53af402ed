//! The teacher's side of Algorithm 1: tokens, logits and targets of a whole batch.
//!
//! A batch that does not fit the device is split into parts, and the student gets one part at a time. Sinkhorn-Knopp and
//! centers need all rows of the batch, so the teacher first processes all parts.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::backbone::{Backbone, TrainBackbone};
use crate::error::{Error, Result};
use crate::kernels::{Logits, TrainBackend};
use crate::method::config::Targets;
use crate::method::ibot::Ibot;
use crate::method::losses::{Center, TargetRule, TeacherTargets};
use crate::method::rows::{ChosenPatches, PatchRows};
use crate::method::terms::IbotInput;
use crate::method::tiling::tiling;

/// A part of a batch.
pub(super) struct Part<B: AutodiffBackend> {
    pub input: IbotInput<B>,
    /// The teacher's class tokens of the global views, `[G B_p, D]`.
    pub embedding: Tensor<B::InnerBackend, 2>,
    pub masked: PatchRows,
    pub visible: PatchRows,
    pub chosen: ChosenPatches,
}

/// The teacher's logits of a batch in parts, and the parts.
pub(super) struct TeacherLogits<B: TrainBackend> {
    pub parts: Vec<Part<B>>,
    /// `[G B, K]`, part by part.
    pub cls: Logits<B::InnerBackend>,
    /// `[M, K]`; none without such a patch.
    pub masked: Option<Logits<B::InnerBackend>>,
    /// `[G B N - M, K]`; none without such a patch, or if it has no weight.
    pub visible: Option<Logits<B::InnerBackend>>,
}

/// What the losses of a part need from the whole batch.
pub struct BatchTargets<B: TrainBackend> {
    pub(super) parts: Vec<Part<B>>,
    /// Of class tokens, `[G B, K]`.
    pub(super) cls: TeacherTargets<B::InnerBackend>,
    /// Of masked patches, `[M, K]`.
    pub(super) masked: Option<TeacherTargets<B::InnerBackend>>,
    /// Of visible patches, `[G B N - M, K]`.
    pub(super) visible: Option<TeacherTargets<B::InnerBackend>>,
    /// The student's class tokens of each part, `[G B_p, D]`, for KoLeo over several parts; else empty.
    pub(super) student_cls: Vec<Tensor<B::InnerBackend, 2>>,
}

impl<B: TrainBackend> BatchTargets<B> {
    /// Number of parts.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Images of all parts.
    pub(super) fn images(&self) -> usize {
        self.parts.iter().map(|part| part.input.images()).sum()
    }

    /// Range of the rows of part `index` among those of all parts.
    pub(super) fn range(&self, index: usize, rows: impl Fn(&Part<B>) -> usize) -> Range<usize> {
        let start = self.parts[..index].iter().map(&rows).sum();
        start..start + rows(&self.parts[index])
    }
}

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// The teacher's logits of a batch, of unmasked global views; at least one part.
    ///
    /// # Errors
    /// [`Error::Training`] if views or masks do not fit together.
    pub(super) fn teacher_logits(&self, inputs: Vec<IbotInput<B>>) -> Result<TeacherLogits<B>> {
        let (cls_head, patch_head) = (&self.teacher.cls_head, self.teacher.head_of_patches());
        let has_visible = self.config.visible_loss_weight > 0.0;
        let mut parts = Vec::new();
        // of all parts, only the bottleneck features are kept: they are narrow (256), tokens (D) and logits (K) are not
        let (mut cls_rows, mut masked_rows, mut visible_rows) = (vec![], vec![], vec![]);
        for input in inputs {
            input.check(self.student.network.backbone.patches(), &self.config)?;
            // local views are not targets: the student predicts the whole from them, not the reverse
            let images = Tensor::cat(input.global_views.clone(), 0); // [G B, 3, S, S]
            let of_image = self.student.network.backbone.patches();
            let masked = PatchRows::new(&input.masks, true, of_image);
            let visible = PatchRows::new(&input.masks, false, of_image);
            let chosen = ChosenPatches::new(&masked, has_visible.then_some(&visible));
            let teacher = &self.teacher.backbone;
            let tokens = teacher.chosen_tokens(images, None, &mut [], &chosen.places);
            let part = Part {
                masked,
                visible,
                embedding: tokens.cls, // [G B, D]
                input,
                chosen,
            };
            let [masked, visible] = part.chosen.split(tokens.patches); // [M, D], [V, D]
            cls_rows.push(cls_head.bottleneck(part.embedding.clone()));
            masked_rows.extend(masked.map(|tokens| patch_head.bottleneck(tokens)));
            visible_rows.extend(visible.map(|tokens| patch_head.bottleneck(tokens)));
            parts.push(part);
        }
        let no_part = || Error::Training("a batch needs at least one part".into());
        let patch_logits = |rows| joined(rows).map(|rows| patch_head.logits_of(rows));
        Ok(TeacherLogits {
            parts,
            cls: cls_head.logits_of(joined(cls_rows).ok_or_else(no_part)?),
            masked: patch_logits(masked_rows),
            visible: patch_logits(visible_rows),
        })
    }

    /// The targets of logits, over all rows of the batch.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if logits that must be stored do not fit the device.
    pub(super) fn targets(&self, logits: TeacherLogits<B>) -> Result<BatchTargets<B>> {
        let [cls_rows, masked_rows, visible_rows] = logits.student_rows();
        let input = &logits.parts[0].input; // all parts have the same temperatures
        let cls = (
            self.rule(self.config.cls_targets, &self.center),
            input.temperature_cls,
        );
        let patch = (
            self.rule(self.config.patch_targets, &self.patch_center),
            input.temperature_patch,
        );
        let of_patches = |logits: Option<_>, rows| {
            let targets = logits.map(|logits| self.targets_of(logits, rows, patch.clone()));
            targets.transpose()
        };
        Ok(BatchTargets {
            cls: self.targets_of(logits.cls, cls_rows, cls)?,
            masked: of_patches(logits.masked, masked_rows)?,
            visible: of_patches(logits.visible, visible_rows)?,
            parts: logits.parts,
            student_cls: Vec::new(),
        })
    }

    /// The targets of one kind of rows, by a rule at a temperature.
    fn targets_of(
        &self,
        logits: Logits<B::InnerBackend>,
        student_rows: usize,
        (rule, temperature): (TargetRule<B::InnerBackend>, f64),
    ) -> Result<TeacherTargets<B::InnerBackend>> {
        // depends on the student's rows too: its logits are stored or tiled like the teacher's
        let streaming = self.config.streaming_prototypes;
        let columns = tiling(&logits, student_rows, streaming, self.tile_entries)?;
        Ok(TeacherTargets::new(logits, rule, temperature, columns))
    }

    /// How logits become targets.
    pub(super) fn rule(
        &self,
        targets: Targets,
        center: &Center<B::InnerBackend>,
    ) -> TargetRule<B::InnerBackend> {
        match targets {
            Targets::Centering => TargetRule::Centering(center.value()),
            Targets::Sinkhorn => TargetRule::Sinkhorn(self.config.sinkhorn_iterations),
        }
    }

    /// Moves the centers towards the mean of the batch's logits.
    ///
    /// # Shapes
    /// `grad_scale` `[1]` or none, as in [`Center::update`].
    pub fn update_centers(
        &mut self,
        targets: &BatchTargets<B>,
        grad_scale: Option<&Tensor<B::InnerBackend, 1>>,
    ) {
        // called after the loss: a batch is centered by those before it, as in DINO's main_dino.py
        if self.config.cls_targets == Targets::Centering {
            let mean = targets.cls.mean_logits();
            self.center.update(mean, grad_scale.cloned());
        }
        if let (Targets::Centering, Some(masked)) = (self.config.patch_targets, &targets.masked) {
            let mean = masked.mean_logits();
            self.patch_center.update(mean, grad_scale.cloned());
        }
    }
}

impl<B: TrainBackend> TeacherLogits<B> {
    /// The student's rows of class tokens, masked and visible patches, each in the part with most of them.
    pub fn student_rows(&self) -> [usize; 3] {
        let max = |rows: fn(&Part<B>) -> usize| self.parts.iter().map(rows).max().unwrap_or(0);
        [
            max(|part| part.input.images() * part.input.views()),
            max(|part| part.masked.len()),
            max(|part| part.visible.len()),
        ]
    }
}

/// The rows of all parts; none if no part has any.
fn joined<B: Backend>(mut parts: Vec<Tensor<B, 2>>) -> Option<Tensor<B, 2>> {
    match parts.len() {
        0 | 1 => parts.pop(), // `cat` would copy it
        _ => Some(Tensor::cat(parts, 0)),
    }
}
