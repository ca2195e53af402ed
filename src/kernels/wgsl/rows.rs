//! Launches of `shaders/rows/`: rows by their places, and sums of columns.

use burn::tensor::{Int, Tensor, TensorData, TensorMetadata};

use super::chunk::Chunk;
use super::element::{Element, cast, empty_of, rows_as, rows_of};
use super::info::info;
use super::lanes::workgroup;
use super::launch::{GpuTensor, Kernel, empty, launch, shader, tensor};
use super::walk::Walk;
use crate::kernels::backends::Gpu;
use crate::kernels::ops::product::{self, RowIndices};

/// Rows that a lane adds up, one after the other: 25 216 rows take three launches.
const SLAB_ROWS: usize = 64;

pub(super) fn gather_kernel(walk: Walk, chunk: Chunk, element: Element) -> Kernel {
    let mut values = chunk.values();
    values.extend([walk.value(), ("rows", chunk.of(element))]);
    Kernel::new(shader!("chunk", "rows/gather"), walk.lanes, values)
}

fn placed_kernel(walk: Walk, chunk: Chunk, element: Element, past: bool) -> Kernel {
    let mut values = chunk.values();
    values.extend([
        walk.value(),
        ("past", usize::from(past).to_string()),
        ("rows", chunk.of(element)),
    ]);
    Kernel::new(shader!("chunk", "rows/placed"), walk.lanes, values)
}

pub(super) fn placed_kernels(walk: Walk, chunk: Chunk, element: Element) -> [Kernel; 2] {
    [false, true].map(|past| placed_kernel(walk, chunk, element, past))
}

pub(super) fn sums_kernel(lanes: u32, chunk: Chunk, element: Element) -> Kernel {
    let mut values = chunk.values();
    values.extend([
        ("slab_rows", SLAB_ROWS.to_string()),
        ("rows", chunk.of(element)),
    ]);
    Kernel::new(shader!("chunk", "rows/column_sums"), lanes, values)
}

/// The rows of `x` at the indices, or at their inverse, zeros where one is negative; `x` has a row.
fn gathered(x: Tensor<Gpu, 2>, indices: &RowIndices, inverse: bool) -> Tensor<Gpu, 2> {
    let ([_, width], device) = (x.dims(), x.device());
    let x = rows_of(x);
    let rows = if inverse {
        indices.rows()
    } else {
        indices.len()
    };
    let y = empty_of(Element::of(&x), &x, [rows, width]);
    if rows * width > 0 {
        let send = |indices| {
            let data = TensorData::new(indices, [rows]);
            Tensor::<Gpu, 1, Int>::from_data(data, &device).into_primitive()
        };
        let is_here = |sent: &GpuTensor| sent.device == device;
        let chunk = Chunk::for_length(width);
        let chunks = chunk.count(width);
        let walk = Walk::choose(&x.client);
        launch(
            &x.client,
            gather_kernel(walk, chunk, Element::of(&x)),
            walk.groups(rows * chunks),
            &[&x, &indices.sent(inverse, is_here, send), &y],
            &info! { rows: rows, chunks: chunks },
        );
    }
    tensor(y)
}

/// See [`crate::kernels::IbotBackend::gather_rows`].
pub(super) fn gather(x: Tensor<Gpu, 2>, indices: &RowIndices) -> Tensor<Gpu, 2> {
    gathered(x, indices, false)
}

/// See [`crate::kernels::IbotBackend::scatter_rows`].
pub(super) fn scatter(y: Tensor<Gpu, 2>, indices: &RowIndices) -> Tensor<Gpu, 2> {
    match indices.indices() {
        [] => {
            let element = Element::of_dtype(y.dtype());
            cast(
                product::scatter_rows(cast(y, Element::F32), indices),
                element,
            )
        }
        _ => gathered(y, indices, true),
    }
}

/// See [`crate::kernels::IbotBackend::slice_rows_backward`].
pub(super) fn slice_backward(
    d_y: Tensor<Gpu, 2>,
    start: usize,
    rows: usize,
    past: Option<Tensor<Gpu, 2>>,
) -> Tensor<Gpu, 2> {
    let [count, width] = d_y.dims();
    if count * width == 0 {
        let element = Element::of_dtype(d_y.dtype());
        let past = past.map(|past| cast(past, Element::F32));
        let d_y = cast(d_y, Element::F32);
        return cast(
            product::slice_rows_backward(d_y, start, rows, past),
            element,
        );
    }
    let d_y = rows_of(d_y);
    let element = Element::of(&d_y);
    let past = past.map(|past| rows_as(past, element));
    let y = empty_of(element, &d_y, [rows, width]);
    let chunk = Chunk::for_length(width);
    let chunks = chunk.count(width);
    let walk = Walk::choose(&d_y.client);
    let mut tensors = vec![&d_y, &y];
    tensors.extend(past.as_ref());
    launch(
        &d_y.client,
        placed_kernel(walk, chunk, element, past.is_some()),
        walk.groups(rows * chunks),
        &tensors,
        &info! { items: rows * chunks, start: start * chunks, end: (start + count) * chunks },
    );
    tensor(y)
}

/// See [`crate::kernels::IbotBackend::column_sums`].
pub(super) fn column_sums(x: Tensor<Gpu, 2>) -> Tensor<Gpu, 1> {
    let [rows, width] = x.dims();
    if rows * width == 0 {
        return product::column_sums(cast(x, Element::F32));
    }
    let mut sums = rows_of(x);
    // one slab at least: what comes back is a tensor of its own
    loop {
        sums = slab_sums(&sums, width);
        if sums.shape()[0] == 1 {
            return tensor::<2>(sums).reshape([width]);
        }
    }
}

/// `[R, D]` -> `[S, D]` of f32.
fn slab_sums(x: &GpuTensor, width: usize) -> GpuTensor {
    let rows = x.shape()[0];
    let slabs = rows.div_ceil(SLAB_ROWS);
    let y = empty(x, [slabs, width]);
    let chunk = Chunk::for_length(width);
    let chunks = chunk.count(width);
    let lanes = workgroup(&x.client);
    launch(
        &x.client,
        sums_kernel(lanes, chunk, Element::of(x)),
        (slabs * chunks).div_ceil(lanes as usize),
        &[x, &y],
        &info! { rows: rows, chunks: chunks, slabs: slabs },
    );
    y
}
