//! Launches of `shaders/layer_norm/`.

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::element::{Element, cast, empty_of, rows_as, rows_of};
use super::info::info;
use super::lanes::{MAX_ROUNDS, workgroup};
use super::launch::{GpuTensor, Kernel, contiguous, empty, launch, shader, tensor};
use super::matrix_product::Parts;
use super::row_team::{RowPass, Team};
use crate::kernels::backends::Gpu;
use crate::kernels::ops::layer_norm as tensor_layer_norm;
use crate::kernels::ops::layer_norm::{LayerNormGradients, LayerNormInput};

/// Rows that one lane sums for the gradients with respect to weight and bias: enough of them to hide the second pass, few enough
/// that a GPU is busy.
const SLAB_ROWS: usize = 64;

/// Entries of rows, and of what the norm makes of them or of the gradient with respect to that.
#[derive(Debug, Clone, Copy)]
struct Elements {
    rows: Element,
    normed: Element,
}

impl Elements {
    /// The norm before a layer, and the last one.
    const ALL: [Self; 3] = [
        Self::new(Element::F32, Element::F32),
        Self::new(Element::F16, Element::F16),
        Self::new(Element::F16, Element::F32),
    ];

    const fn new(rows: Element, normed: Element) -> Self {
        Self { rows, normed }
    }

    fn of(rows: &GpuTensor, normed: &GpuTensor) -> Self {
        Self::new(Element::of(rows), Element::of(normed))
    }

    fn values(self, chunk: Chunk) -> [(&'static str, String); 2] {
        [
            ("rows", chunk.of(self.rows)),
            ("normed", chunk.of(self.normed)),
        ]
    }
}

fn forward_kernel(team: Team, chunk: Chunk, elements: Elements) -> Kernel {
    let shader = shader!("chunk", "rows/team", "rows/info", "layer_norm/forward");
    team.kernel(shader, chunk, elements.values(chunk))
}

/// What the gradient with respect to the rows takes and gives beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// Means and scales of the rows, for the gradients with respect to scale and shift.
    Moments,
    /// The rows before scale and shift; the gradient may have a summand.
    Units { past: bool },
}

fn backward_kernel(team: Team, chunk: Chunk, elements: Elements, beside: Beside) -> Kernel {
    let shader = shader!("chunk", "rows/team", "rows/info", "layer_norm/backward");
    let values = [
        ("past", beside == Beside::Units { past: true }),
        ("unit", beside != Beside::Moments),
        ("moments", beside == Beside::Moments),
    ];
    let values = values.map(there).into_iter();
    team.kernel(shader, chunk, values.chain(elements.values(chunk)))
}

