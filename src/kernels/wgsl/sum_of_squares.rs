//! Launches of `shaders/sum_of_squares.wgsl`: many tensors a dispatch, and one kernel that adds up what they found.

use burn::tensor::{DType, Tensor};
use burn_wgpu::{WgpuDevice, into_contiguous};

use super::chunk::Chunk;
use super::cross_entropy::total_kernel;
use super::info::info;
use super::lanes::reducing_workgroup;
use super::launch::{GpuTensor, Kernel, empty, launch, shader, tensor};
use super::pack::{Item, Packed, groups, tensors_per_dispatch, values};
use super::walk::Walk;
use crate::kernels::backends::Gpu;
use crate::kernels::ops::adamw as tensor_adamw;

pub(super) fn kernel(walk: Walk, chunk: Chunk, tensors: usize) -> Kernel {
    let values = values(walk, chunk, tensors);
    Kernel::new(shader!("chunk", "sum_of_squares"), walk.lanes, values)
}

/// See [`crate::kernels::IbotBackend::sum_of_squares`].
pub(super) fn sum_of_squares(tensors: Vec<GpuTensor>, device: &WgpuDevice) -> Tensor<Gpu, 1> {
    if tensors.iter().any(|t| t.dtype != DType::F32) {
        return tensor_adamw::sum_of_squares::<Gpu>(tensors, device);
    }
    let tensors: Vec<GpuTensor> = tensors.into_iter().map(into_contiguous).collect();
    let items = tensors.iter().map(|t| Item::new([t], info! {}));
    let items: Vec<Item<'_, 1>> = items.collect();
    let partials = groups(&items);
    let Some(first) = tensors.first().filter(|_| partials > 0) else {
        return Tensor::zeros([1], device);
    };
    let client = &first.client;
    let (sums, total) = (empty(first, [partials]), empty(first, [1]));
    let packed = Packed {
        kernel,
        shared: &[&sums],
        head: &|before| info! { groups_before: before },
        max_tensors: tensors_per_dispatch(client, 1),
    };
    packed.launch(&items);
    let of_sums = total_kernel(reducing_workgroup(client, partials));
    launch(
        client,
        of_sums,
        1,
        &[&sums, &total],
        &info! { rows: partials },
    );
    tensor(total)
}
