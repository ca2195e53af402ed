//! The differentiable operations on burn's autodiff backend: one node each, with the backward bodies of this module
//! instead of a graph of a dozen small operations.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor as AutodiffFloat;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn_autodiff::{Autodiff, NodeId};

use crate::error::Result;

use super::{
    AttentionInput, AttentionOutput, Before, BranchInput, CrossEntropyInput, CrossEntropyOutput,
    IbotBackend, LayerNormInput, LinearInput, StreamedInput, StreamedLogits, branch, linear,
    patchify, residual_branch, streamed, wrap,
};

fn primitive<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
) -> burn::tensor::ops::FloatTensor<B> {
    tensor.into_primitive().tensor()
}

#[derive(Debug)]
struct Patchify;

impl<B: IbotBackend> Backward<B, 1> for Patchify {
    /// Shape of the images, and side of a patch.
    type State = ([usize; 4], usize);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (dims, patch) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |d_patches| {
            primitive(patchify::backward(wrap::<B, 2>(d_patches), dims, patch))
        });
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: IbotBackend> Backward<B, 1> for Gelu {
    /// The input.
    type State = Tensor<B, 2>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let x = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |d_y| {
            primitive(B::exact_gelu_backward(x, wrap(d_y)))
        });
    }
}

#[derive(Debug)]
struct LayerNorm;

impl<B: IbotBackend> Backward<B, 3> for LayerNorm {
    /// The input.
    type State = LayerNormInput<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_y = grads.consume::<B>(&ops.node);
        let found = B::layer_norm_rows_backward(ops.state, wrap(d_y));
        let [x, weight, bias] = ops.parents;
        if let Some(parent) = x {
            grads.register::<B>(parent.id, primitive(found.d_x));
        }
        if let Some(parent) = weight {
            grads.register::<B>(parent.id, primitive(found.d_weight));
        }
        if let Some(parent) = bias {
            grads.register::<B>(parent.id, primitive(found.d_bias));
        }
    }
}

/// Adds a gradient to those of the parent that it belongs to, if it is wanted.
fn register<B: Backend, const D: usize>(
    grads: &mut Gradients,
    parent: Option<NodeId>,
    gradient: Option<Tensor<B, D>>,
) {
    if let Some((parent, gradient)) = parent.zip(gradient) {
        grads.register::<B>(parent, primitive(gradient));
    }
}

/// A tensor on the autodiff backend.
type Tracked<B, C> = AutodiffFloat<Autodiff<B, C>>;

/// What a layer may lack. A node of a graph has a fixed number of parents: in the place of what is lacking stands a
/// constant that nobody reads.
fn optional<B: Backend, C: CheckpointStrategy, const D: usize>(
    tensor: Option<Tensor<Autodiff<B, C>, D>>,
    device: &B::Device,
) -> (Option<Tensor<B, D>>, Tracked<B, C>) {
    match tensor.map(primitive) {
        Some(tensor) => (Some(wrap(tensor.primitive.clone())), tensor),
        None => {
            let constant = Tensor::<Autodiff<B, C>, 1>::empty([1], device);
            (None, primitive(constant))
        }
    }
}

/// A linear layer without its residual on the inner backend; and its input, its norm's scale and shift, its weight and its
/// bias, for their nodes.
fn linear_parents<B: Backend, C: CheckpointStrategy>(
    input: LinearInput<Autodiff<B, C>>,
) -> (LinearInput<B>, [Tracked<B, C>; 5]) {
    let device = input.x.device();
    let (x, weight) = (primitive(input.x), primitive(input.weight));
    let (inner_bias, bias) = optional(input.bias, &device);
    let none = || optional::<B, C, 1>(None, &device).1;
    let (before, [scale, shift]) = match input.before {
        Before::Nothing => (Before::Nothing, [none(), none()]),
        Before::Gelu => (Before::Gelu, [none(), none()]),
        Before::LayerNorm { weight, bias, eps } => {
            let (weight, bias) = (primitive(weight), primitive(bias));
            let before = Before::LayerNorm {
                weight: wrap(weight.primitive.clone()),
                bias: wrap(bias.primitive.clone()),
                eps,
            };
            (before, [weight, bias])
        }
    };
    let inner = LinearInput {
        x: wrap(x.primitive.clone()),
        before,
        weight: wrap(weight.primitive.clone()),
        bias: inner_bias,
        residual: None,
    };
    (inner, [x, scale, shift, weight, bias])
}

#[derive(Debug)]
struct Linear;

