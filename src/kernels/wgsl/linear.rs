//! Linear layers and their gradients as products with what comes before and after them.

use burn::tensor::Tensor;

use super::element::{Element, cast, empty_of, rows_as, rows_of, taken};
use super::gelu;
use super::launch::{GpuTensor, contiguous, empty, tensor};
use super::layer_norm;
use super::matrix_plan::MAX_TERMS;
use super::matrix_product::{Parts, Product, Totals, in_pieces};
use crate::kernels::backend::IbotBackend;
use crate::kernels::backends::Gpu;
use crate::kernels::ops::layer_norm::LayerNormInput;
use crate::kernels::ops::linear;
use crate::kernels::ops::linear::{
    LinearBackwardInput, LinearGradients, LinearInput, LinearLayerInput, Prologue,
};
use crate::kernels::ops::product::Layout;
use crate::kernels::ops::rounding::operand;

/// See [`crate::kernels::IbotBackend::linear_layer`].
pub(super) fn layer(layer: LinearLayerInput<Gpu>) -> Tensor<Gpu, 2> {
    affine_then(rows_of_layer(layer), false)
}

/// See [`crate::kernels::IbotBackend::linear_rows`].
pub(super) fn linear(input: LinearInput<Gpu>) -> Tensor<Gpu, 2> {
    affine_then(input, false)
}

/// `x weight + bias`, through GELU where that is asked for, `+ residual`.
fn affine_then(mut input: LinearInput<Gpu>, then_gelu: bool) -> Tensor<Gpu, 2> {
    let [rows, depth] = input.x.dims();
    let [_, columns] = input.weight.dims();
    let kept = Element::current();
    if rows * depth * columns == 0 || depth > MAX_TERMS {
        let x = cast(input.x, Element::F32);
        let residual = input.residual.take();
        let mut y = if depth > MAX_TERMS {
            in_pieces(Layout::Plain, operand(x), operand(input.weight))
        } else {
            linear::linear(LinearInput {
                x,
                weight: input.weight,
                bias: None,
                residual: None,
            })
        };
        if let Some(bias) = input.bias {
            y = y + bias.unsqueeze_dim(0);
        }
        let y = if then_gelu { gelu::forward(y) } else { y };
        let y = match residual {
            Some(residual) => y + cast(residual, Element::F32),
            None => y,
        };
        return cast(y, kept);
    }
    let (left, right) = (taken(input.x), contiguous(input.weight));
    let product = Product {
        operands: kept,
        stored: kept,
        bias: input.bias.map(contiguous),
        gelu: then_gelu,
        residual: input.residual.map(|rows| rows_as(rows, kept)),
        ..Product::of(Layout::Plain, [rows, depth, columns], &left, &right)
    };
    tensor(product.run().0)
}

/// See [`crate::kernels::IbotBackend::linear_layer_gelu`]; GELU is part of the product.
pub(super) fn linear_gelu(layer: LinearLayerInput<Gpu>) -> Tensor<Gpu, 2> {
    affine_then(rows_of_layer(layer), true)
}

/// See [`crate::kernels::IbotBackend::linear_layer_and_gelu`]; the product writes both.
pub(super) fn linear_and_gelu(layer: LinearLayerInput<Gpu>) -> [Tensor<Gpu, 2>; 2] {
    let input = rows_of_layer(layer);
    let [rows, depth] = input.x.dims();
    let [_, columns] = input.weight.dims();
    if rows * depth * columns == 0 || depth > MAX_TERMS || input.residual.is_some() {
        let before = affine_then(input, false);
        return [before.clone(), gelu::forward(before)];
    }
    let kept = Element::current();
    let (left, right) = (taken(input.x), contiguous(input.weight));
    let after = empty_of(kept, &left, [rows, columns]);
    let product = Product {
        operands: kept,
        stored: kept,
        bias: input.bias.map(contiguous),
        activated: Some(after.clone()),
        ..Product::of(Layout::Plain, [rows, depth, columns], &left, &right)
    };
    [product.run().0, after].map(tensor)
}

fn rows_of_layer(layer: LinearLayerInput<Gpu>) -> LinearInput<Gpu> {
    let x = layer.x;
    let x = match layer.prologue {
        Prologue::LayerNorm { weight, bias, eps } => layer_norm::before_layer(LayerNormInput {
            x,
            weight,
            bias,
            eps,
        }),
        other => other.apply(x),
    };
    LinearInput {
        x,
        weight: layer.weight,
        bias: layer.bias,
        residual: layer.residual,
    }
}

/// The gradient with respect to the rows, of these entries; where they are GELU of others, that by the others, and GELU of them. All
/// sizes >= 1.
fn d_x(
    d_y: &GpuTensor,
    weight: Tensor<Gpu, 2>,
    element: Element,
    before_gelu: Option<Tensor<Gpu, 2>>,
) -> (Tensor<Gpu, 2>, Option<Tensor<Gpu, 2>>) {
    let [inputs, outputs] = weight.dims();
    let rows = d_y.meta.shape()[0];
    if outputs > MAX_TERMS {
        let d_y = cast(tensor(d_y.clone()), Element::F32);
        let d_x = in_pieces(Layout::RightTransposed, d_y, operand(weight));
        let d_x = cast(d_x, element);
        return match before_gelu {
            Some(x) => (gelu::backward(x.clone(), d_x), Some(gelu::forward(x))),
            None => (d_x, None),
        };
    }
    let weight = contiguous(weight);
    let sizes = [rows, outputs, inputs];
    let activated = before_gelu.as_ref();
    let activated = activated.map(|_| empty_of(element, d_y, [rows, inputs]));
    let product = Product {
        operands: Element::of(d_y),
        stored: element,
        at_gelu: before_gelu.map(rows_of),
        activated: activated.clone(),
        ..Product::of(Layout::RightTransposed, sizes, d_y, &weight)
    };
    (tensor(product.run().0), activated.map(tensor))
}

