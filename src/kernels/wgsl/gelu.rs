//! Launches of `shaders/gelu/`.

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::info::info;
use super::launch::{Kernel, contiguous, empty, launch, shader, tensor};
use super::walk::Walk;
use crate::kernels::backends::Gpu;

fn forward_kernel(walk: Walk, chunk: Chunk) -> Kernel {
    let mut values = chunk.values();
    values.push(walk.value());
    let shader = shader!("chunk", "gelu/normal", "gelu/forward");
    Kernel::new(shader, walk.lanes, values)
}

fn backward_kernel(walk: Walk, chunk: Chunk) -> Kernel {
    let mut values = chunk.values();
    values.push(walk.value());
    let shader = shader!("chunk", "gelu/normal", "gelu/backward");
    Kernel::new(shader, walk.lanes, values)
}

pub(super) fn kernels(walk: Walk, chunk: Chunk) -> [Kernel; 2] {
    [forward_kernel(walk, chunk), backward_kernel(walk, chunk)]
}

/// See [`crate::kernels::IbotBackend::exact_gelu`].
pub(super) fn forward(x: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let [rows, width] = x.dims();
    if rows * width == 0 {
        return x;
    }
    let x = contiguous(x);
    let y = empty(&x, [rows, width]);
    let walk = Walk::choose(&x.client);
    let chunk = Chunk::for_length(rows * width);
    let chunks = chunk.count(rows * width);
    launch(
        &x.client,
        forward_kernel(walk, chunk),
        walk.groups(chunks),
        &[&x, &y],
        &info! { chunks: chunks },
    );
    tensor(y)
}

/// See [`crate::kernels::IbotBackend::exact_gelu_backward`].
pub(super) fn backward(x: Tensor<Gpu, 2>, d_y: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let [rows, width] = x.dims();
    if rows * width == 0 {
        return x;
    }
    let (x, d_y) = (contiguous(x), contiguous(d_y));
    let d_x = empty(&x, [rows, width]);
    let walk = Walk::choose(&x.client);
    let chunk = Chunk::for_length(rows * width);
    let chunks = chunk.count(rows * width);
    launch(
        &x.client,
        backward_kernel(walk, chunk),
        walk.groups(chunks),
        &[&x, &d_y, &d_x],
        &info! { chunks: chunks },
    );
    tensor(d_x)
}
