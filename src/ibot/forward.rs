//! Losses of a batch; reads like Algorithm 1 of the paper.

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use super::Ibot;
use super::rows::{PatchRows, images_of, mask_tensor};
use super::targets::{BatchTargets, Part};
use super::teacher_rows::PartTargets;
use crate::backbone::{PatchMask, Tokens, TrainBackbone};
use crate::config::PatchWeight;
use crate::error::{Error, Result};
use crate::kernels::{StreamedTargets, TargetPotentials, TrainBackend};
use crate::losses::{
    ClsLogits, ClsLossInput, PatchLossInput, PatchWeighting, StreamedClsLossInput,
    StreamedPatchLossInput, cls_loss, koleo_loss, patch_loss, streamed_cls_loss,
    streamed_patch_loss,
};
use crate::random::{Random, Stream};

/// Keeps logarithms and divisions of the KoLeo regularizer finite (DINOv2's `koleo_loss.py`).
const KOLEO_EPS: f64 = 1e-8;

/// What [`Ibot::forward_crops`] takes.
#[derive(Debug, Clone)]
pub struct IbotInput<'a, B: AutodiffBackend> {
    /// G views `[B, 3, S, S]` that both networks see.
    pub global_views: &'a [Tensor<B::InnerBackend, 4>],
    /// L views `[B, 3, s, s]` that the student alone sees.
    pub local_views: &'a [Tensor<B::InnerBackend, 4>],
    /// `[G B, N]`, view by view, true where the student does not see.
    pub masks: &'a [bool],
    /// Temperature of the teacher's class-token targets.
    pub temperature_cls: f64,
    /// Temperature of the teacher's patch targets.
    pub temperature_patch: f64,
    /// What training drops is drawn from these: one generator for each image of each view, view by view, `(G + L) B`.
    pub of_images: Vec<Random>,
}

impl<B: AutodiffBackend> IbotInput<'_, B> {
    /// The generators of the global views.
    pub(super) fn random_of_global_views(&self) -> &[Random] {
        let images: usize = self.global_views.iter().map(|view| view.dims()[0]).sum();
        &self.of_images[..images]
    }
}

/// Losses of a batch, and the teacher's view of it.
#[derive(Debug, Clone)]
pub struct IbotOutput<B: AutodiffBackend> {
    /// All losses by their weights, `[1]`; the only one to call `backward` on.
    pub loss: Tensor<B, 1>,
    /// Cross-entropy of class tokens across views, `[1]`.
    pub loss_cls: Tensor<B::InnerBackend, 1>,
    /// Cross-entropy of masked patches, `[1]`; zero without a masked patch.
    pub loss_patch: Tensor<B::InnerBackend, 1>,
    /// Cross-entropy of visible patches, `[1]`; none where its weight is 0.
    pub loss_visible: Option<Tensor<B::InnerBackend, 1>>,
    /// KoLeo regularizer of the student's class tokens, `[1]`; none where its weight is 0.
    pub loss_koleo: Option<Tensor<B::InnerBackend, 1>>,
    /// The teacher's class tokens of all global views, view by view, `[G B, D]`.
    pub embedding: Tensor<B::InnerBackend, 2>,
}

