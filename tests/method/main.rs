//! What recorded cases cannot show of the method, on every backend.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::too_many_lines, reason = "a test may be a list of cases")]

mod backbones;
mod chosen_tokens;
mod exported;
mod finetune;
mod freezing;
#[path = "../gpu/mod.rs"]
mod gpu;
mod grad_checkpointing;
mod health;
mod parts;
mod precision;
mod prepared;
mod pretrained;
mod ranks;
mod recipe;
#[path = "../suite/mod.rs"]
mod suite;
mod targets;
mod teacher;
mod tiling;
mod timm_folders;
mod timm_tags;
mod training;
mod transformers;
mod updates;
mod weights;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;
use ibot::backbone::VitConfig;
use ibot::kernels::{Gpu, TrainBackend};
use ibot::method::IbotConfig;
use ibot::method::VitIbot;

use ibot::random::{Random, Stream};

use suite::{Check, assert_close, run_checks, values};

fn run<B: TrainBackend>(backend: &str, device: &B::Device) {
    let checks: &[(&str, Check<B>)] = &[
        ("f16, overflow", precision::overflow_halves_the_scale::<B>),
        ("f16, growth", precision::sound_steps_double_the_scale::<B>),
        ("f16, divergence", precision::what_is_wrong_stops::<B>),
        ("f16, resume", precision::resumed_bits_are_equal::<B>),
        ("f16, features", precision::tokens_are_halves::<B>),
        ("half, fine-tuning", finetune::learns_in_half_precision::<B>),
        ("half, losses", precision::losses_follow_those_of_f32::<B>),
        (
            "half, gradients",
            precision::gradients_point_the_same_way::<B>,
        ),
        (
            "teacher equals student at the start",
            teacher::equals_student_at_the_start::<B>,
        ),
        ("teacher shares no buffer", teacher::shares_no_buffer::<B>),
        ("ema formula", teacher::follows_the_formula::<B>),
        ("no masked patch", targets::no_masked_patch::<B>),
        (
            "heads on masked patches only",
            targets::masked_rows_equal_all_rows::<B>,
        ),
        (
            "mask token hides the image",
            backbones::mask_token_hides_the_image::<B>,
        ),
        (
            "the last layers",
            backbones::intermediate_layers_are_those_of_shorter_networks::<B>,
        ),
        (
            "a user's backbone learns",
            backbones::a_custom_backbone_learns::<B>,
        ),
        ("weights on file", weights::round_trip::<B>),
        ("misfits are refused", weights::misfits_are_refused::<B>),
        ("torch's logits", pretrained::gives_torchs_logits::<B>),
        ("goes on training", pretrained::goes_on_training::<B>),
        (
            "a broken step changes nothing",
            training::a_broken_step_changes_nothing::<B>,
        ),
        ("unread steps wait", training::unread_steps_wait::<B>),
        (
            "timed steps are the same",
            training::timed_steps_are_the_same::<B>,
        ),
        ("gradients clipped", updates::gradients_are_clipped::<B>),
        (
            "views and masks must fit",
            training::views_and_masks_must_fit::<B>,
        ),
        ("local crops", recipe::local_crops::<B>),
        ("healthy", health::healthy::<B>),
        ("agreement", health::agreement::<B>),
        (
            "agreement after centering",
            health::agreement_after_centering::<B>,
        ),
        ("flat features", health::flat_features::<B>),
        ("uniform teacher", health::uniform_teacher::<B>),
        ("exploding logits", health::exploding_logits::<B>),
        ("health of an odd batch", health::odd_batch::<B>),
        ("shared head", recipe::shared_head::<B>),
        (
            "head shared by the teacher",
            recipe::teachers_shared_head::<B>,
        ),
        ("prototype norms", recipe::prototype_norms::<B>),
        ("losses by weight", recipe::losses_by_weight::<B>),
        ("centered patches", recipe::centered_patches::<B>),
        ("parts add up", parts::parts_add_up::<B>),
        (
            "parts without masks",
            parts::parts_without_masks_or_without_visible_patches::<B>,
        ),
        ("tiled prototypes", tiling::steps_equal_stored::<B>),
        (
            "probes by tile",
            tiling::health_statistics_do_not_see_tiles::<B>,
        ),
        ("chosen tokens", chosen_tokens::are_those_of_all_tokens::<B>),
        ("drop path", recipe::drop_path::<B>),
        (
            "grad checkpointing",
            grad_checkpointing::the_same_gradients::<B>,
        ),
        ("layer decay", updates::learning_rates_fall_with_depth::<B>),
        ("frozen prototypes", updates::prototypes_can_be_frozen::<B>),
        (
            "frozen backbone",
            freezing::a_frozen_backbone_keeps_its_bits::<B>,
        ),
        (
            "frozen backbone, afterwards",
            freezing::a_thawed_backbone_begins_at_its_first_step::<B>,
        ),
        ("frozen backbone, resume", freezing::frozen_runs_resume::<B>),
        (
            "frozen prototypes, afterwards",
            freezing::thawed_prototypes_begin_at_their_first_step::<B>,
        ),
        (
            "each gradient clipped",
            updates::each_gradient_is_clipped::<B>,
        ),
        ("sgd and lars", updates::momentum_follows_the_formula::<B>),
        ("who decays", updates::only_matrices_decay::<B>),
        (
            "label loss",
            finetune::label_loss_is_the_smoothed_cross_entropy::<B>,
        ),
        (
            "each weight of a classifier learns",
            finetune::each_weight_learns_at_its_rate::<B>,
        ),
        ("fine-tuning, ranks", finetune::ranks_train_as_one::<B>),
        ("a frozen backbone", finetune::a_frozen_backbone_stays::<B>),
        (
            "a classifier tells apart",
            finetune::separable_images_are_told_apart::<B>,
        ),
        (
            "a broken batch",
            finetune::a_broken_batch_changes_nothing::<B>,
        ),
        (
            "a classifier's names",
            finetune::tensors_have_the_names_of_timm::<B>,
        ),
    ];
    run_checks::<B>(backend, checks, device);
}

