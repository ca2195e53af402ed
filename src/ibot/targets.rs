//! The teacher's side of a batch: tokens, logits and potentials, over all of its parts at once.
//!
//! A batch that does not fit the device comes in parts, and the student sees one part at a time. Sinkhorn-Knopp, centers
//! and KoLeo look at the whole batch, so that the teacher goes first, through all parts.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use super::rows::{PatchRows, images_of, mask_tensor, most_logit_rows, spans};
use super::{Ibot, IbotInput};
use crate::backbone::{Backbone, PatchMask, TrainBackbone};
use crate::config::Targets;
use crate::error::{Error, Result};
use crate::head::Head;
use crate::kernels::{IbotBackend, TargetPotentials, TrainBackend};
use crate::losses::Center;

/// Rows of one head: which go through it at once, and the teacher's logits of each such span.
pub(super) struct HeadRows<B: Backend> {
    pub spans: Vec<Range<usize>>,
    pub teacher_logits: Vec<Tensor<B, 2>>,
}

impl<B: IbotBackend> HeadRows<B> {
    /// The teacher's logits; `rows` holds `count` rows a view.
    pub fn new(head: &Head<B>, rows: &Tensor<B, 2>, count: usize, most: usize) -> Self {
        let spans = match count {
            0 => Vec::new(),
            _ => spans(count, most),
        };
        let logits = |span| head.forward(images_of(rows, count, span));
        Self {
            teacher_logits: spans.iter().map(logits).collect(),
            spans,
        }
    }
}

impl<B: Backend> HeadRows<B> {
    pub fn rows(&self) -> usize {
        self.teacher_logits
            .iter()
            .map(|logits| logits.dims()[0])
            .sum()
    }
}

/// What the teacher makes of one part of a batch.
pub(super) struct Part<B: Backend> {
    /// Pictures of the part.
    pub batch: usize,
    /// Class tokens of the global views, `[G B_p, D]`.
    pub cls: Tensor<B, 2>,
    pub of_cls: HeadRows<B>,
    pub masked: PatchRows,
    pub of_masked: HeadRows<B>,
    pub visible: PatchRows,
    pub of_visible: HeadRows<B>,
    /// The student's class tokens of the global views without a graph, for KoLeo over several parts.
    pub student_cls: Option<Tensor<B, 2>>,
}

/// Targets of a whole batch, made before the student sees any of it.
pub struct BatchTargets<B: AutodiffBackend> {
    pub(super) parts: Vec<Part<B::InnerBackend>>,
    pub(super) cls: TargetPotentials<B::InnerBackend>,
    pub(super) masked: Option<TargetPotentials<B::InnerBackend>>,
    pub(super) visible: Option<TargetPotentials<B::InnerBackend>>,
}

impl<B: AutodiffBackend> BatchTargets<B> {
    /// Pictures of all parts.
    pub(super) fn batch(&self) -> usize {
        self.parts.iter().map(|part| part.batch).sum()
    }
}

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// The teacher's targets of a batch that comes in one or more parts.
    ///
    /// # Errors
    /// [`Error::Training`] where views or masks do not fit together, or logits do not fit the device.
    pub fn targets(&self, inputs: &[IbotInput<'_, B>]) -> Result<BatchTargets<B>> {
        let Some(first) = inputs.first() else {
            return Err(Error::Training("a batch needs at least one part".into()));
        };
        let parts = inputs
            .iter()
            .map(|input| self.part(input, inputs.len() > 1));
        let parts: Vec<Part<B::InnerBackend>> = parts.collect::<Result<_>>()?;
        let (cls, patches) = (self.config.cls_targets, self.config.patch_targets);
        let potentials =
            |targets, center, rows: &dyn Fn(&Part<_>) -> Vec<Tensor<_, 2>>, temperature| {
                let logits: Vec<Tensor<B::InnerBackend, 2>> = parts.iter().flat_map(rows).collect();
                (!logits.is_empty()).then(|| self.potentials(targets, center, &logits, temperature))
            };
        let of_cls = |part: &Part<_>| part.of_cls.teacher_logits.clone();
        let of_masked = |part: &Part<_>| part.of_masked.teacher_logits.clone();
        let of_visible = |part: &Part<_>| part.of_visible.teacher_logits.clone();
        let cls = potentials(cls, &self.center, &of_cls, first.temperature_cls);
        let temperature = first.temperature_patch;
        Ok(BatchTargets {
            cls: cls.ok_or_else(|| Error::Training("a batch needs at least one image".into()))?,
            masked: potentials(patches, &self.patch_center, &of_masked, temperature),
            visible: potentials(patches, &self.patch_center, &of_visible, temperature),
            parts,
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
            let logits = targets
                .parts
                .iter()
                .flat_map(|part| &part.of_cls.teacher_logits);
            let logits: Vec<_> = logits.cloned().collect();
            self.center.update_unless(&logits, gate.cloned());
        }
        if self.config.patch_targets == Targets::Centering {
            let logits = targets
                .parts
                .iter()
                .flat_map(|part| &part.of_masked.teacher_logits);
            let logits: Vec<_> = logits.cloned().collect();
            self.patch_center.update_unless(&logits, gate.cloned());
        }
    }

    fn part(
        &self,
        input: &IbotInput<'_, B>,
        is_one_of_many: bool,
    ) -> Result<Part<B::InnerBackend>> {
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
        let most = most_logit_rows::<B>(self.config.n_cls_prototypes, sizes.views, &device)?;
        let of_cls = HeadRows::new(
            &self.teacher.cls_head,
            &teacher.cls,
            sizes.batch,
            most / sizes.views,
        );
        let head = self.teacher.head_of_patches();
        let prototypes = head.prototypes.weight.dims()[1];
        let most = most_logit_rows::<B>(prototypes, 1, &device)?;
        let of_patches = |rows: &PatchRows| {
            let count = rows.rows.len();
            let selected = match count {
                0 => teacher.cls.clone(), // not looked at
                _ => rows.select(&teacher.patches),
            };
            HeadRows::new(head, &selected, count, most)
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
        Ok(Part {
            batch: sizes.batch,
            of_masked: of_patches(&masked),
            of_visible: of_patches(&visible),
            cls: teacher.cls.clone(),
            of_cls,
            masked,
            visible,
            student_cls,
        })
    }

    fn potentials(
        &self,
        targets: Targets,
        center: &Center<B::InnerBackend>,
        teacher_logits: &[Tensor<B::InnerBackend, 2>],
        temperature: f64,
    ) -> TargetPotentials<B::InnerBackend> {
        match targets {
            Targets::Centering => {
                B::InnerBackend::centered_potentials(teacher_logits, center.value(), temperature)
            }
            Targets::Sinkhorn => {
                let iterations = self.config.sinkhorn_iterations;
                B::InnerBackend::sinkhorn_potentials(teacher_logits, temperature, iterations)
            }
        }
    }
}

/// Rows of the parts before `index`, and of that part.
pub(super) fn place<B: Backend>(
    parts: &[Part<B>],
    index: usize,
    rows: impl Fn(&Part<B>) -> &HeadRows<B>,
) -> Range<usize> {
    let start = parts[..index].iter().map(|part| rows(part).rows()).sum();
    start..start + rows(&parts[index]).rows()
}
