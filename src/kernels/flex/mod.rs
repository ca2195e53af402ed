//! Bodies for burn's CPU backend Flex: one parallel pass over memory instead of a dozen serial ones.

mod attention;
#[cfg(target_arch = "x86_64")]
mod bf16;
mod cross_entropy;
mod linear;
mod matrix;
mod optimizer;
mod product;
mod rows;
mod target_potentials;
mod vector_math;

use std::sync::Once;

use burn::tensor::Tensor;
use burn::tensor::ops::FloatTensor;
use burn_flex::{Flex, FlexDevice};

use crate::error::Result;
use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::adamw::{AdamWInput, AdamWState};
use crate::kernels::ops::attention::{AttentionInput, AttentionOutput};
use crate::kernels::ops::cross_entropy::{CrossEntropyInput, CrossEntropyOutput};
use crate::kernels::ops::layer_norm::{LayerNormGradients, LayerNormInput};
use crate::kernels::ops::linear::{LinearBackwardInput, LinearGradients, LinearInput};
use crate::kernels::ops::rounding::as_stored;
use crate::kernels::ops::target_potentials::{Known, TargetPotentials};
use crate::precision::Precision;

/// Says once that this processor would be faster in f32.
fn warn_of_precision(precision: Precision) {
    static SAID: Once = Once::new();
    #[cfg(target_arch = "x86_64")]
    let multiplies_bf16 = bf16::has_bf16();
    #[cfg(not(target_arch = "x86_64"))]
    let multiplies_bf16 = false;
    let why = match precision {
        Precision::Bf16 if !multiplies_bf16 => "products in bf16 need AVX512-BF16",
        Precision::F16 => "a CPU rounds as a GPU does, to compare with one",
        Precision::F32 | Precision::Bf16 => return,
    };
    SAID.call_once(|| {
        log::warn!("`precision` {precision} is slower than f32 on this processor: {why}");
    });
}

impl IbotBackend for Flex {
    fn check_precision(precision: Precision, _device: &Self::Device) -> Result<()> {
        warn_of_precision(precision);
        Ok(())
    }

    fn rounded<const D: usize>(x: Tensor<Self, D>, precision: Precision) -> Tensor<Self, D> {
        rows::rounded(x, precision)
    }

    fn sinkhorn_potentials(
        teacher_logits: Tensor<Self, 2>,
        temperature: f64,
        iterations: usize,
    ) -> TargetPotentials<Self> {
        target_potentials::sinkhorn(teacher_logits, temperature, iterations)
    }

    fn potentials_under(
        logits: Tensor<Self, 2>,
        known: Known<Self>,
        temperature: f64,
    ) -> Tensor<Self, 2> {
        target_potentials::potentials_under(logits, known, temperature)
    }

    fn centered_potentials(
        teacher_logits: Tensor<Self, 2>,
        center: Option<Tensor<Self, 1>>,
        temperature: f64,
    ) -> TargetPotentials<Self> {
        target_potentials::centered(teacher_logits, center, temperature)
    }

    fn cross_entropy(input: &CrossEntropyInput<Self>) -> CrossEntropyOutput<Self> {
        cross_entropy::cross_entropy(input)
    }

    fn cross_entropy_backward(
        input: CrossEntropyInput<Self>,
        output: CrossEntropyOutput<Self>,
        d_loss: Tensor<Self, 1>,
    ) -> Tensor<Self, 2> {
        cross_entropy::cross_entropy_backward(input, &output, &d_loss)
    }

    fn patchify(images: Tensor<Self, 4>, patch: usize) -> Tensor<Self, 2> {
        rows::patchify(images, patch)
    }

    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        rows::gelu(x)
    }

    fn exact_gelu_backward(x: Tensor<Self, 2>, d_y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        rows::gelu_backward(x, d_y)
    }

    fn layer_norm_rows(input: LayerNormInput<Self>) -> Tensor<Self, 2> {
        rows::layer_norm(input)
    }

    fn layer_norm_rows_backward(
        input: LayerNormInput<Self>,
        d_y: Tensor<Self, 2>,
    ) -> LayerNormGradients<Self> {
        let device = d_y.device();
        rows::layer_norm_backward(input, d_y, &device)
    }

    fn linear_rows(input: LinearInput<Self>) -> Tensor<Self, 2> {
        linear::linear(input)
    }

    fn linear_rows_backward(input: LinearBackwardInput<Self>) -> LinearGradients<Self> {
        linear::linear_backward(input)
    }

    fn packed_attention(input: AttentionInput<Self>) -> AttentionOutput<Self> {
        let output = attention::forward(input);
        AttentionOutput {
            context: as_stored(output.context),
            ..output
        }
    }

    fn packed_attention_backward(
        input: AttentionInput<Self>,
        output: AttentionOutput<Self>,
        d_context: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        as_stored(attention::backward(input, output, d_context))
    }

    fn ema(
        teacher: Vec<FloatTensor<Self>>,
        student: Vec<FloatTensor<Self>>,
        decay: f64,
        grad_scale: Option<Tensor<Self, 1>>,
    ) -> Vec<FloatTensor<Self>> {
        optimizer::ema(teacher, student, decay, grad_scale)
    }

    fn adamw(input: AdamWInput<Self>) -> Vec<(FloatTensor<Self>, AdamWState<Self>)> {
        optimizer::adamw(input)
    }

    fn sum_of_squares(tensors: Vec<FloatTensor<Self>>, device: &FlexDevice) -> Tensor<Self, 1> {
        optimizer::sum_of_squares(tensors, device)
    }
}
