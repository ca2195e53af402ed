//! Launches of `shaders/matrix_product/`: every product of matrices that training and inference run on wgpu.
//!
//! burn's own products do not fit most GPUs: without `autotune` they ask for 40 960 bytes of workgroup memory wherever
//! subgroups have 32 lanes, and Metal and DX12 have 32 768 (burn issues 4530 and 4966).

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::info::info;
use super::launch::{GpuTensor, contiguous, empty, launch, tensor};
use super::matrix_kernels::{After, PARTS_LANES, Variant, sum_of_parts};
use super::matrix_plan::{MAX_TERMS, Plan, Sizes};
use super::matrix_tiles::BLOCK;
use super::matrix_timing::fastest;
use crate::kernels::backend::{Gpu, IbotBackend};
use crate::kernels::ops::linear::{
    LinearBackwardInput, LinearGradients, LinearInput, LinearLayerInput,
};
use crate::kernels::ops::product::Layout;
use crate::kernels::ops::{linear, product};

/// Multiplications of a product whose tiles are timed, at least: fewer take a GPU less than a launch does.
const LEAST_TIMED: usize = 1 << 24;

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
    totals: bool,
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
            totals: false,
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
                totals: self.totals,
            },
        }
    }

    /// `[N, R, C]`, and the sums of right's columns, `[C]`, where they are asked for. All sizes >= 1.
    fn run(&self) -> (GpuTensor, Option<GpuTensor>) {
        let client = &self.left.client;
        let variant = self.variant();
        let sizes @ Sizes { columns, .. } = self.sizes;
        let plan = Plan::choose(client, sizes, variant.after.takes_parts());
        let rows = plan.parts * sizes.count * sizes.rows;
        let out = empty(self.left, [rows, columns]);
        let totals = self
            .totals
            .then(|| empty(self.left, [plan.parts * columns]));
        let plan = self.timed(plan, &out);
        let mut tensors = vec![self.left, self.right, &out];
        tensors.extend(self.bias.as_ref());
        tensors.extend(self.at_gelu.as_ref());
        tensors.extend(self.residual.as_ref());
        tensors.extend(totals.as_ref());
        self.launch(variant, plan, &tensors);
        match plan.parts {
            1 => (out, totals),
            parts => self.sum(parts, &out, totals.as_ref()),
        }
    }

    /// The plan with the tile that multiplies fastest on the device, which may be timed first: without what comes after, so
    /// that few kernels are compiled for it, into `out`, which is written again after that.
    fn timed(&self, plan: Plan, out: &GpuTensor) -> Plan {
        if self.sizes.products() < LEAST_TIMED {
            return plan;
        }
        let bare = Variant {
            after: After::default(),
            ..self.variant()
        };
        let class = || format!("{} {}", bare.name(), self.sizes.class());
        let launch = |plan| self.launch(bare, plan, &[self.left, self.right, out]);
        fastest(&self.left.client, plan, class, launch)
    }

    fn launch(&self, variant: Variant, plan: Plan, tensors: &[&GpuTensor]) {
        let sizes = self.sizes;
        let info = info! {
            rows: sizes.rows,
            columns: sizes.columns,
            depth: sizes.depth,
            count: sizes.count,
            span: plan.span,
            band: plan.band(sizes),
        };
        launch(
            &self.left.client,
            variant.kernel(plan.way),
            plan.groups(sizes),
            tensors,
            &info,
        );
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

/// See [`crate::kernels::IbotBackend::mlp`]; GELU is part of the first product.
pub(super) fn mlp(first: LinearLayerInput<Gpu>, second: LinearLayerInput<Gpu>) -> Tensor<Gpu, 2> {
    let first = LinearInput {
        x: first.prologue.apply(first.x),
        weight: first.weight,
        bias: first.bias,
        residual: first.residual,
    };
    linear(LinearInput {
        x: affine_then(first, true),
        weight: second.weight,
        bias: second.bias,
        residual: second.residual,
    })
}

/// The gradient by the rows, and by what GELU made them of where that is given; all sizes >= 1.
fn d_x(
    d_y: &GpuTensor,
    weight: Tensor<Gpu, 2>,
    before_gelu: Option<Tensor<Gpu, 2>>,
) -> Tensor<Gpu, 2> {
    let [inputs, outputs] = weight.dims();
    let rows = d_y.meta.shape()[0];
    if outputs > MAX_TERMS {
        let d_x = in_pieces(Layout::RightTransposed, tensor(d_y.clone()), weight);
        return match before_gelu {
            Some(x) => super::gelu::backward(x, d_x),
            None => d_x,
        };
    }
    let weight = contiguous(weight);
    let sizes = [rows, outputs, inputs];
    let product = Product {
        at_gelu: before_gelu.map(contiguous),
        ..Product::of(Layout::RightTransposed, sizes, d_y, &weight)
    };
    tensor(product.run().0)
}

/// See [`crate::kernels::IbotBackend::linear_rows_backward`], and, with `before_gelu`,
/// [`crate::kernels::IbotBackend::linear_gelu_backward`].
pub(super) fn linear_backward(
    input: LinearBackwardInput<Gpu>,
    before_gelu: Option<Tensor<Gpu, 2>>,
) -> LinearGradients<Gpu> {
    let [rows, inputs] = input.x.dims();
    let [_, outputs] = input.weight.dims();
    if rows * inputs * outputs == 0 {
        return match before_gelu {
            Some(before) => linear::linear_gelu_backward(input, before),
            None => linear::linear_backward(input),
        };
    }
    let d_y = contiguous(input.d_y);
    let d_x = input.wants_x.then(|| d_x(&d_y, input.weight, before_gelu));
    if !input.wants_weight || rows > MAX_TERMS {
        let d_y: Tensor<Gpu, 2> = tensor(d_y);
        let weight = || in_pieces(Layout::LeftTransposed, input.x, d_y.clone());
        return LinearGradients {
            d_x,
            d_weight: input.wants_weight.then(weight),
            d_bias: input.wants_bias.then(|| Gpu::column_sums(d_y)),
        };
    }
    let x = contiguous(input.x);
    let sizes = [inputs, rows, outputs];
    let product = Product {
        totals: input.wants_bias,
        ..Product::of(Layout::LeftTransposed, sizes, &x, &d_y)
    };
    let (d_weight, d_bias) = product.run();
    LinearGradients {
        d_x,
        d_weight: Some(tensor(d_weight)),
        d_bias: d_bias.map(tensor),
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
