//! A residual branch of a transformer block: norm, linear layer, attention or GELU, linear layer; and the same as one
//! operation that keeps its input alone (activation checkpointing, arXiv 1604.06174).

use burn::module::Param;
use burn::nn;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::attention::{AttentionInput, AttentionOutput};
use crate::kernels::ops::linear;
use crate::kernels::ops::linear::{LinearLayerInput, Prologue};
use crate::kernels::ops::product::RowIndices;
use crate::kernels::ops::rounding::as_dtype;

/// What stands between the two linear layers of a branch.
#[derive(Debug, Clone, Copy)]
pub enum BranchKind {
    /// Self-attention.
    Attention {
        /// Number B of images.
        batch: usize,
        /// Number H of heads.
        heads: usize,
    },
    /// Exact GELU.
    Mlp,
}

/// The first half of a branch: a linear layer, and what its result goes through.
#[derive(Debug, Clone)]
pub struct Hidden<B: Backend> {
    first: LinearLayerInput<B>,
    kind: BranchKind,
}

impl<B: Backend> LinearLayerInput<B> {
    /// This layer's queries, keys and values through self-attention.
    ///
    /// # Shapes
    /// `[B T, 3 D]` -> `[B T, D]`.
    pub fn attention(self, batch: usize, heads: usize) -> Hidden<B> {
        let kind = BranchKind::Attention { batch, heads };
        Hidden { first: self, kind }
    }

    /// This layer's result through exact GELU.
    pub fn gelu(self) -> Hidden<B> {
        let kind = BranchKind::Mlp;
        Hidden { first: self, kind }
    }
}

impl<B: Backend> Hidden<B> {
    /// The whole branch, with its second layer.
    pub fn linear(self, layer: &nn::Linear<B>) -> BranchInput<B> {
        BranchInput {
            first: self.first,
            kind: self.kind,
            weight: layer.weight.val(),
            bias: layer.bias.as_ref().map(Param::val),
            gamma: None,
            keep: None,
            rows: None,
        }
    }
}

/// What [`residual_branch`] takes.
#[derive(Debug, Clone)]
pub struct BranchInput<B: Backend> {
    /// The tokens, `[B T, D]`, and the first layer with its norm; without a residual.
    pub first: LinearLayerInput<B>,
    /// What its result goes through.
    pub kind: BranchKind,
    /// Weight of the second layer, `[I, D]`.
    pub weight: Tensor<B, 2>,
    /// Its bias, `[D]`.
    pub bias: Option<Tensor<B, 1>>,
    /// LayerScale, `[D]`.
    pub gamma: Option<Tensor<B, 1>>,
    /// Stochastic depth: each image's factor, `[B, 1, 1]`; with `rows` each row's, `[M, 1, 1]`.
    pub keep: Option<Tensor<B, 3>>,
    /// Only for attention: the M of B T tokens to compute after it, which still sees all of them. `None` for all.
    pub rows: Option<RowIndices>,
}

/// Gradients of [`BranchInput`]; that of `keep` is never asked for.
pub(in crate::kernels) struct BranchGradients<B: Backend> {
    pub first: linear::LinearLayerGradients<B>,
    pub second: linear::LinearLayerGradients<B>,
    pub d_gamma: Option<Tensor<B, 1>>,
    /// By the tokens, through the branch and past it, `[B T, D]`.
    pub d_x: Tensor<B, 2>,
}

impl<B: Backend> BranchInput<B> {
    /// With each channel times `gamma`, `[D]` (arXiv 2103.17239).
    pub fn layer_scale(self, gamma: Option<Tensor<B, 1>>) -> Self {
        Self { gamma, ..self }
    }

    /// With each image times `keep`, `[B, 1, 1]` (arXiv 1603.09382).
    pub fn drop_path(self, keep: Option<Tensor<B, 3>>) -> Self {
        Self { keep, ..self }
    }

    /// Computes only these tokens after the attention.
    pub fn at_rows(self, rows: Option<&RowIndices>) -> Self {
        let rows = rows.cloned();
        Self { rows, ..self }
    }

    /// The same branch with LayerScale as part of weight and bias.
    fn scaled_weights(mut self) -> Self {
        if let Some(gamma) = self.gamma.take() {
            self.weight = self.weight * gamma.clone().unsqueeze_dim(0);
            self.bias = self.bias.map(|bias| bias * gamma);
        }
        self
    }

    fn second(&self, x: Tensor<B, 2>, prologue: Prologue<B>) -> LinearLayerInput<B> {
        LinearLayerInput {
            x,
            prologue,
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            residual: None,
        }
    }
}

/// The attention of a branch, with what its backward needs.
type Attended<B> = Option<(AttentionInput<B>, AttentionOutput<B>)>;

