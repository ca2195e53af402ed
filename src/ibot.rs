//! The method; reads like Algorithm 1 of the paper (arXiv 2111.07832).

use std::ops::Range;

use burn::module::{AutodiffModule, Module, Param};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData};

use crate::backbone::{Backbone, PatchMask, Tokens, TrainBackbone, VisionTransformer};
use crate::config::{ClsTargets, IbotConfig};
use crate::error::{Error, Result};
use crate::head::{Head, HeadConfig};
use crate::init::normal_param;
use crate::kernels::{IbotBackend, TargetPotentials, TrainBackend};
use crate::losses::{
    Center, ClsLogits, ClsLossInput, PatchLossInput, PatchWeighting, cls_loss, patch_loss,
};
use crate::random::{Random, Stream};
use crate::teacher::{deep_copy, ema};

/// Deviation of the mask token at the start.
const MASK_TOKEN_DEVIATION: f64 = 0.02;

/// A backbone with its two prototype heads: what student and teacher have in common.
#[derive(Module, Debug)]
pub struct Network<B: Backend, M: Module<B>> {
    /// Images to tokens.
    pub backbone: M,
    /// Class tokens to prototype logits.
    pub cls_head: Head<B>,
    /// Patch tokens to prototype logits.
    pub patch_head: Head<B>,
}

/// What the optimizer trains.
#[derive(Module, Debug)]
pub struct Student<B: Backend, M: Module<B>> {
    /// Backbone and heads, which the teacher averages.
    pub network: Network<B, M>,
    /// Stands for masked patches, `[1, 1, D]`; the teacher sees no mask and has none.
    pub mask_token: Param<Tensor<B, 3>>,
}

/// Student, teacher and center of one run.
#[derive(Debug)]
pub struct Ibot<B: TrainBackend, M: TrainBackbone<B>> {
    /// Learns by gradient.
    pub student: Student<B, M>,
    /// Moving average of the student.
    pub teacher: Network<B::InnerBackend, M::InnerModule>,
    /// Center of the class-token logits.
    pub center: Center<B::InnerBackend>,
    config: IbotConfig,
}

/// iBOT with a vision transformer.
pub type VitIbot<B> = Ibot<B, VisionTransformer<B>>;

/// Losses of a batch, and the teacher's view of it.
#[derive(Debug, Clone)]
pub struct IbotOutput<B: AutodiffBackend> {
    /// `loss_cls + patch_loss_weight * loss_patch`, `[1]`; the only one to call `backward` on.
    pub loss: Tensor<B, 1>,
    /// Cross-entropy of class tokens across views, `[1]`.
    pub loss_cls: Tensor<B::InnerBackend, 1>,
    /// Cross-entropy of masked patches, `[1]`; zero without a masked patch.
    pub loss_patch: Tensor<B::InnerBackend, 1>,
    /// The teacher's class tokens of all views, view by view, `[G B, D]`.
    pub embedding: Tensor<B::InnerBackend, 2>,
}

impl IbotConfig {
    /// iBOT with the backbone that this configuration names, and weights drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] where the numbers cannot work.
    pub fn init<B: TrainBackend>(&self, seed: u64, device: &B::Device) -> Result<VitIbot<B>> {
        let mut random = Random::new(seed, 0, 0, Stream::Init);
        let backbone = self.backbone()?.init::<B>(&mut random, device)?;
        self.init_with(backbone, &mut random, device)
    }