impl<B: IbotBackend> Backward<B, 6> for Linear {
    /// The input, without the residual.
    type State = LinearInput<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 6>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_y = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        let [x, norm_weight, norm_bias, weight, bias, residual] = parents;
        let found = linear::backward(ops.state, wrap(d_y.clone()), x.is_some());
        let [d_scale, d_shift] = found.d_norm;
        register::<B, 2>(grads, x, found.d_x);
        register::<B, 1>(grads, norm_weight, d_scale);
        register::<B, 1>(grads, norm_bias, d_shift);
        register::<B, 2>(grads, weight, Some(found.d_weight));
        register::<B, 1>(grads, bias, found.d_bias);
        register::<B, 2>(grads, residual, Some(wrap(d_y)));
    }
}

#[derive(Debug)]
struct Branch;

impl<B: IbotBackend> Backward<B, 8> for Branch {
    /// The input.
    type State = BranchInput<B>;

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
        let found = branch::backward(ops.state, wrap(d_y));
        let [d_scale, d_shift] = found.first.d_norm;
        register::<B, 2>(grads, x, Some(found.d_x));
        register::<B, 1>(grads, norm_weight, d_scale);
        register::<B, 1>(grads, norm_bias, d_shift);
        register::<B, 2>(grads, first_weight, Some(found.first.d_weight));
        register::<B, 1>(grads, first_bias, found.first.d_bias);
        register::<B, 2>(grads, weight, Some(found.second.d_weight));
        register::<B, 1>(grads, bias, found.second.d_bias);
        register::<B, 1>(grads, gamma, found.d_gamma);
    }
}

#[derive(Debug)]
struct Attention;

impl<B: IbotBackend> Backward<B, 1> for Attention {
    /// Input and output.
    type State = (AttentionInput<B>, AttentionOutput<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (input, output) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |d_mixed| {
            primitive(B::packed_attention_backward(input, output, wrap(d_mixed)))
        });
    }
}

#[derive(Debug)]
struct CrossEntropy;

impl<B: IbotBackend> Backward<B, 1> for CrossEntropy {
    /// Input and output of the forward pass. The student logits are held by nobody else once the caller let go of
    /// them: their gradient can take their place.
    type State = (CrossEntropyInput<B>, CrossEntropyOutput<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (input, output) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |d_loss| {
            primitive(B::cross_entropy_backward(input, output, wrap(d_loss)))
        });
    }
}

#[derive(Debug)]
struct StreamedCrossEntropy;

impl<B: IbotBackend> Backward<B, 2> for StreamedCrossEntropy {
    /// Input and output of the forward pass: no logits, which are made again.
    type State = (StreamedInput<B>, CrossEntropyOutput<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_loss = wrap(grads.consume::<B>(&ops.node));
        let (input, output) = ops.state;
        let [unit, prototypes] = ops.parents;
        let found = streamed::backward(&input, &output, &d_loss, prototypes.is_some());
        if let Some(parent) = unit {
            grads.register::<B>(parent.id, primitive(found.d_unit));
        }
        if let Some((parent, gradient)) = prototypes.zip(found.d_prototypes) {
            grads.register::<B>(parent.id, primitive(gradient));
        }
    }
}

impl<B: IbotBackend, C: CheckpointStrategy> IbotBackend for Autodiff<B, C> {
    fn check_device(device: &Self::Device) -> Result<()> {
        B::check_device(device)
    }

    fn max_logit_rows(prototypes: usize, device: &Self::Device) -> usize {
        B::max_logit_rows(prototypes, device)
    }

