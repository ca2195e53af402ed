//! The teacher's side of Algorithm 1: tokens, logits and targets of a whole batch.
//!
//! A batch that does not fit the device is split into parts, and the student gets one part at a time; several ranks have
//! parts of it each. Sinkhorn-Knopp and centers need all rows of the batch, so the teacher first processes all parts.

use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;

use crate::backbone::{Backbone, TrainBackbone};
use crate::collective::{Collective, Pairwise, all_reduce_sum};
use crate::error::{Error, Result};
use crate::kernels::{IbotBackend, Logits, TrainBackend};
use crate::method::config::TargetKind;
use crate::method::counts::{BatchCounts, PartCounts};
use crate::method::head::Head;
use crate::method::ibot::Ibot;
use crate::method::losses::{Center, PartsContext, TargetRule, TeacherTargets, targets_of_parts};
use crate::method::rows::{ChosenPatches, PatchRows};
use crate::method::tensor_collectives::{all_reduce, plus};
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

impl<B: AutodiffBackend> Part<B> {
    pub fn counts(&self) -> PartCounts {
        PartCounts {
            images: self.input.images(),
            masked: self.masked.len(),
            visible: self.visible.len(),
        }
    }
}

/// The teacher's logits of this rank's parts of a batch, and the parts.
pub(super) struct TeacherLogits<B: TrainBackend> {
    pub parts: Vec<Part<B>>,
    /// Of the class tokens of each part, `[G B_p, K]`.
    pub cls: Vec<Option<Logits<B::InnerBackend>>>,
    /// Of the masked patches of each part, `[M_p, K]`; none without such a patch.
    pub masked: Vec<Option<Logits<B::InnerBackend>>>,
    /// Of the visible patches of each part; none without such a patch, or if they have no weight.
    pub visible: Vec<Option<Logits<B::InnerBackend>>>,
}

/// The targets of one kind of rows.
pub(super) struct KindTargets<B: IbotBackend> {
    /// Of each part of this rank; none without such a row.
    pub parts: Vec<Option<TeacherTargets<B>>>,
    /// Mean of the logits of all rows of the batch, `[K]`, where a center follows it and the batch is divided.
    mean: Option<Tensor<B, 1>>,
}

impl<B: IbotBackend> KindTargets<B> {
    /// Mean of the logits of all rows, `[K]`, if there are any.
    fn mean_logits(&self) -> Option<Tensor<B, 1>> {
        let undivided = || Some(self.parts.first()?.as_ref()?.mean_logits());
        self.mean.clone().or_else(undivided)
    }
}

/// What the losses of this rank's parts need from the whole batch.
pub struct BatchTargets<B: TrainBackend> {
    pub(super) parts: Vec<Part<B>>,
    /// Sizes of all parts of all ranks.
    pub(super) counts: BatchCounts,
    pub(super) cls: KindTargets<B::InnerBackend>,
    pub(super) masked: KindTargets<B::InnerBackend>,
    pub(super) visible: KindTargets<B::InnerBackend>,
    /// The student's class tokens of each part of all ranks, `[G B_p, D]`, for KoLeo over several parts; else empty.
    pub(super) student_cls: Vec<Tensor<B::InnerBackend, 2>>,
}

impl<B: TrainBackend> BatchTargets<B> {
    /// Number of parts of this rank.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Images of all parts of all ranks.
    pub(super) fn images(&self) -> usize {
        self.counts.images().sum()
    }
}

