//! The operations on the GPU: WGSL kernels of `shaders/`, launched on burn's own queue and buffers.
//!
//! - `template`: fills the shaders; `launch`: a filled shader as a kernel on the device; `observed`: which ones ran
//! - `chunk`, `target_potentials`, `cross_entropy`, `attention`, `layer_norm`, `gelu`, `matrix_product`, `ema`, `adamw`,
//!   `sum_of_squares`, `grad_scale`, `levels`, `copy`: one module a folder or file of `shaders/`; `attention_lanes` and
//!   `attention_tiles`: the two kinds of kernels that attention chooses from; `matrix_tiles` and `matrix_kernels`: how a
//!   device multiplies, and the kernels for that
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
mod copy;
mod cross_entropy;
mod ema;
mod every_kernel;
mod gelu;
mod grad_scale;
mod info;
mod lanes;
mod launch;
mod layer_norm;
mod levels;
mod matrix_kernels;
mod matrix_product;
mod matrix_tiles;
mod observed;
mod pack;
mod rows;
mod sum_of_squares;
mod target_potentials;
mod template;
mod walk;

pub use adamw::packed_adamw;
pub use attention::AttentionPath;
pub use copy::copy;
pub use ema::packed_ema;
pub use every_kernel::{all_kernels, attention_kernels};
pub use lanes::{WORKGROUP_VARIABLE, with_workgroup};
pub use launch::{Kernel, SHADERS_VARIABLE, peak_bytes_in_use, shader_folder};
pub use matrix_tiles::{TILE_VARIABLE, Tile, with_tile};
pub use observed::{Launched, observe};

use burn::tensor::Tensor;
use burn::tensor::ops::FloatTensor;
use burn_wgpu::WgpuRuntime;
use cubecl::Runtime;

use crate::error::Result;

use crate::kernels::backend::{Gpu, IbotBackend};
use crate::kernels::choice::KernelChoice;
use crate::kernels::ops::adamw::{AdamWInput, AdamWState};
use crate::kernels::ops::attention::{AttentionInput, AttentionOutput};
use crate::kernels::ops::cross_entropy::{CrossEntropyInput, CrossEntropyOutput};
use crate::kernels::ops::grad_scale::{GradScale, GradScaleInput};
use crate::kernels::ops::layer_norm::{LayerNormGradients, LayerNormInput};
use crate::kernels::ops::levels::LevelsInput;
use crate::kernels::ops::linear::{
    LinearBackwardInput, LinearGradients, LinearInput, LinearLayerInput,
};
use crate::kernels::ops::product::{Layout, RowPlaces};
use crate::kernels::ops::target_potentials::TargetPotentials;
use crate::kernels::ops::{
    adamw as tensor_adamw, attention as tensor_attention, cross_entropy as tensor_cross_entropy,
    ema as tensor_ema, gelu as tensor_gelu, grad_scale as tensor_grad_scale,
    layer_norm as tensor_layer_norm, levels as tensor_levels, linear as tensor_linear,
    product as tensor_product, target_potentials as tensor_potentials,
};
use launch::check_bindings;

