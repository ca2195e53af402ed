//! Launches of `shaders/matrix_product/`: every product of matrices that training and inference run on wgpu.
//!
//! burn's own products do not fit most GPUs: without `autotune` they ask for 40 960 bytes of workgroup memory wherever
//! subgroups have 32 lanes, and Metal and DX12 have 32 768 (burn issues 4530 and 4966).

use burn::tensor::Tensor;

use super::launch::{GpuTensor, contiguous, empty, launch, tensor};
use super::matrix_tiles::{After, BLOCK, MAX_TERMS, Variant, Way};
use crate::kernels::backend::{Gpu, IbotBackend};
use crate::kernels::ops::linear::{
    LinearBackwardInput, LinearGradients, LinearInput, LinearLayerInput,
};
use crate::kernels::ops::product::Layout;
use crate::kernels::ops::{linear, product};

/// `count` products of `[R, T]` and `[T, C]`, and how they lie.
struct Product<'a> {
    layout: Layout,
    count: usize,
    rows: usize,
    columns: usize,
    depth: usize,
    left: &'a GpuTensor,
    right: &'a GpuTensor,
    bias: Option<GpuTensor>,
    gelu: bool,
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
            count: 1,
            rows,
            columns,
            depth,
            left,
            right,
            bias: None,
            gelu: false,
            residual: None,
            totals: false,
        }
    }

    fn variant(&self) -> Variant {
        let widths = match self.layout {
            Layout::LeftTransposed => [self.rows, self.columns],
            _ => [self.depth, self.columns],
        };
        Variant {
            layout: self.layout,
            vectors: widths.iter().all(|width| width.is_multiple_of(BLOCK)),
            after: After {
                bias: self.bias.is_some(),
                gelu: self.gelu,
                residual: self.residual.is_some(),
                totals: self.totals,
            },
        }
    }

    /// `[N, R, C]`, and the sums of right's columns, `[C]`, where they are asked for. All sizes >= 1.
    fn run(&self) -> (GpuTensor, Option<GpuTensor>) {
        let client = &self.left.client;
        let out = empty(self.left, [self.count * self.rows, self.columns]);
        let totals = self.totals.then(|| empty(self.left, [self.columns]));
        let mut tensors = vec![self.left, self.right, &out];
        tensors.extend(self.bias.as_ref());
        tensors.extend(self.residual.as_ref());
        tensors.extend(totals.as_ref());
        let way = Way::choose(client, self.count, self.rows, self.columns);
        let info = [self.rows, self.columns, self.depth, self.count].map(|size| size as u32);
        launch(
            client,
            self.variant().kernel(way),
            way.groups(self.count, self.rows, self.columns),
            &tensors,
            &info,
        );
        (out, totals)
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

/// See [`crate::kernels::IbotBackend::linear_rows_backward`].
pub(super) fn linear_backward(input: LinearBackwardInput<Gpu>) -> LinearGradients<Gpu> {
    let [rows, inputs] = input.x.dims();
    let [_, outputs] = input.weight.dims();
    if rows * inputs * outputs == 0 {
        return linear::linear_backward(input);
    }
    let d_y = contiguous(input.d_y);
    let d_x = input.wants_x.then(|| {
        if outputs > MAX_TERMS {
            return in_pieces(Layout::RightTransposed, tensor(d_y.clone()), input.weight);
        }
        let weight = contiguous(input.weight);
        let sizes = [rows, outputs, inputs];
        let product = Product::of(Layout::RightTransposed, sizes, &d_y, &weight);
        tensor(product.run().0)
    });
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
    let product = Product {
        count,
        ..Product::of(layout, [rows, depth, columns], &left, &right)
    };
    tensor::<2>(product.run().0).reshape([count, rows, columns])
}
