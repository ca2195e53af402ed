//! Launch of `shaders/copy.wgsl`.

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::info::info;
use super::launch::{Kernel, contiguous, empty, launch, shader, tensor};
use super::walk::Walk;
use crate::kernels::backends::Gpu;

pub(super) fn kernel(walk: Walk, chunk: Chunk) -> Kernel {
    let mut values = chunk.values();
    values.push(walk.value());
    Kernel::new(shader!("chunk", "copy"), walk.lanes, values)
}

/// A copy of the tensor in a new buffer: what the device's memory can do, for benchmarks.
///
/// # Shapes
/// `[L]` -> `[L]`.
pub fn copy(source: Tensor<Gpu, 1>) -> Tensor<Gpu, 1> {
    let [entries] = source.dims();
    let source = contiguous(source);
    let client = source.client.clone();
    let destination = empty(&source, [entries]);
    let walk = Walk::choose(&client);
    let chunk = Chunk::for_length(entries);
    let chunks = chunk.count(entries);
    launch(
        &client,
        kernel(walk, chunk),
        walk.groups(chunks),
        &[&source, &destination],
        &info! { chunks: chunks },
    );
    tensor(destination)
}
