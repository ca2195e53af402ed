//! Launches of `shaders/gelu/`.

use burn::tensor::Tensor;

use super::chunk::{Chunk, Element};
use super::info::info;
use super::launch::{GpuTensor, Kernel, empty_of, launch, rows_as, rows_of, shader, tensor};
use super::walk::Walk;
use crate::kernels::backends::Gpu;

fn forward_kernel(walk: Walk, chunk: Chunk, element: Element) -> Kernel {
    let mut values = chunk.values();
    values.extend([walk.value(), ("rows", chunk.of(element))]);
    let shader = shader!("chunk", "gelu/normal", "gelu/forward");
    Kernel::new(shader, walk.lanes, values)
}

fn backward_kernel(walk: Walk, chunk: Chunk, element: Element) -> Kernel {
    let mut values = chunk.values();
    values.extend([walk.value(), ("rows", chunk.of(element))]);
    let shader = shader!("chunk", "gelu/normal", "gelu/backward");
    Kernel::new(shader, walk.lanes, values)
}

pub(super) fn kernels(walk: Walk, chunk: Chunk, element: Element) -> [Kernel; 2] {
    [forward_kernel, backward_kernel].map(|kernel| kernel(walk, chunk, element))
}

/// See [`crate::kernels::IbotBackend::exact_gelu`].
pub(super) fn forward(x: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let [rows, width] = x.dims();
    if rows * width == 0 {
        return x;
    }
    let x = rows_of(x);
    let y = empty_of(Element::of(&x), &x, [rows, width]);
    over_entries(forward_kernel, &[&x, &y]);
    tensor(y)
}

/// See [`crate::kernels::IbotBackend::exact_gelu_backward`].
pub(super) fn backward(x: Tensor<Gpu, 2>, d_y: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let [rows, width] = x.dims();
    if rows * width == 0 {
        return x;
    }
    let x = rows_of(x);
    let element = Element::of(&x);
    let (d_y, d_x) = (rows_as(d_y, element), empty_of(element, &x, [rows, width]));
    over_entries(backward_kernel, &[&x, &d_y, &d_x]);
    tensor(d_x)
}

/// Over tensors of one shape and one kind of entries.
fn over_entries(kernel: fn(Walk, Chunk, Element) -> Kernel, tensors: &[&GpuTensor]) {
    let of = tensors[0];
    let entries = of.meta.shape().num_elements();
    let walk = Walk::choose(&of.client);
    let chunk = Chunk::for_length(entries);
    let chunks = chunk.count(entries);
    launch(
        &of.client,
        kernel(walk, chunk, Element::of(of)),
        walk.groups(chunks),
        tensors,
        &info! { chunks: chunks },
    );
}