impl IbotBackend for Gpu {
    fn check_device(device: &Self::Device) -> Result<()> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => check_bindings(&WgpuRuntime::client(device)),
            KernelChoice::Reference => Ok(()),
        }
    }

    fn max_logit_rows(prototypes: usize, device: &Self::Device) -> usize {
        let largest = WgpuRuntime::client(device)
            .properties()
            .memory
            .max_page_size;
        largest as usize / (prototypes.max(1) * size_of::<f32>())
    }

    fn upload_levels(input: LevelsInput, device: &Self::Device) -> Tensor<Self, 4> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => levels::upload(input, device),
            KernelChoice::Reference => tensor_levels::upload(&input, device),
        }
    }

    fn sinkhorn_potentials(
        teacher_logits: Tensor<Self, 2>,
        temperature: f64,
        iterations: usize,
    ) -> TargetPotentials<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => {
                target_potentials::sinkhorn(teacher_logits, temperature, iterations)
            }
            KernelChoice::Reference => {
                tensor_potentials::sinkhorn(teacher_logits, temperature, iterations)
            }
        }
    }

    fn sinkhorn_iteration(
        teacher_logits: Tensor<Self, 2>,
        of_rows: Tensor<Self, 2>,
        temperature: f64,
    ) -> TargetPotentials<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => {
                target_potentials::sinkhorn_iteration(teacher_logits, of_rows, temperature)
            }
            KernelChoice::Reference => {
                tensor_potentials::sinkhorn_iteration(teacher_logits, of_rows, temperature)
            }
        }
    }

    fn centered_potentials(
        teacher_logits: Tensor<Self, 2>,
        center: Option<Tensor<Self, 1>>,
        temperature: f64,
    ) -> TargetPotentials<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => target_potentials::centered(teacher_logits, center, temperature),
            KernelChoice::Reference => {
                tensor_potentials::centered(teacher_logits, center, temperature)
            }
        }
    }

    fn cross_entropy(input: &CrossEntropyInput<Self>) -> CrossEntropyOutput<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => cross_entropy::forward(input),
            KernelChoice::Reference => tensor_cross_entropy::reference(input),
        }
    }

    fn cross_entropy_backward(
        input: CrossEntropyInput<Self>,
        output: CrossEntropyOutput<Self>,
        d_loss: Tensor<Self, 1>,
    ) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => cross_entropy::backward(input, output, d_loss),
            KernelChoice::Reference => {
                tensor_cross_entropy::reference_backward(&input, output, d_loss)
            }
        }
    }

    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => gelu::forward(x),
            KernelChoice::Reference => tensor_gelu::forward(x),
        }
    }

    fn exact_gelu_backward(x: Tensor<Self, 2>, d_y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => gelu::backward(x, d_y),
            KernelChoice::Reference => tensor_gelu::backward(x, d_y),
        }
    }

    fn layer_norm_rows(input: LayerNormInput<Self>) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => layer_norm::forward(input),
            KernelChoice::Reference => tensor_layer_norm::forward(input),
        }
    }

    fn layer_norm_rows_backward(
        input: LayerNormInput<Self>,
        d_y: Tensor<Self, 2>,
    ) -> LayerNormGradients<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => layer_norm::backward(input, d_y),
            KernelChoice::Reference => tensor_layer_norm::backward(input, d_y),
        }
    }

    fn linear_rows(input: LinearInput<Self>) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => matrix_product::linear(input),
            KernelChoice::Reference => tensor_linear::linear(input),
        }
    }

    fn linear_rows_backward(input: LinearBackwardInput<Self>) -> LinearGradients<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => matrix_product::linear_backward(input, None),
            KernelChoice::Reference => tensor_linear::linear_backward(input),
        }
    }

    fn linear_gelu_backward(
        input: LinearBackwardInput<Self>,
        before: Tensor<Self, 2>,
    ) -> LinearGradients<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => matrix_product::linear_backward(input, Some(before)),
            KernelChoice::Reference => tensor_linear::linear_gelu_backward(input, before),
        }
    }

    fn mlp(first: LinearLayerInput<Self>, second: LinearLayerInput<Self>) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => matrix_product::mlp(first, second),
            KernelChoice::Reference => tensor_linear::mlp(first, second),
        }
    }

    fn matrix_products(
        left: Tensor<Self, 3>,
        right: Tensor<Self, 3>,
        layout: Layout,
    ) -> Tensor<Self, 3> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => matrix_product::matrix_products(left, right, layout),
            KernelChoice::Reference => tensor_product::matrix_products(left, right, layout),
        }
    }

    fn column_sums(x: Tensor<Self, 2>) -> Tensor<Self, 1> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => rows::column_sums(x),
            KernelChoice::Reference => tensor_product::column_sums(x),
        }
    }

    fn gather_rows(x: Tensor<Self, 2>, places: &RowPlaces) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => rows::gather(x, places),
            KernelChoice::Reference => tensor_product::gather_rows(x, places),
        }
    }

    fn scatter_rows(y: Tensor<Self, 2>, places: &RowPlaces) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => rows::scatter(y, places),
            KernelChoice::Reference => tensor_product::scatter_rows(y, places),
        }
    }

    fn packed_attention(input: AttentionInput<Self>) -> AttentionOutput<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => AttentionPath::of_device(&input).forward(input),
            KernelChoice::Reference => tensor_attention::forward(input),
        }
    }

    fn packed_attention_backward(
        input: AttentionInput<Self>,
        output: AttentionOutput<Self>,
        d_context: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => {
                AttentionPath::of_device(&input).backward(input, output, d_context)
            }
            KernelChoice::Reference => tensor_attention::backward(input, output, d_context),
        }
    }

    fn ema(
        teacher: Vec<FloatTensor<Self>>,
        student: Vec<FloatTensor<Self>>,
        decay: f64,
        grad_scale: Option<Tensor<Self, 1>>,
    ) -> Vec<FloatTensor<Self>> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => ema::ema(teacher, student, decay, grad_scale),
            KernelChoice::Reference => {
                tensor_ema::reference::<Self>(teacher, student, decay, grad_scale)
            }
        }
    }

    fn adamw(input: AdamWInput<Self>) -> Vec<(FloatTensor<Self>, AdamWState<Self>)> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => adamw::adamw(input),
            KernelChoice::Reference => tensor_adamw::reference(input),
        }
    }

    fn sum_of_squares(tensors: Vec<FloatTensor<Self>>, device: &Self::Device) -> Tensor<Self, 1> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => sum_of_squares::sum_of_squares(tensors, device),
            KernelChoice::Reference => tensor_adamw::sum_of_squares::<Self>(tensors, device),
        }
    }

    fn grad_scale(input: GradScaleInput<Self>) -> GradScale<Self> {
        match KernelChoice::active() {
            KernelChoice::Wgsl => grad_scale::grad_scale(input),
            KernelChoice::Reference => tensor_grad_scale::reference(input),
        }
    }
}