/// How one kind of rows gets its targets.
struct Kind<'a, B: IbotBackend> {
    rule: TargetRule<B>,
    temperature: f64,
    head: &'a Head<B>,
    /// Rows of the teacher in a part.
    teacher_rows: &'a dyn Fn(&PartCounts) -> usize,
    /// Rows of the student in a part.
    student_rows: &'a dyn Fn(&PartCounts) -> usize,
    /// Whether a center follows the logits.
    moves_center: bool,
}

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// The teacher's logits of a batch, of unmasked global views; at least one part.
    ///
    /// # Errors
    /// [`Error::Training`] if views or masks do not fit together.
    pub(super) fn teacher_logits(&self, inputs: Vec<IbotInput<B>>) -> Result<TeacherLogits<B>> {
        let (cls_head, patch_head) = (&self.teacher.cls_head, self.teacher.head_of_patches());
        let has_visible = self.config.visible_loss_weight > 0.0;
        // of all parts, only the bottleneck features are kept: they are narrow (256), tokens (D) and logits (K) are not
        let mut logits = TeacherLogits {
            parts: Vec::new(),
            cls: Vec::new(),
            masked: Vec::new(),
            visible: Vec::new(),
        };
        // where prototypes have a norm, all parts share what is made of them
        let prototypes = [cls_head, patch_head].map(Head::normalized_prototypes);
        let [of_cls, of_patches] = prototypes.map(|prototypes| {
            move |bottleneck| Logits {
                bottleneck,
                prototypes: prototypes.clone(),
            }
        });
        for input in inputs {
            input.check(self.student.network.backbone.patches())?;
            // local views are not targets: the student predicts the whole from them, not the reverse
            let images = Tensor::cat(input.global_views.clone(), 0); // [G B, 3, S, S]
            let of_image = self.student.network.backbone.patches();
            let masked = PatchRows::new(&input.masks, true, of_image);
            let visible = PatchRows::new(&input.masks, false, of_image);
            let chosen = ChosenPatches::new(&masked, has_visible.then_some(&visible));
            let teacher = &self.teacher.backbone;
            let tokens = teacher.chosen_tokens(images, None, &mut [], &chosen.indices);
            let part = Part {
                masked,
                visible,
                embedding: tokens.cls, // [G B, D]
                input,
                chosen,
            };
            let [masked, visible] = part.chosen.split(tokens.patches); // [M, D], [V, D]
            let patches = |tokens: Option<_>| {
                let rows = tokens.map(|tokens| patch_head.bottleneck(tokens));
                rows.map(&of_patches)
            };
            let cls = cls_head.bottleneck(part.embedding.clone());
            logits.cls.push(Some(of_cls(cls)));
            logits.masked.push(patches(masked));
            logits.visible.push(patches(visible));
            logits.parts.push(part);
        }
        if logits.parts.is_empty() {
            Err(Error::Training("a batch needs at least one part".into()))
        } else {
            Ok(logits)
        }
    }

    /// The targets of logits, over all rows of the batch. All ranks call this together.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if logits that must be stored do not fit the device; those of [`Collective`].
    pub(super) fn targets(
        &self,
        logits: TeacherLogits<B>,
        ranks: &dyn Collective,
    ) -> Result<BatchTargets<B>> {
        let own: Vec<PartCounts> = logits.parts.iter().map(Part::counts).collect();
        let counts = BatchCounts::gather(&own, ranks)?;
        let input = &logits.parts[0].input; // all parts have the same views and temperatures
        let (globals, views) = (input.global_views.len(), input.views());
        let config = &self.config;
        let cls = Kind {
            rule: self.rule(config.cls_targets, &self.center),
            temperature: input.temperature_cls,
            head: &self.teacher.cls_head,
            teacher_rows: &|part| globals * part.images,
            student_rows: &|part| views * part.images,
            moves_center: config.cls_targets == TargetKind::Centering,
        };
        let masked = Kind {
            rule: self.rule(config.patch_targets, &self.patch_center),
            temperature: input.temperature_patch,
            head: self.teacher.head_of_patches(),
            teacher_rows: &|part| part.masked,
            student_rows: &|part| part.masked,
            moves_center: config.patch_targets == TargetKind::Centering,
        };
        let has_visible = config.visible_loss_weight > 0.0;
        let visible = Kind {
            rule: masked.rule.clone(),
            teacher_rows: &|part| if has_visible { part.visible } else { 0 },
            student_rows: &|part| part.visible,
            moves_center: false,
            ..masked
        };
        Ok(BatchTargets {
            cls: self.targets_of(logits.cls, &cls, &counts, ranks)?,
            masked: self.targets_of(logits.masked, &masked, &counts, ranks)?,
            visible: self.targets_of(logits.visible, &visible, &counts, ranks)?,
            parts: logits.parts,
            counts,
            student_cls: Vec::new(),
        })
    }

    /// The targets of one kind of rows.
    fn targets_of(
        &self,
        parts: Vec<Option<Logits<B::InnerBackend>>>,
        kind: &Kind<'_, B::InnerBackend>,
        counts: &BatchCounts,
        ranks: &dyn Collective,
    ) -> Result<KindTargets<B::InnerBackend>> {
        let (rows, device) = (
            counts.total(kind.teacher_rows),
            kind.head.prototypes.weight.device(),
        );
        if rows == 0 {
            // all ranks know it, and none waits for another one
            let parts = parts.iter().map(|_| None).collect();
            return Ok(KindTargets { parts, mean: None });
        }
        // by counts of the whole batch, so that all ranks choose the same; by the student's rows too, as the logits of both are stored
        // or both tiled
        let columns = tiling::<B::InnerBackend>(
            [
                counts.most_on_a_rank(kind.teacher_rows),
                counts.most_in_a_part(kind.student_rows),
            ],
            kind.head.prototypes(),
            self.config.streaming_prototypes,
            self.tile_entries,
            &device,
        )?;
        if counts.is_undivided() {
            let (rule, temperature) = (&kind.rule, kind.temperature);
            let whole = |logits| TeacherTargets::new(logits, rule.clone(), temperature, columns);
            let parts = parts.into_iter().map(|part| part.map(whole)).collect();
            return Ok(KindTargets { parts, mean: None });
        }
        let context = PartsContext {
            ranks,
            prototypes: kind.head.prototypes(),
            device: &device,
        };
        let mean = if kind.moves_center {
            Some(mean_of_parts(&parts, rows, kind.head, ranks)?)
        } else {
            None
        };
        let parts = targets_of_parts(parts, &kind.rule, kind.temperature, columns, &context)?;
        Ok(KindTargets { parts, mean })
    }

    /// How logits become targets.
    pub(super) fn rule(
        &self,
        targets: TargetKind,
        center: &Center<B::InnerBackend>,
    ) -> TargetRule<B::InnerBackend> {
        match targets {
            TargetKind::Centering => TargetRule::Centering(center.value()),
            TargetKind::Sinkhorn => TargetRule::Sinkhorn(self.config.sinkhorn_iterations),
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
        let config = &self.config;
        if config.cls_targets == TargetKind::Centering
            && let Some(mean) = targets.cls.mean_logits()
        {
            self.center.update(mean, grad_scale.cloned());
        }
        if config.patch_targets == TargetKind::Centering
            && let Some(mean) = targets.masked.mean_logits()
        {
            self.patch_center.update(mean, grad_scale.cloned());
        }
    }
}

/// The mean of the logits of all rows, `[K]`: the product of the mean row and the prototypes, which takes less than the
/// logits of all rows.
fn mean_of_parts<B: IbotBackend>(
    parts: &[Option<Logits<B>>],
    rows: usize,
    head: &Head<B>,
    ranks: &dyn Collective,
) -> Result<Tensor<B, 1>> {
    let prototypes = head.normalized_prototypes(); // [d, K]
    let mut of_rows = Pairwise::default();
    for part in parts {
        let bottleneck = part.as_ref().map(|part| part.bottleneck.clone()); // [M_p, d]
        of_rows.push(bottleneck.map(B::column_sums), plus);
    }
    // -0, unlike 0, leaves the bits of the others' sums as they are
    let none = || Tensor::full([prototypes.dims()[0]], -0.0, &prototypes.device());
    let of_rows = of_rows.finish(plus).flatten().unwrap_or_else(none);
    let mean = all_reduce(of_rows, ranks, all_reduce_sum)? / rows as f64;
    Ok(Logits {
        bottleneck: mean.unsqueeze_dim(0),
        prototypes,
    }
    .mean())
}
