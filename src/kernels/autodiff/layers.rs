//! Linear layers and checkpointed branches on burn's autodiff backend: one node each.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorMetadata as _};
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops};

use crate::kernels::autodiff::primitive::{
    Kept, Tracked, node, optional, primitive, register, untracked,
};
use crate::kernels::autodiff::watch::count_use;
use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::branch;
use crate::kernels::ops::branch::{BranchInput, residual_branch};
use crate::kernels::ops::linear::{Activated, LinearLayerInput, Prologue};
use crate::kernels::ops::rounding::as_dtype;
use crate::kernels::wrap::wrap;

/// A linear layer without its residual on the inner backend; and its input, its norm's scale and shift, its weight and its
/// bias, for their nodes.
fn linear_parents<B: Backend, C: CheckpointStrategy>(
    input: LinearLayerInput<Autodiff<B, C>>,
) -> (LinearLayerInput<B>, [Tracked<B, C>; 5]) {
    let device = input.x.device();
    let (x, weight) = (primitive(input.x), primitive(input.weight));
    let (inner_bias, bias) = optional(input.bias, &device);
    let none = || optional::<B, C, 1>(None, &device).1;
    let (prologue, [scale, shift]) = match input.prologue {
        Prologue::Nothing => (Prologue::Nothing, [none(), none()]),
        Prologue::Gelu { ready } => {
            let ready = ready.map(Tensor::inner);
            (Prologue::Gelu { ready }, [none(), none()])
        }
        Prologue::LayerNorm { weight, bias, eps } => {
            let (weight, bias) = (primitive(weight), primitive(bias));
            let prologue = Prologue::LayerNorm {
                weight: wrap(weight.primitive.clone()),
                bias: wrap(bias.primitive.clone()),
                eps,
            };
            (prologue, [weight, bias])
        }
    };
    let inner = LinearLayerInput {
        x: wrap(x.primitive.clone()),
        prologue,
        weight: wrap(weight.primitive.clone()),
        bias: inner_bias,
        residual: None,
    };
    (inner, [x, scale, shift, weight, bias])
}

#[derive(Debug)]
struct Linear {
    /// Entries of the residual, and of its gradient.
    residual: DType,
}

impl<B: IbotBackend> Backward<B, 6> for Linear {
    /// The input, without the residual.
    type State = Kept<LinearLayerInput<B>>;

    fn backward(
        self,
        ops: Ops<Self::State, 6>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_y = grads.consume::<B>(&ops.node);
        // what others have found by the same rows: the backward body adds to it in its own pass
        let past = ops.parents[0].as_ref().and_then(|x| {
            let mut of_x = untracked::<B>(&d_y);
            of_x.node = Arc::clone(x);
            grads.remove::<B>(&of_x).map(wrap)
        });
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        let [x, norm_weight, norm_bias, weight, bias, residual] = parents;
        let (of_y, wants_x) = (wrap(d_y.clone()), x.is_some());
        let body = |input| B::linear_layer_backward(input, of_y, wants_x, past);
        let found = ops.state.backward(body);
        let [d_scale, d_shift] = found.d_norm;
        register::<B, 2>(grads, x, found.d_x);
        register::<B, 1>(grads, norm_weight, d_scale);
        register::<B, 1>(grads, norm_bias, d_shift);
        register::<B, 2>(grads, weight, found.d_weight);
        register::<B, 1>(grads, bias, found.d_bias);
        let d_residual = residual.map(|_| as_dtype(wrap(d_y), self.residual));
        register::<B, 2>(grads, residual, d_residual);
    }
}

#[derive(Debug)]
struct Branch;

impl<B: IbotBackend> Backward<B, 8> for Branch {
    /// The input.
    type State = Kept<BranchInput<B>>;

