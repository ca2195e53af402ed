//! Linear layers with what stands before and after them, as one operation that keeps nothing but its input.

use burn::nn;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::layer_norm::LayerNormInput;
use crate::kernels::ops::product::Layout;
use crate::kernels::ops::rounding::{as_stored, operand};

/// What the rows go through before the product. Backward computes it again, which is cheap, instead of keeping it.
#[derive(Debug, Clone)]
pub enum Prologue<B: Backend> {
    /// Nothing.
    Nothing,
    /// Exact GELU of each entry.
    Gelu {
        /// What it gives, `[R, I]`, where that was made together with the rows; a graph does not keep it.
        ready: Option<Tensor<B, 2>>,
    },
    /// Layer norm of each row.
    LayerNorm {
        /// Scale, `[I]`.
        weight: Tensor<B, 1>,
        /// Shift, `[I]`.
        bias: Tensor<B, 1>,
        /// Added to the variance.
        eps: f64,
    },
}

/// What [`IbotBackend::linear_layer`] takes.
#[derive(Debug, Clone)]
pub struct LinearLayerInput<B: Backend> {
    /// `[R, I]`.
    pub x: Tensor<B, 2>,
    /// What the rows go through first.
    pub prologue: Prologue<B>,
    /// `[I, O]`.
    pub weight: Tensor<B, 2>,
    /// `[O]`.
    pub bias: Option<Tensor<B, 1>>,
    /// Added to the result, `[R, O]`.
    pub residual: Option<Tensor<B, 2>>,
}

/// Rows of a linear layer that went through exact GELU.
#[derive(Debug, Clone)]
pub struct Activated<B: Backend> {
    /// The rows before, `[R, O]`, where backward needs them; differentiable.
    pub before: Option<Tensor<B, 2>>,
    /// The rows, `[R, O]`; differentiable only through `before`.
    pub after: Tensor<B, 2>,
}

impl<B: Backend> Activated<B> {
    /// The rows as the next layer takes them.
    pub fn rows(self) -> (Tensor<B, 2>, Prologue<B>) {
        match self.before {
            Some(before) => {
                let ready = Some(self.after);
                (before, Prologue::Gelu { ready })
            }
            None => (self.after, Prologue::Nothing),
        }
    }
}

/// Rows on their way into a linear layer, which normalizes them first.
#[derive(Debug, Clone)]
pub struct Normed<B: Backend> {
    /// `[R, I]`.
    pub x: Tensor<B, 2>,
    /// What the layer does to them.
    pub prologue: Prologue<B>,
}

impl<B: Backend> Normed<B> {
    /// The rows through a layer.
    pub fn linear(self, layer: &nn::Linear<B>) -> LinearLayerInput<B> {
        LinearLayerInput {
            prologue: self.prologue,
            ..LinearLayerInput::new(self.x, layer)
        }
    }
}

impl<B: Backend> LinearLayerInput<B> {
    /// `x` through a layer.
    pub fn new(x: Tensor<B, 2>, layer: &nn::Linear<B>) -> Self {
        Self {
            x,
            prologue: Prologue::Nothing,
            weight: layer.weight.val(),
            bias: layer.bias.as_ref().map(burn::module::Param::val),
            residual: None,
        }
    }
}

/// What [`IbotBackend::linear_rows`] takes.
#[derive(Debug, Clone)]
pub struct LinearInput<B: Backend> {
    /// `[R, I]`.
    pub x: Tensor<B, 2>,
    /// `[I, O]`.
    pub weight: Tensor<B, 2>,
    /// `[O]`.
    pub bias: Option<Tensor<B, 1>>,
    /// Added to the result, `[R, O]`.
    pub residual: Option<Tensor<B, 2>>,
}

/// What [`IbotBackend::linear_rows_backward`] takes.
#[derive(Debug, Clone)]
pub struct LinearBackwardInput<B: Backend> {
    /// `[R, I]`.
    pub x: Tensor<B, 2>,
    /// `[I, O]`.
    pub weight: Tensor<B, 2>,
    /// `[R, O]`.
    pub d_y: Tensor<B, 2>,
    /// Whether the gradient of `x` is asked for.
    pub wants_x: bool,
    /// Whether that of the weight is.
    pub wants_weight: bool,
    /// Whether that of the bias is.
    pub wants_bias: bool,
}

/// Gradients of [`LinearInput`]; that of the residual is `d_y` itself.
#[derive(Debug, Clone)]
pub struct LinearGradients<B: Backend> {
    /// `[R, I]`.
    pub d_x: Option<Tensor<B, 2>>,
    /// `[I, O]`.
    pub d_weight: Option<Tensor<B, 2>>,
    /// `[O]`.
    pub d_bias: Option<Tensor<B, 1>>,
}

/// Gradients of [`LinearLayerInput`]; that of the residual is `d_y` itself.
#[derive(Debug, Clone)]
pub struct LinearLayerGradients<B: Backend> {
    /// `[R, I]`.
    pub d_x: Option<Tensor<B, 2>>,
    /// Of the layer norm's scale and shift, where there is one, `[I]`.
    pub d_norm: [Option<Tensor<B, 1>>; 2],
    /// `[I, O]`.
    pub d_weight: Option<Tensor<B, 2>>,
    /// `[O]`.
    pub d_bias: Option<Tensor<B, 1>>,
}

impl<B: IbotBackend> Prologue<B> {
    pub(in crate::kernels) fn apply(self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match self {
            Self::Nothing => x,
            Self::Gelu { ready } => ready.unwrap_or_else(|| as_stored(B::exact_gelu(x))),
            Self::LayerNorm { weight, bias, eps } => {
                as_stored(B::layer_norm_rows(LayerNormInput {
                    x,
                    weight,
                    bias,
                    eps,
                }))
            }
        }
    }
}

