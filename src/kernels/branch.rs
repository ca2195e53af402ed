//! A residual branch of a transformer block: norm, linear layer, attention or GELU, linear layer; and the same as one
//! operation that keeps its input alone (activation checkpointing, arXiv 1604.06174).

use burn::nn;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{AttentionInput, AttentionOutput, Before, IbotBackend, LinearInput, linear};

/// What stands between the two linear layers of a branch.
#[derive(Debug, Clone, Copy)]
pub enum Middle {
    /// Self-attention.
    Attention {
        /// Number B of images.
        batch: usize,
        /// Number H of heads.
        heads: usize,
    },
    /// Exact GELU.
    Gelu,
}

/// What [`residual_branch`] takes.
#[derive(Debug, Clone)]
pub struct BranchInput<B: Backend> {
    /// The tokens, `[B T, D]`, and the first layer with its norm; without a residual.
    pub first: LinearInput<B>,
    /// What its result goes through.
    pub middle: Middle,
    /// Weight of the second layer, `[I, D]`.
    pub weight: Tensor<B, 2>,
    /// Its bias, `[D]`.
    pub bias: Option<Tensor<B, 1>>,
    /// LayerScale, `[D]`.
    pub gamma: Option<Tensor<B, 1>>,
    /// Stochastic depth: each image's factor, `[B, 1, 1]`.
    pub keep: Option<Tensor<B, 3>>,
}

/// Gradients of [`BranchInput`]; that of `keep` is never asked for.
pub(super) struct BranchGradients<B: Backend> {
    pub first: linear::LinearGradients<B>,
    pub second: linear::LinearGradients<B>,
    pub d_gamma: Option<Tensor<B, 1>>,
    /// By the tokens, through the branch and past it, `[B T, D]`.
    pub d_x: Tensor<B, 2>,
}

impl<B: Backend> BranchInput<B> {
    /// From one layer to the other, without LayerScale and stochastic depth.
    pub fn of(first: LinearInput<B>, middle: Middle, second: &nn::Linear<B>) -> Self {
        let second = LinearInput::of(first.x.clone(), second);
        Self {
            first,
            middle,
            weight: second.weight,
            bias: second.bias,
            gamma: None,
            keep: None,
        }
    }

    fn second(&self, x: Tensor<B, 2>, before: Before<B>) -> LinearInput<B> {
        LinearInput {
            x,
            before,
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            residual: None,
        }
    }
}

/// The attention of a branch, with what its backward needs.
type Attended<B> = Option<(AttentionInput<B>, AttentionOutput<B>)>;

impl<B: IbotBackend> BranchInput<B> {
    /// The second layer with its input.
    fn to_second(&self) -> (LinearInput<B>, Attended<B>) {
        let x = B::linear_layer(self.first.clone());
        match self.middle {
            Middle::Attention { batch, heads } => {
                let input = AttentionInput {
                    qkv: x,
                    batch,
                    heads,
                };
                let output = B::packed_attention(input.clone());
                let second = self.second(output.mixed.clone(), Before::Nothing);
                (second, Some((input, output)))
            }
            Middle::Gelu => (self.second(x, Before::Gelu), None),
        }
    }
}

impl<B: IbotBackend> BranchInput<B> {
    /// The branch without LayerScale and stochastic depth, plus `residual`.
    fn forward(self, residual: Option<Tensor<B, 2>>) -> Tensor<B, 2> {
        if let Middle::Gelu = self.middle {
            let second = self.second(self.first.x.clone(), Before::Gelu);
            return B::mlp(self.first, LinearInput { residual, ..second });
        }
        let (second, _) = self.to_second();
        B::linear_layer(LinearInput { residual, ..second })
    }
}

/// Tokens plus a branch of them; where nothing scales or drops the branch, its last layer adds them.
///
/// # Shapes
/// -> `[B T, D]`.
pub fn residual_branch<B: IbotBackend>(input: BranchInput<B>) -> Tensor<B, 2> {
    let x = input.first.x.clone();
    let BranchInput { gamma, keep, .. } = &input;
    if gamma.is_none() && keep.is_none() {
        return input.forward(Some(x));
    }
    let (gamma, keep) = (gamma.clone(), keep.clone());
    x + kept(scaled(input.forward(None), gamma), keep)
}

pub(super) fn backward<B: IbotBackend>(
    input: BranchInput<B>,
    d_y: Tensor<B, 2>,
) -> BranchGradients<B> {
    let (second, attended) = input.to_second();
    let d_kept = kept(d_y.clone(), input.keep);
    let d_gamma = input.gamma.is_some().then(|| {
        let by_entry = d_kept.clone() * B::linear_layer(second.clone());
        B::column_sums(by_entry)
    });
    let mut second = linear::backward(second, scaled(d_kept, input.gamma), true);
    let d_middle = second.d_x.take().map(|d_x| match attended {
        Some((input, output)) => B::packed_attention_backward(input, output, d_x),
        None => d_x,
    });
    // both layers were asked for the gradient of their input
    let d_middle = d_middle.unwrap_or_else(|| d_y.clone());
    let mut first = linear::backward(input.first, d_middle, true);
    let d_x = match first.d_x.take() {
        Some(d_x) => d_x + d_y,
        None => d_y,
    };
    BranchGradients {
        first,
        second,
        d_gamma,
        d_x,
    }
}

fn kept<B: Backend>(branch: Tensor<B, 2>, keep: Option<Tensor<B, 3>>) -> Tensor<B, 2> {
    let Some(keep) = keep else {
        return branch;
    };
    let [rows, width] = branch.dims();
    let batch = keep.dims()[0];
    let by_image = branch.reshape([batch, rows / batch, width]) * keep;
    by_image.reshape([rows, width])
}

fn scaled<B: Backend>(branch: Tensor<B, 2>, gamma: Option<Tensor<B, 1>>) -> Tensor<B, 2> {
    match gamma {
        Some(gamma) => branch * gamma.unsqueeze_dim(0),
        None => branch,
    }
}