    fn backward(
        self,
        ops: Ops<Self::State, 8>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_y = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        let [
            x,
            norm_weight,
            norm_bias,
            first_weight,
            first_bias,
            weight,
            bias,
            gamma,
        ] = parents;
        let found = ops
            .state
            .backward(|input| branch::backward(input, wrap(d_y)));
        let [d_scale, d_shift] = found.first.d_norm;
        register::<B, 2>(grads, x, Some(found.d_x));
        register::<B, 1>(grads, norm_weight, d_scale);
        register::<B, 1>(grads, norm_bias, d_shift);
        register::<B, 2>(grads, first_weight, found.first.d_weight);
        register::<B, 1>(grads, first_bias, found.first.d_bias);
        register::<B, 2>(grads, weight, found.second.d_weight);
        register::<B, 1>(grads, bias, found.second.d_bias);
        register::<B, 1>(grads, gamma, found.d_gamma);
    }
}

/// See [`IbotBackend::linear_layer`].
pub(super) fn linear_layer<B: IbotBackend, C: CheckpointStrategy>(
    input: LinearLayerInput<Autodiff<B, C>>,
) -> Tensor<Autodiff<B, C>, 2> {
    let device = input.x.device();
    let (inner_residual, residual) = optional(input.residual.clone(), &device);
    let (inner, [x, scale, shift, weight, bias]) = linear_parents(input);
    let y = B::linear_layer(LinearLayerInput {
        residual: inner_residual,
        ..inner.clone()
    });
    tracked(inner, [x, scale, shift, weight, bias, residual], y)
}

/// See [`IbotBackend::linear_layer_gelu`].
pub(super) fn linear_layer_gelu<B: IbotBackend, C: CheckpointStrategy>(
    input: LinearLayerInput<Autodiff<B, C>>,
) -> Activated<Autodiff<B, C>> {
    let device = input.x.device();
    let (inner_residual, residual) = optional(input.residual.clone(), &device);
    let (inner, [x, scale, shift, weight, bias]) = linear_parents(input);
    let [before, after] = B::linear_layer_and_gelu(LinearLayerInput {
        residual: inner_residual,
        ..inner.clone()
    });
    let parents = [x, scale, shift, weight, bias, residual];
    Activated {
        before: Some(tracked(inner, parents, before)),
        after: Tensor::from_inner(after),
    }
}

/// The layer's result as a node of the graph.
fn tracked<B: IbotBackend, C: CheckpointStrategy>(
    mut layer: LinearLayerInput<B>,
    parents: [Tracked<B, C>; 6],
    y: Tensor<B, 2>,
) -> Tensor<Autodiff<B, C>, 2> {
    // backward makes it again: kept, it would take as much memory as what it is made of
    if let Prologue::Gelu { ready } = &mut layer.prologue {
        *ready = None;
    }
    let linear = Linear {
        residual: parents[5].dtype(),
    };
    count_use::<B, C>(&parents);
    let nodes = parents.map(|parent| parent.node);
    node(linear.prepare(nodes), Kept::new(layer), y)
}

/// See [`IbotBackend::checkpointed_branch`].
pub(super) fn checkpointed_branch<B: IbotBackend, C: CheckpointStrategy>(
    input: BranchInput<Autodiff<B, C>>,
) -> Tensor<Autodiff<B, C>, 2> {
    let device = input.weight.device();
    let weight = primitive(input.weight);
    let (inner_bias, bias) = optional(input.bias, &device);
    let (inner_gamma, gamma) = optional(input.gamma, &device);
    let (first, [x, scale, shift, first_weight, first_bias]) = linear_parents(input.first);
    let inner = BranchInput::<B> {
        first,
        kind: input.kind,
        weight: wrap(weight.primitive.clone()),
        bias: inner_bias,
        gamma: inner_gamma,
        keep: input.keep.map(Tensor::inner),
        rows: input.rows,
    };
    let y = residual_branch(inner.clone());
    let parents = [
        x,
        scale,
        shift,
        first_weight,
        first_bias,
        weight,
        bias,
        gamma,
    ];
    count_use::<B, C>(&parents);
    let nodes = parents.map(|parent| parent.node);
    node(Branch.prepare(nodes), Kept::new(inner), y)
}