/// The gradient with respect to the rows, of these entries, or in parts of f32. All sizes >= 1, not more outputs than [`MAX_TERMS`].
pub(super) fn unfinished_d_x(d_y: &GpuTensor, weight: &GpuTensor, element: Element) -> Parts<()> {
    let [inputs, outputs] = [weight.meta.shape()[0], weight.meta.shape()[1]];
    let sizes = [d_y.meta.shape()[0], outputs, inputs];
    let product = Product {
        operands: Element::of(d_y),
        stored: element,
        ..Product::of(Layout::RightTransposed, sizes, d_y, weight)
    };
    let found = product.in_parts();
    Parts {
        product: found.product,
        totals: (),
        parts: found.parts,
    }
}

/// See [`crate::kernels::IbotBackend::linear_rows_backward`].
pub(super) fn linear_backward(input: LinearBackwardInput<Gpu>) -> LinearGradients<Gpu> {
    let element = Element::of_dtype(input.x.dtype());
    if is_empty(&input) {
        return of_entries(element, linear::linear_backward(in_f32(input)));
    }
    let d_y = rows_as(input.d_y.clone(), Element::current());
    let d_x = input
        .wants_x
        .then(|| d_x(&d_y, input.weight.clone(), element, None).0);
    of_weights(&input, d_x, input.x.clone(), d_y)
}

/// See [`crate::kernels::IbotBackend::linear_gelu_backward`]; the product for the rows makes GELU again as well.
pub(super) fn linear_gelu_backward(input: LinearBackwardInput<Gpu>) -> LinearGradients<Gpu> {
    let element = Element::of_dtype(input.x.dtype());
    if is_empty(&input) {
        return of_entries(element, linear::linear_gelu_backward(in_f32(input)));
    }
    let d_y = rows_as(input.d_y.clone(), Element::current());
    let before = input.x.clone();
    let (d_x, x) = if input.wants_x {
        let (d_x, x) = d_x(&d_y, input.weight.clone(), element, Some(before.clone()));
        (Some(d_x), x)
    } else {
        (None, None)
    };
    let x = x.unwrap_or_else(|| gelu::forward(before));
    of_weights(&input, d_x, x, d_y)
}

/// As tensor operations take it.
fn in_f32(input: LinearBackwardInput<Gpu>) -> LinearBackwardInput<Gpu> {
    LinearBackwardInput {
        x: cast(input.x, Element::F32),
        d_y: cast(input.d_y, Element::F32),
        ..input
    }
}

/// With a gradient with respect to the rows of these entries.
fn of_entries(element: Element, found: LinearGradients<Gpu>) -> LinearGradients<Gpu> {
    LinearGradients {
        d_x: found.d_x.map(|d_x| cast(d_x, element)),
        ..found
    }
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
        let weight = || {
            let x = operand(cast(x, Element::F32));
            in_pieces(Layout::LeftTransposed, x, cast(d_y.clone(), Element::F32))
        };
        return LinearGradients {
            d_x,
            d_weight: input.wants_weight.then(weight),
            d_bias: input.wants_bias.then(|| Gpu::column_sums(d_y)),
        };
    }
    let x = taken(x);
    let totals = input.wants_bias.then_some(Totals::Alone);
    let (d_weight, d_bias) = weight_gradient(&x, &d_y, totals).run();
    LinearGradients {
        d_x,
        d_weight: Some(tensor(d_weight)),
        d_bias: d_bias.map(tensor),
    }
}

/// `x^T d_y`, and the sums of d_y's columns; f32.
fn weight_gradient<'a>(
    x: &'a GpuTensor,
    d_y: &'a GpuTensor,
    totals: Option<Totals>,
) -> Product<'a> {
    let [rows, inputs] = [x.meta.shape()[0], x.meta.shape()[1]];
    let sizes = [inputs, rows, d_y.meta.shape()[1]];
    Product {
        operands: Element::of(d_y),
        totals,
        ..Product::of(Layout::LeftTransposed, sizes, x, d_y)
    }
}

/// `x^T d_y` and the sums of d_y's columns, in parts; behind those of the sums there is room for the whole ones, from a
/// multiple of [`super::launch::SECTION`] entries on. All sizes >= 1, not more rows than [`MAX_TERMS`].
pub(super) fn unfinished_weight_gradient(x: &GpuTensor, d_y: &GpuTensor) -> Parts<GpuTensor> {
    let found = weight_gradient(x, d_y, Some(Totals::Roomy)).in_parts();
    let missing = || empty(x, [0]); // asked for
    Parts {
        product: found.product,
        totals: found.totals.unwrap_or_else(missing),
        parts: found.parts,
    }
}
