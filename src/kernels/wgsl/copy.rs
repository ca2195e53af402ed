//! Launch of `shaders/copy.wgsl`.

use burn::tensor::Tensor;

use super::launch::{Kernel, contiguous, empty, launch, shader, tensor};
use super::{Chunk, Gpu};

/// As for the moving average, which is compared with this.
const WORKGROUP: u32 = 256;

pub(super) fn kernel(workgroup: u32, chunk: Chunk) -> Kernel {
    Kernel::new(shader!("copy"), workgroup, vec![chunk.value()])
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
    let chunk = Chunk::for_length(entries);
    let chunks = chunk.count(entries);
    launch(
        &client,
        kernel(WORKGROUP, chunk),
        chunks.div_ceil(WORKGROUP as usize),
        &[&source, &destination],
        &[chunks as u32],
    );
    tensor(destination)
}
