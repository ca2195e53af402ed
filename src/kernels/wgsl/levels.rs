//! Launch of `shaders/levels.wgsl`.

use burn::tensor::{Bytes, DType, Shape, Tensor};
use burn_wgpu::{CubeTensor, WgpuDevice, WgpuRuntime};
use cubecl::Runtime;

use super::chunk::Chunk;
use super::info::info;
use super::launch::{Kernel, empty, launch, shader, tensor};
use super::walk::Walk;
use crate::kernels::backends::Gpu;
use crate::kernels::ops::levels::{LevelScale, LevelsInput};

/// Levels in a word.
const OF_WORD: usize = 4;

pub(super) fn kernel(walk: Walk, chunk: Chunk) -> Kernel {
    let mut values = chunk.values();
    values.extend(chunk.level_values());
    values.push(walk.value());
    Kernel::new(shader!("chunk", "levels"), walk.lanes, values)
}

/// See [`crate::kernels::IbotBackend::upload_levels`].
pub(super) fn upload(input: LevelsInput, device: &WgpuDevice) -> Tensor<Gpu, 4> {
    let (dims, area) = (input.dims, input.area());
    let (mut levels, entries) = (input.levels, dims.iter().product::<usize>());
    assert_eq!(levels.len(), entries, "levels of {dims:?}");
    if entries == 0 {
        return Tensor::empty(dims, device);
    }
    levels.resize(entries.next_multiple_of(OF_WORD), 0);
    let client = WgpuRuntime::client(device);
    let words = CubeTensor::new_contiguous(
        client.clone(),
        device.clone(),
        Shape::from([levels.len() / OF_WORD]),
        client.create(Bytes::from_bytes_vec(levels)),
        DType::U32,
    );
    let pixels = empty(&words, dims);
    let walk = Walk::choose(&client);
    let chunk = Chunk::for_length(area); // so that a chunk has one channel
    let chunks = chunk.count(entries);
    let LevelScale { scale, offset } = input.normalization;
    launch(
        &client,
        kernel(walk, chunk),
        walk.groups(chunks),
        &[&words, &pixels],
        &info! {
            chunks: chunks,
            of_plane: chunk.count(area),
            nothing: 0_usize,
            red_scale: scale[0],
            red_offset: offset[0],
            green_scale: scale[1],
            green_offset: offset[1],
            blue_scale: scale[2],
            blue_offset: offset[2],
        },
    );
    tensor(pixels)
}