impl<B: IbotBackend> BranchInput<B> {
    /// The rows of `tokens` that are computed after the attention.
    fn chosen(&self, tokens: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.rows {
            Some(rows) => B::gather_rows(tokens, rows),
            None => tokens,
        }
    }

    /// The second layer with its input.
    fn to_second(&self) -> (LinearLayerInput<B>, Attended<B>) {
        let x = B::linear_layer(self.first.clone());
        match self.kind {
            BranchKind::Attention { batch, heads } => {
                let input = AttentionInput {
                    qkv: x,
                    batch,
                    heads,
                    queries: self.rows.clone(),
                };
                let output = B::packed_attention(input.clone());
                let context = self.chosen(output.context.clone());
                let second = self.second(context, Prologue::Nothing);
                (second, Some((input, output)))
            }
            BranchKind::Mlp => (self.second(x, Prologue::Gelu { ready: None }), None),
        }
    }

    /// The branch with LayerScale in its weights and without stochastic depth, plus `residual`.
    fn forward(self, residual: Option<Tensor<B, 2>>) -> Tensor<B, 2> {
        let second = match self.kind {
            BranchKind::Attention { .. } => self.to_second().0,
            BranchKind::Mlp => {
                let (x, prologue) = B::linear_layer_gelu(self.first.clone()).rows();
                self.second(x, prologue)
            }
        };
        B::linear_layer(LinearLayerInput { residual, ..second })
    }
}

/// Tokens plus a branch of them; where nothing drops the branch, its last layer adds them. LayerScale stands in that layer's
/// weight and bias, of which each column is a channel: a product of weights costs less than one of tokens.
///
/// # Shapes
/// -> `[B T, D]`, or `[M, D]` with [`BranchInput::rows`].
pub fn residual_branch<B: IbotBackend>(input: BranchInput<B>) -> Tensor<B, 2> {
    let x = input.chosen(input.first.x.clone());
    let mut input = input.scaled_weights();
    match input.keep.take() {
        None => input.forward(Some(x)),
        keep => x + apply_drop_path(input.forward(None), keep),
    }
}

pub(in crate::kernels) fn backward<B: IbotBackend>(
    input: BranchInput<B>,
    d_y: Tensor<B, 2>,
) -> BranchGradients<B> {
    let BranchInput {
        gamma,
        weight,
        bias,
        keep,
        rows,
        ..
    } = input.clone();
    let first = input.first.clone();
    let (second, attended) = input.scaled_weights().to_second();
    let mut second =
        B::linear_layer_backward(second, apply_drop_path(d_y.clone(), keep), true, None);
    let d_gamma = gamma.map(|gamma| by_layer_scale(&mut second, &gamma, &weight, bias));
    // the other tokens have no gradient from here
    let to_all = |d_rows: Tensor<B, 2>| match &rows {
        Some(rows) => B::scatter_rows(d_rows, rows),
        None => d_rows,
    };
    let d_middle = second.d_x.take().map(|d_x| match attended {
        Some((input, output)) => B::packed_attention_backward(input, output, to_all(d_x)),
        None => d_x,
    });
    // both layers were asked for the gradient of their input
    let d_middle = d_middle.unwrap_or_else(|| d_y.clone());
    let past = to_all(d_y);
    let mut first = B::linear_layer_backward(first, d_middle, true, Some(past.clone()));
    let d_x = first.d_x.take().unwrap_or(past); // asked for
    BranchGradients {
        first,
        second,
        d_gamma,
        d_x,
    }
}

/// The gradient with respect to LayerScale; those of a layer with [`BranchInput::scaled_weights`] become those by weight and bias themselves.
fn by_layer_scale<B: IbotBackend>(
    found: &mut linear::LinearLayerGradients<B>,
    gamma: &Tensor<B, 1>,
    weight: &Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 1> {
    let mut d_gamma = gamma.zeros_like();
    if let Some(d_scaled) = found.d_weight.take() {
        d_gamma = d_gamma + B::column_sums(d_scaled.clone() * weight.clone());
        found.d_weight = Some(d_scaled * gamma.clone().unsqueeze_dim(0));
    }
    if let Some((d_scaled, bias)) = found.d_bias.take().zip(bias) {
        d_gamma = d_gamma + d_scaled.clone() * bias;
        found.d_bias = Some(d_scaled * gamma.clone());
    }
    d_gamma
}

fn apply_drop_path<B: Backend>(branch: Tensor<B, 2>, keep: Option<Tensor<B, 3>>) -> Tensor<B, 2> {
    let Some(keep) = keep else {
        return branch;
    };
    let [rows, width] = branch.dims();
    let batch = keep.dims()[0];
    let keep = as_dtype(keep, branch.dtype());
    let by_image = branch.reshape([batch, rows / batch, width]) * keep;
    by_image.reshape([rows, width])
}
