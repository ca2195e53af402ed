//! The differentiable operations on burn's autodiff backend: one node each, with the backward bodies of this module
//! instead of a graph of a dozen small operations.

mod layers;
mod primitive;
mod products;
mod rows;
mod watch;

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::ops::FloatTensor;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, unary};
use burn_autodiff::{Autodiff, NodeId};

use primitive::{Kept, node, primitive, register};
pub use watch::GradientWatch;
use watch::count_use;

use crate::error::Result;

use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::attention::{AttentionInput, AttentionOutput};
use crate::kernels::ops::branch::BranchInput;
use crate::kernels::ops::cross_entropy::{CrossEntropyInput, CrossEntropyOutput};
use crate::kernels::ops::l2_norm::L2NormInput;
use crate::kernels::ops::layer_norm::LayerNormInput;
use crate::kernels::ops::levels::LevelsInput;
use crate::kernels::ops::linear::{Activated, LinearLayerInput};
use crate::kernels::ops::product::{Layout, RowIndices};
use crate::kernels::ops::tiled::{Logits, TiledInput};
use crate::kernels::ops::tokens::TokensInput;
use crate::kernels::ops::{patchify, tiled};
use crate::kernels::wrap::wrap;
use crate::precision::Precision;

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
    type State = Kept<Tensor<B, 2>>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let state = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |d_y| {
            primitive(state.backward(|x| B::exact_gelu_backward(x, wrap(d_y))))
        });
    }
}

#[derive(Debug)]
struct LayerNorm;

impl<B: IbotBackend> Backward<B, 3> for LayerNorm {
    /// The input.
    type State = Kept<LayerNormInput<B>>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_y = grads.consume::<B>(&ops.node);
        let body = |input| B::layer_norm_rows_backward(input, wrap(d_y));
        let found = ops.state.backward(body);
        let [x, weight, bias] = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B, 2>(grads, x, Some(found.d_x));
        register::<B, 1>(grads, weight, Some(found.d_weight));
        register::<B, 1>(grads, bias, Some(found.d_bias));
    }
}

#[derive(Debug)]
struct L2Norm;

impl<B: IbotBackend> Backward<B, 1> for L2Norm {
    /// The input.
    type State = Kept<L2NormInput<B>>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let state = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |d_y| {
            primitive(state.backward(|input| B::l2_normalize_rows_backward(input, wrap(d_y))))
        });
    }
}

#[derive(Debug)]
struct Attention;

impl<B: IbotBackend> Backward<B, 1> for Attention {
    /// Input and output.
    type State = Kept<(AttentionInput<B>, AttentionOutput<B>)>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let state = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |d_context| {
            primitive(state.backward(|(input, output)| {
                B::packed_attention_backward(input, output, wrap(d_context))
            }))
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
struct TiledCrossEntropy;

impl<B: IbotBackend> Backward<B, 2> for TiledCrossEntropy {
    /// Input and output of the forward pass: no logits, which are made again.
    type State = Kept<(TiledInput<B>, CrossEntropyOutput<B>)>;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_loss = wrap(grads.consume::<B>(&ops.node));
        let [bottleneck, prototypes] = ops.parents.map(|parent| parent.map(|parent| parent.id));
        let wants_prototypes = prototypes.is_some();
        let found = ops.state.backward(|(input, output)| {
            tiled::backward(&input, &output, &d_loss, wants_prototypes)
        });
        register::<B, 2>(grads, bottleneck, Some(found.d_bottleneck));
        register::<B, 2>(grads, prototypes, found.d_prototypes);
    }
}

impl<B: IbotBackend, C: CheckpointStrategy> IbotBackend for Autodiff<B, C> {
    fn join_graphs(leaves: &[FloatTensor<Self>]) {
        primitive::join_graphs::<B, C>(leaves);
    }

    fn node_of(tensor: &FloatTensor<Self>) -> Option<NodeId> {
        Some(tensor.node.id)
    }

    fn check_device(device: &Self::Device) -> Result<()> {
        B::check_device(device)
    }

    fn check_precision(precision: Precision, device: &Self::Device) -> Result<()> {
        B::check_precision(precision, device)
    }

    fn max_logit_rows(prototypes: usize, device: &Self::Device) -> usize {
        B::max_logit_rows(prototypes, device)
    }

    fn upload_levels(input: LevelsInput, device: &Self::Device) -> Tensor<Self, 4> {
        Tensor::from_inner(B::upload_levels(input, device))
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
        let loss = output.loss.clone();
        let of_rows = output.of_rows.clone();
        let loss = node(CrossEntropy.prepare([student.node]), (inner, output), loss);
        CrossEntropyOutput {
            loss,
            // untracked: no gradient flows through them
            of_rows: Tensor::from_inner(of_rows),
        }
    }

