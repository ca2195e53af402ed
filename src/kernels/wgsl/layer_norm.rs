//! Launches of `shaders/layer_norm/`.

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::info::{Info, info};
use super::lanes::{MAX_ROUNDS, SOFTWARE_SUBGROUP, is_software, reducing_workgroup, workgroup};
use super::launch::{Client, GpuTensor, Kernel, contiguous, empty, launch, shader, tensor};
use crate::kernels::backend::Gpu;
use crate::kernels::ops::layer_norm as tensor_layer_norm;
use crate::kernels::ops::layer_norm::{LayerNormGradients, LayerNormInput};

/// Rows that one lane sums for the gradients by weight and bias: enough of them to hide the second pass, few enough
/// that a GPU is busy.
const SLAB_ROWS: usize = 64;

/// Chunks of columns that a workgroup of column_totals.wgsl sums on a GPU: 128 bytes of a slab side by side, and few
/// enough that the lanes of a chunk have about a dozen slabs each (394 slabs are 25 216 rows of a step).
const COLUMNS: u32 = 8;

/// Chunks of a row that a lane handles, about, on a GPU: more lanes would wait at more barriers than they save rounds.
const CHUNKS_A_LANE: usize = 3;

/// Lanes of a workgroup, and how many of them share a row, or a chunk of columns.
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

    /// Rows of so many chunks have as many lanes as pays, and a workgroup of so many lanes as many rows as fit.
    fn of_rows(lanes: u32, chunks: usize) -> Self {
        let team = (chunks / CHUNKS_A_LANE).next_power_of_two() as u32;
        Self {
            lanes,
            team: team.min(lanes),
        }
    }

    /// The lanes of a GPU's workgroup that sum the slabs of columns.
    fn of_columns(lanes: u32) -> Self {
        let team = (lanes / COLUMNS).max(1);
        Self { lanes, team }
    }

    /// The teams of rows, from one lane to all of a workgroup.
    pub(super) fn all_of_rows(lanes: u32) -> impl Iterator<Item = Self> {
        let teams = (0..=lanes.ilog2()).map(|level| 1 << level);
        teams.map(move |team| Self { lanes, team })
    }

    fn for_rows(client: &Client, chunks: usize) -> Self {
        // a lane goes over its row three times
        match is_software(client) && 3 * chunks <= MAX_ROUNDS {
            true => Self::SOFTWARE,
            false => Self::of_rows(reducing_workgroup(client, 3 * chunks), chunks),
        }
    }

    fn for_columns(client: &Client) -> Self {
        match is_software(client) {
            true => Self::SOFTWARE,
            false => Self::of_columns(workgroup(client)),
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

    /// Workgroups for this many rows, or chunks of columns.
    fn groups(self, count: usize) -> usize {
        count.div_ceil((self.lanes / self.team) as usize)
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

fn column_totals_kernel(team: Team, chunk: Chunk) -> Kernel {
    let mut values = chunk.values();
    values.extend(team.values());
    let shader = shader!("chunk", "layer_norm/column_totals");
    Kernel::new(shader, team.lanes, values)
}

pub(super) fn row_kernels(team: Team, chunk: Chunk) -> [Kernel; 2] {
    [forward_kernel(team, chunk), backward_kernel(team, chunk)]
}

pub(super) fn column_kernels(workgroup: u32, chunk: Chunk) -> [Kernel; 3] {
    [
        columns_kernel(workgroup, chunk),
        column_totals_kernel(Team::SOFTWARE, chunk),
        column_totals_kernel(Team::of_columns(workgroup), chunk),
    ]
}

/// The struct that both kernels of rows take.
fn info_of([rows, width]: [usize; 2], chunk: Chunk, eps: f64) -> Info {
    info! {
        rows: rows,
        chunks: chunk.count(width),
        width: width as f32,
        eps: eps as f32,
    }
}

/// See [`crate::kernels::IbotBackend::layer_norm_rows`].
pub(super) fn forward(input: LayerNormInput<Gpu>) -> Tensor<Gpu, 2> {
    let shape @ [rows, width] = input.x.dims();
    if rows * width == 0 {
        return input.x;
    }
    let chunk = Chunk::for_length(width);
    let x = contiguous(input.x);
    let y = empty(&x, shape);
    let team = Team::for_rows(&x.client, chunk.count(width));
    launch(
        &x.client,
        forward_kernel(team, chunk),
        team.groups(rows),
        &[&x, &contiguous(input.weight), &contiguous(input.bias), &y],
        &info_of(shape, chunk, input.eps),
    );
    tensor(y)
}

/// See [`crate::kernels::IbotBackend::layer_norm_rows_backward`].
pub(super) fn backward(input: LayerNormInput<Gpu>, d_y: Tensor<Gpu, 2>) -> LayerNormGradients<Gpu> {
    let shape @ [rows, width] = input.x.dims();
    // column_totals.wgsl loops over all slabs
    if rows * width == 0 || rows.div_ceil(SLAB_ROWS) > MAX_ROUNDS {
        return tensor_layer_norm::backward(input, d_y);
    }
    let chunk = Chunk::for_length(width);
    let (x, d_y) = (contiguous(input.x), contiguous(d_y));
    let d_x = empty(&x, shape);
    let [row_mean, row_scale] = [(); 2].map(|()| empty(&x, [rows]));
    let team = Team::for_rows(&x.client, chunk.count(width));
    let weight = contiguous(input.weight);
    launch(
        &x.client,
        backward_kernel(team, chunk),
        team.groups(rows),
        &[&x, &weight, &d_y, &d_x, &row_mean, &row_scale],
        &info_of(shape, chunk, input.eps),
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
        &info! { rows: rows, chunks: chunks, slabs: slabs },
    );
    let totals = [(); 2].map(|()| empty(x, [width]));
    let team = Team::for_columns(&x.client);
    launch(
        &x.client,
        column_totals_kernel(team, chunk),
        team.groups(chunks),
        &[&partial[0], &partial[1], &totals[0], &totals[1]],
        &info! { slabs: slabs, chunks: chunks },
    );
    totals
}
