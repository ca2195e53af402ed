//! Operations with bodies of their own, on every backend: against formulas in f64, finite differences, and fuzz.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::too_many_lines, reason = "a test may be a list of cases")]

mod attention;
mod bf16;
mod cooperative;
mod ema;
mod epilogues;
#[path = "../gpu/mod.rs"]
mod gpu;
mod host;
mod infos;
mod layers;
mod levels;
mod loss;
mod loss_case;
#[cfg(target_os = "linux")]
#[path = "../../benches/compilers/mix.rs"]
mod mix;
mod optimizer;
mod precision;
mod precision_kinds;
mod precision_step;
mod products;
#[cfg(target_os = "linux")]
#[path = "../../benches/compilers/radv.rs"]
mod radv;
mod rows;
mod shader_lints;
mod shader_uniformity;
mod shader_writers;
mod shaders;
#[cfg(target_os = "linux")]
#[path = "../../benches/compilers/shares.rs"]
mod shares;
mod sizes;
#[cfg(target_os = "linux")]
mod spills;
#[path = "../suite/mod.rs"]
mod suite;
mod tiled;
mod tokens;
#[cfg(target_os = "linux")]
#[path = "../../benches/compilers/variants.rs"]
mod variants;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorPrimitive};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;
use ibot::kernels::{Gpu, TrainBackend, wgsl};

use suite::{Check, assert_close, run_checks, values};

fn run<B: TrainBackend>(backend: &str, device: &B::Device) {
    let checks: &[(&str, Check<B>)] = &[
        ("loss, sizes", loss::sizes::<B>),
        ("loss, long rows", loss::long_rows::<B>),
        ("loss, centered", loss::centered_targets::<B>),
        ("loss, other views", loss::other_views::<B>),
        ("loss, finite differences", loss::finite_differences::<B>),
        ("loss, poison", loss::poison::<B>),
        ("loss, views of tensors", loss::views_of_other_tensors::<B>),
        ("loss, shared logits", loss::shared_logits_stay::<B>),
        ("loss, same bits", loss::same_bits::<B>),
        ("sinkhorn, extreme logits", loss::extreme_logits::<B>),
        ("sinkhorn, ties", loss::ties::<B>),
        ("sinkhorn, many iterations", loss::many_iterations::<B>),
        ("tiled, as stored", tiled::equals_stored::<B>),
        ("tiled, large logits", tiled::large_logits::<B>),
        ("tiled, mean", tiled::mean::<B>),
        ("ema, many tensors", ema::many_tensors::<B>),
        ("ema, shared buffers", ema::shared_buffers_stay::<B>),
        ("adamw", optimizer::adamw_follows_the_formula::<B>),
        ("shared buffers stay", optimizer::shared_buffers_stay::<B>),
        ("a scale of 0", optimizer::a_scale_of_0_moves_nothing::<B>),
        ("sum of squares", optimizer::sum_of_squares::<B>),
        ("scale of a step", optimizer::grad_scale::<B>),
        ("scale of a loss", optimizer::loss_scale::<B>),
        ("products, linear", products::linear::<B>),
        ("products, gradients", products::linear_backward::<B>),
        ("products, many small", products::many_small::<B>),
        (
            "products, gradients of many",
            products::gradients_of_many_small::<B>,
        ),
        ("products, many terms", products::many_terms::<B>),
        ("products, long sums", epilogues::long_sums::<B>),
        ("products, slope of GELU", epilogues::gelu_gradient::<B>),
        ("products, views", products::views::<B>),
        ("layers, norm before", layers::norm_and_layer::<B>),
        ("layers, residual", layers::rows_past_the_layer::<B>),
        ("layers, GELU", layers::layer_and_gelu::<B>),
        ("layers, L2 norm", layers::l2_norm::<B>),
        ("layers, sliced rows", layers::sliced_rows::<B>),
        ("tokens", tokens::tokens::<B>),
        ("column sums", products::column_sums::<B>),
        ("rows by place", products::rows_by_place::<B>),
        ("bf16, linear", bf16::linear::<B>),
        ("bf16, attention", bf16::attention::<B>),
        ("levels", levels::upload::<B>),
        ("patchify", rows::patchify::<B>),
        ("gelu", rows::gelu::<B>),
        ("layer norm", rows::layer_norm::<B>),
        ("attention", rows::attention::<B>),
        ("attention of some", rows::attention_of_some::<B>),
        ("attention of extremes", rows::attention_of_extremes::<B>),
        ("linear layers", rows::linear_layers::<B>),
        ("linear layer, bare", rows::bare_linear_layer::<B>),
        ("gelu, sizes", sizes::gelu::<B>),
        ("layer norm, sizes", sizes::layer_norm::<B>),
        ("attention, sizes", sizes::attention::<B>),
        ("linear layers, sizes", sizes::linear::<B>),
        ("rows, poison", sizes::poison::<B>),
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
}

#[test]
fn wgpu() {
    if let Some((device, guard)) = gpu::device() {
        let ((), launched) = wgsl::observe(|| {
            run::<Autodiff<Gpu>>("wgpu", &device);
            // what GPUs run, on a software device too
            wgsl::with_workgroup(256, || run::<Autodiff<Gpu>>("wgpu, as a GPU", &device));
        });
        if std::env::var_os("IBOT_CHECK").is_none() {
            infos::are_those_of_the_shaders(&launched);
        }
        infos::more_than_are_kept(&device);
        epilogues::each_tile(&device);
        epilogues::bands(&device);
        epilogues::same_bits_of_each_tile(&device);
        attention::paths(&device);
        cooperative::emulated(&device);
        precision::operations(&device);
        wgsl::with_workgroup(256, || precision::operations(&device));
        precision_kinds::entries(&device);
        precision_kinds::overflow(&device);
        precision::attention_paths(&device);
        precision_step::gradients(&device);
        precision_step::features(&device);
        precision_step::memory(&device);
        ema::packs(&device);
        optimizer::packs(&device);
        shaders::gradient_takes_the_place_of_the_logits(&device);
        guard.check_sync::<Gpu>(&device).unwrap();
    }
}

fn from_primitive<B: Backend>(primitive: FloatTensor<B>) -> Tensor<B, 1> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}