/// Numbers of views and images.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub global_views: usize,
    pub views: usize,
    pub batch: usize,
}

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// Losses of a batch of global views, as the reference's `forward(global_views)`; moves the centers. The reference
    /// takes the temperature from the epoch: [`crate::config::IbotConfig::teacher_temperature`].
    ///
    /// # Shapes
    /// `global_views` G times `[B, 3, S, S]`; `masks` `[G B, N]`, view by view, true where the student does not see.
    ///
    /// # Errors
    /// As [`Ibot::forward_crops`].
    pub fn forward(
        &mut self,
        global_views: &[Tensor<B::InnerBackend, 4>],
        masks: &[bool],
        temperature: f64,
    ) -> Result<IbotOutput<B>> {
        let images = global_views.iter().map(|view| view.dims()[0]).sum();
        self.forward_crops(IbotInput {
            global_views,
            local_views: &[],
            masks,
            temperature_cls: temperature,
            temperature_patch: temperature,
            of_images: vec![Random::new(0, 0, 0, Stream::DropPath(0)); images],
        })
    }

    /// Losses of a batch of global and local views; moves the centers.
    ///
    /// # Errors
    /// [`Error::Training`] where views or masks do not fit together, [`Error::Unsupported`] where logits do not fit the device.
    pub fn forward_crops(&mut self, input: IbotInput<'_, B>) -> Result<IbotOutput<B>> {
        let inputs = [input];
        let targets = self.targets(&inputs)?;
        let [input] = inputs;
        let output = self.losses(input, &targets, 0)?;
        self.update_centers(&targets);
        Ok(output)
    }

    /// Losses of part `index` of a batch whose `targets` were made before, each as its share of the batch's: the sum over
    /// the parts, and of their gradients, is what the batch has in one piece. KoLeo is that of the whole batch in each
    /// part, with the gradient of this part's tokens.
    ///
    /// # Errors
    /// [`Error::Training`] where the views or masks are not those that the targets were made of.
    pub fn losses(
        &self,
        mut input: IbotInput<'_, B>,
        targets: &BatchTargets<B>,
        index: usize,
    ) -> Result<IbotOutput<B>> {
        let sizes = self.check(&input)?;
        let part = targets.parts.get(index);
        let part = part
            .filter(|part| part.batch == sizes.batch)
            .ok_or_else(|| {
                Error::Training(format!(
                    "part {index} is not one that the targets were made of"
                ))
            })?;
        let config = &self.config;
        let (student, student_cls) = self.student_tokens(&mut input);

        let loss_cls = self.cls_loss(&student_cls, sizes, targets, index);
        let loss_patch = self.patch_loss(
            &student,
            &part.masked,
            // nothing can be cut out of no rows
            (targets.masked.as_ref())
                .filter(|_| !part.masked.rows.is_empty())
                .map(|rows| rows.of_part(index)),
            share_of(&targets.parts, index, config.patch_weight, |part| {
                &part.masked
            }),
        );
        let mut loss = loss_cls.clone() * config.cls_loss_weight
            + loss_patch.clone() * config.patch_loss_weight;
        let mut loss_visible = None;
        if config.visible_loss_weight > 0.0 {
            let found = self.patch_loss(
                &student,
                &part.visible,
                (targets.visible.as_ref())
                    .filter(|_| !part.visible.rows.is_empty())
                    .map(|rows| rows.of_part(index)),
                share_of(&targets.parts, index, config.patch_weight, |part| {
                    &part.visible
                }),
            );
            loss = loss + found.clone() * config.visible_loss_weight;
            loss_visible = Some(found.inner());
        }
        let mut loss_koleo = None;
        if config.koleo_weight > 0.0 {
            let found = koleo_of_views(&student.cls, sizes, &targets.parts, index);
            loss = loss + found.clone() * config.koleo_weight;
            loss_koleo = Some(found.inner());
        }
        Ok(IbotOutput {
            loss,
            loss_cls: loss_cls.inner(),
            loss_patch: loss_patch.inner(),
            loss_visible,
            loss_koleo,
            embedding: part.cls.clone(),
        })
    }

    /// Tokens of the masked global views, and class tokens of all views, `[(G + L) B, D]`.
    fn student_tokens(&self, input: &mut IbotInput<'_, B>) -> (Tokens<B>, Tensor<B, 2>) {
        let images = Tensor::cat(input.global_views.to_vec(), 0); // [G B, 3, S, S]
        let backbone = &self.student.network.backbone;
        let mask = PatchMask {
            masked: mask_tensor(input.masks, images.dims()[0], &images.device()),
            token: self.student.mask_token.val(),
        };
        let (of_global, of_local) = input.of_images.split_at_mut(images.dims()[0]);
        let images = Tensor::from_inner(images);
        let global = backbone.training_tokens(images, Some(mask), of_global);
        if input.local_views.is_empty() {
            let cls = global.cls.clone();
            return (global, cls);
        }
        let local = Tensor::from_inner(Tensor::cat(input.local_views.to_vec(), 0));
        let local = backbone.training_tokens(local, None, of_local);
        let cls = Tensor::cat(vec![global.cls.clone(), local.cls], 0);
        (global, cls)
    }

    pub(super) fn check(&self, input: &IbotInput<'_, B>) -> Result<Sizes> {
        let wrong = |reason: String| Err(Error::Training(reason));
        let Some(first) = input.global_views.first() else {
            return wrong("forward needs at least one global view".into());
        };
        let dims = first.dims();
        if input.global_views.iter().any(|view| view.dims() != dims) {
            return wrong("all global views must have one shape".into());
        }
        if let Some(local) = input.local_views.first() {
            let local = local.dims();
            if input.local_views.iter().any(|view| view.dims() != local) || local[0] != dims[0] {
                let reason = "all local views must have one shape and the batch of the global ones";
                return wrong(reason.into());
            }
        }
        if self.config.koleo_weight > 0.0 && dims[0] < 2 {
            return wrong(
                "KoLeo needs at least 2 images: it looks for the nearest other one".into(),
            );
        }
        let patches = self.student.network.backbone.patches();
        let expected = input.global_views.len() * dims[0] * patches;
        if input.masks.len() != expected {
            return wrong(format!(
                "{} mask entries for {} views of {} images with {patches} patches each: expected {expected}",
                input.masks.len(),
                input.global_views.len(),
                dims[0],
            ));
        }
        let views = input.global_views.len() + input.local_views.len();
        if input.of_images.len() != views * dims[0] {
            return wrong(format!(
                "{} generators for {views} views of {} images: one for each is needed",
                input.of_images.len(),
                dims[0],
            ));
        }
        Ok(Sizes {
            global_views: input.global_views.len(),
            views,
            batch: dims[0],
        })
    }

    fn cls_loss(
        &self,
        student_cls: &Tensor<B, 2>,
        sizes: Sizes,
        targets: &BatchTargets<B>,
        index: usize,
    ) -> Tensor<B, 1> {
        let prototypes = self.config.n_cls_prototypes;
        let head = &self.student.network.cls_head;
        let student_temperature = self.config.temperature_student;
        let loss = match targets.cls.of_part(index) {
            PartTargets::Streamed(of_teacher) => streamed_cls_loss(StreamedClsLossInput {
                student: head.streamed(student_cls.clone()),
                targets: StreamedTargets::from_inner(of_teacher),
                images: sizes.batch,
                student_temperature,
            }),
            PartTargets::Stored(of_teacher, potentials) => {
                let spans = of_teacher.spans.iter().zip(&of_teacher.logits);
                let logits = spans.map(|(span, teacher)| {
                    let student = head.forward(images_of(student_cls, sizes.batch, span));
                    let teacher = Tensor::from_inner(teacher.clone());
                    ClsLogits {
                        student: student.reshape([sizes.views, span.len(), prototypes]),
                        teacher: teacher.reshape([sizes.global_views, span.len(), prototypes]),
                    }
                });
                cls_loss(ClsLossInput {
                    logits: logits.collect(),
                    potentials: TargetPotentials::from_inner(potentials),
                    student_temperature,
                })
            }
        };
        shared(loss, sizes.batch as f64 / targets.batch() as f64)
    }

    /// Heads and loss see some patches only: the reference computes all logits and drops the others.
    fn patch_loss(
        &self,
        student: &Tokens<B>,
        rows: &PatchRows,
        of_teacher: Option<PartTargets<'_, B::InnerBackend>>,
        share: f64,
    ) -> Tensor<B, 1> {
        let count = rows.rows.len();
        let Some(of_teacher) = of_teacher.filter(|_| count > 0) else {
            return Tensor::zeros([1], &student.patches.device());
        };
        let selected = rows.select(&student.patches);
        let head = self.student.network.head_of_patches();
        let student_temperature = self.config.temperature_student;
        let weighting = match self.config.patch_weight {
            PatchWeight::Patch => PatchWeighting::PerPatch,
            PatchWeight::Image => PatchWeighting::PerImage(rows.counts.clone()),
        };
        let loss = match of_teacher {
            PartTargets::Streamed(of_teacher) => streamed_patch_loss(StreamedPatchLossInput {
                student: head.streamed(selected),
                targets: StreamedTargets::from_inner(of_teacher),
                weighting,
                student_temperature,
            }),
            PartTargets::Stored(of_teacher, potentials) => {
                let spans = of_teacher.spans.iter();
                let teacher_logits = of_teacher.logits.iter().cloned();
                patch_loss(PatchLossInput {
                    student_logits: spans
                        .map(|span| head.forward(images_of(&selected, count, span)))
                        .collect(),
                    teacher_logits: teacher_logits.map(Tensor::from_inner).collect(),
                    potentials: TargetPotentials::from_inner(potentials),
                    weighting,
                    student_temperature,
                })
            }
        };
        shared(loss, share)
    }
}