pub(in crate::kernels) fn forward<B: IbotBackend>(input: LinearLayerInput<B>) -> Tensor<B, 2> {
    as_stored(B::linear_rows(LinearInput {
        x: input.prologue.apply(input.x),
        weight: input.weight,
        bias: input.bias,
        residual: input.residual,
    }))
}

/// See [`IbotBackend::linear_layer_gelu`].
pub(in crate::kernels) fn activated<B: IbotBackend>(input: LinearLayerInput<B>) -> Activated<B> {
    Activated {
        before: None,
        after: as_stored(B::exact_gelu(B::linear_layer(input))),
    }
}

/// See [`IbotBackend::linear_layer_and_gelu`].
pub(in crate::kernels) fn before_and_activated<B: IbotBackend>(
    input: LinearLayerInput<B>,
) -> [Tensor<B, 2>; 2] {
    let before = B::linear_layer(input);
    [before.clone(), as_stored(B::exact_gelu(before))]
}

/// See [`IbotBackend::linear_layer_backward`].
pub(in crate::kernels) fn backward<B: IbotBackend>(
    input: LinearLayerInput<B>,
    d_y: Tensor<B, 2>,
    wants_x: bool,
    past: Option<Tensor<B, 2>>,
) -> LinearLayerGradients<B> {
    let LinearLayerInput { x, prologue, .. } = input;
    let of_rows = |x, wants_x| LinearBackwardInput {
        x,
        weight: input.weight,
        d_y,
        wants_x,
        wants_weight: true,
        wants_bias: input.bias.is_some(),
    };
    let (found, d_norm) = match prologue {
        Prologue::Nothing => (B::linear_rows_backward(of_rows(x, wants_x)), [None, None]),
        Prologue::Gelu { .. } => (B::linear_gelu_backward(of_rows(x, wants_x)), [None, None]),
        Prologue::LayerNorm { weight, bias, eps } => {
            let norm = LayerNormInput {
                x,
                weight,
                bias,
                eps,
            };
            let mut found =
                B::linear_rows_backward(of_rows(as_stored(B::layer_norm_rows(norm.clone())), true));
            let mut d_norm = [None, None];
            if let Some(d_normed) = found.d_x.take() {
                let of_norm = B::layer_norm_rows_backward(norm, as_stored(d_normed));
                found.d_x = Some(of_norm.d_x);
                d_norm = [Some(of_norm.d_weight), Some(of_norm.d_bias)];
            }
            (found, d_norm)
        }
    };
    let d_x = match (found.d_x, past) {
        (Some(d_x), Some(past)) => Some(d_x + past),
        (d_x, past) => d_x.or(past),
    };
    LinearLayerGradients {
        d_x: d_x.map(as_stored),
        d_norm,
        d_weight: found.d_weight,
        d_bias: found.d_bias,
    }
}

impl<B: IbotBackend> LinearInput<B> {
    /// With operands of the current precision.
    pub(in crate::kernels) fn rounded(self) -> Self {
        Self {
            x: operand(self.x),
            weight: operand(self.weight),
            ..self
        }
    }
}

impl<B: IbotBackend> LinearBackwardInput<B> {
    /// With operands of the current precision.
    pub(in crate::kernels) fn rounded(self) -> Self {
        Self {
            x: operand(self.x),
            weight: operand(self.weight),
            d_y: operand(self.d_y),
            ..self
        }
    }
}

/// `x weight + bias + residual`.
pub fn linear<B: IbotBackend>(input: LinearInput<B>) -> Tensor<B, 2> {
    let input = input.rounded();
    let mut y = product(input.x, input.weight, Layout::Plain);
    if let Some(bias) = input.bias {
        y = y + bias.unsqueeze_dim(0);
    }
    match input.residual {
        Some(residual) => y + residual,
        None => y,
    }
}

/// Gradients of [`linear`].
pub fn linear_backward<B: IbotBackend>(input: LinearBackwardInput<B>) -> LinearGradients<B> {
    // of tokens, which bf16 does not round
    let d_bias = input
        .wants_bias
        .then(|| B::column_sums(as_stored(input.d_y.clone())));
    let input = input.rounded();
    let LinearBackwardInput { x, weight, d_y, .. } = input;
    LinearGradients {
        d_x: input
            .wants_x
            .then(|| product(d_y.clone(), weight, Layout::RightTransposed)),
        d_bias,
        d_weight: (input.wants_weight).then(|| product(x, d_y, Layout::LeftTransposed)),
    }
}

/// One of [`IbotBackend::matrix_products`].
fn product<B: IbotBackend>(
    left: Tensor<B, 2>,
    right: Tensor<B, 2>,
    layout: Layout,
) -> Tensor<B, 2> {
    B::matrix_products(left.unsqueeze(), right.unsqueeze(), layout).squeeze_dim(0)
}

/// See [`IbotBackend::linear_gelu_backward`].
pub(in crate::kernels) fn linear_gelu_backward<B: IbotBackend>(
    input: LinearBackwardInput<B>,
) -> LinearGradients<B> {
    let before = input.x.clone();
    let found = B::linear_rows_backward(LinearBackwardInput {
        x: as_stored(B::exact_gelu(input.x)),
        ..input
    });
    let d_x = found
        .d_x
        .map(|d_x| B::exact_gelu_backward(before, as_stored(d_x)));
    LinearGradients { d_x, ..found }
}
