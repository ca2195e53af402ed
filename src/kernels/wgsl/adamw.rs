//! Launches of `shaders/adamw.wgsl`: many tensors a dispatch.

use burn::tensor::{DType, Tensor};
use burn_wgpu::into_contiguous;

use super::chunk::Chunk;
use super::info::info;
use super::launch::{GpuTensor, Kernel, contiguous, shader, unshared};
use super::pack::{Item, Packed, tensors_per_dispatch, values};
use super::walk::Walk;
use crate::kernels::backend::Gpu;
use crate::kernels::ops::adamw as tensor_adamw;
use crate::kernels::ops::adamw::{AdamWInput, AdamWState, AdamWTensor};

/// Parameter, gradient and two moments.
const BUFFERS: usize = 4;

pub(super) fn kernel(walk: Walk, chunk: Chunk, tensors: usize) -> Kernel {
    let values = values(walk, chunk, tensors);
    Kernel::new(shader!("chunk", "adamw"), walk.lanes, values)
}

/// See [`crate::kernels::IbotBackend::adamw`].
pub(super) fn adamw(input: AdamWInput<Gpu>) -> Vec<(GpuTensor, AdamWState<Gpu>)> {
    let first = input.tensors.first();
    let most = first.map_or(1, |t| tensors_per_dispatch(&t.param.client, BUFFERS));
    packed_adamw(input, most)
}

/// [`crate::kernels::IbotBackend::adamw`] with up to this many tensors a dispatch, or as many as fit.
pub fn packed_adamw(
    mut input: AdamWInput<Gpu>,
    max_tensors: usize,
) -> Vec<(GpuTensor, AdamWState<Gpu>)> {
    if !input.tensors.iter().all(is_f32) {
        return tensor_adamw::reference(input);
    }
    let Some(first) = input.tensors.first() else {
        return Vec::new();
    };
    let scale = input.grad_scale.take();
    let scale = contiguous(scale.unwrap_or_else(|| Tensor::ones([1], &first.param.device)));
    let tensors = std::mem::take(&mut input.tensors).into_iter();
    let tensors: Vec<AdamWTensor<Gpu>> = tensors.map(writable).collect();
    let of_tensor = |tensor: &AdamWTensor<Gpu>| {
        let [keep, step_size] = input.keep_and_step(tensor);
        info! { keep: keep as f32, step_size: step_size as f32 }
    };
    let items = tensors.iter().map(|t| Item::new(buffers(t), of_tensor(t)));
    let items: Vec<Item<'_, BUFFERS>> = items.collect();
    let [beta1, beta2] = input.betas;
    let scalars = info! {
        beta1: beta1 as f32,
        rest1: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        rest2: (1.0 - beta2) as f32,
        eps: input.eps as f32,
        root_scale: input.root_scale() as f32,
    };
    let packed = Packed {
        kernel,
        shared: &scale,
        head: &|_| scalars.clone(),
        max_tensors,
    };
    packed.launch(&items);
    let moved = tensors.into_iter();
    moved.map(|tensor| (tensor.param, tensor.state)).collect()
}

/// In the order of the bindings.
fn buffers(tensor: &AdamWTensor<Gpu>) -> [&GpuTensor; BUFFERS] {
    let state = &tensor.state;
    [
        &tensor.param,
        &tensor.grad,
        &state.first_moment,
        &state.second_moment,
    ]
}

fn is_f32(tensor: &AdamWTensor<Gpu>) -> bool {
    buffers(tensor)
        .iter()
        .all(|buffer| buffer.dtype == DType::F32)
}

/// The tensor with all that is written in buffers that nobody else holds.
fn writable(tensor: AdamWTensor<Gpu>) -> AdamWTensor<Gpu> {
    let own = |tensor| unshared(into_contiguous(tensor));
    AdamWTensor {
        param: own(tensor.param),
        grad: into_contiguous(tensor.grad),
        state: AdamWState {
            first_moment: own(tensor.state.first_moment),
            second_moment: own(tensor.state.second_moment),
        },
        ..tensor
    }
}
