//! Losses of a batch; reads like Algorithm 1 of the paper.

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use super::rows::{PatchRows, images_of, mask_tensor, most_logit_rows, spans};
use super::{Ibot, Network};
use crate::backbone::{Backbone, PatchMask, Tokens, TrainBackbone};
use crate::config::{PatchWeight, Targets};
use crate::error::{Error, Result};
use crate::kernels::{IbotBackend, TargetPotentials, TrainBackend};
use crate::losses::{
    Center, ClsLogits, ClsLossInput, PatchLossInput, PatchWeighting, cls_loss, koleo_loss,
    patch_loss,
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
    /// Draws what training drops.
    pub random: Random,
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
struct Sizes {
    global_views: usize,
    views: usize,
    batch: usize,
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
        self.forward_crops(IbotInput {
            global_views,
            local_views: &[],
            masks,
            temperature_cls: temperature,
            temperature_patch: temperature,
            random: Random::new(0, 0, 0, Stream::DropPath),
        })
    }

    /// Losses of a batch of global and local views; moves the centers.
    ///
    /// # Errors
    /// [`Error::Training`] where views or masks do not fit together, or logits do not fit the device.
    pub fn forward_crops(&mut self, mut input: IbotInput<'_, B>) -> Result<IbotOutput<B>> {
        let sizes = self.check(&input)?;
        let images = Tensor::cat(input.global_views.to_vec(), 0); // [G B, 3, S, S]
        let device = images.device();

        let teacher = self.teacher.backbone.tokens(images.clone(), None);
        let backbone = &self.student.network.backbone;
        let mask = PatchMask {
            masked: mask_tensor(input.masks, images.dims()[0], &device),
            token: self.student.mask_token.val(),
        };
        let student =
            backbone.training_tokens(Tensor::from_inner(images), Some(mask), &mut input.random);
        let mut student_cls = student.cls.clone(); // [(G + L) B, D]
        if !input.local_views.is_empty() {
            let local = Tensor::from_inner(Tensor::cat(input.local_views.to_vec(), 0));
            let local = backbone.training_tokens(local, None, &mut input.random);
            student_cls = Tensor::cat(vec![student_cls, local.cls], 0);
        }

        let patches = teacher.patches.dims()[1];
        let masked = PatchRows::of(input.masks, true, patches);
        let temperature = input.temperature_patch;
        let config = self.config.clone();
        let loss_cls = self.cls_loss(&student_cls, &teacher.cls, sizes, input.temperature_cls)?;
        let loss_patch = self.patch_loss(&student, &teacher, &masked, temperature, true)?;
        let mut loss = loss_cls.clone() * config.cls_loss_weight
            + loss_patch.clone() * config.patch_loss_weight;
        let mut loss_visible = None;
        if config.visible_loss_weight > 0.0 {
            let visible = PatchRows::of(input.masks, false, patches);
            let found = self.patch_loss(&student, &teacher, &visible, temperature, false)?;
            loss = loss + found.clone() * config.visible_loss_weight;
            loss_visible = Some(found.inner());
        }
        let mut loss_koleo = None;
        if config.koleo_weight > 0.0 {
            let found = koleo_of_views(&student.cls, sizes);
            loss = loss + found.clone() * config.koleo_weight;
            loss_koleo = Some(found.inner());
        }
        Ok(IbotOutput {
            loss,
            loss_cls: loss_cls.inner(),
            loss_patch: loss_patch.inner(),
            loss_visible,
            loss_koleo,
            embedding: teacher.cls,
        })
    }

    fn check(&self, input: &IbotInput<'_, B>) -> Result<Sizes> {
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
                return wrong(
                    "all local views must have one shape and the batch of the global ones".into(),
                );
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
        Ok(Sizes {
            global_views: input.global_views.len(),
            views: input.global_views.len() + input.local_views.len(),
            batch: dims[0],
        })
    }

    fn cls_loss(
        &mut self,
        student_cls: &Tensor<B, 2>,
        teacher_cls: &Tensor<B::InnerBackend, 2>,
        sizes: Sizes,
        temperature: f64,
    ) -> Result<Tensor<B, 1>> {
        let prototypes = self.config.n_cls_prototypes;
        let most_rows = most_logit_rows::<B>(prototypes, sizes.views, &student_cls.device())?;
        let spans = spans(sizes.batch, most_rows / sizes.views);
        let heads = (&self.student.network.cls_head, &self.teacher.cls_head);
        let teacher_logits: Vec<_> = spans
            .iter()
            .map(|span| heads.1.forward(images_of(teacher_cls, sizes.batch, span)))
            .collect();
        let targets = self.config.cls_targets;
        let potentials = self.potentials(targets, &self.center, &teacher_logits, temperature);
        let logits = spans.iter().zip(&teacher_logits).map(|(span, teacher)| {
            let student = heads.0.forward(images_of(student_cls, sizes.batch, span));
            let teacher = Tensor::from_inner(teacher.clone());
            ClsLogits {
                student: student.reshape([sizes.views, span.len(), prototypes]),
                teacher: teacher.reshape([sizes.global_views, span.len(), prototypes]),
            }
        });
        let loss = cls_loss(ClsLossInput {
            logits: logits.collect(),
            potentials: TargetPotentials::from_inner(potentials),
            student_temperature: self.config.temperature_student,
        });
        if targets == Targets::Centering {
            self.center.update(&teacher_logits);
        }
        Ok(loss)
    }

    /// Heads and loss see some patches only: the reference computes all logits and drops the others.
    fn patch_loss(
        &mut self,
        student: &Tokens<B>,
        teacher: &Tokens<B::InnerBackend>,
        rows: &PatchRows,
        temperature: f64,
        moves_center: bool,
    ) -> Result<Tensor<B, 1>> {
        let device = student.patches.device();
        let count = rows.rows.len();
        if count == 0 {
            return Ok(Tensor::zeros([1], &device));
        }
        let (student_rows, teacher_rows) =
            (rows.select(&student.patches), rows.select(&teacher.patches));
        let heads = (
            self.student.network.head_of_patches(),
            self.teacher.head_of_patches(),
        );
        let most_rows = most_logit_rows::<B>(prototypes_of(&self.teacher), 1, &device)?;
        let spans = spans(count, most_rows);
        let teacher_logits: Vec<_> = spans
            .iter()
            .map(|span| heads.1.forward(images_of(&teacher_rows, count, span)))
            .collect();
        let student_logits = spans
            .iter()
            .map(|span| heads.0.forward(images_of(&student_rows, count, span)));
        let targets = self.config.patch_targets;
        let potentials = self.potentials(targets, &self.patch_center, &teacher_logits, temperature);
        let loss = patch_loss(PatchLossInput {
            student_logits: student_logits.collect(),
            teacher_logits: teacher_logits
                .iter()
                .cloned()
                .map(Tensor::from_inner)
                .collect(),
            potentials: TargetPotentials::from_inner(potentials),
            weighting: match self.config.patch_weight {
                PatchWeight::Patch => PatchWeighting::PerPatch,
                PatchWeight::Image => PatchWeighting::PerImage(rows.counts.clone()),
            },
            student_temperature: self.config.temperature_student,
        });
        if targets == Targets::Centering && moves_center {
            self.patch_center.update(&teacher_logits);
        }
        Ok(loss)
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

/// Prototypes of the head that patches go through.
fn prototypes_of<B: Backend, M: burn::module::Module<B>>(network: &Network<B, M>) -> usize {
    network.head_of_patches().prototypes.weight.dims()[1]
}

/// Sum over the global views of the regularizer of each (DINOv2's `ssl_meta_arch.py`).
fn koleo_of_views<B: Backend>(cls: &Tensor<B, 2>, sizes: Sizes) -> Tensor<B, 1> {
    let of_view = |view: usize| cls.clone().narrow(0, view * sizes.batch, sizes.batch);
    let views = (0..sizes.global_views).map(|view| koleo_loss(of_view(view), KOLEO_EPS));
    views
        .reduce(|sum, view| sum + view)
        .unwrap_or_else(|| Tensor::zeros([1], &cls.device()))
}
