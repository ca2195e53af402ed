//! Launches of `shaders/l2_norm/`.

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::launch::{Kernel, contiguous, empty, shader, tensor};
use super::row_team::{RowPass, Team};
use crate::kernels::backends::Gpu;
use crate::kernels::ops::l2_norm::L2NormInput;

fn forward_kernel(team: Team, chunk: Chunk) -> Kernel {
    let shader = shader!("chunk", "rows/team", "rows/info", "l2_norm/forward");
    team.kernel(shader, chunk, [])
}

fn backward_kernel(team: Team, chunk: Chunk) -> Kernel {
    let shader = shader!("chunk", "rows/team", "rows/info", "l2_norm/backward");
    team.kernel(shader, chunk, [])
}

pub(super) fn kernels(team: Team, chunk: Chunk) -> [Kernel; 2] {
    [forward_kernel(team, chunk), backward_kernel(team, chunk)]
}

/// See [`crate::kernels::IbotBackend::l2_normalize_rows`].
pub(super) fn forward(input: L2NormInput<Gpu>) -> Tensor<Gpu, 2> {
    let shape @ [rows, width] = input.x.dims();
    if rows * width == 0 {
        return input.x;
    }
    let x = contiguous(input.x);
    let y = empty(&x, shape);
    let pass = RowPass::over(&x);
    pass.launch(forward_kernel, &[&x, &y], input.min_squared_norm, 1);
    tensor(y)
}

/// See [`crate::kernels::IbotBackend::l2_normalize_rows_backward`].
pub(super) fn backward(input: L2NormInput<Gpu>, d_y: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let shape @ [rows, width] = input.x.dims();
    if rows * width == 0 {
        return d_y;
    }
    let (x, d_y) = (contiguous(input.x), contiguous(d_y));
    let d_x = empty(&x, shape);
    let pass = RowPass::over(&x);
    pass.launch(
        backward_kernel,
        &[&x, &d_y, &d_x],
        input.min_squared_norm,
        1,
    );
    tensor(d_x)
}
