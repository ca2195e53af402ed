//! Launches of `shaders/matrix_product/`: every product of matrices that training and inference run on wgpu.
//!
//! burn's own products do not fit most GPUs: without `autotune` they ask for 40 960 bytes of workgroup memory wherever
//! subgroups have 32 lanes, and Metal and DX12 have 32 768 (burn issues 4530 and 4966).

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::info::info;
use super::launch::{GpuTensor, SECTION, contiguous, empty, launch, tensor};
use super::matrix_kernels::{After, PARTS_LANES, Variant, sum_of_parts};
use super::matrix_tiles::{BLOCK, MAX_TERMS, Plan, Sizes};
use crate::kernels::backend::{Gpu, IbotBackend};
use crate::kernels::ops::linear::{
    LinearBackwardInput, LinearGradients, LinearInput, LinearLayerInput,
};
use crate::kernels::ops::product::Layout;
use crate::kernels::ops::{linear, product};

/// Products of `[R, T]` and `[T, C]`, how they lie, and what becomes of them.
struct Product<'a> {
    layout: Layout,
    sizes: Sizes,
    left: &'a GpuTensor,
    right: &'a GpuTensor,
    bias: Option<GpuTensor>,
    gelu: bool,
    /// Where GELU's derivative is taken.
    at_gelu: Option<GpuTensor>,
    residual: Option<GpuTensor>,
    totals: Option<Totals>,
    activated: Option<GpuTensor>,
}

/// Sums of the right operand's columns.
#[derive(Debug, Clone, Copy)]
enum Totals {
    Alone,
    /// With room for the whole sums behind those of the parts, where a tensor may begin.
    Roomy,
}

impl Totals {
    /// Entries for those of all parts, of which each has `columns`.
    fn entries(self, of_parts: usize, columns: usize) -> usize {
        match self {
            Self::Alone => of_parts,
            Self::Roomy => of_parts.next_multiple_of(SECTION) + columns,
        }
    }
}

/// A product whose sums are made in parts.
pub(super) struct Parts<T> {
    /// `[P, N, R, C]`.
    pub product: GpuTensor,
    /// Sums of the right operand's columns, `[P, C]`.
    pub totals: T,
    /// P.
    pub parts: usize,
}

impl<'a> Product<'a> {
    /// One product, with nothing after it.
    fn of(
        layout: Layout,
        [rows, depth, columns]: [usize; 3],
        left: &'a GpuTensor,
        right: &'a GpuTensor,
    ) -> Self {
        Self {
            layout,
            sizes: Sizes {
                count: 1,
                rows,
                columns,
                depth,
            },
            left,
            right,
            bias: None,
            gelu: false,
            at_gelu: None,
            residual: None,
            totals: None,
            activated: None,
        }
    }

    fn variant(&self) -> Variant {
        let sizes = self.sizes;
        let widths = match self.layout {
            Layout::LeftTransposed => [sizes.rows, sizes.columns],
            _ => [sizes.depth, sizes.columns],
        };
        Variant {
            layout: self.layout,
            vectors: widths.iter().all(|width| width.is_multiple_of(BLOCK)),
            after: After {
                bias: self.bias.is_some(),
                gelu: self.gelu,
                gelu_gradient: self.at_gelu.is_some(),
                residual: self.residual.is_some(),
                activated: self.activated.is_some(),
                totals: self.totals.is_some(),
            },
        }
    }

    /// `[N, R, C]`, and the sums of right's columns, `[C]`, where they are asked for. All sizes >= 1.
    fn run(&self) -> (GpuTensor, Option<GpuTensor>) {
        let found = self.in_parts();
        match found.parts {
            1 => (found.product, found.totals),
            parts => self.sum(parts, &found.product, found.totals.as_ref()),
        }
    }

    /// The same in parts that are still to be added up.
    fn in_parts(&self) -> Parts<Option<GpuTensor>> {
        let client = &self.left.client;
        let variant = self.variant();
        let sizes @ Sizes { columns, .. } = self.sizes;
        let plan = Plan::choose(client, sizes, variant.after.takes_parts());
        let rows = plan.parts * sizes.count * sizes.rows;
        let out = empty(self.left, [rows, columns]);
        let totals = self.totals.map(|totals| {
            let entries = plan.parts * columns;
            empty(self.left, [totals.entries(entries, columns)])
        });
        let mut tensors = vec![self.left, self.right, &out];
        tensors.extend(self.bias.as_ref());
        tensors.extend(self.at_gelu.as_ref());
        tensors.extend(self.residual.as_ref());
        tensors.extend(totals.as_ref());
        tensors.extend(self.activated.as_ref());
        let info = info! {
            rows: sizes.rows,
            columns: columns,
            depth: sizes.depth,
            count: sizes.count,
            span: plan.span,
        };
        launch(
            client,
            variant.kernel(plan.way),
            plan.groups(sizes),
            &tensors,
            &info,
        );
        Parts {
            product: out,
            totals,
            parts: plan.parts,
        }
    }