fn there((name, is_there): (&'static str, bool)) -> (&'static str, String) {
    (name, usize::from(is_there).to_string())
}

fn columns_kernel(workgroup: u32, chunk: Chunk, elements: Elements) -> Kernel {
    let mut values = chunk.values();
    values.extend(elements.values(chunk));
    values.push(("slab_rows", SLAB_ROWS.to_string()));
    Kernel::new(shader!("chunk", "layer_norm/columns"), workgroup, values)
}

fn column_totals_kernel(team: Team, chunk: Chunk) -> Kernel {
    let shader = shader!("chunk", "layer_norm/column_totals");
    team.kernel(shader, chunk, [])
}

pub(super) fn row_kernels(team: Team, chunk: Chunk) -> Vec<Kernel> {
    let besides = [
        Beside::Moments,
        Beside::Units { past: false },
        Beside::Units { past: true },
    ];
    let of_elements = |elements| {
        let backward = besides.map(|beside| backward_kernel(team, chunk, elements, beside));
        [forward_kernel(team, chunk, elements)]
            .into_iter()
            .chain(backward)
    };
    Elements::ALL.into_iter().flat_map(of_elements).collect()
}

pub(super) fn column_kernels(workgroup: u32, chunk: Chunk) -> Vec<Kernel> {
    let columns = Elements::ALL.map(|elements| columns_kernel(workgroup, chunk, elements));
    let teams = [Team::SOFTWARE, Team::of_columns(workgroup)];
    let totals = teams.map(|team| column_totals_kernel(team, chunk));
    columns.into_iter().chain(totals).collect()
}

/// See [`crate::kernels::IbotBackend::layer_norm_rows`]; f32, whatever the rows are.
pub(super) fn forward(input: LayerNormInput<Gpu>) -> Tensor<Gpu, 2> {
    normed(input, Element::F32)
}

/// As a layer takes the rows: of their own kind.
pub(super) fn before_layer(input: LayerNormInput<Gpu>) -> Tensor<Gpu, 2> {
    let element = Element::of_dtype(input.x.dtype());
    normed(input, element)
}

fn normed(input: LayerNormInput<Gpu>, element: Element) -> Tensor<Gpu, 2> {
    let shape @ [rows, width] = input.x.dims();
    if rows * width == 0 {
        return cast(input.x, element);
    }
    let affine = [input.weight, input.bias].map(contiguous);
    let x = rows_of(input.x);
    let y = empty_of(element, &x, shape);
    let tensors = [&x, &affine[0], &affine[1], &y];
    let kernel = |team, chunk| forward_kernel(team, chunk, Elements::of(&x, &y));
    RowPass::over(&x).launch(kernel, &tensors, input.eps, 1);
    tensor(y)
}

/// See [`crate::kernels::IbotBackend::layer_norm_rows_backward`].
pub(super) fn backward(input: LayerNormInput<Gpu>, d_y: Tensor<Gpu, 2>) -> LayerNormGradients<Gpu> {
    let [rows, width] = input.x.dims();
    // column_totals.wgsl loops over all slabs
    if rows * width == 0 || rows.div_ceil(SLAB_ROWS) > MAX_ROUNDS {
        return in_f32(input, d_y);
    }
    let chunk = Chunk::for_length(width);
    // what a standalone norm gives is f32
    let (x, d_y) = (rows_of(input.x), contiguous(cast(d_y, Element::F32)));
    let weight = contiguous(input.weight);
    let moments = [(); 2].map(|()| empty(&x, [rows]));
    let beside = (Beside::Moments, moments.each_ref().to_vec());
    let whole = Parts::whole(d_y.clone());
    let d_x = rows_backward(&x, &weight, input.eps, &whole, beside);
    let [d_weight, d_bias] = sum_columns(&x, &d_y, moments.each_ref(), chunk);
    LayerNormGradients {
        d_x: tensor(d_x),
        d_weight: tensor(d_weight),
        d_bias: tensor(d_bias),
    }
}

/// By tensor operations, which take f32.
fn in_f32(input: LayerNormInput<Gpu>, d_y: Tensor<Gpu, 2>) -> LayerNormGradients<Gpu> {
    let element = Element::of_dtype(input.x.dtype());
    let x = cast(input.x, Element::F32);
    let input = LayerNormInput { x, ..input };
    let found = tensor_layer_norm::backward(input, cast(d_y, Element::F32));
    LayerNormGradients {
        d_x: cast(found.d_x, element),
        ..found
    }
}

/// The gradient with respect to the rows alone, plus `past` where it is there; and the rows before scale and shift, which the gradients of
/// the layer behind the norm take. `d_y` is by the norm's result. There is a row, and it has an entry.
pub(super) fn backward_of_rows(
    input: LayerNormInput<Gpu>,
    d_y: &Parts<()>,
    past: Option<Tensor<Gpu, 2>>,
) -> [GpuTensor; 2] {
    let shape = input.x.dims();
    let x = rows_of(input.x);
    let element = Element::of(&x);
    let past = past.map(|past| rows_as(past, element));
    let units = empty_of(element, &x, shape);
    let beside = Beside::Units {
        past: past.is_some(),
    };
    let tensors = past.iter().chain([&units]).collect();
    let weight = contiguous(input.weight);
    let d_x = rows_backward(&x, &weight, input.eps, d_y, (beside, tensors));
    [d_x, units]
}

fn rows_backward(
    x: &GpuTensor,
    weight: &GpuTensor,
    eps: f64,
    d_y: &Parts<()>,
    (beside, tensors): (Beside, Vec<&GpuTensor>),
) -> GpuTensor {
    let elements = Elements::of(x, &d_y.product);
    let d_x = empty_of(elements.rows, x, [x.meta.shape()[0], x.meta.shape()[1]]);
    let mut all = vec![x, weight, &d_y.product, &d_x];
    all.extend(tensors);
    let kernel = |team, chunk| backward_kernel(team, chunk, elements, beside);
    RowPass::over(x).launch(kernel, &all, eps, d_y.parts);
    d_x
}

/// Gradients with respect to weight and bias.
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
        columns_kernel(lanes, chunk, Elements::of(x, d_y)),
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