    fn cross_entropy(input: &CrossEntropyInput<Self>) -> CrossEntropyOutput<Self> {
        let student = primitive(input.student_logits.clone());
        let inner = CrossEntropyInput::<B> {
            student_logits: wrap(student.primitive),
            teacher_logits: input.teacher_logits.clone().inner(),
            potentials: input.potentials.clone().inner(),
            pairing: input.pairing,
            row_weights: input.row_weights.clone().inner(),
            student_temperature: input.student_temperature,
        };
        let output = B::cross_entropy(&inner);
        let loss = primitive(output.loss.clone());
        let (row_max, row_log) = (output.row_max.clone(), output.row_log.clone());
        let prep = Backward::<B, 1>::prepare::<C>(CrossEntropy, [student.node]);
        let loss = match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((inner, output), loss),
            OpsKind::UnTracked(prep) => prep.finish(loss),
        };
        CrossEntropyOutput {
            loss: wrap(loss),
            // untracked: no gradient flows through them
            row_max: Tensor::from_inner(row_max),
            row_log: Tensor::from_inner(row_log),
        }
    }

    fn streamed_cross_entropy(input: &StreamedInput<Self>) -> CrossEntropyOutput<Self> {
        let unit = primitive(input.student.unit.clone());
        let prototypes = primitive(input.student.prototypes.clone());
        let inner = StreamedInput::<B> {
            student: StreamedLogits {
                unit: wrap(unit.primitive),
                prototypes: wrap(prototypes.primitive),
            },
            targets: input.targets.clone().inner(),
            pairing: input.pairing,
            row_weights: input.row_weights.clone().inner(),
            student_temperature: input.student_temperature,
        };
        let output = B::streamed_cross_entropy(&inner);
        let loss = primitive(output.loss.clone());
        let (row_max, row_log) = (output.row_max.clone(), output.row_log.clone());
        let nodes = [unit.node, prototypes.node];
        let prep = Backward::<B, 2>::prepare::<C>(StreamedCrossEntropy, nodes);
        let loss = match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((inner, output), loss),
            OpsKind::UnTracked(prep) => prep.finish(loss),
        };
        CrossEntropyOutput {
            loss: wrap(loss),
            // untracked: no gradient flows through them
            row_max: Tensor::from_inner(row_max),
            row_log: Tensor::from_inner(row_log),
        }
    }

    fn patchify(images: Tensor<Self, 4>, patch: usize) -> Tensor<Self, 2> {
        let dims = images.dims();
        let images = primitive(images);
        let patches = primitive(B::patchify(wrap(images.primitive), patch));
        let prep = Backward::<B, 1>::prepare::<C>(Patchify, [images.node]);
        wrap(match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((dims, patch), patches),
            OpsKind::UnTracked(prep) => prep.finish(patches),
        })
    }

    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let x = primitive(x);
        let inner: Tensor<B, 2> = wrap(x.primitive);
        let y = primitive(B::exact_gelu(inner.clone()));
        let prep = Backward::<B, 1>::prepare::<C>(Gelu, [x.node]);
        wrap(match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(inner, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        })
    }

    fn layer_norm_rows(input: LayerNormInput<Self>) -> Tensor<Self, 2> {
        let (x, weight, bias) = (
            primitive(input.x),
            primitive(input.weight),
            primitive(input.bias),
        );
        let inner = LayerNormInput::<B> {
            x: wrap(x.primitive),
            weight: wrap(weight.primitive),
            bias: wrap(bias.primitive),
            eps: input.eps,
        };
        let y = primitive(B::layer_norm_rows(inner.clone()));
        let nodes = [x.node, weight.node, bias.node];
        let prep = Backward::<B, 3>::prepare::<C>(LayerNorm, nodes);
        wrap(match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(inner, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        })
    }

    fn linear_layer(input: LinearInput<Self>) -> Tensor<Self, 2> {
        let device = input.x.device();
        let (inner_residual, residual) = optional(input.residual.clone(), &device);
        let (inner, [x, scale, shift, weight, bias]) = linear_parents(input);
        let y = B::linear_layer(LinearInput {
            residual: inner_residual,
            ..inner.clone()
        });
        let parents = [x, scale, shift, weight, bias, residual];
        let nodes = parents.map(|parent| parent.node);
        let prep = Backward::<B, 6>::prepare::<C>(Linear, nodes);
        let y = primitive(y);
        wrap(match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(inner, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        })
    }

    fn checkpointed_branch(input: BranchInput<Self>) -> Tensor<Self, 2> {
        let device = input.weight.device();
        let weight = primitive(input.weight);
        let (inner_bias, bias) = optional(input.bias, &device);
        let (inner_gamma, gamma) = optional(input.gamma, &device);
        let (first, [x, scale, shift, first_weight, first_bias]) = linear_parents(input.first);
        let inner = BranchInput::<B> {
            first,
            middle: input.middle,
            weight: wrap(weight.primitive.clone()),
            bias: inner_bias,
            gamma: inner_gamma,
            keep: input.keep.map(Tensor::inner),
        };
        let y = primitive(residual_branch(inner.clone()));
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
        let nodes = parents.map(|parent| parent.node);
        let prep = Backward::<B, 8>::prepare::<C>(Branch, nodes);
        wrap(match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(inner, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        })
    }

    fn packed_attention(input: AttentionInput<Self>) -> AttentionOutput<Self> {
        let qkv = primitive(input.qkv);
        let inner = AttentionInput::<B> {
            qkv: wrap(qkv.primitive),
            batch: input.batch,
            heads: input.heads,
        };
        let output = B::packed_attention(inner.clone());
        // untracked: no gradient flows through it
        let row_log = Tensor::from_inner(output.row_log.clone());
        let mixed = primitive(output.mixed.clone());
        let prep = Backward::<B, 1>::prepare::<C>(Attention, [qkv.node]);
        let mixed = match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((inner, output), mixed),
            OpsKind::UnTracked(prep) => prep.finish(mixed),
        };
        AttentionOutput {
            mixed: wrap(mixed),
            row_log,
        }
    }
}