    fn tiled_cross_entropy(input: &TiledInput<Self>) -> CrossEntropyOutput<Self> {
        let parents = [
            primitive(input.student.bottleneck.clone()),
            primitive(input.student.prototypes.clone()),
        ];
        count_use::<B, C>(&parents);
        let [bottleneck, prototypes] = parents.each_ref().map(|of| of.primitive.clone());
        let inner = TiledInput::<B> {
            student: Logits {
                bottleneck: wrap(bottleneck),
                prototypes: wrap(prototypes),
            },
            targets: input.targets.clone().inner(),
            pairing: input.pairing,
            row_weights: input.row_weights.clone().inner(),
            student_temperature: input.student_temperature,
        };
        let output = B::tiled_cross_entropy(&inner);
        let loss = output.loss.clone();
        let of_rows = output.of_rows.clone();
        let nodes = parents.map(|parent| parent.node);
        let loss = node(
            TiledCrossEntropy.prepare(nodes),
            Kept::new((inner, output)),
            loss,
        );
        CrossEntropyOutput {
            loss,
            // untracked: no gradient flows through them
            of_rows: Tensor::from_inner(of_rows),
        }
    }

    fn patchify(images: Tensor<Self, 4>, patch: usize) -> Tensor<Self, 2> {
        let dims = images.dims();
        let images = primitive(images);
        let patches = B::patchify(wrap(images.primitive), patch);
        node(Patchify.prepare([images.node]), (dims, patch), patches)
    }

    fn assemble_tokens(input: TokensInput<Self>) -> Tensor<Self, 2> {
        rows::assemble_tokens(input)
    }

    fn matrix_products(
        left: Tensor<Self, 3>,
        right: Tensor<Self, 3>,
        layout: Layout,
    ) -> Tensor<Self, 3> {
        products::matrix_products(left, right, layout)
    }

    fn gather_rows(x: Tensor<Self, 2>, indices: &RowIndices) -> Tensor<Self, 2> {
        rows::gather_rows(x, indices)
    }

    fn slice_rows(x: Tensor<Self, 2>, rows: Range<usize>) -> Tensor<Self, 2> {
        rows::slice_rows(x, rows)
    }

    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let x = primitive(x);
        let inner: Tensor<B, 2> = wrap(x.primitive);
        let y = B::exact_gelu(inner.clone());
        node(Gelu.prepare([x.node]), Kept::new(inner), y)
    }

    fn layer_norm_rows(input: LayerNormInput<Self>) -> Tensor<Self, 2> {
        let parents = [
            primitive(input.x),
            primitive(input.weight),
            primitive(input.bias),
        ];
        count_use::<B, C>(&parents);
        let [x, weight, bias] = parents.each_ref().map(|of| of.primitive.clone());
        let inner = LayerNormInput::<B> {
            x: wrap(x),
            weight: wrap(weight),
            bias: wrap(bias),
            eps: input.eps,
        };
        let y = B::layer_norm_rows(inner.clone());
        let nodes = parents.map(|parent| parent.node);
        node(LayerNorm.prepare(nodes), Kept::new(inner), y)
    }

    fn linear_layer(input: LinearLayerInput<Self>) -> Tensor<Self, 2> {
        layers::linear_layer(input)
    }

    fn linear_layer_gelu(input: LinearLayerInput<Self>) -> Activated<Self> {
        layers::linear_layer_gelu(input)
    }

    fn l2_normalize_rows(input: L2NormInput<Self>) -> Tensor<Self, 2> {
        let x = primitive(input.x);
        let inner = L2NormInput::<B> {
            x: wrap(x.primitive),
            min_squared_norm: input.min_squared_norm,
        };
        let y = B::l2_normalize_rows(inner.clone());
        node(L2Norm.prepare([x.node]), Kept::new(inner), y)
    }

    fn checkpointed_branch(input: BranchInput<Self>) -> Tensor<Self, 2> {
        layers::checkpointed_branch(input)
    }

    fn packed_attention(input: AttentionInput<Self>) -> AttentionOutput<Self> {
        let qkv = primitive(input.qkv);
        let inner = AttentionInput::<B> {
            qkv: wrap(qkv.primitive),
            batch: input.batch,
            heads: input.heads,
            queries: input.queries,
        };
        let output = B::packed_attention(inner.clone());
        // untracked: no gradient flows through it
        let row_lse = Tensor::from_inner(output.row_lse.clone());
        let context = output.context.clone();
        let context = node(
            Attention.prepare([qkv.node]),
            Kept::new((inner, output)),
            context,
        );
        AttentionOutput { context, row_lse }
    }
}
