//! Launches of `shaders/layer_norm/`.

use burn::tensor::Tensor;

use super::super::{Gpu, LayerNormGradients, LayerNormInput, layer_norm as tensor_layer_norm};
use super::Chunk;
use super::launch::{
    Client, GpuTensor, Kernel, MOST_ROUNDS, SOFTWARE_SUBGROUP, contiguous, empty, is_software,
    launch, reducing_workgroup, shader, tensor, workgroup,
};

/// Rows that one lane sums for the gradients by weight and bias: enough of them to hide the second pass, few enough
/// that a GPU is busy.
const SLAB_ROWS: usize = 64;

/// Lanes of a workgroup, and how many of them share a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Team {
    lanes: u32,
    team: u32,
}

impl Team {
    /// Rows of a software device have one lane each, in workgroups of its subgroup.
    pub(super) const SOFTWARE: Self = Self {
        lanes: SOFTWARE_SUBGROUP,
        team: 1,
    };

    /// A whole workgroup shares a row.
    pub(super) fn of_lanes(lanes: u32) -> Self {
        Self { lanes, team: lanes }
    }

    fn for_chunks(client: &Client, chunks: usize) -> Self {
        // a lane goes over its row three times
        match is_software(client) && 3 * chunks <= MOST_ROUNDS {
            true => Self::SOFTWARE,
            false => Self::of_lanes(reducing_workgroup(client, 3 * chunks)),
        }
    }

    fn values(self) -> [(&'static str, String); 3] {
        let shared = usize::from(self.team > 1);
        [
            ("team", self.team.to_string()),
            ("shared", shared.to_string()),
            ("alone", (1 - shared).to_string()),
        ]
    }

    /// Workgroups for this many rows.
    fn groups(self, rows: usize) -> usize {
        rows.div_ceil((self.lanes / self.team) as usize)
    }
}

fn forward_kernel(team: Team, chunk: Chunk) -> Kernel {
    let mut values = chunk.values();
    values.extend(team.values());
    let shader = shader!("chunk", "layer_norm/team", "layer_norm/forward");
    Kernel::new(shader, team.lanes, values)
}

fn backward_kernel(team: Team, chunk: Chunk) -> Kernel {
    let mut values = chunk.values();
    values.extend(team.values());
    let shader = shader!("chunk", "layer_norm/team", "layer_norm/backward");
    Kernel::new(shader, team.lanes, values)
}

fn columns_kernel(workgroup: u32, chunk: Chunk) -> Kernel {
    let mut values = chunk.values();
    values.push(("slab_rows", SLAB_ROWS.to_string()));
    Kernel::new(shader!("chunk", "layer_norm/columns"), workgroup, values)
}

fn column_totals_kernel(workgroup: u32, chunk: Chunk) -> Kernel {
    let shader = shader!("chunk", "layer_norm/column_totals");
    Kernel::new(shader, workgroup, chunk.values())
}

pub(super) fn row_kernels(team: Team, chunk: Chunk) -> [Kernel; 2] {
    [forward_kernel(team, chunk), backward_kernel(team, chunk)]
}

pub(super) fn column_kernels(workgroup: u32, chunk: Chunk) -> [Kernel; 2] {
    [columns_kernel, column_totals_kernel].map(|make| make(workgroup, chunk))
}

/// The struct that both kernels of rows take.
fn info([rows, width]: [usize; 2], chunk: Chunk, eps: f64) -> [u32; 4] {
    [
        rows as u32,
        chunk.count(width) as u32,
        (width as f32).to_bits(),
        (eps as f32).to_bits(),
    ]
}

/// See [`super::super::IbotBackend::layer_norm_rows`].
pub(super) fn forward(input: LayerNormInput<Gpu>) -> Tensor<Gpu, 2> {
    let shape @ [rows, width] = input.x.dims();
    if rows * width == 0 {
        return input.x;
    }
    let chunk = Chunk::for_length(width);
    let x = contiguous(input.x);
    let y = empty(&x, shape);
    let team = Team::for_chunks(&x.client, chunk.count(width));
    launch(
        &x.client,
        forward_kernel(team, chunk),
        team.groups(rows),
        &[&x, &contiguous(input.weight), &contiguous(input.bias), &y],
        &info(shape, chunk, input.eps),
    );
    tensor(y)
}

/// See [`super::super::IbotBackend::layer_norm_rows_backward`].
pub(super) fn backward(input: LayerNormInput<Gpu>, d_y: Tensor<Gpu, 2>) -> LayerNormGradients<Gpu> {
    let shape @ [rows, width] = input.x.dims();
    // column_totals.wgsl loops over all slabs
    if rows * width == 0 || rows.div_ceil(SLAB_ROWS) > MOST_ROUNDS {
        return tensor_layer_norm::backward(input, d_y);
    }
    let chunk = Chunk::for_length(width);
    let (x, d_y) = (contiguous(input.x), contiguous(d_y));
    let d_x = empty(&x, shape);
    let [row_mean, row_scale] = [(); 2].map(|()| empty(&x, [rows]));
    let team = Team::for_chunks(&x.client, chunk.count(width));
    let weight = contiguous(input.weight);
    launch(
        &x.client,
        backward_kernel(team, chunk),
        team.groups(rows),
        &[&x, &weight, &d_y, &d_x, &row_mean, &row_scale],
        &info(shape, chunk, input.eps),
    );
    let [d_weight, d_bias] = sum_columns(&x, &d_y, [&row_mean, &row_scale], chunk);
    LayerNormGradients {
        d_x: tensor(d_x),
        d_weight: tensor(d_weight),
        d_bias: tensor(d_bias),
    }
}

/// Gradients by weight and bias.
fn sum_columns(
    x: &GpuTensor,
    d_y: &GpuTensor,
    [row_mean, row_scale]: [&GpuTensor; 2],
    chunk: Chunk,
) -> [GpuTensor; 2] {
    let shape = x.meta.shape();
    let (rows, width) = (shape[0], shape[1]);
    let (slabs, chunks) = (rows.div_ceil(SLAB_ROWS), chunk.count(width));
    let lanes = workgroup(&x.client);
    let partial = [(); 2].map(|()| empty(x, [slabs, width]));
    launch(
        &x.client,
        columns_kernel(lanes, chunk),
        (slabs * chunks).div_ceil(lanes as usize),
        &[x, d_y, row_mean, row_scale, &partial[0], &partial[1]],
        &[rows, chunks, slabs].map(|size| size as u32),
    );
    let totals = [(); 2].map(|()| empty(x, [width]));
    launch(
        &x.client,
        column_totals_kernel(lanes, chunk),
        chunks.div_ceil(lanes as usize),
        &[&partial[0], &partial[1], &totals[0], &totals[1]],
        &[slabs, chunks].map(|size| size as u32),
    );
    totals
}
