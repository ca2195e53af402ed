//! Launches of `shaders/adamw.wgsl`: many tensors a dispatch.

use burn::tensor::{DType, Tensor};
use burn_wgpu::into_contiguous;

use super::chunk::Chunk;
use super::info::info;
use super::launch::{GpuTensor, Kernel, contiguous, shader, unshared, uploaded};
use super::pack::{Item, Packed, tensors_per_dispatch, values};
use super::walk::Walk;
use crate::kernels::backends::Gpu;
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
    let mut pairs: Vec<[f32; 2]> = Vec::new();
    let mut pair_of = |tensor: &AdamWTensor<Gpu>| {
        let pair = input.keep_and_step(tensor).map(|rate| rate as f32);
        let known = pairs.iter().position(|known| *known == pair);
        known.unwrap_or_else(|| {
            pairs.push(pair);
            pairs.len() - 1
        })
    };
    let items = tensors.iter();
    let items = items.map(|t| Item::new(buffers(t), info! { pair: pair_of(t) }));
    let items: Vec<Item<'_, BUFFERS>> = items.collect();
    let [beta1, beta2] = input.betas;
    let mut rates = vec![
        beta1 as f32,
        (1.0 - beta1) as f32,
        beta2 as f32,
        (1.0 - beta2) as f32,
        input.eps as f32,
        input.root_scale() as f32,
    ];
    rates.extend(pairs.as_flattened());
    let packed = Packed {
        kernel,
        shared: &[&scale, &uploaded(&scale, &rates)],
        head: &|_| info! {},
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
