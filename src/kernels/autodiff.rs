//! The differentiable operations on burn's autodiff backend: one node each, with the backward bodies of this module
//! instead of a graph of a dozen small operations.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind, unary};

use crate::error::Result;

use super::{
    AttentionInput, AttentionOutput, Before, CrossEntropyInput, CrossEntropyOutput, IbotBackend,
    LayerNormInput, LinearInput, TargetPotentials, linear, patchify, wrap,
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
        let [x, norm_weight, norm_bias, weight, bias, residual] = ops.parents;
        let found = linear::backward(ops.state, wrap(d_y.clone()), x.is_some());
        if let Some((parent, d_x)) = x.zip(found.d_x) {
            grads.register::<B>(parent.id, primitive(d_x));
        }
        if let Some([d_weight, d_bias]) = found.d_norm {
            for (parent, gradient) in [(norm_weight, d_weight), (norm_bias, d_bias)] {
                if let Some(parent) = parent {
                    grads.register::<B>(parent.id, primitive(gradient));
                }
            }
        }
        if let Some(parent) = weight {
            grads.register::<B>(parent.id, primitive(found.d_weight));
        }
        if let Some((parent, d_bias)) = bias.zip(found.d_bias) {
            grads.register::<B>(parent.id, primitive(d_bias));
        }
        if let Some(parent) = residual {
            grads.register::<B>(parent.id, d_y);
        }
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
            potentials: TargetPotentials {
                prototype_shift: input.potentials.prototype_shift.clone().inner(),
                prototype_log: input.potentials.prototype_log.clone().inner(),
                row_shift: input.potentials.row_shift.clone().inner(),
                row_log: input.potentials.row_log.clone().inner(),
                temperature: input.potentials.temperature,
            },
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
        // a node has a fixed number of parents: what a layer lacks is a constant that nobody reads
        let device = input.x.device();
        let none = || primitive(Tensor::<Self, 1>::empty([1], &device));
        let (x, weight) = (primitive(input.x), primitive(input.weight));
        let bias = input.bias.map(primitive);
        let residual = input.residual.map(primitive);
        let (before, norm) = match input.before {
            Before::Nothing => (Before::Nothing, [none(), none()]),
            Before::Gelu => (Before::Gelu, [none(), none()]),
            Before::LayerNorm { weight, bias, eps } => {
                let norm = [primitive(weight), primitive(bias)];
                let [weight, bias] = norm.each_ref().map(|tensor| wrap(tensor.primitive.clone()));
                (Before::LayerNorm { weight, bias, eps }, norm)
            }
        };
        let inner = LinearInput::<B> {
            x: wrap(x.primitive),
            before,
            weight: wrap(weight.primitive),
            bias: bias.as_ref().map(|bias| wrap(bias.primitive.clone())),
            residual: None,
        };
        let y = B::linear_layer(LinearInput {
            residual: residual.as_ref().map(|rows| wrap(rows.primitive.clone())),
            ..inner.clone()
        });
        let [norm_weight, norm_bias] = norm.map(|tensor| tensor.node);
        let nodes = [
            x.node,
            norm_weight,
            norm_bias,
            weight.node,
            bias.unwrap_or_else(none).node,
            residual.unwrap_or_else(none).node,
        ];
        let prep = Backward::<B, 6>::prepare::<C>(Linear, nodes);
        let y = primitive(y);
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
