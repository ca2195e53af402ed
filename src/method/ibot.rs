//! The method (iBOT, arXiv 2111.07832): student, teacher and centers.
//!
//! - `forward`: Algorithm 1 of the paper on one page
//! - `targets`: the teacher's side of it
//! - `terms`: what goes in, and the losses that come out
//! - `rows`: which patches go through the heads
//! - `tiling`: whether logits are stored or come in tiles
//! - `health_stats`: statistics for the health check

use burn::module::{AutodiffModule, Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::backbone::{Backbone, TrainBackbone, VisionTransformer};
use crate::device::memory_bytes;
use crate::error::Result;
use crate::init::normal_param;
use crate::kernels::TrainBackend;
use crate::method::config::IbotConfig;
use crate::method::head::{Head, HeadConfig};
use crate::method::losses::Center;
use crate::method::teacher::{deep_copy, ema};
use crate::method::tiling::tile_entries;
use crate::ownership::take;
use crate::random::{Random, Stream};

/// Standard deviation of the initial mask token.
const MASK_TOKEN_STD: f64 = 0.02;

/// A backbone with its two prototype heads: the part that student and teacher share.
#[derive(Module, Debug)]
pub struct Network<B: Backend, M: Module<B>> {
    /// Images to tokens.
    pub backbone: M,
    /// Class tokens to prototype logits.
    pub cls_head: Head<B>,
    /// Patch tokens to prototype logits; absent if patches share the class tokens' head, perhaps only in the teacher.
    pub patch_head: Option<Head<B>>,
}

impl<B: Backend, M: Module<B>> Network<B, M> {
    /// The head of patch tokens.
    pub fn head_of_patches(&self) -> &Head<B> {
        self.patch_head.as_ref().unwrap_or(&self.cls_head)
    }
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
    /// Center of the patch logits.
    pub patch_center: Center<B::InnerBackend>,
    /// Maximum number of entries in a tile of logits; a tile has at least one prototype for all rows.
    pub tile_entries: usize,
    pub(super) config: IbotConfig,
}

/// iBOT with a vision transformer.
pub type VitIbot<B> = Ibot<B, VisionTransformer<B>>;

impl IbotConfig {
    /// iBOT with the backbone that this configuration names, and weights drawn from `seed`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where the numbers cannot work.
    pub fn init<B: TrainBackend>(&self, seed: u64, device: &B::Device) -> Result<VitIbot<B>> {
        let mut random = Random::new(seed, 0, 0, Stream::Init);
        let backbone = self.backbone()?.init::<B>(&mut random, device)?;
        self.init_with(backbone, &mut random, device)
    }

    /// iBOT around any backbone; heads and mask token are drawn from `random`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where the numbers cannot work.
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
        B::check_device(device)?; // an error with a remedy here, instead of a failing kernel later
        let width = backbone.width();
        let mut head = |prototypes| {
            HeadConfig {
                width,
                layers: self.projector_layers,
                prototype_norm: self.prototype_norm,
                hidden_dim: self.projector_hidden_dim,
                bottleneck_dim: self.projector_bottleneck_dim,
                prototypes,
            }
            .init::<B>(random, device)
        };
        let network = Network {
            backbone,
            cls_head: head(self.n_cls_prototypes),
            patch_head: (!self.shared_head).then(|| head(self.n_patch_prototypes)),
        };
        let mask_token = normal_param(random, [1, 1, width], MASK_TOKEN_STD, device);
        Ok(Ibot {
            teacher: first_teacher(&network, self),
            student: Student {
                network,
                mask_token,
            },
            // unset, as in the reference: the first batch sets them
            center: Center::unset(self.center_momentum),
            patch_center: Center::unset(self.patch_center_momentum),
            tile_entries: tile_entries(memory_bytes(device)),
            config: self.clone(),
        })
    }
}

impl<B: TrainBackend, M: TrainBackbone<B>> Ibot<B, M> {
    /// Its parameters.
    pub fn config(&self) -> &IbotConfig {
        &self.config
    }

    /// The teacher's feature of each image, as the reference's `forward(images=...)`.
    ///
    /// # Shapes
    /// `images` `[B, 3, S, S]` -> `[B, D]`.
    pub fn embed(&self, images: Tensor<B::InnerBackend, 4>) -> Tensor<B::InnerBackend, 2> {
        self.teacher.backbone.embed(images)
    }

    /// Replaces the student's backbone by what `load` returns, and makes the teacher a copy of the student again.
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
            teacher: first_teacher(&network, &self.config),
            student: Student {
                network,
                mask_token,
            },
            ..self
        })
    }

    /// Moves the teacher towards the student: `teacher * decay + student * (1 - decay)`; the mask token stays out.
    ///
    /// # Shapes
    /// `grad_scale` `[1]` or none: if it is 0, the teacher is unchanged.
    pub fn update_teacher(&mut self, decay: f64, grad_scale: Option<Tensor<B::InnerBackend, 1>>) {
        let teacher = take(&mut self.teacher); // a sole owner is updated in place
        self.teacher = ema::<B, _, _>(teacher, &self.student.network, decay, grad_scale);
    }

    /// [`Ibot::update_teacher`] of the heads alone: the teacher's backbone keeps its bits.
    pub fn update_teacher_heads(
        &mut self,
        decay: f64,
        grad_scale: Option<Tensor<B::InnerBackend, 1>>,
    ) {
        let Network {
            backbone,
            cls_head,
            patch_head,
        } = take(&mut self.teacher);
        let student = &self.student.network;
        // clones share the student's buffers, which are only read
        let of_student = (student.cls_head.clone(), student.patch_head.clone());
        let (cls_head, patch_head) =
            ema::<B, _, _>((cls_head, patch_head), &of_student, decay, grad_scale);
        self.teacher = Network {
            backbone,
            cls_head,
            patch_head,
        };
    }
}

/// A teacher equal to the student, with its own buffers.
fn first_teacher<B: TrainBackend, M: TrainBackbone<B>>(
    student: &Network<B, M>,
    config: &IbotConfig,
) -> Network<B::InnerBackend, M::InnerModule> {
    let mut teacher = student.valid();
    // the patches then use `cls_head`, so that the average must not find a second one
    if config.teacher_shares_head() {
        teacher.patch_head = None;
    }
    deep_copy(teacher)
}
