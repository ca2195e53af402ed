//! The operations on the GPU: WGSL kernels of `shaders/`, launched on burn's own queue and buffers.
//!
//! - `template`: fills the shaders; `launch`: a filled shader as a kernel on the device; `observed`: which ones ran;
//!   `info`: the sizes that a kernel gets; `element`: what an entry is in memory
//! - `chunk`, `target_potentials`, `cross_entropy`, `attention`, `layer_norm`, `l2_norm`, `gelu`, `matrix_product`,
//!   `normed_linear`, `tokens`, `rows`, `levels`, `ema`, `adamw`, `sum_of_squares`, `grad_scale`, `loss_scale`, `copy`: as in `shaders/`
//! - `attention_lanes` and `attention_tiles`: the two kinds of kernels that attention chooses from
//! - `matrix_plan`, `matrix_tiles`, `matrix_kernels`: how a device multiplies, and the kernels for that; `matrix_bands`: in
//!   which order; `matrix_timing`, `tile_times`: the fastest way, by timing, and its file; `cooperative`: on cooperative
//!   matrices, where they are asked for; `linear`: layers made of products
//! - `row_team`: lanes that share a row
//! - `every_kernel`: all of them, for tests
//! - `pack`: operations on many tensors, dealt out to few dispatches
//!
//! Every storage buffer is bound read-write, inputs too: two tensors may be slices of one wgpu buffer, and wgpu forbids
//! reading and writing of one buffer in a dispatch.

mod adamw;
mod attention;
mod attention_lanes;
mod attention_pass;
mod attention_tiles;
mod chunk;
mod cooperative;
mod copy;
mod cross_entropy;
mod element;
mod ema;
mod every_kernel;
mod gelu;
mod grad_scale;
mod half;
mod info;
mod l2_norm;
mod lanes;
mod launch;
mod layer_norm;
mod levels;
mod linear;
mod loss_scale;
mod matrix_bands;
mod matrix_kernels;
mod matrix_plan;
mod matrix_product;
mod matrix_tiles;
mod matrix_timing;
mod normed_linear;
mod observed;
mod pack;
mod row_team;
mod rows;
mod sum_of_squares;
mod target_potentials;
mod template;
mod tile_times;
mod tokens;
mod walk;

pub use adamw::packed_adamw;
pub use attention::AttentionPath;
pub use cooperative::with_emulated_matrices;
pub use copy::copy;
pub use ema::packed_ema;
pub use every_kernel::{all_kernels, attention_kernels, cooperative_kernels};
pub use lanes::{WORKGROUP_VARIABLE, with_workgroup};
pub use launch::{Kernel, SHADERS_VARIABLE, peak_bytes_in_use, shader_folder};
pub use matrix_tiles::{TILE_VARIABLE, Tile, with_tile};
pub use matrix_timing::TIMING_VARIABLE;
pub use observed::{Launched, observe};
pub use tile_times::folder as tile_times_folder;

use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor};
use burn_wgpu::WgpuRuntime;
use cubecl::Runtime;

use crate::device::adapter_behind;
use crate::error::Result;

use crate::kernels::backend::IbotBackend;
use crate::kernels::backends::Gpu;
use crate::kernels::choice::KernelChoice;
use crate::kernels::ops::adamw::{AdamWInput, AdamWState};
use crate::kernels::ops::attention::{AttentionInput, AttentionOutput};
use crate::kernels::ops::cross_entropy::{CrossEntropyInput, CrossEntropyOutput};
use crate::kernels::ops::grad_scale::{GradScale, GradScaleInput};
use crate::kernels::ops::l2_norm::L2NormInput;
use crate::kernels::ops::layer_norm::{LayerNormGradients, LayerNormInput};
use crate::kernels::ops::levels::LevelsInput;
use crate::kernels::ops::linear::{
    Activated, LinearBackwardInput, LinearGradients, LinearInput, LinearLayerGradients,
    LinearLayerInput,
};
use crate::kernels::ops::loss_scale::{LossScale, Unscaled};
use crate::kernels::ops::product::{Layout, RowIndices};
use crate::kernels::ops::target_potentials::{Known, TargetPotentials};
use crate::kernels::ops::tokens::{TokensGradients, TokensInput};
use crate::kernels::ops::{
    adamw as tensor_adamw, attention as tensor_attention, cross_entropy as tensor_cross_entropy,
    ema as tensor_ema, gelu as tensor_gelu, grad_scale as tensor_grad_scale,
    l2_norm as tensor_l2_norm, layer_norm as tensor_layer_norm, levels as tensor_levels,
    linear as tensor_linear, loss_scale as tensor_loss_scale, product as tensor_product,
    target_potentials as tensor_potentials, tokens as tensor_tokens,
};
use crate::precision::Precision;
use launch::check_bindings;