/// A loss as a share of the batch's; a batch in one piece has all of it.
fn shared<B: Backend>(loss: Tensor<B, 1>, share: f64) -> Tensor<B, 1> {
    if share == 1.0 { loss } else { loss * share }
}

/// The share of a part's patch loss in the batch's: by patches or by images.
fn share_of<B: Backend>(
    parts: &[Part<B>],
    index: usize,
    weight: PatchWeight,
    rows: impl Fn(&Part<B>) -> &PatchRows,
) -> f64 {
    let amount = |part: &Part<B>| match weight {
        PatchWeight::Patch => rows(part).rows.len(),
        PatchWeight::Image => part.batch,
    };
    let all: usize = parts.iter().map(amount).sum();
    amount(&parts[index]) as f64 / all.max(1) as f64
}

/// Sum over the global views of the regularizer of each (DINOv2's `ssl_meta_arch.py`), over the pictures of all parts;
/// those of the other parts are constants.
fn koleo_of_views<B: TrainBackend>(
    cls: &Tensor<B, 2>,
    sizes: Sizes,
    parts: &[Part<B::InnerBackend>],
    index: usize,
) -> Tensor<B, 1> {
    let of_view = |view: usize| {
        let pictures = parts.iter().enumerate().filter_map(|(at, part)| {
            let own = (at == index).then(|| cls.clone());
            let tokens = own.or_else(|| part.student_cls.clone().map(Tensor::from_inner))?;
            Some(tokens.narrow(0, view * part.batch, part.batch))
        });
        Tensor::cat(pictures.collect(), 0)
    };
    let views = (0..sizes.global_views).map(|view| koleo_loss(of_view(view), KOLEO_EPS));
    views
        .reduce(|sum, view| sum + view)
        .unwrap_or_else(|| Tensor::zeros([1], &cls.device()))
}