#[test]
fn ndarray() {
    run::<Autodiff<NdArray<f32>>>("ndarray", &Default::default());
}

#[test]
fn flex() {
    run::<Autodiff<Flex>>("flex", &Default::default());
    // bits are promised on Flex alone
    run_checks::<Autodiff<Flex>>("flex", ranks::CHECKS, &Default::default());
}

#[test]
fn wgpu() {
    if let Some((device, guard)) = gpu::device() {
        run::<Autodiff<Gpu>>("wgpu", &device);
        targets::logits_beyond_one_buffer::<Autodiff<Gpu>>(&device);
        updates::adamw_works_in_place(&device);
        tiling::many_prototypes_in_little_memory(&device);
        guard.check_sync::<Gpu>(&device).unwrap();
    }
}

/// Numbers small enough for a software GPU.
fn tiny() -> IbotConfig {
    IbotConfig {
        image_size: 16,
        projector_hidden_dim: 12,
        projector_bottleneck_dim: 8,
        n_cls_prototypes: 20,
        n_patch_prototypes: 10,
        vit: Some(VitConfig {
            patch_size: 8,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        }),
        ..IbotConfig::default()
    }
}

fn tiny_method<B: TrainBackend>(device: &B::Device) -> VitIbot<B> {
    tiny().init(3, device).unwrap()
}

/// Two views of `batch` random images.
fn random_views<B: Backend>(batch: usize, device: &B::Device) -> Vec<Tensor<B, 4>> {
    let mut random = Random::new(5, 0, 0, Stream::View(0));
    let mut view = || {
        let values = random.fill(batch * 3 * 16 * 16, Random::normal);
        Tensor::from_data(
            burn::tensor::TensorData::new(values, [batch, 3, 16, 16]),
            device,
        )
    };
    vec![view(), view()]
}