    /// The parts of one product, `[P, R, C]`, added up, and those of the sums beside it, `[P, C]`.
    fn sum(
        &self,
        parts: usize,
        product: &GpuTensor,
        totals: Option<&GpuTensor>,
    ) -> (GpuTensor, Option<GpuTensor>) {
        let Sizes { rows, columns, .. } = self.sizes;
        let chunk = Chunk::for_length(columns);
        let chunks = rows * chunk.count(columns);
        let sum = empty(product, [rows, columns]);
        let total = totals.map(|parts| empty(parts, [columns]));
        let total_chunks = totals.map_or(0, |_| chunk.count(columns));
        let mut tensors = vec![product, &sum];
        tensors.extend(totals);
        tensors.extend(total.as_ref());
        launch(
            &product.client,
            sum_of_parts(chunk, totals.is_some()),
            (chunks + total_chunks).div_ceil(PARTS_LANES as usize),
            &tensors,
            &info! { parts: parts, chunks: chunks, total_chunks: total_chunks },
        );
        (sum, total)
    }
}

/// A product of more terms than one launch adds up.
fn in_pieces(layout: Layout, left: Tensor<Gpu, 2>, right: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let left_axis = usize::from(layout != Layout::LeftTransposed);
    let right_axis = usize::from(layout == Layout::RightTransposed);
    let depth = left.dims()[left_axis];
    let piece = |start: usize| -> Tensor<Gpu, 2> {
        let terms = MAX_TERMS.min(depth - start);
        let left = left.clone().narrow(left_axis, start, terms);
        let right = right.clone().narrow(right_axis, start, terms);
        matrix_products(left.unsqueeze(), right.unsqueeze(), layout).squeeze_dim(0)
    };
    let others = (MAX_TERMS..depth).step_by(MAX_TERMS);
    others.fold(piece(0), |sum, start| sum + piece(start))
}

/// See [`crate::kernels::IbotBackend::linear_rows`].
pub(super) fn linear(input: LinearInput<Gpu>) -> Tensor<Gpu, 2> {
    affine_then(input, false)
}

/// `x weight + bias`, through GELU where that is asked for, `+ residual`.
fn affine_then(mut input: LinearInput<Gpu>, gelu: bool) -> Tensor<Gpu, 2> {
    let [rows, depth] = input.x.dims();
    let [_, columns] = input.weight.dims();
    if rows * depth * columns == 0 || depth > MAX_TERMS {
        let residual = input.residual.take();
        let mut y = match depth > MAX_TERMS {
            true => in_pieces(Layout::Plain, input.x, input.weight),
            false => linear::linear(LinearInput {
                bias: None,
                ..input.clone()
            }),
        };
        if let Some(bias) = input.bias {
            y = y + bias.unsqueeze_dim(0);
        }
        let y = if gelu { super::gelu::forward(y) } else { y };
        return match residual {
            Some(residual) => y + residual,
            None => y,
        };
    }
    let (left, right) = (contiguous(input.x), contiguous(input.weight));
    let product = Product {
        bias: input.bias.map(contiguous),
        gelu,
        residual: input.residual.map(contiguous),
        ..Product::of(Layout::Plain, [rows, depth, columns], &left, &right)
    };
    tensor(product.run().0)
}

/// See [`crate::kernels::IbotBackend::linear_layer_gelu`]; GELU is part of the product.
pub(super) fn linear_gelu(layer: LinearLayerInput<Gpu>) -> Tensor<Gpu, 2> {
    affine_then(rows_of(layer), true)
}

/// See [`crate::kernels::IbotBackend::linear_layer_and_gelu`]; the product writes both.
pub(super) fn linear_and_gelu(layer: LinearLayerInput<Gpu>) -> [Tensor<Gpu, 2>; 2] {
    let input = rows_of(layer);
    let [rows, depth] = input.x.dims();
    let [_, columns] = input.weight.dims();
    if rows * depth * columns == 0 || depth > MAX_TERMS || input.residual.is_some() {
        let before = affine_then(input, false);
        return [before.clone(), super::gelu::forward(before)];
    }
    let (left, right) = (contiguous(input.x), contiguous(input.weight));
    let after = empty(&left, [rows, columns]);
    let product = Product {
        bias: input.bias.map(contiguous),
        activated: Some(after.clone()),
        ..Product::of(Layout::Plain, [rows, depth, columns], &left, &right)
    };
    [product.run().0, after].map(tensor)
}

fn rows_of(layer: LinearLayerInput<Gpu>) -> LinearInput<Gpu> {
    LinearInput {
        x: layer.prologue.apply(layer.x),
        weight: layer.weight,
        bias: layer.bias,
        residual: layer.residual,
    }
}