/// The kernel's body of an operation, or the reference one, as [`KernelChoice`] says.
macro_rules! chosen {
    ($kernel:expr, $reference:expr $(,)?) => {
        match KernelChoice::active() {
            KernelChoice::Wgsl => $kernel,
            KernelChoice::Reference => $reference,
        }
    };
}

impl IbotBackend for Gpu {
    fn check_device(device: &Self::Device) -> Result<()> {
        KernelChoice::from_env()?;
        chosen!(check_bindings(&WgpuRuntime::client(device)), Ok(()))
    }

    fn check_precision(precision: Precision, device: &Self::Device) -> Result<()> {
        half::check(precision, device)
    }

    fn token_dtype() -> DType {
        chosen!(element::Element::current().dtype(), DType::F32)
    }

    fn rounded<const D: usize>(x: Tensor<Self, D>, precision: Precision) -> Tensor<Self, D> {
        half::rounded(x, precision)
    }

    fn max_logit_rows(prototypes: usize, device: &Self::Device) -> usize {
        let client = WgpuRuntime::client(device);
        let page = client.properties().memory.max_page_size;
        // cubecl's Vulkan may report the whole memory, but a kernel binds no more than this
        let bound = adapter_behind(&client).map_or(page, |of| of.limits.binding_bytes);
        page.min(bound) as usize / (prototypes.max(1) * size_of::<f32>())
    }

    fn upload_levels(input: LevelsInput, device: &Self::Device) -> Tensor<Self, 4> {
        chosen!(
            levels::upload(input, device),
            tensor_levels::upload(&input, device)
        )
    }

    fn sinkhorn_potentials(
        teacher_logits: Tensor<Self, 2>,
        temperature: f64,
        iterations: usize,
    ) -> TargetPotentials<Self> {
        chosen!(
            target_potentials::sinkhorn(teacher_logits, temperature, iterations),
            tensor_potentials::sinkhorn(teacher_logits, temperature, iterations)
        )
    }

    fn potentials_under(
        logits: Tensor<Self, 2>,
        known: Known<Self>,
        temperature: f64,
    ) -> Tensor<Self, 2> {
        chosen!(
            target_potentials::potentials_under(logits, known, temperature),
            tensor_potentials::potentials_under(logits, known, temperature)
        )
    }

    fn centered_potentials(
        teacher_logits: Tensor<Self, 2>,
        center: Option<Tensor<Self, 1>>,
        temperature: f64,
    ) -> TargetPotentials<Self> {
        chosen!(
            target_potentials::centered(teacher_logits, center, temperature),
            tensor_potentials::centered(teacher_logits, center, temperature)
        )
    }

    fn cross_entropy(input: &CrossEntropyInput<Self>) -> CrossEntropyOutput<Self> {
        chosen!(
            cross_entropy::forward(input),
            tensor_cross_entropy::reference(input)
        )
    }

    fn cross_entropy_backward(
        input: CrossEntropyInput<Self>,
        output: CrossEntropyOutput<Self>,
        d_loss: Tensor<Self, 1>,
    ) -> Tensor<Self, 2> {
        chosen!(
            cross_entropy::backward(input, output, d_loss),
            tensor_cross_entropy::reference_backward(&input, output, d_loss)
        )
    }

    fn assemble_tokens(input: TokensInput<Self>) -> Tensor<Self, 2> {
        chosen!(tokens::forward(input), tensor_tokens::forward(input))
    }

