//! Launches of `shaders/l2_norm/`.

use burn::tensor::Tensor;

use super::chunk::{Chunk, Element};
use super::launch::{Kernel, cast, contiguous, empty, empty_of, rows_of, shader, tensor};
use super::row_team::{RowPass, Team};
use crate::kernels::backends::Gpu;
use crate::kernels::ops::l2_norm::L2NormInput;

fn forward_kernel(team: Team, chunk: Chunk, rows: Element) -> Kernel {
    let shader = shader!("chunk", "rows/team", "rows/info", "l2_norm/forward");
    team.kernel(shader, chunk, [("rows", chunk.of(rows))])
}

fn backward_kernel(team: Team, chunk: Chunk, rows: Element) -> Kernel {
    let shader = shader!("chunk", "rows/team", "rows/info", "l2_norm/backward");
    team.kernel(shader, chunk, [("rows", chunk.of(rows))])
}

pub(super) fn kernels(team: Team, chunk: Chunk, rows: Element) -> [Kernel; 2] {
    [forward_kernel, backward_kernel].map(|kernel| kernel(team, chunk, rows))
}

/// See [`crate::kernels::IbotBackend::l2_normalize_rows`]; f32, whatever the rows are.
pub(super) fn forward(input: L2NormInput<Gpu>) -> Tensor<Gpu, 2> {
    let shape @ [rows, width] = input.x.dims();
    if rows * width == 0 {
        return cast(input.x, Element::F32);
    }
    let x = rows_of(input.x);
    let y = empty(&x, shape);
    let pass = RowPass::over(&x);
    let kernel = |team, chunk| forward_kernel(team, chunk, Element::of(&x));
    pass.launch(kernel, &[&x, &y], input.min_squared_norm, 1);
    tensor(y)
}

/// See [`crate::kernels::IbotBackend::l2_normalize_rows_backward`].
pub(super) fn backward(input: L2NormInput<Gpu>, d_y: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let shape @ [rows, width] = input.x.dims();
    if rows * width == 0 {
        return cast(d_y, Element::of_dtype(input.x.dtype()));
    }
    let (x, d_y) = (rows_of(input.x), contiguous(cast(d_y, Element::F32)));
    let element = Element::of(&x);
    let d_x = empty_of(element, &x, shape);
    let pass = RowPass::over(&x);
    let kernel = |team, chunk| backward_kernel(team, chunk, element);
    pass.launch(kernel, &[&x, &d_y, &d_x], input.min_squared_norm, 1);
    tensor(d_x)
}