/// The gradient by the rows; where they are GELU of others, that by the others, and GELU of them. All sizes >= 1.
pub(super) fn d_x(
    d_y: &GpuTensor,
    weight: Tensor<Gpu, 2>,
    before_gelu: Option<Tensor<Gpu, 2>>,
) -> (Tensor<Gpu, 2>, Option<Tensor<Gpu, 2>>) {
    let [inputs, outputs] = weight.dims();
    let rows = d_y.meta.shape()[0];
    if outputs > MAX_TERMS {
        let d_x = in_pieces(Layout::RightTransposed, tensor(d_y.clone()), weight);
        return match before_gelu {
            Some(x) => (
                super::gelu::backward(x.clone(), d_x),
                Some(super::gelu::forward(x)),
            ),
            None => (d_x, None),
        };
    }
    let weight = contiguous(weight);
    let sizes = [rows, outputs, inputs];
    let activated = before_gelu.as_ref().map(|_| empty(d_y, [rows, inputs]));
    let product = Product {
        at_gelu: before_gelu.map(contiguous),
        activated: activated.clone(),
        ..Product::of(Layout::RightTransposed, sizes, d_y, &weight)
    };
    (tensor(product.run().0), activated.map(tensor))
}

/// See [`crate::kernels::IbotBackend::linear_rows_backward`].
pub(super) fn linear_backward(input: LinearBackwardInput<Gpu>) -> LinearGradients<Gpu> {
    if is_empty(&input) {
        return linear::linear_backward(input);
    }
    let d_y = contiguous(input.d_y.clone());
    let d_x = input
        .wants_x
        .then(|| d_x(&d_y, input.weight.clone(), None).0);
    of_weights(&input, d_x, input.x.clone(), d_y)
}

/// See [`crate::kernels::IbotBackend::linear_gelu_backward`]; the product for the rows makes GELU again as well.
pub(super) fn linear_gelu_backward(input: LinearBackwardInput<Gpu>) -> LinearGradients<Gpu> {
    if is_empty(&input) {
        return linear::linear_gelu_backward(input);
    }
    let d_y = contiguous(input.d_y.clone());
    let before = input.x.clone();
    let (d_x, x) = match input.wants_x {
        true => {
            let (d_x, x) = d_x(&d_y, input.weight.clone(), Some(before.clone()));
            (Some(d_x), x)
        }
        false => (None, None),
    };
    let x = x.unwrap_or_else(|| super::gelu::forward(before));
    of_weights(&input, d_x, x, d_y)
}

fn is_empty(input: &LinearBackwardInput<Gpu>) -> bool {
    let [inputs, outputs] = input.weight.dims();
    input.x.dims()[0] * inputs * outputs == 0
}

/// All gradients, of which that of the rows is found. All sizes >= 1.
fn of_weights(
    input: &LinearBackwardInput<Gpu>,
    d_x: Option<Tensor<Gpu, 2>>,
    x: Tensor<Gpu, 2>,
    d_y: GpuTensor,
) -> LinearGradients<Gpu> {
    let [rows, _] = x.dims();
    if !input.wants_weight || rows > MAX_TERMS {
        let d_y: Tensor<Gpu, 2> = tensor(d_y);
        let weight = || in_pieces(Layout::LeftTransposed, x, d_y.clone());
        return LinearGradients {
            d_x,
            d_weight: input.wants_weight.then(weight),
            d_bias: input.wants_bias.then(|| Gpu::column_sums(d_y)),
        };
    }
    let x = contiguous(x);
    let totals = input.wants_bias.then_some(Totals::Alone);
    let (d_weight, d_bias) = weight_gradient(&x, &d_y, totals).run();
    LinearGradients {
        d_x,
        d_weight: Some(tensor(d_weight)),
        d_bias: d_bias.map(tensor),
    }
}

/// `x^T d_y`, and the sums of d_y's columns.
fn weight_gradient<'a>(
    x: &'a GpuTensor,
    d_y: &'a GpuTensor,
    totals: Option<Totals>,
) -> Product<'a> {
    let [rows, inputs] = [x.meta.shape()[0], x.meta.shape()[1]];
    let sizes = [inputs, rows, d_y.meta.shape()[1]];
    Product {
        totals,
        ..Product::of(Layout::LeftTransposed, sizes, x, d_y)
    }
}

/// `x^T d_y` and the sums of d_y's columns, in parts; behind those of the sums there is room for the whole ones, from a
/// multiple of [`SECTION`] entries on. All sizes >= 1, not more rows than [`MAX_TERMS`].
pub(super) fn unfinished_weight_gradient(x: &GpuTensor, d_y: &GpuTensor) -> Parts<GpuTensor> {
    let found = weight_gradient(x, d_y, Some(Totals::Roomy)).in_parts();
    let missing = || empty(x, [0]); // asked for
    Parts {
        product: found.product,
        totals: found.totals.unwrap_or_else(missing),
        parts: found.parts,
    }
}

/// See [`crate::kernels::IbotBackend::matrix_products`].
pub(super) fn matrix_products(
    left: Tensor<Gpu, 3>,
    right: Tensor<Gpu, 3>,
    layout: Layout,
) -> Tensor<Gpu, 3> {
    let [count, rows, depth, columns] = layout.sizes(left.dims(), right.dims());
    if count * rows * depth * columns == 0 {
        return product::matrix_products(left, right, layout);
    }
    let (left, right) = (contiguous(left), contiguous(right));
    let mut product = Product::of(layout, [rows, depth, columns], &left, &right);
    product.sizes.count = count;
    tensor::<2>(product.run().0).reshape([count, rows, columns])
}