    fn assemble_tokens_backward(
        input: &TokensInput<Self>,
        d_tokens: Tensor<Self, 2>,
    ) -> TokensGradients<Self> {
        chosen!(
            tokens::backward(input, d_tokens),
            tensor_tokens::backward(input, d_tokens)
        )
    }

    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        chosen!(gelu::forward(x), tensor_gelu::forward(x))
    }

    fn exact_gelu_backward(x: Tensor<Self, 2>, d_y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        chosen!(gelu::backward(x, d_y), tensor_gelu::backward(x, d_y))
    }

    fn layer_norm_rows(input: LayerNormInput<Self>) -> Tensor<Self, 2> {
        chosen!(
            layer_norm::forward(input),
            tensor_layer_norm::forward(input)
        )
    }

    fn layer_norm_rows_backward(
        input: LayerNormInput<Self>,
        d_y: Tensor<Self, 2>,
    ) -> LayerNormGradients<Self> {
        chosen!(
            layer_norm::backward(input, d_y),
            tensor_layer_norm::backward(input, d_y)
        )
    }

    fn linear_layer(input: LinearLayerInput<Self>) -> Tensor<Self, 2> {
        chosen!(linear::layer(input), tensor_linear::forward(input))
    }

    fn linear_rows(input: LinearInput<Self>) -> Tensor<Self, 2> {
        chosen!(linear::linear(input), tensor_linear::linear(input))
    }

    fn linear_rows_backward(input: LinearBackwardInput<Self>) -> LinearGradients<Self> {
        chosen!(
            linear::linear_backward(input),
            tensor_linear::linear_backward(input)
        )
    }

    fn linear_gelu_backward(input: LinearBackwardInput<Self>) -> LinearGradients<Self> {
        chosen!(
            linear::linear_gelu_backward(input),
            tensor_linear::linear_gelu_backward(input)
        )
    }

    fn linear_layer_backward(
        input: LinearLayerInput<Self>,
        d_y: Tensor<Self, 2>,
        wants_x: bool,
        past: Option<Tensor<Self, 2>>,
    ) -> LinearLayerGradients<Self> {
        chosen!(
            normed_linear::backward(input, d_y, wants_x, past),
            tensor_linear::backward(input, d_y, wants_x, past)
        )
    }

    fn linear_layer_gelu(input: LinearLayerInput<Self>) -> Activated<Self> {
        let after = match KernelChoice::active() {
            KernelChoice::Wgsl => linear::linear_gelu(input),
            KernelChoice::Reference => tensor_gelu::forward(tensor_linear::forward(input)),
        };
        Activated {
            before: None,
            after,
        }
    }

    fn linear_layer_and_gelu(input: LinearLayerInput<Self>) -> [Tensor<Self, 2>; 2] {
        chosen!(linear::linear_and_gelu(input), {
            let before = tensor_linear::forward(input);
            [before.clone(), tensor_gelu::forward(before)]
        })
    }

    fn l2_normalize_rows(input: L2NormInput<Self>) -> Tensor<Self, 2> {
        chosen!(l2_norm::forward(input), tensor_l2_norm::forward(input))
    }

    fn l2_normalize_rows_backward(
        input: L2NormInput<Self>,
        d_y: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        chosen!(
            l2_norm::backward(input, d_y),
            tensor_l2_norm::backward(input, d_y)
        )
    }

    fn matrix_products(
        left: Tensor<Self, 3>,
        right: Tensor<Self, 3>,
        layout: Layout,
    ) -> Tensor<Self, 3> {
        // always this crate's: burn's does not fit every GPU, and would be a third of all code that rustc compiles
        matrix_product::matrix_products(left, right, layout)
    }

    fn column_sums(x: Tensor<Self, 2>) -> Tensor<Self, 1> {
        chosen!(rows::column_sums(x), tensor_product::column_sums(x))
    }

    fn gather_rows(x: Tensor<Self, 2>, indices: &RowIndices) -> Tensor<Self, 2> {
        chosen!(
            rows::gather(x, indices),
            tensor_product::gather_rows(x, indices)
        )
    }

    fn scatter_rows(y: Tensor<Self, 2>, indices: &RowIndices) -> Tensor<Self, 2> {
        chosen!(
            rows::scatter(y, indices),
            tensor_product::scatter_rows(y, indices)
        )
    }

    fn slice_rows_backward(
        d_y: Tensor<Self, 2>,
        start: usize,
        rows: usize,
        past: Option<Tensor<Self, 2>>,
    ) -> Tensor<Self, 2> {
        chosen!(
            rows::slice_backward(d_y, start, rows, past),
            tensor_product::slice_rows_backward(d_y, start, rows, past)
        )
    }

    fn packed_attention(input: AttentionInput<Self>) -> AttentionOutput<Self> {
        chosen!(
            AttentionPath::of_device(&input).forward(input),
            tensor_attention::forward(input)
        )
    }

    fn packed_attention_backward(
        input: AttentionInput<Self>,
        output: AttentionOutput<Self>,
        d_context: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        chosen!(
            AttentionPath::of_device(&input).backward(input, output, d_context),
            tensor_attention::backward(input, output, d_context)
        )
    }

    fn ema(
        teacher: Vec<FloatTensor<Self>>,
        student: Vec<FloatTensor<Self>>,
        decay: f64,
        grad_scale: Option<Tensor<Self, 1>>,
    ) -> Vec<FloatTensor<Self>> {
        chosen!(
            ema::ema(teacher, student, decay, grad_scale),
            tensor_ema::reference::<Self>(teacher, student, decay, grad_scale)
        )
    }

    fn adamw(input: AdamWInput<Self>) -> Vec<(FloatTensor<Self>, AdamWState<Self>)> {
        chosen!(adamw::adamw(input), tensor_adamw::reference(input))
    }

    fn sum_of_squares(tensors: Vec<FloatTensor<Self>>, device: &Self::Device) -> Tensor<Self, 1> {
        chosen!(
            sum_of_squares::sum_of_squares(tensors, device),
            tensor_adamw::sum_of_squares::<Self>(tensors, device)
        )
    }

    fn unscale(squared_norm: Tensor<Self, 1>, state: LossScale<Self>) -> Unscaled<Self> {
        chosen!(
            loss_scale::unscale(squared_norm, state),
            tensor_loss_scale::reference(squared_norm, state)
        )
    }

    fn grad_scale(input: GradScaleInput<Self>) -> GradScale<Self> {
        chosen!(
            grad_scale::grad_scale(input),
            tensor_grad_scale::reference(input)
        )
    }
}