    /// iBOT around any backbone; heads and mask token are drawn from `random`.
    ///
    /// # Errors
    /// [`Error::Config`] where the numbers cannot work.
    pub fn init_with<B, M>(
        &self,
        backbone: M,
        random: &mut Random,
        device: &B::Device,
    ) -> Result<Ibot<B, M>>
    where
        B: TrainBackend,
        M: TrainBackbone<B>,
    {
        self.validate()?;
        let width = backbone.width();
        let mut head = |prototypes| {
            HeadConfig {
                width,
                hidden_dim: self.projector_hidden_dim,
                bottleneck_dim: self.projector_bottleneck_dim,
                prototypes,
            }
            .init::<B>(random, device)
        };
        let network = Network {
            backbone,
            cls_head: head(self.n_cls_prototypes),
            patch_head: head(self.n_patch_prototypes),
        };
        let mask_token = normal_param(random, [1, 1, width], MASK_TOKEN_DEVIATION, device);
        Ok(Ibot {
            teacher: deep_copy(network.valid()),
            student: Student {
                network,
                mask_token,
            },
            center: Center::unset(self.center_momentum),
            config: self.clone(),
        })
    }
}

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// Its parameters.
    pub fn config(&self) -> &IbotConfig {
        &self.config
    }

    /// Losses of a batch of global views; moves the center. The reference takes the temperature from the epoch:
    /// [`IbotConfig::teacher_temperature`].
    ///
    /// # Shapes
    /// `global_views` G times `[B, 3, S, S]`; `masks` `[G B, N]`, view by view, true where the student does not see.
    ///
    /// # Errors
    /// [`Error::Training`] where views or masks do not fit together.
    pub fn forward(
        &mut self,
        global_views: &[Tensor<B::InnerBackend, 4>],
        masks: &[bool],
        temperature: f64,
    ) -> Result<IbotOutput<B>> {
        let batch = self.check(global_views, masks)?;
        let views = global_views.len();
        let images = Tensor::cat(global_views.to_vec(), 0); // [G B, 3, S, S]
        let device = images.device();
        let rows = masked_rows(masks);

        let teacher = self.teacher.backbone.tokens(images.clone(), None);
        let mask = PatchMask {
            masked: mask_tensor(masks, images.dims()[0], &device),
            token: self.student.mask_token.val(),
        };
        let student = self
            .student
            .network
            .backbone
            .tokens(Tensor::from_inner(images), Some(mask));

        let loss_cls = self.cls_loss(&student.cls, &teacher.cls, [views, batch], temperature)?;
        let loss_patch = self.patch_loss(&student, &teacher, rows, temperature)?;
        let loss = loss_cls.clone() + loss_patch.clone() * self.config.patch_loss_weight;
        Ok(IbotOutput {
            loss,
            loss_cls: loss_cls.inner(),
            loss_patch: loss_patch.inner(),
            embedding: teacher.cls,
        })
    }

    /// The teacher's feature of each image, as the reference's `forward(images=...)`.
    ///
    /// # Shapes
    /// `images` `[B, 3, S, S]` -> `[B, D]`.
    pub fn embed(&self, images: Tensor<B::InnerBackend, 4>) -> Tensor<B::InnerBackend, 2> {
        self.teacher.backbone.embed(images)
    }

    /// The same method around what `load` makes of the student's backbone; the teacher's starts equal to it again.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn map_backbone(self, load: impl FnOnce(M) -> Result<M>) -> Result<Self> {
        let Student {
            network,
            mask_token,
        } = self.student;
        let network = Network {
            backbone: load(network.backbone)?,
            ..network
        };
        Ok(Self {
            teacher: deep_copy(network.valid()),
            student: Student {
                network,
                mask_token,
            },
            ..self
        })
    }

    /// Moves the teacher towards the student: `teacher * decay + student * (1 - decay)`; the mask token stays out.
    pub fn update_teacher(self, decay: f64) -> Self {
        Self {
            teacher: ema::<B, _, _>(self.teacher, &self.student.network, decay),
            ..self
        }
    }

    fn check(&self, global_views: &[Tensor<B::InnerBackend, 4>], masks: &[bool]) -> Result<usize> {
        let Some(first) = global_views.first() else {
            return Err(Error::Training(
                "forward needs at least one global view".into(),
            ));
        };
        let dims = first.dims();
        if global_views.iter().any(|view| view.dims() != dims) {
            return Err(Error::Training(
                "all global views must have one shape".into(),
            ));
        }
        let patches = self.student.network.backbone.patches();
        let expected = global_views.len() * dims[0] * patches;
        if masks.len() != expected {
            return Err(Error::Training(format!(
                "{} mask entries for {} views of {} images with {patches} patches each: expected {expected}",
                masks.len(),
                global_views.len(),
                dims[0],
            )));
        }
        Ok(dims[0])
    }

    fn cls_loss(
        &mut self,
        student_cls: &Tensor<B, 2>,
        teacher_cls: &Tensor<B::InnerBackend, 2>,
        [views, batch]: [usize; 2],
        temperature: f64,
    ) -> Result<Tensor<B, 1>> {
        let prototypes = self.config.n_cls_prototypes;
        let most_rows = most_logit_rows::<B>(prototypes, views, &student_cls.device())?;
        let spans = spans(batch, most_rows / views);
        let heads = (&self.student.network.cls_head, &self.teacher.cls_head);
        let student_logits = spans.iter().map(|span| {
            let logits = heads.0.forward(images_of(student_cls, batch, span));
            logits.reshape([views, span.len(), prototypes])
        });
        let teacher_logits: Vec<_> = spans
            .iter()
            .map(|span| heads.1.forward(images_of(teacher_cls, batch, span)))
            .collect();
        let potentials = match self.config.cls_targets {
            ClsTargets::Centering => {
                let center = self.center.value();
                B::InnerBackend::centered_potentials(&teacher_logits, center, temperature)
            }
            ClsTargets::Sinkhorn => self.sinkhorn(&teacher_logits, temperature),
        };
        let logits = student_logits
            .zip(&teacher_logits)
            .map(|(student, teacher)| {
                let teacher = teacher.clone().reshape(student.dims());
                let teacher = Tensor::from_inner(teacher);
                ClsLogits { student, teacher }
            });
        let loss = cls_loss(ClsLossInput {
            logits: logits.collect(),
            potentials: TargetPotentials::from_inner(potentials),
            student_temperature: self.config.temperature_student,
        });
        if self.config.cls_targets == ClsTargets::Centering {
            self.center.update(&teacher_logits);
        }
        Ok(loss)
    }

    /// Heads and loss see masked patches only: the reference computes all logits and drops the others.
    fn patch_loss(
        &self,
        student: &Tokens<B>,
        teacher: &Tokens<B::InnerBackend>,
        masked_rows: Vec<i32>,
        temperature: f64,
    ) -> Result<Tensor<B, 1>> {
        let device = student.patches.device();
        let count = masked_rows.len();
        if count == 0 {
            return Ok(Tensor::zeros([1], &device));
        }
        let [images, patches, width] = teacher.patches.dims();
        let rows: Tensor<B::InnerBackend, 1, Int> =
            Tensor::from_data(TensorData::new(masked_rows, [count]), &device);
        // [G B, N, D] -> [M, D]
        let flat = [images * patches, width];
        let teacher_patches = teacher
            .patches
            .clone()
            .reshape(flat)
            .select(0, rows.clone());
        let rows = Tensor::from_inner(rows);
        let student_patches = student.patches.clone().reshape(flat).select(0, rows);

        let most_rows = most_logit_rows::<B>(self.config.n_patch_prototypes, 1, &device)?;
        let spans = spans(count, most_rows);
        let heads = (&self.student.network.patch_head, &self.teacher.patch_head);
        let teacher_logits: Vec<_> = spans
            .iter()
            .map(|span| heads.1.forward(images_of(&teacher_patches, count, span)))
            .collect();
        let student_logits = spans
            .iter()
            .map(|span| heads.0.forward(images_of(&student_patches, count, span)));
        let potentials = self.sinkhorn(&teacher_logits, temperature);
        Ok(patch_loss(PatchLossInput {
            student_logits: student_logits.collect(),
            teacher_logits: teacher_logits.into_iter().map(Tensor::from_inner).collect(),
            potentials: TargetPotentials::from_inner(potentials),
            weighting: PatchWeighting::PerPatch,
            student_temperature: self.config.temperature_student,
        }))
    }

    fn sinkhorn(
        &self,
        teacher_logits: &[Tensor<B::InnerBackend, 2>],
        temperature: f64,
    ) -> TargetPotentials<B::InnerBackend> {
        let iterations = self.config.sinkhorn_iterations;
        B::InnerBackend::sinkhorn_potentials(teacher_logits, temperature, iterations)
    }
}

/// Rows of logits that fit one tensor of the device.
fn most_logit_rows<B: TrainBackend>(
    prototypes: usize,
    needed: usize,
    device: &B::Device,
) -> Result<usize> {
    let most = B::InnerBackend::max_logit_rows(prototypes, device);
    if most >= needed {
        return Ok(most);
    }
    Err(Error::Training(format!(
        "{needed} rows of {prototypes} prototypes are larger than the largest buffer of this device, which holds \
         {most} of them: use fewer prototypes or --backend flex"
    )))
}

/// `0..count` in pieces of at most `most`, as equal as can be; `most` >= 1.
fn spans(count: usize, most: usize) -> Vec<Range<usize>> {
    let pieces = count.div_ceil(most).max(1);
    (0..pieces)
        .map(|piece| piece * count / pieces..(piece + 1) * count / pieces)
        .collect()
}

/// The rows of some images, of each view: `[V B, D]` -> `[V B_p, D]`.
fn images_of<B: Backend>(rows: &Tensor<B, 2>, batch: usize, span: &Range<usize>) -> Tensor<B, 2> {
    if span.len() == batch {
        return rows.clone();
    }
    let [all, width] = rows.dims();
    let views = all / batch.max(1);
    let by_view = rows.clone().reshape([views, batch, width]);
    let part = by_view.narrow(1, span.start, span.len());
    part.reshape([views * span.len(), width])
}

/// Rows of the flat `[G B N]` patches that are masked.
fn masked_rows(masks: &[bool]) -> Vec<i32> {
    let rows = masks.iter().enumerate();
    rows.filter_map(|(row, masked)| masked.then_some(row as i32))
        .collect()
}

/// `[G B, N, 1]`, 1 where masked.
fn mask_tensor<B: Backend>(masks: &[bool], images: usize, device: &B::Device) -> Tensor<B, 3> {
    let values: Vec<f32> = masks
        .iter()
        .map(|masked| f32::from(u8::from(*masked)))
        .collect();
    Tensor::from_data(
        TensorData::new(values, [images, masks.len() / images.max(1), 1]),
        device,
    )
}
